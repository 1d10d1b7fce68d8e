"""What the run page costs: looking after an epoch, beside the epoch; comparing gradients; drawing the page.

    python -m benchmarks.page [--batches 20] [--FIELD VALUE ...]

One process, interleaved, medians of five; times differ between machines, ratios less. The epoch's time is that of its
mini-batches without the test. Exits with 1 where looking takes more than 1 % of it, or the page more than 5 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from onward.report.run import write_page
from onward.train import Parts, RunFolder, assemble, fit, parse_tokens
from onward.train.alignment import compared
from onward.train.folder import SAMPLES
from onward.train.samples import shown

REPEATS, SHARE, SECONDS = 5, 0.01, 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20)
    own, flags = parser.parse_known_args(arguments)
    parts, config = assemble(parse_tokens(flags))
    batch = parts.looked_at()
    assert batch is not None
    learning, looking = interleaved(lambda: learn(parts, own.batches), lambda: parts.observed(1))
    epoch = learning / own.batches * len(parts.loader)
    count = config.probe.draws
    credit = timed(
        lambda: compared(parts.net, parts.rule, config.rule, parts.objective, batch, parts.draws, parts.chunk, count)
    )
    drawing = draw(flags)
    print(f"an epoch's mini-batches {epoch:8.3f} s")
    print(f"looking at layers       {looking:8.3f} s  {looking / epoch:.2%} of it")
    print(f"comparing gradients     {credit:8.3f} s  {credit / epoch:.2%} of it, where asked for")
    print(f"samples and page        {drawing:8.3f} s  once")
    return int(looking > SHARE * epoch or drawing > SECONDS)


def interleaved(*actions: Callable[[], object]) -> list[float]:
    """The median time of each action, one after the other, several times; once before to warm up."""
    for action in actions:
        action()
    times = [[timed(action) for action in actions] for _ in range(REPEATS)]
    return [median(column) for column in zip(*times, strict=True)]


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    began = perf_counter()
    action()
    return perf_counter() - began


def learn(parts: Parts, batches: int) -> None:
    """Some mini-batches, deposits and updates."""
    for batch in islice(parts.batches(0), batches):
        parts.run(batch, 0)
        parts.update()


def draw(flags: Sequence[str]) -> float:
    """Seconds from a trained network to its page; training is one epoch of little data."""
    with TemporaryDirectory() as place:
        parts, resolved = assemble(parse_tokens([*flags, "--data.limit", "256", "--train.epochs", "1"]))
        folder = RunFolder.create(Path(place), "page")
        folder.begin(resolved, parts.interface, parts.data_record())
        fit(parts, resolved.train, folder=folder)
        batch = parts.looked_at()
        assert batch is not None

        def finish() -> None:
            folder.note(SAMPLES, {"samples": shown(parts.net, parts.objective, batch, parts.chunk)})
            write_page(folder)

        return timed(finish)


if __name__ == "__main__":
    sys.exit(main())
