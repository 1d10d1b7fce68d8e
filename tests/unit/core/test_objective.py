"""Objectives: losses, readouts, predictions, and what they say to labels that do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from onward.core import MSE, CrossEntropy, Frames, KeyedDraws, Mixed, PerStep, Readout, evaluate
from onward.core.errors import ConfigError, ObjectiveMismatch, ShapeError, UnknownName
from onward.core.objective import Loss, Max, Mean, Objective, Reduce, Sum, Weighted, objectives
from onward.rules import rules
from onward.testing.harness import assert_close, relative, teach
from onward.testing.zoo import data, make
from reference import plain

LOSSES: list[Loss] = [CrossEntropy(), MSE(), MSE(0.5), Mixed(CrossEntropy(), MSE(1.0), 0.3)]
REDUCTIONS = {
    "mean": (Mean(), lambda o: o.mean(0)),
    "sum": (Sum(), lambda o: o.sum(0)),
    "max": (Max(), lambda o: o.amax(0)),
    "weighted": (Weighted(0.7), lambda o: weighted(o, 0.7)),
}


def weighted(o: torch.Tensor, leak: float) -> torch.Tensor:
    """The mean over time in which a step weighs ``leak`` times the next."""
    weights = leak ** torch.arange(len(o) - 1, -1, -1, dtype=o.dtype)
    return torch.tensordot(weights / weights.sum(), o, 1)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_loss_is_the_integral_of_its_gradient(loss: Loss) -> None:
    o, y = torch.randn(3, 4, 6, dtype=torch.float64).requires_grad_(), torch.randint(6, (4,))
    (expected,) = torch.autograd.grad(loss(o, y).sum(), o)
    assert relative(loss.gradient(o.detach(), y), expected) < 1e-10


@pytest.mark.parametrize("name", list(REDUCTIONS))
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_reductions_are_gathered_chunk_by_chunk(name: str, chunk: int) -> None:
    reduce, whole = REDUCTIONS[name]
    o, held = torch.randn(5, 3, 4, dtype=torch.float64), None
    for part in o.split(chunk):
        held = reduce(held, part)
    assert held is not None
    assert relative(reduce.finish(held, 5), whole(o)) < 1e-12


@pytest.mark.parametrize(("reduce", "leak"), [(Mean(), 1.0), (Sum(), 1.0), (Weighted(0.7), 0.7)], ids=str)
def test_errors_of_the_mean_output_are_its_gradient(reduce: Reduce, leak: float) -> None:
    """With constant outputs, which the mean output is."""
    mean, y = torch.randn(3, 4, dtype=torch.float64).requires_grad_(), torch.tensor([0, 1, 2])
    objective = Readout(CrossEntropy(), reduce)
    assert reduce.decay == leak
    evidence = reduce(None, mean.expand(5, 3, 4))
    (expected,) = torch.autograd.grad(objective.total(evidence, torch.zeros(3), y, 5), mean)
    assert relative(objective.rate_errors(evidence.detach(), y, 5, 3), expected) < 1e-10


@pytest.mark.parametrize("name", list(REDUCTIONS))
@pytest.mark.parametrize("loss", LOSSES[:2], ids=str)
@pytest.mark.parametrize("chunk", [2, 6])
def test_bptt_follows_readouts(name: str, loss: Loss, chunk: int) -> None:
    """CE and MSE of mean, spike count and maximum over time, against autograd through the unrolled network."""
    reduce, whole = REDUCTIONS[name]
    net, (x, y) = make("leaky-readout"), data("leaky-readout")
    objective = Readout(loss, reduce)
    taught = teach(net, "bptt", x, y, objective=objective, chunk=chunk)
    written = F.cross_entropy if isinstance(loss, CrossEntropy) else lambda o, t: F.mse_loss(o, F.one_hot(t, 5).to(o))
    expected = plain.bptt(torch.nn.Sequential(*net.children()), x, lambda out: written(whole(out), y))
    assert_close(taught.grads, expected)
    assert float(taught.loss) == pytest.approx(float(written(whole(taught.outs), y)), rel=1e-12)


@pytest.mark.parametrize(
    "objective", [PerStep(LOSSES[3]), Readout(CrossEntropy(), Mean())], ids=["per-step", "readout"]
)
@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_evaluation_gives_the_loss_and_the_prediction(objective: Objective, chunk: int) -> None:
    net, (x, y) = make("mlp"), data("mlp")
    out = net(x)
    outcome = evaluate(net, objective, Frames(x), y, chunk=chunk)
    expected = LOSSES[3](out, y).mean() if objective.per_step else F.cross_entropy(out.mean(0), y)
    assert float(outcome.loss) == pytest.approx(float(expected), rel=1e-12)
    assert torch.equal(objective.predict(outcome.evidence), out.sum(0).argmax(-1))
    assert net.training


def test_names_and_defaults() -> None:
    tet = objectives.build("tet")
    assert isinstance(tet, PerStep)
    assert tet.loss == Mixed(CrossEntropy(), MSE(1.0), 0.05)
    plain_ce = objectives.build("per-step")
    assert isinstance(plain_ce, PerStep)
    assert plain_ce.loss == CrossEntropy()
    rate = objectives.build({"name": "readout", "reduce": "max", "kappa": 1.0})
    assert isinstance(rate, Readout)
    assert (rate.loss, rate.reduce) == (MSE(None), Max())
    reduce: Reduce = rate.reduce
    assert reduce.finish(torch.ones(1, 2), 3).sum() == 2


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'readout'"):
        objectives.build("readuot")
    with pytest.raises(UnknownName, match="did you mean 'kappa'"):
        objectives.build({"name": "tet", "kapa": 0.1})
    with pytest.raises(ConfigError, match="reduce"):
        objectives.build({"name": "readout", "reduce": "median"})


@pytest.mark.parametrize("rule", [name for name in rules.names() if rules.build(name).traits.per_step_error])
def test_a_readout_is_refused_by_rules_that_need_errors_on_the_way(rule: str) -> None:
    x, _ = data("mlp")
    with pytest.raises(ObjectiveMismatch, match=r"per_step_error.*choose objective 'per-step' or 'tet'"):
        rules.build(rule).bind(make("mlp"), Readout(CrossEntropy(), Mean()), Frames(x), KeyedDraws(0))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), r"label 5 was given, but the network has 5 outputs: labels run from 0 to 4"),
        (torch.tensor([0, -1, 2, 3]), r"label -1 was given"),
        (torch.tensor([0, 1, 2]), r"labels of shape \[3\] were given for a batch of 4"),
        (torch.tensor([[0, 1, 2, 3]]), r"labels of shape \[1, 4\] were given for a batch of 4"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"labels of dtype torch.float32 were given; expected torch.int64"),
    ],
)
def test_labels_that_do_not_fit(y: torch.Tensor, message: str) -> None:
    x, _ = data("mlp")
    with pytest.raises(ShapeError, match=message):
        teach(make("mlp"), "bptt", x, y)
    with pytest.raises(ShapeError, match=message):
        evaluate(make("mlp"), PerStep(CrossEntropy()), Frames(x), y)
