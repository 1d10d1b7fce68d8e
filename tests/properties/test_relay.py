"""Relayed credit: what its mirrors estimate, and the rules that it becomes at both ends of its dial."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.errors import ConfigError
from onward.core.synapse import effective
from onward.credit.relay import Relay
from onward.neurons import LIF
from onward.rules import rules
from onward.testing.harness import bound, relative, same_bits, teach
from onward.testing.zoo import data, make

HALF = {"name": "online", "temporal": "ottt", "local": "none"}


def relay(hops: int, **options: Any) -> dict[str, Any]:
    return {**HALF, "spatial": {"name": "relay", "hops": hops, **options}}


def deep(layers: int = 4) -> Network:
    torch.manual_seed(0)
    widths = [6, *[8] * layers]
    hidden = [part for n, m in pairwise(widths) for part in (nn.Linear(n, m), LIF(tau=2.0, threshold=0.4))]
    return Network(nn.Sequential(*hidden, nn.Linear(8, 5)).double())


def batch(steps: int = 4, samples: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(steps, samples, 6, dtype=torch.float64) * 2, torch.arange(samples) % 5


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors that are the weights."""
    monkeypatch.setattr(Relay, "estimate", lambda self, node, params, x: params["weight"])


@pytest.mark.parametrize("name", ["mlp", "conv", "standardized", "drive-residual", "spike-residual"])
def test_no_hops_are_opzo(name: str) -> None:
    net, (x, y) = make(name), data(name)
    opzo = {**HALF, "spatial": "opzo"}
    built = bound(relay(0), net, x), bound(opzo, net, x)
    for sequence in range(3):
        ours, theirs = (teach(net, rule, x, y, sequence=sequence).grads for rule in built)
        assert same_bits(ours, theirs)


@pytest.mark.usefixtures("seeing")
@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_with_the_weights_themselves_the_last_layers_learn_as_by_back_propagation(hops: int) -> None:
    """The readout and ``hops`` hidden layers below it; M is zero before its first update, so others learn nothing."""
    x, y = batch()
    ours, bp = teach(deep(), relay(hops, alpha=0.0), x, y), teach(deep(), {**HALF, "spatial": "bp"}, x, y)
    for place, name in enumerate(name for name in bp.grads if name.endswith("weight")):
        if place >= 4 - hops:
            assert relative(ours.grads[name], bp.grads[name]) < 1e-12
        else:
            assert not ours.grads[name].any()


@pytest.mark.usefixtures("seeing")
@pytest.mark.parametrize("name", ["conv", "standardized", "spike-residual", "transposed"])
def test_with_the_weights_themselves_and_all_hops_it_is_back_propagation(name: str) -> None:
    x, y = data(name)
    ours = teach(make(name), relay(9, alpha=0.0), x, y).grads
    for parameter, grad in teach(make(name), {**HALF, "spatial": "bp"}, x, y).grads.items():
        assert relative(ours[parameter], grad) < 1e-12


def convolutions(**options: Any) -> Network:
    torch.manual_seed(2)
    first = [nn.Conv2d(2, 4, 3, padding=1), LIF(tau=2.0, threshold=0.3), nn.AvgPool2d(2)]
    second = [nn.Conv2d(4, 6, 3, **options), LIF(tau=2.0, threshold=0.3), nn.Flatten()]
    width = nn.Sequential(first[0], first[2], second[0], second[2])(torch.zeros(1, 2, 8, 8)).shape[1]
    return Network(nn.Sequential(*first, *second, nn.Linear(width, 5)))


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2, "padding": 1}],
    ids=lambda options: " ".join(options) or "plain",
)
def test_mirrors_estimate_the_weights_of_convolutions(options: dict[str, Any]) -> None:
    """Behind pooling, and at borders, where a weight acts at fewer places; 20,000 pictures of two steps."""
    net, x = convolutions(**options), torch.rand(2, 20_000, 2, 8, 8)
    rule = bound(relay(1, schedule="pairs", alpha=1.0), net, x[:, :4])
    teach(net, rule, x, torch.zeros(20_000, dtype=torch.int64))
    node = net.synapses[1]
    weight = effective(node.module)["weight"].detach()
    assert relative(rule.spatial.estimate(node, {"weight": weight}, torch.zeros(1, 1, 4, 4, 4)), weight) < 0.07


@pytest.mark.parametrize("schedule", ["fresh", "pairs", "two-pass", "codes", "hold"])
@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_mirrors_estimate_the_weights_under_every_noise(law: str, schedule: str) -> None:
    """No membrane lies between noise and drive, so that no schedule leaves a bias."""
    torch.manual_seed(3)
    net, x = deep(2), torch.rand(4, 20_000, 6, dtype=torch.float64)
    rule = bound(relay(1, law=law, schedule=schedule, alpha=1.0), net, x[:, :4])
    teach(net, rule, x, torch.zeros(20_000, dtype=torch.int64))
    for node in rule.spatial._relays:
        weight = node.module.weight.detach()
        found = rule.spatial.estimate(node, {"weight": weight}, torch.zeros(1, 1, 8, dtype=torch.float64))
        assert relative(found, weight) < 0.1


def test_mirrors_follow_weights_that_move() -> None:
    """With momentum rho a weight that was replaced is forgotten at the rate of rho^T a sequence."""
    net, (x, y) = deep(2), batch(4, 2000)
    rule = bound(relay(1, rho=0.8), net, x)
    for sequence in range(8):
        teach(net, rule, x, y, sequence=sequence)
    with torch.no_grad():
        for node in net.synapses:
            node.module.get_parameter("weight").neg_()
    for sequence in range(8, 24):
        teach(net, rule, x, y, sequence=sequence)
    for node in rule.spatial._relays:
        weight = node.module.weight.detach()
        found = rule.spatial.estimate(node, {"weight": weight}, torch.zeros(1, 1, 8, dtype=torch.float64))
        assert torch.nn.functional.cosine_similarity(found.flatten(), weight.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("option", [{"position": "before"}, {"position": "firing"}, {"traced": True}])
def test_noise_that_cannot_tell_weights_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="use position 'after' and traced false"):
        rules.build(relay(1, **option))


def test_mirrors_are_part_of_the_state() -> None:
    net, (x, y) = deep(2), batch()
    rule = bound(relay(1), net, x)
    teach(net, rule, x, y)
    again = bound(relay(1), net, x)
    again.load_state_dict(rule.state_dict())
    ours, theirs = (teach(net, one, x, y, sequence=1).grads for one in (rule, again))
    assert same_bits(ours, theirs)
    assert any(name.startswith("spatial.c") for name in rule.state_dict())


def test_a_loop_that_was_not_gone_round_leaves_its_mirror() -> None:
    """In one step, nothing has come back yet."""
    net, (x, y) = make("recurrent"), data("recurrent")
    rule = bound(relay(1), net, x[:1])
    for sequence in range(2):
        assert teach(net, rule, x[:1], y, sequence=sequence).outs.isfinite().all()
