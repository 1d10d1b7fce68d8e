"""Orthogonal projection as a sink: what it learns from, tasks, checkpoints, refusals, processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward._tensors import packed, read_tensors
from onward.core import Frames, GradSink, KeyedDraws, Network, Static, run_sequence
from onward.core.drawn import Drawn
from onward.core.errors import ConfigError, ShapeError, UnknownName, UnsupportedModule
from onward.core.group import ALONE, Alone, Group, Share
from onward.core.synapse import ops_of
from onward.core.trace import Trace
from onward.kernels.rows import sparse_rows
from onward.kernels.scan import seen
from onward.neurons import LIF
from onward.rules import rules
from onward.testing.harness import clear, relative, suited
from onward.transforms import Hebbian, Hlop, Projected, Spiking, Subspace, Trusted, freeze_after_first, transforms
from onward.transforms.evidence import Moment, Samples
from onward.transforms.growth import Filled, Listed, Tabled
from onward.transforms.site import EveryStep, Means
from onward.weights import standardize
from properties.hlop_lab import behind, conv, frames, holding, loud, mlp, named, ready, taught
from reference.pair import together
from reference.projected import InputForm

TABLE = ((4, 6, 3), (2, 2, 2))


def rows(hlop: Hlop) -> list[Tensor]:
    return [site.subspace.all.clone() for site in hlop.sites]


def learned(rule: str, chunk: int | None = None, net: Network | None = None, x: Any = None, **options: Any) -> Hlop:
    """Two mini-batches of the first task."""
    net = net or mlp()
    built = ready(rule, net)
    hlop = behind(net, built, TABLE, **options)
    hlop.begin_task(0)
    for seed in (1, 2):
        data, y = frames(net, seed)
        taught(net, built, hlop, data if x is None else x, y, chunk=chunk)
    return hlop


@pytest.mark.parametrize("look", [None, Means(0.8), EveryStep("both")], ids=["steps", "mean", "every-step"])
@pytest.mark.parametrize("rule", ["bptt", "ottt", "sltt"])
def test_chunks_change_nothing(rule: str, look: Any) -> None:
    found = [rows(learned(rule, chunk, look=look)) for chunk in (1, 3, 5)]
    for other in found[1:]:
        assert all(relative(a, b) < 1e-10 for a, b in zip(other, found[0], strict=True))


def test_chunks_change_no_choice_of_patches() -> None:
    found = [rows(learned("sltt", chunk, conv(), patches=0.4)) for chunk in (1, 3, 5)]
    everything = rows(learned("sltt", 5, conv()))
    assert all(relative(a, b) < 1e-10 for other in found[1:] for a, b in zip(other, found[0], strict=True))
    assert relative(found[0][0], everything[0]) > 1e-6


@pytest.mark.parametrize("rule", ["bptt", "ottt"])
def test_a_frame_that_stands_still_counts_as_often_as_it_is_seen(rule: str) -> None:
    net = mlp()
    x, _ = frames(net, 1)
    still = [rows(learned(rule, 5, x=given)) for given in (Static(x[0], 5), Frames(x[:1].repeat(5, 1, 1)))]
    assert all(relative(a, b) < 1e-10 for a, b in zip(*still, strict=True))


def moment(width: int = 9, patches: Any = None, most: float = 0) -> Moment:
    return Moment(width, patches or (lambda x: x[:, None]), torch.zeros(0, dtype=torch.float64), most)


def test_the_trace_of_a_still_frame_is_summed_without_its_steps() -> None:
    torch.manual_seed(0)
    x, before = torch.randn(3, 9, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    for past in (None, before):
        short, long = moment(), moment()
        short.trace(Trace(seen(x, 6), 0.7, past))
        long.see(Trace(x.expand(6, -1, -1).contiguous(), 0.7, past).dense())
        assert relative(short.sum, long.sum) < 1e-12
        assert float(short.count) == float(long.count) == 18


def test_spikes_are_multiplied_without_their_zeros() -> None:
    x = (torch.rand(64, 64, 40, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    listed = sparse_rows(x)
    assert listed is not None
    found = [Moment(40, lambda rows: rows[:, None], torch.zeros(0)) for _ in range(2)]
    for evidence, given in zip(found, (listed, x), strict=True):
        evidence.see(given)
    assert relative(found[0].sum, found[1].sum) < 1e-5
    assert float(found[0].count) == float(found[1].count) == 4096


def test_few_rows_and_their_sum_tell_the_same() -> None:
    torch.manual_seed(0)
    x, h = torch.randn(1, 4, 9, dtype=torch.float64), torch.randn(2, 9, dtype=torch.float64)
    kept, folded = moment(most=4), moment()
    kept.see(x)
    folded.see(x)
    assert relative(folded.sum, (x[0].T @ x[0])) < 1e-12
    assert relative(kept.seen_by(h), folded.seen_by(h)) < 1e-12
    assert relative(kept.energy(), folded.energy()) < 1e-12


@pytest.mark.parametrize("count", [3, 90])
def test_samples_and_their_moment_teach_the_same(count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, count, 9, dtype=torch.float64)
    found = []
    for lateral in (Hebbian(9, x).lateral, Spiking(50.0, 10**10)):
        learner, space = Hebbian(9, x, 0.05, lateral=lateral), Subspace(3, 9, x)
        learner.begin(space, torch.eye(9, dtype=torch.float64)[:3])
        evidence = learner.evidence(space, lambda rows: rows[:, None])
        evidence.see(x)
        assert isinstance(evidence, Samples) == isinstance(lateral, Spiking)
        learner.learn(space, evidence)
        found.append(space.all)
    assert relative(*found) < 1e-7


def test_moments_of_patches_are_added_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Conv2d(2, 3, 3, padding=1).double()
    x = torch.randn(4, 3, 2, 5, 5, dtype=torch.float64)
    whole, pieces = (moment(18, partial(ops_of(module).patches, module)) for _ in range(2))
    whole.see(x)
    monkeypatch.setattr("onward.transforms.evidence.PIECE", 1000)
    pieces.see(x)
    assert relative(pieces.sum, whole.sum) < 1e-12
    assert float(whole.count) == float(pieces.count) == 4 * 3 * 25


def test_what_is_discarded_is_not_learned() -> None:
    net = mlp()
    built = ready("ottt", net)
    hlop = behind(net, built, TABLE, look=Means(0.9))
    hlop.begin_task(0)
    x, y = frames(net)
    before = rows(hlop)
    run_sequence(net, built, suited(built, net), Frames(x), y, hlop, draws=KeyedDraws(0))
    hlop.discard()
    hlop.flush()
    assert all(torch.equal(a, b) for a, b in zip(rows(hlop), before, strict=True))


def test_between_tasks_everything_passes_untouched() -> None:
    net = mlp()
    built = ready("bptt", net)
    hlop = holding(behind(net, built, ((4, 6, 3), (2, 2, 2), (1, 1, 1))))
    hlop.end_task()
    before = rows(hlop)
    grads, plain = taught(net, built, hlop, *frames(net)), taught(net, built, GradSink(net), *frames(net))
    assert all(torch.equal(grads[name], plain[name]) for name in plain)
    assert all(torch.equal(a, b) for a, b in zip(rows(hlop), before, strict=True))


@pytest.mark.parametrize("name", ["hlop", "gpm"])
def test_a_checkpoint_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    """Written in the middle of the second task, read into a transform that was just made."""

    def fresh() -> tuple[Network, Any, Any]:
        net = mlp()
        built = ready("ottt", net)
        return net, built, named(name, net, built, tasks=3, initial=(4, 6, 3), patches=0.5)

    net, built, one = fresh()
    for task in (0, 1):
        one.begin_task(task)
        taught(net, built, one, *frames(net, task))
        if task == 0:
            one.end_task()
    path = tmp_path / "transform.safetensors"
    path.write_bytes(packed(one.modules.state_dict()))
    net, built, other = fresh()
    other.modules.load_state_dict(read_tensors(path, other.modules.state_dict()))
    for transform in (one, other):
        taught(net, built, transform, *frames(net, 5))
        transform.end_task()
        transform.begin_task(2)
    state = one.modules.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in other.modules.state_dict().items())


def test_tasks_come_one_after_the_other() -> None:
    net = mlp()
    hlop = behind(net, ready("bptt", net), TABLE)
    with pytest.raises(ConfigError, match="a task was ended, but none goes on"):
        hlop.end_task()
    with pytest.raises(ConfigError, match="task 1 was begun, but task 0 comes next"):
        hlop.begin_task(1)
    hlop.begin_task(0)
    with pytest.raises(ConfigError, match="task 1 was begun, but task 0 has not ended"):
        hlop.begin_task(1)
    hlop.end_task()
    hlop.begin_task(1)
    hlop.end_task()
    with pytest.raises(ConfigError, match="planned for 2 tasks"):
        hlop.begin_task(2)


def test_planned_rows_are_those_of_the_paper() -> None:
    """H13: totals of the published subspaces."""
    permuted = Listed((80, 200, 100), (70,), 20, (3, 6, 9))
    assert [sum(permuted.plan(10, place, n)) for place, n in enumerate((784, 800, 800))] == [470, 590, 490]
    split = Listed((6, 100, 200), (2, 20, 40))
    assert [sum(split.plan(10, place, n)) for place, n in enumerate((27, 576, 1152))] == [24, 280, 560]
    mini = Tabled(((24, 90), *[(2, 6)] * 5, (0, 2)))
    assert [sum(mini.plan(20, place, n)) for place, n in enumerate((75, 180))] == [34, 148]
    assert sum(Filled(0.6, 10).plan(10, 0, 784)) == 470
    assert Listed((6,), (6,)).plan(3, 0, 14) == [6, 6, 2]


def test_metrics_tell_rows_and_energy() -> None:
    hlop = learned("bptt")
    found = hlop.metrics()
    assert found["rows/0"] == 4
    assert found["directions-left/0"] == 8
    assert 0 < found["captured-energy/0"] < 1
    assert found["hebbian-rate/0"] == pytest.approx(0.7)
    assert found["gram-error/0"] < 1


def test_a_rate_that_is_too_high_is_named_with_the_one_that_helps() -> None:
    hlop = learned("bptt", make=lambda place, width, like: Hebbian(width, like, 2.0 if place == 0 else 1e-4))
    (warning,) = hlop.warnings()
    assert "Hebbian learning at 0 is unstable: its rate 2 times the largest eigenvalue" in warning
    largest = hlop.metrics()["hebbian-rate/0"] / 2
    assert f"set --transform.lr below {1 / largest:.2g} there" in warning


def test_a_subspace_that_leaves_little_is_named() -> None:
    net = mlp()
    hlop = behind(net, ready("bptt", net), ((12, 6, 3),))
    hlop.begin_task(0)
    assert "the subspace of 0 takes 12 of 12 directions" in hlop.warnings()[0]


@pytest.mark.parametrize("name", ["es", "mezo", "forward-gradient", "pseudo-zo", "one-point"])
@pytest.mark.parametrize("transform", ["hlop", "gpm"])
def test_rules_that_try_weights_out_are_refused(name: str, transform: str) -> None:
    net = mlp()
    with pytest.raises(ConfigError, match="tells no synapse what it heard"):
        named(transform, net, rules.build(name))


def test_gradients_without_inputs_are_refused() -> None:
    net = mlp()
    hlop = behind(net, ready("bptt", net), TABLE)
    weight = net.get_parameter("0.weight")
    with pytest.raises(ConfigError, match=r"a gradient of 0 came without the inputs.*--transform.unprotected 0"):
        hlop.add(weight, weight.detach())
    with pytest.raises(ConfigError, match="tells no synapse what it heard"):
        hlop.add_drawn(Drawn.known([], {}))


UNFIT: dict[str, tuple[nn.Module, str]] = {
    "groups": (nn.Conv2d(4, 4, 3, groups=2), "does not multiply one matrix"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), "does not multiply one matrix"),
    "padding": (nn.Conv2d(4, 4, 3, padding="same"), "zero padding given in numbers"),
    "standardised": (standardize(nn.Conv2d(4, 4, 3)), "does not move as its gradient says"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_synapses_that_cannot_be_protected_are_named(kind: str) -> None:
    module, words = UNFIT[kind]
    net = Network(nn.Sequential(nn.Conv2d(2, 4, 3, padding=2), LIF(), module))
    with pytest.raises(UnsupportedModule, match=rf"{words}.*--transform.unprotected 2"):
        behind(net, rules.build("bptt"), ((1, 1),))
    assert [site.node.name for site in behind(net, rules.build("bptt"), ((1,),), unprotected=("2",)).sites] == ["0"]


def test_a_shared_weight_cannot_be_protected() -> None:
    twin = nn.Linear(8, 8)
    net = Network(nn.Sequential(twin, LIF(), twin))
    with pytest.raises(UnsupportedModule, match="0 and 2 share a weight"):
        behind(net, rules.build("bptt"), ((1, 1),))


def test_frozen_synapses_are_left_alone() -> None:
    net = mlp()
    net.get_parameter("2.weight").requires_grad_(False)
    assert [site.node.name for site in behind(net, rules.build("bptt"), ((1, 1),)).sites] == ["0", "4"]
    net.requires_grad_(False)
    with pytest.raises(ConfigError, match="no synapse is left to protect"):
        behind(net, rules.build("bptt"), ((1, 1),))


def test_options_that_do_not_fit_are_refused() -> None:
    net = mlp()
    built = ready("bptt", net)
    with pytest.raises(UnknownName, match="unknown synapse '7'"):
        named("hlop", net, built, unprotected=("7",))
    with pytest.raises(ConfigError, match=r"2 numbers were given for transform.initial, and 3 synapses"):
        named("hlop", net, built, initial=(3, 4))
    with pytest.raises(ConfigError, match=r"2 numbers were given for transform.lr"):
        named("hlop", net, built, lr=(0.1, 0.2))
    with pytest.raises(ShapeError, match="at most 2 rows of 3"):
        Subspace(2, 3, torch.zeros(())).grow(torch.eye(3))


@pytest.mark.parametrize("options", [{"schedule": "step"}, {"lateral": "spiking"}])
def test_what_needs_all_samples_is_refused_where_processes_share_them(options: dict[str, Any]) -> None:
    class Pair(Alone):
        size = 2

    net = mlp()
    with pytest.raises(ConfigError, match="2 processes share every mini-batch"):
        transforms.build(
            {"name": "hlop", **options}, net, GradSink(net, group=Pair()), ready("bptt", net), KeyedDraws(0), 2
        )


def test_optimisers_are_trusted_projected_or_refused() -> None:
    net = mlp()
    built = ready("bptt", net)
    project, refuse = (holding_rows(net, built, updates=updates) for updates in ("project", "refuse"))
    assert isinstance(project.guard(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)), Trusted)
    assert isinstance(project.guard(torch.optim.Adam(net.parameters())), Projected)
    assert "Adam with these settings would undo the protection" in project.warnings()[0]
    with pytest.raises(ConfigError, match=r"Adam does not keep the row space.*--optim sgd, momentum or layer-adam"):
        refuse.guard(torch.optim.Adam(net.parameters()))
    with pytest.raises(ConfigError, match=r"a weight decay of 0.1 shrinks.*--optim.weight-decay 0"):
        refuse.guard(torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1))


def holding_rows(net: Network, built: Any, **options: Any) -> Any:
    return holding(named("hlop", net, built, initial=(4, 6, 3), **options))  # type: ignore[arg-type]


def test_a_velocity_of_an_earlier_task_is_refused() -> None:
    net = mlp()
    built = ready("bptt", net)
    hlop = holding(behind(net, built, TABLE))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    taught(net, built, GradSink(net), *frames(net))
    optimizer.step()
    with pytest.raises(ConfigError, match="make a new optimiser for every task"):
        hlop.guard(optimizer)


def test_projected_updates_tell_what_would_have_leaked() -> None:
    net = mlp()
    built = ready("bptt", net)
    hlop = holding(behind(net, built, TABLE))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    updates, start = hlop.guard(optimizer), net.get_parameter("0.weight").detach().clone()
    taught(net, built, hlop, *frames(net))
    updates.before()
    optimizer.step()
    updates.after()
    assert updates.leakage > 0.05
    moved = net.get_parameter("0.weight").detach() - start
    assert float((moved @ hlop.sites[0].subspace.held.T).abs().max()) < 1e-12 < float(moved.abs().max())


def test_what_is_frozen_after_the_first_task() -> None:
    net = loud(
        nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), LIF(learn_threshold=True), nn.Linear(6, 5), nn.LayerNorm(5))
    )
    transform = transforms.build("none", net, GradSink(net), rules.build("bptt"), KeyedDraws(0), 2)
    freeze_after_first(net, transform)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["0.weight", "3.weight"]
    assert not net.get_submodule("1").training


def test_spiking_lateral_neurons_learn_and_project_through_the_engine() -> None:
    """The slow reference, with every input projected by neurons of many levels, equals the fast way."""
    found = []
    for inner_of in (GradSink, lambda net: InputForm(GradSink(net), Spiking(50.0, 10**9))):
        net = mlp()
        built, inner = ready("ottt", net), inner_of(net)
        hlop = behind(
            net, built, TABLE, inner,
            make=lambda place, width, like: Hebbian(width, like, 0.01, lateral=Spiking(50.0, 10**9)),
        )  # fmt: skip
        if isinstance(inner, InputForm):
            inner.hlop = hlop
        found.append(taught(net, built, holding(hlop), *frames(net)))
    assert all(relative(found[1][name], grad) < 1e-6 for name, grad in found[0].items())


CASES = [("bptt", "hlop"), ("ottt", "hlop"), ("ottt", "gpm"), ("dsr", "hlop")]


def shared(rule: str, name: str, group: Group) -> dict[str, Tensor]:
    """Weights and subspaces after two mini-batches of each of two tasks."""
    net = conv() if rule == "bptt" else mlp()
    built, (x, y) = ready(rule, net), frames(net, batch=5)
    sink, part = GradSink(net, group=group), group.part(5)
    options = {"name": name, "initial": (4, 6, 3), "patches": 0.5}
    transform = transforms.build(options, net, sink, built, KeyedDraws(0), 2)
    for task in (0, 1):
        transform.begin_task(task)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for number in range(2):
            clear(net, built)
            run_sequence(
                net, built, suited(built, net), Frames(x[:, part]), y[part], transform,
                draws=KeyedDraws(0), ids=torch.arange(5)[part], sequence=2 * task + number,
                share=Share(5, part.start, group, group),
            )  # fmt: skip
            transform.flush()
            optimizer.step()
        transform.end_task()
    return {**net.state_dict(), **transform.modules.state_dict()}


def everything(group: Group) -> dict[str, Tensor]:
    return {f"{case} {k}": v for case in CASES for k, v in shared(*case, group).items()}


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    both, alone = together(everything, tmp_path), everything(ALONE)
    for name, expected in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        assert relative(both[0][name].double(), expected.double()) < 1e-9, name
