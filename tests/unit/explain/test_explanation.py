"""Explanations and their pages: rules of third parties, equations, what a page must not hold."""

from __future__ import annotations

from dataclasses import fields

import pytest

from onward.core import LearningRule, Traits
from onward.core.errors import ConfigError, TopologyMismatch, UnknownName
from onward.core.registry import Choice
from onward.explain import explain, explanation_page
from onward.explain.equations import printed, stated
from onward.explain.page import MEANING
from onward.rules import rules
from reference.html import parsed

HOSTILE = "<script>alert('x')</script>\"&"


class Strange(LearningRule):
    """A rule that takes no network."""

    @property
    def traits(self) -> Traits:
        return Traits(
            backward="step", memory="O(1)", per_step_error=True, weight_transport=True, stochastic=False, max_chunk=2
        )

    def allocate(self, net, sample, draws) -> None:
        raise TopologyMismatch(f"no network will do {HOSTILE}")

    def begin(self, lesson) -> None:
        raise NotImplementedError

    def step(self, lesson, x):
        raise NotImplementedError

    def finish(self, lesson) -> None:
        raise NotImplementedError


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(rules, "_entries", dict(rules._entries))
    rules.register("strange", Choice, lambda choice: Strange(), HOSTILE)
    return "strange"


def test_a_rule_that_cannot_be_traced_is_explained_from_its_traits(strange: str) -> None:
    found = explain(strange)
    assert found.untraced.startswith("no network will do")
    assert found.growth is None
    assert found.equations == ()
    assert found.sources[0].paper == "not stated"
    assert "the traits do not say" in found.told.local[0]
    assert "through the transposed weights" in found.told.transported[0]
    assert found.told.memory == ("O(1) in the number of time steps",)
    assert "time in chunks of at most 2" in found.told.needs


def test_a_page_of_hostile_text_runs_and_fetches_nothing(strange: str) -> None:
    tree = parsed(explanation_page(explain(strange)))
    assert "script" not in {tag for tag, _ in tree.seen}
    assert "".join(tree.text).count(HOSTILE) == 2
    assert "The file of this rule states no equation." in tree.text


@pytest.mark.parametrize(
    "asked", [("bptt",), ("opzo", "--rule.local", "ll-igl"), ("dsr",), ("mezo",), ("query",), ("ide",)]
)
def test_a_page_needs_nothing_but_itself(asked: tuple[str, ...]) -> None:
    text = explanation_page(explain(*asked))
    tree = parsed(text)
    assert all(
        not (value or "").startswith(("http", "//"))
        for _, given in tree.seen
        for k, value in given.items()
        if k != "xmlns"
    )
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in tree.seen)
    assert len(text) < 100_000
    groups = [given["class"] for tag, given in tree.seen if tag == "g" and "class" in given]
    assert groups == ["forward", "error", "credit", "update"]
    assert "nan" not in text.lower().replace("dominant", "")


def test_steps_are_chosen_without_a_script() -> None:
    tree = parsed(explanation_page(explain("mezo")))
    buttons = [given for tag, given in tree.seen if tag == "input"]
    assert [given["id"] for given in buttons if "checked" in given] == ["walk-play"]
    assert {given["for"] for tag, given in tree.seen if tag == "label"} == {given["id"] for given in buttons}


def test_names_that_are_unknown_or_two() -> None:
    with pytest.raises(UnknownName, match="did you mean 'opzo'"):
        explain("opzoo")
    with pytest.raises(ConfigError, match="dfa was given, and --rule opzo; expected one of them"):
        explain("dfa", "--rule", "opzo")


def test_equations_of_a_cell_are_those_of_its_choices() -> None:
    found = dict(explain("fa", "--rule.temporal", "sltt").equations)
    assert list(found) == ["rule fa", "temporal sltt", "spatial feedback-alignment"]
    assert found["spatial feedback-alignment"].startswith("gˡ[t] = Bˡ⁺¹ δˡ⁺¹[t]")


def test_a_fact_wins_over_the_docstring() -> None:
    assert stated(rules.entry("mezo")) == [rules.entry("mezo").facts["equation"]]
    assert stated(rules.entry("bptt"))[0].startswith("dL/dW^l = sum_t")


def test_columns_of_equations_stay_where_lines_share_them() -> None:
    assert printed("delta  = a\nb      = sqrt(rho)") == "δ      = a\nb      = √(ρ)"  # noqa: RUF001
    assert printed("delta = a,   b = lam^(T - t)") == "δ = a,   b = λᵀ⁻ᵗ"
    assert printed("summary of thetas, lambda^age(k)") == "summary of thetas, λ^age(k)"


def test_steps_that_take_no_part_are_said_and_drawn() -> None:
    found = explain("sltt-k", "--rule.k", "2")
    used = [f"t = {step}" for step, lit in enumerate(found.traced.lit, 1) if lit]
    assert dict(found.told.walk)["Error"].endswith(f"here of {used[0]} and {used[1]}.")
    assert explanation_page(found).count('cy="24" r="13"') == 4


def test_errors_that_come_late_come_from_the_step_before() -> None:
    found = explain("sltt", "--rule.error-delay", "1").traced
    assert [t for t, value in enumerate(found.routes[1].posts[found.step]) if value] == [found.step - 1]


@pytest.mark.parametrize(("name", "shown"), [("dfa", True), ("dsr", False), ("mezo", False), ("query", False)])
def test_a_table_of_meetings_stands_where_steps_have_errors_of_their_own(name: str, shown: bool) -> None:
    assert ("Which spikes meet which errors" in explanation_page(explain(name))) == shown


def test_every_trait_is_put_in_words() -> None:
    assert {field.name for field in fields(Traits)} == set(MEANING)
