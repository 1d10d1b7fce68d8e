"""Online pseudo-zeroth-order credit (Xiao et al. 2024): direct feedback through an estimated mean Jacobian.

Noise z^l perturbs every hidden neuron in one forward pass, o is the noisy readout, e = dL/do:

    g^l[t] = M^l e[t]
    M^l   <- rho^T M^l + (1 - rho) sum_t rho^(T - t) z^l[t] o[t]^T c / B        once per sequence

Since E[z o^T] / alpha is the Jacobian's transpose, M^l becomes the data average of E[J]^T: first order for the loss,
zeroth order for the network. c is 1, or 1/alpha; M ``[n_l, m]`` (or ``[channels, m]`` shared over positions). No
back-propagation through space or time, no weight transport, memory O(n m) a layer and O(1) in T. Open choices of
the paper are options; defaults follow section 14 of our method notes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Size, Tensor

from onward.core.draws import Draws
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.rule import Holds
from onward.core.signal import Carry, Context
from onward.core.sink import Sink, Use
from onward.core.trace import Presynaptic
from onward.credit.averages import Averages
from onward.credit.base import Credit, Head, Port, spatials
from onward.credit.baseline import BaselineChoice, baselines
from onward.credit.dfa import slot
from onward.credit.noisy import Noisy
from onward.credit.perturbation import Perturbation, PerturbationOptions
from onward.kernels.feedback import Feedback, correlate

DENSE_UNITS = 1_000_000
TRUSTED = 0.2
"""Split-half reliability below which a feedback matrix is called mostly noise."""


class OPZOOptions(PerturbationOptions):
    """Options of OPZO."""

    rho: float = Field(0.999, ge=0, le=1, description="momentum of the feedback matrices, per step")
    per: Literal["sequence", "step"] = Field(
        "sequence", description="update M once a sequence, or at every step (chunks of 1)"
    )
    reads: Literal["before", "after"] = Field(
        "before", description="credit reads M before or after its update from the same step (per = step)"
    )
    inverse_alpha: bool = Field(
        False, description="divide M by alpha, so that it estimates the Jacobian itself (for SGD)"
    )
    correct_start: bool = Field(False, description="divide M by 1 - rho^k after k steps, undoing its start at zero")
    warmup: int = Field(0, ge=0, description="sequences during which M learns and the weights wait")
    freeze_after: int | None = Field(None, ge=0, description="sequences after which M stays as it is")
    sharing: Literal["auto", "dense", "channel"] = Field(
        "auto", description="one row of M a neuron, or a channel; auto shares above a million neurons a layer"
    )
    baseline: BaselineChoice = Field(
        baselines.parse("none"),
        description="what is subtracted from the readout before it meets the noise (ours)",
    )
    innovation: bool = Field(
        False, description="subtract what M says that the noise did, too: M learns from what it did not expect (ours)"
    )


class OPZO(Noisy):
    """Momentum feedback connections; see the module's docstring."""

    def __init__(self, perturbation: Perturbation, options: OPZOOptions):
        super().__init__(perturbation)
        if options.inverse_alpha and perturbation.alpha == 0:
            raise ConfigError(
                "inverse_alpha divides M by alpha, and alpha = 0 was given; use a positive noise strength"
            )
        if options.reads == "after" and options.per != "step":
            raise ConfigError("reads = 'after' was given, and M is updated once a sequence; add per = 'step'")
        self.options, self.baseline = options, baselines.build(options.baseline)
        self.observes_first = options.reads == "after"
        self.max_chunk = 1 if options.per == "step" or perturbation.schedule.mirrored else None
        self._maps: list[tuple[Node, Port, bool]] = []
        self._averages = Averages(self, options.rho)
        self._read: dict[str, Tensor] = {}
        self.register_buffer("sequences", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """M starts at zero, as two halves (one per half of every batch) whose mean it is."""
        super().allocate(net, sizes, ports, draws)
        dtype = torch.promote_types(next(net.parameters()).dtype, torch.float32)
        self._maps = []
        self._averages.clear()
        self.get_buffer("sequences").zero_()
        self.get_buffer("steps").zero_()
        for port in ports:
            self.baseline.keep(port, self._averages, dtype)
            for node in port.below:
                shared = self._shares(sizes[node.index])
                rows = sizes[node.index][0] if shared else sizes[node.index].numel()
                self._maps.append((node, port, shared))
                halves = torch.zeros(2, port.width, rows, dtype=dtype).transpose(1, 2)  # rows lie as kernels read them
                self._averages.keep(slot(node, port), halves)

    def matrix(self, node: Node, port: Port) -> Tensor:
        """M ``[n, m]`` as `credit` reads it."""
        name = slot(node, port)
        if name not in self._read:
            first, second = self.get_buffer(name)
            m = (first + second).div_(2)
            self._read[name] = m / (1 - self.options.rho ** max(1, int(self.steps))) if self._corrects else m
        return self._read[name]

    def begin(self, context: Context, sink: Sink) -> None:
        """Counts the sequence; M is read afresh."""
        self.sequences += 1
        self._read = {}

    def teaches(self) -> bool:
        """See `Spatial.teaches`."""
        return self.options.warmup == 0 or int(self.sequences) > self.options.warmup

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """g = M e."""
        found: dict[int, Credit] = {}
        for node, port, shared in self._maps:
            if port is head.port:
                g, like = Feedback(head.error, self.matrix(node, port)), record.firings[node.index].out
                found[node.index] = _spread(g.dense(like[..., 0, 0]), like) if shared else g
        return found

    def holds(self, net: Network, steps: range) -> Holds:
        """See `Noisy.holds`; credit stays factored, M gathers sums, and mirrored noise takes a second forward pass."""
        sums = self._averages.nbytes
        own, passes = super().holds(net, steps), 2 if self.perturbation.schedule.mirrored else 1
        return Holds(own.noise, own.sent, own.drives, sums=sums, read=sums // 2, passes=passes)

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Nothing is learned from errors."""

    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Adds sum_t rho^(T - t) z[t] o[t]^T / B of the chunk to the sequence's sum, by halves of the batch."""
        if self.frozen:
            return
        outs, samples = self._outputs(heads, again), record.context.samples
        self._averages.count(carry, len(record.out))
        outs = {
            head.port.key: self.baseline.centred(head, outs[head.port.key], self._averages, carry, samples)
            for head in heads
        }
        outs = self._unexpected(record, outs) if self.options.innovation else outs
        for node, port, shared in self._maps:
            noise, o = record.noise[node.index], self._averages.aged(outs[port.key]) * self._factor
            z = noise.blocks.flatten(3).mean(3) if shared else noise.blocks
            amount = _by_halves(z, noise.gathered(o), record.context)
            if self.options.innovation:
                amount = amount + self._averages[slot(node, port)] * self._stays(record.context, o)
            self._averages.gather(carry, slot(node, port), amount, len(o))
        if self.options.per == "step":
            record.context.share.group.sum_(self._averages.gathered(carry))
            self._absorb(carry, lambda amount, use: use(amount))

    def finish(self, carry: Carry, sink: Sink) -> None:
        """See `Spatial.finish`."""
        self._absorb(carry, sink.total)

    def direct_feedback(self, port: Port) -> dict[int, Tensor]:
        """See `Spatial.direct_feedback`."""
        return {node.index: self.matrix(node, to) for node, to, _ in self._maps if to is port}

    def reliability(self) -> dict[str, float]:
        """Split-half reliability of each M: how alike the two halves are, stepped up to the whole (Spearman-Brown)."""
        found = {}
        for node, port, _ in self._maps:
            a, b = self.get_buffer(slot(node, port)).flatten(1).double()
            r = float(torch.corrcoef(torch.stack([a, b]))[0, 1]) if a.any() and b.any() else 0.0
            found[f"{node.name}" if len({p.key for _, p, _ in self._maps}) == 1 else f"{node.name}<{port.key}"] = (
                2 * r / (1 + r) if r > 0 else 0.0
            )
        return found

    def metrics(self) -> dict[str, float]:
        """Reliability of the feedback matrices, by layer; unknown where all samples share their noise."""
        if not self.perturbation.per_sample:
            return {}
        return {f"reliability/{name}": value for name, value in self.reliability().items()}

    def remarks(self) -> list[str]:
        """Names the layers whose M is mostly noise, once it had time to settle."""
        if not self.perturbation.per_sample or self.options.rho >= 1 or int(self.steps) * (1 - self.options.rho) < 3:
            return []
        return [
            f"the feedback matrix of layer {name} is mostly noise (split-half reliability {value:.2f}): "
            "raise rho or the batch size"
            for name, value in self.reliability().items()
            if value < TRUSTED
        ]

    @property
    def _corrects(self) -> bool:
        return self.options.correct_start and self.options.rho < 1

    @property
    def _factor(self) -> float:
        """c."""
        return 1 / self.perturbation.alpha if self.options.inverse_alpha else 1.0

    @property
    def frozen(self) -> bool:
        """Whether M stays as it is."""
        after = self.options.freeze_after
        return after is not None and int(self.sequences) > after

    def _shares(self, size: Size) -> bool:
        large = self.options.sharing == "auto" and size.numel() > DENSE_UNITS
        return len(size) > 1 and (large or self.options.sharing == "channel")

    def _outputs(self, heads: list[Head], again: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What meets the noise at each port: the readout, or its central difference."""
        outs = {head.port.key: head.out for head in heads}
        if not self.perturbation.schedule.mirrored:
            return outs
        self.sign = -1
        try:
            mirror = again()
        finally:
            self.sign = 1
        return {key: (out - mirror[key]) / 2 for key, out in outs.items()}

    def _unexpected(self, record: Record, outs: dict[str, Tensor]) -> dict[str, Tensor]:
        """o - sum over layers of alpha M^T z: what M, as it was before the sequence, does not say of the noise.

        Each half of the batch by its own half of M, so that both stay independent of each other.
        """
        left = dict(outs)
        half = _half(record.context)
        for node, port, shared in self._maps:
            first, second = self._averages[slot(node, port)].to(outs[port.key]) / self._factor
            z = record.noise[node.index].dense().flatten(3 if shared else 2)
            z = z.sum(3) if shared else z
            said = torch.cat([z[:, :half] @ first, z[:, half:] @ second], 1)
            left[port.key] = left[port.key] - said
        return left

    def _stays(self, context: Context, like: Tensor) -> Tensor:
        """What M itself weighs in this process's part of a chunk's sum: sum_t rho^(T - t), so that it stays."""
        return self._averages.aged(torch.ones_like(like[:, 0, 0])).sum() * len(context.ids) / context.samples

    def _absorb(self, carry: Carry, total: Callable[[Tensor, Use], object]) -> None:
        """Moves M towards what was gathered; it is read afresh."""
        self.steps += self._averages.absorb(carry, total)
        self._read = {}


def _by_halves(z: Tensor, o: Tensor, context: Context) -> Tensor:
    """sum z o^T over time and each half of the batch ``[2, n, m]``, scaled so that their mean is sum / B.

    The sample that an odd batch has over goes to the halves in turn. Of a batch that several processes share, each
    sums what it holds of either half.
    """
    return correlate(z.to(o), o * (2 / context.samples), _half(context))


def _half(context: Context) -> int:
    """How many of the samples that this process holds are in the first half of the batch."""
    samples, odd = context.samples, (context.sequence + 1) % 2
    half = (samples + 1 - odd) // 2 - context.share.first
    return min(max(half, 0), len(context.ids))


def _spread(g: Tensor, like: Tensor) -> Tensor:
    """A channel's credit ``[K, B, C]`` at each of its positions."""
    return g.view(*g.shape, *[1] * (like.dim() - 3)).expand_as(like)


spatials.register(
    "opzo",
    OPZOOptions,
    lambda choice: OPZO(choice.perturbation(), choice),
    "direct feedback through the mean Jacobian, estimated from injected noise",
    facts={
        "paper": "Xiao et al. 2024 (ICLR 2026)",
        "published": "core equations, laws, positions, antithetic steps, results",
        "inferred": "rho, alpha, initialisation, one update of M a sequence, M for convolutions",
    },
)
