"""The training loop: `fit` over epochs, mini-batches, updates. Copy it to write your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

from onward.core import Outcome, Rates, run_sequence
from onward.core.errors import NonFiniteError
from onward.data import Batch
from onward.kernels.fused import fusing
from onward.train.checkpoint import latest
from onward.train.config import TrainConfig
from onward.train.events import BatchDone, Ended, EpochDone, OnEvent, Saved, Warned, ignore
from onward.train.folder import RunFolder
from onward.train.memory import meter
from onward.train.parts import Parts
from onward.train.score import Score, score

LOOK_EVERY = 20


class Diverged(NonFiniteError):
    """NaN or infinity during training; ``saved`` is the last good state, if there is a run folder."""

    def __init__(self, cause: NonFiniteError, epoch: int, batch: int, saved: Path | None):
        super().__init__(cause.where, cause.step)
        kept = f"; the last good state is in {saved}" if saved else ""
        self.args = (f"epoch {epoch + 1}, mini-batch {batch + 1}: {cause}{kept}",)
        self.epoch, self.batch, self.saved = epoch, batch, saved


@dataclass
class Progress:
    """Counters of a run, as its checkpoints hold them; ``updates`` counts mini-batches."""

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    stale: int = 0


@dataclass
class Pace:
    """Samples learned from, and the seconds that loading, learning and updating took."""

    samples: int = 0
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Throughput; 0 before the first mini-batch."""
        return self.samples / self.seconds if self.seconds else 0.0


@dataclass
class Fitted:
    """How training went; ``score`` is the last one taken, after ``scored_epoch``; ``peak_bytes`` see `meter`."""

    progress: Progress = field(default_factory=Progress)
    score: Score | None = None
    scored_epoch: int = 0
    interrupted: bool = False
    peak_bytes: int = 0
    pace: Pace = field(default_factory=Pace)


@dataclass
class _Sums:
    """An epoch so far."""

    loss: float = 0.0
    correct: int = 0
    samples: int = 0
    pace: Pace = field(default_factory=Pace)
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy in percent, samples per second."""
        return self.loss / self.samples, 100 * self.correct / self.samples, self.pace.per_second


def fit(
    parts: Parts,
    config: TrainConfig,
    *,
    folder: RunFolder | None = None,
    on_event: OnEvent = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Trains ``parts.net`` in place for ``config.epochs`` epochs.

    Saves to ``folder`` at the start and after every epoch; ends early when patience runs out, and after the
    mini-batch at hand when ``stop()`` says so. On NaN or infinity it saves the last good state and raises
    `Diverged` with epoch, mini-batch, layer and step.
    """
    run = _Run(parts, config, folder, on_event, stop)
    run.save(best=False)
    try:
        with fusing(config.compile):
            while run.progress.epoch < config.epochs and not run.ended():
                run.train_epoch()
    except NonFiniteError as error:
        raise Diverged(error, run.progress.epoch, run.progress.batch, run.save_last_good()) from None
    return run.fitted


class _Run:
    """What the levels of the loop share."""

    def __init__(
        self,
        parts: Parts,
        config: TrainConfig,
        folder: RunFolder | None,
        on_event: OnEvent,
        stop: Callable[[], bool],
    ):
        self.parts, self.config, self.folder, self.tell, self.stop = parts, config, folder, on_event, stop
        self.fitted, self.warned = Fitted(), set[str]()
        self.progress = self.fitted.progress

    def train_epoch(self) -> None:
        """One pass over the data, then the evaluation, a line in the log, a checkpoint."""
        sums, ready = _Sums(), perf_counter()
        self.progress.batch = 0
        for batch in self.parts.batches(self.progress.epoch):
            outcome = self.train_batch(batch, sums.rates)
            self.count(batch, outcome, sums, perf_counter() - ready)
            if self.stop():
                return self.interrupt()
            ready = perf_counter()
        self.progress.epoch += 1
        self.close_epoch(sums)

    def train_batch(self, batch: Batch, rates: dict[str, float]) -> Outcome:
        """One sequence and its update; the first one is measured, every `LOOK_EVERY`-th one looked into."""
        watch = Rates() if self.progress.batch % LOOK_EVERY == 0 else None
        with meter(self.parts.device, when=self.progress.updates == 0) as measured:
            outcome = self.learn(batch, watch)
        self.fitted.peak_bytes = max(self.fitted.peak_bytes, measured.peak_bytes)
        if watch is not None:
            rates.update(watch.means())
        return outcome

    def learn(self, batch: Batch, watch: Rates | None) -> Outcome:
        """Deposits, and the update they make: after the sequence, or after every step for an online rule."""
        parts, online = self.parts, self.parts.rule.traits.updates == "step"
        parts.updater.begin(self.progress.updates)
        outcome = run_sequence(
            parts.net,
            parts.rule,
            parts.objective,
            batch.x,
            batch.y,
            parts.sink,
            draws=parts.draws,
            ids=batch.ids,
            sequence=self.progress.updates,
            chunk=parts.chunk,
            after_step=parts.updater if online else None,
            watch=watch,
        )
        if not outcome.loss.isfinite():
            raise NonFiniteError("the loss")
        if not online:
            parts.updater()
        return outcome

    def count(self, batch: Batch, outcome: Outcome, sums: _Sums, seconds: float) -> None:
        """Adds a mini-batch to the running means and tells them."""
        size = len(batch.y)
        sums.loss, sums.samples = sums.loss + float(outcome.loss) * size, sums.samples + size
        sums.correct += int((self.parts.objective.predict(outcome.evidence) == batch.y).sum())
        if self.progress.updates == 1:
            self.fitted.pace, sums.pace = Pace(), Pace()  # forget the first one: measuring it took time
        for pace in (self.fitted.pace, sums.pace):
            pace.samples, pace.seconds = pace.samples + size, pace.seconds + seconds
        self.progress.batch, self.progress.updates = self.progress.batch + 1, self.progress.updates + 1
        self.tell(BatchDone(self.progress.epoch, self.progress.batch, *sums.means, self.parts.updater.lr, sums.rates))

    def close_epoch(self, sums: _Sums) -> None:
        """What is due between two epochs."""
        judged, better = self.judge()
        loader = "validation" if self.parts.validation else "test"
        event = EpochDone(self.progress.epoch, *sums.means, dict(sums.rates), self.parts.rule.metrics(), judged, loader)
        for text in self.parts.rule.warnings():
            self.warn(text)
        if self.folder is not None:
            self.folder.log(asdict(event))
        self.tell(event)
        self.save(best=better)

    def judge(self) -> tuple[Score | None, bool]:
        """The score, where one is due, and whether it is the best so far on held-out data."""
        progress, parts = self.progress, self.parts
        if progress.epoch % self.config.eval_every and progress.epoch < self.config.epochs:
            return None, False
        self.fitted.score = score(parts.net, parts.objective, parts.validation or parts.test, parts.device, parts.chunk)
        self.fitted.scored_epoch = progress.epoch
        if parts.validation is None:
            return self.fitted.score, False
        better = self.fitted.score.accuracy > progress.best_accuracy
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_accuracy, progress.best_epoch = self.fitted.score.accuracy, progress.epoch
        return self.fitted.score, better and self.config.keep_best

    def ended(self) -> bool:
        """Whether patience ran out or somebody asked to stop."""
        if self.config.patience is not None and self.progress.stale >= self.config.patience:
            self.tell(Ended(f"no better accuracy on held-out data in {self.progress.stale} evaluations"))
            return True
        if not self.fitted.interrupted and self.stop():
            self.interrupt()
        return self.fitted.interrupted

    def interrupt(self) -> None:
        """Keeps what was learned so far."""
        self.fitted.interrupted = True
        self.tell(Ended("interrupted"))
        self.save(best=False)

    def warn(self, text: str) -> None:
        """Tells a warning once."""
        if text not in self.warned:
            self.warned.add(text)
            self.tell(Warned(text))

    def save(self, *, best: bool) -> Path | None:
        """A checkpoint of this moment, if there is a folder."""
        if self.folder is None:
            return None
        path = self.folder.save(self.parts.trained, asdict(self.progress), best=best)
        self.tell(Saved(path))
        return path

    def save_last_good(self) -> Path | None:
        """The present state if it is finite, else the checkpoint before it."""
        if self.folder is None:
            return None
        return self.save(best=False) if self.parts.trained.finite() else latest(self.folder.checkpoints)
