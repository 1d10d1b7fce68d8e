"""A mini-batch acted out on paper, in the scene that the rule's traits ask for."""

from __future__ import annotations

from onward.core.probe import ProbingRule, RayRule
from onward.core.rates import RateRule
from onward.plan.footprint import Ledger, Runs, Scene, Stage, ThroughTime, WithinSteps
from onward.plan.ratescenes import Simulated, Whole
from onward.plan.weightscenes import Followed, Probed


def act(stage: Stage, sequence: Runs) -> Ledger:
    """Acts out one mini-batch, from the first time step to the end of the update."""
    ledger = Ledger()
    scene = _scene(stage, ledger)
    scene.learn(sequence)
    scene.update()
    return ledger


def _scene(stage: Stage, ledger: Ledger) -> Scene:
    rule = stage.rule
    if isinstance(rule, RateRule):
        return Whole(stage, ledger) if rule.whole(stage.net) else Simulated(stage, ledger, rule)
    if isinstance(rule, RayRule):
        return Probed(stage, ledger, rule) if isinstance(rule, ProbingRule) else Followed(stage, ledger, rule)
    return ThroughTime(stage, ledger) if rule.traits.backward == "time" else WithinSteps(stage, ledger)
