"""Seeded augmentation of images: what a sample becomes depends on (seed, epoch, id), never on its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Ordered

import torch
from torch import Tensor
from torch.nn.functional import pad

from onward.core.draws import Key, KeyedDraws, Uniform
from onward.core.errors import DataError
from onward.core.sequence import Frames, Sequence, Static
from onward.data.dataset import Batch


class Change(ABC):
    """One random change of images; all frames of a sample change alike."""

    name: str
    numbers: int

    @abstractmethod
    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Images ``[B, ..., H, W]`` changed by uniform numbers ``u`` ``[B, numbers]``."""


class PadCrop(Change):
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


class Flip(Change):
    """Left and right exchanged with probability 1/2."""

    name = "flip"
    numbers = 1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """See `Change.apply`."""
        chosen = (u[:, 0] < 0.5).view(-1, *[1] * (x.dim() - 1))
        return torch.where(chosen, x.flip(-1), x)


class Augmentation:
    """Changes applied one after the other to still images or frames: ``augment(batch, epoch)``.

    Raises `DataError` for inputs that are no images ``[..., C, H, W]``.

    >>> batch = Batch(Static(torch.rand(8, 3, 32, 32), steps=6), torch.zeros(8, dtype=torch.int64), torch.arange(8))
    >>> Augmentation([PadCrop(4), Flip()], seed=0)(batch, 0).x.features
    (3, 32, 32)
    """

    def __init__(self, changes: Ordered[Change], seed: int):
        self.changes, self.draws = tuple(changes), KeyedDraws(seed)

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """The batch with changed inputs."""
        images = _samples_first(batch.x)
        for change in self.changes:
            images = change.apply(images, self._numbers(change, epoch, batch.ids).to(images.device))
        x = Static(images, batch.x.steps) if isinstance(batch.x, Static) else Frames(images.transpose(0, 1))
        return batch._replace(x=x)

    def _numbers(self, change: Change, epoch: int, ids: Tensor) -> Tensor:
        key, like = Key("augment", change.name, epoch), torch.zeros((), dtype=torch.float64)
        return self.draws.draw(Uniform(), key, torch.zeros(1, dtype=torch.int64), ids, (change.numbers,), like)[0]


def _samples_first(x: Sequence) -> Tensor:
    """Images ``[B, C, H, W]`` or ``[B, T, C, H, W]``."""
    if len(x.features) != 3 or not isinstance(x, Static | Frames):
        raise DataError(
            f"crop and flip need images [channels, height, width]; this data set has samples of shape "
            f"{list(x.features)} in {type(x).__name__}; leave them out"
        )
    return x.x if isinstance(x, Static) else x.x.transpose(0, 1)
