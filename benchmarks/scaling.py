"""Weak scaling: processes that share every mini-batch, measured on this machine and modelled for more of them.

    python -m benchmarks.scaling [--rules opzo dfa ottt bptt] [--processes 1 2] [--json FILE]

Every process has one thread and 64 samples of each mini-batch of MNIST on 784-800-800-10, whatever their number: at
perfect scaling the time of a mini-batch stays as it is. Bytes are counted, not estimated: what one process hands to the
sum of an update. The model adds to the measured time of one process

    2 log2(N) latency + 2 (N - 1) / N bytes / bandwidth

which is what halving and doubling takes; nothing overlaps, no process is late.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from math import log2
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from onward.core import run_sequence
from onward.core.group import Group, Share
from onward.train import assemble, parse_tokens

SAMPLES, BATCHES, REPEATS = 64, 40, 3
RULES = ("opzo", "dfa", "ottt", "sltt", "bptt")
WORKERS = (2, 8, 64, 256, 1024)


class Wire(NamedTuple):
    """What connects machines; numbers of data sheets, not measured here."""

    name: str
    latency: float
    bandwidth: float

    def seconds(self, processes: int, size: int) -> float:
        """How long a sum of ``size`` bytes over all processes takes."""
        return 2 * log2(processes) * self.latency + 2 * (processes - 1) / processes * size / self.bandwidth


WIRES = (Wire("10 Gbit/s, 30 us", 30e-6, 10e9 / 8), Wire("100 Gbit/s, 5 us", 5e-6, 100e9 / 8))


class Scale(NamedTuple):
    """A rule on so many processes: milliseconds of a mini-batch, and bytes that each process sends to a sum."""

    rule: str
    processes: int
    milliseconds: float
    bytes: int


class Counting(Group):
    """Stands in for two processes, adds nothing up, and counts what it is given."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.bytes = 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.sum_`."""
        self.bytes += sum(t.numel() * t.element_size() for t in tensors)

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """See `Group.copy_`."""

    def gather(self, text: str) -> list[str]:
        """See `Group.gather`."""
        return [text] * self.size


def volume(rule: str) -> int:
    """Bytes that one process hands to the sums of one update of the default network."""
    parts, _ = assemble(parse_tokens(["--rule", rule, "--data.limit", "256", "--train.batch-size", "128"]))
    group, batch = Counting(), next(parts.batches(0))
    parts.grads.group = group
    share = Share(2 * len(batch.y), 0, group)
    run_sequence(
        parts.net, parts.rule, parts.objective, batch.x, batch.y, parts.sink,
        draws=parts.draws, ids=batch.ids, chunk=parts.chunk, share=share,
    )  # fmt: skip
    parts.sink.flush()
    return group.bytes


def measured(rule: str, processes: int) -> float:
    """Milliseconds of a mini-batch: the median of some whole runs of the command."""
    found = []
    for _ in range(REPEATS):
        with TemporaryDirectory() as out:
            found.append(1000 * SAMPLES * processes / _samples_per_second(rule, processes, Path(out)))
    return median(found)


def _samples_per_second(rule: str, processes: int, out: Path) -> float:
    size = SAMPLES * processes
    flags = ["--rule", rule, "--train.batch-size", str(size), "--data.limit", str(size * BATCHES)]
    flags += ["--data.limit-test", "1000", "--train.epochs", "1", "--train.threads", "1", "--train.out", str(out)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "onward", "train", *flags, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])["samples_per_second"]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the measured and the modelled table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [Scale(rule, n, measured(rule, n), volume(rule)) for rule in given.rules for n in given.processes]
    for row in rows:
        print(f"{row.rule:6} {row.processes:2} processes  {row.milliseconds:8.1f} ms  {row.bytes / 2**20:6.2f} MiB")
    print("modelled share of perfect scaling, N =", *WORKERS)
    for row in (row for row in rows if row.processes == 1):
        for wire in WIRES:
            alone = row.milliseconds / 1000
            shares = (alone / (alone + wire.seconds(n, row.bytes)) for n in WORKERS)
            print(f"{row.rule:6} {wire.name:18}", *(f"{100 * share:6.1f} %" for share in shares))
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
