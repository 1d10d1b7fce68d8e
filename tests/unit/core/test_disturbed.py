"""Neurons that send noise while they learn: whose it is, who reads it, and when it is gone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onward.core import Frames, Network
from onward.core.run import Rates, evaluate
from onward.neurons import LIF, neurons
from onward.testing.harness import OBJECTIVE, teach
from onward.testing.zoo import data, make

NOISE = 0.3


def test_the_readout_learns_from_what_was_sent_noise_and_all() -> None:
    (x, y), net = data("disturbed"), make("disturbed")
    taught = teach(net, "sltt", x, y)
    readout = net.synapses[-1].name
    sent, errors = taught.pres(readout), taught.posts(readout)
    clean = torch.cat([record.firings[net.hidden[-1].index].out for record in taught.records])
    assert ((clean == 0) | (clean == 1)).all()
    noise = (sent - clean) / NOISE
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert abs(noise.square().mean() - 1) < 4 * (2 / noise.numel()) ** 0.5
    expected = torch.einsum("tbo,tbi->oi", errors, sent)
    torch.testing.assert_close(taught.grads[f"{readout}.weight"], expected)


def test_noise_differs_from_sample_to_sample_step_to_step_and_layer_to_layer() -> None:
    net = Network(nn.Sequential(nn.Linear(3, 5), LIF(threshold=100.0), nn.Linear(5, 5), LIF(), nn.Linear(5, 5)))
    for node in net.neurons:
        node.module.noise = NOISE
    x = torch.ones(4, 2, 3)
    taught = teach(net, "sltt", x, torch.zeros(2, dtype=torch.int64))
    sent = taught.pres("2")
    assert len(sent.unique()) == sent.numel()


@pytest.mark.parametrize("rule", ["bptt", "ottt", "forward-gradient", "mezo"])
def test_rules_hear_it_and_evaluation_does_not(rule: str) -> None:
    (x, y), net, quiet = data("disturbed"), make("disturbed"), make("disturbed")
    for node in quiet.neurons:
        node.module.noise = 0.0
    assert not torch.equal(teach(net, rule, x, y).outs, teach(quiet, rule, x, y).outs)
    heard, still = (evaluate(model, OBJECTIVE, Frames(x), y).evidence for model in (net, quiet))
    assert torch.equal(heard, still)


def test_noise_of_tests_is_each_samples_own_and_training_does_not_hear_it() -> None:
    net = Network(nn.Sequential(nn.Linear(3, 5), LIF(threshold=100.0), nn.Linear(5, 5)))
    quiet = evaluate(net, OBJECTIVE, Frames(torch.ones(4, 6, 3)), torch.zeros(6, dtype=torch.int64))
    for node in net.neurons:
        node.module.test_noise = NOISE

    def tested(ids: list[int]) -> torch.Tensor:
        y = torch.zeros(len(ids), dtype=torch.int64)
        return evaluate(net, OBJECTIVE, Frames(torch.ones(4, len(ids), 3)), y, ids=torch.tensor(ids)).evidence

    together = tested([0, 1, 2, 3, 4, 5])
    assert len(together.unique(dim=0)) == 6
    torch.testing.assert_close(torch.cat([tested([0, 1]), tested([2, 3, 4, 5])]), together)
    assert not torch.equal(together, quiet.evidence)
    x, y = torch.ones(4, 2, 3), torch.zeros(2, dtype=torch.int64)
    heard = teach(net, "sltt", x, y).outs
    for node in net.neurons:
        node.module.test_noise = 0.0
    assert torch.equal(heard, teach(net, "sltt", x, y).outs)


def test_firing_rates_count_spikes_and_not_noise() -> None:
    (x, y), net, rates = data("disturbed"), make("disturbed"), Rates()
    taught = teach(net, "bptt", x, y)
    for record in taught.records:
        rates(record)
    for node in net.neurons:
        spikes = torch.cat([record.firings[node.index].out for record in taught.records])
        assert abs(rates.means()[node.name] - float(spikes.mean())) < 1e-6
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ["lif", "if", "cuba-lif", "adaptive-lif"])
def test_named_neurons_take_it(name: str) -> None:
    assert neurons.build({"name": name, "noise": NOISE}).noise == NOISE
    assert neurons.build({"name": name, "test_noise": NOISE}).test_noise == NOISE
    assert neurons.build(name).noise == 0
