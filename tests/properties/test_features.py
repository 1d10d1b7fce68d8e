"""Features of a teacher: the loss against autograd, and what each kind of rule learns from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.zoo import RULES
from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, LearningRule, Network, PerStep, Recurrent
from onward.core.errors import ObjectiveMismatch, ShapeError
from onward.core.group import Share
from onward.core.interpret import shapes
from onward.core.objective import Mean, Objective, Readout
from onward.distil import Features, Matched, Matching, Other
from onward.distil.features import Mapped, Maps, Which
from onward.neurons import LI, LIF, AdaptiveLIF, Rectifier
from onward.rules import rules
from onward.testing.harness import Taught, assert_close, bound, relative, suited, teach
from onward.testing.zoo import BATCH, CLASSES, STEPS, data, label, make
from reference.noted import Noted
from reference.tiny import body, sequence_loss

PER_STEP, WEIGHT = PerStep(CrossEntropy()), 3.0
SITES = {"mlp": {"1": 10, "3": 8}, "conv": {"1": (4, 6, 6), "4": (6, 2, 2)}}
"""Names of neurons, and what they send."""


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def node_of(net: Network, name: str) -> int:
    return next(node.index for node in net.neurons if node.name == name)


def asked(net: Network, rule: LearningRule, targets: dict[str, Tensor], matrices: dict[str, Tensor]) -> Matching:
    """What is asked of the neurons ``targets``, with matrices that the rule keeps."""
    maps = Maps({node_of(net, name): matrix for name, matrix in matrices.items()})
    rule.add_module("feature_maps", maps)
    return Matching({node_of(net, name): target for name, target in targets.items()}, maps, WEIGHT)


def miss(mean: Tensor, target: Tensor, matrix: Tensor) -> Tensor:
    """The loss of each sample, without its weight."""
    return (torch.einsum("oc,bc...->bo...", matrix, mean) - target).square().flatten(1).mean(1)


def learned(name: str, rule: str | dict, objective: Objective = PER_STEP, **options) -> tuple[Taught, dict, dict]:
    """A sequence with a matrix at the first site alone; the targets and matrices by name of the neuron."""
    net, (x, y), (first, second) = make(name), data(name), SITES[name]
    shapes = [size if isinstance(size, tuple) else (size,) for size in SITES[name].values()]
    matrices = {first: numbers(1, 3, shapes[0][0])}
    targets = {first: numbers(2, BATCH, 3, *shapes[0][1:]), second: numbers(3, BATCH, *shapes[1])}
    built = bound(rule, net, x, objective)
    inner = asked(net, built, targets, matrices)
    found = teach(net, built, x, y, objective=objective.asking(inner), **options)
    return found, targets, matrices


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)])
@pytest.mark.parametrize("mapped", [False, True])
def test_loss_gradient_and_what_maps_learn_are_those_of_autograd(shape: tuple[int, ...], mapped: bool) -> None:
    net, width = Network(nn.Sequential(nn.Linear(2, 2))), 3 if mapped else shape[0]
    maps = Maps({7: numbers(1, width, shape[0])} if mapped else {})
    target, mean = numbers(2, BATCH, width, *shape[1:]), numbers(3, BATCH, *shape).requires_grad_()
    matching, matrix = Matching({7: target}, maps, WEIGHT), maps.of(7)
    expected = WEIGHT * miss(mean, target, torch.eye(width).double() if matrix is None else matrix)
    assert relative(matching.loss(7, mean).detach(), expected.detach()) < 1e-12
    targets = [mean] if matrix is None else [mean, matrix]
    grads = torch.autograd.grad(expected.sum(), targets)
    assert relative(matching.gradient(7, mean.detach()), grads[0]) < 1e-12
    steps = matching.gradient(7, mean.detach().expand(STEPS, *mean.shape))
    assert relative(steps, grads[0].expand_as(steps)) < 1e-12
    sink = GradSink(net)
    matching.fit(7, mean.detach(), BATCH, sink)
    sink.flush()
    if matrix is not None:
        assert matrix.grad is not None
        assert relative(matrix.grad, grads[1] / BATCH) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("objective", [PER_STEP, Readout(CrossEntropy(), Mean())], ids=["per step", "readout"])
def test_bptt_learns_the_gradient_of_the_mean_activity(name: str, objective: Objective) -> None:
    found, targets, matrices = learned(name, "bptt", objective)
    (x, y), (first, second) = data(name), SITES[name]
    simulation, matrix = Noted(body(name), across_time=True), matrices[first].requires_grad_()
    out = simulation.run(x)
    loss = sequence_loss(y)(out) if objective.per_step else nn.functional.cross_entropy(out.mean(0), y)
    loss = loss + WEIGHT / 2 * miss(simulation.rates(first), targets[first], matrix).mean()
    square = torch.eye(targets[second].shape[1]).double()
    loss = loss + WEIGHT / 2 * miss(simulation.rates(second), targets[second], square).mean()
    (of_matrix,) = torch.autograd.grad(loss, matrix, retain_graph=True)
    assert_close({k: g for k, g in found.grads.items() if not k.startswith("rule.")}, simulation.grads(loss))
    assert_close({k: g for k, g in found.grads.items() if k.startswith("rule.")}, {next_name(found): of_matrix})
    assert relative(found.loss, loss.detach()) < 1e-12


def next_name(found: Taught) -> str:
    return next(name for name in found.grads if name.startswith("rule."))


def so_far(simulation: Noted, name: str, target: Tensor, matrix: Tensor) -> Tensor:
    """What stands for the loss of a layer, step by step: the mean so far says what the spikes of a step should be."""
    total, steps = torch.zeros(()).double(), len(simulation.spikes[name])
    for t, spikes in enumerate(simulation.spikes[name], 1):
        mean = torch.stack(simulation.spikes[name][:t]).mean(0).detach().requires_grad_()
        (credit,) = torch.autograd.grad(WEIGHT * miss(mean, target, matrix).mean(), mean)
        total = total + (credit.detach() * spikes).sum() / steps
    return total


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("chunk", [1, 4, STEPS])
def test_sltt_learns_from_the_mean_so_far(name: str, chunk: int) -> None:
    found, targets, matrices = learned(name, "sltt", chunk=chunk)
    (x, y), simulation = data(name), Noted(body(name), across_time=False)
    out = simulation.run(x)
    loss = sequence_loss(y)(out)
    for site, target in targets.items():
        loss = loss + so_far(simulation, site, target, matrices.get(site, torch.eye(target.shape[1]).double())) / 2
    assert_close({k: g for k, g in found.grads.items() if not k.startswith("rule.")}, simulation.grads(loss))
    whole, *_ = learned(name, "bptt")
    assert_close({"A": found.grads[next_name(found)]}, {"A": whole.grads[next_name(whole)]})
    assert relative(found.loss, whole.loss) < 1e-12


@pytest.mark.parametrize("rule", ["ottt", "sltt", "eprop"])
def test_at_one_step_rules_agree_with_bptt(rule: str) -> None:
    net, (x, y), target = make("mlp"), data("mlp"), numbers(2, BATCH, 8)

    def grads(name: str) -> dict[str, Tensor]:
        built = bound(name, net, x[:1])
        return teach(net, built, x[:1], y, objective=PER_STEP.asking(asked(net, built, {"3": target}, {}))).grads

    assert_close(grads(rule), grads("bptt"))


@pytest.mark.parametrize("rule", ["bptt", "ottt", "sltt", "dfa", "eprop"])
@pytest.mark.parametrize("name", ["recurrent", "feedback", "batchnorm", "spike-residual"])
def test_every_topology_is_served_in_any_chunk(rule: str, name: str) -> None:
    (x, y), grads = data(name), []
    for chunk in (1, 4, STEPS):
        net = make(name)
        last, built = net.hidden[-1], bound(rule, net, x)
        target = torch.ones(BATCH, *shapes(net, Frames(x), KeyedDraws(0))[last.index]).double()
        objective = PER_STEP.asking(asked(net, built, {last.name: target}, {}))
        grads.append(teach(net, built, x, y, objective=objective, chunk=chunk).grads)
    assert_close(grads[0], grads[2])
    assert_close(grads[1], grads[2])
    plain = teach(make(name), rule, x, y).grads
    assert any(relative(grads[0][key], plain[key]) > 1e-3 for key in plain)


@pytest.mark.parametrize("rule", ["bptt", "ottt", "eprop"])
def test_parts_of_a_batch_learn_what_the_whole_does(rule: str) -> None:
    (x, y), net, target, matrix = data("mlp"), make("mlp"), numbers(2, BATCH, 3), numbers(1, 3, 8)
    grads = []
    for rows in (slice(None), slice(0, 1), slice(1, BATCH)):
        built = bound(rule, net, x)
        objective = PER_STEP.asking(asked(net, built, {"3": target[rows]}, {"3": matrix}))
        share, ids = Share(BATCH, rows.start or 0), torch.arange(BATCH)[rows]
        grads.append(teach(net, built, x[:, rows], y[rows], objective=objective, ids=ids, share=share).grads)
    assert_close({k: grads[1][k] + grads[2][k] for k in grads[0]}, grads[0])


def test_steps_that_take_no_part_count_in_the_mean() -> None:
    """All K of T steps are SLTT; fewer learn, and the matrix learns from the whole mean under both."""
    every, *_ = learned("mlp", "sltt")
    for k in (STEPS, 2):
        found, *_ = learned("mlp", {"name": "sltt-k", "temporal": {"name": "sltt-k", "k": k}})
        name = next_name(found)
        assert relative(found.grads[name], every.grads[name]) < 1e-12
        assert (relative(found.grads["0.weight"], every.grads["0.weight"]) < 1e-10) == (k == STEPS)


@pytest.mark.parametrize("spatial", ["dfa", "dkp", "opzo", "zo"])
def test_direct_feedback_trains_the_matched_layers_alone(spatial: str) -> None:
    """As back-propagation trains them, by what is asked of them themselves."""
    grid = {"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}}
    difference = {}
    for way in (spatial, "bp"):
        net, (x, y), target = make("mlp"), data("mlp"), numbers(2, BATCH, 8)
        found = {}
        for weight in (0.0, WEIGHT):
            built = bound({**grid, "spatial": way}, net, x)
            inner = Matching({node_of(net, "3"): target}, Maps({}), weight)
            found[weight] = teach(net, built, x, y, objective=PER_STEP.asking(inner)).grads
        difference[way] = {k: g - found[0.0][k] for k, g in found[WEIGHT].items() if k in dict(net.named_parameters())}
    reached = {name for name, grad in difference[spatial].items() if grad.abs().max() > 1e-12}
    assert reached == {"2.weight", "2.bias"}
    if spatial in ("dfa", "dkp"):  # without noise, which changes what is fired
        assert_close({n: difference[spatial][n] for n in reached}, {n: difference["bp"][n] for n in reached})


@pytest.mark.parametrize("leaks", [False, True], ids=["plain", "leaky"])
@pytest.mark.parametrize("adapts", [False, True], ids=["lif", "alif"])
def test_eprop_learns_it_along_paths_within_a_neuron(adapts: bool, leaks: bool) -> None:
    """The memory of the readout has no part in what is asked of the layer itself."""
    torch.manual_seed(6)
    neuron = AdaptiveLIF(LIF(), 0.3, 0.7) if adapts else LIF()
    layer = Recurrent(nn.Linear(12, 6), neuron, nn.Linear(6, 6))
    net = nn.Sequential(layer, nn.Linear(6, CLASSES), *([LI(decay=0.8)] if leaks else [])).double()
    (x, y), target, whole = data("mlp"), numbers(2, BATCH, 6), Network(net)
    built = bound("eprop", whole, x)
    found = teach(whole, built, x, y, objective=PER_STEP.asking(asked(whole, built, {"0.neuron": target}, {}))).grads
    simulation = Noted(net, across_time=True, past=False)
    loss = sequence_loss(y)(simulation.run(x))
    loss = loss + so_far(simulation, "0.neuron", target, torch.eye(6).double())
    assert_close(found, simulation.grads(loss))


@pytest.mark.parametrize("chunk", [1, 4, STEPS])
def test_without_adaptation_and_memory_eprop_learns_it_as_ottt_does(chunk: int) -> None:
    exact, *_ = learned("mlp", {"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}})
    found, *_ = learned("mlp", "eprop", chunk=chunk)
    assert_close(found.grads, exact.grads)


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_rules_that_learn_from_the_output_alone_refuse(rule: dict) -> None:
    name, built = "if", rules.build(rule)
    net, (x, _) = make(name), data(name)
    objective, teacher = suited(built, net), Other(make(name, seed=5), PER_STEP, STEPS)
    bound(built, net, x, objective)
    teaching = Matched(teacher, 0.5, 2.0, Features())
    if built.traits.inner:
        teaching.join(objective, net, built, Frames(x), KeyedDraws(0))
    else:
        with pytest.raises(ObjectiveMismatch, match=r"learns from the output alone .* leave out --distil.features"):
            teaching.join(objective, net, built, Frames(x), KeyedDraws(0))


def rectifiers(*widths: int) -> Network:
    torch.manual_seed(4)
    layers = [m for a, b in zip((12, *widths[:-1]), widths, strict=True) for m in (nn.Linear(a, b), Rectifier())]
    return Network(nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))).double()


def joined(which: Which, mapped: Mapped, *widths: int) -> tuple[Matched, LearningRule]:
    net, (x, _) = make("mlp"), data("mlp")
    teaching, rule = Matched(Other(rectifiers(*widths), PER_STEP, 1), 0.5, 2.0, Features(which, 1.0, mapped)), "bptt"
    built = bound(rule, net, x)
    teaching.join(PER_STEP, net, built, Frames(x), KeyedDraws(0))
    return teaching, built


def test_matrices_are_learned_where_widths_differ_or_always() -> None:
    teachings = [joined("penultimate", "needed", 10, 8), joined("penultimate", "needed", 16)]
    teachings.append(joined("stages", "always", 10, 8))
    shapes = [[tuple(p.shape) for p in rule.parameters()] for _, rule in teachings]
    assert shapes == [[], [(16, 8)], [(10, 10), (8, 8)]]
    teaching, _ = joined("stages", "always", 10, 8)
    assert all(torch.equal(p, torch.eye(len(p)).double()) for p in teaching.maps.parameters())


def test_a_teacher_tells_its_mean_activations_beside_its_logits() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    teaching, _ = joined("stages", "needed", 10, 8)
    teacher = teaching.teacher.net
    objective = teaching(PER_STEP, net, Frames(x), chunk=4)
    assert isinstance(objective.inner, Matching)
    hidden = torch.relu(nn.functional.linear(x, *teacher.get_submodule("0").parameters()))
    zeros = torch.zeros(BATCH, 10).double()
    expected = hidden.mean(0).square().mean(1) / 2
    assert relative(objective.inner.loss(node_of(net, "1"), zeros), expected.detach()) < 1e-12
    assert objective.step_losses(net(x), y, STEPS).shape == (STEPS, BATCH)


def test_layers_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ShapeError, match="the teacher has 1 stages and this network 2; expected as many"):
        joined("stages", "needed", 8, 8)
    flat = Network(nn.Sequential(nn.Flatten(), nn.Linear(72, 8), Rectifier(), nn.Linear(8, CLASSES))).double()
    with pytest.raises(ShapeError, match=r"the teacher's layer 2 sends \[8\] and 4 of this network \[6, 2, 2\]"):
        Features().pair(make("conv"), flat, Frames(data("conv")[0]), KeyedDraws(0))
