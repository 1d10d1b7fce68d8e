"""The ReLU network behind a spiking one: shared weights, its activations' percentiles, thresholds from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onward import Delay, Network, Recurrent, Residual
from onward.core.errors import ConfigError, DataError, TopologyMismatch, UnknownName
from onward.models import Twin, models, set_thresholds, thresholds_from_activations
from onward.neurons import IF, LI, Affine


def learned() -> Affine:
    return IF(learn_threshold=True)


def by_hand() -> tuple[Network, nn.Sequential]:
    """A network with every kind of glue, and the stock network with ReLU of the same modules."""
    torch.manual_seed(0)
    first, norm, inner, last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.Linear(5, 3)
    block = nn.Sequential(inner, learned())
    net = Network(nn.Sequential(first, norm, learned(), Residual(block), Delay(2), last, LI(tau=2.0)))

    class Add(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + inner(x).relu()

    return net, nn.Sequential(first, norm, nn.ReLU(), Add(), last)


def test_the_twin_is_the_stock_network_of_the_same_modules() -> None:
    net, stock = by_hand()
    x = torch.randn(7, 6)
    assert torch.equal(Twin(net)(x), stock(x))
    for mode in (True, False):
        net.train(mode)
        stock.train(mode)
        assert torch.equal(Twin(net)(x), stock(x))


def test_training_the_twin_trains_the_network() -> None:
    net, _ = by_hand()
    twin, before = Twin(net), net.get_parameter("0.weight").detach().clone()
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.5)
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(twin(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert net.get_parameter("0.weight") is twin.get_parameter("net.0.weight")
    assert not torch.equal(net.get_parameter("0.weight"), before)


@pytest.mark.parametrize("name", ["preact-resnet18", "vgg11"])
def test_deep_networks_have_twins(name: str) -> None:
    net = models.build({"name": name, "width": 0.03}, (2, 32, 32), 3, IF)
    out = Twin(net)(torch.rand(2, 2, 32, 32))
    assert out.shape == (2, 3)
    assert (out >= 0).all(), "neurons at the end are ReLUs too"


def test_a_network_with_feedback_has_no_twin() -> None:
    net = Network(nn.Sequential(Recurrent(nn.Linear(2, 2), IF(), nn.Linear(2, 2))))
    with pytest.raises(TopologyMismatch, match=r"a cycle \(0.delay\) has no ReLU network"):
        Twin(net)


@given(
    st.lists(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=9), min_size=1, max_size=4),
    st.one_of(st.sampled_from([0.0, 50.0, 99.9, 100.0]), st.floats(0, 100)),
)
def test_percentiles_are_those_of_all_activations_of_all_batches(batches: list[list[float]], percentile: float) -> None:
    net = Network(nn.Sequential(learned()))
    tensors = [torch.tensor(batch)[:, None] for batch in batches]
    found = thresholds_from_activations(Twin(net), tensors, percentile)
    everything = np.maximum(np.concatenate([np.asarray(batch, dtype=np.float64) for batch in batches]), 0)
    assert found == {"0": pytest.approx(np.percentile(everything, percentile), abs=1e-5)}


def test_percentiles_are_taken_in_evaluation_mode_at_every_neuron() -> None:
    net, _ = by_hand()
    net.train()
    batches = [torch.randn(20, 6), torch.randn(12, 6)]
    statistics = net.get_buffer("1.running_mean").clone()
    found = thresholds_from_activations(Twin(net), iter(batches))
    assert net.training
    assert torch.equal(net.get_buffer("1.running_mean"), statistics)
    net.eval()
    with torch.no_grad():
        a = net.get_submodule("1")(net.get_submodule("0")(torch.cat(batches))).relu()
        b = net.get_submodule("3.body.0")(a).relu()
    assert found.keys() == {"2", "3.body.1"}
    for activation, value in zip((a, b), found.values(), strict=True):
        assert value == pytest.approx(float(np.percentile(activation.double().numpy(), 99.9)), rel=1e-6)


def test_thresholds_are_written_where_they_are_learned() -> None:
    net, _ = by_hand()
    parameter = net.get_parameter("2.threshold")
    set_thresholds(net, {"2": 0.75})
    assert net.get_parameter("2.threshold") is parameter
    assert parameter.item() == 0.75
    assert net.get_parameter("3.body.1.threshold").item() == 1.0


@pytest.mark.parametrize(
    ("thresholds", "error", "message"),
    [
        ({"3.body.2": 1.0}, UnknownName, "unknown neuron '3.body.2'; did you mean '3.body.1'"),
        ({"6": 1.0}, ConfigError, r"neuron 6 is not learned, .*--neuron.learn-threshold"),
        ({"2": 0.0}, ConfigError, "a threshold of 0 was given for neuron 2; expected a positive number"),
        ({"2": float("nan")}, ConfigError, "a threshold of nan"),
    ],
)
def test_thresholds_that_fit_nowhere_are_refused(thresholds: dict, error: type, message: str) -> None:
    net, _ = by_hand()
    with pytest.raises(error, match=message):
        set_thresholds(net, {"3.body.1": 0.5, **thresholds})
    assert net.get_parameter("3.body.1.threshold").item() == 1.0, "all or none"


def test_percentiles_of_nothing_are_refused() -> None:
    twin = Twin(Network(nn.Sequential(learned())))
    with pytest.raises(DataError, match="no samples were given"):
        thresholds_from_activations(twin, [])
    with pytest.raises(ConfigError, match="percentile 101 was given"):
        thresholds_from_activations(twin, [torch.ones(1, 1)], 101)
