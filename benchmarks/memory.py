"""Memory over the number of time steps: peak bytes above parameters, by rule and T.

    python -m benchmarks.memory [--rules ottt sltt opzo bptt] [--steps 16 64 256 1024] [--json]

The network is 2312-800-800-10 with a batch of 64, the input made chunk by chunk so that it needs no memory of its own.
Each figure is a process of its own: what torch's allocator held at most while one mini-batch was learned, chunks of 8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from torch import Tensor

import onward
from onward.train.memory import meter

FEATURES, BATCH, CHUNK = (2312,), 64, 8
RULES, STEPS = ["ottt", "sltt", "opzo"], [16, 64, 256, 1024]


class Noise(onward.Sequence):
    """Sparse random events, made when a chunk is read."""

    def __init__(self, steps: int):
        self.steps, self.batch, self.features = steps, BATCH, FEATURES

    def chunk(self, start: int, stop: int) -> Tensor:
        """See `Sequence.chunk`."""
        generator = torch.Generator().manual_seed(start)
        return (torch.rand(stop - start, BATCH, *FEATURES, generator=generator) < 0.04).float()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Noise:
        """See `Sequence.to`."""
        return self


def peak(name: str, steps: int) -> int:
    """Peak bytes of one mini-batch of ``steps`` time steps, gradients included, in this process."""
    net = onward.models.build({"name": "mlp", "hidden": [800, 800]}, FEATURES, 10, onward.LIF)
    objective, draws, sink = onward.PerStep(onward.CrossEntropy()), onward.KeyedDraws(0), onward.GradSink(net)
    rule = onward.rules.build(name)
    rule.bind(net, objective, Noise(CHUNK), draws)
    y = torch.arange(BATCH) % 10

    def learn(steps: int) -> None:
        onward.run_sequence(net, rule, objective, Noise(steps), y, sink, draws=draws, chunk=CHUNK)
        sink.flush()
        net.zero_grad()

    learn(CHUNK)
    with meter("cpu") as measured:
        learn(steps)
    return measured.peak_bytes


def measured(name: str, steps: int) -> dict:
    """One row: the peak in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", name, str(steps)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {"rule": name, "steps": steps, "peak_bytes": int(said)}


def report(rules: list[str], steps: list[int]) -> list[dict]:
    """Measures and prints every rule and T; returns the rows."""
    rows = []
    for name in rules:
        first = None
        for count in steps:
            rows.append(row := measured(name, count))
            first = first or row["peak_bytes"]
            megabytes, ratio = row["peak_bytes"] / 1e6, row["peak_bytes"] / first
            print(f"{name:8} T {count:6d}  {megabytes:8.1f} MB  ratio {ratio:.3f}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--steps", nargs="*", type=int, default=STEPS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("RULE", "T"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(peak(asked.one[0], int(asked.one[1])))
        return
    rows = report(asked.rules, asked.steps)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
