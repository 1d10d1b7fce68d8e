"""Distillation: its loss and gradient against autograd, what follows from convexity (BW10), and every kind of rule."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import CrossEntropy, Frames, Network, PerStep, Readout, Static
from onward.core.errors import ObjectiveMismatch, ShapeError
from onward.core.group import Share
from onward.core.objective import Mean, Objective, Sum
from onward.distil import Distilled, Itself, Other, Soft
from onward.distil.soft import check_fit
from onward.models import Twin
from onward.neurons import LIF, Rectifier
from onward.rules import rules
from onward.testing.harness import assert_close, bound, relative, suited, teach
from onward.testing.zoo import BATCH, CLASSES, STEPS, data, make
from reference import plain
from reference.tiny import body

KAPPA, TAU = 0.7, 3.0
PER_STEP, AT_THE_END = PerStep(CrossEntropy()), Readout(CrossEntropy(), Mean())


def logits(seed: int = 0, *lead: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*lead, BATCH, CLASSES, generator=generator, dtype=torch.float64)


def kl(z: Tensor, o: Tensor, tau: float) -> Tensor:
    """KL(softmax(z / tau) || softmax(o / tau)), a mean over the batch."""
    return F.kl_div((o / tau).log_softmax(-1), (z / tau).softmax(-1), reduction="batchmean")


def by_hand(z: Tensor, y: Tensor, o: Tensor) -> Tensor:
    return (1 - KAPPA) * F.cross_entropy(o, y) + KAPPA * TAU**2 * kl(z, o, TAU)


def mixed(objective: Objective, z: Tensor, share: float = KAPPA) -> Objective:
    return objective.mixed(Soft(z, TAU), share)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_soft_loss_and_its_gradient_are_those_of_autograd(tau: float) -> None:
    z, o, y = logits(1), logits(2, STEPS).requires_grad_(), torch.zeros(BATCH, dtype=torch.int64)
    expected = torch.stack([tau**2 * kl(z, o_t, tau) for o_t in o])
    assert relative(Soft(z, tau)(o, y).mean(-1).detach(), expected.detach()) < 1e-12
    (gradient,) = torch.autograd.grad(expected.sum() * BATCH, o)
    assert relative(Soft(z, tau).gradient(o.detach(), y), gradient) < 1e-12


def test_bw10_nothing_is_left_to_learn_where_every_step_says_what_the_teacher_says() -> None:
    z, y = logits(), torch.zeros(BATCH, dtype=torch.int64)
    objective = mixed(PER_STEP, z, share=1.0)
    assert torch.equal(
        objective.errors(z.expand(STEPS, -1, -1), y, STEPS, BATCH), torch.zeros(STEPS, *z.shape).double()
    )


@pytest.mark.parametrize("seed", range(20))
def test_bw10_the_loss_of_every_step_is_never_below_that_of_the_mean(seed: int) -> None:
    z, o = logits(seed), logits(100 + seed, STEPS)
    y = torch.randint(CLASSES, (BATCH,), generator=torch.Generator().manual_seed(seed))
    each, together = mixed(PER_STEP, z), mixed(AT_THE_END, z)
    of_each = each.total(o.sum(0), each.step_losses(o, y, STEPS).sum(0), y, STEPS)
    assert of_each > together.total(o.sum(0), torch.zeros(BATCH), y, STEPS)
    same = o[:1].expand(STEPS, -1, -1)
    of_each = each.total(same.sum(0), each.step_losses(same, y, STEPS).sum(0), y, STEPS)
    assert relative(of_each, together.total(same.sum(0), torch.zeros(BATCH), y, STEPS)) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "conv", "leaky-readout"])
def test_bptt_with_a_teacher_equals_autograd(name: str) -> None:
    (x, y), z = data(name), logits()
    expected = plain.bptt(body(name), x, lambda out: torch.stack([by_hand(z, y, o) for o in out]).mean())
    assert_close(teach(make(name), "bptt", x, y, objective=mixed(PER_STEP, z)).grads, expected)
    expected = plain.bptt(body(name), x, lambda out: by_hand(z, y, out.mean(0)))
    assert_close(teach(make(name), "bptt", x, y, objective=mixed(AT_THE_END, z)).grads, expected)


def test_sltt_with_a_teacher_equals_autograd() -> None:
    (x, y), z = data("mlp"), logits()
    expected = plain.sltt(body("mlp"), x, lambda o: by_hand(z, y, o) / STEPS)
    assert_close(teach(make("mlp"), "sltt", x, y, objective=mixed(PER_STEP, z)).grads, expected)


@pytest.mark.parametrize("rule", ["bptt", "ottt", "opzo", "dsr", "dfa", "ide", "forward-gradient"])
def test_a_gradient_is_the_mean_of_what_labels_and_teacher_say(rule: str) -> None:
    """All rules are linear in the loss, whatever they make of it; the second sequence has feedback to use."""
    (x, y), z, net, name = data("if"), logits(), make("if"), {"name": rule}
    objective = suited(rules.build(name), net)
    taught = bound(rule, net, x, objective)
    teach(net, taught, x, y, objective=objective)
    start = {k: v.clone() for k, v in taught.state_dict().items()}

    def learned(share: float) -> dict[str, Tensor]:
        taught.load_state_dict(start)
        return teach(net, taught, x, y, objective=mixed(objective, z, share), sequence=1).grads

    labels, teacher, both = learned(0.0), learned(1.0), learned(KAPPA)
    assert all(grad.abs().max() > 0 for grad in teacher.values())
    assert_close(both, {k: (1 - KAPPA) * labels[k] + KAPPA * teacher[k] for k in labels}, 1e-9)


def test_a_network_that_teaches_itself_learns_from_its_stopped_mean() -> None:
    (x, y), net = data("mlp"), make("mlp")
    objective = Distilled(Itself(), KAPPA, TAU)(PER_STEP, net, Frames(x), chunk=2)

    def loss(out: Tensor) -> Tensor:
        return torch.stack([by_hand(out.mean(0).detach(), y, o) for o in out]).mean()

    assert_close(teach(net, "bptt", x, y, objective=objective).grads, plain.bptt(body("mlp"), x, loss))


def test_a_network_cannot_teach_itself_its_own_mean() -> None:
    with pytest.raises(ObjectiveMismatch, match="looks at the mean alone; choose --objective per-step"):
        Itself().check(AT_THE_END)
    Itself().check(PER_STEP)


def test_teachers_of_other_samples_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \[3\] and tells 2 classes apart; this run has \[4\] and 2"):
        check_fit((3,), 2, (4,), 2)


@pytest.mark.parametrize("rule", ["bptt", "ottt", "dsr"])
def test_parts_of_a_batch_ask_the_teacher_about_their_own_samples(rule: str) -> None:
    (x, y), net = data("if"), make("if")
    objective, teacher = suited(rules.build(rule), net), Other(make("if", seed=5), PER_STEP, STEPS)
    parts = []
    for rows in (slice(None), slice(0, 1), slice(1, BATCH)):
        own = Distilled(teacher, KAPPA, TAU)(objective, net, Frames(x[:, rows]), chunk=3)
        share, ids = Share(BATCH, rows.start or 0), torch.arange(BATCH)[rows]
        parts.append(teach(net, rule, x[:, rows], y[rows], objective=own, ids=ids, share=share).grads)
    assert_close({k: parts[1][k] + parts[2][k] for k in parts[0]}, parts[0])


@pytest.mark.parametrize(
    ("objective", "whole"), [(PER_STEP, lambda o: o.mean(0)), (Readout(CrossEntropy(), Sum()), lambda o: o.sum(0))]
)
def test_a_teacher_speaks_as_it_was_trained_to_and_looks_for_as_long(objective: Objective, whole) -> None:
    net, (x, _), ask = make("mlp", seed=5), data("mlp"), partial(torch.testing.assert_close, rtol=1e-12, atol=0)
    teacher = Other(net.train(), objective, steps=3)
    ask(teacher(net, PER_STEP, Frames(x), 2), whole(net(x)))
    ask(teacher(net, PER_STEP, Static(x[0], STEPS), 2), whole(net(x[:1].expand(3, -1, -1))))
    assert net.training


def test_rectifiers_make_the_relu_network_of_a_spiking_one() -> None:
    """Forwards at every step, and at one step backwards: `bptt` trains it as any network is trained."""

    def layers(neuron) -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(12, 10), neuron(), nn.Linear(10, 8), neuron(), nn.Linear(8, CLASSES)).double()

    (x, y), net, twin = data("mlp"), Network(layers(Rectifier)), Twin(Network(layers(LIF)))
    assert relative(net(x), twin(x.flatten(0, 1)).detach().view(STEPS, BATCH, CLASSES)) < 1e-12
    names = {f"net.{name}": p for name, p in twin.named_parameters()}
    grads = torch.autograd.grad(F.cross_entropy(twin(x[0]), y), list(names.values()))
    expected = dict(zip((name.removeprefix("net.net.") for name in names), grads, strict=True))
    for rule in ("bptt", "ottt"):
        assert_close(teach(net, rule, x[:1], y).grads, expected)
