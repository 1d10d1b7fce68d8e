"""The path of a digit across the sensor while the camera makes three saccades.

Each coordinate is a start and a sum of smooth steps,

    x(t) = x_0 + sum_k a_k Phi((t - c_k) / w_k),

with Phi the normal distribution function: a step of ``a`` pixels, half done at ``c`` milliseconds, of bell-shaped speed
and width ``w`` milliseconds. The numbers of `N_MNIST` were fitted to real recordings: see
docs/explanation/saccade-simulator.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.special import ndtr


class Move(NamedTuple):
    """One smooth step of one coordinate."""

    pixels: float
    centre_ms: float
    width_ms: float


class Course(NamedTuple):
    """The path of one coordinate: offset of the digit from the middle of the sensor, in pixels."""

    start: float
    moves: tuple[Move, ...]

    def at(self, ms: Tensor) -> Tensor:
        """The offset at times ``ms`` ``[S]`` float64 milliseconds: ``[S]``."""
        steps = [move.pixels * ndtr((ms - move.centre_ms) / move.width_ms) for move in self.moves]
        return self.start + torch.stack(steps).sum(0)


class Path(NamedTuple):
    """The path of a digit: x to the right, y down."""

    x: Course
    y: Course


N_MNIST = Path(
    Course(-2.63, (Move(1.49, 62.4, 9.1), Move(2.29, 131.1, 13.3), Move(1.65, 165.2, 12.9), Move(-5.16, 255.7, 17.9))),
    Course(-1.60, (Move(5.24, 43.8, 15.3), Move(-5.28, 152.4, 15.5), Move(-0.11, 276.1, 10.5))),
)
