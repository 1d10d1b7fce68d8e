"""Properties H1 to H10 and H12 of HLOP (docs of the methods, 4.12), in float64 unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from onward.core import Frames, GradSink, KeyedDraws, Network, Static, evaluate, run_sequence
from onward.core.interpret import evaluating
from onward.core.synapse import effective, ops_of
from onward.neurons import LIF
from onward.optim import optimizers
from onward.testing.harness import Spy, bound, relative, suited
from onward.transforms import Hebbian, Projected, Spiking, Subspace, freeze_after_first, leakage
from onward.transforms.evidence import Moment, Samples
from onward.transforms.learners import Analogue
from onward.transforms.subspace import Protected
from properties.hlop_lab import (
    CLASSES,
    RULES,
    STEPS,
    behind,
    conv,
    frames,
    holding,
    loud,
    low_rank,
    mlp,
    named,
    ready,
    taught,
)
from reference.projected import InputForm, projection

NETS: dict[str, Callable[[], Network]] = {"mlp": mlp, "conv": conv}
TABLE = ((6, 7, 5), (2, 2, 2))


def trained(x: Tensor, k: int, space: Subspace, passes: int = 5, batch: int = 50) -> Subspace:
    """Hebbian learning of ``k`` new rows from ``x`` in mini-batches."""
    learner = Hebbian(x.shape[1], x)
    generator = torch.Generator().manual_seed(0)
    learner.begin(space, torch.linalg.qr(torch.randn(x.shape[1], k, generator=generator, dtype=torch.float64))[0].T)
    for _ in range(passes):
        for part in x.split(batch):
            evidence = learner.evidence(space, lambda rows: rows[:, None])
            evidence.see(part[None])
            learner.learn(space, evidence)
    return space


def leading(x: Tensor, k: int) -> Tensor:
    return torch.linalg.eigh(x.T @ x)[1][:, -k:].T


def residual(x: Tensor, h: Tensor) -> float:
    return float((x - projection(x, h)).norm() / x.norm())


def test_h1_rows_converge_to_the_principal_subspace() -> None:
    """H1: orthonormal to 1e-3, principal cosines above 0.999, and the residual of PCA to 2 %."""
    x = low_rank(20, 4, 4000, seed=1)
    h = trained(x, 4, Subspace(4, 20, x)).all
    assert float((h @ h.T - torch.eye(4)).norm()) < 1e-3
    cosines = torch.linalg.svdvals(torch.linalg.qr(h.T)[0].T @ leading(x, 4).T)
    assert float(cosines.min()) > 0.999
    assert residual(x, h) < 1.02 * residual(x, leading(x, 4))


def test_h2_an_orthonormal_basis_of_an_invariant_subspace_stands_still() -> None:
    """H2: D = 0 at eigenvectors of the batch's second moment, however they are turned."""
    x = low_rank(12, 5, 40, seed=2)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    space = Subspace(3, 12, x)
    space.grow(turn @ leading(x, 5)[1:4])
    for evidence in (Moment(12, lambda rows: rows[:, None], x), Samples(12, lambda rows: rows[:, None], x)):
        evidence.see(x[None])
        assert float(Analogue().change(space, evidence).abs().max()) < 1e-12


def test_h3_growth_leaves_old_rows_alone_and_takes_what_they_miss() -> None:
    """H3: old rows to the bit, cross products below 1e-3, the new task's residual as PCA's of the same size to 5 %."""
    first, second = low_rank(24, 4, 4000, seed=3), low_rank(24, 3, 4000, seed=4)
    space = trained(first, 4, Subspace(7, 24, first))
    space.merge()
    old, before = space.held.clone(), residual(first, space.all)
    momentum = space.momentum[:4].clone()
    trained(second, 3, space, passes=10)
    assert torch.equal(space.held, old)
    assert torch.equal(space.momentum[:4], momentum)
    assert float((space.held @ space.new.T).abs().max()) < 1e-3
    rest = second - projection(second, torch.linalg.qr(old.T)[0].T)
    assert residual(second, space.all) < 1.05 * float(
        (rest - projection(rest, leading(rest, 3))).norm() / second.norm()
    )
    assert residual(first, space.all) <= before + 1e-6


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("spatial", rule["name"]))
def test_h4_gradients_do_not_act_on_what_is_held(rule: dict[str, Any], net: str) -> None:
    """H4: dW x_old = 0 to 1e-10 for x_old in the span of the rows, under every rule, dense and convolutional."""
    model = NETS[net]()
    one, other = ready(rule, model), ready(rule, model)
    hlop = holding(behind(model, one, TABLE))
    for _ in range(2):  # OPZO learns its feedback from the first mini-batch
        grads = taught(model, one, hlop, *frames(model))
        plain = taught(model, other, GradSink(model), *frames(model))
    for site in hlop.sites:
        name, h = f"{site.node.name}.weight", site.subspace.held
        expected = plain[name].flatten(1) - projection(plain[name].flatten(1), h)
        assert float((grads[name].flatten(1) @ h.T).abs().max()) < 1e-10
        assert relative(grads[name].flatten(1), expected) < 1e-10
        assert float(grads[name].abs().max()) > 0


def test_h4_a_learned_subspace_protects_noisy_data() -> None:
    """H4: responses to noisy low-rank inputs change more than 50 times less than without projection."""
    x = low_rank(40, 5, 2000, seed=6, noise=0.001)
    space = trained(x, 5, Subspace(5, 40, x), passes=10)
    space.merge()
    gradient = torch.randn(8, 40, dtype=torch.float64) @ (x.T @ x) / len(x)
    free = float((x @ gradient.T).norm())
    assert float((x @ space.remove_from(gradient.clone()).T).norm()) < free / 50


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**31)
)
def test_h5_projecting_patches_or_the_finished_gradient_is_the_same(
    kernel: int, stride: int, padding: int, dilation: int, axes: int, seed: int
) -> None:
    """H5: to 1e-10, at any stride, padding and dilation, in 1 to 3 dimensions."""
    torch.manual_seed(seed)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    module = kind(2, 3, kernel, stride, padding, dilation, bias=False).double().requires_grad_(False)
    x = torch.randn(2, 2, *[6] * axes, dtype=torch.float64)
    ops, params = ops_of(module), effective(module)
    drive = ops.apply(module, params, x)
    post, n = torch.randn_like(drive), module.weight[0].numel()
    patches = ops.patches(module, x)
    assert relative((patches @ module.weight.flatten(1).T).mT.reshape(drive.shape), drive) < 1e-10
    h = torch.randn(max(1, n // 2), n, dtype=torch.float64)  # not orthonormal: the identity holds for any H
    slow = torch.einsum("rop,rpn->on", post.flatten(2), patches - projection(patches, h))
    into = {"weight": torch.zeros_like(module.weight)}
    ops.outer(module, params, x, post, into)
    space = Subspace(len(h), n, h)
    space.grow(h)
    space.merge()
    assert relative(space.remove_from(into["weight"]).flatten(1), slow) < 1e-10


@pytest.mark.parametrize("rule", ["bptt", "ottt", "sltt"])
def test_h5_projecting_every_input_or_the_finished_gradient_is_the_same(rule: str) -> None:
    """H5: to 1e-10 through the engine, traces included."""
    found = []
    for slow in (False, True):
        net = mlp()
        built, inner = ready(rule, net), InputForm(GradSink(net)) if slow else GradSink(net)
        hlop = behind(net, built, TABLE, inner)
        if isinstance(inner, InputForm):
            inner.hlop = hlop
        found.append(taught(net, built, holding(hlop), *frames(net)))
    assert all(relative(found[1][name], grad) < 1e-10 for name, grad in found[0].items())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("spatial", rule["name"]))
def test_h6_forward_passes_and_errors_stay_what_they_are(rule: dict[str, Any]) -> None:
    """H6: outputs, and what every synapse is told, are the same to the bit with and without projection."""
    found = []
    for projected in (False, True):
        net = mlp()
        built, spy, records = ready(rule, net), Spy(GradSink(net)), []
        sink = holding(behind(net, built, TABLE, spy)) if projected else spy
        x, y = frames(net)
        run_sequence(net, built, suited(built, net), Frames(x), y, sink, draws=KeyedDraws(0), watch=records.append)
        found.append((torch.cat([r.out.detach() for r in records]), [(d.pre, d.post) for d in spy.deposits]))
    (outs, deposits), (outs_projected, deposits_projected) = found
    assert torch.equal(outs, outs_projected)
    assert len(deposits) == len(deposits_projected) > 0
    for one, other in zip(deposits, deposits_projected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def normed() -> Network:
    """Normalisation, learned thresholds and biases: all that projection does not protect."""

    def neuron() -> nn.Module:
        return LIF(learn_threshold=True)

    return loud(
        nn.Sequential(
            nn.Linear(12, 40), nn.BatchNorm1d(40), neuron(), nn.Linear(40, 40), nn.BatchNorm1d(40), neuron(),
            nn.Linear(40, CLASSES),
        )
    )  # fmt: skip


def after_a_second_task(unfrozen: str) -> float:
    """How far logits of a first task move when a second one is learned; ``unfrozen`` stays free to learn."""
    net = normed()  # 3 old inputs that stand still: 3 directions at the input, at most 15 elsewhere
    rule, (old, y_old), (x, y) = ready("bptt", net), frames(net, seed=1, batch=3), frames(net, seed=2)
    gpm = named("gpm", net, rule, initial=(3, 15, 15), increment=(0,))
    for node in net.of(net.nodes[2].kind):
        node.module.running_mean.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    old = old[:1].expand(STEPS, -1, -1)
    freeze_after_first(net, gpm)
    gpm.begin_task(0)
    taught(net, rule, gpm, old, y_old)
    gpm.end_task()
    for name, parameter in net.named_parameters():
        if unfrozen in ("bias", "threshold") and name.endswith(unfrozen):
            parameter.requires_grad_(True)
    if unfrozen == "statistics":
        net.train()
    before = net_outputs(net, old)
    gpm.begin_task(1)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.2, momentum=0.9)
    for _ in range(10):
        taught(net, rule, gpm, x, y)
        optimizer.step()
    assert not torch.equal(net_outputs(net, x), before[:, :1].expand(-1, len(y), -1))
    return float((net_outputs(net, old) - before).abs().max())


def net_outputs(net: Network, x: Tensor) -> Tensor:
    with evaluating(net):
        return net(x)


def test_h7_old_outputs_stay_through_all_layers() -> None:
    """H7: below 1e-6 with exact subspaces and everything unprotected frozen."""
    assert after_a_second_task("nothing") < 1e-6


@pytest.mark.parametrize("unfrozen", ["bias", "threshold", "statistics"])
def test_h7_needs_everything_else_frozen(unfrozen: str) -> None:
    """H7, negative controls: any one of them left free moves old outputs."""
    assert after_a_second_task(unfrozen) > 1e-3


def moved(optimizer: str, projected: bool = False, **options: Any) -> float:
    """The leakage over 100 updates with projected gradients."""
    weight = nn.Parameter(torch.randn(6, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    space = Subspace(5, 15, weight.detach())
    space.grow(
        torch.linalg.qr(torch.randn(15, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0].T
    )
    space.merge()
    groups = [{"params": [weight], "weight_decay": options.pop("weight_decay", 0.0)}]
    built, generator = optimizers.build({"name": optimizer, "lr": 0.05, **options}, groups), torch.Generator()
    start, updates = weight.detach().clone(), Projected([Protected("w", weight, space)])
    for _ in range(100):
        weight.grad = space.remove_from(torch.randn(6, 15, generator=generator, dtype=torch.float64))
        if projected:
            updates.before()
        built.step()
        if projected:
            updates.after()
    return leakage(start, weight.detach(), space)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "layer-adam"])
def test_h8_optimisers_that_keep_row_spaces(optimizer: str) -> None:
    """H8: nothing leaks to 1e-10 over 100 updates."""
    assert moved(optimizer) < 1e-10


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("adam", {}), ("adagrad", {}), ("sgd", {"weight_decay": 0.01}), ("layer-adam", {"weight_decay": 0.01})],
)
def test_h8_optimisers_that_do_not_unless_their_steps_are_projected(optimizer: str, options: dict[str, Any]) -> None:
    """H8, negative controls; and projected updates mend each of them."""
    assert moved(optimizer, **options) > 1e-3
    assert moved(optimizer, projected=True, **options) < 1e-10


@pytest.mark.parametrize("spatial", ["feedback-alignment", "sign-symmetric"])
def test_h9_other_ways_back_change_errors_alone(spatial: str) -> None:
    """H9: with one hidden layer, the readout's projected gradient is that of back-propagation."""
    found = []
    for way in ("bp", spatial):
        net = loud(nn.Sequential(nn.Linear(12, 20), LIF(), nn.Linear(20, CLASSES)))
        built = ready({"name": "online", "temporal": "ottt", "spatial": way}, net)
        found.append(taught(net, built, holding(behind(net, built, ((6, 7), (1, 1)))), *frames(net)))
    assert torch.equal(found[0]["2.weight"], found[1]["2.weight"])
    assert relative(found[0]["0.weight"], found[1]["0.weight"]) > 0.1


@pytest.mark.parametrize("levels", [20, 40, 1000])
def test_h10_spiking_lateral_neurons_are_off_by_half_a_level(levels: int) -> None:
    """H10: at most s / (2 T_l) within the range, the range outside; the reconstruction's error falls with T_l."""
    y = torch.linspace(-25, 25, 4001, dtype=torch.float64)
    answered, inside = Spiking(20.0, levels)(y), y.abs() <= 20
    assert float((answered - y)[inside].abs().max()) <= 20 / (2 * levels) + 1e-12
    assert torch.equal(answered[~inside], 20 * y[~inside].sign())
    h = leading(low_rank(30, 6, 500, seed=8), 6)
    x = torch.randn(200, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    error = float((projection(x, h, Spiking(20.0, levels)) - projection(x, h)).norm() / projection(x, h).norm())
    assert error < 20 / (2 * levels)


def test_h10_many_levels_learn_as_analogue_neurons_do() -> None:
    """H10: T_l to infinity recovers the analogue circuit."""
    x = low_rank(15, 4, 400, seed=9)
    found = []
    for lateral in (Analogue(), Spiking(20.0, 10**9)):
        learner, space = Hebbian(15, x, lateral=lateral), Subspace(4, 15, x)
        learner.begin(space, torch.eye(15, dtype=torch.float64)[:4])
        for part in x.split(40):
            evidence = learner.evidence(space, lambda rows: rows[:, None])
            evidence.see(part[None])
            learner.learn(space, evidence)
        found.append(space.all.clone())
    assert relative(*found) < 1e-6


class TwoTasks:
    """Two tasks whose inputs lie in different subspaces; the classes of both share one readout."""

    def __init__(self, name: str):
        self.net = loud(nn.Sequential(nn.Linear(40, 100, bias=False), LIF(), nn.Linear(100, 4, bias=False)))
        self.data = [self._task(seed) for seed in (1, 2)]
        self.rule = ready_for(self.net, self.data[0][0])
        options = {} if name == "none" else {"initial": (8, 60), "increment": (8, 20)}
        self.transform = named(name, self.net, self.rule, **options)

    def run(self) -> tuple[float, float]:
        """Accuracy on the second task, and how that on the first one changed."""
        accuracy = []
        for task, (x, y) in enumerate(self.data):
            self.transform.begin_task(task)
            optimizer = torch.optim.SGD(self.net.parameters(), lr=2.0)
            for _ in range(30):
                self.transform.begin_pass()
                for part, labels in zip(x.split(50), y.split(50), strict=True):
                    taught(self.net, self.rule, self.transform, Static(part, 5), labels)
                    optimizer.step()
            self.transform.end_task()
            accuracy.append(self.accuracy(task))
        return accuracy[1], self.accuracy(0) - accuracy[0]

    def accuracy(self, task: int) -> float:
        x, y = self.data[task]
        objective = suited(self.rule, self.net)
        return float((objective.predict(evaluate(self.net, objective, Static(x, 5), y).evidence) == y).double().mean())

    def _task(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        axes = torch.linalg.qr(torch.randn(40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
        axes = axes[:, 8 * (seed - 1) : 8 * seed]
        centres = 2 * torch.randn(4, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(4, (200,), generator=generator)
        x = centres[y] + 1.2 * torch.randn(200, 8, generator=generator, dtype=torch.float64)
        return 1.5 * x @ axes.T, y


def ready_for(net: Network, x: Tensor) -> Any:
    return bound("ottt", net, Static(x, 5))


def test_h12_two_tasks() -> None:
    """H12: the baseline forgets more than 10 %, projection less than 1 %, and the new task is learned as well."""
    new_plain, change_plain = TwoTasks("none").run()
    assert change_plain < -0.1
    for name in ("hlop", "gpm"):
        new, change = TwoTasks(name).run()
        assert change > -0.01
        assert new > new_plain - 0.02
