"""Networks behind orthogonal projection, and the subspaces that tests give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import Frames, GradSink, KeyedDraws, LearningRule, Network, Sequence, run_sequence
from onward.core.sink import Sink
from onward.neurons import LIF
from onward.testing.harness import bound, clear, gradients, suited
from onward.transforms import Hlop, Transform, transforms
from onward.transforms.growth import Tabled

STEPS, BATCH, CLASSES = 5, 4, 5
RULES: list[dict[str, Any]] = [{"name": name} for name in ("bptt", "sltt", "ottt", "dsr", "opzo", "dfa")] + [
    {"name": "online", "temporal": "ottt", "spatial": spatial} for spatial in ("feedback-alignment", "sign-symmetric")
]


def mlp() -> Network:
    """Dense, no biases, weights loud enough that every layer fires."""
    return loud(nn.Sequential(_linear(12, 20), LIF(), _linear(20, 16), LIF(), _linear(16, CLASSES)))


def conv() -> Network:
    """Convolutions with stride, padding and dilation."""
    return loud(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            LIF(),
            nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, bias=False),
            LIF(),
            nn.Flatten(),
            _linear(54, CLASSES),
        )
    )


def loud(body: nn.Module) -> Network:
    torch.manual_seed(1)
    net = Network(body)
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(5 / parameter[0].numel()) ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return net.double()


def frames(net: Network, seed: int = 7, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Inputs ``[T, B, ...]`` and labels."""
    generator = torch.Generator().manual_seed(seed)
    size = (2, 6, 6) if isinstance(net.synapses[0].module, nn.Conv2d) else (net.synapses[0].module.in_features,)
    x = torch.rand(STEPS, batch, *size, generator=generator, dtype=torch.float64) * 2
    return x, torch.randint(CLASSES, (batch,), generator=generator)


def behind(
    net: Network, rule: LearningRule, table: tuple[tuple[int, ...], ...], inner: Sink | None = None, **options: Any
) -> Hlop:
    """HLOP with so many rows a task."""
    return Hlop(net, inner or GradSink(net), rule, KeyedDraws(3), len(table), growth=Tabled(table), **options)


def holding(hlop: Hlop, seed: int = 5) -> Hlop:
    """Task 1 goes on, and random orthonormal rows are held."""
    hlop.begin_task(0)
    generator = torch.Generator().manual_seed(seed)
    for site in hlop.sites:
        drawn = torch.randn(site.subspace.new.T.shape, generator=generator, dtype=torch.float64)
        site.subspace.new.copy_(torch.linalg.qr(drawn)[0].T)
    hlop.end_task()
    hlop.begin_task(1)
    return hlop


def taught(
    net: Network, rule: LearningRule, sink: Sink, x: Tensor | Sequence, y: Tensor, **options: Any
) -> dict[str, Tensor]:
    """The gradients of one mini-batch."""
    clear(net, rule)
    given = x if isinstance(x, Sequence) else Frames(x)
    run_sequence(net, rule, suited(rule, net), given, y, sink, draws=KeyedDraws(0), **options)
    sink.flush()
    return gradients(net, rule)


def ready(rule: Mapping[str, Any] | str, net: Network) -> LearningRule:
    """A rule bound to inputs of `frames`."""
    return bound(rule, net, frames(net)[0])


def named(name: str, net: Network, rule: LearningRule, tasks: int = 2, **options: Any) -> Transform:
    """A transform as a configuration builds it."""
    return transforms.build({"name": name, **options}, net, GradSink(net), rule, KeyedDraws(3), tasks)


def low_rank(n: int, rank: int, samples: int, seed: int, noise: float = 0.02) -> Tensor:
    """Samples near a random subspace, with distinct variances along its axes."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0]
    scales = torch.linspace(2, 1, rank, dtype=torch.float64)
    found = torch.randn(samples, rank, generator=generator, dtype=torch.float64) * scales @ axes.T
    return found + noise * torch.randn(samples, n, generator=generator, dtype=torch.float64)


def _linear(n: int, m: int) -> nn.Linear:
    return nn.Linear(n, m, bias=False)
