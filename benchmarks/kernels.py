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
from torch import Tensor, nn

from onward.core.products import deposit, drive, transpose
from onward.kernels import Use, using
from onward.kernels.feedback import Feedback, correlate
from onward.kernels.host import keep_pages
from onward.kernels.rows import sparse_rows
from onward.kernels.signs import signs
from onward.neurons import LIF

ROUNDS = 7
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One kernel at one size: ``make_inputs()`` gives what both ``fast`` and ``reference`` are called with."""

    name: str
    make_inputs: Callable[[], tuple[Any, ...]]
    fast: Callable[..., Tensor]
    reference: Callable[..., Tensor]


def _plainly(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` with compiled loops left out."""

    def plain(*inputs: Any) -> Tensor:
        with using(Use.NEVER):
            return function(*inputs)

    return plain


def _random(*shape: int, density: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator) * (torch.rand(*shape, generator=generator) < density)


def _firing(steps: int, batch: int, units: int) -> Case:
    neuron = LIF()

    def slopes(x: Tensor) -> Tensor:
        return neuron.scan(x, neuron.start(x[0])).slope

    name = f"fire {steps}x{batch}x{units}"
    return Case(name, lambda: (_random(steps, batch, units),), slopes, _plainly(slopes))


def _signs(rows: int, units: int) -> Case:
    def draw(keys: Tensor) -> Tensor:
        return signs(keys, units, torch.float32)

    return Case(f"signs {rows}x{units}", lambda: (torch.arange(rows) * 0x9E3779B9,), draw, _plainly(draw))


def _feedback(steps: int, batch: int, units: int) -> Case:
    def inputs() -> tuple[Tensor, Tensor, Tensor]:
        return _random(steps, batch, 10), _random(units, 10), _random(steps, batch, units)

    def post(error: Tensor, matrix: Tensor, slope: Tensor) -> Tensor:
        return Feedback(error, matrix).times(slope)

    return Case(f"feedback {steps}x{batch}x{units}", inputs, post, _plainly(post))


def _correlate(steps: int, batch: int, units: int) -> Case:
    def inputs() -> tuple[Tensor, Tensor]:
        return _random(steps, batch, units).sign(), _random(steps, batch, 10)

    def halves(z: Tensor, o: Tensor) -> Tensor:
        return correlate(z, o, batch // 2)

    return Case(f"correlate {steps}x{batch}x{units}", inputs, halves, _plainly(halves))


@dataclass(frozen=True)
class Layer:
    """A synapse, and the shape ``[K, B, ...]`` of what it reads."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]

    def input(self, density: float) -> Tensor:
        """Random numbers, maps channels last."""
        return self._laid(self.shape, density)

    def post(self, density: float) -> Tensor:
        """The same at its output."""
        frame = self.module(torch.zeros(1, *self.shape[2:]))
        return self._laid((*self.shape[:2], *frame.shape[1:]), density)

    @staticmethod
    def _laid(shape: tuple[int, ...], density: float) -> Tensor:
        return _random(*shape[:2], *shape[3:], shape[2], density=density).movedim(-1, 2)


def _gather(layer: Layer, density: float) -> Case:
    params = {name: p.detach() for name, p in layer.module.named_parameters()}

    def sparse(x: Tensor) -> Tensor:
        return drive(layer.module, params, sparse_rows(x, 1.0) or x)

    return Case(f"gather {layer.name} density {density:g}", lambda: (layer.input(density),), sparse, _plainly(sparse))


def _scatter(layer: Layer, density: float) -> Case:
    params = {"weight": next(layer.module.parameters()).detach()}

    def inputs() -> tuple[Tensor, Tensor]:
        x = layer.input(density)
        out = drive(layer.module, params, x)
        return x, torch.randn(out.movedim(2, -1).shape, generator=torch.Generator().manual_seed(1)).movedim(-1, 2)

    def sparse(x: Tensor, post: Tensor) -> Tensor:
        into = {"weight": torch.zeros_like(params["weight"])}
        deposit(layer.module, params, sparse_rows(x, 1.0) or x, post, into)
        return into["weight"]

    return Case(f"scatter {layer.name} density {density:g}", inputs, sparse, _plainly(sparse))


def _gather_posts(layer: Layer, density: float) -> Case:
    params, like = {"weight": next(layer.module.parameters()).detach()}, layer.input(1.0)

    def back(post: Tensor) -> Tensor:
        return transpose(layer.module, params, sparse_rows(post, 1.0) or post, like)

    return Case(
        f"gather of posts {layer.name} density {density:g}", lambda: (layer.post(density),), back, _plainly(back)
    )


def _scatter_posts(layer: Layer, density: float) -> Case:
    params = {"weight": next(layer.module.parameters()).detach()}

    def gradient(x: Tensor, post: Tensor) -> Tensor:
        into = {"weight": torch.zeros_like(params["weight"])}
        deposit(layer.module, params, x, sparse_rows(post, 1.0) or post, into)
        return into["weight"]

    def inputs() -> tuple[Tensor, Tensor]:
        return layer.input(1.0), layer.post(density)

    return Case(f"scatter of posts {layer.name} density {density:g}", inputs, gradient, _plainly(gradient))


SIZES = ((6, 128, 800), (30, 64, 800), (2, 32, 65536))
LAYERS = (
    (Layer("1920x2312x800", nn.Linear(2312, 800, bias=False), (30, 64, 2312)), (0.01, 0.03, 0.1, 0.2)),
    (Layer("1920x800x800", nn.Linear(800, 800, bias=False), (30, 64, 800)), (0.01, 0.03, 0.1, 0.2)),
    (Layer("192x64x16x16, 128", nn.Conv2d(64, 128, 3, padding=1, bias=False), (6, 32, 64, 16, 16)), (0.1, 0.3)),
    (Layer("192x256x4x4, 256", nn.Conv2d(256, 256, 3, padding=1, bias=False), (6, 32, 256, 4, 4)), (0.1, 0.3)),
)
POSTS = (
    (Layer("3200x800x800", nn.Linear(800, 800, bias=False), (25, 128, 800)), (0.02, 0.05, 0.1, 0.2, 0.33)),
    (
        Layer("192x64x16x16, 128", nn.Conv2d(64, 128, 3, padding=1, bias=False), (6, 32, 64, 16, 16)),
        (0.02, 0.05, 0.1, 0.2, 0.33),
    ),
)
CASES: Sequence[Case] = [
    *(_firing(*size) for size in SIZES),
    *(_signs(steps * batch, units) for steps, batch, units in SIZES),
    *(_feedback(*size) for size in SIZES),
    *(_correlate(*size) for size in SIZES),
    *(make(layer, density) for make in (_gather, _scatter) for layer, densities in LAYERS for density in densities),
    *(
        make(layer, density)
        for make in (_gather_posts, _scatter_posts)
        for layer, densities in POSTS
        for density in densities
    ),
]


@torch.no_grad()
def measure(case: Case) -> dict[str, Any]:
    """Times, their ratio, and the largest difference of the results relative to the largest value."""
    with using(Use.NEVER):
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
    keep_pages()
    rows = []
    for case in CASES:
        rows.append(row := measure(case))
        say(f"{row['kernel']}: {row['ratio']:.2f} times the reference's speed")
    return rows
