"""Integer OPZO as it reads on paper, in numpy's integers: the plain twin of the loops in `onward.kernels.integers`.

For every sample, step t and hidden layer l; >> shifts right and rounds down, [x]_b saturates at b bits:

    d = W^l s^{l-1}[t]                     s^0 = the input, d^1 only when W^1 or the input changed
    u = v - (v >> leak) + d
    s = [u + z_t (theta >> noise) >= theta],      z_t = z, -z, z', -z', ...  in {-1, +1}
    v = [u - theta s]_16,    psi = [|u - theta| < theta >> window]
    a = a - (a >> leak) + 2^spike s        the trace; the input's is a - (a >> leak) + x
    o[t] = W^N s^{N-1}[t],    R = sum of o so far

and after every second step, for c classes of which y is the right one:

    e_y = [min(R_y - goal t, 0) >> error]_8,    e_c = [max(R_c + goal t, 0) >> error]_8
    p^l = psi [(M^l e) >> credit]_8,    p^N = e
    W^l <- [W^l - round((p^l a^{l-1}^T) >> rate)]_8
    M^l <- M^l + round((z [(o[t-1] - o[t]) << gain]_16^T - M^l) >> rho)

``>> error`` and ``>> credit`` round to nearest, ``round`` rounds at random, without bias: it adds as many random bits
as the shift throws away. The bits of a pair of neurons i, j are r_i xor r_j: uniform, and independent in pairs, so that
n + m words serve n m weights with the variance of n m words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray

from onward.integer.law import BYTE, RANDOM_BITS, WORD, Law
from onward.kernels.signs import GOLDEN, mixed, signed, words

NOISE, ROWS, COLUMNS, NEURONS, CLASSES = range(5)
"""What a word is drawn for."""
STEP = 0xD1342543DE82EF95

INPUT_PRODUCTS, ADDITIONS, SPIKES, LESSONS, CREDIT_PRODUCTS, CHANGES, WORDS = range(7)
"""Places of the counts: products of inputs and weights, weights added up on spikes, spikes, lessons (pairs of steps
with an error), products of M e, weights that an update meets, and random words for rounding."""
COUNTS = 7

SHORT, WIDE = np.int16, np.int32
"""Registers of states and feedback, and of sums."""


class Tables(NamedTuple):
    """What a network knows, layer by layer: weights ``[n_in, n_out]`` int8, feedback ``[m, n]`` int16."""

    weights: list[ndarray]
    feedback: list[ndarray]


def learn(
    images: ndarray,
    labels: ndarray,
    tables: Tables,
    law: Law,
    thresholds: ndarray,
    rates: ndarray,
    key: int,
    first: int,
    counts: ndarray,
) -> int:
    """Learns ``images`` ``[S, n_0]`` one by one, in place; how many were answered rightly, in the course of it."""
    right = 0
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        sample = _Sample(image, tables, law, thresholds, counts)
        sample_key = mixed(key + (first + number + 1) * GOLDEN)
        for t in range(0, law.steps, 2):
            now, then = (mixed(sample_key + (step + 1) * STEP) for step in (t, t + 1))
            z = [_signs(slot(now, k, NOISE), len(m.T)) for k, m in enumerate(tables.feedback, 1)]
            before = sample.step(z, 1)
            after = sample.step(z, -1)
            sample.teach(int(label), t + 2, rates, then)
            sample.estimate(z, before - after, then)
        right += int(sample.sums.argmax()) == int(label)
    return right


def answer(images: ndarray, tables: Tables, law: Law, thresholds: ndarray, scores: ndarray, counts: ndarray) -> None:
    """Writes sums of the readout ``[S, m]`` over all steps, without noise and without learning."""
    for image, score in zip(images, scores, strict=True):
        sample = _Sample(image, tables, law, thresholds, counts)
        for _ in range(law.steps):
            sample.step([_none(m) for m in tables.feedback], 0)
        score += sample.sums


class _Sample:
    """The states of a network while one sample is before it."""

    def __init__(self, image: ndarray, tables: Tables, law: Law, thresholds: ndarray, counts: ndarray):
        self.image, self.tables, self.law = image, tables, law
        self.thresholds, self.counts = thresholds, counts
        self.membranes = [np.zeros_like(m[0]) for m in tables.feedback]
        self.traces = [np.zeros_like(image, dtype=SHORT), *map(np.zeros_like, self.membranes)]
        self.windows = [_none(m) for m in tables.feedback]
        self.sums = np.zeros_like(tables.weights[-1][0], dtype=WIDE)
        self._still: ndarray | None = None

    def step(self, z: list[ndarray], sign: int) -> ndarray:
        """One time step of the whole network; the readout."""
        sent = self.image
        self.traces[0] = self._decayed(0) + sent
        for k, theta in enumerate(self.thresholds):
            drive = self._added(k, sent) if k else self._stood()
            v = self.membranes[k].astype(WIDE)
            u = v - (v >> self.law.leak) + drive
            sent = (u + sign * z[k] * (theta >> self.law.noise) >= theta).astype(SHORT)
            self.windows[k] = (abs(u - theta) < theta >> self.law.window).astype(np.int8)
            self.membranes[k] = _limited(u - theta * sent, WORD).astype(SHORT)
            self.traces[k + 1] = self._decayed(k + 1) + (sent << self.law.spike)
            self.counts[SPIKES] += sent.sum()
        out = self._added(len(self.thresholds), sent)
        self.sums = self.sums + out
        return out

    def teach(self, label: int, steps: int, rates: ndarray, key: int) -> None:
        """Weights move by the error of the sums after ``steps`` steps; nothing happens where there is none."""
        e = self._errors(label, steps)
        if not e.any():
            return
        self._still = None
        self.counts[LESSONS] += 1
        posts = [self._credit(k, e) for k in range(len(self.thresholds))]
        for k, post in enumerate((*posts, e)):
            pre, weights, shift = self.traces[k], self.tables.weights[k], int(rates[k])
            product = pre.astype(WIDE)[:, None] * post
            change = product + _bits(slot(key, k, ROWS), slot(key, k, COLUMNS), weights, shift) >> shift
            weights[:] = _limited(weights - change, BYTE)
            self.counts[CHANGES] += np.count_nonzero(pre) * np.count_nonzero(post)
            self.counts[WORDS] += np.count_nonzero(pre) + post.size

    def estimate(self, z: list[ndarray], difference: ndarray, key: int) -> None:
        """M moves towards z (o[t-1] - o[t])^T."""
        d = _limited(difference << self.law.gain, WORD)[:, None]
        for k, (m, noise) in enumerate(zip(self.tables.feedback, z, strict=True), 1):
            gap = d * noise - m
            m += (gap + _bits(slot(key, k, CLASSES), slot(key, k, NEURONS), m, self.law.rho) >> self.law.rho).astype(
                SHORT
            )
            self.counts[WORDS] += sum(m.shape)

    def _stood(self) -> ndarray:
        """What the input drives, worked out anew when weights have changed."""
        if self._still is None:
            self._still = _product(self.image, self.tables.weights[0])
            self.counts[INPUT_PRODUCTS] += np.count_nonzero(self.image) * self._still.size
        return self._still

    def _added(self, k: int, spikes: ndarray) -> ndarray:
        self.counts[ADDITIONS] += spikes.sum() * self.tables.weights[k].shape[1]
        return _product(spikes, self.tables.weights[k])

    def _decayed(self, k: int) -> ndarray:
        return self.traces[k] - (self.traces[k] >> self.law.leak)

    def _errors(self, label: int, steps: int) -> ndarray:
        goal = self.law.goal * steps
        short = np.maximum(self.sums + goal, 0)
        short[label] = min(int(self.sums[label]) - goal, 0)
        return _limited(_nearest(short, self.law.error), BYTE)

    def _credit(self, k: int, e: ndarray) -> ndarray:
        self.counts[CREDIT_PRODUCTS] += np.count_nonzero(e) * self.windows[k].size
        return _limited(_nearest(_product(e, self.tables.feedback[k]), self.law.credit), BYTE) * self.windows[k]


def slot(key: int, layer: int, purpose: int) -> int:
    """The key of a layer's draws in a time step, from the step's key."""
    return mixed(key + (5 * layer + purpose + 1) * GOLDEN)


def random_words(key: int, n: int) -> ndarray:
    """``n`` words of 16 random bits, int32."""
    found = words(torch.tensor([signed(key)]), n)[0].numpy().view(np.uint64)
    return (found >> np.uint64(64 - RANDOM_BITS)).astype(WIDE)


def _signs(key: int, n: int) -> ndarray:
    return ((random_words(key, n) & 1) * 2 - 1).astype(WIDE)


def _none(m: ndarray) -> ndarray:
    return np.zeros_like(m[0])


def _bits(row_key: int, column_key: int, like: ndarray, shift: int) -> ndarray:
    """As many random bits as ``shift`` throws away, for every entry of ``like``."""
    rows, columns = like.shape
    return (random_words(row_key, rows)[:, None] ^ random_words(column_key, columns)) & ((1 << shift) - 1)


def _product(x: ndarray, matrix: ndarray) -> ndarray:
    return x.astype(WIDE) @ matrix.astype(WIDE)


def _nearest(x: ndarray, shift: int) -> ndarray:
    return (x + (1 << shift - 1)) >> shift


def _limited(x: ndarray, most: int) -> ndarray:
    return np.minimum(np.maximum(x, -most), most)
