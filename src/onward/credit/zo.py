"""Single-point zeroth-order credit: g^l[t] = (L_b[t] / alpha) z^l[t], per sample.

One noisy forward pass, a scalar fed back: unbiased for the noise-smoothed network, variance n L^2 / alpha^2, which
is why it trails every other rule. No feedback memory, O(n) work a layer. A baseline of the OPZO paper (Xiao et al.
2024).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.signal import Carry, Context
from onward.core.sink import Sink
from onward.core.trace import Presynaptic
from onward.credit.base import Credit, Head, spatials
from onward.credit.noisy import Noisy
from onward.credit.perturbation import Perturbation, PerturbationOptions


class SinglePoint(Noisy):
    """The loss itself times the noise that may have caused it."""

    def __init__(self, perturbation: Perturbation):
        super().__init__(perturbation)
        if perturbation.alpha == 0:
            raise ConfigError(
                "single-point ZO divides by alpha, and alpha = 0 was given; use a positive noise strength"
            )
        if perturbation.schedule.mirrored:
            raise ConfigError(
                "single-point ZO has one forward pass; choose schedule 'fresh', 'pairs', 'codes' or 'hold'"
            )

    def begin(self, context: Context, sink: Sink) -> None:
        """Nothing to prepare."""

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """See `Spatial.credit`."""
        found = {}
        for node in head.port.below:
            now = record.noise[node.index]
            z = (now if head.lag == 0 else self.noise(node, record, record.firings[node.index].out, head.lag)).dense()
            scalar = head.losses / self.perturbation.alpha
            found[node.index] = scalar.view(*scalar.shape, *[1] * (z.dim() - 2)) * z
        return found

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Nothing is learned."""

    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Nothing is learned."""

    def finish(self, carry: Carry, sink: Sink) -> None:
        """Nothing is pending."""


spatials.register(
    "zo",
    PerturbationOptions,
    lambda choice: SinglePoint(choice.perturbation()),
    "single-point zeroth order: per-sample loss times noise",
    facts={
        "paper": "Xiao et al. 2024 (ICLR 2026)",
        "published": "results, as a baseline",
        "inferred": "noise as OPZO's",
    },
)
