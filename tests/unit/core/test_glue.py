"""Learned shifts: what they compute, and that the engine takes them for glue."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onward.core import Network, RPReLU, Shift
from onward.core.graph import Kind
from onward.neurons import LIF

SHAPES = [(5, 3), (5, 3, 4), (2, 3, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_shift_adds_its_offset_to_each_channel(shape: tuple[int, ...]) -> None:
    shift, x = Shift(3), torch.randn(shape)
    assert torch.equal(shift(x), x)
    nn.init.normal_(shift.offset)
    for channel in range(3):
        assert torch.equal(shift(x)[:, channel], x[:, channel] + shift.offset[channel])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rprelu_of_slope_1_without_shifts_is_the_identity(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(RPReLU(3, slope=1.0)(x), x)
    assert torch.equal(RPReLU(3)(x), nn.PReLU(3)(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rprelu_is_a_shifted_prelu(shape: tuple[int, ...]) -> None:
    layer, x = RPReLU(3).double(), torch.randn(shape, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for channel in range(3):
        moved = x[:, channel] - layer.before[channel]
        expected = torch.where(moved > 0, moved, layer.slope[channel] * moved) + layer.after[channel]
        assert torch.equal(layer(x)[:, channel], expected)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


def test_a_shift_in_front_of_neurons_lowers_their_threshold() -> None:
    """RSign: s = H(U - theta + b), for neurons that forget at once."""
    shift, x = Shift(1), torch.rand(3, 8, 1) * 2
    nn.init.constant_(shift.offset, 0.25)
    given = Network(nn.Sequential(shift, LIF(decay=0.0, threshold=1.0)))(x)
    assert torch.equal(given, Network(nn.Sequential(LIF(decay=0.0, threshold=0.75)))(x))
    assert 0 < given.mean() < 1


def test_what_is_learned_between_synapse_and_neuron_is_glue() -> None:
    net = Network(nn.Sequential(nn.Linear(4, 3), RPReLU(3), Shift(3), nn.PReLU(), LIF(), nn.Linear(3, 2)))
    assert [node.kind for node in net.nodes[2:5]] == [Kind.GLUE] * 3
    assert [node.name for node in net.fitted_glue] == ["1", "2", "3"]
    assert [node.name for node in net.synapses] == ["0", "5"]
