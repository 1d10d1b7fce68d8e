"""Pictures shown row by row: a task whose evidence is spread over many steps, for networks that remember."""

from __future__ import annotations

from torch import Tensor

from onward.core.errors import DataError, ShapeError
from onward.core.sequence import Frames
from onward.data.dataset import Batch, Dataset


class Rows(Dataset):
    """``dataset`` at ``frames`` time steps, each of which becomes as many as it has rows.

    Samples ``[F, C, H, W]`` become ``[F H, C, W]``. Raises `DataError` where samples have no rows.
    """

    def __init__(self, dataset: Dataset, frames: int):
        if len(dataset.features) != 3:
            raise DataError(
                f"{dataset.name} has samples of shape {list(dataset.features)}, and data.rows shows pictures "
                "[channels, height, width] row by row; leave it out"
            )
        channels, height, width = dataset.features
        self.dataset, self.frames, self.name, self.classes = dataset, frames, dataset.name, dataset.classes
        self.features, self.steps = (channels, width), frames * height

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, ids: Tensor, steps: int) -> Batch:
        """See `Dataset.batch`; raises `ShapeError` for any other number of steps than there are rows."""
        if steps != self.steps:
            raise ShapeError(
                f"{steps} time steps were asked for, and the rows of {self.frames} frames of {self.name} are "
                f"{self.steps}; leave out train.steps, or set it to that"
            )
        batch = self.dataset.batch(ids, self.frames)
        pictures = batch.x.chunk(0, self.frames)
        return batch._replace(x=Frames(pictures.permute(0, 3, 1, 2, 4).flatten(0, 1)))

    def labels(self) -> Tensor:
        """See `Dataset.labels`."""
        return self.dataset.labels()

    def fingerprint(self, steps: int) -> str:
        """See `Dataset.fingerprint`: that of the pictures."""
        return self.dataset.fingerprint(self.frames)
