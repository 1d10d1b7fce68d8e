"""Each kernel against its torch reference, over sizes and densities: ``onward bench --kernel``.

A `Case` makes its inputs from a seed, and both functions take them. The fast one and the reference run turn by turn;
their results are compared first. Add a kernel by adding to `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from onward.kernels.scan import leaky_scan

ROUNDS = 7
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One kernel at one size: ``make_inputs()`` gives what both ``fast`` and ``reference`` are called with."""

    name: str
    make_inputs: Callable[[], tuple[Any, ...]]
    fast: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def _scan_reference(x: Tensor, start: Tensor, decay: float) -> Tensor:
    steps = []
    for frame in x:
        start = decay * start + frame
        steps.append(start)
    return torch.stack(steps)


def _scan_inputs(steps: int, batch: int, units: int, density: float) -> Callable[[], tuple[Tensor, Tensor, float]]:
    def make() -> tuple[Tensor, Tensor, float]:
        generator = torch.Generator().manual_seed(0)
        x = (torch.rand(steps, batch, units, generator=generator) < density).float()
        return x, torch.rand(batch, units, generator=generator), 0.5

    return make


CASES: Sequence[Case] = [
    Case(
        f"leaky_scan {steps}x{batch}x{units} density {density:g}",
        _scan_inputs(steps, batch, units, density),
        leaky_scan,
        _scan_reference,
    )
    for steps, batch, units in ((6, 128, 800), (30, 64, 800), (30, 64, 2312))
    for density in (0.03, 0.2)
]


@torch.no_grad()
def measure(case: Case) -> dict[str, Any]:
    """Times, their ratio, and the largest difference of the results relative to the largest value."""
    inputs = case.make_inputs()
    fast, slow = case.fast(*inputs), case.reference(*inputs)
    off = float((fast.float() - slow.float()).abs().max() / slow.float().abs().max().clamp_min(1e-12))
    times: dict[str, list[float]] = {"fast": [], "reference": []}
    for _ in range(ROUNDS):
        for key, function in (("fast", case.fast), ("reference", case.reference)):
            began = perf_counter()
            function(*inputs)
            times[key].append(perf_counter() - began)
    seconds, reference = median(times["fast"]), median(times["reference"])
    return {
        "kernel": case.name,
        "seconds": seconds,
        "reference_seconds": reference,
        "ratio": reference / seconds,
        "difference": off,
        "equal": off <= TOLERANCE,
    }


def run(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All cases, in order."""
    rows = []
    for case in CASES:
        rows.append(row := measure(case))
        say(f"{row['kernel']}: {row['ratio']:.2f} times the reference's speed")
    return rows
