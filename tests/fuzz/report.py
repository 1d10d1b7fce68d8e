"""Runs readers on damaged inputs, and what came of it as a table and as JSON."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from tests.fuzz.mutate import Mutator
from tests.fuzz.packing import Files
from tests.fuzz.readers import READERS, Reader
from tests.fuzz.watch import HEADROOM, SECONDS, Auditor, Verdict, judge, limit_memory

from onward._version import __version__

MEMORY = Path("/dev/shm")
"""Where files cost no disk, on Linux."""

SHOWN = 10
"""Crashes of a reader that are told in full."""


@dataclass
class Tally:
    """What came of the inputs of one reader."""

    reader: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    crashes: int = 0
    peak_bytes: int = 0
    slowest_seconds: float = 0.0
    crashed: list[str] = field(default_factory=list)

    def add(self, label: str, verdict: Verdict) -> None:
        """Counts one input."""
        self.inputs += 1
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)
        self.slowest_seconds = max(self.slowest_seconds, verdict.seconds)
        if verdict.crash:
            self.crashes += 1
            self.crashed += [f"{label}: {verdict.crash}"] if len(self.crashed) < SHOWN else []
        elif verdict.refused:
            self.refused += 1
        else:
            self.accepted += 1


def inputs(reader: Reader, name: str, seed: int, start: int, count: int) -> Iterator[tuple[str, Files]]:
    """Labelled files: those of the seeds and the crafted ones, then ``count`` damaged ones from number ``start``."""
    if start == 0:
        yield from ((f"seed {i}", reader.pack(parts)) for i, parts in enumerate(reader.seeds))
        yield from ((f"crafted {i}", files) for i, files in enumerate(reader.crafted()))
    mutator = Mutator(reader.seeds, reader.words)
    for number in range(start, start + count):
        yield f"--seed {seed} --start {number}", damaged(reader, mutator, Random(f"{seed} {name} {number}"))


def damaged(reader: Reader, mutator: Mutator, rng: Random) -> Files:
    """Files with damage before they were packed, after, or both."""
    before = rng.random() < 0.7
    parts = mutator.parts(rng) if before else rng.choice(reader.seeds)
    files = reader.pack(parts)
    if not before or rng.random() < 0.15:
        name = rng.choice(sorted(files))
        files = {**files, name: mutator.damaged(files[name], rng)}
    return files


def run_reader(name: str, seed: int, start: int, count: int, auditor: Auditor) -> Tally:
    """One reader on its inputs; what it is given lies in a folder that is kept where the process dies."""
    reader, tally = READERS[name], Tally(name)
    folder = Path(tempfile.mkdtemp(prefix="onward-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    for label, files in inputs(reader, name, seed, start, count):
        for file, content in files.items():
            (folder / file).write_bytes(content)
        verdict = judge(lambda: reader.read(folder), auditor)
        tally.add(label, verdict)
    shutil.rmtree(folder)
    return tally


def run(names: list[str], seed: int, start: int, total: int) -> list[Tally]:
    """``total`` damaged inputs over the readers ``names``, tallied."""
    auditor = Auditor()
    for name in names:  # what is imported and made once belongs to no input
        run_reader(name, seed, 1, 3, auditor)
    limit_memory()
    tallies = []
    for place, name in enumerate(names):
        share = total // len(names) + (place < total % len(names))
        tallies.append(run_reader(name, seed, start, share, auditor))
        print(f"{name}: {tallies[-1].crashes} crashes in {tallies[-1].inputs:,} inputs", file=sys.stderr, flush=True)
    return tallies


def table(tallies: list[Tally]) -> str:
    """One row a reader, in Markdown."""
    rows = ["| reader | inputs | refused with our error | accepted | crashes | peak memory | slowest |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    rows += [_row(tally) for tally in tallies]
    whole = Tally("all", peak_bytes=max(t.peak_bytes for t in tallies))
    whole.slowest_seconds = max(t.slowest_seconds for t in tallies)
    for name in ("inputs", "refused", "accepted", "crashes"):
        setattr(whole, name, sum(getattr(t, name) for t in tallies))
    return "\n".join([*rows, _row(whole)])


def _row(t: Tally) -> str:
    counts = " | ".join(f"{n:,}" for n in (t.inputs, t.refused, t.accepted, t.crashes))
    return f"| {t.reader} | {counts} | {t.peak_bytes / 2**20:.1f} MB | {t.slowest_seconds:.3f} s |"


def record(tallies: list[Tally], seed: int) -> dict:
    """Everything as JSON; names no host."""
    return {
        "seed": seed,
        "limits": {"seconds": SECONDS, "headroom_bytes": HEADROOM},
        "versions": {"onward": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "readers": [asdict(tally) for tally in tallies],
    }
