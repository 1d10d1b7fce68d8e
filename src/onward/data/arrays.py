"""Data sets held in arrays: still samples or frames over time, checked once, converted batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Ordered
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset as TorchMapDataset

from onward.core.errors import DataError, ShapeError
from onward.core.sequence import Frames, Sequence, Static
from onward.data.dataset import Batch, Dataset, digest

MOST_CLASSES = 100_000
"""Labels beyond are taken for a mistake, such as identifiers, unless the number of classes is given."""


class Layout(ABC):
    """How the axes of one stored sample are read."""

    axes: str

    @abstractmethod
    def features(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one time step, from the shape of one stored sample."""

    @abstractmethod
    def steps(self, sample: tuple[int, ...]) -> int | None:
        """The natural number of time steps, from the shape of one stored sample."""

    @abstractmethod
    def sequence(self, x: Tensor, steps: int) -> Sequence:
        """Stacked samples ``[B, *sample]`` as a sequence of ``steps`` time steps."""


class StaticLayout(Layout):
    """``x[N, *features]``: each sample is one frame, shown at every time step."""

    axes = "[N, *features]"

    def features(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """See `Layout.features`."""
        return sample

    def steps(self, sample: tuple[int, ...]) -> int | None:
        """See `Layout.steps`."""
        return None

    def sequence(self, x: Tensor, steps: int) -> Sequence:
        """See `Layout.sequence`."""
        return Static(x, steps)


class FramesLayout(Layout):
    """``x[N, T, *features]``: each sample is T frames."""

    axes = "[N, T, *features]"

    def features(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """See `Layout.features`."""
        return sample[1:]

    def steps(self, sample: tuple[int, ...]) -> int | None:
        """See `Layout.steps`."""
        return sample[0]

    def sequence(self, x: Tensor, steps: int) -> Sequence:
        """See `Layout.sequence`; raises when the samples have another number of frames."""
        if x.shape[1] != steps:
            raise ShapeError(
                f"the samples have {x.shape[1]} frames each, but {steps} time steps were asked for; "
                f"set the number of time steps to {x.shape[1]}"
            )
        return Frames(x.transpose(0, 1))


class Scale:
    """``x -> (x - shift) / size`` in float32; ``shift`` and ``size`` broadcast over ``[B, *sample]``."""

    def __init__(self, shift: Tensor, size: Tensor):
        self.shift, self.gain = shift.float(), 1 / size.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Stored samples ``[B, *sample]`` as float32."""
        return (x.float() - self.shift).mul_(self.gain)


def unit_scale(x: Tensor) -> Scale:
    """Unsigned bytes to [0, 1]; every other dtype as it is."""
    return Scale(torch.tensor(0.0), torch.tensor(255.0 if x.dtype == torch.uint8 else 1.0))


def channel_scale(x: Tensor) -> Scale:
    """Zero mean and unit variance per channel over bytes ``x[N, C, H, W]``.

    Exact in float64, from a histogram of the 256 values of each channel: O(x) time, O(1) memory beyond a channel.
    """
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double()
    mean = counts @ values / counts.sum(1)
    spread = (counts @ values**2 / counts.sum(1) - mean**2).clamp_min(1e-12).sqrt()
    return Scale(mean.view(-1, 1, 1), spread.view(-1, 1, 1))


def fixed_scale(mean: Ordered[float], std: Ordered[float]) -> Scale:
    """Bytes ``[B, C, H, W]`` by the ``mean`` and ``std`` of each channel (or of all) as they are in [0, 1]."""
    shift, size = (255 * torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (mean, std))
    return Scale(shift, size)


class ArrayDataset(Dataset):
    """Samples and labels held in memory.

    ``x`` is ``[N, *features]``, or what ``layout`` says: uint8 (scaled to [0, 1] unless ``scale`` is given), or
    bool, any other integer or float (taken as it is, as float32). ``y`` is ``[N]``, integers from 0 to
    ``classes - 1``; ``classes`` is one more than the largest label unless given. Bytes stay bytes in memory;
    each batch is converted on its own.

    Raises `DataError` for NaN or infinity, mismatched lengths, no samples, and labels that are no class numbers.

    >>> data = ArrayDataset(np.zeros((5, 28, 28), np.uint8), [0, 1, 2, 1, 0])
    >>> len(data), data.classes, data.features
    (5, 3, (28, 28))
    """

    def __init__(
        self,
        x: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        *,
        classes: int | None = None,
        name: str = "arrays",
        layout: Layout | None = None,
        scale: Scale | None = None,
    ):
        self.layout = layout or StaticLayout()
        self.x, self.y = checked_inputs(x, self.layout, name), checked_labels(y, classes, name)
        if len(self.x) != len(self.y):
            raise DataError(f"{name}: x has {len(self.x)} samples but y has {len(self.y)} labels; expected as many")
        self.name = name
        self.classes = classes or counted_classes(int(self.y.max()), name)
        self.features = self.layout.features(tuple(self.x.shape[1:]))
        self.steps = self.layout.steps(tuple(self.x.shape[1:]))
        self.scale = scale or unit_scale(self.x)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`."""
        return Batch(self.layout.sequence(self.scale(self.x[ids]), steps), self.y[ids], ids)

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self.y

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Taken once, however many tasks are made of the samples."""
        return digest(self.x, self.y, self.layout.axes, self.scale.shift, self.scale.gain)


class TorchDataset(Dataset):
    """A map-style torch data set of (input, label) pairs, read item by item as batches need them."""

    def __init__(self, source: TorchMapDataset, *, classes: int, name: str, layout: Layout):
        self.source, self.classes, self.name, self.layout = source, classes, name, layout
        sample, _ = self._read([0])
        self.features = layout.features(tuple(sample.shape[1:]))
        self.steps = layout.steps(tuple(sample.shape[1:]))

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        items = [self.source[row] for row in rows]
        x = torch.stack([_tensor(item[0], self.name, "x") for item in items])
        y = checked_labels([int(item[1]) for item in items], self.classes, self.name)
        return checked_inputs(x, self.layout, self.name), y

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`; raises `DataError` where an item cannot be used."""
        x, y = self._read(ids.tolist())
        return Batch(self.layout.sequence(unit_scale(x)(x), steps), y, ids)


def from_torch(
    dataset: TorchMapDataset, *, classes: int | None = None, name: str = "dataset", layout: Layout | None = None
) -> Dataset:
    """Any map-style torch data set whose items are (input, label) as a `Dataset`.

    Inputs are tensors or arrays of one shape, read as `ArrayDataset` reads ``x``. Without ``classes`` every item
    is read once to find the largest label.

    >>> from torch.utils.data import TensorDataset
    >>> from_torch(TensorDataset(torch.rand(6, 3), torch.arange(6))).classes
    6
    """
    size = len(dataset)  # type: ignore[arg-type]
    if not size:
        raise DataError(f"{name}: the data set is empty; at least one sample is needed")
    if classes is None:
        classes = int(checked_labels([int(dataset[row][1]) for row in range(size)], None, name).max()) + 1
    return TorchDataset(dataset, classes=classes, name=name, layout=layout or StaticLayout())


def checked_inputs(x: ArrayLike | Tensor, layout: Layout, name: str) -> Tensor:
    """``x`` as a tensor of a usable dtype and rank, every number finite; otherwise `DataError`."""
    tensor = _tensor(x, name, "x")
    if tensor.is_complex():
        raise DataError(f"{name}: x is complex ({tensor.dtype}); expected real numbers")
    least = layout.axes.count(",") + 1
    if tensor.dim() < least or not tensor.numel():
        raise DataError(f"{name}: x has shape {list(tensor.shape)}; expected {layout.axes}, not empty")
    if tensor.is_floating_point():
        tensor = tensor.float()
        bad = (~tensor.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise DataError(
                f"{name}: x holds NaN, infinity or a number beyond float32 in {len(bad)} of {len(tensor)} "
                f"samples, first in sample {int(bad[0])}; remove or replace them"
            )
    return tensor


def checked_labels(y: ArrayLike | Tensor, classes: int | None, name: str) -> Tensor:
    """``y`` as int64 class numbers ``[N]`` from 0 up; otherwise `DataError`."""
    tensor = _tensor(y, name, "y")
    if tensor.dim() != 1 or not len(tensor):
        raise DataError(f"{name}: y has shape {list(tensor.shape)}; expected [N], one class number for each sample")
    if tensor.is_floating_point() or tensor.is_complex():
        raise DataError(f"{name}: y has dtype {str(tensor.dtype)[6:]}; expected integers, the class numbers from 0")
    tensor = tensor.to(torch.int64)
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0:
        raise DataError(f"{name}: y holds the label {low}; expected class numbers from 0")
    if classes is not None and high >= classes:
        raise DataError(f"{name}: y holds the label {high}, but there are {classes} classes (0 to {classes - 1})")
    return tensor


def counted_classes(largest: int, name: str) -> int:
    """How many classes labels up to ``largest`` make; `DataError` where they are hardly class numbers."""
    if largest >= MOST_CLASSES:
        raise DataError(
            f"{name}: the largest label is {largest}, which would make {largest + 1:,} classes; number the classes "
            "from 0, or say how many there are (--data.classes N)"
        )
    return largest + 1


def _tensor(values: ArrayLike | Tensor, name: str, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise DataError(f"{name}: {what} has dtype {array.dtype}; expected numbers")
    if array.dtype.kind == "u" and array.max(initial=0) > np.iinfo(np.int64).max:
        raise DataError(f"{name}: {what} holds {array.max()}; expected numbers below 2^63")
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity, which is refused later
        return torch.from_numpy(np.require(array, _torch_dtype(array.dtype), requirements=["C", "W"]))


def _torch_dtype(dtype: np.dtype) -> np.dtype:
    """The native dtype that keeps the values and that torch computes with."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "c":
        return np.dtype(np.complex64)
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")
