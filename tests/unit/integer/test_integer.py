"""Integer OPZO: compiled loops bit for bit, no float, no overflow, unbiased rounding, and what M comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from onward.core.errors import ConfigError, ShapeError
from onward.integer import IntegerNetwork, Law, plain
from onward.integer.law import BYTE, WORD, check, worst
from onward.integer.network import ANSWER, LEARN
from onward.kernels.compiled import Use, using

SHIFTS = st.integers(1, 16)


@st.composite
def networks(draw: st.DrawFn) -> Callable[[], IntegerNetwork]:
    """Small networks with any scales whose traces fit."""
    leak = draw(st.integers(1, 3))
    law = Law(
        steps=2 * draw(st.integers(1, 3)),
        leak=leak,
        noise=draw(st.integers(0, 4)),
        window=draw(st.integers(0, 3)),
        spike=draw(st.integers(0, 6 - leak)),
        goal=draw(st.integers(0, 2000)),
        error=draw(st.integers(1, 6)),
        credit=draw(st.integers(1, 9)),
        gain=draw(st.integers(0, 8)),
        rho=draw(SHIFTS),
    )
    sizes = draw(st.lists(st.integers(1, 20), min_size=3, max_size=5))
    thresholds = [draw(st.integers(1, 3000)) for _ in sizes[1:-1]]
    rates, starts = [draw(SHIFTS) for _ in sizes[1:]], [draw(st.integers(0, BYTE)) for _ in sizes[1:]]
    seed = draw(st.integers(0, 2**32))
    return lambda: IntegerNetwork(sizes, law, thresholds, rates, starts, seed)


def samples(net: IntegerNetwork, count: int, seed: int = 0) -> tuple[ndarray, ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 16, (count, net.sizes[0])).astype(np.uint8) * rng.integers(0, 2, (count, 1), np.uint8)
    return images, rng.integers(0, net.sizes[-1], count)


def known(net: IntegerNetwork) -> list[ndarray]:
    return [*net.weights, *net.feedback, net.counts]


def test_the_compiled_loops_are_in_use() -> None:
    assert LEARN.works, LEARN.state
    assert ANSWER.works, ANSWER.state


@settings(deadline=None, max_examples=40)
@given(networks(), st.integers(0, 5))
def test_compiled_loops_are_their_plain_twins_bit_for_bit(make: Callable[[], IntegerNetwork], count: int) -> None:
    found: list[tuple[int, list[ndarray], ndarray]] = []
    for use in (Use.AUTO, Use.NEVER):
        net = make()
        images, labels = samples(net, count)
        with using(use):
            found.append((net.learn(images, labels), known(net), net.scores(images)))
    (right, tables, scores), (plain_right, plain_tables, plain_scores) = found
    assert right == plain_right
    assert all(map(np.array_equal, tables, plain_tables))
    assert np.array_equal(scores, plain_scores)


class Whole(ndarray):
    """An array that refuses to become anything but whole numbers and truth values."""

    def __array_finalize__(self, obj: Any) -> None:
        assert self.dtype.kind in "iub", f"an array of {self.dtype} came up"


def test_learning_and_answering_create_no_float() -> None:
    net = IntegerNetwork((12, 9, 8, 4), Law(credit=4), thresholds=(200, 60), rates=(3, 3, 3))
    images, labels = samples(net, 30)
    tables = plain.Tables([w.view(Whole) for w in net.weights], [m.view(Whole) for m in net.feedback])
    counts, scores = net.counts.view(Whole), np.zeros((30, 4), np.int32).view(Whole)
    thresholds, rates = net.thresholds.view(Whole), net.rates.view(Whole)
    before = [w.copy() for w in net.weights]
    plain.learn(images.view(Whole), labels.view(Whole), tables, net.law, thresholds, rates, 1, 0, counts)
    plain.answer(images.view(Whole), tables, net.law, thresholds, scores, counts)
    assert all(not np.array_equal(old, new) for old, new in zip(before, net.weights, strict=True))
    assert all(m.any() for m in net.feedback)
    with pytest.raises(AssertionError, match="float64"):
        _ = tables.weights[0] * 0.5


@pytest.mark.slow
def test_compiled_loops_compute_with_no_float() -> None:
    numba = pytest.importorskip("numba")
    from onward.kernels import integers

    net = IntegerNetwork((4, 3, 2))
    images, labels = samples(net, 1)
    flat = np.zeros(18, np.int8), np.zeros(6, np.int16)
    shared = np.array(net.sizes), *flat, net.law, net.thresholds, net.rates, np.uint64(1), 0, net.counts
    fresh = numba.njit(error_model="numpy")(integers.integer_learn.py_func)
    fresh(images, labels, *shared)
    (code,), (compiled,) = fresh.inspect_llvm().values(), fresh.overloads.values()
    assert "float" not in str(compiled.type_annotation)
    assert "add nsw" in code
    # numba's reshape compares sizes of arrays as doubles; nothing is computed with any
    assert not [word for word in ("fadd", "fsub", "fmul", "fdiv") if word in code[code.index("define") :]]


@pytest.mark.parametrize("weight", [BYTE, -BYTE])
@pytest.mark.parametrize("feedback", [WORD, -WORD])
@pytest.mark.parametrize("label", [0, 2])
def test_the_worst_inputs_fit_their_registers(
    weight: int, feedback: int, label: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything at its largest, in narrow registers and in wide ones: the same numbers."""
    law = Law(goal=WORD, error=1, credit=1, gain=8, spike=5, rho=1)
    found = []
    for short, wide in ((np.int16, np.int32), (np.int64, np.int64)):
        monkeypatch.setattr(plain, "SHORT", short)
        monkeypatch.setattr(plain, "WIDE", wide)
        net = IntegerNetwork((900, 60, 50, 3), law, thresholds=(1, WORD), rates=(1, 1, 16))
        weights = [np.full(w.shape, weight, np.int8 if short is np.int16 else np.int64) for w in net.weights]
        tables = plain.Tables(weights, [np.full(m.shape, feedback, short) for m in net.feedback])
        images = np.full((3, 900), 15, np.uint8 if short is np.int16 else np.int64)
        plain.learn(images, np.full(3, label), tables, law, net.thresholds, net.rates, 5, 0, net.counts)
        found.append([*tables.weights, *tables.feedback, net.counts])
        assert all(abs(w).max() <= BYTE for w in tables.weights)
        assert all(abs(m).max() <= WORD for m in tables.feedback)
    assert all(map(np.array_equal, *found))


@pytest.mark.parametrize("leak", range(1, 7))
def test_a_trace_stays_below_its_bound(leak: int) -> None:
    for added in range(1, (BYTE >> leak) + 1):
        trace = reached = 0
        for _ in range(2000):
            trace += added - (trace >> leak)
            reached = max(reached, trace)
        assert reached <= added << leak <= BYTE


@pytest.mark.parametrize("rho", [1, 7, 16])
def test_feedback_never_leaves_what_it_averages(rho: int) -> None:
    edges = np.array([-WORD, -WORD + 1, -5, -1, 0, 1, 5, WORD - 1, WORD], np.int32)
    m, d = edges[:, None, None], edges[None, :, None]
    bits = np.array([0, 1, (1 << rho) - 1])
    after = m + (d - m + bits >> rho)
    assert (after >= np.minimum(m, d)).all()
    assert (after <= np.maximum(m, d)).all()


def test_bounds_are_attained() -> None:
    law, net = Law(steps=2), IntegerNetwork((5, 4, 3), Law(steps=2), thresholds=(1,), starts=(0, 0))
    for weights in net.weights:
        weights[:] = BYTE
    bounds = {name: most for name, most, _ in worst(law, net.sizes, [1], [12, 12])}
    assert net.scores(np.full((1, 5), 15, np.uint8)).tolist() == [[2 * 4 * BYTE] * 3]
    assert bounds["the readout's sum"] == 2 * (4 * BYTE + law.goal) + (1 << law.error)
    assert bounds["a membrane"] == 5 * 15 * BYTE + WORD + 2


@pytest.mark.parametrize("product", [-16129, -300, -1, 0, 1, 77, 16129])
def test_rounding_is_unbiased(product: int) -> None:
    shift = 9
    bits = plain._bits(11, 12, np.zeros((400, 500), np.int8), shift)
    rounded = product + bits >> shift
    share = product / 2**shift % 1
    assert set(np.unique(rounded)) <= {product >> shift, (product >> shift) + 1}
    assert abs(rounded.mean() - product / 2**shift) < 5 * (share * (1 - share) / bits.size) ** 0.5 + 1e-12


def test_bits_of_two_weights_are_independent_whether_or_not_they_share_a_neuron() -> None:
    """2,000 draws of a small layer: sums of roundings have the variance of independent ones."""
    draws = np.stack([plain._bits(2 * n + 100, 2 * n + 101, np.zeros((6, 5), np.int8), 4) for n in range(4000)])
    up = (draws >= 11).reshape(4000, -1).astype(float)
    correlation = np.corrcoef(up.T) - np.eye(30)
    assert abs(correlation).max() < 5 / 4000**0.5
    sums, one = up.sum(1).var(), up.var(0).sum()
    assert sums == pytest.approx(one, rel=0.12)


def test_feedback_comes_to_point_where_the_readout_points() -> None:
    """M estimates what a neuron does to the readout; of the last hidden layer that is its row of W."""
    net = IntegerNetwork((20, 40, 10), Law(noise=1), (1500,), rates=(16, 16), starts=(24, 60), seed=3)
    images, labels = samples(net, 20_000)
    fixed = [w.copy() for w in net.weights]
    for start in range(0, len(images), 100):
        net.learn(images[start : start + 100], labels[start : start + 100])
        for weights, kept in zip(net.weights, fixed, strict=True):
            weights[:] = kept
    w, m = fixed[-1].astype(float), net.feedback[0].T.astype(float)
    cosine = (w * m).sum(1) / np.linalg.norm(w, axis=1) / np.linalg.norm(m, axis=1)
    most = np.linalg.norm(m, axis=1).argsort()[-10:]  # others hardly ever fire
    assert cosine[most].min() > 0.95


def test_nothing_moves_but_feedback_where_the_answer_is_right_by_far() -> None:
    net = IntegerNetwork((4, 6, 2), Law(goal=1), thresholds=(100,))
    net.weights[0][:] = 60
    net.weights[1][:, 0], net.weights[1][:, 1] = 90, -90
    before = [w.copy() for w in net.weights]
    net.learn(np.full((5, 4), 15, np.uint8), np.zeros(5, np.int64))
    assert all(map(np.array_equal, before, net.weights))
    assert net.counts[plain.LESSONS] == 0
    assert net.counts[plain.CHANGES] == 0


def test_learning_in_parts_is_learning_at_once() -> None:
    one, two = (IntegerNetwork((12, 9, 4), thresholds=(300,)) for _ in range(2))
    images, labels = samples(one, 30)
    right = one.learn(images, labels)
    assert two.learn(images[:7], labels[:7]) + two.learn(images[7:], labels[7:]) == right
    assert all(map(np.array_equal, known(one), known(two)))


def test_seeds_start_and_learn_differently() -> None:
    nets = [IntegerNetwork((12, 9, 4), thresholds=(300,), seed=seed) for seed in (0, 0, 1)]
    images, labels = samples(nets[0], 30)
    for net in nets:
        assert abs(net.weights[0]).max() <= 24
        net.learn(images, labels)
    assert all(map(np.array_equal, known(nets[0]), known(nets[1])))
    assert not np.array_equal(nets[0].weights[0], nets[2].weights[0])


def test_slower_halves_rates_until_random_bits_run_out() -> None:
    net = IntegerNetwork((4, 3, 2), rates=(15, 16))
    with pytest.raises(ConfigError, match="a shift of 17 was given for a learning rate; expected 1 to 16"):
        net.slower()
    assert net.rates.tolist() == [15, 16]


@pytest.mark.parametrize(
    ("sizes", "law", "changes", "message"),
    [
        ((4, 2), Law(), {}, "layers of \\[4, 2\\]"),
        ((4, 0, 2), Law(), {}, "layers of"),
        ((4, 3, 2), Law(steps=5), {}, "5 time steps were given; noise comes in pairs"),
        ((4, 3, 2), Law(leak=0), {}, "a shift of 0 was given for leak"),
        ((4, 3, 2), Law(levels=8), {}, "an input's trace can reach 510, and its register holds 127"),
        ((4, 3, 2), Law(spike=6), {}, "a spike's trace can reach 128"),
        ((4, 3, 2), Law(), {"thresholds": (40_000,)}, "a threshold can reach 40,000"),
        ((4, 3, 600), Law(), {}, "a credit can reach"),
        ((2_000_000, 1, 2), Law(), {}, "a membrane can reach"),
        ((4, 40_000, 2), Law(gain=8), {}, "the readout's difference can reach"),
        ((4, 3, 2), Law(), {"rates": (3,)}, "1 thresholds and 1 rates were given for 1 hidden layers"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, ...], law: Law, changes: dict, message: str) -> None:
    hidden = max(0, len(sizes) - 2)
    given = {"thresholds": (8,) * hidden, "rates": (8,) * (len(sizes) - 1), **changes}
    with pytest.raises(ConfigError, match=message):
        check(law, sizes, **given)


def test_inputs_of_another_kind_are_refused() -> None:
    net, labels = IntegerNetwork((4, 3, 2)), np.zeros(2, np.int64)
    with pytest.raises(ShapeError, match=r"images \[2, 5\] of uint8 were given; expected \[S, 4\] of uint8"):
        net.learn(np.zeros((2, 5), np.uint8), labels)
    with pytest.raises(ShapeError, match="of float64"):
        net.scores(np.zeros((2, 4)))
    with pytest.raises(ConfigError, match="an input of 16 was given; expected 0 to 15"):
        net.scores(np.full((2, 4), 16, np.uint8))
    with pytest.raises(ShapeError, match="expected one for each"):
        net.learn(np.zeros((3, 4), np.uint8), labels)
    with pytest.raises(ConfigError, match="labels 0 to 2 were given; expected 0 to 1"):
        net.learn(np.zeros((2, 4), np.uint8), np.array([0, 2]))
    with pytest.raises(ConfigError, match="weights that start within 200"):
        IntegerNetwork((4, 3, 2), starts=(200, 1))
