"""Noise injected at hidden neurons: which law, where, and how it changes over time.

Downstream of the neuron the network sees s + alpha z (*after*), or the neuron integrates alpha z with its drive
(*before*: signals stay binary). ``z[t] = c[t] z'[block(t)]``: the schedule chooses blocks and signs. Every law has
E[z z^T] = I. Draws are keyed, so nothing but the current chunk is ever stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from onward.core.draws import Gaussian, Key, Law, Rademacher, Sphere
from onward.core.errors import TopologyMismatch
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.registry import Choice, Registry
from onward.core.signal import Context, Noise
from onward.neurons import AdaptiveLIF, Affine, SoftReset


class Schedule(ABC):
    """How noise changes over the steps of a sequence."""

    mirrored: bool = False
    """Whether every step is run a second time with -z, from the same state."""

    @abstractmethod
    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Block number and sign of each of the ``steps`` ``[K]``; ``decay`` is the membranes' leak."""

    def cautions(self, decay: float, steps: int) -> list[str]:
        """What to know about this schedule on such a network."""
        return []


class Fresh(Schedule):
    """New z at every step: unbiased in networks with memory, highest variance."""

    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """See `Schedule.plan`."""
        return steps, torch.ones_like(steps)


class Pairs(Schedule):
    """+z, then -z: cancels the baseline z o^T.

    Biased where membranes remember: E[M] = (1 - d lam / 2) J^T behind d leaky layers, since the echo of +z still sits
    downstream when -z is read.
    """

    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """See `Schedule.plan`."""
        return steps.div(2, rounding_mode="floor"), 1 - 2 * (steps % 2)

    def cautions(self, decay: float, steps: int) -> list[str]:
        """See `Schedule.cautions`."""
        found = []
        if decay >= 0.9:
            found.append(
                f"antithetic noise pairs read the echo of their own first half in membranes that leak slowly (decay "
                f"{decay:.3g}): the feedback matrices are biased; use schedule 'codes', 'fresh' or 'two-pass'"
            )
        if steps % 2:
            found.append(
                f"antithetic noise pairs leave one of {steps} steps unpaired; an even number of steps has less variance"
            )
        return found


class Hold(Schedule):
    """One z for the whole sequence."""

    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """See `Schedule.plan`."""
        return torch.zeros_like(steps), torch.ones_like(steps)


class TwoPass(Schedule):
    """+z and -z from the same state at every step: an exact central difference, two forward passes."""

    mirrored = True

    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """See `Schedule.plan`."""
        return Fresh().plan(steps, decay)


@cache
def sign_code(length: int, decay: float) -> tuple[int, ...]:
    """The balanced +-1 code whose echoes through a leak of ``decay`` disturb its own reading least.

    Minimises (sum_k decay^k R_k)^2 + sum_k (decay^k R_k)^2 over balanced codes, R_k the autocorrelation at lag k.

    >>> sign_code(4, 0.5)
    (1, 1, -1, -1)
    """

    def echo(code: tuple[int, ...]) -> float:
        lags = range(1, length)
        terms = [decay**k * sum(a * b for a, b in zip(code, code[k:], strict=False)) for k in lags]
        return sum(terms) ** 2 + sum(term**2 for term in terms)

    balanced = [code for code in product((1, -1), repeat=length) if sum(code) == 0 and code[0] == 1]
    return min(balanced, key=echo)


@dataclass(frozen=True)
class Codes(Schedule):
    """One z for a block of steps, signed by a balanced code of low autocorrelation: cancels baseline and echo."""

    length: int = 4

    def plan(self, steps: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """See `Schedule.plan`."""
        code = torch.tensor(sign_code(self.length, round(decay, 3)))
        return steps.div(self.length, rounding_mode="floor"), code[steps % self.length]

    def cautions(self, decay: float, steps: int) -> list[str]:
        """See `Schedule.cautions`."""
        if steps % self.length == 0:
            return []
        return [
            f"sign codes of length {self.length} are cut short by {steps} steps; choose a multiple for less variance"
        ]


class Site(ABC):
    """Where noise enters a neuron; ``is_sent`` tells whether it travels with what the neuron sends."""

    is_sent: bool = False

    @abstractmethod
    def check(self, node: Node) -> None:
        """Raises `TopologyMismatch` for a neuron that noise cannot enter here."""

    @abstractmethod
    def before(self, node: Node, drive: Tensor, perturbation: Perturbation, record: Record) -> Tensor:
        """The drive that the neuron integrates."""


class After(Site):
    """On the activity: s + alpha z is sent."""

    is_sent = True

    def check(self, node: Node) -> None:
        """See `Site.check`: any neuron will do."""

    def before(self, node: Node, drive: Tensor, perturbation: Perturbation, record: Record) -> Tensor:
        """See `Site.before`."""
        return drive


class Before(Site):
    """On the membrane: alpha z is part of the drive, persists and leaks; signals stay binary."""

    def check(self, node: Node) -> None:
        """See `Site.check`: any neuron will do."""

    def before(self, node: Node, drive: Tensor, perturbation: Perturbation, record: Record) -> Tensor:
        """See `Site.before`."""
        return record.noise[node.index].added_to(drive, perturbation.alpha)


class Firing(Site):
    """On the firing decision alone: what alpha z added is taken out of the (softly reset) membrane a step later."""

    def check(self, node: Node) -> None:
        """See `Site.check`: the membrane must hand its drive on unchanged but for the leak."""
        membrane = node.module.membrane if isinstance(node.module, AdaptiveLIF) else node.module
        if not isinstance(membrane, Affine) or not isinstance(membrane.reset, SoftReset):
            raise TopologyMismatch(
                f"noise on the firing decision alone needs a neuron with a soft reset and one membrane, and {node} is "
                f"{type(node.module).__name__}({node.module.extra_repr()}); choose position 'after' or 'before'"
            )

    def before(self, node: Node, drive: Tensor, perturbation: Perturbation, record: Record) -> Tensor:
        """See `Site.before`."""
        module: Any = node.module
        steps = torch.arange(record.start, record.start + len(drive))
        earlier = perturbation.noise(node, steps - 1, drive, record.context).dense()
        earlier[steps == 0] = 0
        return record.noise[node.index].added_to(
            torch.sub(drive, earlier, alpha=perturbation.alpha * module.decay), perturbation.alpha
        )


@dataclass(frozen=True)
class Perturbation:
    """Noise of strength ``alpha`` from ``law``, entering at ``site``, scheduled over time.

    ``per_sample`` draws z for every sample, else one for the batch; ``traced`` lets what is sent, noise included, enter
    traces and deposits.
    """

    law: Law
    site: Site
    schedule: Schedule
    alpha: float
    per_sample: bool = True
    traced: bool = False

    def noise(self, node: Node, steps: Tensor, like: Tensor, context: Context) -> Noise:
        """z at ``steps`` ``[K]`` in the shape of ``like`` ``[K, B, ...]``."""
        module: Any = node.module
        blocks, signs = self.schedule.plan(steps, module.decay)
        distinct, place = blocks.unique_consecutive(return_inverse=True)
        key = Key("noise", node.name, context.sequence)
        ids = context.ids if self.per_sample else torch.zeros(1, dtype=torch.int64)
        z = context.draws.draw(self.law, key, distinct, ids, tuple(like.shape[2:]), like)
        return Noise(z.expand(-1, like.shape[1], *z.shape[2:]), tuple(place.tolist()), tuple(signs.tolist()))

    def draws(self, steps: range) -> int:
        """How many z a sample sees in ``steps``; none of its own where the batch shares them."""
        blocks, _ = self.schedule.plan(torch.tensor(steps), decay=0.0)
        return len(blocks.unique()) if self.per_sample else 0


laws: Registry[Law] = Registry("noise law")
laws.register("rademacher", Choice, lambda choice: Rademacher(), "+1 or -1: one bit a draw, lowest variance")
laws.register("gaussian", Choice, lambda choice: Gaussian(), "standard normal")
laws.register("sphere", Choice, lambda choice: Sphere(), "uniform on the sphere of radius sqrt(n)")

sites: Registry[Site] = Registry("noise position")
sites.register("after", Choice, lambda choice: After(), "on the activity: downstream sees spike + noise")
sites.register("before", Choice, lambda choice: Before(), "on the membrane: persists and leaks, signals stay binary")
sites.register("firing", Choice, lambda choice: Firing(), "on the firing decision alone, signals stay binary")


class CodeOptions(Choice):
    """Options of sign codes."""

    length: int = Field(4, ge=2, le=12, multiple_of=2, description="steps in a block that share one z")


schedules: Registry[Schedule] = Registry("noise schedule")
schedules.register("fresh", Choice, lambda choice: Fresh(), "new noise at every step")
schedules.register("pairs", Choice, lambda choice: Pairs(), "+z then -z: antithetic over two steps")
schedules.register("two-pass", Choice, lambda choice: TwoPass(), "+z and -z from the same state: two forward passes")
schedules.register(
    "codes", CodeOptions, lambda choice: Codes(choice.length), "blocks of one z with a balanced sign code"
)
schedules.register("hold", Choice, lambda choice: Hold(), "one z for the whole sequence")


class PerturbationOptions(Choice):
    """Options of injected noise."""

    alpha: float = Field(
        0.2, ge=0, description="noise strength, in units of a spike (or of the threshold, before the neuron)"
    )
    law: Annotated[SerializeAsAny[Choice], BeforeValidator(laws.parse)] = Field(
        laws.parse("rademacher"), description="distribution of the noise"
    )
    position: Annotated[SerializeAsAny[Choice], BeforeValidator(sites.parse)] = Field(
        sites.parse("after"), description="where the noise enters a neuron"
    )
    schedule: Annotated[SerializeAsAny[Choice], BeforeValidator(schedules.parse)] = Field(
        schedules.parse("pairs"), description="how the noise changes over time"
    )

    per_sample: bool = Field(True, description="draw noise for every sample, instead of once for the whole batch")
    traced: bool = Field(False, description="let the noise enter traces and deposits, not only what is sent")

    def perturbation(self) -> Perturbation:
        """The noise these options describe."""
        return Perturbation(
            laws.build(self.law),
            sites.build(self.position),
            schedules.build(self.schedule),
            self.alpha,
            self.per_sample,
            self.traced,
        )
