"""How noisy gradients of LocalZO are, and how many neurons take part in them; writes figures.

    python -m benchmarks.localzo_variance [FOLDER] [--rounds 100]

The network is 784-n-10 of the ZO-SNN project at its initial weights (T = 25, delta 0.6), the mini-batch 32 digits of
MNIST. The same gradient is estimated again and again with fresh noise, forward pass and mini-batch being the same:

    relative variance = sum over parameters of Var g  /  ||g of the mean surrogate||^2

once over draws a slope m (n = 20), once over widths n (m = 1); the share of slopes that are not zero beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import log2, log10
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onward.core import GradSink, KeyedDraws, Network, Static, active, run_sequence
from onward.core.objective import objectives
from onward.data import load
from onward.models import models
from onward.neurons import neurons
from onward.report import curves
from onward.rules import rules

SAMPLES, WIDTHS = (1, 2, 5, 10, 20), (20, 40, 80, 160, 320, 640)
BATCH, STEPS, DELTA = 32, 25, 0.6


class Estimator:
    """Gradients of one network on one mini-batch with noise that depends on a counter."""

    def __init__(self, width: int, surrogate: Mapping[str, Any], x: Static, y: Tensor):
        torch.manual_seed(0)
        options = {"name": "lif", "decay": 0.95, "reset": "delayed", "ties_fire": False, "surrogate": surrogate}
        choice = {"name": "zosnn-linear", "hidden": [width]}
        self.net: Network = models.build(choice, x.features, 10, lambda: neurons.build(options))
        self.rule, self.objective, self.x, self.y = rules.build("bptt"), objectives.build("per-step"), x, y
        self.sink, self.draws = GradSink(self.net), KeyedDraws(0)
        self.rule.bind(self.net, self.objective, x, self.draws)

    def gradient(self, number: int = 0) -> Tensor:
        """All parameters' gradients in one vector."""
        run_sequence(self.net, self.rule, self.objective, self.x, self.y, self.sink, draws=self.draws, sequence=number)
        self.sink.flush()
        found = torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])
        self.net.zero_grad(set_to_none=True)
        return found


def relative_variance(width: int, samples: int, x: Static, y: Tensor, rounds: int) -> tuple[float, float]:
    """The noise of an estimate relative to what is estimated, and the share of active slopes of hidden neurons."""
    options = {"name": "localzo", "delta": DELTA, "samples": samples}
    exact = Estimator(width, {**options, "form": "mean"}, x, y).gradient()
    estimator = Estimator(width, options, x, y)
    squares = torch.stack([(estimator.gradient(n) - exact).square().sum() for n in range(rounds)])
    return float(squares.mean() / exact.square().sum()), next(iter(active(estimator.net).values()))


def main() -> None:
    """Prints the tables and draws the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/explanation"))
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    train, _ = load({"name": "mnist"})
    batch = train.batch(torch.arange(BATCH), STEPS)
    by_samples = {m: relative_variance(20, m, batch.x, batch.y, arguments.rounds) for m in SAMPLES}
    by_width = {n: relative_variance(n, 1, batch.x, batch.y, arguments.rounds) for n in WIDTHS}
    for label, found in (("draws a slope", by_samples), ("hidden units", by_width)):
        print(f"\n| {label} | relative variance | active slopes |\n|---|---|---|")
        for key, (variance, share) in found.items():
            print(f"| {key} | {variance:.3f} | {100 * share:.1f} % |")
    lines = {
        "draws a slope": [(log2(m), log10(variance)) for m, (variance, _) in by_samples.items()],
        "width / 20": [(log2(n / 20), log10(variance)) for n, (variance, _) in by_width.items()],
    }
    title = "Noise of LocalZO's gradient against draws and width"
    figure = curves(lines, title, "log2 of draws a slope, or of width / 20", "log10 of relative variance")
    (arguments.folder / "localzo-variance.svg").write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main()
