"""Compiled loops against their plain twins, and what happens where they cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import onward
from onward.core.products import deposit, drive
from onward.core.trace import Trace
from onward.kernels import compiled, dense
from onward.kernels.compiled import KERNELS, Kernel, KernelWarning, Use, using
from onward.kernels.feedback import Feedback, correlate
from onward.kernels.fire import Recurrence, Shape, fire, membrane
from onward.kernels.rows import SparseRows, sparse_rows
from onward.kernels.signs import normals, plain_normals, plain_signs, signs
from onward.surrogates import Rectangle, Sigmoid, Surrogate, Triangle


@pytest.fixture(autouse=True)
def _always() -> Iterator[None]:
    with using(Use.ALWAYS):
        yield


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mostly_zero(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).relu() * (random(*shape, seed=seed + 1) > 1)


def last(x: Tensor) -> Tensor:
    """The same maps ``[K, B, C, ...]``, channels last in memory."""
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


@pytest.mark.parametrize("surrogate", [Sigmoid(4.0), Triangle(1.0), Triangle(0.5), Rectangle(1.0)])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 5), (6, 2, 4097), (3, 2, 3, 4, 5)])
def test_firing_is_its_plain_twin(surrogate: Surrogate, hard: bool, shape: tuple[int, ...]) -> None:
    law = Recurrence(0.7, 1.3, 0.05, 0.9, hard, -0.2 if hard else 0.9, 1.5)
    x, v = random(*shape), random(*shape[1:], seed=3)
    if len(shape) > 3:
        x, v = last(x), last(v[None])[0]
    found = fire(x, v, law, surrogate.shape)
    assert found is not None
    h, s, after = membrane(x, v, law)
    assert torch.equal(found[0], 1.5 * s)
    assert torch.allclose(found[1], 1.3 * 1.5 * surrogate(h - 0.9), atol=3e-6)
    assert torch.allclose(found[2], after, atol=1e-5)
    assert found[0].stride() == x.stride()


def test_firing_reads_a_frame_seen_many_times() -> None:
    law, frame, v = Recurrence(0.5, 1.0, 0.0, 1.0, False, 1.0, 1.0), random(1, 2, 40), torch.zeros(2, 40)
    one, many = (fire(x, v, law, Shape("sigmoid", 4.0)) for x in (frame.expand(5, 2, 40), frame.repeat(5, 1, 1)))
    assert one is not None
    assert many is not None
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_firing_keeps_nan_and_infinity_visible() -> None:
    x = torch.tensor([[[0.5, torch.nan, torch.inf, -torch.inf]]])
    found = fire(x, torch.zeros(1, 4), Recurrence(0.5, 1.0, 0.0, 1.0, False, 1.0, 1.0), Shape("sigmoid", 4.0))
    assert found is not None
    assert found[2].isfinite().tolist() == [[True, False, False, False]]


def test_firing_leaves_other_surrogates_and_layouts_to_torch() -> None:
    law = Recurrence(0.5, 1.0, 0.0, 1.0, False, 1.0, 1.0)
    assert fire(random(2, 2, 8), torch.zeros(2, 8), law, Shape("", 0.0)) is None
    assert fire(random(2, 2, 16)[..., ::2], torch.zeros(2, 8), law, Shape("sigmoid", 4.0)) is None
    assert fire(random(2, 2, 8).double(), torch.zeros(2, 8).double(), law, Shape("sigmoid", 4.0)) is None


@given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**62))
def test_signs_and_normal_numbers_are_those_of_their_plain_twins(n: int, rows: int, seed: int) -> None:
    keys = torch.arange(rows) * 0x9E3779B9 - seed
    with using(Use.ALWAYS):
        assert torch.equal(signs(keys, n, torch.float32), plain_signs(keys, n, torch.float32))
        assert torch.allclose(normals(keys, n, torch.float32), plain_normals(keys, n, torch.float32), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 33), (1, 2, 3, 5, 4)])
@pytest.mark.parametrize("width", [1, 2, 3, 10])
def test_feedback_meets_the_slope_as_its_plain_twin(shape: tuple[int, ...], width: int) -> None:
    slope, error, matrix = random(*shape), random(*shape[:2], width), random(slope_size(shape), width, seed=2)
    slope = last(slope) if len(shape) > 3 else slope
    found = Feedback(error, matrix)
    assert torch.allclose(found.times(slope), found.dense(slope) * slope, atol=1e-5)


def slope_size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape[2:]).numel()


def test_correlations_are_summed_by_halves_in_the_order_of_features_whatever_the_memory() -> None:
    z, o = random(3, 4, 5, 2, 3), random(3, 4, 7, seed=1)
    for laid in (z, last(z), z[:, :1].expand_as(z)):
        for half in (0, 1, 3, 4):
            parts = [(laid[:, :half], o[:, :half]), (laid[:, half:], o[:, half:])]
            expected = [a.flatten(2).flatten(0, 1).T @ b.flatten(0, 1) for a, b in parts]
            assert torch.allclose(correlate(laid, o, half), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 300), (2, 2, 5, 6, 7)])
def test_sparse_rows_are_the_dense_chunk(shape: tuple[int, ...]) -> None:
    x = mostly_zero(*shape)
    x = last(x) if len(shape) > 3 else x
    rows = sparse_rows(x, most=1.0)
    assert rows is not None
    assert torch.equal(rows.dense(), x)
    assert torch.equal(rows[1:].dense(), x[1:])
    assert sparse_rows(x, most=float((x != 0).float().mean()) / 2) is None


LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(300, 170), (300,)),
    (lambda: nn.Linear(40, 330, bias=False), (40,)),
    (lambda: nn.Conv1d(5, 7, 3, padding=1), (5, 9)),
    (lambda: nn.Conv2d(5, 7, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (5, 7, 8)),
    (lambda: nn.Conv2d(5, 7, 3, padding=1, bias=False), (5, 6, 4)),
    (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
]


@pytest.mark.parametrize(("make", "features"), LAYERS)
def test_sparse_products_are_the_dense_ones(make: Callable[[], nn.Module], features: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = make()
    params = {name: p.detach() for name, p in module.named_parameters()}
    x = mostly_zero(2, 3, *features)
    x = last(x) if len(features) > 1 else x
    rows = sparse_rows(x, most=1.0)
    assert rows is not None
    expected = drive(module, params, x)
    assert torch.allclose(drive(module, params, rows), expected, atol=1e-5)
    post = random(*expected.shape, seed=5)
    sparse, plain = ({k: torch.zeros_like(p) for k, p in params.items()} for _ in range(2))
    deposit(module, params, rows, post, sparse)
    deposit(module, params, x, post, plain)
    for name in plain:
        assert torch.allclose(sparse[name], plain[name], atol=1e-4)


def test_a_trace_gives_the_same_deposit_on_either_side() -> None:
    module = nn.Linear(6, 4)
    params = {name: p.detach() for name, p in module.named_parameters()}
    post, before = random(5, 3, 4), random(3, 6, seed=9)
    for x in (random(5, 3, 6, seed=1), random(1, 3, 6, seed=2).expand(5, 3, 6), random(5, 3, 6, seed=1)[..., :6]):
        for start in (None, before):
            trace = Trace(x, 0.8, start)
            wanted, found = torch.zeros(4, 6), {"weight": torch.zeros(4, 6)}
            for a, d in zip(trace.dense(), post, strict=True):
                wanted += d.T @ a
            for pre, memory in trace.terms(post):
                deposit(module, params, pre, memory, found)
            assert torch.allclose(found["weight"], wanted, atol=1e-5)
            assert torch.allclose(trace.last(), trace.dense()[-1], atol=1e-6)


@pytest.mark.parametrize("rule", ["opzo", "ottt", "sltt", "sltt-k", "dfa", "zo", "fa", "bptt"])
@pytest.mark.parametrize("chunk", [1, 3, 6])
def test_rules_learn_the_same_with_and_without_kernels(rule: str, chunk: int) -> None:
    """Gradients agree to rounding on events, dense frames and maps; a chunk changes nothing either."""
    for found, plain in pairwise((gradients(rule, chunk, Use.ALWAYS), gradients(rule, 6, Use.NEVER))):
        for name, grad in plain.items():
            assert torch.allclose(found[name], grad, atol=2e-5 * max(1.0, float(grad.abs().max()))), name


def gradients(rule: str, chunk: int, use: Use) -> dict[str, Tensor]:
    """Gradients of two sequences of one network for events, one for images."""
    found = {}
    active = mostly_zero(6 * 4, 50, seed=7) != 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), active.sum(1).cumsum(0)])
    events = onward.Events(active.nonzero()[:, 1], offsets, 6, 4, (50,))
    images = onward.Static(random(4, 2, 8, 8), 6)
    flat = nn.Sequential(nn.Linear(50, 30), onward.LIF(), nn.Linear(30, 20), onward.LIF(), nn.Linear(20, 3))
    maps = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        onward.LIF(surrogate=Triangle()),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        onward.LIF(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    for kind, body, x in (("flat", flat, events), ("maps", maps, images)):
        torch.manual_seed(0)
        for module in body:
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
                module.weight.data *= 3
        net = onward.Network(body)
        built, draws, sink = onward.rules.build(rule), onward.KeyedDraws(0), onward.GradSink(net)
        objective, y = onward.PerStep(onward.CrossEntropy()), torch.tensor([0, 1, 2, 1])
        built.bind(net, objective, x, draws)
        with using(use):
            for sequence in range(2):
                onward.run_sequence(net, built, objective, x, y, sink, draws=draws, sequence=sequence, chunk=chunk)
                sink.flush()
        found |= {f"{kind} {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels made in a test are forgotten after it."""
    for name in KERNELS:
        monkeypatch.setitem(KERNELS, name, KERNELS[name])


@pytest.mark.usefixtures("_registry")
def test_a_kernel_that_fails_its_check_is_off_with_one_warning() -> None:
    kernel = Kernel("count", lambda: False)
    with pytest.warns(KernelWarning, match="'count' is off: its results differ from those of plain torch"):
        assert not kernel.works
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernel.serves(torch.zeros(3))
    assert kernel.state.startswith("off")


@pytest.mark.usefixtures("_registry")
def test_a_kernel_that_cannot_be_compiled_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise TypeError("no such instruction\nand more")

    monkeypatch.setattr(compiled, "_compiled_loops", fails)
    with pytest.warns(KernelWarning, match=r"cannot be compiled \(TypeError: no such instruction\)"):
        assert not Kernel("count", lambda: True).works


@pytest.mark.usefixtures("_registry")
def test_without_numba_plain_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(compiled, "_compiled_loops", missing)
    compiled._without_numba.cache_clear()
    kernels = [Kernel("count", lambda: True) for _ in range(2)]
    with pytest.warns(KernelWarning, match=r"numba cannot be used \(No module named 'numba'\)") as said:
        assert not any(kernel.works for kernel in kernels)
    assert len(said) == 1


def test_kernels_can_be_asked_for_or_left_out() -> None:
    kernel = KERNELS["fire"]
    with using(Use.NEVER):
        assert not kernel.serves(torch.zeros(10**5))
    with using(Use.AUTO):
        assert not kernel.serves(torch.zeros(3))
        assert kernel.serves(torch.zeros(10**5))
    assert kernel.serves(torch.zeros(3))
    assert not kernel.serves(torch.zeros(3), torch.zeros(3, dtype=torch.float64))


def test_an_unknown_use_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_KERNELS", "sometimes")
    with pytest.warns(KernelWarning, match="expected auto, always or never"):
        assert compiled._from_environment() is Use.AUTO


def test_sparse_rows_of_events_need_no_dense_tensor() -> None:
    rows = SparseRows.events(torch.tensor([2, 0, 3]), torch.tensor([0, 1, 1, 3]), (3, 1, 4), torch.ones(3))
    assert rows.dense().flatten(1).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert (len(rows), rows.dim(), rows.inner) == (3, 3, 4)


@pytest.mark.parametrize(("make", "features"), LAYERS)
def test_products_in_bf16_are_those_of_rounded_factors(
    make: Callable[[], nn.Module], features: tuple[int, ...]
) -> None:
    """Factors are rounded to 8 bits, sums are not: relative error 2^-8 at most, whichever way is taken."""
    torch.manual_seed(0)
    module = make()
    exact = {name: p.detach() for name, p in module.named_parameters()}
    rounded = {name: p if name == "bias" else p.to(torch.bfloat16) for name, p in exact.items()}
    x = mostly_zero(2, 3, *features)
    expected = drive(module, {k: p.float() for k, p in rounded.items()}, x.to(torch.bfloat16).float())
    found = drive(module, rounded, x)
    assert found.dtype is torch.float32
    assert torch.allclose(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    post = random(*expected.shape, seed=5)
    into, plain = ({k: torch.zeros_like(p) for k, p in exact.items()} for _ in range(2))
    deposit(module, rounded, x, post, into)
    deposit(module, exact, x, post, plain)
    for name in plain:
        assert (into[name] - plain[name]).norm() <= 0.01 * plain[name].norm()


def test_every_way_of_a_product_in_bf16_agrees() -> None:
    for choice in (dense.SHORT_LINEAR, dense.SHORT_OUTER):
        x, weight = random(64, 40), random(30, 40, seed=1).to(torch.bfloat16)
        results = []
        for way in choice.ways.values():
            if choice is dense.SHORT_LINEAR:
                results.append(way(x, weight, random(30, seed=2)))
            else:
                into = torch.ones(30, 40)
                way(random(64, 30, seed=3), x, into, torch.bfloat16)
                results.append(into)
        for other in results[1:]:
            assert (other - results[0]).norm() <= 0.01 * results[0].norm()


def test_a_sink_may_multiply_in_bf16_and_sums_in_float32() -> None:
    found = {}
    for products in (None, torch.bfloat16):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(50, 30), onward.LIF(), nn.Linear(30, 3))
        net, draws = onward.Network(body), onward.KeyedDraws(0)
        x, y = onward.Static(random(8, 50), 6), torch.arange(8) % 3
        rule, objective = onward.rules.build("ottt"), onward.PerStep(onward.CrossEntropy())
        rule.bind(net, objective, x, draws)
        sink = onward.GradSink(net, products)
        onward.run_sequence(net, rule, objective, x, y, sink, draws=draws)
        sink.flush()
        found[products] = net.get_parameter("2.weight").grad
    exact, short = found[None], found[torch.bfloat16]
    assert exact is not None
    assert short is not None
    assert short.dtype is torch.float32
    assert 0 < (short - exact).norm() < 0.2 * exact.norm()
