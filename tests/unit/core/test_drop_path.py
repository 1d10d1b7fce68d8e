"""Stochastic depth: whole branches left out, by sample and sequence, and never in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward import Network, Residual, Static
from onward.core.errors import ConfigError
from onward.core.glue import DropPath, GroupMean, Tile
from onward.core.graph import Kind
from onward.core.run import evaluate
from onward.models import Twin
from onward.neurons import LIF
from onward.testing.harness import OBJECTIVE, teach

RULES = ("bptt", "sltt", "ottt", "opzo", "forward-gradient", "mezo")
Y = torch.arange(5) % 3


def network(p: float | None) -> Network:
    """Two residual branches; their ends drop with probability ``p``, or have nothing there."""
    torch.manual_seed(0)

    def block() -> Residual:
        end = [] if p is None else [DropPath(p)]
        return Residual(nn.Sequential(nn.Conv2d(4, 4, 1), LIF(), *end))

    return Network(
        nn.Sequential(nn.Conv2d(2, 4, 1), LIF(), block(), block(), nn.Flatten(), nn.Linear(36, 3)),
    ).double()


def inputs() -> Tensor:
    return torch.randn(4, 5, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_probability_0_is_no_dropping(rule: str) -> None:
    with_end, without = teach(network(0.0), rule, inputs(), Y), teach(network(None), rule, inputs(), Y)
    assert torch.equal(with_end.outs, without.outs)
    found, expected = list(with_end.grads.values()), list(without.grads.values())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_evaluation_keeps_every_branch(rule: str) -> None:
    net, whole = network(0.7), network(None)
    assert not torch.equal(teach(net, rule, inputs(), Y).outs, teach(whole, rule, inputs(), Y).outs)
    heard, expected = (evaluate(n, OBJECTIVE, Static(inputs()[0], 4), Y).evidence for n in (net, whole))
    assert torch.equal(heard, expected)


@pytest.mark.parametrize("rule", RULES)
def test_chunks_change_nothing(rule: str) -> None:
    outs = [teach(network(0.5), rule, inputs(), Y, chunk=chunk) for chunk in (1, 4)]
    torch.testing.assert_close(outs[0].outs, outs[1].outs)
    for name, grad in outs[0].grads.items():
        torch.testing.assert_close(grad, outs[1].grads[name])


def test_a_branch_is_left_out_of_a_sample_at_every_place_and_step() -> None:
    body = nn.Conv2d(2, 2, 1, bias=False)
    nn.init.dirac_(body.weight)
    net = Network(nn.Sequential(Residual(nn.Sequential(body, DropPath(0.25))), nn.Flatten())).double()
    x = torch.ones(3, 400, 2, 2, 2, dtype=torch.float64)
    seen: list[Tensor] = []
    for sequence in range(2):
        outs = teach(net, "sltt", x, torch.zeros(400, dtype=torch.int64), sequence=sequence).outs
        factors = outs - 1
        assert (factors == factors[:1, :, :1]).all()
        seen.append(factors[0, :, 0])
    for factors in seen:
        torch.testing.assert_close(factors.unique(), torch.tensor([0, 4 / 3], dtype=torch.float64))
        assert abs(factors.mean() - 1) < 4 * (1 / 3 / 400) ** 0.5, "the mean is 1, the variance p / (1 - p)"
    assert not torch.equal(*seen)


def test_it_is_dropout_to_the_engine_and_a_module_to_torch() -> None:
    assert [node.name for node in network(0.5).of(Kind.DROPOUT)] == ["2.body.2", "3.body.2"]
    layer = DropPath(0.5)
    assert set(layer(torch.ones(64, 2, 3)).flatten(1).unique(dim=1).flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(torch.ones(4, 2)), torch.ones(4, 2))
    assert Twin(network(0.5))(torch.rand(2, 2, 3, 3, dtype=torch.float64)).shape == (2, 3)
    with pytest.raises(ConfigError, match=r"left out with probability 1\.0; expected 0 <= p < 1"):
        DropPath(1.0)


def test_a_mean_over_groups_undoes_copies() -> None:
    x = torch.randn(5, 3, 2, 2)
    copies = Tile(4)(x)
    assert copies.shape == (5, 12, 2, 2)
    assert torch.equal(copies[:, 3:6], x)
    torch.testing.assert_close(GroupMean(4)(copies), x)
