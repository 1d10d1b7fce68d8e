"""Two processes with a part of every mini-batch each learn what one process learns: every rule, in float64."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import Tensor

from conformance.zoo import GRID, RULES
from onward.core import Frames, GradSink, KeyedDraws, run_sequence
from onward.core.errors import TopologyMismatch
from onward.core.group import ALONE, Group, Share
from onward.testing.harness import bound, clear, gradients, relative, suited
from onward.testing.zoo import data, label, make
from reference.pair import together

SAMPLES, SEQUENCES = 5, 2
ONLINE = [{"name": name, "schedule": "step"} for name in ("ottt", "opzo", "dkp")]
SOME = [{"name": name} for name in ("bptt", "ottt", "opzo", "sltt-k")]
LOSSES = [{"name": "mezo", "directions": 3}, {"name": "one-point"}, {"name": "es", "directions": 3}]
LOSSES += [
    {"name": "guided", "directions": 2, "alpha": 0.1},
    {"name": "forward-gradient", "directions": 2},
    {"name": "pseudo-zo", "rows": 3, "window": 2, "decay": 0.9},
]
PAIRS = [
    *((rule, name) for rule in RULES for name in ("mlp", "conv")),
    *((rule, "mlp") for rule in [*GRID, *ONLINE]),
    *((rule, name) for rule in SOME for name in ("dropout", "disturbed", "batchnorm", "recurrent", "standardized")),
    *(({"name": name, "norm_over": "sequence"}, "batchnorm") for name in ("bptt", "sltt")),
    *((rule, "batchnorm") for rule in ONLINE),
    *((rule, name) for rule in LOSSES for name in ("dropout", "batchnorm")),
]
Case = tuple[dict, str]


@cache
def cases() -> list[Case]:
    """Rules on networks that they serve."""
    return [case for case in PAIRS if serves(*case)]


def serves(rule: dict, name: str) -> bool:
    try:
        learned(rule, name, ALONE, 1)
    except TopologyMismatch:
        return False
    return True


def learned(rule: dict, name: str, group: Group, sequences: int = SEQUENCES) -> dict[str, Tensor]:
    """Weights, last gradients and everything the rule keeps, after some mini-batches and updates."""
    net, (x, y) = make(name), data(name, batch=SAMPLES)
    built, part = bound(rule, net, x), group.part(SAMPLES)
    sink, optimizer = GradSink(net, group=group), torch.optim.SGD([*net.parameters(), *built.parameters()], lr=0.05)

    def update() -> None:
        clear(net, built)
        sink.flush()
        optimizer.step()

    for number in range(sequences):
        outcome = run_sequence(
            net, built, suited(built, net), Frames(x[:, part]), y[part], sink,
            draws=KeyedDraws(0), ids=torch.arange(SAMPLES)[part] + 7, sequence=number,
            share=Share(SAMPLES, part.start, group, group),
            after_step=update if built.traits.updates == "step" else None,
        )  # fmt: skip
        assert outcome.trouble is None
        if built.traits.updates == "sequence":
            update()
    return {
        **{f"gradient {k}": v for k, v in gradients(net, built).items()},
        **{f"network {k}": v for k, v in net.state_dict().items()},
        **{f"rule {k}": v for k, v in built.state_dict().items()},
    }


def key(rule: dict, name: str) -> str:
    return f"{label(rule)} on {name}: "


def everything(cases: list[Case], group: Group) -> dict[str, Tensor]:
    """All cases, one after the other, in one process of two."""
    return {key(*case) + k: v for case in cases for k, v in learned(*case, group).items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return together(partial(everything, cases()), tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize(("rule", "name"), cases(), ids=[key(*case)[:-2] for case in cases()])
def test_two_processes_learn_what_one_learns(rule: dict, name: str, both: list[dict[str, Tensor]]) -> None:
    alone, start = learned(rule, name, ALONE), key(rule, name)
    for found in both:
        mine = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
        assert set(mine) == set(alone)
        for part, expected in alone.items():
            assert relative(mine[part].double(), expected.double()) < 1e-10, part


def test_both_processes_hold_the_same_bits(both: list[dict[str, Tensor]]) -> None:
    assert len(both[0]) > 500
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
