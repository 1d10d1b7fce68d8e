"""A spiking network of integers that learns on its own, one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from onward.core.errors import ConfigError, ShapeError
from onward.integer import plain
from onward.integer.law import BYTE, Law, check
from onward.integer.plain import COUNTS, Tables
from onward.kernels.compiled import Kernel, Use, in_use
from onward.kernels.signs import GOLDEN, mixed, signed

FIRST_THRESHOLD, LATER_THRESHOLD, RATE, START = 8192, 128, 11, 24


class IntegerNetwork:
    """Dense layers ``sizes`` of spiking neurons, int8 weights and int16 feedback, trained by integer OPZO.

    ``thresholds`` has one for each hidden layer; ``rates`` the shift of the learning rate of each layer, readout
    included: a weight moves by 2^-rate of post times trace. Weights start uniform within ``starts``. Equations are in
    `onward.integer.plain`. Costs O(active inputs x neurons) a step; memory O(weights), whatever the number of steps.
    Raises `ConfigError` where a sum could outgrow its register.

    >>> net = IntegerNetwork((4, 8, 2), thresholds=(512,))
    >>> images, labels = np.array([[15, 15, 0, 0], [0, 0, 15, 15]], np.uint8), np.array([0, 1])
    >>> for _ in range(200):
    ...     _ = net.learn(images, labels)
    >>> net.answers(images).tolist()
    [0, 1]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        law: Law | None = None,
        thresholds: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
        seed: int = 0,
    ):
        self.sizes, self.law, layers = tuple(sizes), law or Law(), len(sizes) - 1
        given = thresholds or [FIRST_THRESHOLD, *[LATER_THRESHOLD] * (layers - 2)]
        self.thresholds, self.rates = np.array(given, np.int32), np.array(rates or [RATE] * layers, np.int32)
        check(self.law, self.sizes, self.thresholds.tolist(), self.rates.tolist())
        self.key = mixed(seed * GOLDEN + 1)
        self.learned = 0
        self.counts = np.zeros(COUNTS, np.int64)
        self._weights = np.concatenate([self._start(k, reach) for k, reach in enumerate(starts or [START] * layers)])
        self._feedback = np.zeros(sum(self.sizes[1:-1]) * self.sizes[-1], np.int16)

    @property
    def weights(self) -> list[ndarray]:
        """W of each layer ``[n_in, n_out]`` int8; views."""
        shapes = list(zip(self.sizes, self.sizes[1:], strict=False))
        return _cut(self._weights, shapes)

    @property
    def feedback(self) -> list[ndarray]:
        """M of each hidden layer, transposed ``[m, n]`` int16; views."""
        return _cut(self._feedback, [(self.sizes[-1], n) for n in self.sizes[1:-1]])

    @property
    def nbytes(self) -> int:
        """Bytes of weights and feedback."""
        return self._weights.nbytes + self._feedback.nbytes

    def learn(self, images: ndarray, labels: ndarray) -> int:
        """Learns ``images`` ``[S, n_0]`` uint8 in their order; how many of them it answered rightly as it learned.

        Answers given while learning know of lessons from the same sample: they flatter. Raises `ShapeError` for other
        shapes and `ConfigError` for inputs or labels out of range.
        """
        labels = np.asarray(labels, np.int64)
        self._require(images)
        if labels.shape != images.shape[:1]:
            raise ShapeError(f"{len(images)} images and labels {list(labels.shape)} were given; expected one for each")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.sizes[-1]:
            raise ConfigError(f"labels {labels.min()} to {labels.max()} were given; expected 0 to {self.sizes[-1] - 1}")
        shared = self.law, self.thresholds, self.rates
        if _compiled(LEARN):
            right = LEARN(images, labels, self._shape, self._weights, self._feedback, *shared, np.uint64(self.key),
                          self.learned, self.counts)  # fmt: skip
        else:
            right = plain.learn(images, labels, self._tables, *shared, self.key, self.learned, self.counts)
        self.learned += len(images)
        return int(right)

    def scores(self, images: ndarray) -> ndarray:
        """Sums of the readout ``[S, m]`` int32 for ``images`` ``[S, n_0]`` uint8, without noise; counts nothing."""
        self._require(images)
        found, unread = np.zeros((len(images), self.sizes[-1]), np.int32), np.zeros_like(self.counts)
        if _compiled(ANSWER):
            ANSWER(images, self._shape, self._weights, self.law, self.thresholds, found, unread)
        else:
            plain.answer(images, self._tables, self.law, self.thresholds, found, unread)
        return found

    def answers(self, images: ndarray) -> ndarray:
        """The class of each of the ``images``."""
        return self.scores(images).argmax(1)

    def slower(self) -> None:
        """Halves every learning rate."""
        rates = self.rates + np.int32(1)
        check(self.law, self.sizes, self.thresholds.tolist(), rates.tolist())
        self.rates = rates

    @property
    def _shape(self) -> ndarray:
        return np.array(self.sizes, np.int64)

    @property
    def _tables(self) -> Tables:
        return Tables(self.weights, self.feedback)

    def _start(self, layer: int, reach: int) -> ndarray:
        """Uniform integers from -reach to reach; 16 random bits each, whose remainder is uneven by at most 1 in 256."""
        if not 0 <= reach <= BYTE:
            raise ConfigError(f"weights that start within {reach} were given; expected 0 to {BYTE}")
        count = self.sizes[layer] * self.sizes[layer + 1]
        found = plain.random_words(mixed(self.key - layer - 1), count) % (2 * reach + 1) - reach
        return found.astype(np.int8)

    def _require(self, images: ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != self.sizes[0]:
            raise ShapeError(
                f"images {list(images.shape)} of {images.dtype} were given; expected [S, {self.sizes[0]}] of uint8"
            )
        top = 2**self.law.levels - 1
        if images.size and images.max() > top:
            raise ConfigError(f"an input of {images.max()} was given; expected 0 to {top} ({self.law.levels} bits)")


def _cut(flat: ndarray, shapes: list[tuple[int, int]]) -> list[ndarray]:
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def _compiled(kernel: Kernel) -> bool:
    return in_use() is not Use.NEVER and kernel.works


def _trial() -> tuple[IntegerNetwork, ndarray, ndarray]:
    net = IntegerNetwork((6, 9, 7, 3), thresholds=(64, 32), rates=(6, 6, 6))
    images = plain.random_words(signed(1), 48).reshape(8, 6) % 16
    return net, images.astype(np.uint8), np.arange(8) % 3


def _learning_agrees() -> bool:
    (one, images, labels), (two, _, _) = _trial(), _trial()
    LEARN(images, labels, one._shape, one._weights, one._feedback, one.law, one.thresholds, one.rates,
          np.uint64(one.key), 0, one.counts)  # fmt: skip
    plain.learn(images, labels, two._tables, two.law, two.thresholds, two.rates, two.key, 0, two.counts)
    return all(
        map(np.array_equal, (one._weights, one._feedback, one.counts), (two._weights, two._feedback, two.counts))
    )


def _answers_agree() -> bool:
    net, images, _ = _trial()
    found, expected = np.zeros((2, 8, 3), np.int32)
    ANSWER(images, net._shape, net._weights, net.law, net.thresholds, found, net.counts)
    plain.answer(images, net._tables, net.law, net.thresholds, expected, net.counts)
    return np.array_equal(found, expected)


LEARN = Kernel("integer_learn", _learning_agrees)
ANSWER = Kernel("integer_answer", _answers_agree)
