"""Every rule on every tiny network, and a representative part of the credit grid on some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.zoo import GRID, RULES
from onward.testing import checks
from onward.testing.harness import assert_close, bound, buffers, teach
from onward.testing.zoo import STEPS, ZOO, data, label, make, refusal
from onward.train.parts import check_device

CELLS = RULES + GRID

each_cell = pytest.mark.parametrize("rule", CELLS, ids=label)


def served(rule: dict, name: str) -> bool:
    """Whether the rule can train the network."""
    return refusal(rule, name) is None


@pytest.mark.parametrize("case", [(r, n) for r in RULES for n in ZOO if not served(r, n)], ids=str)
def test_a_network_that_a_rule_cannot_train_is_refused_at_bind(case: tuple[dict, str]) -> None:
    checks.refused_at_bind(*case)


def pairs_of(cells: list[dict], names: list[str]) -> pytest.MarkDecorator:
    """Every rule on every network that it serves."""
    cases = [pytest.param(rule, name, id=f"{label(rule)}-{name}") for rule in cells for name in names]
    return pytest.mark.parametrize(("rule", "name"), [case for case in cases if served(*case.values)])


@pairs_of(RULES, list(ZOO))
def test_the_output_is_the_networks_own_unless_the_rule_perturbs(rule: dict, name: str) -> None:
    checks.output_is_the_networks_own(rule, name)


@pairs_of(RULES, list(ZOO))
def test_chunks_change_no_number(rule: dict, name: str) -> None:
    checks.chunks_change_no_number(rule, name)


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
    checks.same_seed_same_bits(rule, name)


@each_cell
def test_another_seed_gives_other_numbers_exactly_where_a_rule_is_stochastic(rule: dict) -> None:
    checks.other_seed_other_numbers(rule, "mlp")


def couples_samples(rule: dict) -> bool:
    """Whether a gradient of half a batch is something else: M moves from step to step, errors become spikes, or samples
    are remembered by their place.
    """
    spatial: Any = rule.get("spatial")
    return rule["name"] in ("spide", "pseudo-zo") or (isinstance(spatial, dict) and spatial.get("per") == "step")


@pairs_of([r for r in CELLS if not couples_samples(r)], ["disturbed", "dropout", "mlp", "recurrent"])
def test_a_batch_is_the_mean_of_its_halves(rule: dict, name: str) -> None:
    checks.halves_make_the_mean(rule, name)


@pairs_of(RULES, ["conv", "dropout"])
def test_parts_of_a_batch_in_different_places_add_up(rule: dict, name: str) -> None:
    checks.parts_add_up(rule, name)


@pairs_of(RULES, ["mlp", "conv", "dropout", "delayed-input", "delayed-layer", "recurrent", "adaptive-lif"])
def test_a_sequence_may_be_handed_over_in_parts(rule: dict, name: str) -> None:
    checks.sequences_in_parts(rule, name)


@pairs_of(CELLS, ["mlp", "conv"])
def test_a_rule_saved_and_loaded_goes_on_as_if_nothing_had_happened(rule: dict, name: str) -> None:
    checks.saved_and_loaded(rule, name)


@pairs_of(CELLS, ["standardized", "dropout", "learned-threshold"])
def test_gradients_have_the_dtype_of_the_weights(rule: dict, name: str) -> None:
    checks.dtypes_of_gradients(rule, name)


@pytest.mark.parametrize("name", list(ZOO))
def test_the_forward_pass_runs_in_every_dtype(name: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        out = make(name, dtype)(data(name, dtype)[0])
        assert out.dtype == dtype
        assert out.isfinite().all()


@each_cell
def test_two_sequences_before_one_flush_add_up(rule: dict) -> None:
    checks.sequences_add_up(rule, "conv")


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
