"""Schedules, parameter groups, and the state of optimisers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onward.optim import allocate_state, optimizers, parameter_groups, schedules
from onward.optim.schedules import Constant, WarmUp
from reference.learned import choice

SCHEDULES = [*schedules.names()]


@given(st.sampled_from(SCHEDULES), st.integers(1, 500), st.floats(0, 0.9), st.data())
def test_factors_lie_between_0_and_1(name: str, total: int, warmup: float, data: st.DataObject) -> None:
    schedule = schedules.build({"name": name, "warmup": warmup})
    update = data.draw(st.integers(0, total - 1))
    assert 0 < schedule.factor(update, total) <= 1


def test_known_values() -> None:
    cosine = schedules.build({"name": "cosine", "floor": 0.2})
    assert cosine.factor(0, 10) == 1
    assert cosine.factor(5, 10) == pytest.approx(0.6)
    assert cosine.factor(10, 10) == pytest.approx(0.2)
    step = schedules.build({"name": "step", "drops": [0.5], "gamma": 0.1})
    assert [step.factor(k, 4) for k in range(4)] == pytest.approx([1, 1, 0.1, 0.1])
    assert [WarmUp(0.5, Constant()).factor(k, 8) for k in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_groups_hold_every_parameter_once() -> None:
    net, rule = model(), nn.Linear(3, 2, bias=False)
    groups = {group["name"]: group for group in parameter_groups(net, rule, 0.1, decay_all=False)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {"weights": 0.1, "exempt": 0, "rule": 0.1}
    assert [p.dim() for p in groups["weights"]["params"]] == [2, 2]
    assert len(groups["exempt"]["params"]) == 4
    everything = parameter_groups(net, rule, 0.1, decay_all=True)
    assert all(group["weight_decay"] == 0.1 for group in everything)


@pytest.mark.parametrize("name", optimizers.names())
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_state_made_early_changes_no_update(name: str, weight_decay: float, tmp_path: Path) -> None:
    options = choice(name, tmp_path, weight_decay=weight_decay)
    torch.manual_seed(0)
    one, other = model(), model()
    other.load_state_dict(one.state_dict())
    x = torch.randn(8, 4)
    for net, early in ((one, False), (other, True)):
        groups = parameter_groups(net, nn.Identity(), weight_decay, decay_all=True)
        optimizer = optimizers.build(options, groups)
        if early:
            allocate_state(optimizer)
        for _ in range(3):
            net(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
