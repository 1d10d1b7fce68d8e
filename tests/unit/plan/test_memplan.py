"""Plans of memory: close to what a step takes, true to what they claim, and what is proposed fits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onward.core import GradSink
from onward.core.rule import LearningRule
from onward.kernels.compiled import Use, using
from onward.plan.footprint import GRADIENTS, STATES, WORKSPACE, Ledger
from onward.plan.predict import EFFECTIVE, INPUT, OPTIMISER, PARAMETERS, RULE, Planner, check, predict, propose
from onward.rules.online import Online
from onward.train import RunConfig, parse_tokens
from onward.train.memory import Allocations
from reference.learned import query_weights

CLOSE = 0.15
DATA = {
    "mnist": "--data mnist --data.limit 256 --data.limit-test 8",
    "events": "--data nmnist-sim --data.limit 256 --data.limit-test 8",
}
MODELS = {"mlp": "--model mlp", "conv5": "--model conv5 --model.width 0.125"}
RULES = {
    "opzo": "--rule opzo",
    "ottt": "--rule ottt",
    "sltt": "--rule sltt",
    "sltt-k": "--rule sltt-k --rule.temporal.k 2",
    "bptt": "--rule bptt",
    "dfa": "--rule dfa",
    "zo": "--rule zo",
    "opzo+ll": "--rule opzo --rule.local ll",
    "dfa+ll": "--rule dfa --rule.local ll",
    "ottt+ll": "--rule ottt --rule.local ll",
}
RATES = {
    "mlp-dsr": "--rule dsr --model mlp",
    "mlp-dsr-lif": "--rule dsr --model mlp --neuron dsr-lif",
    "feedback-ide": "--rule ide",
    "feedback-ide-gmres": "--rule ide --rule.solver gmres",
    "feedback-spide": "--rule spide",
    "mlp-spide": "--rule spide --model mlp",
    "conv-dsr": "--rule dsr --model layers --model.spec 8C5-AP2-16C5-AP2-FC",
    "conv-dsr-norm": "--rule dsr --model layers --model.spec 8C5-AP2-16C5-AP2-FC --model.norm batch",
    "conv-ide": "--rule ide --model.layers 16C5s2 --model.back 16C5",
    "conv-ide-broyden": "--rule ide --rule.solver broyden --model.layers 16C5s2 --model.back 16C5",
    "conv-ide-anderson": "--rule ide --rule.solver anderson --model.layers 16C5s2 --model.back 16C5",
    "conv-spide": "--rule spide --model.layers 16C5s2-32C3 --model.back 16C3",
    "conv5-dsr": "--rule dsr --model conv5 --model.width 0.125",
    "conv5-ide": "--rule ide --model conv5 --model.width 0.125",
    "conv5-spide": "--rule spide --model conv5 --model.width 0.125",
}
TRIED = ["mezo", "forward-difference", "one-point", "es --rule.directions 4", "forward-gradient", "pseudo-zo", "guided"]
CONV = "--model layers --model.spec 8C5-AP2-16C5-AP2-FC"
FEW = [
    "--rule opzo --train.steps 6 --train.chunk 6 --train.batch-size 128",
    "--rule dfa --train.steps 6 --train.chunk 2 --train.batch-size 64 --rule.local ll",
    "--rule sltt-k --rule.temporal.k 2 --train.steps 6 --train.chunk 6 --train.batch-size 128 --seed 3",
    "--rule bptt --train.steps 4 --train.chunk 1 --train.batch-size 128",
    "--rule ottt --train.steps 4 --train.chunk 4 --train.batch-size 16 --model conv5 --model.width 0.125",
    "--rule bptt --train.steps 4 --train.chunk 2 --train.batch-size 16 --model layers --model.spec 8C3-MP2-16C3-FC "
    "--model.norm batch",
    "--rule zo --train.steps 4 --train.chunk 4 --train.batch-size 32 --precision bf16",
    "--rule eprop --train.steps 4 --train.chunk 2 --train.batch-size 64 --neuron adaptive-lif --model.readout-tau 5",
    "--rule dsr --train.steps 6 --train.chunk 6 --train.batch-size 128 --model mlp",
    "--rule dsr --train.steps 4 --train.batch-size 16 --model layers --model.spec 8C5-AP2-FC --model.norm batch",
    "--rule ide --train.steps 6 --train.batch-size 128",
    "--rule ide --rule.solver broyden --train.steps 4 --train.batch-size 16 --model.layers 8C5s2 --model.back 8C5",
    "--rule spide --rule.steps 10 --train.steps 6 --train.batch-size 128",
    "--rule spide --rule.steps 10 --train.steps 4 --train.batch-size 16 --model.layers 8C5s2-16C3 --model.back 8C3",
    "--rule mezo --train.steps 6 --train.chunk 6 --train.batch-size 128",
    "--rule es --rule.directions 4 --train.steps 6 --train.chunk 2 --train.batch-size 64",
    "--rule pseudo-zo --train.steps 6 --train.chunk 1 --train.batch-size 128",
    "--rule one-point --train.steps 4 --train.batch-size 16 --model feedback --model.layers 8C5s2 --model.back 8C5",
    f"--rule forward-difference --train.steps 4 --train.chunk 2 --train.batch-size 16 {CONV} --model.norm batch",
    "--rule guided --rule.alpha 0.01 --train.steps 6 --train.chunk 2 --train.batch-size 128",
    "--rule guided --train.steps 4 --train.chunk 4 --train.batch-size 32 --optim adam",
    "--rule forward-gradient --train.steps 6 --train.chunk 6 --train.batch-size 128",
    f"--rule forward-gradient --train.steps 4 --train.chunk 1 --train.batch-size 16 {CONV}",
    "--rule forward-gradient --train.steps 4 --train.batch-size 32 --precision bf16 --optim.clip 1",
]


def configured(text: str) -> RunConfig:
    return parse_tokens([*DATA["mnist"].split(), *text.split()])


def error(config: RunConfig) -> float:
    planner = Planner(config)
    measured = planner.check()  # first, so that plans know which products are fast here
    return measured.error(planner.plan())


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(configured("--rule opzo --model.hidden 64 --train.steps 6 --train.batch-size 50"))


@pytest.mark.parametrize("text", FEW)
def test_a_plan_is_close_to_what_a_step_takes(text: str) -> None:
    assert abs(error(configured(text))) < CLOSE


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_a_plan_knows_what_a_query_network_remembers(optim: str, tmp_path: Path) -> None:
    rule = f"--rule query --rule.weights {query_weights(tmp_path)}"
    config = configured(f"{rule} --optim {optim} --model.hidden 200 --train.batch-size 32")
    assert abs(error(config)) < CLOSE
    parameters = 785 * 200 + 201 * 10
    assert predict(config).parts[RULE] > 4 * 22 * parameters


def grid() -> Iterator[Any]:
    for model, data, rule in product(MODELS, DATA, RULES):
        yield pytest.param(" ".join((MODELS[model], DATA[data], RULES[rule])), id=f"{model}-{data}-{rule}")
    for data, rates in product(DATA, RATES):
        yield pytest.param(" ".join((DATA[data], RATES[rates])), id=f"{data}-{rates}")
    for model, data, rule in product(("--model mlp", CONV), DATA, TRIED):
        yield pytest.param(f"{DATA[data]} --rule {rule} {model}", id=f"{model.split()[1]}-{data}-{rule.split()[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("text", list(grid()))
def test_plans_are_close_over_steps_chunks_and_batches(text: str) -> None:
    found = {}
    for steps, batch, whole in product((4, 6, 30), (16, 128), (False, True)):
        if "conv5" in text and steps * batch * whole > 1000:
            continue  # gigabytes
        sizes = f"--train.steps {steps} --train.chunk {steps if whole else 1} --train.batch-size {batch}"
        found[sizes] = error(parse_tokens([*text.split(), *sizes.split()]))
        print(f"{100 * found[sizes]:+6.1f} %  {sizes}")
    assert {sizes: wrong for sizes, wrong in found.items() if abs(wrong) >= CLOSE} == {}


def test_without_kernels_plans_are_close_too() -> None:
    with using(Use.NEVER):
        assert abs(error(configured(FEW[0]))) < CLOSE


@pytest.mark.parametrize("name", ["ottt", "dfa"])
def test_a_rule_that_declares_nothing_is_planned_generously(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Online, "holds", LearningRule.holds)
    assert -0.1 < error(configured(f"--rule {name} --train.batch-size 128")) < 0.3


def test_standing_parts_are_those_of_the_objects() -> None:
    plan = predict(configured("--rule opzo --model.hidden 32 --train.batch-size 16"))
    weights = (784 + 1) * 32 + (32 + 1) * 10
    assert plan.parts[PARAMETERS] == 4 * weights
    assert abs(plan.parts[OPTIMISER] - 8 * weights) < 100  # and a counter for each
    assert plan.parts[RULE] == 4 * 2 * 32 * 10 + 16  # two halves of M, and two counters
    assert plan.parts[INPUT] == 16 * (4 * 784 + 8 + 8)
    assert EFFECTIVE not in plan.parts


def test_effective_weights_are_counted_with_their_graph() -> None:
    planner = Planner(configured("--model conv5 --model.width 0.0625 --rule dfa --train.batch-size 2"))
    with Allocations() as made:
        sink = GradSink(planner.parts.net)
    assert made.peak_bytes == pytest.approx(planner.standing[EFFECTIVE], rel=0.02)
    del sink


def test_planning_trains_nothing() -> None:
    planner = Planner(configured("--model layers --model.spec 4C3-AP4-FC --model.norm batch --rule ottt"))
    before = {name: value.clone() for name, value in planner.parts.net.state_dict().items()}
    planner.plan()
    planner.propose(10**6)
    assert all(torch.equal(value, before[name]) for name, value in planner.parts.net.state_dict().items())
    assert all(p.grad is None for p in planner.parts.net.parameters())


@pytest.mark.parametrize(
    ("rule", "grows"),
    [
        ("ottt", False),
        ("opzo", False),
        ("bptt", True),
        ("dsr", False),
        ("ide", False),
        ("spide", False),
        ("mezo", False),
        ("forward-gradient", False),
    ],
)
def test_memory_over_time_steps_is_what_the_rule_claims(rule: str, grows: bool) -> None:
    few, many = (
        predict(configured(f"--rule {rule} --train.steps {steps} --train.chunk 2 --train.batch-size 64"))
        for steps in (8, 32)
    )
    assert (many.total > 1.5 * few.total) if grows else (many.total == few.total)


def test_events_are_planned_without_a_dense_copy() -> None:
    plan = predict(parse_tokens([*DATA["events"].split(), *["--train.steps", "30", "--train.batch-size", "64"]]))
    assert plan.parts[INPUT] < 4 * 30 * 64 * 2 * 34 * 34 / 4


@pytest.mark.parametrize("optim", ["sgd", "adam", "momentum"])
def test_gradients_that_are_drawn_are_planned_where_the_optimiser_needs_them_whole(optim: str) -> None:
    plan = predict(configured(f"--rule mezo --train.batch-size 1 --train.steps 1 --optim {optim}"))
    assert plan.parts.get(GRADIENTS, 0) == (0 if optim == "sgd" else plan.parts[PARAMETERS])


@pytest.mark.parametrize("directions", [1, 8])
def test_states_are_planned_for_every_run_that_waits(directions: int) -> None:
    text = f"--rule es --rule.directions {directions} --train.steps 4 --train.batch-size 256 --model.hidden 400"
    whole, halves = (predict(configured(f"{text} --train.chunk {chunk}")) for chunk in (4, 2))
    state = 4 * 256 * 400
    assert whole.parts[STATES] == 2 * state
    assert halves.parts[STATES] == (2 * directions + 1) * state


def test_a_small_data_set_makes_small_batches(planner: Planner) -> None:
    assert Planner(configured("--data.limit 20 --train.batch-size 512")).plan().batch == 20
    assert planner.plan().batch == 50


@given(st.integers(1, 200), st.integers(1, 6))
def test_more_samples_take_more(planner: Planner, batch: int, chunk: int) -> None:
    plan = planner.plan(batch, chunk)
    assert plan.parts[plan.largest] == max(plan.parts.values())
    assert plan.total < planner.plan(batch + 1, chunk).total


def test_more_steps_at_a_time_take_more(planner: Planner) -> None:
    totals = [planner.plan(256, chunk).total for chunk in range(1, 7)]
    assert totals == sorted(totals)


@given(st.integers(800_000, 6_000_000))
def test_a_proposal_is_the_largest_that_fits(planner: Planner, budget: int) -> None:
    found = planner.propose(budget)
    order = [(batch, chunk) for batch in (50, 32, 16, 8, 4, 2, 1) for chunk in (6, 5, 4, 3, 2, 1)]
    fitting = [sizes for sizes in order if planner.plan(*sizes).total <= budget]
    assert found.fits == bool(fitting)
    assert (found.plan.batch, found.plan.chunk) == (fitting or [(1, 6)])[0]


def test_what_is_proposed_takes_what_was_promised() -> None:
    config = configured("--rule ottt --train.batch-size 256 --train.steps 6")
    proposal = propose(config, 30 * 2**20)
    assert proposal.fits
    assert 16 <= proposal.plan.batch < 256
    measured = check(parse_tokens(proposal.flags.split(), config))
    assert measured.total < 1.05 * proposal.budget


def test_where_nothing_fits_the_least_is_told(planner: Planner) -> None:
    proposal = planner.propose(1000)
    assert not proposal.fits
    assert proposal.flags == "--train.batch-size 1 --train.chunk 6"
    assert proposal.plan.total == min(planner.plan(1, chunk).total for chunk in range(1, 7))
    assert proposal.plan.largest == OPTIMISER


def test_statistics_over_the_sequence_keep_it_in_one_chunk() -> None:
    text = "--model layers --model.spec 4C3-AP4-FC --model.norm batch --rule bptt --rule.norm-over sequence"
    config = configured(f"{text} --train.steps 5 --train.chunk 5 --train.batch-size 32")
    assert propose(config, 10**6).plan.chunk == 5


def test_updates_at_every_step_keep_chunks_of_one() -> None:
    assert propose(configured("--rule ottt --rule.schedule step"), 10**9).plan.chunk == 1


def test_a_ledger_remembers_its_fullest_moment() -> None:
    ledger = Ledger()
    ledger.hold("a", 5)
    ledger.borrow(7)
    ledger.drop("a", 2)
    ledger.hold("b", 8)
    assert ledger.most == {"a": 5, WORKSPACE: 7}
    ledger.hold("b", 2)
    assert ledger.most == {"a": 3, "b": 10, WORKSPACE: 0}
    ledger.drop("b")
    assert ledger.held["b"] == 0
