"""Products that leave out the exact zeros of posts: the same numbers, and nothing to pay where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onward
from onward.core import products
from onward.core.containers import Residual
from onward.core.glue import Scale
from onward.core.network import Network
from onward.core.products import deposit, drive, few_posts, transpose
from onward.core.signal import dense
from onward.core.trace import Trace
from onward.kernels import sparse
from onward.kernels.compiled import Use, using
from onward.kernels.rows import SparseRows, sparse_rows
from onward.neurons import LI, AdaptiveLIF, CubaLIF
from onward.surrogates import LocalZO, Sigmoid, Surrogate, Triangle


@pytest.fixture(autouse=True)
def _always() -> Iterator[None]:
    with using(Use.ALWAYS):
        yield


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sparse products of posts that were taken."""
    found: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        product = getattr(products, name)

        def note(*arguments: Any) -> Any:
            found.append(name)
            return product(*arguments)

        return note

    for name in ("scatter_posts", "gather"):
        monkeypatch.setattr(products, name, noted(name))
    return found


def random(*shape: int, seed: int = 0, share: float = 1.0) -> Tensor:
    """Normal numbers, maps channels last in memory, of which a ``share`` is not zero."""
    generator = torch.Generator().manual_seed(seed)
    laid = (*shape[:2], *shape[3:], shape[2])
    x = torch.randn(laid, generator=generator) * (torch.rand(laid, generator=generator) < share)
    return x.movedim(-1, 2)


def listed(x: Tensor) -> SparseRows:
    with using(Use.ALWAYS):
        rows = sparse_rows(x, most=1.0)
    assert rows is not None
    return rows


LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Linear(300, 170), (300,)),
    (lambda: nn.Linear(40, 330, bias=False), (40,)),
    (lambda: nn.Conv1d(5, 7, 3, padding=1), (5, 9)),
    (lambda: nn.Conv1d(5, 7, 2, stride=3), (5, 9)),
    (lambda: nn.Conv2d(5, 7, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (5, 7, 8)),
    (lambda: nn.Conv2d(5, 7, 2, stride=3, padding=2, bias=False), (5, 9, 8)),
    (lambda: nn.Conv2d(1, 70, 3, padding=1, bias=False), (1, 6, 4)),
    (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


def gradient(module: nn.Module, pre: Any, post: Any) -> Tensor:
    into = {name: torch.zeros_like(p) for name, p in weights(module).items()}
    deposit(module, weights(module), pre, post, into)
    return into["weight"]


@pytest.mark.parametrize(("make", "features"), LAYERS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_products_with_few_posts_are_those_in_float64(
    make: Callable[[], nn.Module], features: tuple[int, ...], share: float, taken: list[str]
) -> None:
    torch.manual_seed(0)
    module = make()
    params, exact = weights(module), {name: p.double() for name, p in weights(module).items()}
    x = random(3, 5, *features)
    post = random(*drive(module, params, x).shape, seed=5, share=share)
    wanted = transpose(module, exact, post.double(), x.double())
    assert torch.allclose(transpose(module, params, listed(post), x).double(), wanted, atol=1e-5)
    into = {"weight": torch.zeros_like(exact["weight"])}
    deposit(module, exact, x.double(), post.double(), into)
    assert torch.allclose(gradient(module, x, listed(post)).double(), into["weight"], atol=1e-4)
    assert taken == ["gather", "scatter_posts"]


def test_groups_and_other_numbers_stay_dense(taken: list[str]) -> None:
    grouped, x = nn.Conv2d(4, 6, 3, groups=2), random(2, 3, 4, 5, 5)
    post = random(2, 3, 6, 3, 3, share=0.1)
    assert torch.equal(gradient(grouped, x, listed(post)), gradient(grouped, x, post))
    back = transpose(grouped, weights(grouped), listed(post), x)
    assert torch.equal(back, transpose(grouped, weights(grouped), post, x))
    linear, x, post = nn.Linear(6, 4), random(2, 3, 6), random(2, 3, 4, share=0.1)
    short = {name: p.to(torch.bfloat16) for name, p in weights(linear).items()}
    assert torch.equal(transpose(linear, short, listed(post), x), transpose(linear, short, post, x))
    assert not taken


@pytest.mark.parametrize(
    ("pre", "taken_alone"),
    [
        (random(3, 5, 60), True),
        (listed(random(3, 5, 60, share=0.5)), True),
        (listed(random(3, 5, 60, share=0.05)), False),
        (random(1, 5, 60).expand(3, 5, 60), False),
        (SparseRows.events(torch.zeros(0), torch.zeros(16, dtype=torch.int64), (3, 5, 60), torch.zeros(0)), False),
    ],
)
def test_zeros_of_posts_are_left_out_where_that_saves_most(pre: Tensor | SparseRows, taken_alone: bool) -> None:
    """They do not where the input has fewer non-zeros, stands still, or comes as events."""
    module, post = nn.Linear(60, 90), random(3, 5, 90, seed=1, share=0.2)
    found = few_posts(module, weights(module), pre, post)
    assert isinstance(found, SparseRows) is taken_alone
    assert torch.equal(dense(found), post)
    assert torch.allclose(gradient(module, pre, found), gradient(module, dense(pre), post), atol=1e-5)


@pytest.mark.parametrize("pre", [random(5, 3, 60), random(1, 3, 60).expand(5, 3, 60), random(5, 3, 60, share=0.05)])
@pytest.mark.parametrize("before", [None, random(1, 3, 60, seed=9)[0]])
def test_a_trace_gives_the_same_deposit_for_few_posts(pre: Tensor, before: Tensor | None) -> None:
    module, post = nn.Linear(60, 90), random(5, 3, 90, seed=1, share=0.2)
    read = pre if pre.stride(0) == 0 else listed(pre)
    for x in (pre, read):
        wanted, found = (torch.zeros(90, 60) for _ in range(2))
        for a, d in zip(Trace(pre, 0.8, before).dense(), post, strict=True):
            wanted += d.T @ a
        for factor, memory in Trace(x, 0.8, before).terms(listed(post)):
            deposit(module, weights(module), factor, memory, {"weight": found})
        assert torch.allclose(found, wanted, atol=1e-4)


def test_memory_fills_no_zeros_of_posts() -> None:
    few = listed(random(5, 3, 90, seed=1, share=0.2))
    for x in (random(5, 3, 60), listed(random(5, 3, 60, share=0.5))):
        ((_, post),) = Trace(x, 0.8, None).terms(few)
        assert post is few


def flat(surrogate: Callable[[], Surrogate]) -> nn.Sequential:
    hidden = (onward.LIF(surrogate=surrogate()) for _ in range(2))
    return nn.Sequential(nn.Linear(50, 60), next(hidden), nn.Linear(60, 70), next(hidden), nn.Linear(70, 3))


def maps(surrogate: Callable[[], Surrogate]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        onward.LIF(surrogate=surrogate()),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        Scale(2.0),
        onward.LIF(surrogate=surrogate()),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def learned(body: nn.Sequential, x: onward.Sequence, rule: str, use: Use) -> dict[str, Tensor]:
    """Gradients of one sequence."""
    torch.manual_seed(0)
    for module in body:
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
            module.weight.data *= 3
    net, built, draws = Network(body), onward.rules.build(rule), onward.KeyedDraws(0)
    objective, sink, y = onward.PerStep(onward.CrossEntropy()), onward.GradSink(net), torch.tensor([0, 1, 2, 1])
    built.bind(net, objective, x, draws)
    with using(use):
        onward.run_sequence(net, built, objective, x, y, sink, draws=draws, chunk=3)
        sink.flush()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


FRAMES = onward.Frames(random(6, 4, 50, seed=3, share=0.5))
IMAGES = onward.Frames(random(6, 4, 2, 8, 8, seed=3, share=0.5))


@pytest.mark.parametrize("rule", ["sltt", "ottt", "sltt-k", "opzo", "dfa", "fa", "bptt"])
@pytest.mark.parametrize("surrogate", [lambda: LocalZO(0.1, 1), lambda: Triangle(5.0)])
@pytest.mark.parametrize(("make", "x"), [(flat, FRAMES), (maps, IMAGES)])
def test_ZL9_rules_learn_the_same_without_the_zeros(
    rule: str,
    surrogate: Callable[[], Surrogate],
    make: Callable[[Callable[[], Surrogate]], nn.Sequential],
    x: onward.Sequence,
    taken: list[str],
) -> None:
    plain = learned(make(surrogate), x, rule, Use.NEVER)
    taken.clear()
    for name, grad in learned(make(surrogate), x, rule, Use.ALWAYS).items():
        assert torch.allclose(grad, plain[name], atol=5e-6 * max(1.0, float(plain[name].abs().max()))), name
    assert ("scatter_posts" in taken) is (rule != "bptt")


@pytest.mark.parametrize(
    ("surrogate", "rule", "looks"),
    [(Sigmoid, "sltt", False), (Triangle, "bptt", False), (Triangle, "sltt", True), (Triangle, "opzo", True)],
)
def test_nobody_looks_for_zeros_where_there_are_none(
    surrogate: Callable[[], Surrogate], rule: str, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def look(x: Tensor, most: float) -> SparseRows | None:
        seen.append(x)
        return sparse_rows(x, most)

    monkeypatch.setattr(products, "sparse_rows", look)
    learned(flat(surrogate), FRAMES, rule, Use.ALWAYS)
    assert bool(seen) is looks


def test_neurons_say_whether_their_slopes_have_exact_zeros() -> None:
    few, many = onward.LIF(surrogate=Triangle()), onward.LIF(surrogate=Sigmoid())
    assert few.exact_zeros
    assert not many.exact_zeros
    assert not LI().exact_zeros
    for around in (CubaLIF, AdaptiveLIF):
        assert around(few).exact_zeros
        assert not around(many).exact_zeros


def lif() -> nn.Module:
    return onward.LIF(surrogate=Triangle())


READOUT = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("behind", "kept"),
    [
        ([lif(), READOUT], True),
        ([Scale(2.0), nn.Dropout(0.5), nn.ReLU(), lif(), READOUT], True),
        ([Residual(nn.Sequential(lif(), nn.Linear(4, 4))), lif(), READOUT], True),
        ([lif()], True),
        ([nn.BatchNorm1d(4), lif(), READOUT], False),
        ([nn.LayerNorm(4), lif(), READOUT], False),
        ([nn.Linear(4, 4), lif(), READOUT], False),
        ([onward.LIF(), READOUT], False),
        ([LI()], False),
        ([Residual(nn.Sequential(onward.LIF(), nn.Linear(4, 4))), lif(), READOUT], False),
        ([Residual(nn.Sequential(lif(), nn.Linear(4, 4)))], False),
        ([], False),
    ],
)
def test_a_network_knows_where_zeros_arrive(behind: list[nn.Module], kept: bool) -> None:
    net = Network(nn.Sequential(nn.Linear(4, 4), *behind))
    assert net.exact_zeros(net.synapses[0]) is kept


def test_above_the_share_at_which_times_meet_products_stay_dense(
    monkeypatch: pytest.MonkeyPatch, taken: list[str]
) -> None:
    module, x, post = nn.Linear(60, 90), random(3, 5, 60), listed(random(3, 5, 90, share=0.2))
    for share, expected in (("0.3", ["gather", "scatter_posts"]), ("0.1", [])):
        for below in (sparse.GATHER_POSTS_BELOW, sparse.SCATTER_POSTS_BELOW):
            monkeypatch.setattr(below, "answer", lambda size, find, share=share: share)
        with using(Use.AUTO):
            transpose(module, weights(module), post, x)
            gradient(module, x, post)
        assert taken == expected
        taken.clear()
