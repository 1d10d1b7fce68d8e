"""Every rule on every tiny network, and a representative part of the credit grid on some of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from conformance.harness import (
    Taught,
    assert_close,
    bound,
    buffers,
    clear,
    gradients,
    same_bits,
    suited,
    teach,
    teach_in_parts,
)
from conformance.zoo import BATCH, GRID, PER_BATCH, RULES, STEPS, ZOO, data, label, make, refusal
from onward.core import Frames, GradSink, KeyedDraws, LearningRule, Network, run_sequence
from onward.core.errors import TopologyMismatch
from onward.core.group import Share
from onward.rules import rules
from onward.train.parts import check_device

CELLS = RULES + GRID
BY_LABEL = {label(rule): rule for rule in CELLS}

each_cell = pytest.mark.parametrize("rule", CELLS, ids=label)


def served(rule: dict, name: str) -> bool:
    """Whether the rule can train the network."""
    return refusal(rule, name) is None


@pytest.mark.parametrize("case", [(r, n) for r in RULES for n in ZOO if not served(r, n)], ids=str)
def test_a_network_that_a_rule_cannot_train_is_refused_at_bind(case: tuple[dict, str]) -> None:
    rule, name = case
    with pytest.raises(TopologyMismatch, match=refusal(rule, name)):
        bound(rule, make(name), data(name)[0])


def pairs_of(cells: list[dict], names: list[str]) -> pytest.MarkDecorator:
    """Every rule on every network that it serves."""
    cases = [pytest.param(rule, name, id=f"{label(rule)}-{name}") for rule in cells for name in names]
    return pytest.mark.parametrize(("rule", "name"), [case for case in cases if served(*case.values)])


@cache
def whole(rule: str, name: str) -> Taught:
    """One sequence in one chunk; tests only read it."""
    return teach(make(name), BY_LABEL[rule], *data(name), chunk=STEPS)


@pairs_of(RULES, list(ZOO))
def test_the_output_is_the_networks_own_unless_the_rule_perturbs(rule: dict, name: str) -> None:
    taught, net = whole(label(rule), name), make(name)
    own = net(data(name)[0])
    traits = rules.build(rule).traits
    if traits.perturbs:
        assert not torch.equal(taught.outs, own)
    elif not (traits.rate and name in PER_BATCH):  # rules of rates normalise all steps alike
        assert torch.equal(taught.outs, own)
    assert taught.outs.isfinite().all()
    assert set(taught.grads) >= {n for n, p in net.named_parameters() if p.requires_grad}
    assert all(grad.isfinite().all() for grad in taught.grads.values())


@pairs_of(RULES, list(ZOO))
def test_chunks_change_no_number(rule: dict, name: str) -> None:
    expected = whole(label(rule), name)
    for chunk in (1, 3):
        given = teach(make(name), rule, *data(name), chunk=chunk)
        assert_close(given.grads, expected.grads)
        assert_close({"outs": given.outs}, {"outs": expected.outs})


@pairs_of(GRID, ["conv", "drive-residual", "dropout"])
def test_chunks_change_no_number_in_the_grid(rule: dict, name: str) -> None:
    """Two sequences, so that learned feedback takes part."""
    found = []
    for chunk in (1, 3, STEPS):
        net = make(name)
        built, (x, y) = bound(rule, net, data(name)[0]), data(name)
        teach(net, built, x, y, chunk=chunk)
        taught = teach(net, built, x, y, chunk=chunk, sequence=1)
        found.append({**taught.grads, **{f"buffer.{k}": b for k, b in buffers(built).items()}})
    assert_close(found[0], found[2])
    assert_close(found[1], found[2])


@pairs_of(CELLS, ["conv", "dropout", "disturbed", "feedback"])
def test_the_same_seed_gives_the_same_bits_and_inputs_stay_untouched(rule: dict, name: str) -> None:
    (x, y), net = data(name), make(name)
    versions, before = (x._version, y._version), {k: v.clone() for k, v in net.state_dict().items()}
    again = teach(net, rule, x, y, chunk=STEPS)
    first = whole(label(rule), name)
    assert same_bits(again.grads, first.grads)
    assert torch.equal(again.outs, first.outs)
    assert (x._version, y._version) == versions
    assert torch.equal(x, data(name)[0])
    assert same_bits(net.state_dict(), before)


@each_cell
def test_another_seed_gives_other_numbers_exactly_where_a_rule_is_stochastic(rule: dict) -> None:
    x, y = data("mlp")
    a, b = (teach(make("mlp"), rule, x, y, draws=KeyedDraws(seed)).grads for seed in (0, 1))
    assert same_bits(a, b) != rules.build(rule).traits.stochastic


def couples_samples(rule: dict) -> bool:
    """Whether a gradient of half a batch is something else: M moves from step to step, errors become spikes, or samples
    are remembered by their place.
    """
    spatial: Any = rule.get("spatial")
    return rule["name"] in ("spide", "pseudo-zo") or (isinstance(spatial, dict) and spatial.get("per") == "step")


@pairs_of([r for r in CELLS if not couples_samples(r)], ["disturbed", "dropout", "mlp", "recurrent"])
def test_a_batch_is_the_mean_of_its_halves(rule: dict, name: str) -> None:
    x, y = data(name, batch=2 * BATCH)
    net = make(name)
    built = bound(rule, net, x)
    teach(net, built, x, y)
    start = {k: v.clone() for k, v in built.state_dict().items()}

    def part(rows: slice) -> dict[str, torch.Tensor]:
        built.load_state_dict(start)
        ids = torch.arange(2 * BATCH)[rows]
        taught = teach(net, built, x[:, rows], y[rows], ids=ids, sequence=1)
        feedback = {f"buffer.{k}": b.mean(0) if b.dim() == 3 else b for k, b in buffers(built).items()}
        return {**taught.grads, **feedback}

    both, first, second = part(slice(None)), part(slice(0, BATCH)), part(slice(BATCH, None))
    assert_close({k: (first[k] + second[k]) / 2 for k in first}, both)


@pairs_of(RULES, ["conv", "dropout"])
def test_parts_of_a_batch_in_different_places_add_up(rule: dict, name: str) -> None:
    """Data parallel: each place knows its own samples, their ids and the size of the whole batch."""
    (x, y), net = data(name), make(name)
    built = bound(rule, net, x)
    teach(net, built, x, y)
    start = {k: v.clone() for k, v in built.state_dict().items()}
    parts = []
    for rows in (slice(None), slice(0, 1), slice(1, BATCH)):
        built.load_state_dict(start)
        ids = torch.arange(BATCH)[rows]
        parts.append(
            teach(net, built, x[:, rows], y[rows], ids=ids, share=Share(BATCH, ids[0].item()), sequence=1).grads
        )
    assert_close({k: parts[1][k] + parts[2][k] for k in parts[0]}, parts[0])


@pairs_of(RULES, ["mlp", "conv", "dropout", "delayed-input", "delayed-layer", "recurrent", "adaptive-lif"])
def test_a_sequence_may_be_handed_over_in_parts(rule: dict, name: str) -> None:
    """Only the carry passes from one part to the next."""
    net, (x, y) = make(name), data(name)
    built = bound(rule, net, x)
    cuts = range(1, STEPS) if net.cyclic or built.traits.max_chunk == 1 else [2, 3]
    assert_close(teach_in_parts(net, built, x, y, cuts), whole(label(rule), name).grads)


@pairs_of(CELLS, ["mlp", "conv"])
def test_a_rule_saved_and_loaded_goes_on_as_if_nothing_had_happened(rule: dict, name: str) -> None:
    net, (x, y) = make(name), data(name)
    first = bound(rule, net, x)
    for sequence in range(2):
        teach(net, first, x, y, sequence=sequence)
    saved = {key: value.clone() for key, value in first.state_dict().items()}
    expected = teach(net, first, x, y, sequence=2).grads
    second = bound(rule, net, x)
    second.load_state_dict(saved)
    assert same_bits(teach(net, second, x, y, sequence=2).grads, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pairs_of(CELLS, ["standardized", "dropout", "learned-threshold"])
def test_gradients_have_the_dtype_of_the_weights(rule: dict, name: str, dtype: torch.dtype) -> None:
    net, (x, y) = make(name, dtype), data(name, dtype)
    taught = teach(net, rule, x, y)
    assert taught.outs.dtype == dtype
    for key, parameter in net.named_parameters():
        assert taught.grads[key].dtype == parameter.dtype == dtype
        assert taught.grads[key].isfinite().all()


@pytest.mark.parametrize("name", list(ZOO))
def test_the_forward_pass_runs_in_every_dtype(name: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        out = make(name, dtype)(data(name, dtype)[0])
        assert out.dtype == dtype
        assert out.isfinite().all()


@each_cell
def test_two_sequences_before_one_flush_add_up(rule: dict) -> None:
    """Gradient accumulation: deposits of several sequences meet in one sink; none recalls another of the same flush."""
    net, (x, y) = make("conv"), data("conv")
    built = bound(rule, net, x)
    teach(net, built, x, y, sequence=7)
    start = {k: v.clone() for k, v in built.state_dict().items()}
    separate = []
    for n in range(2):
        if built.traits.recalls:
            built.load_state_dict(start)
        separate.append(teach(net, built, x, y, sequence=n).grads)
    built.load_state_dict(start)
    together = _accumulate(net, built, x, y)
    assert_close(together, {k: separate[0][k] + separate[1][k] for k in together})


def _accumulate(net: Network, rule: LearningRule, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    clear(net, rule)
    sink = GradSink(net)
    for n in range(2):
        run_sequence(net, rule, suited(rule, net), Frames(x), y, sink, draws=KeyedDraws(0), sequence=n)
    sink.flush()
    return gradients(net, rule)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pairs_of(CELLS, ["dropout", "feedback"])
def test_a_gpu_gives_the_same_numbers(rule: dict, name: str) -> None:
    """Randomness included: draws are keyed, not drawn from a device's generator."""
    (x, y), found = data(name), []
    for device in ("cpu", check_device("cuda")):
        net = make(name).to(device)
        built = bound(rule, net, x.to(device))
        teach(net, built, x.to(device), y.to(device))
        found.append({k: g.cpu() for k, g in teach(net, built, x.to(device), y.to(device), sequence=1).grads.items()})
    assert_close(found[1], found[0], rtol=1e-8)
