"""Whole jobs: train a configuration in a run folder, evaluate a run (`resume` is apart)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from time import perf_counter

from onward.core import Network, evaluate
from onward.core.errors import ShapeError, UnsupportedModule
from onward.core.group import ALONE, Group
from onward.core.objective import objectives
from onward.core.run import MOST_STEPS
from onward.data import Dataset, Loader
from onward.energy import Energy, technology, training_cost
from onward.energy.constants import DEFAULT
from onward.energy.count import counted
from onward.train import checkpoint
from onward.train.config import RunConfig
from onward.train.events import OnEvent, Started, ignore
from onward.train.fit import fit, tested
from onward.train.folder import SAMPLES, Interface, RunFolder
from onward.train.interrupt import Interrupt
from onward.train.lessons import Retention, figure, learn, retention
from onward.train.members import Members, members
from onward.train.memory import meter
from onward.train.networks import load_network
from onward.train.parts import Parts, assemble
from onward.train.samples import shown
from onward.train.score import score
from onward.train.state import Fitted


@dataclass(frozen=True)
class Summary:
    """What a training run came to; accuracies in percent, None where the run was interrupted before a test.

    ``reported`` says which weights were tested; ``peak_bytes`` is memory above parameters and optimiser;
    ``fingerprint`` is a hash of these weights and of what the rule has learned. Of a ``stream`` of tasks, the accuracy
    is the mean over all of them at the end. ``energy`` is what one sample takes, where there were samples to look at
    (`onward.energy.Energy.brief`).
    """

    run: str
    test_accuracy: float | None
    test_loss: float | None
    samples_per_second: float
    peak_bytes: int
    parameters: int
    epochs: int
    reported: str
    interrupted: bool
    seconds: float
    fingerprint: str
    stream: Retention | None = None
    energy: Mapping[str, float | str] | None = None


@dataclass(frozen=True)
class Subject:
    """A trained network, what it takes and gives, and the configuration it was trained with; ``label`` is its place."""

    label: str
    config: RunConfig
    interface: Interface
    net: Network


@dataclass(frozen=True)
class Evaluation:
    """What a trained network does on a data set; ``interval`` is Wilson's 95 % interval of the accuracy.

    ``run`` is the folder of its run, or the file that it was packed into.
    """

    run: str
    data: str
    samples: int
    test_accuracy: float
    interval: tuple[float, float]
    test_loss: float
    samples_per_second: float
    peak_bytes: int
    rates: Mapping[str, float]


def train(config: RunConfig, on_event: OnEvent = ignore, label: str | None = None, group: Group = ALONE) -> Summary:
    """Trains what ``config`` describes in a new run folder and tests it.

    The last epoch is tested; with ``train.validation`` (and ``keep_best``) the best one on held-out data is.
    Ctrl-C or SIGTERM ends it after the mini-batch at hand, with everything saved. ``label`` names the run, in place
    of the rule's name. All processes of ``group`` train together; the first one writes. Raises `OnwardError` in words.
    """
    began, name = perf_counter(), label or config.rule.name
    parts, resolved = assemble(config, group)
    with ExitStack() as held:
        folder = None
        if group.rank == 0:
            folder = RunFolder.create(Path(config.train.out), f"{name}-{config.data.name}-{config.model.name}")
            held.enter_context(folder.held())
            folder.begin(resolved, parts.interface, parts.data_record(), group.size)
        return carry_out(parts, resolved, folder, Fitted(), on_event, name, began)


def carry_out(
    parts: Parts,
    config: RunConfig,
    folder: RunFolder | None,
    fitted: Fitted,
    on_event: OnEvent,
    name: str,
    began: float,
) -> Summary:
    """Trains from where ``fitted`` stands to the end, tests, and marks the run as done."""
    parameters, earlier = sum(p.numel() for p in parts.net.parameters() if p.requires_grad), fitted.progress.seconds
    title = f"{name} on {config.data.name}, {config.model.name}, {config.device}"
    done = fitted.progress.updates
    path = Path(parts.group.gather(str(folder.path) if folder else "")[0])
    start, stream = Started(title, config.train.epochs, len(parts.loader), parameters, path, done), None
    with Interrupt() as interrupt:
        if len(parts.stream.tasks) == 1:
            on_event(start)
            fit(parts, config.train, folder=folder, fitted=fitted, on_event=on_event, stop=interrupt)
        else:
            learn(parts, config, start, folder=folder, fitted=fitted, on_event=on_event, stop=interrupt)
            stream = retention(parts.stream.names, fitted.matrix, fitted.leaks) if not fitted.interrupted else None
    accuracy, loss, reported = _stream_score(stream) if stream else _final(parts, config, folder, fitted)
    if folder is not None:
        _show_samples(parts, folder)
    if folder is not None and stream is not None:
        (folder.figures / "tasks.svg").write_text(figure(stream, title), encoding="utf-8")
    summary = Summary(
        run=str(path),
        test_accuracy=accuracy,
        test_loss=loss,
        samples_per_second=fitted.pace.per_second,
        peak_bytes=fitted.peak_bytes,
        parameters=parameters,
        epochs=fitted.progress.epoch,
        reported=reported,
        interrupted=fitted.interrupted,
        seconds=earlier + perf_counter() - began,
        fingerprint=parts.trained.fingerprint(),
        stream=stream,
        energy=_energy(parts, str(path)) if folder is not None and not fitted.interrupted else None,
    )
    if folder is not None and not fitted.interrupted:
        folder.done(asdict(summary))
    return summary


def _show_samples(parts: Parts, folder: RunFolder) -> None:
    """Notes what the run's page shows of single samples."""
    batch = parts.looked_at()
    if batch is not None:
        folder.note(SAMPLES, {"samples": shown(parts.net, parts.objective, batch, parts.chunk)})


def _energy(parts: Parts, run: str) -> Mapping[str, float | str] | None:
    """What one of the samples takes that layers are looked at on, where there are any, and they can be counted."""
    batch = parts.looked_at()
    if batch is None:
        return None
    try:
        counts = counted(parts.net, [batch], batch.x.steps, parts.chunk)
    except UnsupportedModule:
        return None
    cost = training_cost(parts.net, batch.x, counts)
    return Energy(run, parts.judge.dataset.name, technology(DEFAULT), counts, cost).brief()


Tested = tuple[float | None, float | None, str]
"""Accuracy and loss, and in words which weights they belong to."""


def _stream_score(found: Retention) -> Tested:
    return found.accuracy, None, f"the mean over {len(found.tasks)} tasks after the last lesson"


def _final(parts: Parts, config: RunConfig, folder: RunFolder | None, fitted: Fitted) -> Tested:
    """The test score of a finished run."""
    progress, last = fitted.progress, fitted.score
    if parts.validation is None and last is not None and len(parts.stream.tasks) == 1:
        return last.accuracy, last.loss, f"epoch {fitted.scored_epoch}, the last"
    if fitted.interrupted:
        return None, None, "not tested"
    best = progress.best_epoch if parts.validation is not None and config.train.keep_best else 0
    if best:
        if folder is not None:
            checkpoint.read_modules(folder.trained(), parts.net, parts.rule)
        parts.equalise()
    reported = f"epoch {best}, the best on held-out data" if best else f"epoch {progress.epoch}, the last"
    found = tested(parts, parts.tests[0], "test", progress, folder)
    return found.accuracy, found.loss, reported


def subject_of(folder: RunFolder, device: str = "cpu") -> Subject:
    """The network of a run, on ``device``."""
    return Subject(str(folder.path), folder.config(), folder.interface(), load_network(folder, device))


def evaluate_run(folder: RunFolder, data: Dataset, device: str = "cpu") -> Evaluation:
    """The run's network on every sample of ``data``; raises `ShapeError` where the samples do not fit it."""
    return examine(subject_of(folder, device), data, device)


def examine(subject: Subject, data: Dataset, device: str = "cpu") -> Evaluation:
    """A network on every sample of ``data``; raises `ShapeError` where the samples do not fit it."""
    net, (loader, chunk) = subject.net, to_test(subject, data)
    objective = objectives.build(subject.config.objective)
    batch = next(iter(loader.epoch(0)))
    x, y = batch.x.to(device), batch.y.to(device)
    with meter(device) as measured:
        evaluate(net, objective, x, y, chunk=chunk)
    result = score(net, objective, loader, device, chunk)
    return Evaluation(
        run=subject.label,
        data=data.name,
        samples=result.samples,
        test_accuracy=result.accuracy,
        interval=interval(result.accuracy, result.samples),
        test_loss=result.loss,
        samples_per_second=result.samples_per_second,
        peak_bytes=measured.peak_bytes,
        rates=result.rates,
    )


def members_of(subject: Subject, data: Dataset, device: str = "cpu") -> Members:
    """What each time step of a network knows of ``data``; raises `ShapeError` where the samples do not fit."""
    loader, chunk = to_test(subject, data)
    return members(subject.net, loader, device, chunk)


def to_test(subject: Subject, data: Dataset) -> tuple[Loader, int]:
    """Mini-batches of ``data`` for the network, and the chunk that they are walked through in."""
    config, interface = subject.config, subject.interface
    if tuple(data.features) != interface.features:
        raise ShapeError(
            f"{data.name} has samples of shape {list(data.features)}; this network was trained on "
            f"{list(interface.features)}"
        )
    loader = Loader(data, config.train.batch_size, data.steps or config.train.steps or 1, shuffle=False)
    return loader, min(config.train.chunk or MOST_STEPS, loader.steps)


def interval(percent: float, samples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a percentage of ``samples``.

    >>> tuple(round(x, 1) for x in interval(95.0, 100))
    (88.8, 97.8)
    """
    z, p = 1.959964, percent / 100
    centre, width = p + z * z / (2 * samples), z * sqrt(p * (1 - p) / samples + (z / (2 * samples)) ** 2)
    scale = 100 / (1 + z * z / samples)
    return (centre - width) * scale, (centre + width) * scale
