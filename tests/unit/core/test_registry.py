"""Registries: merging of options, and messages that name what was given and what is near."""

from __future__ import annotations

import pytest
from pydantic import Field

from onward.core.errors import ConfigError, OnwardError, UnknownName
from onward.core.registry import Choice, Registry
from onward.credit import locals_, spatials, temporals
from onward.rules import rules


class Fruit(Choice):
    weight: float = Field(1.0, gt=0, description="in kilograms")
    peel: dict = Field(default_factory=lambda: {"name": "thin", "layers": 1}, description="what is outside")


def fruits() -> Registry[tuple]:
    registry: Registry[tuple] = Registry("fruit")
    registry.register("apple", Fruit, lambda c, *extra: (c.weight, c.peel, *extra), "round", defaults={"weight": 0.2})
    registry.register("orange", Fruit, lambda c: (c.weight, c.peel), "round, too")
    return registry


def test_defaults_options_and_context_meet_in_the_builder() -> None:
    registry = fruits()
    assert registry.names() == ["apple", "orange"]
    assert registry.build("apple", "fresh")[0::2] == (0.2, "fresh")
    assert registry.build({"name": "apple", "weight": 0.3})[0] == 0.3
    assert registry.build("orange")[0] == 1.0
    assert registry.build(registry.parse({"name": "orange", "weight": 2}))[0] == 2.0


def test_nested_choices_merge_unless_another_is_named() -> None:
    defaults = {"peel": {"name": "thin", "layers": 3}}
    registry: Registry[dict] = Registry("fruit")
    registry.register("apple", Fruit, lambda c: c.peel, "round", defaults=defaults)
    assert registry.build({"name": "apple", "peel": {"layers": 5}}) == {"name": "thin", "layers": 5}
    assert registry.build({"name": "apple", "peel": "thick"}) == {"name": "thick"}
    assert registry.build({"name": "apple", "peel": "thin"}) == {"name": "thin", "layers": 3}
    assert defaults == {"peel": {"name": "thin", "layers": 3}}


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("aple", UnknownName, "unknown fruit 'aple'; did you mean 'apple'? Known: apple, orange"),
        ("xyz", UnknownName, "unknown fruit 'xyz'. Known: apple, orange"),
        ({"name": "apple", "wieght": 1}, UnknownName, "unknown option of apple 'wieght'; did you mean 'weight'?"),
        (
            {"name": "apple", "weight": -1},
            ConfigError,
            "apple: weight = -1 will not do: input should be greater than 0",
        ),
        ({"name": "apple", "weight": "heavy"}, ConfigError, "apple: weight = 'heavy' will not do"),
        ({"weight": 1}, ConfigError, "a fruit needs a name; known: apple, orange"),
    ],
)
def test_messages(value: str | dict, kind: type[OnwardError], message: str) -> None:
    with pytest.raises(kind) as caught:
        fruits().build(value)
    assert message in str(caught.value)


def test_a_name_is_given_once() -> None:
    registry = fruits()
    with pytest.raises(ConfigError, match="the fruit 'apple' is registered twice"):
        registry.register("apple", Fruit, lambda c: (), "again")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("otttt", "unknown rule 'otttt'; did you mean 'ottt'"),
        ({"name": "opzo", "temporl": "sltt"}, "did you mean 'temporal'"),
        ({"name": "online", "temporal": "slt"}, "did you mean 'sltt'"),
        ({"name": "online", "spatial": "dpk"}, "did you mean 'dkp'"),
        ({"name": "opzo", "spatial": {"alhpa": 0.1}}, "did you mean 'alpha'"),
        ({"name": "opzo", "spatial": {"law": "gausian"}}, "did you mean 'gaussian'"),
        ({"name": "online", "local": {"name": "ll", "wieght": 2}}, "did you mean 'weight'"),
        ({"name": "sltt-k", "temporal": {"k": 0}}, "k"),
        ({"name": "bptt", "norm_over": "batch"}, "norm_over"),
        ({"name": "dfa", "error_delay": -1}, "error_delay"),
        ({"name": "ottt", "schedule": "stepp"}, "schedule"),
    ],
    ids=str,
)
def test_rules_and_their_options_are_checked_at_every_depth(value: str | dict, message: str) -> None:
    with pytest.raises(OnwardError) as caught:
        rules.build(value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_choice_says_what_it_is() -> None:
    for registry in (rules, temporals, spatials, locals_):
        for name in registry.names():
            entry = registry.entry(name)
            assert entry.summary
            assert all(field.description for field in entry.config.model_fields.values())
    for name in rules.names():
        assert set(rules.entry(name).facts) >= {"paper", "published", "inferred"}
        assert rules.parse(rules.parse(name).model_dump()) == rules.parse(name)
