"""Seeded augmentation: what a sample becomes depends on (seed, epoch, id), never on its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Ordered
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from onward.core.draws import Key, KeyedDraws, Uniform
from onward.core.errors import DataError
from onward.core.sequence import Frames, Sequence, Static
from onward.data.dataset import Batch
from onward.data.raw import Raw

T = TypeVar("T")


class Change(ABC, Generic[T]):
    """One random change of samples: of images, all frames of which change alike, or of what `Raw` holds."""

    name: str
    numbers: int

    @abstractmethod
    def apply(self, x: T, u: Tensor) -> T:
        """B samples, images as ``[B, ..., H, W]``, changed by uniform numbers ``u`` ``[B, numbers]``."""


class PadCrop(Change[Tensor]):
    """Zeros of width ``padding`` around the image, then a window of the old size at a random place."""

    name = "pad-crop"
    numbers = 2

    def __init__(self, padding: int = 4):
        if padding < 1:
            raise DataError(f"a padding of {padding} pixels was given; at least 1 is needed")
        self.padding = padding

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """See `Change.apply`."""
        height, width = x.shape[-2:]
        padded = pad(x.flatten(1, -3), [self.padding] * 4)
        shift = (u * (2 * self.padding + 1)).long()
        rows = shift[:, :1] + torch.arange(height, device=x.device)
        columns = shift[:, 1:] + torch.arange(width, device=x.device)
        cells = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
        cells = cells.flatten(1)[:, None].expand(-1, padded.shape[1], -1)
        return padded.flatten(2).gather(2, cells).view(x.shape)


class Flip(Change[Tensor]):
    """Left and right exchanged with probability 1/2."""

    name = "flip"
    numbers = 1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """See `Change.apply`."""
        chosen = (u[:, 0] < 0.5).view(-1, *[1] * (x.dim() - 1))
        return torch.where(chosen, x.flip(-1), x)


class Cutout(Change[Tensor]):
    """Zeros in a square of ``side`` pixels around a random pixel, cut off at the border.

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """

    name = "cutout"
    numbers = 2

    def __init__(self, side: int = 8):
        if side < 1:
            raise DataError(f"a square of {side} pixels was given to cut out; at least 1 is needed")
        self.side = side

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """See `Change.apply`."""
        rows, columns = (self._cut(along, length) for along, length in zip(u.T, x.shape[-2:], strict=True))
        square = rows[:, :, None] & columns[:, None, :]
        return x.masked_fill(square.view(len(x), *[1] * (x.dim() - 3), *x.shape[-2:]), 0)

    def _cut(self, u: Tensor, length: int) -> Tensor:
        """Which of ``length`` places a square covers, ``[B, length]``."""
        first = (u * length).long()[:, None] - self.side // 2
        place = torch.arange(length, device=u.device)
        return (place >= first) & (place < first + self.side)


class Augmentation:
    """Changes applied one after the other: ``augment(batch, epoch)``.

    ``changes`` are of still images or frames, ``before`` of samples in the form in which they are stored.
    Raises `DataError` for inputs that are no images ``[..., C, H, W]``, or none in that form.

    >>> batch = Batch(Static(torch.rand(8, 3, 32, 32), steps=6), torch.zeros(8, dtype=torch.int64), torch.arange(8))
    >>> Augmentation([PadCrop(4), Flip()], seed=0)(batch, 0).x.features
    (3, 32, 32)
    """

    def __init__(self, changes: Ordered[Change[Tensor]], seed: int, before: Ordered[Change[Any]] = ()):
        self.changes, self.before, self.draws = tuple(changes), tuple(before), KeyedDraws(seed)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """The batch with changed inputs."""
        x = self._made(batch, epoch) if self.before else batch.x
        return batch._replace(x=self._shown(x, batch.ids, epoch) if self.changes else x)

    def _made(self, batch: Batch, epoch: int) -> Sequence:
        if not isinstance(batch.x, Raw):
            raise DataError(
                f"{' and '.join(change.name for change in self.before)} change samples as they are stored, and these "
                f"are {type(batch.x).__name__} already; leave them out"
            )
        samples = batch.x.samples
        for change in self.before:
            samples = change.apply(samples, self._numbers(change, epoch, batch.ids))
        return batch.x.make(samples)

    def _shown(self, x: Sequence, ids: Tensor, epoch: int) -> Sequence:
        images = _samples_first(x)
        for change in self.changes:
            images = change.apply(images, self._numbers(change, epoch, ids).to(images.device))
        return Static(images, x.steps) if isinstance(x, Static) else Frames(images.transpose(0, 1))

    def _numbers(self, change: Change[Any], epoch: int, ids: Tensor) -> Tensor:
        key, like = Key("augment", change.name, epoch), torch.zeros((), dtype=torch.float64)
        return self.draws.draw(Uniform(), key, torch.zeros(1, dtype=torch.int64), ids, (change.numbers,), like)[0]


def _samples_first(x: Sequence) -> Tensor:
    """Images ``[B, C, H, W]`` or ``[B, T, C, H, W]``."""
    if len(x.features) != 3 or not isinstance(x, Static | Frames):
        raise DataError(
            f"crop, flip and cutout need images [channels, height, width]; this data set has samples of shape "
            f"{list(x.features)} in {type(x).__name__}; leave them out"
        )
    return x.x if isinstance(x, Static) else x.x.transpose(0, 1)
