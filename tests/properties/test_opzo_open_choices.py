"""Open choices 1, 3 and 5 of methods section 5.13: noise in traces, when M is read, one z for the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import onward
from onward.core.errors import ConfigError
from onward.core.signal import dense

STEPS, BATCH = 4, 6


def learn(options: dict, sequences: int = 3, chunk: int = 1) -> tuple[list[torch.Tensor], onward.LearningRule, list]:
    """Gradients after some mini-batches with frozen weights, the rule, and every chunk's record."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 6), onward.LIF(), nn.Linear(6, 5), onward.LIF(), nn.Linear(5, 3))
    net = onward.Network(layers).double()
    generator = torch.Generator().manual_seed(1)
    x = onward.Frames(torch.rand(STEPS, BATCH, 7, generator=generator, dtype=torch.float64) * 3)
    objective, draws, sink = onward.PerStep(onward.CrossEntropy()), onward.KeyedDraws(0), onward.GradSink(net)
    rule = onward.rules.build({"name": "opzo", "spatial": {"name": "opzo", "rho": 0.9, **options}})
    rule.bind(net, objective, x, draws)
    records: list = []
    for n in range(sequences):
        net.zero_grad()
        y = torch.arange(BATCH) % 3
        onward.run_sequence(
            net, rule, objective, x, y, sink, draws=draws, sequence=n, chunk=chunk, watch=records.append
        )
        sink.flush()
    return [p.grad for p in net.parameters()], rule, records


def test_noise_enters_what_synapses_remember_only_when_traced() -> None:
    _, _, plain = learn({})
    _, _, traced = learn({"traced": True})
    for a, b in zip(plain, traced, strict=True):
        assert set(a.pres[3].unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(b.pres[3], dense(b.sent[2]))
        torch.testing.assert_close(b.out, a.out)
    assert not torch.equal(plain[0].pres[3], traced[0].pres[3])


def test_traced_noise_changes_gradients_and_not_the_feedback() -> None:
    plain, rule, _ = learn({})
    traced, other, _ = learn({"traced": True})
    assert not torch.allclose(plain[2], traced[2])
    for name, buffer in rule.named_buffers():
        torch.testing.assert_close(buffer, other.get_buffer(name))


def test_credit_reads_feedback_updated_in_the_same_step() -> None:
    """From M = 0: read before the update the first step teaches nothing, read after it (1 - rho) z o^T e."""
    before, _, _ = learn({"per": "step", "warmup": 0}, sequences=1)
    after, rule, _ = learn({"per": "step", "reads": "after"}, sequences=1)
    last = learn({"per": "step"}, sequences=1)[1]
    for name, buffer in rule.named_buffers():
        torch.testing.assert_close(buffer, last.get_buffer(name))
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[-1], after[-1])


def test_reading_after_the_update_needs_updates_at_every_step() -> None:
    with pytest.raises(ConfigError, match="per = 'step'"):
        learn({"reads": "after"})


@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_one_z_serves_the_whole_batch_when_asked(law: str) -> None:
    _, rule, records = learn({"per_sample": False, "law": law})
    _, _, own = learn({"law": law})
    for record in records:
        for z in (noise.dense() for noise in record.noise.values()):
            assert torch.equal(z, z[:, :1].expand_as(z))
    assert not torch.equal(own[0].noise[2].dense()[:, 0], own[0].noise[2].dense()[:, 1])
    assert rule.metrics() == {}
    assert not any("mostly noise" in text for text in rule.warnings())


def test_one_z_for_the_batch_is_the_same_at_any_chunk() -> None:
    a, _, _ = learn({"per_sample": False}, chunk=1)
    b, _, _ = learn({"per_sample": False}, chunk=STEPS)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-13)
