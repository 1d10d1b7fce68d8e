"""Flags and recipes become configurations, and mistakes become sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.core.errors import ConfigError, DataError, UnknownName
from onward.train import RunConfig, load, parse_tokens
from onward.train.grammar import UnknownOption


def test_nothing_said_is_the_default() -> None:
    assert parse_tokens([]) == RunConfig()


@pytest.mark.parametrize(
    "tokens",
    [
        ["--train.batch-size", "7"],
        ["--train.batch_size", "7"],
        ["--train.batch-size=7"],
        ["--train.batch_size=7"],
    ],
)
def test_spellings_of_a_flag_are_the_same(tokens: list[str]) -> None:
    assert parse_tokens(tokens).train.batch_size == 7


def test_a_bare_name_chooses() -> None:
    assert parse_tokens(["--rule", "bptt"]) == parse_tokens(["--rule.name", "bptt"])
    assert parse_tokens(["--rule.spatial", "dfa"]) == parse_tokens(["--rule.spatial.name=dfa"])
    assert parse_tokens(["--neuron.reset", "hard"]).neuron.model_dump()["reset"] == {"name": "hard", "to": 0.0}


def test_names_are_read_before_the_fields_that_depend_on_them() -> None:
    late = parse_tokens(["--neuron.reset.to", "0.25", "--neuron.reset", "hard"])
    assert late.neuron.model_dump()["reset"] == {"name": "hard", "to": 0.25}


def test_choosing_the_present_name_keeps_its_fields() -> None:
    base = parse_tokens(["--model.hidden", "30"])
    assert parse_tokens(["--model", "mlp"], base) == base
    assert parse_tokens(["--model", "conv5", "--model", "mlp"], base) != base


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5))
def test_lists_as_words_and_as_json(sizes: list[int]) -> None:
    words = parse_tokens(["--model.hidden", *map(str, sizes)])
    assert words == parse_tokens(["--model.hidden", str(sizes)])
    assert words.model.model_dump()["hidden"] == sizes


@pytest.mark.parametrize(("tokens", "value"), [(["--data.flip"], True), (["--no-data.flip"], False)])
def test_switches(tokens: list[str], value: bool) -> None:
    assert parse_tokens(tokens).data.model_dump()["flip"] is value
    assert parse_tokens(["--data.flip", str(value).lower()]).data.model_dump()["flip"] is value


@given(st.floats(-1e6, 1e6, allow_nan=False))
def test_negative_numbers_are_values(value: float) -> None:
    assert parse_tokens(["--neuron.initial", repr(value)]).neuron.model_dump()["initial"] == value


def test_none_clears_an_optional_field() -> None:
    base = parse_tokens(["--optim.clip", "1.5"])
    assert base.optim.model_dump()["clip"] == 1.5
    assert parse_tokens(["--optim.clip", "none"], base) == RunConfig()


def test_choices_on_the_way_may_be_left_out() -> None:
    assert parse_tokens(["--rule.rho", "0.5"]) == parse_tokens(["--rule.spatial.rho", "0.5"])


@given(
    epochs=st.integers(0, 1000),
    lr=st.floats(1e-6, 10),
    rule=st.sampled_from(["opzo", "bptt", "dfa", "sltt-k"]),
    neuron=st.sampled_from(["lif", "if", "cuba-lif"]),
    seed=st.integers(-(2**31), 2**31),
)
def test_flags_win_over_the_recipe(epochs: int, lr: float, rule: str, neuron: str, seed: int) -> None:
    flags = [f"--train.epochs={epochs}", f"--optim.lr={lr!r}", "--rule", rule, "--neuron", neuron, f"--seed={seed}"]
    config = parse_tokens(flags, parse_tokens(["--train.epochs", "3", "--rule", "ottt", "--seed", "9"]))
    assert (config.train.epochs, config.seed) == (epochs, seed)
    assert (config.optim.model_dump()["lr"], config.rule.name, config.neuron.name) == (lr, rule, neuron)


def test_recipe_then_flags(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    notes = '[recipe]\nmust = "work"\n'
    recipe.write_text(f'rule = "dfa"\nseed = 4\n[train]\nbatch-size = 10\n[model]\nhidden = [5]\n{notes}')
    config = parse_tokens([str(recipe), "--seed", "5"])
    assert (config.rule.name, config.seed, config.train.batch_size) == ("dfa", 5, 10)
    assert load(recipe).seed == 4


def test_a_file_chooses_its_reader(data_file: Path) -> None:
    short = parse_tokens(["--data", str(data_file)])
    assert (short.data.name, short.data.model_dump()["file"]) == ("file", str(data_file))
    assert parse_tokens(["--data.file", str(data_file)]) == short


@pytest.mark.parametrize(
    ("tokens", "nearest"),
    [
        (["--epochs", "3"], "--train.epochs"),
        (["--train.epoch", "3"], "--train.epochs"),
        (["--neuron.surogate", "atan"], "--neuron.surrogate"),
        (["--optim.weight-decai", "1"], "--optim.weight-decay"),
        (["--train.epochs.x", "1"], "--train.epochs"),
    ],
)
def test_unknown_fields_name_the_nearest(tokens: list[str], nearest: str) -> None:
    with pytest.raises(UnknownOption, match=tokens[0]) as caught:
        parse_tokens(tokens)
    assert nearest in caught.value.nearest


@pytest.mark.parametrize(
    ("tokens", "nearest"),
    [(["--rule", "opzoo"], "opzo"), (["--data", "mnits"], "mnist"), (["--model", "conv4"], "conv5")],
)
def test_unknown_names_name_the_nearest(tokens: list[str], nearest: str) -> None:
    with pytest.raises(UnknownName, match=nearest):
        parse_tokens(tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--train.epochs", "abc"], "--train.epochs: abc was given; expected a whole number at least 0"),
        (["--train.epochs", "1", "2"], "--train.epochs takes one value; 1 2 was given"),
        (["--train.epochs"], "--train.epochs takes one value; nothing was given"),
        (["--seed="], "--seed: nothing was given; expected a whole number"),
        (["--optim.lr", "0"], "--optim.lr: 0 was given; expected a number above 0"),
        (["--data.flip", "maybe"], "--data.flip: maybe was given; expected true or false"),
        (["--no-data.flip", "3"], "--no-data.flip takes no value; 3 was given"),
        (["--model.hidden", "80", "x"], "--model.hidden: 80 x was given; expected whole numbers at least 1, such as"),
        (["--model.hidden", "0"], "--model.hidden: 0 was given; expected whole numbers at least 1"),
        (
            ["--model.hidden"],
            "nothing was given; expected whole numbers at least 1, such as 800 800, or [] for none",
        ),
        (["--optim.lr", "inf"], "--optim.lr: inf was given; expected a number above 0"),
        (["--neuron.initial", "nan"], "--neuron.initial: nan was given; expected a number"),
        (["--objective", "readout", "--objective.reduce", "median"], "expected one of mean, weighted, sum, max"),
        (["--model.hidden", "[80,"], "--model.hidden: [80, was given; expected a list such as [800,800]"),
        (["--train", "3"], "--train is a group of options and takes no value"),
        (["--rule", "a", "b"], "--rule takes one value; a b was given"),
        (["--device", "tpu"], "device 'tpu' was given; expected cpu, cuda or cuda:N"),
        (["--train.patience", "3"], "add train.validation"),
        (["--seed", "1", "recipe.toml"], "--seed takes one value"),
        (["missing.toml"], "recipe missing.toml cannot be read"),
        (["/dev/zero"], "recipe /dev/zero has more than 65,536 bytes; expected a short text"),
        (["\x00"], "cannot be read: embedded null"),
        (["--seed", str(2**63)], f"--seed: {2**63} was given; expected a whole number, and below 2^63"),
        (["--model.hidden", "[" * 100_000], "expected a list such as [800,800]"),
        (["--model.hidden", f"[{'9' * 5000}]"], "expected a list such as [800,800]"),
        (["--model.hidden", "[[1],[2]]"], "--model.hidden: a list a list was given; expected whole numbers"),
        (["--model.hidden", '[{"a":1}]'], "--model.hidden: a table was given; expected whole numbers"),
        (["--model.hidden", f"[{2**70}]"], "--model.hidden: a number of 71 bits was given"),
        (["--rule", "a\nb"], "unknown rule 'a\\nb'"),
    ],
)
def test_mistakes_become_sentences(tokens: list[str], message: str) -> None:
    with pytest.raises((ConfigError, UnknownName)) as caught:
        parse_tokens(tokens)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 3", "rule in r.toml: 3 was given; expected the name of a rule"),
        ("rule = [", "recipe r.toml is not valid TOML"),
        ("[train]\nepochs = 1.5", "train.epochs in r.toml: 1.5 was given; expected a whole number at least 0"),
        ("a = " + "[" * 60_000, "recipe r.toml is nested too deeply; expected tables of plain values"),
        ("a." * 30_000 + "b = 1", "recipe r.toml is not valid TOML: a line has more than 200 dots"),
        ("#" * 70_000, "recipe r.toml has more than 65,536 bytes"),
        ("seed = " + "9" * 5000, "recipe r.toml is not valid TOML: Exceeds the limit"),
        ("seed = 0x" + "f" * 5000, "seed in r.toml: a number of 20000 bits was given; expected a whole number"),
    ],
)
def test_mistakes_in_recipes(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse_tokens(["r.toml"])
    assert message in str(caught.value)


def test_a_missing_data_file_is_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz"):
        parse_tokens(["--data", "nowhere.npz"])


@given(st.lists(st.text(max_size=8), max_size=4))
def test_no_words_bring_anything_but_our_own_errors(words: list[str]) -> None:
    try:
        config = parse_tokens(["--seed", "0", *words])
    except (ConfigError, UnknownName, DataError):
        return
    assert config.seed == 0
