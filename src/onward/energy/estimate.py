"""The energy of a trained network on data: counts times what an operation costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from onward.energy.constants import Technology
from onward.energy.count import Counts
from onward.energy.training import FeedbackCost, TrainingCost

PICO = 1e-12


@dataclass(frozen=True)
class Energy:
    """Energies in joules, for one sample, of ``run`` on ``data``; ``ann`` is the same network without spikes.

    Where ``with_traffic``, every operation fetches its weight, every update of a membrane reads and writes it, and
    every input that is not zero is read: nothing is kept at hand between operations, with spikes or without.
    """

    run: str
    data: str
    technology: Technology
    counts: Counts
    training: TrainingCost
    with_traffic: bool = False

    @property
    def synapses(self) -> float:
        """Of synaptic operations."""
        return self.of(self.counts.macs, self.counts.acs)

    @property
    def membranes(self) -> float:
        """Of membranes: a leak and a drive are a multiplication and an addition, a drive alone an addition."""
        return self.of(self.counts.leaking, self.counts.integrating)

    @property
    def words(self) -> float:
        """Numbers fetched or put back."""
        counts = self.counts
        return counts.macs + counts.acs + sum(layer.active for layer in counts.layers) + 2 * counts.updates

    @property
    def total(self) -> float:
        """Synapses and membranes, and traffic where it is asked for."""
        return self.synapses + self.membranes + self._fetched(self.words)

    @property
    def ann_macs(self) -> float:
        """Operations of the network without spikes: dense, once or at every step."""
        return self.counts.dense * self.counts.passes / self.counts.steps

    @property
    def ann_words(self) -> float:
        """Numbers that it fetches: a weight for every operation, every input of every layer once."""
        read = sum(layer.inputs for layer in self.counts.layers)
        return self.ann_macs + read * self.counts.passes / self.counts.steps

    @property
    def ann(self) -> float:
        """Of the network without spikes."""
        return self.of(self.ann_macs, 0) + self._fetched(self.ann_words)

    @property
    def ratio(self) -> float:
        """How many times less than the network without spikes."""
        return self.ann / self.total if self.total else float("inf")

    def of(self, macs: float, acs: float) -> float:
        """Joules of operations."""
        return (macs * self.technology.mac + acs * self.technology.ac) * PICO

    def feedback(self, cost: FeedbackCost) -> float:
        """Joules of a rule's errors: they are real numbers, so that all are MACs."""
        return self.of(cost.macs, 0)

    def brief(self) -> dict[str, float | str]:
        """What a training's summary says: of one sample, in nanojoules."""
        return {
            "technology": self.technology.name,
            "samples": self.counts.samples,
            "spikes": self.counts.spikes,
            "synaptic_operations": self.counts.macs + self.counts.acs,
            "multiplications": self.counts.macs,
            "nanojoules": 1e9 * self.total,
            "without_spikes_nanojoules": 1e9 * self.ann,
        }

    def mapping(self) -> dict[str, Any]:
        """All of it as plain values, under ``energy``: what ``--json`` says and the run's folder keeps."""
        counts, layers = self.counts, self.counts.layers
        told = {
            "run": self.run,
            "data": self.data,
            "technology": asdict(self.technology),
            **{key: value for key, value in asdict(counts).items() if key != "layers"},
            "layers": [{**asdict(layer), "joules": self.of(layer.macs, layer.acs)} for layer in layers],
            "effective_macs": counts.macs,
            "effective_acs": counts.acs,
            "dense": counts.dense,
            "joules": {"synapses": self.synapses, "membranes": self.membranes, "total": self.total},
            "ann": {"macs": self.ann_macs, "joules": self.ann, "ratio": self.ratio},
            "traffic": self._traffic(),
            "training": {
                "gradients": self.training.gradients,
                "rules": [{**asdict(cost), "joules": self.feedback(cost)} for cost in self.training.rules],
            },
        }
        return {"energy": told}

    def _fetched(self, words: float) -> float:
        return words * self.technology.word * PICO if self.with_traffic else 0.0

    def _traffic(self) -> dict[str, float] | None:
        if not self.with_traffic:
            return None
        found = {"words": self.words, "joules": self._fetched(self.words)}
        return {**found, "ann_words": self.ann_words, "ann_joules": self._fetched(self.ann_words)}
