"""Named networks: what their options change, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from onward import KeyedDraws, PerStep, Static, rules, run_sequence
from onward.core import CrossEntropy, GradSink, Rates, evaluate
from onward.core.errors import ConfigError
from onward.models import models
from onward.neurons import LI, LIF


@pytest.mark.parametrize("name", ["mlp", "layers", "conv5", "conv9", "vgg", "vgg-f"])
def test_every_network_may_end_in_a_leaky_readout(name: str) -> None:
    narrow = {"hidden": [4]} if name == "mlp" else {"spec": "4C3-AP2-FC"} if name == "layers" else {"width": 0.02}
    torch.manual_seed(0)
    net = models.build({"name": name, "readout_tau": 4.0, **narrow}, (2, 16, 16), 3, LIF)
    readout = net.nodes[net.output].module
    assert isinstance(readout, LI)
    assert readout.decay == 0.75
    rule, draws, sink = rules.build("opzo"), KeyedDraws(0), GradSink(net)
    objective, x, y = PerStep(CrossEntropy()), Static(torch.rand(2, 2, 16, 16), 2), torch.tensor([0, 2])
    rule.bind(net, objective, x, draws)
    outcome = run_sequence(net, rule, objective, x, y, sink, draws=draws)
    sink.flush()
    assert outcome.loss.isfinite()
    assert all(p.grad is not None for p in net.parameters())
    rates = Rates()
    evaluate(net, objective, x, y, watch=rates)
    assert rates.means().keys() == {node.name for node in net.hidden}, "a readout's membrane has no firing rate"


def test_a_readout_has_no_memory_unless_asked() -> None:
    net = models.build("mlp", (4,), 3, LIF)
    assert not any(isinstance(module, LI) for module in net.modules())


def test_pooling_by_more_than_there_is_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"AP40 cannot pool features \[8, 28, 28\]; .* pool by less"):
        models.build({"name": "layers", "spec": "8C3-AP40-FC"}, (1, 28, 28), 10, LIF)
