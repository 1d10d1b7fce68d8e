"""What a learning rule is, in words: its equations, what is local, what travels, what it needs, and what was traced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from onward.core.errors import UnknownName
from onward.core.registry import Choice
from onward.core.rule import Traits
from onward.explain.equations import GRID, equations
from onward.explain.growth import LAYERS, STEPS, Growth, growth
from onward.explain.trace import Traced, traced
from onward.neurons import neurons
from onward.rules import rules
from onward.train import RunConfig, parse_tokens

UNKNOWN = "not stated"
PLAIN = ("--rule", "online", "--rule.temporal", "sltt", "--rule.spatial", "dfa", "--rule.local", "none")
"""The cell in which a single choice of the grid is shown."""
NAMES = ("layer 1", "layer 2", "the readout")

IN_TIME = {
    "trace": "a synapse keeps a fading trace of the spikes it heard, and each step's error meets that trace",
    "instant": "each step's error meets the spikes of the same step alone",
    "back in time": "errors are carried back from step to step, and meet spikes of all steps before",
    "rates": "spikes of all steps become one mean, which meets one error of the whole sequence",
    "loss": "spikes of the synapse play no part: every weight moves along a direction of its own",
}


@dataclass(frozen=True)
class Explanation:
    """All that `onward explain` says of a rule; ``entry`` is what was asked for, ``choice`` the rule with its options."""

    name: str
    meaning: str
    choice: Choice
    equations: tuple[str, ...]
    local: tuple[str, ...]
    transported: tuple[str, ...]
    memory: tuple[str, ...]
    needs: tuple[str, ...]
    paper: str
    published: str
    inferred: str
    traits: Traits
    traced: Traced
    growth: Growth

    def mapping(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "choice": self.choice.model_dump()}


def explain(name: str, *flags: str) -> Explanation:
    """Explains the rule or the choice of the credit grid called ``name``; ``flags`` are those of ``onward train``.

    Trains a tiny network some forty times. Raises `UnknownName` with near names.

    >>> explain("dfa").traced.routes[0].through
    False
    """
    config = parse_tokens([*_flags(name), *flags])
    return _explained(name, config)


def _flags(name: str) -> tuple[str, ...]:
    if name in rules.names():
        return ("--rule", name)
    for axis, registry in GRID.items():
        if name in registry.names():
            return (*PLAIN, f"--rule.{axis}", name)
    known = {*rules.names(), *(known for registry in GRID.values() for known in registry.names())}
    raise UnknownName("rule", name, known)


def _explained(name: str, config: RunConfig) -> Explanation:
    def make():
        return neurons.build(config.neuron)

    choice, rule = config.rule, rules.build(config.rule)
    found = traced(choice, lambda: make().double(), config.model.name == "feedback")
    grown = growth(choice, make)
    entry = next(r.entry(name) for r in (rules, *GRID.values()) if name in r.names())
    facts = {key: str(entry.facts.get(key, UNKNOWN)) for key in ("paper", "published", "inferred")}
    return Explanation(
        name, entry.summary, choice, tuple(equations(choice)),
        tuple(_local(found)), tuple(_transported(found, choice)), tuple(_memory(rule.traits, grown)),
        tuple(_needs(rule.traits, found)), **facts, traits=rule.traits, traced=found, growth=grown,
    )  # fmt: skip


def _local(found: Traced) -> Iterator[str]:
    """How presynaptic spikes and errors meet, by layer, layers that are alike together."""
    kinds: dict[str, list[str]] = {}
    for layer, route in zip(NAMES, found.routes, strict=True):
        kinds.setdefault(route.time, []).append(layer)
    for kind, layers in kinds.items():
        where = "every layer" if len(layers) == len(NAMES) else " and ".join(layers)
        yield f"{where}: {IN_TIME[kind]}"


def _transported(found: Traced, choice: Choice) -> Iterator[str]:
    first, local = found.routes[0], getattr(choice, "local", None)
    by = {
        "weights": "the transposed weights",
        "signs": "the signs of the weights",
        "nothing": "matrices of their own in the place of the weights",
    }
    if first.time == "loss":
        yield "no error reaches a layer: what the loss did travels, the same few numbers for all weights"
    if first.through:
        yield f"errors come down layer by layer, through {by[found.read]} (shown by making layer 2 deaf to them)"
    if first.direct and local is not None and local.name != "none":
        yield "hidden layers are taught by readouts of their own too, which pass no other layer"
    elif first.direct:
        yield "each hidden layer is told straight from the output, past the layers between"
    if first.time != "loss" and found.read == "nothing":
        yield "no weight is read backwards: a neuron that nobody hears is taught all the same"
    elif first.time != "loss":
        yield f"a neuron learns by what it weighs in the next layer: {by[found.read]} are read backwards"


def _memory(traits: Traits, grown: Growth) -> Iterator[str]:
    yield f"{traits.memory} in the number of time steps"
    yield (
        f"{_bytes(grown.steps[0])} at {STEPS[0]} steps, {_bytes(grown.steps[1])} at {STEPS[1]} "
        f"({grown.in_time:.1f} times for {STEPS[1] // STEPS[0]} times the steps)"
    )
    yield (
        f"{_bytes(grown.layers[0])} in {LAYERS[0]} layers, {_bytes(grown.layers[1])} in {LAYERS[1]} "
        f"({grown.in_depth:.1f} times for {LAYERS[1] // LAYERS[0]} times the layers)"
    )


def _needs(traits: Traits, found: Traced) -> Iterator[str]:
    passes = round(found.passes)
    yield "one forward pass" if passes == 1 else f"{passes} forward passes of every sequence"
    if traits.backward == "time":
        yield "a backward pass through all layers and all steps"
    elif traits.backward == "step":
        yield "a backward pass through layers" + (
            " of mean rates, once a sequence" if traits.rate else " at every step"
        )
    if found.own:
        yield f"memory of its own: {', '.join(found.own)}"
    if found.learned:
        yield f"tensors that are learned beside the weights: {', '.join(found.learned)}"
    if traits.stochastic:
        yield "random numbers" + (", which change the outputs while it trains" if traits.perturbs else "")
    if traits.per_step_error:
        yield "an error at every step (a per-step objective)"
    if traits.rate:
        yield "an objective that reads the mean output"
    if traits.max_chunk:
        yield f"time in chunks of at most {traits.max_chunk}"
    if traits.updates == "step":
        yield "an update of the weights at every step"


def _bytes(amount: int) -> str:
    return f"{amount / 1024:,.0f} KiB"
