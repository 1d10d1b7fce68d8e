"""The benchmark suite: tasks, arithmetic, the check, the loop of orders. Peers themselves take part in slow tests."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import check, contenders, kernels, memory, roofline, suite
from benchmarks.contenders import OURS, Entrant
from benchmarks.ours import Ours, check_precision, noise
from benchmarks.peers import protocol
from benchmarks.roofline import Ceilings
from benchmarks.workloads import (
    Digits,
    EventCamera,
    Images,
    RandomEvents,
    Workload,
    named,
    recordings_file,
    workloads,
)

from onward.cli.bench import check_checkout
from onward.core.errors import ConfigError, UnknownName

ROOT = Path(__file__).parents[2]
EVENTS = Workload("tiny", "12-FC", (30,), 4, 3, RandomEvents(), (8.0, 1.0))
STILL = Workload("still", "8C3-AP2-FC", (3, 6, 6), 3, 2, Images(), (6.0, 1.0), norm=True)
CEILINGS = Ceilings(f32=1e9, bf16=2e9, bandwidth=1e9, threads=1)


@pytest.mark.parametrize("workload", [EVENTS, STILL], ids=lambda workload: workload.name)
@pytest.mark.parametrize("rule", ["bptt", "opzo", "sltt-k"])
def test_ours_learns_from_every_kind_of_input(workload: Workload, rule: str, tmp_path: Path) -> None:
    contender = Ours(replace(workload.task(tmp_path), rule=rule))
    before = [p.clone() for p in contender.net.parameters()]
    for number in range(3):
        contender.learn(number)
    assert any(not torch.equal(old, new) for old, new in zip(before, contender.net.parameters(), strict=True))
    found = contender.probe()
    assert found["spikes 0"].sum() > 0
    assert found["out"].shape == (workload.steps, workload.batch, 10)
    assert {"grad 0.weight", "grad 1.weight"} <= found.keys()


def test_dense_frames_and_sparse_rows_are_the_same_input(tmp_path: Path) -> None:
    task = EVENTS.task(tmp_path)
    dense, sparse = protocol.dense_batches(task), Ours(task).inputs
    assert all(torch.equal(x, rows.chunk(0, task.steps)) for (x, _), rows in zip(dense, sparse, strict=True))
    assert EVENTS.density(tmp_path) == pytest.approx(np.mean([x.mean() for x, _ in dense]))


def test_a_plan_has_the_shapes_of_onwards_network(tmp_path: Path) -> None:
    for workload in (EVENTS, STILL):
        stock = torch.nn.Sequential(*(protocol.stateless(*s) for s in workload.plan() if s[0] != "neuron"))
        ours = Ours(workload.task(tmp_path)).net
        shapes = {name: p.shape for name, p in protocol.parameters(ours).items()}
        assert {name: p.shape for name, p in protocol.parameters(stock).items()} == shapes


def test_gains_of_weights_are_taken_back_in_gradients(tmp_path: Path) -> None:
    task = EVENTS.task(tmp_path)
    net = torch.nn.Sequential(*(protocol.stateless(*s) for s in EVENTS.plan() if s[0] != "neuron"))
    protocol.load_weights(net, task.weights, {"0": 2.0})
    with np.load(task.weights) as arrays:
        np.testing.assert_array_equal(protocol.parameters(net)["0.weight"].detach().numpy(), 2 * arrays["0.weight"])
    net(torch.ones(1, 30)).sum().backward()
    grad = net[0].weight.grad
    assert grad is not None
    np.testing.assert_array_equal(protocol.gradients(net, {"0": 2.0})["grad 0.weight"], 2 * grad.numpy())


def test_peak_bytes_counts_what_is_held_at_once() -> None:
    def action() -> None:
        held = torch.ones(250_000)
        for _ in range(5):
            held = held + 1

    assert 2_000_000 <= protocol.peak_bytes(action) < 2_100_000


def test_a_server_answers_orders_and_errors(tmp_path: Path) -> None:
    server = protocol.Server(Ours)
    built = server.answer({"do": "build", "task": {**vars(EVENTS.task(tmp_path))}})
    assert "chunks" in built["settings"]
    assert len(server.answer({"do": "step", "count": 2})["seconds"]) == 2
    assert server.answer({"do": "memory"})["peak_bytes"] > 0
    with pytest.raises(ConfigError, match="f32 or bf16"):
        server.answer({"do": "build", "task": {**vars(replace(EVENTS.task(tmp_path), precision="f16"))}})


def test_peers_import_neither_onward_nor_benchmarks() -> None:
    for path in (ROOT / "benchmarks" / "peers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("onward", "benchmarks")], path


def test_equal_probes_pass_and_others_are_told_apart() -> None:
    probe = {"spikes 0": np.ones((2, 5000)), "out": np.ones((1, 2, 3)), "grad 0.weight": np.ones(4)}
    same = check.compare(probe, probe)
    assert same.same_outputs
    assert same.same_gradients
    other = check.compare({**probe, "spikes 0": np.zeros((2, 5000)), "grad 0.weight": np.full(4, 2.0)}, probe)
    assert other.spikes == 1.0
    assert other.gradients == pytest.approx(1.0)
    words = check.about_peer(contenders.PEERS[-1], other, merged=True)
    assert all(
        part in words for part in ("100.0% of spike counts differ", "gradients differ", "merged", "detach_reset")
    )


def test_products_of_a_step_are_counted_by_hand() -> None:
    dense = roofline.work(EVENTS, "bptt", ours=False, density=0.1).flops
    forward, last = 30 * 12 + 12 * 10, 12 * 10
    assert dense == 2 * 4 * 3 * (2 * forward + last)
    sparse = roofline.work(EVENTS, "bptt", ours=True, density=0.1).flops
    assert dense - sparse == pytest.approx(0.9 * 2 * 4 * 3 * 2 * 30 * 12)
    direct = roofline.work(EVENTS, "dfa", ours=False, density=0.1).flops
    assert dense - direct == 2 * 4 * 3 * last - 2 * 4 * 3 * 12 * 10


def test_fewer_learned_steps_and_smaller_numbers_are_less_work() -> None:
    work = {rule: roofline.work(STILL, rule, ours=True, density=1.0) for rule in ("ottt", "sltt", "sltt-k")}
    assert work["ottt"].bytes > work["sltt"].bytes > work["sltt-k"].bytes
    assert work["sltt"].flops > work["sltt-k"].flops
    half = roofline.work(STILL, "sltt", ours=True, density=1.0, precision="bf16")
    assert half.bytes < work["sltt"].bytes
    assert work["sltt"].fraction(1.0, CEILINGS, "f32") > half.fraction(1.0, CEILINGS, "bf16") > 0


def test_layers_follow_pooling() -> None:
    first, last = roofline.layers(STILL)
    assert (first.inputs, first.outputs, first.pooled) == (prod((3, 6, 6)), 8 * 36, 8 * 9)
    assert last.inputs == 8 * 9


def test_the_fastest_peer_is_of_the_same_workload_and_precision() -> None:
    row = {"workload": "event", "precision": "f32", "samples_per_second": 30.0, "rule": "opzo"}
    peers = [
        {**row, "contender": name, "samples_per_second": rate, "precision": precision, "peak_bytes": 1}
        for name, rate, precision in (("a", 10.0, "f32"), ("b", 15.0, "f32"), ("c", 90.0, "bf16"))
    ]
    beside = suite.beside_fastest(row, peers)
    assert (beside["fastest_peer"], beside["ratio_vs_fastest_peer"]) == ("b", 2.0)
    alone = suite.beside_fastest(row, [])
    assert alone["fastest_peer"] is alone["ratio_vs_fastest_peer"] is None
    assert suite.labels([beside, alone]) == {"event opzo": 2.0}


class Inside:
    """A contender of ours without a process of its own."""

    build = contenders.Worker.build

    def __init__(self, entrant: Entrant, _peers: Path | None = None):
        self.entrant, self.server = entrant, protocol.Server(Ours)

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, do: str, **details: object) -> dict:
        return self.server.answer({"do": do, **details})


def test_a_run_without_peers_has_rows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (suite, check):
        monkeypatch.setattr(module, "start", Inside)
    monkeypatch.setattr(roofline, "measure", lambda _: CEILINGS)
    plan = suite.Plan([EVENTS], suite.our_rules(["opzo"]), rounds=1, updates=1, threads=1, peers=tmp_path / "none")
    said: list[str] = []
    results = suite.run(plan, said.append)
    (row,) = results.rows
    assert "make peers" in said[0]
    assert row["ratio_vs_fastest_peer"] is None
    assert row["samples_per_second"] > 0
    assert row["peak_bytes"] > 0
    assert "rademacher" in row["noise"]
    assert results.check[0]["contender"] == "onward opzo"


def test_the_check_alone_times_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (suite, check):
        monkeypatch.setattr(module, "start", Inside)
    monkeypatch.setattr(roofline, "measure", lambda _: CEILINGS)
    plan = suite.Plan([STILL], suite.our_rules(["bptt", "ottt"]), threads=1, peers=tmp_path / "none", check_only=True)
    results = suite.run(plan, lambda _: None)
    assert results.rows == []
    assert [verdict["same_outputs"] for verdict in results.check] == [True, True]


def test_a_contender_that_cannot_start_is_named() -> None:
    broken = contenders.Worker(Entrant("gone", "bptt"), [sys.executable, "-c", "raise SystemExit('no such peer')"], {})
    with broken, pytest.raises(contenders.WorkerFailed, match="gone bptt: no such peer"):
        broken.ask("memory")


def test_memory_rows_compare_with_the_least_peer() -> None:
    peer = {"contender": "p", "library": "p", "steps": 16, "peak_bytes": 400}
    row = memory._row(Entrant(OURS, "ottt"), 16, 100, [peer])
    assert row["least_peer_over_ours"] == 4.0
    assert "4.0 times as much" in memory.line(row)


@pytest.mark.parametrize("case", kernels.CASES[:1], ids=lambda case: case.name)
def test_kernels_equal_their_references(case: kernels.Case) -> None:
    row = kernels.measure(case)
    assert row["equal"]
    assert row["ratio"] > 0


def test_inputs_have_the_stated_layout() -> None:
    digits = Digits().arrays(2, 3, 1, (784,))
    assert digits["x"].shape == (2, 3, 784)
    camera = EventCamera().arrays(1, 2, 5, (2312,))
    assert camera["offsets"].shape == (1, 11)
    assert camera["indices"].max() < 2312
    assert camera["y"].shape == (1, 2)


def test_recordings_come_from_a_flag_or_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONWARD_DATA", raising=False)
    assert recordings_file(None) is None
    assert recordings_file(tmp_path / "mine.npz") == tmp_path / "mine.npz"
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    assert recordings_file(None) is None
    (tmp_path / "nmnist-small.npz").touch()
    assert recordings_file(None) == tmp_path / "nmnist-small.npz"


def test_wrong_names_and_precisions_are_refused(tmp_path: Path) -> None:
    assert set(workloads()) == {"event", "conv", "conv-bn", "static"}
    with pytest.raises(UnknownName, match="event"):
        named("evnt", workloads())
    with pytest.raises(ConfigError, match="bf16"):
        check_precision("f16")
    with pytest.raises(ConfigError, match="source checkout"):
        check_checkout(tmp_path)
    assert "strength 0.3" in noise("opzo", {"spatial": {"alpha": 0.3}})
    assert noise("ottt", {}) == ""


@pytest.mark.slow
@pytest.mark.skipif(not contenders.installed(), reason="the peers are not installed: `make peers`")
@pytest.mark.parametrize("entrant", contenders.PEERS, ids=lambda entrant: entrant.label)
def test_peers_compute_what_is_documented(entrant: Entrant, tmp_path: Path) -> None:
    with contenders.start(entrant) as worker:
        verdicts, failures = check.check(EVENTS, tmp_path, 1, [worker])
    assert not failures
    assert json.dumps(verdicts[0].row())
    if entrant.mirror.get("detach_reset", True) or entrant.library == "norse":
        assert verdicts[0].same_outputs
        assert verdicts[0].same_gradients
