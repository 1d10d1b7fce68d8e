"""The comparison: who learns how many samples a second, in one session, turn by turn.

For each workload: files are written, every contender starts, the check runs, everybody warms up, then rounds begin. In
a round each contender takes a turn of a few updates, one after the other, so that a busy spell of the machine hits all
alike. A rate is the batch size over the median of the turns' medians. Memory is metered after the last round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import roofline
from benchmarks.check import Verdict, check
from benchmarks.contenders import OURS, PEERS, PEERS_FOLDER, Entrant, Worker, WorkerFailed, installed, start
from benchmarks.ours import noise
from benchmarks.roofline import Ceilings
from benchmarks.workloads import Workload
from onward.rules import rules as registry

RULES: dict[str, dict[str, Any]] = {name: {} for name in ("opzo", "ottt", "sltt", "sltt-k", "dfa", "bptt")}
"""The rules in the table and their options, as `onward.rules.build` takes them."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure and how: ``rounds`` turns of ``updates`` each, after ``warmup`` updates; or the check alone."""

    workloads: Sequence[Workload]
    rules: Sequence[Entrant]
    precision: str = "f32"
    rounds: int = 5
    updates: int = 3
    warmup: int = 2
    threads: int | None = None
    peers: Path = PEERS_FOLDER
    check_only: bool = False

    def entrants(self) -> list[Entrant]:
        """Everybody who takes part."""
        return [*self.rules, *(PEERS if installed(self.peers) else ())]


@dataclass
class Timing:
    """A contender's turns and what it says of itself."""

    worker: Worker
    settings: str
    turns: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """Of one update."""
        return median(self.turns)


@dataclass(frozen=True)
class Results:
    """Rows of ours, rows of the peers, what the check said, and the ceilings of the machine."""

    rows: list[dict[str, Any]]
    peers: list[dict[str, Any]]
    check: list[dict[str, Any]]
    ceilings: dict[str, Any]


def our_rules(names: Sequence[str], chunk: int | None = None) -> list[Entrant]:
    """Entrants of ours by the rules' names; options of a rule come from `RULES`. Raises `UnknownName`."""
    for name in names:
        registry.entry(name)
    fixed = {} if chunk is None else {"chunk": chunk}
    return [Entrant(OURS, name, {"rule": RULES.get(name, {}), **fixed}) for name in names]


def run(asked: Plan, say: Say) -> Results:
    """Everything in the plan, one workload after the other; ``say`` hears of progress."""
    if not installed(asked.peers):
        say(f"no peers in {asked.peers.name}: `make peers` installs them; Onward runs alone, ratios stay empty")
    ceilings = roofline.measure(asked.threads)
    say(_ceilings(ceilings))
    results = Results([], [], [], asdict(ceilings))
    for workload in asked.workloads:
        with TemporaryDirectory() as folder:
            _run_one(asked, workload, Path(folder), ceilings, results, say)
    return results


def _ceilings(found: Ceilings) -> str:
    f32, bf16, memory = (value / 1e9 for value in (found.f32, found.bf16, found.bandwidth))
    return f"machine: {f32:.0f} GFLOP/s in f32, {bf16:.0f} in bf16, {memory:.1f} GB/s, {found.threads} thread(s)"


def _run_one(asked: Plan, workload: Workload, folder: Path, ceilings: Ceilings, results: Results, say: Say) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(start(entrant, asked.peers)) for entrant in asked.entrants()]
        verdicts, failures = check(workload, folder, asked.threads, workers)
        _tell(workload, verdicts, failures, say)
        results.check.extend(verdict.row() for verdict in verdicts)
        if asked.check_only:
            return
        failed = {id(worker) for worker, _ in failures}
        sound = [worker for worker in workers if id(worker) not in failed]
        timings = measure(asked, workload, folder, sound, say)
    density = workload.density(folder)
    peers = [_row(t, workload, asked, ceilings, density) for t in timings if t.worker.entrant.library != OURS]
    ours = [_row(t, workload, asked, ceilings, density) for t in timings if t.worker.entrant.library == OURS]
    results.peers.extend(peers)
    results.rows.extend(beside_fastest(row, peers) for row in ours)


def _tell(workload: Workload, verdicts: list[Verdict], failures: list, say: Say) -> None:
    say(f"{workload.name}: check")
    for verdict in verdicts:
        say(f"  {verdict.contender}: {verdict.words}")
    for _, failure in failures:
        say(f"  {failure}; left out")


def measure(asked: Plan, workload: Workload, folder: Path, workers: list[Worker], say: Say) -> list[Timing]:
    """Builds everybody, warms up, plays the rounds, meters memory."""
    task = workload.task(folder)
    timings = []
    for worker in workers:
        try:
            built = worker.build(task, asked.threads, asked.precision)
            worker.ask("step", count=asked.warmup)
            timings.append(Timing(worker, built["settings"]))
        except WorkerFailed as failure:
            say(f"  {failure}; left out")
    for number in range(asked.rounds):
        say(f"{workload.name}: round {number + 1} of {asked.rounds}")
        for timing in timings:
            timing.turns.append(median(timing.worker.ask("step", count=asked.updates)["seconds"]))
    for timing in timings:
        timing.peak_bytes = timing.worker.ask("memory")["peak_bytes"]
    return timings


def _row(timing: Timing, workload: Workload, asked: Plan, ceilings: Ceilings, density: float) -> dict[str, Any]:
    entrant, ours = timing.worker.entrant, timing.worker.entrant.library == OURS
    options = entrant.options.get("rule", {}) if ours else entrant.options
    steps = options.get("temporal", {}).get("k", 1)
    least = roofline.work(workload, entrant.rule, ours=ours, density=density, precision=asked.precision, k=steps)
    return {
        "workload": workload.name,
        "rule": entrant.rule,
        "precision": asked.precision,
        "contender": entrant.label,
        "options": options,
        "noise": noise(entrant.rule, options) if ours else "",
        "settings": timing.settings,
        "steps": workload.steps,
        "batch": workload.batch,
        "samples_per_second": workload.batch / timing.seconds,
        "fastest_turn": workload.batch / min(timing.turns),
        "slowest_turn": workload.batch / max(timing.turns),
        "roofline_fraction": least.fraction(timing.seconds, ceilings, asked.precision),
        "peak_bytes": timing.peak_bytes,
    }


def beside_fastest(row: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the fastest of the peers of its precision and workload, and the ratio; None where there is none."""
    alike = [peer for peer in peers if all(peer[key] == row[key] for key in ("workload", "precision"))]
    best = max(alike, key=lambda peer: peer["samples_per_second"], default=None)
    return {
        **row,
        "fastest_peer": best and best["contender"],
        "fastest_peer_samples_per_second": best and best["samples_per_second"],
        "fastest_peer_peak_bytes": best and best["peak_bytes"],
        "ratio_vs_fastest_peer": best and row["samples_per_second"] / best["samples_per_second"],
    }


def labels(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The ratios of a picture's bars, by workload and rule; rows without a ratio are left out."""
    return {
        f"{row['workload']} {row['rule']}": row["ratio_vs_fastest_peer"]
        for row in rows
        if row["ratio_vs_fastest_peer"] is not None
    }
