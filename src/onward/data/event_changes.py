"""Seeded changes of event recordings before they are binned: events that are lost, and recordings that are shifted.

The durations stay as they were, so that what is left falls into the same time steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from onward.core.draws import Uniform
from onward.core.errors import DataError
from onward.data.augment import Change
from onward.data.choices import RecordingFields
from onward.data.recordings import Recordings

_KEYS = 2**53


def event_changes(choice: RecordingFields) -> list[Change[Recordings]]:
    """The changes that the options ask for."""
    dropped: list[Change[Recordings]] = []
    if choice.event_drop is not None:
        dropped = [_drops(choice.event_drop_most)[choice.event_drop]]
    return [*dropped, EventShift(choice.event_shift)] if choice.event_shift else dropped


def _drops(most: float) -> Mapping[str, Drop]:
    kinds = DropEvents(most), DropTime(most), DropArea(most)
    return {drop.name: drop for drop in (*kinds, DropAny(kinds))}


class Drop(Change[Recordings]):
    """Some events are lost."""

    def apply(self, x: Recordings, u: Tensor) -> Recordings:
        """See `Change.apply`."""
        return _only(x, self.kept(x, u.numpy()))

    @abstractmethod
    def kept(self, x: Recordings, u: np.ndarray) -> np.ndarray:
        """Which events stay, ``[E]`` bool, from uniform numbers ``u`` ``[N, numbers]``."""


def _share(most: float) -> float:
    if not 0 < most <= 1:
        raise DataError(f"a largest share of {most} to drop was given; expected above 0, and 1 at most")
    return most


class DropEvents(Drop):
    """Each event of a recording with a probability that is uniform on (0, ``most``)."""

    name = "events"
    numbers = 2

    def __init__(self, most: float = 0.3):
        self.most = _share(most)

    def kept(self, x: Recordings, u: np.ndarray) -> np.ndarray:
        """See `Drop.kept`."""
        keys = torch.from_numpy((u[:, 1] * _KEYS).astype(np.int64))[:, None]
        fates = [
            Uniform().sample(key, int(size), torch.float64)[0].numpy() >= self.most * share
            for key, size, share in zip(keys, np.diff(x.offsets), u[:, 0], strict=True)
        ]
        return np.concatenate(fates)


class DropTime(Drop):
    """All events of an interval, whose share of the duration is uniform on (0, ``most``)."""

    name = "time"
    numbers = 2

    def __init__(self, most: float = 0.3):
        self.most = _share(most)

    def kept(self, x: Recordings, u: np.ndarray) -> np.ndarray:
        """See `Drop.kept`."""
        duration = x.durations()
        length = self.most * u[:, 0] * duration
        start = u[:, 1] * (duration - length)
        return ~_within(x.t, _each(start, x), _each(length, x))


class DropArea(Drop):
    """All events of a part of the sensor, whose share of either side is uniform on (0, ``most``)."""

    name = "area"
    numbers = 3

    def __init__(self, most: float = 0.3):
        self.most = _share(most)

    def kept(self, x: Recordings, u: np.ndarray) -> np.ndarray:
        """See `Drop.kept`."""
        _, row, column = _places(x)
        inside = np.ones(len(x.t), bool)
        for place, side, along in ((row, x.height, u[:, 1]), (column, x.width, u[:, 2])):
            length = np.ceil(self.most * u[:, 0] * side)
            inside &= _within(place, _each(np.floor(along * (side - length + 1)), x), _each(length, x))
        return ~inside


class DropAny(Drop):
    """One of ``drops``, or nothing, equally likely (Gu et al., EventDrop, 2021)."""

    name = "any"

    def __init__(self, drops: Sequence[Drop]):
        self.drops = drops
        self.numbers = 1 + max(drop.numbers for drop in drops)

    def kept(self, x: Recordings, u: np.ndarray) -> np.ndarray:
        """See `Drop.kept`."""
        chosen = _each(np.floor(u[:, 0] * (len(self.drops) + 1)), x)
        kept = np.ones(len(x.t), bool)
        for number, drop in enumerate(self.drops):
            kept &= (chosen != number) | drop.kept(x, u[:, 1:])
        return kept


class EventShift(Change[Recordings]):
    """All events moved by up to ``most`` pixels along and across; what leaves the sensor is lost."""

    name = "event-shift"
    numbers = 2

    def __init__(self, most: int = 1):
        if most < 1:
            raise DataError(f"a shift of {most} pixels was given; at least 1 is needed")
        self.most = most

    def apply(self, x: Recordings, u: Tensor) -> Recordings:
        """See `Change.apply`; along a side of n pixels it is n - 1 at most."""
        polarity, *places = _places(x)
        kept = np.ones(len(x.t), bool)
        for place, side, along in zip(places, (x.height, x.width), u.numpy().T, strict=True):
            most = min(self.most, side - 1)
            place += _each(np.floor(along * (2 * most + 1)).astype(np.int64) - most, x)
            kept &= (place >= 0) & (place < side)
        address = (polarity * x.height + places[0]) * x.width + places[1]
        return _only(replace(x, address=address.astype(x.address.dtype)), kept)


def _places(x: Recordings) -> list[np.ndarray]:
    """Polarity, row and column of every event."""
    return [places.astype(np.int64) for places in np.unravel_index(x.address, x.features)]


def _each(values: np.ndarray, x: Recordings) -> np.ndarray:
    """What belongs to a recording ``[N]``, for each of its events ``[E]``."""
    return np.repeat(values, np.diff(x.offsets))


def _within(place: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    return (place >= start) & (place < start + length)


def _only(x: Recordings, kept: np.ndarray) -> Recordings:
    """The events ``kept`` ``[E]`` of recordings that last as long as before."""
    offsets = np.concatenate([[0], np.cumsum(kept)])[x.offsets]
    return replace(x, address=x.address[kept], t=x.t[kept], offsets=offsets, lasting=x.durations())
