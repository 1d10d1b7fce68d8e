"""OPZO: what each option changes, against equations written down by hand, and what it leaves alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from onward.core import Delay, Frames, Network, RecordedDraws, Static
from onward.core.errors import TopologyMismatch
from onward.neurons import IF, LI, LIF, AdaptiveLIF, CubaLIF, HardReset
from properties.opzo_by_hand import Hand
from properties.spatial_lab import (
    REFERENCE,
    Bench,
    Identity,
    conv_bench,
    cosine,
    dense,
    distance,
    jacobians,
    settled,
    still,
    weights,
)

# Every option, against the equations


Z_SIGNS: dict[str, list[tuple[int, int]]] = {
    "fresh": [(t, 1) for t in range(6)],
    "two-pass": [(t, 1) for t in range(6)],
    "pairs": [(t // 2, 1 - 2 * (t % 2)) for t in range(6)],
    "codes": [(t // 4, [1, 1, -1, -1][t % 4]) for t in range(6)],
    "hold": [(0, 1)] * 6,
}
OPTION_CASES: list[dict[str, Any]] = [
    {},
    {"alpha": 0.7},
    {"rho": 0.5},
    {"rho": 0.0},
    {"rho": 1.0},
    *({"schedule": name} for name in ("fresh", "two-pass", "codes", "hold")),
    *({"position": name} for name in ("before", "firing")),
    {"position": "before", "schedule": "two-pass"},
    {"position": "firing", "schedule": "two-pass"},
    {"position": "firing", "schedule": "hold"},
    {"per": "step"},
    {"per": "step", "schedule": "two-pass", "correct_start": True},
    {"inverse_alpha": True},
    {"correct_start": True},
    {"baseline": "mean"},
    {"baseline": "mean", "per": "step", "schedule": "fresh"},
    {"baseline": "class"},
    {"baseline": "class", "per": "step", "correct_start": True},
    {"innovation": True},
    {"innovation": True, "inverse_alpha": True, "baseline": "class", "schedule": "fresh"},
    {"innovation": True, "per": "step", "schedule": "two-pass"},
    {"warmup": 2},
    {"freeze_after": 1},
    {"warmup": 1, "freeze_after": 1, "correct_start": True},
]


def by_hand(net: Network, options: dict[str, Any], delay: int = 0) -> Hand:
    biases = [p.detach() for name, p in net.named_parameters() if name.endswith("bias")]
    alpha = options.get("alpha", 0.2)
    return Hand(
        [w.clone() for w in weights(net)],
        [b.clone() for b in biases],
        alpha=alpha,
        rho=options.get("rho", 0.9),
        position=options.get("position", "after"),
        two_pass=options.get("schedule") == "two-pass",
        per_step=options.get("per") == "step",
        factor=1 / alpha if options.get("inverse_alpha") else 1.0,
        correct=options.get("correct_start", False),
        baseline=options.get("baseline") == "mean",
        by_class=options.get("baseline") == "class",
        innovation=options.get("innovation", False),
        warmup=options.get("warmup", 0),
        freeze_after=options.get("freeze_after"),
        delay=delay,
    )


@pytest.mark.parametrize("chunk", [1, 4, 6])
@pytest.mark.parametrize("options", OPTION_CASES, ids=str)
def test_every_option_does_what_its_equation_says(options, chunk):
    """Three sequences of a 7-8-6-4 LIF network against the hand-written loop: gradients, M and outputs to 1e-12."""
    net = dense([7, 8, 6, 4], seed=2)
    x, y = Frames(2 * torch.randn(6, 5, 7, dtype=torch.float64)), torch.tensor([0, 3, 1, 2, 2])
    bench = Bench(net, x, {"name": "opzo", "rho": 0.9, **options}, REFERENCE, chunk=chunk)
    hand = by_hand(net, options)
    plan = Z_SIGNS[options.get("schedule", "pairs")]
    for _ in range(3):
        blocks = [torch.randn(6, 5, n, dtype=torch.float64) for n in (8, 6)]
        draws = RecordedDraws({("noise", "1"): blocks[0], ("noise", "3"): blocks[1]})
        z = [torch.stack([sign * block[b] for b, sign in plan]) for block in blocks]
        taught, expected = bench.learn(y=y, draws=draws), hand.sequence(x.x, y, z)
        if expected is None:
            assert not taught.grads
        else:
            for name, (dw, db) in zip(("0", "2", "4"), expected, strict=True):
                assert torch.allclose(taught.grads[f"{name}.weight"], dw, rtol=1e-10, atol=1e-13)
                assert torch.allclose(taught.grads[f"{name}.bias"], db, rtol=1e-10, atol=1e-13)
        for layer in (0, 1):
            assert torch.allclose(bench.m(layer), hand.read(hand.m[layer]), rtol=1e-10, atol=1e-13)


def test_a_late_error_by_hand():
    """The error-delay queue, with everything else of OPZO, against the hand-written loop."""
    net = dense([7, 8, 6, 4], seed=2)
    x, y = Frames(2 * torch.randn(6, 5, 7, dtype=torch.float64)), torch.tensor([0, 3, 1, 2, 2])
    bench = Bench(net, x, {"name": "opzo", "rho": 0.9}, REFERENCE, options={"error_delay": 2}, chunk=4)
    hand = by_hand(net, {}, delay=2)
    for _ in range(2):
        blocks = [torch.randn(6, 5, n, dtype=torch.float64) for n in (8, 6)]
        draws = RecordedDraws({("noise", "1"): blocks[0], ("noise", "3"): blocks[1]})
        z = [torch.stack([sign * block[b] for b, sign in Z_SIGNS["pairs"]]) for block in blocks]
        taught, expected = bench.learn(y=y, draws=draws), hand.sequence(x.x, y, z)
        assert expected is not None
        for name, (dw, _) in zip(("0", "2", "4"), expected, strict=True):
            assert torch.allclose(taught.grads[f"{name}.weight"], dw, rtol=1e-10, atol=1e-13)


OPTIONS_OF_M: list[dict[str, Any]] = [
    {"rho": 0.5},
    {"per": "step"},
    {"inverse_alpha": True},
    {"correct_start": True},
    {"freeze_after": 1},
    {"sharing": "channel"},
    {"baseline": "mean"},
]


@pytest.mark.parametrize("options", OPTIONS_OF_M, ids=str)
def test_options_of_m_leave_the_forward_pass_and_the_readout_alone(options):
    """What concerns M changes M and the hidden gradients; outputs, noise and readout gradients stay bitwise."""
    plain, other = (
        _two_sequences(conv_bench({"name": "opzo", "schedule": "fresh", **extra})) for extra in ({}, options)
    )
    assert torch.equal(plain.out, other.out)
    assert torch.equal(plain.grads["4.weight"], other.grads["4.weight"])
    assert not torch.allclose(plain.grads["0.weight"], other.grads["0.weight"], rtol=1e-3)


def _two_sequences(bench: Bench):
    bench.learn()
    bench.learn()
    return bench.learn()


@pytest.mark.parametrize("options", [*OPTION_CASES, {"sharing": "channel"}, {"law": "gaussian"}], ids=str)
def test_chunks_change_no_number(options):
    """Chunks of 1, 4 and T = 6 steps agree to 1e-12 in gradients, M and metrics, noise included."""
    spatial = {"name": "opzo", "rho": 0.9, **options}
    results = []
    for chunk in (1, 4, 6):
        bench = conv_bench(spatial, chunk)
        taught = _two_sequences(bench)
        results.append([bench.m(0), *(taught.grads[name] for name in sorted(taught.grads))])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_per_sequence_and_per_step_agree_on_frozen_weights():
    """One update a sequence, or one a step: the same M while weights rest; the credit of a sequence differs, since
    the former reads the M of its start."""
    for options in ({"schedule": "pairs"}, {"schedule": "fresh", "correct_start": True}):
        a, b = (conv_bench({"name": "opzo", "rho": 0.99, "per": per, **options}) for per in ("sequence", "step"))
        first, second = a.learn(), b.learn()
        assert "0.weight" not in first.grads or not first.grads["0.weight"].any(), "M was still zero"
        assert second.grads["0.weight"].any()
        last_a, last_b = [[bench.learn() for _ in range(12)][-1] for bench in (a, b)]
        assert torch.allclose(a.m(0), b.m(0), rtol=1e-10)
        assert cosine(last_a.grads["0.weight"], last_b.grads["0.weight"]) > 0.95


@pytest.mark.parametrize("schedule", ["sequence", "step"])
def test_warmup_and_freezing_count_sequences_in_both_update_schedules(schedule):
    """For `warmup` sequences M learns while the weights wait; after `freeze_after` sequences M stays bitwise."""
    bench = conv_bench({"name": "opzo", "warmup": 2, "freeze_after": 3})
    bench.rule.every_step = schedule == "step"
    frozen = bench.m(0)
    for sequence in range(5):
        before = bench.m(0)
        taught = bench.learn()
        assert bool(taught.grads) is (sequence >= 2)
        assert torch.equal(bench.m(0), before) is (sequence >= 3)
        if sequence == 2:
            frozen = bench.m(0)
    assert torch.equal(bench.m(0), frozen)


def test_the_online_schedule_updates_m_at_every_step():
    """With weights that change every step, M is what the per-step option gives, and the two agree to rounding."""
    a, b = (conv_bench({"name": "opzo", "rho": 0.9, **extra}) for extra in ({}, {"per": "step"}))
    a.rule.every_step = True
    assert a.rule.traits.updates == "step"
    for _ in range(2):
        first, second = a.learn(), b.learn()
        assert torch.allclose(first.grads["0.weight"], second.grads["0.weight"], atol=1e-14)
    assert torch.allclose(a.m(0), b.m(0), atol=1e-14)


def test_a_baseline_lowers_the_variance_of_single_points():
    """With fresh noise the term n |o|^2 / alpha^2 dominates; taking a running mean off o removes most of it."""
    net = dense([5, 6, 3], Identity, gain=1.0)
    with torch.no_grad():
        net.get_parameter("2.bias").fill_(3.0)
    errors = []
    for baseline in ("none", "mean"):
        bench = Bench(net, still(64, 5, 8, scale=0.3), settled(schedule="fresh", baseline=baseline, rho=0.99))
        for _ in range(60):
            bench.learn()
        errors.append(distance(bench.m(0), jacobians(net)[0].T))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_second_pass_leaves_running_statistics_alone(momentum):
    """Two passes a step update batch normalisation once: statistics and their count equal those of one pass."""
    found = []
    for schedule in ("fresh", "two-pass"):
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=momentum), LIF(), nn.Flatten(), nn.Linear(18, 3)]
        net = Network(nn.Sequential(*body)).double()
        x = Static(torch.randn(4, 1, 5, 5, dtype=torch.float64), 6)
        Bench(net, x, {"name": "opzo", "schedule": schedule}).learn()
        found.append([buffer.clone() for name, buffer in net.named_buffers() if name.startswith("1.")])
    assert len(found[0]) == 3
    assert int(found[0][2]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# Noise on the firing decision


def test_noise_on_the_firing_decision_leaves_no_trace_in_the_membrane():
    """*before* noise persists and leaks; *firing* noise is forgotten: below threshold the next potentials differ."""
    net = Network(nn.Sequential(nn.Linear(1, 1, bias=False), LIF(decay=0.5), nn.Linear(1, 2))).double()
    with torch.no_grad():
        net.get_parameter("0.weight").fill_(0.1)
    z = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).view(4, 1, 1)
    potentials = {}
    for position in ("before", "firing"):
        draws = RecordedDraws({("noise", "1"): z})
        spatial = {"name": "opzo", "alpha": 0.4, "position": position, "schedule": "fresh"}
        bench = Bench(net, Static(torch.ones(1, 1, dtype=torch.float64), 4), spatial, draws=draws)
        potentials[position] = bench.learn().records[0].firings[net.hidden[0].index].potential.flatten()
    clean = torch.tensor([0.1, 0.15, 0.175, 0.1875], dtype=torch.float64)
    kick = torch.tensor([0.4, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(potentials["firing"], clean + kick)
    assert torch.allclose(potentials["before"], clean + 0.4 * 0.5 ** torch.arange(4))


@pytest.mark.parametrize("neuron", [lambda: LIF(reset=HardReset(0.0)), lambda: CubaLIF(LIF()), lambda: LI()])
def test_noise_on_the_firing_decision_needs_a_soft_reset(neuron):
    """Where taking the noise back out of the membrane is impossible, *firing* is refused with the way out."""
    with pytest.raises(TopologyMismatch, match="choose position 'after' or 'before'"):
        Bench(dense([5, 6, 3], neuron), still(2, 5, 4), {"name": "opzo", "position": "firing"})


@pytest.mark.parametrize("neuron", [LIF, IF, lambda: AdaptiveLIF(LIF()), lambda: LIF(decay_input=True)])
@pytest.mark.parametrize("position", ["after", "before", "firing"])
def test_every_position_serves_every_softly_reset_neuron(neuron, position):
    """M moves and stays finite; potentials without noise from the firing decision follow the clean membrane."""
    bench = Bench(dense([5, 6, 3], neuron), still(4, 5, 4, scale=2.0), {"name": "opzo", "position": position})
    bench.learn()
    assert bench.m(0).any()
    assert bench.m(0).isfinite().all()


@pytest.mark.parametrize("options", [{"schedule": "two-pass"}, {"per": "step"}])
def test_what_needs_single_steps_takes_single_steps(options):
    """Two passes from the same state, and M per step, need chunks of one step: chosen silently, refused if forced."""
    bench = Bench(dense([5, 6, 3]), still(2, 5, 4), {"name": "opzo", **options})
    assert bench.rule.traits.max_chunk == 1
    assert len(bench.learn().records) == 4
    with pytest.raises(TopologyMismatch, match="needs chunks of 1 step; 4 were given"):
        bench.rule.check(bench.net, bench.x, 4)


def test_opzo_trains_what_back_propagation_within_a_step_cannot_reach():
    """A hidden layer whose only way out passes a delay still gets direct feedback; spatial BP is refused there."""
    torch.manual_seed(0)
    body = [nn.Linear(5, 6), LIF(), Delay(1), nn.Linear(6, 6), LIF(), nn.Linear(6, 3)]
    net = Network(nn.Sequential(*body)).double()
    bench = Bench(net, still(4, 5, 6, scale=2.0), {"name": "opzo", "rho": 0.9, "schedule": "hold"})
    bench.learn()
    assert bench.learn().grads["0.weight"].any()
    with pytest.raises(TopologyMismatch, match="use direct feedback"):
        Bench(net, still(4, 5, 6), "bp")


@pytest.mark.parametrize("schedule", ["fresh", "two-pass"])
def test_innovations_leave_the_scale_of_m_alone_behind_leaky_layers(schedule):
    """Behind up to four leaky layers M is J^T, scale 1.00 within 0.05, where pairs would give 1 - d lambda / 2."""
    torch.manual_seed(3)
    sizes = [4, 6, 5, 4, 4]
    layers = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), LI(decay=0.5))]
    net = Network(nn.Sequential(*layers, nn.Linear(4, 3))).double()
    options = {"schedule": schedule, "baseline": "class", "innovation": True, "rho": 0.9}
    bench = Bench(net, still(4_000, 4, 8, scale=0.2), settled(**options))
    for _ in range(14):
        bench.learn(y=torch.arange(4_000) % 3)
    for layer, jacobian in enumerate(jacobians(net)):
        scale = float((bench.m(layer) * jacobian.T).sum() / jacobian.square().sum())
        assert scale == pytest.approx(1, abs=0.05)


def test_innovations_lower_the_variance_that_the_noise_itself_makes():
    """With strong noise, most of what the readout does is what the noise did; that M knows."""
    net = dense([5, 6, 4, 3], Identity, gain=1.0)
    errors = []
    for innovation in (False, True):
        options = {"schedule": "fresh", "alpha": 2.0, "rho": 0.99, "innovation": innovation, "baseline": "mean"}
        bench = Bench(net, still(64, 5, 8, scale=0.3), settled(**options))
        for _ in range(120):
            bench.learn()
        errors.append(distance(bench.m(0), jacobians(net)[0].T))
    assert errors[1] < 0.5 * errors[0]
