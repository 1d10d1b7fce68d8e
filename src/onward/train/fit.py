"""The training loop: `fit` over epochs, mini-batches, updates. Copy it to write your own."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from onward.core import Outcome, Rates, active
from onward.core.errors import Divergence, NonFiniteError
from onward.data import Batch, Loader
from onward.kernels.choice import used
from onward.kernels.fused import fusing
from onward.train.alarms import alarms
from onward.train.config import TrainConfig
from onward.train.confusion import Confusion
from onward.train.events import BatchDone, Ended, EpochDone, OnEvent, Saved, Warned, ignore
from onward.train.folder import CONFUSION, RunFolder
from onward.train.guard import GUARDS
from onward.train.memory import meter
from onward.train.parts import Parts
from onward.train.score import Score, score
from onward.train.state import Fitted, Pace, Progress, Sums

LOOK_EVERY = 20


class Diverged(Divergence):
    """``cause``, NaN or infinity or a learned optimiser's, during training; ``saved`` is the last good state, if there
    is a run folder."""

    def __init__(self, cause: Divergence, epoch: int, batch: int, saved: Path | None):
        kept = f"; the last good state is in {saved}" if saved else ""
        super().__init__(f"epoch {epoch + 1}, mini-batch {batch + 1}: {cause}{kept}")
        self.cause, self.epoch, self.batch, self.saved = cause, epoch, batch, saved


def fit(
    parts: Parts,
    config: TrainConfig,
    *,
    folder: RunFolder | None = None,
    fitted: Fitted | None = None,
    on_event: OnEvent = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Trains ``parts.net`` in place for ``config.epochs`` epochs, or from where ``fitted`` says that it stands.

    Saves to ``folder`` at the start, after every epoch, and every ``config.save_every`` mini-batches; ends early
    when patience runs out, and after the mini-batch at hand when ``stop()`` says so. On NaN, infinity or a learned
    optimiser that diverges it does what ``config.on_nonfinite`` says: as a last resort it saves the last good state and
    raises `Diverged` with epoch, mini-batch, and what is known of layer and step.
    """
    run = _Run(parts, config, folder, fitted or Fitted(), on_event, stop)
    if run.progress.updates == 0:
        run.save()
    try:
        with fusing(config.compile):
            while run.progress.epoch < config.epochs and not run.ended():
                run.train_epoch()
    except Divergence as error:
        raise Diverged(error, run.progress.epoch, run.progress.batch, run.save_last_good()) from None
    return run.fitted


def tested(parts: Parts, loader: Loader, on: str, progress: Progress, folder: RunFolder | None) -> Score:
    """The score on ``loader``, whose data are called ``on``; ``folder`` gets which classes were taken for which."""
    confusion = Confusion(parts.interface.classes)
    found = score(parts.net, parts.objective, loader, parts.device, parts.chunk, confusion)
    counts = confusion.whole(parts.group)
    if folder is not None:
        folder.note(CONFUSION, {"epoch": progress.epoch, "lesson": progress.lesson, "on": on, "counts": counts})
    return found


class _Run:
    """What the levels of the loop share."""

    def __init__(
        self,
        parts: Parts,
        config: TrainConfig,
        folder: RunFolder | None,
        fitted: Fitted,
        on_event: OnEvent,
        stop: Callable[[], bool],
    ):
        self.parts, self.config, self.folder, self.tell, self.stop = parts, config, folder, on_event, stop
        self.fitted, self.progress, self.own = fitted, fitted.progress, fitted.own(parts.group)
        self.warned, self.began = set[str](), perf_counter()
        self.warming: list[tuple[Pace, Pace]] = []
        self.guard = GUARDS[config.on_nonfinite](parts, self.warn)
        if fitted.full_precision:
            parts.grads.products = None

    def train_epoch(self) -> None:
        """What is left of a pass over the data, then the evaluation, a line in the log, a checkpoint."""
        ready = perf_counter()
        if self.progress.batch == 0:
            self.parts.sink.begin_pass()
        for batch in self.parts.batches(self.progress.epoch, self.progress.batch):
            outcome = self.train_batch(batch)
            self.count(batch, outcome, perf_counter() - ready)
            if self.stopped():
                return self.interrupt()
            self.save_if_due()
            ready = perf_counter()
        self.close_epoch()

    def train_batch(self, batch: Batch) -> Outcome | None:
        """One sequence and its update, None where it was left out; the first one is measured, every `LOOK_EVERY`-th
        one looked into."""
        watch = Rates() if self.progress.batch % LOOK_EVERY == 0 else None
        if watch is not None:
            active(self.parts.net)  # from here on
        with meter(self.parts.device, when=self.progress.updates == 0) as measured:
            outcome = self.guarded(batch, watch)
        self.fitted.peak_bytes = max(self.fitted.peak_bytes, measured.peak_bytes)
        if watch is not None and outcome is not None:
            self.own.epoch.rates.update(watch.means(self.parts.group))
            self.own.epoch.active.update(active(self.parts.net, self.parts.group))
        return outcome

    def guarded(self, batch: Batch, watch: Rates | None) -> Outcome | None:
        """Learns a mini-batch, again where the guard could mend what went wrong."""
        self.guard.before()
        while True:
            try:
                outcome = self.learn(batch, watch)
            except Divergence as error:
                if not self.guard.mend(error):
                    return None
            else:
                self.guard.after()
                return outcome

    def learn(self, batch: Batch, watch: Rates | None) -> Outcome:
        """Deposits, and the update they make: after the sequence, or after every step for an online rule."""
        parts, online = self.parts, self.parts.rule.traits.updates == "step"
        parts.updater.begin(self.progress.epoch * len(parts.loader) + self.progress.batch)
        outcome = parts.run(
            batch,
            self.progress.updates,
            parts.share(self.progress.batch),
            after_step=parts.update if online else None,
            watch=watch,
        )
        self.agree(outcome)
        if not online:
            parts.update()
        return outcome

    def agree(self, outcome: Outcome) -> None:
        """All processes hear whether one of them met NaN."""
        trouble = outcome.trouble or (None if outcome.loss.isfinite() else NonFiniteError("the loss"))
        if self.parts.group.any(trouble is not None):
            raise trouble or NonFiniteError("what another process computed")

    def count(self, batch: Batch, outcome: Outcome | None, seconds: float) -> None:
        """Adds a mini-batch to the running means and tells them."""
        sums, size = self.own.epoch, len(batch.y)
        if outcome is None:
            sums.skipped += 1
        else:
            sums.loss, sums.samples = sums.loss + float(outcome.loss) * size, sums.samples + size
            sums.correct += int((self.parts.objective.predict(outcome.evidence) == batch.y).sum())
        self.clock(self.parts.loader.size(self.progress.batch), seconds)
        self.progress.batch, self.progress.updates = self.progress.batch + 1, self.progress.updates + 1
        self.tell(BatchDone(self.progress.epoch, self.progress.batch, *sums.means, self.parts.updater.lr, sums.rates))

    def clock(self, samples: int, seconds: float) -> None:
        """Adds to both paces; the first mini-batch of a process is forgotten at the second: it was measured as well."""
        paces = (self.fitted.pace, self.own.epoch.pace)
        if len(self.warming) == 1:
            for pace, before in zip(paces, self.warming[0], strict=True):
                pace.samples, pace.seconds = before.samples, before.seconds
        if len(self.warming) < 2:
            self.warming.append((copy(paces[0]), copy(paces[1])))
        for pace in paces:
            pace.samples, pace.seconds = pace.samples + samples, pace.seconds + seconds

    def close_epoch(self) -> None:
        """What is due between two epochs."""
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        sums, self.own.epoch = self.fitted.whole(self.parts.group), Sums()
        judged = self.judge()
        event = EpochDone(
            epoch=self.progress.epoch,
            loss=sums.means[0],
            accuracy=sums.means[1],
            samples_per_second=sums.means[2],
            rates=dict(sums.rates),
            active=dict(sums.active),
            rule={**self.parts.rule.metrics(), **self.parts.sink.metrics()},
            score=judged,
            lesson=self.progress.lesson,
            judged_on=self.parts.judged_on,
            skipped=sums.skipped,
            flips=self.parts.flips.since(),
            alarms=tuple(alarms(judged.rates if judged else sums.rates)),
            observed=self.parts.observed(self.progress.epoch) if self.folder is not None else {},
        )
        for text in (*self.parts.rule.warnings(), *self.parts.sink.warnings(), *event.alarms):
            self.warn(text)
        if self.folder is not None:
            self.folder.log(asdict(event))
        self.progress.logged += 1
        self.tell(event)
        self.save()

    def judge(self) -> Score | None:
        """The score, where one is due; notes the best so far on held-out data."""
        progress, parts = self.progress, self.parts
        if progress.epoch % self.config.eval_every and progress.epoch < self.config.epochs:
            return None
        found = tested(parts, parts.judge, parts.judged_on, progress, self.folder)
        self.fitted.score, self.fitted.scored_epoch = found, progress.epoch
        if parts.validation is not None:
            better = found.accuracy > progress.best_accuracy
            progress.stale = 0 if better else progress.stale + 1
            if better:
                progress.best_accuracy, progress.best_epoch = found.accuracy, progress.epoch
                progress.best_updates = progress.updates if self.config.keep_best else None
        return found

    def ended(self) -> bool:
        """Whether patience ran out or somebody asked to stop."""
        if self.config.patience is not None and self.progress.stale >= self.config.patience:
            self.tell(Ended(f"no better accuracy on held-out data in {self.progress.stale} evaluations"))
            return True
        if not self.fitted.interrupted and self.stopped():
            self.interrupt()
        return self.fitted.interrupted

    def stopped(self) -> bool:
        """Whether somebody asked some process to stop."""
        return self.parts.group.any(self.stop())

    def interrupt(self) -> None:
        """Keeps what was learned so far."""
        self.save()
        self.fitted.interrupted = True
        self.tell(Ended("interrupted"))

    def warn(self, text: str) -> None:
        """Tells a warning once."""
        if text not in self.warned:
            self.warned.add(text)
            self.tell(Warned(text))

    def save_if_due(self) -> None:
        """A checkpoint in the middle of an epoch."""
        every, inside = self.config.save_every, self.progress.batch < len(self.parts.loader)
        if every is not None and inside and self.progress.updates % every == 0:
            self.save()

    def save(self) -> Path | None:
        """A checkpoint of this moment, if there is a folder; all processes take part, one writes."""
        now = perf_counter()
        self.progress.seconds, self.began = self.progress.seconds + now - self.began, now
        self.fitted.full_precision, self.own.ways = self.parts.grads.products is None, used()
        self.fitted.collect(self.parts.group)
        if self.folder is None:
            return None
        path = self.folder.save(self.parts.trained, self.fitted, self.config.keep)
        self.tell(Saved(path))
        return path

    def save_last_good(self) -> Path | None:
        """The present state if it is finite, else the checkpoint before it."""
        if self.parts.trained.finite():
            return self.save()
        return self.folder.newest(self.warn) if self.folder is not None else None
