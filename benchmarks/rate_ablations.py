"""How far a layer's mean output lies from its clamp, and what the published choices gain; writes figures.

    python -m benchmarks.rate_ablations [FOLDER]

*alpha*: the neurons of DSR under constant and under noisy drive, root mean square error of the mean output over a
fine grid of drives, in units of the threshold, for alpha 0.3, 0.5, 0.7 and 1. *threshold*: the same for alpha 0.5 and
thresholds from 0.5 to 6 with drives in [0, 2]: what training the threshold trades, saturation against coarse steps.
*reset*: rates of a network with feedback (100 neurons, ||W|| half of what a spike costs, 20 seeds) against their fixed
point, with the reset to 0 (IDE) and to minus the threshold (SPIDE).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import log10
from pathlib import Path

import torch
from torch import Tensor

from onward.neurons import Affine, GradedIF, SoftReset
from onward.report import curves

STEPS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
GRID = 7919
"""Drives: a prime number, so that their distance has nothing to do with that of rates."""


def main(folder: Path) -> None:
    """Draws the figures and prints their tables."""
    for name, (title, series) in {"alpha": alphas(), "threshold": thresholds(), "reset": resets()}.items():
        logs = {
            label: [(log10(t), log10(e)) for t, e in zip(STEPS, errors, strict=True)]
            for label, errors in series.items()
        }
        figure = curves(logs, title, "log10 of the number of steps", "log10 of the error")
        (folder / f"rates-{name}.svg").write_text(figure, encoding="utf-8")
        print(f"\n{title}\n| T | {' | '.join(series)} |\n|{'---|' * (len(series) + 1)}")
        for place, steps in enumerate(STEPS):
            print(f"| {steps} | {' | '.join(f'{errors[place]:.4f}' for errors in series.values())} |")


def alphas() -> tuple[str, dict[str, list[float]]]:
    """Error against T for each alpha."""
    drive = torch.linspace(0, 1, GRID, dtype=torch.float64)
    found = {f"alpha {a:g}": [graded_error(1.0, a, drive, t) for t in STEPS] for a in (0.3, 0.5, 0.7, 1.0)}
    return "Mean output against its clamp: the firing level alpha V", found


def thresholds() -> tuple[str, dict[str, list[float]]]:
    """Error against T for each threshold, the drive's own range being [0, 2]."""
    drive = torch.linspace(0, 2, GRID, dtype=torch.float64)
    found = {f"V {v:g}": [graded_error(v, 0.5, drive, t, drive) for t in STEPS] for v in (0.5, 1.0, 2.0, 6.0)}
    return "Mean output against the drive itself: the threshold V", found


def graded_error(v: float, alpha: float, drive: Tensor, steps: int, aim: Tensor | None = None) -> float:
    """Root mean square difference between mean output and ``aim`` (the clamp unless given)."""
    neuron = GradedIF(v, alpha).double()
    firing = neuron.simulate(drive.expand(steps, 1, -1), neuron.start(drive[None]))
    aim = neuron.rate_law(drive).detach() if aim is None else aim
    return float((firing.out.mean(0)[0] - aim).square().mean().sqrt())


def resets() -> tuple[str, dict[str, list[float]]]:
    """Mean absolute error of the rates against T, with the reset to 0 and to minus the threshold."""
    found = {"to 0": rest_errors(1.0, abs), "to -V": rest_errors(2.0, abs)}
    found["to 0, bias"] = rest_errors(1.0, lambda mean: mean)
    found["to -V, bias"] = rest_errors(2.0, lambda mean: mean)
    return "Rates of a network with feedback against their fixed point: the reset", found


def rest_errors(cost: float, kind: Callable[[Tensor], Tensor]) -> list[float]:
    """The mean over neurons and seeds of ``kind`` of the error, at each T; weights are scaled to the same map."""
    errors = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(100, 100, generator=generator, dtype=torch.float64)
        w, x = w * (0.5 / torch.linalg.matrix_norm(w, 2)), torch.rand(1, 100, generator=generator, dtype=torch.float64)
        rest = torch.zeros_like(x)
        for _ in range(200):
            rest = (rest @ w.T + x).clamp(0, 1)
        errors.append([float(kind(rate - rest).mean()) for rate in _rates(cost, w * cost, x * cost)])
    return [max(abs(sum(seeds)) / len(errors), 1e-6) for seeds in zip(*errors, strict=True)]


def _rates(cost: float, w: Tensor, x: Tensor) -> list[Tensor]:
    neuron = Affine(1.0, reset=SoftReset(cost))
    state, spikes, total, found = neuron.start(x), torch.zeros_like(x), torch.zeros_like(x), []
    for step in range(1, max(STEPS) + 1):
        firing = neuron.simulate((x + spikes @ w.T)[None], state)
        state, spikes = firing.state, firing.out[0]
        total += spikes
        if step in STEPS:
            found.append(total / step)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/explanation"))
