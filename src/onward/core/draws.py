"""Randomness that is keyed, not sequential.

Every draw is a pure function of (seed, purpose, node, sequence, step, sample id). Hence chunking, splitting a
batch over processes, resuming a run, or evaluating nodes in another order all see the same numbers.

    key(step, id) = mix(mix(base + step * A) + id * C),   word_i = mix(key + i * G)

``mix`` is the splitmix64 finaliser (Steele, Lea & Flood 2014), written in wrapping 64-bit integers, so it runs
on any device. Maps are numbered channels last, as they lie in
memory. Cost: about ten integer operations a word; a Rademacher draw needs one bit, a Gaussian 32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from onward.core.errors import ConfigError, ShapeError
from onward.kernels.signs import GOLDEN, mix, mixed, normals, signed, signs, uniforms

_STEP = 0xD1342543DE82EF95
_SAMPLE = 0xAF251AF3B0F025B5


class Law(ABC):
    """A distribution of independent numbers; ``sample`` turns keys ``[R]`` into numbers ``[R, n]``."""

    @abstractmethod
    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """``n`` numbers for each key."""


class Rademacher(Law):
    """+1 or -1 with probability 1/2: one hashed bit a number, variance 1, the lowest-variance perturbation."""

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return signs(keys, n, dtype)


class Gaussian(Law):
    """N(0, 1) by the Box-Muller transform."""

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return normals(keys, n, dtype)


class Sphere(Law):
    """Uniform on the sphere of radius sqrt(n), so that E[z z^T] = I as for the other laws."""

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        z = Gaussian().sample(keys, n, torch.float64)
        return (z * (n**0.5 / z.norm(dim=1, keepdim=True))).to(dtype)


class Uniform(Law):
    """Uniform on (0, 1)."""

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return uniforms(keys, n).to(dtype)


class Keep(Law):
    """Dropout's factor: 0 with probability p, else 1 / (1 - p)."""

    def __init__(self, p: float):
        if not 0 <= p < 1:
            raise ConfigError(f"a dropout probability of {p} was given; expected 0 <= p < 1")
        self.p = p

    def sample(self, keys: Tensor, n: int, dtype: torch.dtype) -> Tensor:
        """See `Law.sample`."""
        return ((uniforms(keys, n) >= self.p) / (1 - self.p)).to(dtype)


class Key(NamedTuple):
    """What a draw is for: ``purpose`` and ``node`` are names, ``sequence`` counts mini-batches."""

    purpose: str
    node: str
    sequence: int


class Draws(ABC):
    """The one source of randomness of a run."""

    @abstractmethod
    def draw(self, law: Law, key: Key, steps: Tensor, ids: Tensor, size: tuple[int, ...], like: Tensor) -> Tensor:
        """Numbers ``[len(steps), len(ids), *size]`` in the dtype and on the device of ``like``."""

    def subset(self, key: Key, total: int, count: int) -> list[int]:
        """``count`` of ``range(total)``, drawn uniformly without replacement, the same for every sample."""
        scores = self.draw(
            Uniform(),
            key,
            torch.arange(total),
            torch.zeros(1, dtype=torch.int64),
            (),
            torch.zeros((), dtype=torch.float64),
        )
        return scores.flatten().argsort()[:count].tolist()


class KeyedDraws(Draws):
    """Counter-based draws from one seed.

    >>> draws, ids = KeyedDraws(0), torch.arange(4)
    >>> a = draws.draw(Gaussian(), Key("noise", "lif1", 7), torch.arange(6), ids, (10,), torch.zeros(()))
    >>> b = draws.draw(Gaussian(), Key("noise", "lif1", 7), torch.arange(2, 4), ids[1:], (10,), torch.zeros(()))
    >>> bool((a[2:4, 1:] == b).all())
    True
    """

    def __init__(self, seed: int):
        self.seed = seed

    def draw(self, law: Law, key: Key, steps: Tensor, ids: Tensor, size: tuple[int, ...], like: Tensor) -> Tensor:
        """See `Draws.draw`."""
        numbers = law.sample(self._keys(key, steps, ids, like.device), prod(size), like.dtype)
        if len(size) < 2:
            return numbers.view(len(steps), len(ids), *size)
        return numbers.view(len(steps), len(ids), *size[1:], size[0]).movedim(-1, 2)

    def _keys(self, key: Key, steps: Tensor, ids: Tensor, device: torch.device) -> Tensor:
        base = self._base(key)
        if steps.numel() == ids.numel() == 1 and steps.device.type == ids.device.type == "cpu":
            per_step = mixed(base + int(steps) * _STEP)
            return torch.tensor([signed(mixed(per_step + int(ids) * _SAMPLE))], device=device)
        steps, ids = steps.to(device), ids.to(device)
        per_step = mix(base + steps * signed(_STEP))
        return mix(per_step[:, None] + ids * signed(_SAMPLE)).flatten()

    def _base(self, key: Key) -> int:
        label = crc32(f"{key.purpose}/{key.node}".encode())
        return signed(mixed(mixed(self.seed * GOLDEN + label) + key.sequence * _STEP + 1))


class RecordedDraws(Draws):
    """Draws read from tensors: ``recorded[purpose, node]`` is ``[T, B, *size]`` (``[1, B, *size]`` for masks)."""

    def __init__(self, recorded: Mapping[tuple[str, str], Tensor]):
        self.recorded = recorded

    def draw(self, law: Law, key: Key, steps: Tensor, ids: Tensor, size: tuple[int, ...], like: Tensor) -> Tensor:
        """See `Draws.draw`; raises when nothing, or another shape, was recorded."""
        if (key.purpose, key.node) not in self.recorded:
            known = ", ".join(f"{p}/{n}" for p, n in self.recorded)
            raise ConfigError(f"no draws were recorded for {key.purpose}/{key.node}; recorded: {known or 'none'}")
        values = self.recorded[key.purpose, key.node].to(like)[steps]
        if values.shape[1:] != (len(ids), *size):
            raise ShapeError(
                f"recorded draws for {key.purpose}/{key.node} have shape {list(values.shape)}; "
                f"expected {[len(steps), len(ids), *size]}"
            )
        return values
