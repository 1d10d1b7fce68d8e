"""Which classes are taken for which."""

from __future__ import annotations

import torch
from torch import Tensor

from onward.core.group import ALONE, Group

MOST_CLASSES = 128
"""Beyond these, the table is larger than what anybody looks at, and is not kept."""


class Confusion:
    """Counts samples by label (row) and prediction (column).

    >>> confusion = Confusion(2)
    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    >>> confusion.whole()
    [[1, 0], [1, 1]]
    """

    def __init__(self, classes: int):
        self.classes, self._counts = classes, torch.zeros(classes * classes, dtype=torch.int64)

    def __call__(self, labels: Tensor, predicted: Tensor) -> None:
        """Adds a mini-batch."""
        if self.classes <= MOST_CLASSES:
            self._counts += (labels * self.classes + predicted).cpu().bincount(minlength=len(self._counts))

    def whole(self, group: Group = ALONE) -> list[list[int]]:
        """The counts over all processes; empty for too many classes."""
        group.sum_([self._counts])
        return self._counts.view(self.classes, -1).tolist() if self.classes <= MOST_CLASSES else []
