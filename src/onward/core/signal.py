"""What travels between nodes, and what survives from one chunk of time to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from onward.core.draws import Draws
from onward.core.group import Share
from onward.core.neuron import State
from onward.kernels.rows import SparseRows


@dataclass(frozen=True)
class Noise:
    """z[k] = signs[k] * blocks[place[k]] over the K steps of a chunk; ``blocks`` is ``[N, B, ...]``, N <= K.

    Steps that share a block differ in sign alone, so that what is linear in z is worked out once a block.
    """

    blocks: Tensor
    place: tuple[int, ...]
    signs: tuple[int, ...]

    def dense(self) -> Tensor:
        """z ``[K, B, ...]``."""
        return torch.stack([sign * self.blocks[n] for n, sign in zip(self.place, self.signs, strict=True)])

    def negated(self) -> Noise:
        """-z."""
        return Noise(self.blocks, self.place, tuple(-sign for sign in self.signs))

    def through(self, linear: Callable[[Tensor], Tensor]) -> Noise:
        """``linear`` applied to z."""
        return Noise(linear(self.blocks), self.place, self.signs)

    def added_to(self, x: Tensor, strength: float) -> Tensor:
        """x + strength z; without a graph, one pass a step."""
        if x.requires_grad and torch.is_grad_enabled():
            return torch.add(x, self.dense(), alpha=strength)
        out = torch.empty_like(x)
        for k, (n, sign) in enumerate(zip(self.place, self.signs, strict=True)):
            torch.add(x[k], self.blocks[n], alpha=sign * strength, out=out[k])
        return out

    def gathered(self, o: Tensor) -> Tensor:
        """The signed sum o' of ``o`` ``[K, B, m]`` over each block: sum_k z[k] o[k]^T = sum_n blocks[n] o'[n]^T."""
        if self.place == tuple(range(len(o))) and all(sign == 1 for sign in self.signs):
            return o
        signed = o * o.new_tensor(self.signs).view(-1, *[1] * (o.dim() - 1))
        sums = o.new_zeros(len(self.blocks), *o.shape[1:])
        return sums.index_add_(0, torch.tensor(self.place, device=o.device), signed)


@dataclass(frozen=True)
class Perturbed:
    """The chunk clean + strength z, kept as its terms until somebody needs the sum."""

    clean: Tensor
    noise: Noise
    strength: float

    @property
    def shape(self) -> torch.Size:
        """``[K, B, ...]``."""
        return self.clean.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the sum."""
        return self.clean.dtype

    @cached_property
    def sum(self) -> Tensor:
        """The sum itself."""
        return self.noise.added_to(self.clean, self.strength)

    def dense(self) -> Tensor:
        """The sum itself."""
        return self.sum


ENDLESS = 2**62
"""The number of steps of a stream that has no end."""

Chunk = Tensor | SparseRows | Perturbed
"""What a node sends: a tensor ``[K, B, ...]``, or something that can become one (`dense`)."""


class Densifies(Protocol):
    """What can become a tensor ``[K, B, ...]``."""

    def dense(self) -> Tensor:
        """The tensor."""
        ...


def dense(chunk: Tensor | Densifies) -> Tensor:
    """The chunk as a tensor ``[K, B, ...]``."""
    return chunk if isinstance(chunk, Tensor) else chunk.dense()


class Signal(NamedTuple):
    """``sent`` is what downstream sees; ``clean`` the same without injected noise, for traces and deposits.

    Both ``[K, B, ...]``; without noise they are the same object and nothing is paid.
    """

    sent: Chunk
    clean: Tensor | SparseRows

    def map(self, f: Callable[[Tensor], Tensor]) -> Signal:
        """``f`` on both, once if they are the same."""
        sent = f(dense(self.sent))
        return Signal(sent, sent if self.clean is self.sent else f(dense(self.clean)))

    def through(self, linear: Callable[[Tensor], Tensor]) -> Signal:
        """As `map`, for a map of rows that is linear: noise stays apart."""
        if not isinstance(self.sent, Perturbed) or self.sent.clean is not self.clean:
            return self.map(linear)
        clean = linear(self.sent.clean)
        return Signal(Perturbed(clean, self.sent.noise.through(linear), self.sent.strength), clean)

    def plus(self, other: Signal) -> Signal:
        """The sum of two signals."""
        sent = dense(self.sent) + dense(other.sent)
        noiseless = self.clean is self.sent and other.clean is other.sent
        return Signal(sent, sent if noiseless else dense(self.clean) + dense(other.clean))

    def detached(self) -> Signal:
        """The signal outside any graph."""
        return self.map(Tensor.detach)


class Still(NamedTuple):
    """The drive ``[1, B, ...]`` of a ``frame`` that stands still, made with ``params``.

    The frame is held, so that no other can take its place in memory; ``version`` tells when it is overwritten.
    """

    params: Any
    frame: Tensor
    version: int
    drive: Tensor

    def serves(self, params: Any, frame: Tensor) -> bool:
        """Whether this is the drive of that frame with those parameters."""
        same = self.frame.data_ptr() == frame.data_ptr() and self.version == frame._version
        return same and self.params is params


@dataclass
class Carry:
    """Everything that lives as long as one sequence; memory O(1) in its length.

    ``states`` membranes by neuron; ``delays`` what waits in delay lines; ``masks`` dropout masks;
    ``still`` drives of input that stands still; ``traces`` eligibility traces, ``sums`` running sums, ``queues`` late
    errors by owner; ``step`` the next time step.
    """

    states: dict[int, State] = field(default_factory=dict)
    delays: dict[int, Signal] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    still: dict[int, Still] = field(default_factory=dict)
    traces: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    queues: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def copy(self) -> Carry:
        """A branch: whatever replaces an entry in one of the two leaves the other alone."""
        return Carry(
            dict(self.states),
            dict(self.delays),
            dict(self.masks),
            dict(self.still),
            dict(self.traces),
            dict(self.sums),
            dict(self.queues),
            self.step,
        )


@dataclass(frozen=True)
class Context:
    """What a mini-batch is called: its draws are keyed by ``sequence`` (a counter) and ``ids`` ``[B]``.

    ``steps`` is T, the length of the sequence; ``share`` what part of the batch this process holds; ``watch`` sees the
    record of every chunk.
    """

    draws: Draws
    ids: Tensor
    sequence: int
    steps: int
    share: Share
    watch: Callable[[Any], None] | None = None

    @property
    def samples(self) -> int:
        """The size of the whole batch, over all processes."""
        return self.share.samples
