"""Before anything is timed: do the contenders compute the same thing?

Everybody gets the same weights and the same few samples at the workload's number of steps. A peer is compared with
Onward under the same rule and with the neuron that the peer has (`Entrant.mirror`): spike counts of every hidden
neuron, outputs at every step, gradients of every weight. Onward's own rules are compared with its BPTT.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.contenders import OURS, Entrant, Worker, WorkerFailed, start
from benchmarks.ours import noise
from benchmarks.peers.protocol import Arrays, Task
from benchmarks.workloads import Workload

SPIKES, NUMBERS = 1e-4, 1e-3
"""Largest fraction of spike counts, and largest relative difference of outputs and gradients, that pass as rounding."""


@dataclass(frozen=True)
class Comparison:
    """Fraction of unequal spike counts; relative differences of outputs, and of the worst gradient."""

    spikes: float
    outputs: float
    gradients: float

    @property
    def same_outputs(self) -> bool:
        """Equal but for rounding."""
        return self.spikes <= SPIKES and self.outputs <= NUMBERS

    @property
    def same_gradients(self) -> bool:
        """Equal but for rounding."""
        return self.gradients <= NUMBERS


def compare(found: Arrays, expected: Arrays) -> Comparison:
    """How far two probes are apart; a gradient's scale is at least a ten-thousandth of the largest gradient's."""
    spikes = [name for name in expected if name.startswith("spikes")]
    grads = [name for name in expected if name.startswith("grad")]
    unequal = sum(int((found[name] != expected[name]).sum()) for name in spikes)
    floor = 1e-4 * max(float(np.linalg.norm(expected[name])) for name in grads)
    return Comparison(
        unequal / sum(expected[name].size for name in spikes),
        distance(found["out"], expected["out"]),
        max(distance(found[name], expected[name], floor) for name in grads) if grads[0] in found else float("nan"),
    )


def distance(found: np.ndarray, expected: np.ndarray, floor: float = 1e-12) -> float:
    """The norm of the difference over that of ``expected`` or ``floor``, whichever is larger."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), floor))


@dataclass(frozen=True)
class Verdict:
    """One line on one contender."""

    workload: str
    contender: str
    same_outputs: bool
    same_gradients: bool
    words: str

    def row(self) -> dict:
        """For JSON."""
        return asdict(self)


class Checker:
    """Probes contenders on little data; ``reference`` is a process of Onward's that is rebuilt as needed."""

    def __init__(self, workload: Workload, folder: Path, threads: int | None, reference: Worker):
        self.workload, self.folder, self.threads, self.reference = workload, folder, threads, reference
        self.task: Task = workload.small().task(folder, batches=1)

    def verdict(self, worker: Worker) -> Verdict:
        """Compares one contender."""
        entrant = worker.entrant
        worker.build(self.task, self.threads, "f32")
        found = self._probe(worker)
        if entrant.library == OURS:
            compared = compare(found, self._expected("bptt", {}, ""))
            return self._line(entrant, compared, self._about_ours(entrant, compared))
        merged = "sequence" if self.workload.norm and entrant.rule == "bptt" else ""
        compared = compare(found, self._expected(entrant.rule, entrant.mirror, merged))
        return self._line(entrant, compared, about_peer(entrant, compared, bool(merged)))

    def _line(self, entrant: Entrant, compared: Comparison, words: str) -> Verdict:
        name = self.workload.name
        return Verdict(name, entrant.label, compared.same_outputs, compared.same_gradients, words)

    def _expected(self, rule: str, mirror: dict, norm_over: str) -> Arrays:
        options = {"rule": {"norm_over": norm_over}} if norm_over else {}
        reference = Entrant(OURS, rule, {**options, **mirror})
        self.reference.entrant = reference
        self.reference.build(self.task, self.threads, "f32")
        return self._probe(self.reference)

    def _probe(self, worker: Worker) -> Arrays:
        file = self.folder / "probe.npz"
        worker.ask("probe", file=str(file))
        with np.load(file) as arrays:
            return dict(arrays)

    def _about_ours(self, entrant: Entrant, compared: Comparison) -> str:
        if entrant.rule == "bptt":
            return "the reference"
        noisy = noise(entrant.rule, entrant.options.get("rule", {}))
        if noisy:
            return f"the same network under noise, gradients by its own rule; {noisy}"
        outputs = "same outputs" if compared.same_outputs else f"{compared.spikes:.1%} of spike counts differ"
        return f"{outputs}, gradients by its own rule"


def about_peer(entrant: Entrant, compared: Comparison, merged: bool) -> str:
    """A verdict in words."""
    outputs = "same outputs" if compared.same_outputs else f"{compared.spikes:.1%} of spike counts differ"
    grads = "same gradients" if compared.same_gradients else "gradients differ"
    mirror = f" with {_words(entrant.mirror)}" if entrant.mirror else ""
    against = f"(by {compared.gradients:.0e} from Onward's {entrant.rule}{mirror})"
    norm = "; norm over time and batch merged (Onward's rows: per step)" if merged else ""
    remark = f"; {entrant.remark}" if entrant.remark else ""
    return f"{outputs}, {grads} {against}{norm}{remark}"


def _words(mirror: dict) -> str:
    return ", ".join(f"{key}={value}" for key, value in mirror.items())


def check(workload: Workload, folder: Path, threads: int | None, workers: list[Worker]) -> tuple[list[Verdict], list]:
    """A verdict on every worker, and what went wrong with those that failed."""
    verdicts, failures = [], []
    with start(Entrant(OURS, "bptt")) as reference:
        checker = Checker(workload, folder, threads, reference)
        for worker in workers:
            try:
                verdicts.append(checker.verdict(worker))
            except WorkerFailed as failure:
                failures.append((worker, failure))
    return verdicts, failures
