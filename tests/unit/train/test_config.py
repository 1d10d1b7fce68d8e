"""Configurations survive the trip through TOML."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.data import datasets
from onward.distil import distils
from onward.models import models
from onward.neurons import neurons
from onward.optim import optimizers, schedules
from onward.rules import rules
from onward.train import RunConfig, load, parse_tokens, toml
from onward.train.schema import expected, options

scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text())
keys = st.text("abcdefghij_", min_size=1, max_size=6)


@given(st.recursive(scalars | st.lists(scalars, max_size=3), lambda v: st.dictionaries(keys, v, max_size=4)))
def test_what_is_written_is_what_is_read(value: object) -> None:
    read = tomllib.loads(toml.dumps({"root": value}))
    assert same(read, {"root": value})


def same(a: object, b: object) -> bool:
    match a, b:
        case float(), float():
            return a == b or (math.isnan(a) and math.isnan(b))
        case dict(), dict():
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        case list(), list():
            return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


CHOICES = [
    *(("rule", name) for name in rules.names()),
    *(("data", name) for name in datasets.names()),
    *(("model", name) for name in models.names()),
    *(("neuron", name) for name in neurons.names()),
    *(("optim", name) for name in optimizers.names()),
    *(("distil", name) for name in distils.names()),
    *(("optim.schedule", name) for name in schedules.names()),
]


@pytest.mark.parametrize(("field", "name"), CHOICES)
def test_every_choice_round_trips(field: str, name: str, tmp_path: Path) -> None:
    config = parse_tokens([f"--{field}", name])
    path = tmp_path / "config.toml"
    path.write_text(toml.dumps(config.model_dump()), encoding="utf-8")
    assert load(path) == config


@pytest.mark.parametrize(("field", "name"), CHOICES)
def test_every_field_says_what_it_means_and_takes(field: str, name: str) -> None:
    for option in options(RunConfig, parse_tokens([f"--{field}", name]).model_dump()):
        assert option.info.description, option.flag
        assert option.registry or isinstance(option.value, dict) or expected(option.info), option.flag


def test_the_default_is_opzo_on_mnist() -> None:
    config = RunConfig()
    assert (config.data.name, config.model.name, config.rule.name, config.device) == ("mnist", "mlp", "opzo", "cpu")
    assert config.model.model_dump()["hidden"] == [800, 800]
