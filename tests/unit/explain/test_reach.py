"""What is said of direct feedback in a network that is named: too deep or not, and by which flags it is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onward.cli import main
from onward.explain import explain, explanation_page
from onward.explain.reach import reach
from onward.train import parse_tokens

DEEP, SHALLOW = "[24,24,24,24,24,24]", "[24]"


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 12)).astype(np.float32), np.arange(64) % 4
    np.savez(tmp_path / "four.npz", x=x, y=y, x_test=x[:8], y_test=y[:8])
    return ["--data", str(tmp_path / "four.npz"), "--train.steps", "4"]


def test_deep_networks_are_warned_of_in_the_terminal(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "opzo", "--model.hidden", DEEP, *data]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Alignment expected cosine with back-propagation before training: neuron1 0." in said
    assert "this network is too deep for direct feedback: expected cosine 0." in said
    assert "in neuron1; add LL (--rule.local ll), residuals or relay (--rule relay-opzo)" in said


def test_what_the_warning_advises_silences_it(data: list[str]) -> None:
    asked = ("--model.hidden", DEEP, *data)
    deep, local = explain("opzo", *asked).reach, explain("opzo", "--rule.local", "ll", *asked).reach
    assert deep is not None
    assert local is not None
    assert deep.caution
    assert not local.caution
    assert deep.cosines == local.cosines
    assert explain("relay-opzo", *asked).reach is None


def test_one_hidden_layer_hears_all(data: list[str]) -> None:
    found = explain("dfa", "--model.hidden", SHALLOW, *data)
    assert found.reach is not None
    assert found.reach.cosines == {"neuron1": pytest.approx(1)}
    assert not found.reach.caution
    assert "Expected alignment" in explanation_page(found)
    assert found.mapping()["reach"] == {"cosines": {"neuron1": pytest.approx(1)}, "caution": ""}


@pytest.mark.parametrize("name", ["ottt", "zo", "bptt"])
def test_rules_without_direct_errors_have_nothing_to_lose(name: str, data: list[str]) -> None:
    assert explain(name, "--model.hidden", DEEP, *data).reach is None


def test_a_network_that_nobody_named_is_not_looked_at() -> None:
    assert explain("opzo").reach is None
    assert explain("opzo", "--neuron.tau", "4").reach is None


def test_the_page_warns_too(data: list[str]) -> None:
    page = explanation_page(explain("opzo", "--model.hidden", DEEP, *data))
    assert "this network is too deep for direct feedback" in page


def test_fresh_running_statistics_are_not_taken_for_those_of_the_data(data: list[str]) -> None:
    """Inputs that are a thousand times larger drive a normalised network as far as before."""
    source = Path(data[1])
    arrays = dict(np.load(source))
    large = source.with_name("large.npz")
    np.savez(large, **{**arrays, "x": 1000 * arrays["x"], "x_test": 1000 * arrays["x_test"]})
    model = ("--rule", "opzo", "--model.hidden", "[24,24,24]", "--model.norm", "batch", "--train.steps", "4")
    traced = explain("opzo").traced
    found = [reach(parse_tokens([*model, "--data", str(path)]), traced) for path in (source, large)]
    assert list(found[0].cosines.values()) == pytest.approx(list(found[1].cosines.values()), abs=0.02)
    assert 0 < min(found[0].cosines.values()) < 1
