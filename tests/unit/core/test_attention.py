"""Glue that multiplies signals: truth tables, groups of channels, noise, and signals that are not there yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward import Joined, Network
from onward.core.attention import Attention, Gate, HeadSums, TokenSums, Veto
from onward.core.errors import ShapeError
from onward.core.glue import Add
from onward.core.graph import Builder, Kind
from onward.core.signal import Perturbed
from onward.neurons import IF, LIF
from onward.testing.harness import teach


def test_gate_and_veto_of_spikes_are_and_and_and_not() -> None:
    first, second = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    assert Gate()(first, second).tolist() == [[0, 0, 0, 1]]
    assert Veto()(first, second).tolist() == [[0, 1, 0, 0]]


def test_a_gate_of_few_channels_opens_groups_of_them() -> None:
    """One gate a head and token, or one a channel for all tokens."""
    x = torch.arange(1.0, 13.0).view(1, 4, 3)
    by_head = Gate()(torch.tensor([[[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]), x)
    assert by_head.tolist() == [[[1, 0, 3], [4, 0, 6], [0, 0, 9], [0, 0, 12]]]
    by_channel = Gate()(torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1), x)
    assert by_channel.tolist() == [[[0, 0, 0], [4, 5, 6], [0, 0, 0], [10, 11, 12]]]


def test_sums_run_over_the_channels_of_a_head_or_over_tokens() -> None:
    x = torch.arange(1.0, 13.0).view(1, 4, 3)
    assert HeadSums(2)(x).tolist() == [[[5, 7, 9], [17, 19, 21]]]
    assert TokenSums()(x[..., None]).tolist() == [[[[6]], [[15]], [[24]], [[33]]]]


@pytest.mark.parametrize("tokens", [2, 9])
def test_attention_takes_the_cheaper_order(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for name in ("tokens_first", "channels_first"):
        plain = getattr(Attention, name)
        monkeypatch.setattr(Attention, name, lambda *x, plain=plain, name=name: taken.append(name) or plain(*x[-3:]))
    x = torch.ones(1, 8, tokens)
    assert Attention(heads=2, scale=1.0)(x, x, x).unique().tolist() == [4.0 * tokens]
    assert taken == ["tokens_first" if tokens <= 4 else "channels_first"]


def test_heads_that_do_not_share_out_the_channels_are_named() -> None:
    net = Network(nn.Sequential(Joined(Attention(3), q=nn.Identity(), k=nn.Identity(), v=nn.Identity())))
    with pytest.raises(ShapeError, match=r"0.join \(Attention\) cannot take an input of shape \[2, 4, 5\] and \[2, 4"):
        net(torch.zeros(1, 2, 4, 5))


def test_noise_goes_through_products_and_traces_see_none() -> None:
    """Behind a gate, weights multiply products of noisy spikes, and deposits take those of the spikes."""
    torch.manual_seed(0)
    branches = {name: nn.Sequential(nn.Linear(6, 6), LIF()) for name in ("gate", "values")}
    net = Network(nn.Sequential(nn.Linear(6, 6), LIF(), Joined(Gate(), **branches), nn.Linear(6, 3)))
    taught = teach(net, {"name": "opzo"}, torch.rand(4, 5, 6) * 4, torch.tensor([0, 1, 2, 0, 1]))
    (record,) = taught.records
    join = next(node for node in net.nodes if node.kind is Kind.JOIN)
    sent = [record.sent[index] for index in join.inputs]
    assert all(isinstance(chunk, Perturbed) for chunk in sent)
    first, second = (chunk for chunk in sent if isinstance(chunk, Perturbed))
    readout = net.synapses[-1]
    assert torch.equal(record.pres[readout.index], first.clean * second.clean)
    expected = nn.functional.linear(first.sum * second.sum, *readout.module.parameters())
    torch.testing.assert_close(record.drives[readout.index], expected)


class _Echo(nn.Module):
    """IF(x + gate * x), where the gate is what was sent a step before."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.neuron = Gate(), IF()

    def wire(self, build: Builder, name: str, x: int) -> int:
        """See `Wired.wire`."""
        past = build.open(f"{name}.delay")
        gated = build.node(f"{name}.gated", Kind.JOIN, self.gate, past, x)
        total = build.node(f"{name}.add", Kind.ADD, Add(), x, gated)
        return build.close(past, build.add(f"{name}.neuron", self.neuron, total))


def test_a_product_with_what_is_not_there_yet_is_not_there() -> None:
    x = torch.full((5, 1, 2), 0.5)
    out: Tensor = Network(nn.Sequential(_Echo()))(x)
    assert out[:, 0, 0].tolist() == [0, 1, 1, 1, 1]
