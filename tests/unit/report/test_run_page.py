"""The page of a run: complete, self-contained, safe, and refused in words where there is nothing sound to show."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from onward.cli import main
from onward.core.errors import OnwardError
from onward.energy import energy_of_run, technology
from onward.report import panels
from onward.report.png import data_url
from onward.report.record import read
from onward.report.run import run_page, write_page
from onward.train import RunFolder, memory, parse_tokens, train
from onward.train.source import evaluation_data
from reference.html import parsed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny finished run whose gradients were compared, with a name that is hostile to pages."""
    place = tmp_path_factory.mktemp("page") / "<script>alert(1)<"
    place.mkdir()
    rng = np.random.default_rng(0)
    y = np.arange(48) % 3
    x = (rng.random((48, 9)) * 0.3 + (np.arange(9)[None] // 3 == y[:, None])).astype(np.float32)
    np.savez(place / "three.npz", x=x, y=y, x_test=x[:24], y_test=y[:24])
    flags = [
        *("--data", str(place / "three.npz"), "--model.hidden", "8", "6", "--train.steps", "3"),
        *("--train.batch-size", "8", "--train.epochs", "2", "--train.out", str(place / "runs")),
        *("--probe.samples", "12", "--probe.credit-every", "2", "--probe.draws", "2"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "Allocations", memory.Off)
        patch.setattr(os, "fsync", lambda descriptor: None)
        return Path(train(parse_tokens(flags)).run)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_page_shows_what_the_run_recorded(trained: Path) -> None:
    tree = parsed(run_page(read(RunFolder.open(trained))))
    text = " ".join(tree.text)
    for said in (
        *("test accuracy", "Learning curves", "Confusion", "Single samples", "Layers", "Credit", "Time and memory"),
        *("Feedback and Jacobian", "Against back-propagation through time", "The rule", "Configuration"),
        *("95 % interval", "dead neurons, share", "saturated neurons, share", "alignment of feedback", "norm ratio"),
        *("synaptic operations", "energy of the same network without spikes", "45nm-fp32"),
        *("peak memory", "g^l[t] = M^l e[t]", "optim", "torch"),
    ):
        assert said in text, said
    pictures = [given for tag, given in tree.seen if tag == "svg"]
    assert len(pictures) > 20


def test_the_page_is_small_and_fetches_nothing(run: Path) -> None:
    page = write_page(RunFolder.open(run))
    text = page.read_text(encoding="utf-8")
    assert page == run / "report.html"
    assert len(text) < 2**20
    tree = parsed(text)
    targets = [value or "" for _, given in tree.seen for key, value in given.items() if key in ("href", "src")]
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "script" not in {tag for tag, _ in tree.seen}


def test_names_are_text(run: Path) -> None:
    hostile = "</title><script>x</script><img src=x onerror=y>"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["observed"]["layers"] = {hostile: next(iter(line["observed"]["layers"].values()))}
        line["rule"] = {f"{hostile}/{hostile}": 0.5}
        line["alarms"], line["judged_on"] = [hostile], hostile
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = json.loads((run / "DONE").read_text())
    told = {**done["energy"], "technology": hostile}
    (run / "DONE").write_text(json.dumps({**done, "reported": hostile, "energy": told}))
    tree = parsed(run_page(read(RunFolder.open(run))))
    assert not {"script", "img"} & {tag for tag, _ in tree.seen}
    assert hostile in "".join(tree.text)


def test_energy_is_what_the_command_counts_on_the_same_samples(run: Path) -> None:
    told = json.loads((run / "DONE").read_text())["energy"]
    folder = RunFolder.open(run)
    found = energy_of_run(folder, evaluation_data(folder.config(), None, None, ()), technology("45nm-fp32"), samples=12)
    assert told == pytest.approx(found.brief())
    assert told["spikes"] == pytest.approx((1 - found.counts.sparsity) * 3 * (8 + 6))


def test_a_page_without_energy_has_no_section_of_it(run: Path) -> None:
    done = json.loads((run / "DONE").read_text())
    (run / "DONE").write_text(json.dumps({**done, "energy": None}))
    assert "Energy" not in " ".join(parsed(run_page(read(RunFolder.open(run)))).text)


def test_a_stream_shows_its_tasks(run: Path) -> None:
    done = json.loads((run / "DONE").read_text())
    stream = {"tasks": ["a", "<b>"], "matrix": [[50, 50], [90, 60], [80, 95]], "accuracy": 87.5, "backward": -10.0}
    (run / "DONE").write_text(json.dumps({**done, "stream": {**stream, "forward": None, "leakage": [{}, {}]}}))
    text = " ".join(parsed(run_page(read(RunFolder.open(run)))).text)
    assert "Tasks 1 to 2: a, <b>." in text
    assert "-10.00" in text
    assert "lesson 2" in text


def test_an_unfinished_run_has_a_page_and_says_so(run: Path) -> None:
    for name in ("DONE", "samples.json", "confusion.json", "metrics.jsonl"):
        (run / name).unlink()
    text = " ".join(parsed(run_page(read(RunFolder.open(run)))).text)
    assert "has not come to its end: 0 epochs of 2 so far" in text
    assert "Single samples" not in text


def test_metrics_of_earlier_versions_are_enough(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["observed"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = " ".join(parsed(run_page(read(RunFolder.open(run)))).text)
    assert "Learning curves" in text
    assert "dead neurons" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "{\n"),
        ("metrics.jsonl", "[1, 2]\n"),
        ("metrics.jsonl", '{"epoch": "a"}\n'),
        ("confusion.json", '{"epoch": 1, "lesson": 0, "on": "test", "counts": [[1, 2]]}'),
        ("samples.json", '{"samples": [{"why": 3}]}'),
        ("samples.json", "\x00"),
        ("DONE", "[]"),
        ("DONE", '{"test_accuracy": NaN}'),
        ("interface.json", "{}"),
        ("env.json", "5"),
        ("config.toml", "rule = 3"),
    ],
)
def test_damaged_folders_are_refused_in_one_line(
    run: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).write_text(content)
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("onward: ")
    assert "\n" not in said
    assert not (run / "report.html").exists()


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnwardError, match="not the folder of a run"):
        RunFolder.open(tmp_path)


def test_the_command_says_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(run / "report.html")}
    assert (run / "report.html").is_file()


def test_many_layers_and_points_stay_small() -> None:
    series = {f"layer {k}": [(float(t), t * k / 1e4) for t in range(2000)] for k in range(60)}
    assert len(panels.over_epochs("rate", series)) < 60_000
    assert len(panels.lines("loss", dict(list(series.items())[:3]), "epoch")) < 20_000
    counts = [[1] * 100 for _ in range(100)]
    assert len(panels.shades("", counts, "prediction", "class")) < 350_000


def test_pictures_are_pngs() -> None:
    for channels in (1, 2, 3):
        url = data_url([[[0.0, 0.5], [1.0, 0.2]]] * channels)
        assert url.startswith("data:image/png;base64,iVBORw0KGgo")
