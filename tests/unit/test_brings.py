"""A rule brings defaults for other sections; whatever a recipe or a flag says wins over them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.cli import USER_ERROR, main
from onward.cli.compare import configurations, planned, unlike
from onward.comparison.outcome import differing
from onward.core.errors import ConfigError, UnknownName
from onward.core.registry import Choice, Registry
from onward.rules import rules
from onward.train import RunConfig, load, parse_tokens, toml
from onward.train.grammar import brought_flags, with_flags

BRINGS = {
    "neuron": {"name": "if", "threshold": 2.0, "surrogate": {"name": "triangle", "slope": 0.5}},
    "objective": {"name": "readout", "reduce": "max"},
    "model": {"hidden": [30, 20]},
    "optim": {"name": "sgd", "lr": 0.05},
    "train": {"steps": 30},
}

VALUES: dict[str, list[Any]] = {
    "neuron.threshold": [2.0, 3.0, 4.0],
    "objective.reduce": ["max", "sum", "mean"],
    "model.hidden": [[30, 20], [7], [8, 9]],
    "optim.lr": [0.05, 0.5, 0.25],
    "train.steps": [30, 4, 5],
    "train.epochs": [5, 6, 7],
}
"""For each field: what is in force where nobody says anything, what a recipe says, what a flag says."""


@pytest.fixture(scope="module", autouse=True)
def _fakes() -> Iterator[None]:
    """Rules ``fake``, which brings `BRINGS`, ``other``, which brings a little, and ``same``, which brings nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "_entries", dict(rules._entries))
        register("fake", BRINGS)
        register("other", {"neuron": {"name": "cuba-lif"}, "precision": "bf16"})
        register("same", {})
        yield


def register(name: str, brings: Mapping[str, Any]) -> None:
    bptt = rules.entry("bptt")
    rules.register(
        name, bptt.config, bptt.build, "a fake", defaults=bptt.defaults, facts={"paper": "[none]"}, brings=brings
    )


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe still to be written, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return Path("r.toml")


def at(config: RunConfig, field: str) -> Any:
    section, name = field.split(".")
    return config.model_dump()[section][name]


def sections(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(exclude={"rule"})


def test_a_rule_brings_what_it_says_and_leaves_the_rest() -> None:
    config, plain = parse_tokens(["--rule", "fake"]), RunConfig()
    assert config.neuron.model_dump() | BRINGS["neuron"] == config.neuron.model_dump()
    assert (config.objective.name, at(config, "objective.reduce")) == ("readout", "max")
    assert (config.model.name, at(config, "model.hidden")) == ("mlp", [30, 20])
    assert (config.optim.name, at(config, "optim.lr"), config.train.steps) == ("sgd", 0.05, 30)
    assert (config.data, config.train.epochs, config.seed) == (plain.data, plain.train.epochs, plain.seed)


def test_a_rule_that_brings_nothing_changes_only_itself() -> None:
    assert sections(parse_tokens(["--rule", "same"])) == sections(RunConfig())


@given(
    in_recipe=st.sets(st.sampled_from(sorted(VALUES))),
    in_flags=st.sets(st.sampled_from(sorted(VALUES))),
    by_recipe=st.booleans(),
)
def test_flags_over_recipe_over_brought_over_defaults(in_recipe: set[str], in_flags: set[str], by_recipe: bool) -> None:
    """Field by field where the recipe names the rule (with a flag that repeats it, or without)."""
    tree: dict[str, Any] = {"rule": "fake"}
    for field in in_recipe:
        section, name = field.split(".")
        tree.setdefault(section, {})[name] = VALUES[field][1]
    flags = list(chain.from_iterable([f"--{field}", *words(VALUES[field][2])] for field in sorted(in_flags)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.toml"
        path.write_text(toml.dumps(tree))
        config = parse_tokens([str(path), *flags, *([] if by_recipe else ["--rule", "fake"])])
    for field, values in VALUES.items():
        assert at(config, field) == values[2 if field in in_flags else 1 if field in in_recipe else 0], field


def words(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


@given(st.permutations([["--rule", "fake"], ["--neuron", "lif"], ["--neuron.tau", "3"], ["--objective.reduce", "sum"]]))
def test_another_choice_drops_what_was_brought_for_it(groups: list[list[str]]) -> None:
    config = parse_tokens(list(chain(*groups)))
    assert config.neuron == parse_tokens(["--neuron.tau", "3"]).neuron
    assert (config.objective.name, at(config, "objective.reduce"), config.optim.name) == ("readout", "sum", "sgd")


def test_a_default_chosen_again_is_the_default() -> None:
    """The default objective has a kappa that the registered choice of that name has not."""
    assert parse_tokens(["--rule", "fake", "--objective", "per-step"]).objective == RunConfig().objective


def test_the_same_choice_keeps_what_was_brought_for_it() -> None:
    plain = parse_tokens(["--rule", "fake"])
    assert parse_tokens(["--rule", "fake", "--neuron", "if", "--model", "mlp", "--optim", "sgd"]) == plain
    nested = parse_tokens(["--rule", "fake", "--neuron.surrogate", "atan"]).neuron.model_dump()
    assert (nested["threshold"], nested["surrogate"]["name"]) == (2.0, "atan")


def test_a_recipe_makes_other_choices(recipe: Path) -> None:
    recipe.write_text('rule = "fake"\n[neuron]\nname = "lif"\ntau = 3\n')
    config = load(recipe)
    assert config.neuron == parse_tokens(["--neuron.tau", "3"]).neuron
    assert config.optim == parse_tokens(["--rule", "fake"]).optim
    assert parse_tokens([str(recipe)]) == config


def test_a_rule_after_a_recipe_brings_only_what_the_recipe_leaves_out(recipe: Path) -> None:
    recipe.write_text('rule = "dfa"\n[model]\nhidden = [5]\n[optim]\nlr = 1e-4\n[train]\nepochs = 9\n')
    config, written = parse_tokens([str(recipe), "--rule", "fake", "--objective.reduce", "sum"]), load(recipe)
    assert (config.model, config.optim, config.train) == (written.model, written.optim, written.train)
    assert (config.neuron.name, config.objective.name, at(config, "objective.reduce")) == ("if", "readout", "sum")


@pytest.mark.parametrize("rule", ["same", "other", "dfa"])
def test_what_the_rule_of_a_recipe_brings_is_the_recipes(rule: str, recipe: Path) -> None:
    recipe.write_text('rule = "fake"\n[optim]\nlr = 0.25\n')
    config = parse_tokens([str(recipe), "--rule", rule])
    assert sections(config) | {"precision": "f32"} == sections(load(recipe))
    assert config.precision == ("bf16" if rule == "other" else "f32")


@pytest.mark.parametrize("flags", [[], ["--neuron", "cuba-lif"], ["--neuron.threshold", "1", "--train.steps", "none"]])
@pytest.mark.parametrize("rule", ["fake", "other", "same"])
def test_a_resolved_configuration_round_trips(rule: str, flags: list[str], recipe: Path) -> None:
    config = parse_tokens(["--rule", rule, *flags])
    recipe.write_text(toml.dumps(config.model_dump()))
    assert load(recipe) == config
    assert parse_tokens([str(recipe), "--rule", rule]) == config
    assert sections(parse_tokens([str(recipe), "--rule", "fake"])) == sections(config)


def test_a_complete_configuration_is_brought_nothing() -> None:
    base = parse_tokens(["--rule", "bptt", "--seed", "3"])
    assert sections(with_flags(["--rule", "fake"], base)) == sections(base)
    changed = parse_tokens(["--rule", "fake", "--neuron", "lif"])
    assert with_flags(["--rule", "fake"], changed) == changed
    assert parse_tokens(["--rule", "fake"], changed) == changed


@pytest.mark.parametrize(
    ("brings", "words"),
    [
        ({"neurn": {"name": "if"}}, "unknown option neurn.name in what rule wrong brings"),
        ({"neuron": {"treshold": 2.0}}, "neuron.treshold in what rule wrong brings; did you mean --neuron.threshold"),
        ({"neuron": "iff"}, "unknown neuron 'iff'"),
        ({"train": {"steps": 0}}, "train.steps in what rule wrong brings: 0 was given; expected a whole number"),
    ],
)
def test_what_cannot_be_brought_is_refused(
    brings: dict, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rules, "_entries", dict(rules._entries))
    register("wrong", brings)
    with pytest.raises((ConfigError, UnknownName)) as caught:
        parse_tokens(["--rule", "wrong"])
    assert words in str(caught.value)
    assert main(["train", "--rule", "wrong"]) == USER_ERROR
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_options_of_its_own_are_defaults_and_not_brought() -> None:
    with pytest.raises(ConfigError, match="the fruit 'apple' brings options of a fruit; give its own as defaults"):
        Registry("fruit").register("apple", Choice, lambda choice: "", "round", brings={"fruit": "pear"})


def test_every_rule_brings_what_can_be_and_the_default_brings_nothing() -> None:
    """For the default rule there is no other rule's section that it could bring something in place of."""
    assert not rules.entry(RunConfig().rule.name).brings
    for name in rules.names():
        config = parse_tokens(["--rule", name])
        assert config.rule == rules.parse(name)
        flags = brought_flags(name)
        assert parse_tokens(["--rule", name, *flags]) == config
        assert with_flags(["--rule", name, *flags], RunConfig()) == config, "the flags say the same"


def test_compared_rules_get_what_they_bring() -> None:
    flags = ("--train.batch-size", "7", "--optim.lr", "0.5")
    configs = configurations("bp,fake,dfa", flags)
    brief = ["--train.epochs", "2", *flags]
    assert configs["fake"] == parse_tokens(["--rule", "fake", *brief])
    assert configs["dfa"] == parse_tokens(["--rule", "dfa", *brief])
    assert sections(configs["bp"]) == sections(configs["dfa"])
    assert {config.train.batch_size for config in configs.values()} == {7}


def test_flags_and_recipes_make_compared_rules_the_same(recipe: Path) -> None:
    flags = ("--neuron", "lif", "--objective", "per-step", "--model.hidden", "5", "--optim", "adam", "--optim.lr", "1")
    configs = configurations("bp,fake", (*flags, "--train.steps", "3"))
    assert sections(configs["bp"]) == sections(configs["fake"])
    recipe.write_text('rule = "fake"\n[train]\nepochs = 4\n')
    configs = configurations("bp,fake,same", (str(recipe), "--rule.norm-over", "sequence"))
    assert sections(configs["bp"]) == sections(configs["fake"]) == sections(configs["same"]) == sections(load(recipe))
    assert configs["fake"].rule.model_dump() != {**configs["same"].rule.model_dump(), "name": "fake"}


def test_a_flag_that_only_some_of_the_compared_rules_know() -> None:
    assert configurations("fake", ("--objective.reduce", "sum"))["fake"].objective.name == "readout"
    with pytest.raises(ConfigError, match=r"with what rule fake brings \(onward rules fake\): .*--neuron\.tau"):
        configurations("bp,fake", ("--neuron.tau", "3"))
    with pytest.raises(UnknownName, match=r"^unknown option --objective\.reduce"):
        configurations("bp,fake", ("--objective.reduce", "sum"))


def test_a_comparison_says_what_is_not_the_same() -> None:
    found = differing(planned(["--model.hidden", "8", "--train.steps", "3"], "bp,bptt,fake"))
    assert found == {
        "neuron": {"bp": "lif", "bptt": "lif", "fake": "if"},
        "objective": {"bp": "per-step", "bptt": "per-step", "fake": "readout"},
        "optim": {"bp": "adam", "bptt": "adam", "fake": "sgd"},
    }
    assert "; ".join(unlike(found)).startswith("neuron lif for bp and bptt, if for fake; objective per-step for bp and")
    assert not differing(planned([], "bp,bptt"))


def test_rules_shows_what_one_brings_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "fake", "--json"]) == 0
    captured = capsys.readouterr()
    listed = json.loads(captured.out)
    assert [line["name"] for line in listed["rules"]] == ["fake"]
    brings = listed["rules"][0]["brings"]
    assert brings.startswith("--neuron if --neuron.threshold 2.0 --neuron.surrogate triangle")
    assert sections(parse_tokens(brings.split())) == sections(parse_tokens(["--rule", "fake"]))
    shown = " ".join(captured.err.split())
    assert brings in shown
    assert "Paper: [none]" in shown


def test_rules_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "dfa", "--json"]) == 0
    captured = capsys.readouterr()
    listed = json.loads(captured.out)
    assert {kind: [line["name"] for line in lines] for kind, lines in listed.items()} == {
        "rules": ["dfa"],
        "spatial": ["dfa"],
    }
    assert "Brings" not in captured.err
    assert main(["rules", "dfaa"]) == USER_ERROR
    assert "unknown rule 'dfaa'; did you mean 'dfa'" in capsys.readouterr().err
