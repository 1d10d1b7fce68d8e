"""Probes of moved weights, gradients that are drawn, and how updates use them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import CrossEntropy, GradSink, KeyedDraws, Network, PerStep, Static, evaluate
from onward.core.drawn import BLOCK, Drawn, Ray, Term, assembled, descend, names_of
from onward.core.draws import Rademacher
from onward.core.errors import ConfigError, NonFiniteError, ObjectiveMismatch, TopologyMismatch
from onward.core.objective import Mean, Readout
from onward.core.probe import finite
from onward.neurons import LIF
from onward.optim import Constant, optimizers
from onward.rules import rules
from onward.rules.pseuzo import Window
from onward.testing.harness import relative, teach
from onward.testing.zoo import data, make
from onward.train.update import Updater
from properties.weight_lab import flat, learn, stored

RULES = ["mezo", "forward-difference", "one-point", "es"]


def ray(number: int = 0, sequence: int = 0) -> Ray:
    return Ray(KeyedDraws(0), Rademacher(), f"probe/{number}", sequence)


def noise(net: nn.Module, sequence: int = 0) -> Tensor:
    direction = ray(sequence=sequence)
    return torch.cat([direction.block(name, 0, p.detach().flatten()) for p, name in names_of(net).items()])


def slope(net: Network, x: Tensor, y: Tensor, z: Tensor, eps: float) -> Tensor:
    """[L(w + eps z) - L(w - eps z)] / (2 eps), with all weights moved at once."""
    theta, losses = flat(net), []
    for strength in (eps, -eps):
        nn.utils.vector_to_parameters(theta + strength * z, net.parameters())
        losses.append(evaluate(net, PerStep(CrossEntropy()), Static(x, 3), y).loss)
    nn.utils.vector_to_parameters(theta, net.parameters())
    return (losses[0] - losses[1]) / (2 * eps)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("option", [{"eps": 0.0}, {"eps": -1e-3}, {"directions": 0}], ids=str)
def test_numbers_out_of_bounds_are_refused(name: str, option: dict) -> None:
    with pytest.raises(ConfigError, match=f"{name}: {next(iter(option))} = .* will not do: input should be greater"):
        rules.build({"name": name, **option})


@pytest.mark.parametrize("name", ["mezo", "forward-difference", "pseudo-zo"])
def test_probes_that_change_nothing_are_told_of(name: str) -> None:
    """Of output spikes, the loss is piecewise constant."""
    torch.manual_seed(0)
    net, x, y = Network(nn.Sequential(nn.Linear(12, 5), LIF())), torch.rand(4, 12), torch.arange(4)
    rule = rules.build({"name": name, "eps": 1e-7})
    objective = Readout(CrossEntropy(), Mean())
    for sequence in range(12):
        assert bool(rule.warnings()) == (sequence >= 10)
        learn(net, rule, x, y, steps=3, objective=objective, sequence=sequence)
    assert rule.metrics() == {"projected gradient": 0.0, "silent probes": 1.0}
    (said,) = rule.warnings()
    assert said.startswith("100% of the probes of the last 12 mini-batches left the loss exactly as it was")
    assert said.endswith("--rule.eps 1e-06 in place of 1e-07")


def test_a_loss_that_is_not_finite_is_refused_before_anything_changes() -> None:
    with pytest.raises(NonFiniteError, match="the loss of a probe"):
        finite(torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("name", [*RULES, "forward-gradient", "pseudo-zo"])
def test_running_statistics_move_once_a_step(name: str) -> None:
    net, (x, y) = make("batchnorm"), data("batchnorm")
    teach(net, {"name": name, "directions": 3} if name != "pseudo-zo" else name, x, y)
    assert int(net.get_buffer("1.num_batches_tracked")) == len(x)


def test_a_tied_weight_is_moved_once() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    net = Network(nn.Sequential(shared, LIF(), shared, LIF(), nn.Linear(6, 5))).double()
    x, y = torch.rand(4, 6, dtype=torch.float64) * 4, torch.arange(4)
    found = stored(net, learn(net, rules.build("mezo"), x, y, steps=3)[1])
    z = noise(net)
    assert len(z) == sum(p.numel() for p in net.parameters())
    assert relative(found, slope(net, x, y, z, 0.03) * z) < 1e-9


def test_frozen_weights_stay_and_others_learn_around_them() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    frozen = net.get_parameter("0.weight").requires_grad_(False)
    drawn = learn(net, rules.build("mezo"), x[0], y, steps=3)[1]
    stored(net, drawn)
    assert frozen.grad is None
    assert frozen not in drawn[0].names
    assert net.get_parameter("0.bias").grad is not None


def test_weights_that_are_not_contiguous_learn_the_same() -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net, (x, y) = make("conv"), data("conv")
        net = net.to(memory_format=layout)  # type: ignore[call-overload]
        drawn = learn(net, rules.build("mezo"), x[0], y, steps=3)[1]
        stored(net, drawn)
        descend(drawn, [{"params": list(net.parameters()), "lr": 0.1, "weight_decay": 0.1}])
        found.append({name: (p.detach(), p.grad) for name, p in net.named_parameters()})
    for name, (weights, grad) in found[0].items():
        assert torch.allclose(weights, found[1][name][0], atol=1e-12)
        assert torch.allclose(grad, found[1][name][1], atol=1e-9)


def test_blocks_are_keyed_apart_and_never_joined() -> None:
    weights, seen = nn.Parameter(torch.zeros(3, BLOCK // 2)), []

    def block(number: int, values: Tensor) -> Tensor:
        seen.append(len(values))
        return ray().block("w", number, values)

    z = assembled(weights, block).flatten()
    assert seen == [BLOCK, BLOCK // 2]
    assert not torch.equal(z[: BLOCK // 2], z[BLOCK:])
    assert abs(float(z.mean())) < 0.02


def _updater(net: Network, clip: float | None = None, **options: object) -> Updater:
    groups = [{"params": list(net.parameters()), "weight_decay": 0.1}]
    optimizer = optimizers.build({"lr": 0.1, **options}, groups)
    return Updater(GradSink(net), optimizer, Constant(), 1, clip, net)


@pytest.mark.parametrize("options", [{"name": "momentum"}, {"name": "adam"}, {"name": "sgd", "clip": 1e6}], ids=str)
def test_other_optimisers_get_a_stored_gradient(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Drawn] = []
    store = Drawn.store
    monkeypatch.setattr(Drawn, "store", lambda drawn: (kept.append(drawn), store(drawn))[1])
    net = make("mlp")
    updater, before = _updater(net, options.pop("clip", None), **options), flat(net)
    updater.sink.add_drawn(Drawn(torch.empty(0), lambda _: [Term(0.5, ray())], names_of(net)))
    updater()
    assert len(kept) == 1
    assert not torch.equal(flat(net), before)


def test_plain_sgd_applies_it_block_by_block_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for clip in (1e9, None):
        if clip is None:
            monkeypatch.setattr(Drawn, "store", None)
        net = make("mlp")
        updater = _updater(net, clip, name="sgd")
        for number, coefficient in ((0, 0.5), (1, -2.0)):
            terms = [Term(coefficient, ray(number))]
            updater.sink.add_drawn(Drawn(torch.empty(0), lambda _, terms=terms: terms, names_of(net)))
        updater()
        found.append(flat(net))
        assert all(p.grad is None for p in net.parameters())
    assert relative(found[1], found[0]) < 1e-12


def test_what_was_drawn_is_forgotten_with_the_rest() -> None:
    net = make("mlp")
    updater, before = _updater(net, name="sgd"), flat(net)
    updater.sink.add_drawn(Drawn(torch.empty(0), lambda _: [Term(0.5, ray())], names_of(net)))
    updater.discard()
    updater()
    assert torch.equal(flat(net), before)


def test_pseudo_zo_reads_the_mean_output() -> None:
    rule, objective = rules.build({"name": "pseudo-zo", "decay": 0.5}), Readout(CrossEntropy(), Mean())
    with pytest.raises(ObjectiveMismatch, match="learns from the mean output of a sequence"):
        rule.bind(make("mlp"), PerStep(CrossEntropy()), Static(data("mlp")[0][0], 3), KeyedDraws(0))
    maps = Network(nn.Conv2d(2, 3, 3)).double()
    with pytest.raises(TopologyMismatch, match=r"outputs have shape \[3, 4, 4\]; expected one number a class"):
        rule.bind(maps, objective, Static(data("conv")[0][0], 3), KeyedDraws(0))


def test_pseudo_zo_is_the_slope_where_outputs_are_linear_and_remembers() -> None:
    """The first update is that of the loss made linear; the second adds lambda <D_0, g_1> z_0."""
    torch.manual_seed(0)
    net, x, y = Network(nn.Linear(6, 5)).double(), torch.rand(4, 6, dtype=torch.float64), torch.arange(4)
    rule, objective = rules.build({"name": "pseudo-zo", "decay": 0.5, "eps": 0.1}), Readout(CrossEntropy(), Mean())
    exact = torch.cat([g.flatten() for g in teach(net, "bptt", x[None], y, objective=objective).grads.values()])
    drawn = [learn(net, rule, x, y, objective=objective, sequence=n)[1][0] for n in range(2)]
    z = [noise(net, n) for n in range(2)]
    assert relative(stored(net, drawn[:1]), z[0] * (z[0] @ exact)) < 1e-9
    assert relative(stored(net, drawn[1:]), z[1] * (z[1] @ exact) + 0.5 * z[0] * (z[0] @ exact)) < 1e-9


def test_a_window_holds_the_last_few_and_compares_what_both_have() -> None:
    window = Window(2, 3, (2,))
    for number in range(3):
        window.push(torch.full((4, 2), float(number + 1)), number)
    assert window.filled == [2, 1]
    assert window.dots(torch.ones(4, 2)).tolist() == [18, 12]
    assert window.dots(torch.ones(2, 2)).tolist() == [12, 8]
    assert window.weights(0.5).tolist() == [1, 0.5]
    window.empty()
    assert window.dots(torch.ones(4, 2)).numel() == 0
