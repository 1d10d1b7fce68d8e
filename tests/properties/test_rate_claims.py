"""What rules that learn from rates claim: memory, a direction shared with OTTT, and words for what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onward.core import CrossEntropy, Feedback, Network, PerStep, Readout, Static
from onward.core.errors import ObjectiveMismatch, OnwardError, TopologyMismatch
from onward.core.objective import Max, Mean, Objective, Weighted
from onward.neurons import IF, LIF, HardReset
from onward.solvers import solvers
from onward.testing.checks import held_by
from onward.testing.harness import bound, teach
from onward.train import Event, parse_tokens, train
from onward.train.events import Warned
from properties.equilibrium_lab import CLASSES, NETWORKS, dense_loop, integrates, objective, still, symmetric

EXACT = {"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}, "spatial": "bp"}


@pytest.mark.parametrize(
    ("rule", "network"),
    [
        ("ide", "feedback"),
        ("ide", "recurrent"),
        ("spide", "feedback"),
        ("spide", "mlp"),
        ("dsr", "mlp"),
        ("dsr", "conv"),
    ],
)
def test_i9_s10_memory_is_constant_in_the_number_of_steps(rule: str, network: str) -> None:
    """I9, S10: what graphs, carries and buffers hold at most is the same for T = 30 and T = 500, within 5 %."""
    options: dict[str, Any] = {"steps": 5} if rule == "spide" else {}
    few, many = (held_by({"name": rule, **options}, network, steps) for steps in (30, 500))
    assert few > 0
    assert many == pytest.approx(few, rel=0.05)


def test_s10_memory_is_constant_in_the_backward_steps() -> None:
    """S10: and for T_b = 5 and T_b = 200."""
    few, many = (held_by({"name": "spide", "steps": steps}, "feedback", 10) for steps in (5, 200))
    assert many == pytest.approx(few, rel=0.05)


def test_dsr_with_normalisation_over_time_keeps_the_sequence() -> None:
    """The other side of D11: with normalisation, memory grows with T, as the documentation says."""
    assert held_by({"name": "dsr"}, "batchnorm", 120) > 2.5 * held_by({"name": "dsr"}, "batchnorm", 30)


@pytest.fixture
def tokens(tmp_path: Path) -> list[str]:
    """32 samples of 12 numbers."""
    rng = np.random.default_rng(0)
    x = rng.random((32, 12), dtype=np.float32)
    np.savez(tmp_path / "thirds.npz", x=x, y=x.reshape(32, 3, 4).sum(-1).argmax(-1))
    out = ["--data", str(tmp_path / "thirds.npz"), "--train.out", str(tmp_path / "runs")]
    return [*out, "--train.epochs", "1", "--train.batch-size", "16"]


LOOP = ["--model.layers", "16", "--model.back", "16"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--rule", "ide", *LOOP],
        ["--rule", "spide", "--rule.steps", "5", *LOOP],
        ["--rule", "dsr", "--model.hidden", "16", "--train.chunk", "5"],
    ],
    ids=lambda flags: flags[1],
)
def test_i9_s10_peaks_of_training_runs_do_not_depend_on_time(flags: list[str], tokens: list[str]) -> None:
    """I9, S10: the peak that a run reports, T = 30 and T = 500."""
    few, many = (train(parse_tokens([*tokens, *flags, "--train.steps", str(t)])).peak_bytes for t in (30, 500))
    assert few is not None
    assert many == pytest.approx(few, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("leak", [0.9, 0.99])
def test_ottt_shares_a_direction_with_spike_representations_feed_forward(leak: float, seed: int) -> None:
    """Claim of OTTT (Xiao et al. 2022): its gradient and dsr's have an inner product above 0, in every layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, units in ((6, 20), (20, 15), (15, 10)):
        layers += [nn.Linear(fan_in, units), LIF(decay=leak)]
    net = Network(nn.Sequential(*layers, nn.Linear(10, CLASSES))).double()
    for node in net.synapses:
        node.module.get_parameter("weight").data.mul_(2)
    assert_shared(net, "dsr", leak, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("widths", [[20], [12, 10, 8]], ids=str)
def test_ottt_shares_a_direction_with_equilibria_in_networks_with_feedback(widths: list[int], seed: int) -> None:
    """The same with ide, in networks with feedback."""
    torch.manual_seed(seed)
    leak = 0.95
    net = dense_loop(widths, lambda charge: LIF(decay=leak, threshold=charge), norm=1.0)
    assert_shared(net, {"name": "ide", "solver": {"name": "gmres"}}, leak, seed)


def assert_shared(net: Network, rule: Any, leak: float, seed: int) -> None:
    """Every weight's gradients by OTTT and ``rule``, for a still input and T = 100, form an acute angle."""
    x, y = still(net, batch=8, seed=seed)
    x = x.abs() * 2
    ours = teach(net, rule, Static(x, 100), y, objective=objective(leak)).grads
    ottt = teach(net, EXACT, Static(x, 100), y).grads
    products = {name: float((ours[name] * ottt[name]).sum()) for name in ours if name.endswith("weight")}
    assert len(products) == len(net.synapses)
    assert min(products.values()) > 0, products


def bound_in(rule: str, layers: list[nn.Module], goal: Objective) -> None:
    bound(rule, Network(nn.Sequential(*layers)), Static(torch.zeros(2, 3), 4), goal)


def chain(*neurons: nn.Module) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for neuron in neurons:
        layers += [nn.Linear(3, 3), neuron]
    return [*layers, nn.Linear(3, 2)]


def goal(leak: float = 1.0) -> Readout:
    return Readout(CrossEntropy(), Weighted(leak))


@pytest.mark.parametrize("rule", ["dsr", "ide", "spide"])
@pytest.mark.parametrize(
    ("neurons", "wanted", "kind", "words"),
    [
        ([IF()], PerStep(CrossEntropy()), ObjectiveMismatch, "--objective readout --objective.reduce weighted"),
        ([IF()], Readout(CrossEntropy(), Max()), ObjectiveMismatch, "set objective.reduce to 'weighted' or 'mean'"),
        ([LIF(decay=0.9)], Readout(CrossEntropy(), Mean()), ObjectiveMismatch, "--objective.decay 0.9"),
        ([LIF(decay=0.9), LIF(decay=0.8)], goal(0.9), TopologyMismatch, "0.8 of its potential .* 0.9; .* one leak"),
        ([IF(reset=HardReset())], goal(), TopologyMismatch, r"IF|Affine.* fixed charge .* soft reset"),
    ],
    ids=["per-step", "maximum", "mean of leaky neurons", "two leaks", "hard reset"],
)
def test_what_has_no_rates_is_refused_in_words(
    rule: str, neurons: list[nn.Module], wanted: Objective, kind: type[OnwardError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        bound_in(rule, chain(*neurons), wanted)


def test_dsr_sends_cycles_to_the_rules_that_serve_them() -> None:
    loop = Feedback(nn.Linear(3, 3), IF(), nn.Linear(3, 3))
    with pytest.raises(TopologyMismatch, match=r"hears its own past, .* use rule 'ide' or 'spide'"):
        bound_in("dsr", [loop, nn.Linear(3, 2)], goal())


def strong(norm: float) -> Network:
    return dense_loop([20], integrates, norm=norm)


def warned(rule: Any, net: Network, x: Tensor, y: Tensor, steps: int = 20) -> list[str]:
    learner = bound(rule, net, Static(x, steps))
    teach(net, learner, Static(x, steps), y)
    return learner.warnings()


def test_strong_feedback_is_named_with_its_norm_and_what_mends_it() -> None:
    """Norm 3 against a charge of 2, and a measured gain of 1.5."""
    net = strong(3.0)
    found = warned({"name": "ide", "solver": {"name": "gmres", "steps": 200}}, net, *still(net))
    (text,) = [text for text in found if "has norm" in text]
    assert "the feedback 0.back has norm 3.00, which is 1.50 of what a spike of 0.body.0 costs" in text
    assert "--model.restriction spectral" in text
    assert "--neuron.threshold" in text
    calm = strong(1.9)
    assert warned({"name": "ide", "solver": {"name": "gmres"}}, calm, *still(calm)) == []


def test_a_gradient_that_was_not_solved_is_named_with_residual_gain_and_what_mends_it() -> None:
    """The residual and the steps are those of the solver; the gain is measured."""
    net = NETWORKS["one layer"](integrates)
    (text,) = warned({"name": "ide", "solver": {"name": "fixed-point", "steps": 4}}, net, *still(net))
    assert "the gradient through the feedback 0.back is not exact: after 4 steps (limit)" in text
    assert "residual is " in text
    assert "gain" in text
    for remedy in ("--model.restriction spectral", "--rule.solver.steps", "--rule.solver gmres"):
        assert remedy in text
    for name in solvers.names():
        if name != "halved":
            assert not warned({"name": "ide", "solver": {"name": name, "steps": 200}}, net, *still(net))


def test_couples_beyond_their_range_are_named_with_their_share_and_the_scale_to_choose() -> None:
    net = NETWORKS["three layers"](symmetric)
    x, y = still(net)
    for text, layer in zip(warned({"name": "spide", "scale": 3000}, net, x, y), (0, 2, 4), strict=True):
        assert f"% of the backward couples of 0.body.{layer} are saturated" in text
        assert "lower --rule.scale, now 3000, such as to 1e+03" in text
    for text, layer in zip(warned({"name": "spide", "scale": 1e-4}, net, x, y), (0, 2, 4), strict=True):
        assert f"the backward couples of 0.body.{layer} are silent (100.0% never fire)" in text
        assert "raise --rule.scale, now 0.0001, such as to 0.0003, or --rule.steps" in text
    assert warned({"name": "spide", "scale": 10}, net, x, y) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rule", "ide", *LOOP, "--model.restriction", "none", "--neuron.threshold", "0.3"], "has norm"),
        (["--rule", "ide", *LOOP, "--rule.solver.steps", "1"], "is not exact: after 1 steps"),
        (["--rule", "spide", *LOOP, "--rule.scale", "100000", "--rule.steps", "5"], "are saturated"),
        (["--rule", "spide", *LOOP, "--rule.scale", "0.001", "--rule.steps", "5"], "are silent"),
    ],
    ids=["strong", "unsolved", "saturated", "silent"],
)
def test_a_run_tells_what_its_user_should_know(flags: list[str], words: str, tokens: list[str]) -> None:
    events: list[Event] = []
    train(parse_tokens([*tokens, *flags, "--train.steps", "5"]), events.append)
    told = [event.text for event in events if isinstance(event, Warned)]
    assert any(words in text for text in told), told


def test_a_run_is_silent_where_nothing_is_wrong(tokens: list[str]) -> None:
    events: list[Event] = []
    flags = ["--rule", "ide", *LOOP, "--rule.solver", "gmres", "--train.steps", "5"]
    train(parse_tokens([*tokens, *flags]), events.append)
    assert not [event for event in events if isinstance(event, Warned)]
