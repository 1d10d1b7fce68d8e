"""The loops themselves, in numba's subset of Python; imported when a kernel is first needed.

Each is written for float32 on flat, dense arrays. Its plain twin and its meaning stand where it is wrapped: `fire`,
`signs`, `feedback`, `sparse`. Blocks are sized for a core's cache. IEEE rules hold but for fused multiply-add, so that
NaN and infinity stay visible.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, set_num_threads, types
from numba.extending import intrinsic

from onward.kernels.integers import integer_answer, integer_learn
from onward.kernels.jit import jit
from onward.kernels.registers import SPAN, add_rows

__all__ = [
    "MOST_THREADS",
    "collect",
    "correlate",
    "count",
    "couple",
    "feedback",
    "fire",
    "gather",
    "integer_answer",
    "integer_learn",
    "normals",
    "pack",
    "scatter",
    "set_num_threads",
    "signs",
    "turn",
]

MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]

try:
    from numba.np.ufunc import omppool as _omp  # noqa: F401  # pyright: ignore[reportAttributeAccessIssue]

    numba.config.THREADING_LAYER = "omp"  # type: ignore[attr-defined]
except ImportError:  # numba chooses another threading layer
    pass

F = np.float32
I = np.int32  # noqa: E741
U = np.uint64
_GOLDEN, _MIX_1, _MIX_2 = U(0x9E3779B97F4A7C15), U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
BLOCK = 2048


_loop = jit(parallel=True, nogil=True, fastmath={"contract"})


@intrinsic
def _from_bits(context: Any, bits: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def _exp_minus(y: Any) -> Any:
    """exp(-y) for y >= 0, to 2e-7 of itself: 2^n times a polynomial on half an octave; NaN stays NaN."""
    z = y * F(-1.4426950408889634)
    n = I(max(z, F(-126.0)) - F(0.5))
    f = (max(z, F(-126.0)) - F(n)) * F(0.6931471805599453)
    p = F(1 / 5040)
    p = p * f + F(1 / 720)
    p = p * f + F(1 / 120)
    p = p * f + F(1 / 24)
    p = p * f + F(1 / 6)
    p = p * f + F(0.5)
    p = p * f + F(1)
    p = p * f + F(1)
    return p * _from_bits(I((n + I(127)) << I(23)))  # pyright: ignore[reportCallIssue]


@_loop
def fire(x, stride, v, out, slope, decay, gain, drift, theta, level, hard, amount, height, shape, k):
    """Charge, fire at ``level``, reset and slope over the chunk; ``stride`` 0 repeats the first step of ``x``.

    Without a slope for shape 3; with H - theta in its place for shape 4.
    """
    steps, size = out.shape
    scale = gain * height
    kept = F(0) if hard else F(1)
    change = amount if hard else -amount
    for block in prange((size + BLOCK - 1) // BLOCK):
        first, last = block * BLOCK, min(size, (block + 1) * BLOCK)
        potential = v[first:last]
        for t in range(steps):
            drive = x[t * stride + first : t * stride + last]
            sent, psi = out[t, first:last], slope[t, first:last]
            if shape == 3:
                for j in range(potential.size):
                    h = decay * potential[j] + (gain * drive[j] + drift)
                    fires = h >= level
                    potential[j] = kept * h + change if fires else h
                    sent[j] = height if fires else F(0)
                continue
            for j in range(potential.size):
                h = decay * potential[j] + (gain * drive[j] + drift)
                fires = h >= level
                potential[j] = kept * h + change if fires else h
                sent[j] = height if fires else F(0)
                psi[j] = h - theta
            if shape == 0:
                for j in range(psi.size):
                    e = _exp_minus(abs(k * psi[j]))
                    d = F(1) + e
                    psi[j] = scale * k * e / (d * d)
            elif shape == 1:
                for j in range(psi.size):
                    psi[j] = scale * max(F(0), k - k * k * abs(psi[j]))
            elif shape == 2:
                for j in range(psi.size):
                    psi[j] = scale / k if abs(psi[j]) <= F(0.5) * k else F(0)


@_loop
def couple(current, u, total, fired, mask, out, leak, threshold, charge, gain):
    """One step of ternary couples; see `kernels.couples`."""
    for block in prange((u.size + BLOCK - 1) // BLOCK):
        for j in range(block * BLOCK, min(u.size, (block + 1) * BLOCK)):
            h = leak * u[j] + current[j]
            q = F(1) if h >= threshold else (F(-1) if h <= -threshold else F(0))
            r = charge * q
            u[j] = h - r
            total[j] = leak * total[j] + r
            fired[j] += abs(q)
            out[j] = gain * mask[j] * r


@_loop
def signs(keys, z):
    """Row r of ``z`` from the bits of the words that follow key r, least significant first; see `kernels.signs`."""
    rows, size = z.shape
    for r in prange(rows):
        for w in range((size + 63) // 64):
            word = keys[r] + U(w + 1) * _GOLDEN
            word = (word ^ (word >> U(30))) * _MIX_1
            word = (word ^ (word >> U(27))) * _MIX_2
            word = word ^ (word >> U(31))
            row = z[r, w * 64 : min(size, w * 64 + 64)]
            low, high = I(word & U(0xFFFFFFFF)), I(word >> U(32))
            for j in range(min(32, row.size)):
                row[j] = F(((low >> I(j)) & I(1)) * I(2) - I(1))
            for j in range(row.size - 32):
                row[j + 32] = F(((high >> I(j)) & I(1)) * I(2) - I(1))


@_loop
def normals(keys, z):
    """Row r of ``z`` from the words that follow key r, two numbers a word; see `kernels.signs.normals`."""
    rows, size = z.shape
    half = (size + 1) // 2
    unit, turn = 2.0**-32, 2.0 * np.pi
    for r in prange(rows):
        for i in range(half):
            word = keys[r] + U(i + 1) * _GOLDEN
            word = (word ^ (word >> U(30))) * _MIX_1
            word = (word ^ (word >> U(27))) * _MIX_2
            word = word ^ (word >> U(31))
            radius = np.sqrt(-2.0 * np.log((np.float64(word >> U(32)) + 0.5) * unit))
            angle = turn * ((np.float64(word & U(0xFFFFFFFF)) + 0.5) * unit)
            z[r, i] = radius * np.cos(angle)
            if half + i < size:
                z[r, half + i] = radius * np.sin(angle)


@_loop
def feedback(error, matrix, columns, slope, post):
    """post = slope * (e M^T) row by row, M as ``matrix`` ``[spans, m, SPAN]``; ``columns`` counts to m."""
    rows, size = slope.shape
    spans, width, _ = matrix.shape
    groups, a_block = (rows + 31) // 32, 32
    for item in prange((spans + a_block - 1) // a_block * groups):
        block, first = item // groups * a_block, item % groups * 32
        credit = np.empty(SPAN, np.float32)
        for r in range(first, min(rows, first + 32)):
            for s in range(block, min(spans, block + a_block)):
                credit[:] = F(0)
                add_rows(matrix[s], 0, columns, error[r], 0, width, credit)
                p, psi = post[r, s * SPAN : min(size, s * SPAN + SPAN)], slope[r, s * SPAN : min(size, s * SPAN + SPAN)]
                for j in range(p.size):
                    p[j] = credit[j] * psi[j]


@_loop
def correlate(z, o, batch, half, out):
    """out[h] ``[m, n]`` = sum of o z^T over steps and a half of the ``batch``, whose first ``half`` samples are one."""
    rows, size = z.shape
    width = o.shape[1]
    for block in prange((size + 511) // 512):
        first, last = block * 512, min(size, block * 512 + 512)
        sums = np.zeros((2, width, last - first), np.float32)
        for step in range(rows // batch):
            for h in range(2):
                r, stop = step * batch + h * half, step * batch + (batch if h else half)
                while r + 2 <= stop:
                    a, b = z[r, first:last], z[r + 1, first:last]
                    for c in range(width):
                        total, oa, ob = sums[h, c], o[r, c], o[r + 1, c]
                        for j in range(total.size):
                            total[j] += oa * a[j] + ob * b[j]
                    r += 2
                if r < stop:
                    a = z[r, first:last]
                    for c in range(width):
                        total, oa = sums[h, c], o[r, c]
                        for j in range(total.size):
                            total[j] += oa * a[j]
        for h in range(2):
            for c in range(width):
                total, found = sums[h, c], out[h, c, first:last]
                for j in range(total.size):
                    found[j] = total[j]


@_loop
def count(x, sizes):
    """Non-zeros of each row."""
    rows, size = x.shape
    for r in prange(rows):
        n = 0
        for j in range(size):
            n += x[r, j] != F(0)
        sizes[r] = n


@_loop
def collect(x, offsets, indices, values):
    """Places and values of the non-zeros of each row; without a branch, which no processor could foresee."""
    rows, size = x.shape
    for group in prange((rows + 31) // 32):
        found = np.empty(size + 1, np.int32)
        for r in range(group * 32, min(rows, group * 32 + 32)):
            n = 0
            for j in range(size):
                found[n] = j
                n += x[r, j] != F(0)
            places, numbers = indices[offsets[r] : offsets[r + 1]], values[offsets[r] : offsets[r + 1]]
            for k in range(places.size):
                places[k] = found[k]
                numbers[k] = x[r, found[k]]


@_loop
def turn(indices, offsets, values, cells, total, images, rows, turned, weights, starts):
    """Lists the non-zeros of each column of a block of ``images``: ``turned`` their cells, ``weights`` their values.

    Row r is place r % places of an image, which lies in cell ``cells[place]`` of ``total``.
    """
    places, columns = cells.size, starts.shape[1] - 1
    a_block = images * places
    for block in prange(starts.shape[0]):
        first, last = block * a_block, min(rows, block * a_block + a_block)
        ends = starts[block]
        for n in range(offsets[first], offsets[last]):
            ends[indices[n] + 1] += 1
        ends[0] = offsets[first]
        for column in range(columns):
            ends[column + 1] += ends[column]
        free = ends[:columns].copy()
        for r in range(first, last):
            cell = (r - first) // places * total + cells[(r - first) % places]
            for n in range(offsets[r], offsets[r + 1]):
                at = free[indices[n]]
                free[indices[n]] = at + 1
                turned[at] = cell
                weights[at] = values[n]


@_loop
def pack(weight, packed):
    """``weight`` ``[width, taps, n]`` as ``packed`` ``[spans, taps, n, span]``: one cache-sized block a span."""
    spans, taps, size, span = packed.shape
    width = weight.shape[0]
    groups = (size + 63) // 64
    for item in prange(spans * taps * groups):
        s, tap, i = item % spans, item // spans % taps, item // (spans * taps) * 64
        for n in range(i, min(size, i + 64)):
            for j in range(min(span, width - s * span)):
                packed[s, tap, n, j] = weight[s * span + j, tap, n]


@_loop
def gather(indices, offsets, values, table, places, packed, start, out):
    """out[image p] = start + sum over taps, and the non-zeros of the place each reads, of value * weight[tap, index].

    One tap after the other, for a block of rows, so that its weights stay near.
    """
    positions, taps = table.shape
    rows, width = out.shape
    spans = packed.shape[0]
    groups = (rows + 63) // 64
    for item in prange(spans * groups):
        s, first = item // groups, item % groups * 64
        last = min(rows, first + 64)
        sums = np.empty((64, SPAN), np.float32)
        for r in range(64):
            for j in range(SPAN):
                sums[r, j] = start[s, j]
        for tap in range(taps):
            weights = packed[s, tap]
            for r in range(first, last):
                place = table[r % positions, tap]
                if place >= 0:
                    source = r // positions * places + place
                    add_rows(weights, 0, indices, values, offsets[source], offsets[source + 1], sums[r - first])
        for r in range(first, last):
            o, found = out[r, s * SPAN : min(width, s * SPAN + SPAN)], sums[r - first]
            for j in range(o.size):
                o[j] = found[j]


@_loop
def scatter(turned, weights, starts, post, homes, total, images, shifts, parts, into):
    """into[:, column tap] += sum over the non-zeros of a column of value * post[position that the tap reads it for].

    Non-zeros as from `turn`. A block of ``post`` is laid out on the grid of ``total`` cells, position p in cell
    ``homes[p]``, so that tap k finds its position ``shifts[k]`` cells further on.
    """
    rows, width = post.shape
    positions, taps, blocks, columns = homes.size, shifts.size, starts.shape[0], starts.shape[1] - 1
    spans, a_part = (width + SPAN - 1) // SPAN, (columns + parts - 1) // parts
    for item in prange(spans * parts):
        low, first = item // parts * SPAN, item % parts * a_part
        high, last = min(width, low + SPAN), min(columns, first + a_part)
        near = np.zeros((images * total, SPAN), np.float32)
        sums = np.zeros((max(0, last - first) * taps, SPAN), np.float32)
        for block in range(blocks):
            begin = block * images * positions
            for r in range(begin, min(rows, begin + images * positions)):
                home = homes[(r - begin) % positions]
                if home >= 0:
                    kept, new = near[(r - begin) // positions * total + home, : high - low], post[r, low:high]
                    for j in range(kept.size):
                        kept[j] = new[j]
            for column in range(first, last):
                begin, end = starts[block, column], starts[block, column + 1]
                if begin < end:
                    for tap in range(taps):
                        add_rows(near, shifts[tap], turned, weights, begin, end, sums[(column - first) * taps + tap])
        for column in range(0, len(sums), 16):
            for j in range(low, high):
                grad = into[j, first * taps + column : first * taps + min(len(sums), column + 16)]
                for i in range(grad.size):
                    grad[i] += sums[column + i, j - low]
