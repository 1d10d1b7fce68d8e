"""OPZO in float32 at batch 1, step for step the integer one without its rounding and saturation: what precision costs.

The same pairs of noise, window, traces, squared hinge and running difference, in the same units; inputs keep 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy import ndarray

from onward.integer import Law

F = np.float32


@dataclass
class FloatNetwork:
    """Layers ``sizes``; ``rates`` multiplies p a^T of hidden layers and of the readout, in units of integers."""

    sizes: tuple[int, ...]
    law: Law
    thresholds: tuple[int, ...]
    rates: tuple[float, float]
    starts: int
    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.shape, self.learned = np.array(self.sizes), 0
        count = int((self.shape[:-1] * self.shape[1:]).sum())
        self.weights = rng.uniform(-self.starts, self.starts, count).astype(F)
        self.feedback = np.zeros(int(self.shape[1:-1].sum()) * self.sizes[-1], F)

    def learn(self, images: ndarray, labels: ndarray) -> int:
        return self._walk(images, labels, self.rates, 1.0)

    def right(self, images: ndarray, labels: ndarray) -> int:
        return self._walk(images, labels, (0.0, 0.0), 0.0)

    def slower(self) -> None:
        self.rates = self.rates[0] / 2, self.rates[1] / 2

    def _walk(self, images: ndarray, labels: ndarray, rates: tuple[float, float], noise: float) -> int:
        self.learned += 1
        scale = F(2**self.law.levels / 256)
        hidden, readout = map(F, rates)
        return int(
            walk(
                images, labels, self.shape, self.weights, self.feedback, self.law, np.array(self.thresholds, F),
                hidden, readout, F(noise), scale, self.seed * 1000 + self.learned,
            )
        )  # fmt: skip


@numba.njit(cache=True, fastmath=True)
def product(x, matrix, out):
    out[:] = F(0)
    for j in range(x.size):
        if x[j] != F(0):
            for i in range(out.size):
                out[i] += x[j] * matrix[j, i]


@numba.njit(cache=True, fastmath=True)
def change(matrix, trace, post, rate):
    for j in range(trace.size):
        if trace[j] != F(0):
            step = rate * trace[j]
            for i in range(post.size):
                matrix[j, i] -= step * post[i]


@numba.njit(cache=True, fastmath=True)
def walk(images, labels, sizes, weights, feedback, law, thresholds, hidden_rate, readout_rate, noise, scale, seed):
    """Learns the images one by one, or tests them where rates and noise are 0; how many were answered rightly."""
    np.random.seed(seed)
    layers, classes = sizes.size - 2, sizes[-1]
    at, w_at, m_at = np.zeros((3, sizes.size + 1), np.int64)
    for k in range(sizes.size - 1):
        at[k + 1], w_at[k + 1] = at[k] + sizes[k], w_at[k] + sizes[k] * sizes[k + 1]
        m_at[k + 1] = m_at[k] + (sizes[k] * classes if k else 0)
    keep, rho = F(1 - 0.5**law.leak), F(0.5**law.rho)
    v, s, window, trace, z = np.zeros((5, at[-2]), F)
    drive, post, still = np.zeros((3, sizes.max()), F)
    out, before, sums, e = np.zeros((4, classes), F)
    right = 0
    for b in range(images.shape[0]):
        v[:] = F(0)
        trace[:] = F(0)
        sums[:] = F(0)
        s[: sizes[0]] = images[b] * scale
        product(s[: sizes[0]], weights[: w_at[1]].reshape(sizes[0], sizes[1]), still[: sizes[1]])
        for t in range(law.steps):
            trace[: sizes[0]] = keep * trace[: sizes[0]] + s[: sizes[0]]
            for k in range(1, layers + 1):
                n, theta = sizes[k], thresholds[k - 1]
                reads = still[:n] if k == 1 else drive[:n]
                if k > 1:
                    product(s[at[k - 1] : at[k]], weights[w_at[k - 1] : w_at[k]].reshape(sizes[k - 1], n), reads)
                sway = noise * theta * F(0.5**law.noise) * F(1 - 2 * (t % 2))
                for i in range(n):
                    p = at[k] + i
                    if t % 2 == 0:
                        z[p] = F(1) if np.random.random() < 0.5 else F(-1)
                    u = keep * v[p] + reads[i]
                    s[p] = F(u + sway * z[p] >= theta)
                    window[p] = F(abs(u - theta) < theta * F(0.5**law.window))
                    v[p] = u - theta * s[p]
                    trace[p] = keep * trace[p] + F(2**law.spike) * s[p]
            before[:] = out
            product(s[at[layers] : at[layers + 1]], weights[w_at[layers] :].reshape(sizes[layers], classes), out)
            sums += out
            if noise == F(0) or t % 2 == 0:
                continue
            wrong = False
            for c in range(classes):
                goal = F(law.goal * (t + 1))
                e[c] = min(sums[c] - goal, F(0)) if c == labels[b] else max(sums[c] + goal, F(0))
                wrong = wrong or e[c] != F(0)
            if wrong:
                for k in range(1, layers + 1):
                    n = sizes[k]
                    product(e, feedback[m_at[k] : m_at[k + 1]].reshape(classes, n), post[:n])
                    post[:n] *= window[at[k] : at[k + 1]]
                    matrix = weights[w_at[k - 1] : w_at[k]].reshape(sizes[k - 1], n)
                    change(matrix, trace[at[k - 1] : at[k]], post[:n], hidden_rate)
                change(weights[w_at[layers] :].reshape(sizes[layers], classes), trace[at[layers] : at[layers + 1]], e,
                       readout_rate)  # fmt: skip
                product(s[: sizes[0]], weights[: w_at[1]].reshape(sizes[0], sizes[1]), still[: sizes[1]])
            for k in range(1, layers + 1):
                n = sizes[k]
                matrix = feedback[m_at[k] : m_at[k + 1]].reshape(classes, n)
                for c in range(classes):
                    d = (before[c] - out[c]) * F(2**law.gain)
                    for i in range(n):
                        matrix[c, i] += rho * (z[at[k] + i] * d - matrix[c, i])
        best = 0
        for c in range(classes):
            if sums[c] > sums[best]:
                best = c
        right += best == labels[b]
    return right
