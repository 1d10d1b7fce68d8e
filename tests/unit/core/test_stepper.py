"""A rule inside a plain loop: the trainer's gradients, constant memory, and what is refused in words."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from onward.core import Frames, GradSink, KeyedDraws, LearningRule, Network, Stepper, run_sequence
from onward.core.errors import ConfigError, ObjectiveMismatch, OnwardError, ShapeError, TopologyMismatch
from onward.core.objective import CrossEntropy, Mean, Readout
from onward.core.run import Outcome
from onward.rules import rules
from onward.testing.harness import OBJECTIVE
from onward.testing.zoo import data, make
from reference.tiny import batch, tiny

STEPS = 6
RULES: dict[str, str | Mapping[str, Any]] = {
    **{name: name for name in ("ottt", "sltt", "sltt-k", "fa", "sign-symmetric", "dfa", "dkp", "zo", "opzo", "eprop")},
    "relay-opzo": "relay-opzo",
    "opzo, before": {"name": "opzo", "spatial": {"name": "opzo", "position": "before"}},
    "opzo, local": {"name": "opzo", "local": "ll"},
    "late errors": {"name": "online", "temporal": "ottt", "spatial": "dfa", "error_delay": 2},
    "eprop, rates": {"name": "eprop", "c_reg": 0.5},
}
WHOLE = ("bptt", "dsr", "ide", "spide", "mezo", "es", "pseudo-zo", "forward-gradient")


def grads(net: Network, rule: LearningRule) -> list[Tensor]:
    return [
        p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in (*net.parameters(), *rule.parameters())
    ]


def trained(net: Network, rule: LearningRule, x: Tensor, y: Tensor, sequence: int) -> tuple[Outcome, list[Tensor]]:
    """The trainer's way."""
    sink = GradSink(net)
    outcome = run_sequence(net, rule, OBJECTIVE, Frames(x), y, sink, draws=KeyedDraws(0), sequence=sequence, chunk=1)
    sink.flush()
    return outcome, grads(net, rule)


def agree(name: str, make_net: Any, x: Tensor, y: Tensor) -> None:
    """Two sequences, the second with what the first left in the rule: outputs, losses and gradients."""
    net, twin = make_net(), make_net()
    rule, other = rules.build(RULES[name]), rules.build(RULES[name])
    rule.bind(net, OBJECTIVE, Frames(x), KeyedDraws(0))
    stepper = Stepper(twin, other, OBJECTIVE, x[0], steps=len(x))
    for sequence in range(2):
        outcome, expected = trained(net, rule, x, y, sequence)
        loss = torch.zeros((), dtype=x.dtype)
        for x_t in x:
            stepper.step(x_t)
            loss += stepper.learn(y)
        stepper.finish()
        assert float(loss) == pytest.approx(float(outcome.loss), rel=1e-12)
        for mine, theirs in zip(grads(twin, other), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    for mine, theirs in zip(other.buffers(), rule.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_those_of_the_trainer(name: str) -> None:
    agree(name, lambda: tiny([10, 8]), *batch(STEPS))


@pytest.mark.parametrize("net", ["conv", "standardized", "recurrent", "binary"])
@pytest.mark.parametrize("name", ["ottt", "opzo"])
def test_any_network_can_be_stepped(name: str, net: str) -> None:
    x, y = data(net)
    agree(name, lambda: make(net), x, y)


@pytest.mark.parametrize("name", ["ottt", "opzo", "relay-opzo"])
def test_chunks_and_targets_that_come_late_change_nothing(name: str) -> None:
    """Of gradients, and of the feedback that the sequence leaves."""
    x, y = batch(STEPS)
    found = []

    def left(net: Network, stepper: Stepper) -> list[Tensor]:
        own = grads(net, stepper.rule)
        stepper.finish()
        return [*own, *(buffer.clone() for buffer in stepper.rule.buffers())]

    for parts in ([1] * 6, [6], [2, 3, 1]):
        net = tiny([10, 8])
        stepper = Stepper(net, rules.build(name), OBJECTIVE, x[0], steps=STEPS)
        out = []
        for chunk in x.split(parts):
            out.append(stepper.step(chunk))
            stepper.learn(y)
        found.append([torch.cat(out), *left(net, stepper)])
    net = tiny([10, 8])
    stepper = Stepper(net, rules.build(name), OBJECTIVE, x[0], steps=STEPS)
    outs = torch.stack([stepper.step(x_t) for x_t in x])
    stepper.learn(y)
    found.append([outs, *left(net, stepper)])
    for other in found[1:]:
        for mine, first in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, first, rtol=0, atol=1e-10)


def test_updates_at_every_step_are_those_of_the_online_schedule() -> None:
    x, y = batch(STEPS)
    choice = {"name": "opzo", "schedule": "step"}
    net, twin = tiny([10, 8]), tiny([10, 8])
    rule, sink = rules.build(choice), GradSink(net)
    rule.bind(net, OBJECTIVE, Frames(x), KeyedDraws(0))
    mine, theirs = (torch.optim.SGD(n.parameters(), lr=0.5) for n in (twin, net))

    def update() -> None:
        sink.flush()
        theirs.step()
        theirs.zero_grad()

    run_sequence(net, rule, OBJECTIVE, Frames(x), y, sink, draws=KeyedDraws(0), after_step=update)
    stepper = Stepper(twin, rules.build(choice), OBJECTIVE, x[0], steps=STEPS)
    for x_t in x:
        stepper.step(x_t)
        stepper.learn(y)
        mine.step()
        mine.zero_grad()
    for a, b in zip(twin.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_stream_without_an_end_counts_every_step_as_it_is() -> None:
    x, y = batch(STEPS)
    found = {}
    for steps in (None, STEPS):
        net = tiny([10, 8])
        stepper = Stepper(net, rules.build("ottt"), OBJECTIVE, x[0], steps=steps)
        loss = 0.0
        for x_t in x:
            stepper.step(x_t)
            loss += float(stepper.learn(y))
        found[steps] = (loss, grads(net, stepper.rule))
    assert found[None][0] == pytest.approx(STEPS * found[STEPS][0])
    for mine, theirs in zip(found[None][1], found[STEPS][1], strict=True):
        torch.testing.assert_close(mine, STEPS * theirs, rtol=0, atol=1e-10)


def test_targets_may_differ_from_step_to_step() -> None:
    x, _ = batch(STEPS, size=1)
    targets = torch.arange(STEPS) % 5
    net = tiny([10])
    stepper = Stepper(net, rules.build("sltt"), OBJECTIVE, x[0])
    losses = []
    for x_t, y in zip(x, targets, strict=True):
        out = stepper.step(x_t)
        losses.append((float(stepper.learn(y[None])), float(torch.nn.functional.cross_entropy(out, y[None]))))
    assert all(mine == pytest.approx(plain) for mine, plain in losses)


def held() -> int:
    """Bytes of all tensors alive."""
    gc.collect()
    return sum(o.untyped_storage().nbytes() for o in gc.get_objects() if issubclass(type(o), Tensor))


@pytest.mark.parametrize(("name", "steps"), [("ottt", 2000), ("opzo", 120), ("eprop", 120), ("late errors", 120)])
def test_memory_of_a_stream_does_not_grow(name: str, steps: int) -> None:
    net = tiny([10, 8])
    stepper = Stepper(net, rules.build(RULES[name]), OBJECTIVE, torch.zeros(1, 12, dtype=torch.float64))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    marks, generator = [], torch.Generator().manual_seed(0)
    for t in range(steps):
        stepper.step(torch.rand(1, 12, generator=generator, dtype=torch.float64))
        stepper.learn(torch.tensor([t % 5]))
        optimizer.step()
        optimizer.zero_grad()
        if t in (50, steps // 2, steps - 1):
            marks.append(held())
    assert marks[0] == marks[1] == marks[2]


def test_reset_starts_anew() -> None:
    x, y = batch(STEPS)
    stepper = Stepper(tiny([10, 8]), rules.build("ottt"), OBJECTIVE, x[0])
    first = stepper.step(x)
    stepper.reset()
    assert stepper.time == 0
    torch.testing.assert_close(stepper.step(x), first, rtol=0, atol=0)
    stepper.learn(y)
    with pytest.raises(ConfigError, match="no step to learn from"):
        stepper.learn(y)


@pytest.mark.parametrize("name", WHOLE)
def test_rules_of_whole_sequences_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"step by step; choose a rule that runs forward"):
        Stepper(tiny([10]), rules.build(name), OBJECTIVE, torch.zeros(1, 12, dtype=torch.float64))


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [("sltt-k", TopologyMismatch, "has no T"), ({"name": "eprop", "c_reg": 1.0}, TopologyMismatch, "mean rates")],
)
def test_what_needs_the_length_of_a_sequence_is_refused_without(
    choice: Any, error: type[OnwardError], words: str
) -> None:
    with pytest.raises(error, match=words):
        Stepper(tiny([10]), rules.build(choice), OBJECTIVE, torch.zeros(1, 12, dtype=torch.float64))


def test_what_does_not_fit_is_told_in_words() -> None:
    x, y = batch(STEPS)
    with pytest.raises(ObjectiveMismatch):
        Stepper(tiny([10]), rules.build("ottt"), Readout(CrossEntropy(), Mean()), x[0])
    stepper = Stepper(tiny([10]), rules.build("ottt"), OBJECTIVE, x[0], steps=2)
    stepper.step(x[0])
    with pytest.raises(ShapeError, match=r"a step of 2 samples was given in a stream of 5; call reset"):
        stepper.step(x[0][:2])
    with pytest.raises(ShapeError, match="features"):
        stepper.step(x[0][:, :3])
    with pytest.raises(ShapeError, match="labels"):
        stepper.learn(y[:2])
    with pytest.raises(ShapeError, match=r"step 3 was given of a sequence of 2; call finish"):
        stepper.step(x[:2])
