"""Loops of integer OPZO, sample after sample, in numba's subset of Python; their meaning and plain twin stand in
`onward.integer.plain`.

Weights ``[n_in, n_out]`` lie one layer after the other in one array, so that an input's weights are a row; feedback
matrices ``[m, n]`` likewise. Every number is an integer: nothing here divides, and nothing is a float.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onward.kernels.jit import jit

I = np.int32  # noqa: E741
U = np.uint64
_GOLDEN, _MIX_1, _MIX_2 = U(0x9E3779B97F4A7C15), U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
_STEP = U(0xD1342543DE82EF95)
_PURPOSES = 5
_LARGEST, _SMALLEST_WORD = I(127), I(32767)
_whole = jit(nogil=True)


@_whole
def _mix(z: Any) -> Any:
    z = (z ^ (z >> U(30))) * _MIX_1
    z = (z ^ (z >> U(27))) * _MIX_2
    return z ^ (z >> U(31))


@_whole
def _key(step_key: Any, layer: Any, purpose: Any) -> Any:
    return _mix(step_key + U(layer * _PURPOSES + purpose + 1) * _GOLDEN)


@_whole
def _word(key: Any, i: Any) -> Any:
    """Sixteen random bits."""
    return I(_mix(key + U(i + 1) * _GOLDEN) >> U(48))


@_whole
def _limited(x: Any, most: Any) -> Any:
    return min(max(I(x), -most), most)


@_whole
def _drive(weights: Any, x: Any, out: Any) -> Any:
    """out = W^T x, row by row of the inputs that are not zero; how many they are."""
    out[:] = 0
    active = 0
    for j in range(x.size):
        factor = I(x[j])
        if factor != 0:
            active += 1
            row = weights[j]
            for i in range(out.size):
                out[i] += factor * I(row[i])
    return active


@_whole
def _signs(key: Any, z: Any) -> Any:
    for i in range(z.size):
        z[i] = np.int8(_word(key, i) & I(1)) * np.int8(2) - np.int8(1)


@_whole
def _fire(drive: Any, z: Any, sway: Any, threshold: Any, law: Any, v: Any, s: Any, open_: Any, trace: Any) -> Any:
    """Charge, fire with a swaying threshold, reset, window and trace; how many fired."""
    leak, window, jump = I(law.leak), threshold >> I(law.window), np.int16(1 << law.spike)
    fired = 0
    for i in range(v.size):
        u = I(v[i]) - (I(v[i]) >> leak) + drive[i]
        fires = u + sway * I(z[i]) >= threshold
        open_[i] = abs(u - threshold) < window
        s[i] = fires
        fired += fires
        v[i] = _limited(u - threshold * I(fires), _SMALLEST_WORD)
        trace[i] += jump * np.int16(fires) - (trace[i] >> law.leak)
    return fired


@_whole
def _errors(sums: Any, label: Any, goal: Any, shift: Any, e: Any) -> Any:
    """Errors of the squared hinge, eight bits; how many are not zero."""
    wrong, half = 0, I(1) << I(shift - 1)
    for c in range(e.size):
        short = min(sums[c] - goal, I(0)) if c == label else max(sums[c] + goal, I(0))
        e[c] = _limited((short + half) >> I(shift), _LARGEST)
        wrong += e[c] != 0
    return wrong


@_whole
def _credit(feedback: Any, e: Any, shift: Any, open_: Any, total: Any, post: Any) -> Any:
    """post = window * (M e >> shift), eight bits; how many are not zero."""
    total[:] = 0
    for c in range(e.size):
        if e[c] != 0:
            row = feedback[c]
            for i in range(total.size):
                total[i] += I(row[i]) * I(e[c])
    half, told = I(1) << I(shift - 1), 0
    for i in range(total.size):
        post[i] = _limited((total[i] + half) >> I(shift), _LARGEST) * I(open_[i])
        told += post[i] != 0
    return told


@_whole
def _update(weights: Any, trace: Any, post: Any, shift: Any, row_key: Any, column_key: Any, words: Any) -> Any:
    """W -= trace post^T >> shift, rounded at random; how many traces are not zero."""
    mask, active = I((1 << shift) - 1), 0
    for i in range(post.size):
        words[i] = _word(column_key, i)
    for j in range(trace.size):
        pre = I(trace[j])
        if pre != 0:
            active += 1
            word, row = _word(row_key, j), weights[j]
            for i in range(post.size):
                change = (I(post[i]) * pre + ((words[i] ^ word) & mask)) >> I(shift)
                row[i] = _limited(I(row[i]) - change, _LARGEST)
    return active


@_whole
def _estimate(feedback: Any, z: Any, difference: Any, law: Any, column_key: Any, row_key: Any, words: Any) -> Any:
    """M += (z d - M) >> rho, rounded at random."""
    mask = I((1 << law.rho) - 1)
    for i in range(z.size):
        words[i] = _word(column_key, i)
    for c in range(difference.size):
        word, row = _word(row_key, c), feedback[c]
        d = _limited(difference[c] << I(law.gain), _SMALLEST_WORD)
        for i in range(z.size):
            gap = I(z[i]) * d - I(row[i])
            row[i] += (gap + ((words[i] ^ word) & mask)) >> I(law.rho)


@_whole
def _starts(sizes: Any) -> Any:
    """Where each layer's neurons, weights and feedback begin."""
    neurons, weights, feedback = np.zeros((3, sizes.size + 1), np.int64)
    for k in range(sizes.size - 1):
        neurons[k + 1] = neurons[k] + sizes[k]
        weights[k + 1] = weights[k] + sizes[k] * sizes[k + 1]
        feedback[k + 1] = feedback[k] + (sizes[k] * sizes[-1] if k else 0)
    return neurons, weights, feedback


@_whole
def _states(count: Any) -> Any:
    """Membranes, spikes, windows, traces and noise."""
    return (
        np.zeros(count, np.int16),
        np.zeros(count, np.uint8),
        np.zeros(count, np.int8),
        np.zeros(count, np.int16),
        np.zeros(count, np.int8),
    )


@_whole
def _best(sums: Any) -> Any:
    best = 0
    for c in range(sums.size):
        if sums[c] > sums[best]:
            best = c
    return best


@_whole
def integer_learn(images, labels, sizes, weights, feedback, law, thresholds, rates, key, first, counts):
    """Learns ``images`` ``[S, n_0]`` one by one; how many were answered rightly, in the course of it."""
    hidden, classes = sizes.size - 2, sizes[-1]
    at, w_at, m_at = _starts(sizes)
    v, s, open_, trace, z = _states(at[-2])
    widest = sizes.max()
    drive, still = np.zeros(widest, np.int32), np.zeros(sizes[1], np.int32)
    post, words = np.zeros(widest, np.int8), np.zeros(widest, np.int32)
    out, before, sums = np.zeros((3, classes), np.int32)
    e = np.zeros(classes, np.int8)
    right = 0
    for b in range(images.shape[0]):
        sample_key = _mix(key + U(first + b + 1) * _GOLDEN)
        trace[:] = 0
        v[:] = 0
        sums[:] = 0
        s[: sizes[0]] = images[b]
        stale = True
        for t in range(law.steps):
            step_key = _mix(sample_key + U(t + 1) * _STEP)
            pair_key = _mix(sample_key + U(t - t % 2 + 1) * _STEP)
            for j in range(sizes[0]):
                trace[j] += np.int16(s[j]) - (trace[j] >> law.leak)
            for k in range(1, hidden + 1):
                n, a, b_, below = sizes[k], at[k], at[k + 1], s[at[k - 1] : at[k]]
                matrix = weights[w_at[k - 1] : w_at[k]].reshape(sizes[k - 1], n)
                if k > 1:
                    counts[1] += _drive(matrix, below, drive[:n]) * n
                elif stale:
                    counts[0] += _drive(matrix, below, still) * n
                    stale = False
                if t % 2 == 0:
                    _signs(_key(pair_key, k, 0), z[a:b_])
                threshold = I(thresholds[k - 1])
                sway = (threshold >> I(law.noise)) * I(1 - 2 * (t % 2))
                reads = still if k == 1 else drive[:n]
                counts[2] += _fire(reads, z[a:b_], sway, threshold, law, v[a:b_], s[a:b_], open_[a:b_], trace[a:b_])
            before[:] = out
            matrix = weights[w_at[hidden] : w_at[hidden + 1]].reshape(sizes[hidden], classes)
            counts[1] += _drive(matrix, s[at[hidden] : at[hidden + 1]], out) * classes
            for c in range(classes):
                sums[c] += out[c]
            if t % 2:
                wrong = _errors(sums, labels[b], I(law.goal * (t + 1)), law.error, e)
                if wrong:
                    stale = True
                    counts[3] += 1
                    for k in range(1, hidden + 1):
                        n, a, b_ = sizes[k], at[k], at[k + 1]
                        matrix = feedback[m_at[k] : m_at[k + 1]].reshape(classes, n)
                        told = _credit(matrix, e, law.credit, open_[a:b_], drive[:n], post[:n])
                        counts[4] += wrong * n
                        matrix = weights[w_at[k - 1] : w_at[k]].reshape(sizes[k - 1], n)
                        rows, columns = _key(step_key, k - 1, 1), _key(step_key, k - 1, 2)
                        pre = _update(matrix, trace[at[k - 1] : a], post[:n], rates[k - 1], rows, columns, words)
                        counts[5] += pre * told
                        counts[6] += pre + n
                    matrix = weights[w_at[hidden] : w_at[hidden + 1]].reshape(sizes[hidden], classes)
                    rows, columns = _key(step_key, hidden, 1), _key(step_key, hidden, 2)
                    pre = _update(matrix, trace[at[hidden] : at[hidden + 1]], e, rates[hidden], rows, columns, words)
                    counts[5] += pre * wrong
                    counts[6] += pre + classes
                for c in range(classes):
                    before[c] -= out[c]
                for k in range(1, hidden + 1):
                    n = sizes[k]
                    matrix = feedback[m_at[k] : m_at[k + 1]].reshape(classes, n)
                    columns, rows = _key(step_key, k, 3), _key(step_key, k, 4)
                    _estimate(matrix, z[at[k] : at[k + 1]], before, law, columns, rows, words)
                    counts[6] += n + classes
        right += _best(sums) == labels[b]
    return right


@_whole
def integer_answer(images, sizes, weights, law, thresholds, scores, counts):
    """Sums of the readout ``[S, m]`` over all steps, without noise and without learning."""
    hidden, classes = sizes.size - 2, sizes[-1]
    at, w_at, _ = _starts(sizes)
    v, s, open_, trace, z = _states(at[-2])
    drive, still = np.zeros(sizes.max(), np.int32), np.zeros(sizes[1], np.int32)
    for b in range(images.shape[0]):
        v[:] = 0
        trace[:] = 0
        s[: sizes[0]] = images[b]
        counts[0] += _drive(weights[: w_at[1]].reshape(sizes[0], sizes[1]), s[: sizes[0]], still) * sizes[1]
        for _ in range(law.steps):
            for k in range(1, hidden + 1):
                n, a, b_ = sizes[k], at[k], at[k + 1]
                if k > 1:
                    matrix = weights[w_at[k - 1] : w_at[k]].reshape(sizes[k - 1], n)
                    counts[1] += _drive(matrix, s[at[k - 1] : a], drive[:n]) * n
                reads, threshold = still if k == 1 else drive[:n], I(thresholds[k - 1])
                fired = _fire(reads, z[a:b_], I(0), threshold, law, v[a:b_], s[a:b_], open_[a:b_], trace[a:b_])
                counts[2] += fired
            matrix = weights[w_at[hidden] : w_at[hidden + 1]].reshape(sizes[hidden], classes)
            counts[1] += _drive(matrix, s[at[hidden] : at[hidden + 1]], drive[:classes]) * classes
            for c in range(classes):
                scores[b, c] += drive[c]
