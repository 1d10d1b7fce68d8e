"""What is traced of a rule is what theory says of it, and what its traits claim."""

from __future__ import annotations

from functools import cache

import pytest

from onward.explain import Explanation, explain
from onward.explain.equations import GRID
from onward.explain.growth import STEPS as GROWN
from onward.explain.tiny import STEPS
from onward.explain.trace import FOCUS, Head, Matrix
from onward.rules import rules

CHEAPER = {"es": ("--rule.directions", "2")}
EVERY = [*rules.names(), *(name for grid in GRID.values() for name in grid.names() if name not in rules.names())]
explained = cache(lambda *asked: explain(*asked))


def of(name: str) -> Explanation:
    return explained(name, *CHEAPER.get(name, ()))


def nonzero(matrix: Matrix) -> set[tuple[int, int]]:
    return {(s, t) for s, row in enumerate(matrix) for t, value in enumerate(row) if value}


DIAGONAL = {(t, t) for t in range(STEPS)}
UPPER = {(s, t) for t in range(STEPS) for s in range(t + 1)}


@pytest.mark.parametrize(
    ("asked", "time", "pairs", "posts"),
    [
        (("bptt",), "back in time", UPPER, UPPER),
        (("bptt", "--model", "feedback"), "back in time", UPPER, UPPER),
        (("ottt",), "trace", UPPER, DIAGONAL),
        (("sltt",), "instant", DIAGONAL, DIAGONAL),
        (("dfa",), "trace", UPPER, DIAGONAL),
        (("dfa", "--rule.temporal", "sltt"), "instant", DIAGONAL, DIAGONAL),
        (("opzo",), "trace", UPPER, DIAGONAL),
        (("eprop",), "trace", UPPER, DIAGONAL),
    ],
)
def test_which_spikes_meet_which_errors(asked: tuple[str, ...], time: str, pairs: set, posts: set) -> None:
    route = explained(*asked).traced.routes[FOCUS]
    assert route.time == time
    assert nonzero(route.pairs) == pairs
    assert nonzero(route.posts) <= posts


def test_a_trace_fades_as_the_membrane_does() -> None:
    """a[t] = lam a[t-1] + s[t]: a spike meets the error of t at lam^(t-s)."""
    pairs = explained("online", "--neuron.decay", "0.25").traced.routes[FOCUS].pairs
    for t in range(1, STEPS):
        assert [pairs[s][t] / pairs[t][t] for s in range(t + 1)] == pytest.approx(
            [0.25 ** (t - s) for s in range(t + 1)]
        )


def test_the_reference_and_the_exact_trace_differ_in_inputs_and_readout() -> None:
    assert [route.time for route in of("ottt").traced.routes] == ["instant", "trace", "trace", "trace"]
    assert [route.time for route in of("online").traced.routes] == ["trace", "trace", "trace", "instant"]


def test_some_steps_take_part_in_sltt_k() -> None:
    found = explained("sltt-k", "--rule.k", "2").traced
    assert sum(found.lit) == 2
    assert found.lit[found.step]


@pytest.mark.parametrize(
    ("name", "through", "direct", "told", "read"),
    [
        ("bptt", True, False, "errors", "weights"),
        ("ottt", True, False, "errors", "weights"),
        ("dsr", True, False, "errors", "weights"),
        ("ide", True, False, "errors", "weights"),
        ("sign-symmetric", True, False, "errors", "signs"),
        ("fa", True, False, "errors", "nothing"),
        ("dfa", False, True, "errors", "nothing"),
        ("opzo", False, True, "errors", "nothing"),
        ("zo", False, True, "loss", "nothing"),
        ("mezo", False, False, "errors", "nothing"),
    ],
)
def test_how_errors_reach_a_layer(name: str, through: bool, direct: bool, told: str, read: str) -> None:
    found = of(name).traced
    assert (found.through, found.direct, found.told, found.read) == (through, direct, told, read)


@pytest.mark.parametrize("neuron", ["adaptive-lif", "cuba-lif", "relu"])
def test_ways_are_told_apart_whatever_the_neuron(neuron: str) -> None:
    assert explained("sltt", "--neuron", neuron).traced.through
    assert not explained("dfa", "--neuron", neuron).traced.through


def test_feedback_that_stays_that_is_learned_and_that_is_renewed() -> None:
    assert "matrices B that stay as drawn" in of("dfa").told.transported[0]
    assert "matrices B that are learned" in of("dkp").told.transported[0]
    assert "matrices M that every mini-batch renews" in of("opzo").told.transported[0]


def test_readouts_beside_the_output() -> None:
    own = [Head(layer, (layer,)) for layer in range(3)]
    assert list(of("ll").traced.heads) == own
    assert set(of("ll-igl").traced.heads) == {*own, Head(1, (0,))}
    assert of("dfa").traced.heads == ()


def test_readouts_beside_the_output_hide_nothing_of_the_output() -> None:
    assert explained("online", "--rule.local", "ll").traced.read == "weights"


@pytest.mark.parametrize(("name", "passes"), [("mezo", 2), ("one-point", 1), ("es", 4), ("bptt", 1)])
def test_passes_are_counted(name: str, passes: int) -> None:
    assert of(name).traced.passes == passes


@pytest.mark.parametrize("name", EVERY)
def test_every_rule_and_choice_explains_itself_as_its_traits_claim(name: str) -> None:
    found = of(name)
    assert found.meaning
    assert found.equations
    assert found.sources
    assert all((found.told.local, found.told.transported, found.told.memory, found.told.needs))
    assert [title for title, _ in found.told.walk] == ["Forward", "Error", "Credit", "Update"]
    if found.untraced:
        assert name == "query"
        return
    traits, traced = found.traits, found.traced
    assert traits.weight_transport == (traced.read == "weights")
    assert (traits.backward == "none") == (not traced.through) or traits.rate
    assert traits.from_loss == (traced.time == "loss")
    assert (traits.rate and not traits.from_loss) == (traced.time == "rates")
    assert (traits.memory == "O(T)") == (traced.time == "back in time")
    assert found.growth is not None
    assert (found.growth.in_time > 0.8 * GROWN[-1] / GROWN[0]) == (traits.memory == "O(T)")
    assert traits.memory == "O(T)" or found.growth.in_time == 1
