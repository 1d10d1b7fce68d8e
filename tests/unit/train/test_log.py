"""Numbers of a run reach any logger, and no logger loses a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onward.cli import main
from onward.core.errors import ConfigError, UnknownName
from onward.train import BatchDone, Event, RunConfig, RunFolder, Started, Warned, parse_tokens, resume, to_log, train
from onward.train.events import Ended
from onward.train.log import TensorBoard, logged

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "loggers.md"


class Heard:
    """A logger that keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, Mapping[str, float]]] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, values))

    def of(self, name: str) -> list[tuple[int, float]]:
        return [(step, values[name]) for step, values in self.lines if name in values]


class Writer:
    """What TensorBoard's writer looks like from here."""

    made: list[Writer]

    def __init__(self, log_dir: str, purge_step: int | None, flush_secs: int):
        self.log_dir, self.purge_step, self.flush_secs = log_dir, purge_step, flush_secs
        self.scalars, self.closed = list[tuple[str, float, int]](), False
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter, Writer.made = Writer, []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer


def test_a_function_hears_what_the_metrics_hold(config: RunConfig) -> None:
    heard, events = Heard(), list[Event]()
    summary = train(config, to_log(heard, events.append))
    lines = list(RunFolder.open(Path(summary.run)).metrics())
    assert any(isinstance(event, Started) for event in events)
    batches = [step for step, _ in heard.of("batch/loss")]
    assert batches == list(range(1, len(batches) + 1))
    last = len(batches)
    assert heard.of("epoch/loss") == [(last // 2, lines[0]["loss"]), (last, lines[1]["loss"])]
    assert heard.of("test/accuracy")[-1] == (last, lines[-1]["score"]["accuracy"])
    assert heard.of("test/rates/neuron1")[-1][1] == lines[-1]["score"]["rates"]["neuron1"]
    assert all(type(value) is float for _, values in heard.lines for value in values.values())


def test_a_logger_that_fails_loses_no_run(config: RunConfig) -> None:
    calls, warnings = list[int](), list[str]()

    def log(step: int, _values: Mapping[str, float]) -> None:
        calls.append(step)
        if step == 2:
            raise ConnectionError("the server is away")

    def hear(event: Event) -> None:
        if isinstance(event, Warned):
            warnings.append(event.text)

    summary = train(config, to_log(log, hear))
    assert summary.test_accuracy is not None
    assert summary.fingerprint == train(config).fingerprint
    assert calls == [1, 2]
    assert "the logger failed after 2 updates (ConnectionError: the server is away); it is not called again" in warnings


def test_ctrl_c_in_a_logger_is_still_ctrl_c() -> None:
    def log(_step: int, _values: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    hear = to_log(log)
    hear(Ended("events without numbers are not shown"))
    with pytest.raises(KeyboardInterrupt):
        hear(BatchDone(0, 1, 0.5, 50.0, 1.0, 0.1))


def test_steps_go_on_where_a_run_does(config: RunConfig) -> None:
    whole, rest = Heard(), Heard()
    train(config, to_log(whole))
    half = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
    run = Path(train(half).run)
    resume(run, ["--train.epochs", "2"], force=True, on_event=to_log(rest))
    steps = [step for step, _ in rest.of("batch/loss")]
    assert steps == [step for step, _ in whole.of("batch/loss")][-len(steps) :]
    assert rest.of("epoch/loss")[-1][0] == whole.of("epoch/loss")[-1][0]


def test_tasks_of_a_stream_are_heard(tmp_path: Path) -> None:
    heard = Heard()
    small = ["--data.limit", "60", "--data.limit-test", "30", "--stream.tasks", "2", "--train.epochs", "1"]
    stream = parse_tokens(["--stream", "permuted-mnist", *small, "--model.hidden", "8", "--train.out", str(tmp_path)])
    train(stream, to_log(heard))
    tested = [step for step, values in heard.lines if any(name.startswith("tasks/") for name in values)]
    assert len(tested) == 3
    assert tested == sorted(tested)
    assert [step for step, _ in heard.of("batch/loss")] == [1, 2]


@pytest.mark.usefixtures("fake")
def test_tensorboard_writes_into_the_folder_of_the_run(tokens: list[str]) -> None:
    assert main(["train", *tokens, "--train.epochs", "1", "--log", "tensorboard"]) == 0
    (writer,) = Writer.made
    run = Path(writer.log_dir).parent
    assert RunFolder.open(run).config().train.epochs == 1
    assert writer.closed
    assert writer.purge_step is None
    assert {"batch/loss", "epoch/loss", "test/accuracy"} <= {name for name, _, _ in writer.scalars}
    last = max(step for _, _, step in writer.scalars)
    assert main(["resume", str(run), "--train.epochs", "2", "--force", "--log", "tensorboard"]) == 0
    assert Writer.made[1].purge_step == last + 1


def test_a_folder_that_cannot_be_written_is_a_warning(config: RunConfig) -> None:
    warnings = list[str]()

    def refuse(**_: Any) -> Any:
        raise PermissionError("no room")

    board = TensorBoard(refuse, lambda event: warnings.append(event.text) if isinstance(event, Warned) else None)
    assert train(config, board).test_accuracy is not None
    board.close()
    assert any("PermissionError: no room" in text for text in warnings)


def test_loggers_that_are_not_there_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UnknownName, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"),
        logged("tensorbord", print),
    ):
        pass
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'onward\[tensorboard\]'"), logged("tensorboard", print):
        pass


@pytest.mark.filterwarnings("ignore")
def test_the_real_tensorboard_reads_it_back(tokens: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (pip install tensorboard)")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    assert main(["train", *tokens, "--log", "tensorboard"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    lines = list(RunFolder.open(run).metrics())
    assert [event.value for event in found.Scalars("test/accuracy")] == pytest.approx(
        [line["score"]["accuracy"] for line in lines]
    )


def test_the_blocks_of_the_guide_are_python_and_log(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()

    class Anything(ModuleType):
        def __getattr__(self, name: str) -> Any:
            def call(*_given: object, **_named: object) -> Any:
                calls.append(f"{self.__name__}.{name}")
                return Anything(self.__name__)

            return call

        def __enter__(self) -> Anything:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, Anything(name))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), {"config": config})
    assert {"wandb.log", "mlflow.log_metrics"} <= set(calls)
