"""Elastic weight consolidation: what matters, where it is pulled, and whether less is forgotten."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import GradSink, Network
from onward.core.errors import ConfigError
from onward.rules import rules
from onward.transforms import EWC


def made(strength: float = 3.0) -> tuple[Network, EWC]:
    net = Network(nn.Sequential(nn.Linear(3, 2, bias=False))).double()
    return net, EWC(net, GradSink(net), rules.build("bptt"), strength)


def deposit(ewc: EWC, net: Network, pre: Tensor, post: Tensor) -> Tensor:
    """The gradient that one mini-batch of one sample comes to."""
    weight = net.get_parameter("0.weight")
    weight.grad = None
    ewc.deposit(net.synapses[0], pre[None, None], post[None, None])
    ewc.flush()
    assert weight.grad is not None
    return weight.grad.clone()


def test_the_first_task_is_left_alone() -> None:
    net, ewc = made()
    ewc.begin_task(0)
    ewc.begin_pass()
    pre, post = torch.rand(3).double(), torch.rand(2).double()
    assert torch.equal(deposit(ewc, net, pre, post), torch.outer(post, pre))


def test_later_gradients_pull_towards_the_anchor_as_much_as_weights_mattered() -> None:
    net, ewc = made()
    weight, seen = net.get_parameter("0.weight"), []
    ewc.begin_task(0)
    for sample in range(4):
        if sample in (0, 2):  # a second pass, of which alone the squares count
            ewc.begin_pass()
        seen.append(deposit(ewc, net, torch.rand(3).double(), torch.rand(2).double()))
    ewc.end_task()
    fisher, anchor = (seen[2] ** 2 + seen[3] ** 2) / 2, weight.detach().clone()
    with torch.no_grad():
        weight.add_(torch.rand_like(weight))
    pre, post = torch.rand(3).double(), torch.rand(2).double()
    assert torch.equal(deposit(ewc, net, pre, post), torch.outer(post, pre))  # between two tasks
    ewc.begin_task(1)
    ewc.begin_pass()
    pulled = torch.outer(post, pre) + 3.0 * fisher * (weight.detach() - anchor)
    assert torch.allclose(deposit(ewc, net, pre, post), pulled, atol=1e-14)


def test_what_mattered_adds_up_over_tasks() -> None:
    net, ewc = made()
    squares = []
    for task in range(2):
        ewc.begin_task(task)
        ewc.begin_pass()
        pre, post = torch.rand(3).double(), torch.rand(2).double()
        deposit(ewc, net, pre, post)
        squares.append(torch.outer(post, pre) ** 2)
        ewc.end_task()
    assert torch.allclose(ewc.state.of(net.synapses[0]).matters, squares[0] + squares[1])


def test_rules_that_try_weights_out_are_refused() -> None:
    net = Network(nn.Sequential(nn.Linear(3, 2, bias=False)))
    with pytest.raises(ConfigError, match="deposits none; choose one that does, such as bptt or opzo"):
        EWC(net, GradSink(net), rules.build("mezo"), 1.0)
