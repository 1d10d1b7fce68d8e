"""Memory over the number of time steps: peak bytes above parameters, by contender and T.

    python -m benchmarks.memory [--rules ottt sltt opzo] [--steps 16 64 256 1024] [--json]

The event network, 2312-800-800-10 with a batch of 64, on random events. Each figure is a process of its own: what
torch's allocator held at most while one mini-batch was learned, beyond what it held before. The input was there before.
Onward takes chunks of 8 steps. The same meter, `benchmarks.peers.protocol.peak_bytes`, runs in every process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.contenders import PEERS, PEERS_FOLDER, Entrant, WorkerFailed, installed, start
from benchmarks.suite import our_rules
from benchmarks.workloads import memory_workload

RULES, STEPS = ["ottt", "opzo", "sltt"], [16, 64, 256, 1024]
CHUNK = 8

Say = Callable[[str], None]


def measured(entrant: Entrant, steps: int, peers: Path, threads: int | None) -> int:
    """Peak bytes of one mini-batch; the first one, which sets things up, is not metered."""
    with TemporaryDirectory() as folder, start(entrant, peers) as worker:
        worker.build(memory_workload(steps).task(Path(folder), batches=1), threads, "f32")
        worker.ask("step", count=1)
        return worker.ask("memory")["peak_bytes"]


def report(
    rules: Sequence[str] = RULES,
    steps: Sequence[int] = STEPS,
    peers: Path = PEERS_FOLDER,
    threads: int | None = None,
    say: Say = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[dict[str, Any]]:
    """Measures every contender at every T, smallest first; peers under back-propagation through time."""
    through_time = [peer for peer in PEERS if peer.rule == "bptt"] if installed(peers) else []
    rows = []
    for count in steps:
        for entrant in (*through_time, *our_rules(rules, CHUNK)):
            try:
                rows.append(row := _row(entrant, count, measured(entrant, count, peers, threads), rows))
                say(line(row))
            except WorkerFailed as failure:
                say(f"{failure}; left out")
    return rows


def _row(entrant: Entrant, steps: int, peak: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    first = next((row["peak_bytes"] for row in before if row["contender"] == entrant.label), peak)
    rivals = [row["peak_bytes"] for row in before if row["steps"] == steps and row["library"] != entrant.library]
    least = min(rivals, default=None) if entrant.library == "onward" else None
    return {
        "contender": entrant.label,
        "library": entrant.library,
        "rule": entrant.rule,
        "steps": steps,
        "peak_bytes": peak,
        "growth": peak / first,
        "least_peer_over_ours": least and least / peak,
    }


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    over = row["least_peer_over_ours"]
    against = f"  least peer takes {over:.1f} times as much" if over else ""
    growth = f"{row['growth']:.2f} times that at the first T"
    return f"T {row['steps']:5d}  {row['contender']:28} {row['peak_bytes'] / 1e6:9.1f} MB  {growth}{against}"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--steps", nargs="*", type=int, default=STEPS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = report(asked.rules, asked.steps)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
