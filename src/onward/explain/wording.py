"""Sentences about what was traced: what is local, what travels, what is held, what is needed, how credit walks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onward.core.rule import Traits
from onward.explain.growth import LAYERS, STEPS, Growth
from onward.explain.trace import Traced
from onward.report.words import bytes_of, counted

NAMES = ("layer 1", "layer 2", "layer 3", "the readout")

IN_TIME = {
    "trace": "each step's error meets a fading trace of the spikes that the synapse heard",
    "instant": "each step's error meets the spikes of the same step alone",
    "back in time": "errors are carried back from step to step, and meet the spikes of every step before",
    "rates": "spikes of all steps become one mean, which meets one error of the whole sequence",
    "loss": "what a synapse hears plays no part: its weight moves along a direction of its own",
    "not known": "each step's error meets the spikes of that step, or a trace of them: the traits do not say",
}
"""What meets at a synapse."""
AT_FOCUS = {
    "trace": "Credit meets the fading trace that the synapse keeps of the spikes it heard.",
    "instant": "Credit meets the spikes of the same step, and nothing from before.",
    "back in time": "Credit of every step, late errors included, meets the spikes of its own step.",
    "rates": "Credit meets the mean of the spikes, once a sequence.",
    "loss": "Every weight moves along its own direction z, by the same number.",
    "not known": "Credit meets the spikes of the step, or what the synapse kept of them.",
}
BACKWARDS = {
    "weights": "the transposed weights Wᵀ",
    "signs": "the signs of the transposed weights",
}
"""What is read backwards."""
MATRICES = {"renewed": "that every mini-batch renews", "learned": "that are learned", "fixed": "that stay as drawn"}
"""What becomes of matrices that bring errors."""


@dataclass(frozen=True)
class Told:
    """Lines on each matter; ``walk`` are a sentence or two on each step of the picture."""

    local: tuple[str, ...]
    transported: tuple[str, ...]
    memory: tuple[str, ...]
    needs: tuple[str, ...]
    walk: tuple[tuple[str, str], ...]


def told(traits: Traits, found: Traced, grown: Growth | None, beside: Growth) -> Told:
    """The sentences about a rule with these ``traits``, of which these things were ``found``."""
    return Told(
        tuple(_local(found)),
        tuple(_transported(found)),
        tuple(_memory(traits, grown, beside)),
        tuple(_needs(traits, found)),
        tuple(_walk(traits, found)),
    )


def listed(names: Sequence[str]) -> str:
    """Names in a row.

    >>> listed(["layer 1", "layer 2", "layer 3"])
    'layer 1, layer 2 and layer 3'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def feedback(found: Traced) -> str:
    """What becomes of the matrices that bring errors in the place of weights: a key of `MATRICES`."""
    if found.own:
        return "renewed" if found.adapts else "fixed"
    return "learned" if found.learned else "fixed"


def letter(found: Traced) -> str:
    """What these matrices are called."""
    return "M" if feedback(found) == "renewed" else "B"


def _local(found: Traced) -> Iterator[str]:
    """How presynaptic spikes and errors meet, by layer, layers that are alike together."""
    kinds: dict[str, list[str]] = {}
    for layer, route in zip(NAMES, found.routes, strict=True):
        kinds.setdefault(route.time, []).append(layer)
    for kind, layers in kinds.items():
        where = "every layer" if len(layers) == len(NAMES) else listed(layers)
        yield f"{where}: {IN_TIME[kind]}"


def _transported(found: Traced) -> Iterator[str]:
    yield from _carried(found)
    if found.time != "loss" and found.read == "nothing":
        yield "no weight is read backwards: a neuron that nobody hears is taught all the same"


def _carried(found: Traced) -> Iterator[str]:
    """How errors reach hidden layers."""
    if found.time == "loss":
        yield "no error reaches a layer: the losses do, the same few numbers for all weights of all layers"
    if found.through:
        yield f"errors come down layer by layer through {_backwards(found)}{_further(found)}"
    if found.direct and found.told == "loss":
        yield "the loss of each step goes straight to every hidden layer, and meets the noise of its neurons there"
    elif found.direct:
        yield f"errors go straight from the output to every hidden layer through {_matrices(found)}"
    yield from _heads(found)


def _backwards(found: Traced) -> str:
    """What stands in for a layer on the way back."""
    return BACKWARDS.get(found.read) or f"{_matrices(found)}, in the place of the transposed weights"


def _matrices(found: Traced) -> str:
    return f"matrices {letter(found)} {MATRICES[feedback(found)]}"


def _further(found: Traced) -> str:
    if found.time == "back in time":
        return ", and from step to step, back in time"
    return ", and round the loop until they settle" if found.time == "rates" and found.cyclic else ""


def _heads(found: Traced) -> Iterator[str]:
    own = [NAMES[head.reads] for head in found.heads if head.teaches == (head.reads,)]
    if own:
        yield f"{_each(own)} taught by a readout of its own too"
    for head in found.heads:
        if head.teaches != (head.reads,):
            yield f"a readout of {NAMES[head.reads]} teaches {listed([NAMES[layer] for layer in head.teaches])} too"


def _each(layers: Sequence[str]) -> str:
    """Of hidden layers, each by itself."""
    if len(layers) == len(NAMES) - 1:
        return "every hidden layer is"
    return f"{listed(layers)} is" if len(layers) == 1 else f"{listed(layers)} are each"


def _memory(traits: Traits, grown: Growth | None, beside: Growth) -> Iterator[str]:
    yield f"{traits.memory} in the number of time steps"
    if grown is not None:
        yield _grown("time steps", STEPS, grown.steps, beside.steps)
        yield _grown("layers", LAYERS, grown.layers, beside.layers)


def _grown(of: str, at: Sequence[int], held: Sequence[int], beside: Sequence[int]) -> str:
    sizes = f"{bytes_of(held[0])} for {at[0]} {of}, {bytes_of(held[-1])} for {at[-1]}"
    return f"{sizes}: {held[-1] / held[0]:.1f} times (bptt {beside[-1] / beside[0]:.1f})"


def _needs(traits: Traits, found: Traced) -> Iterator[str]:
    yield f"{_passes(found)}, {_backward(traits)}" if found.passes else _backward(traits)
    if found.own:
        yield f"{counted(sum(found.own.values()), 'number')} of its own (the tiny network has {found.weights} weights)"
    if found.learned:
        yield f"{counted(sum(found.learned.values()), 'number')} that are learned beside the weights"
    if traits.stochastic:
        yield "random numbers" + (", which change the outputs while it trains" if traits.perturbs else "")
    if traits.per_step_error:
        yield "an error at every step (a per-step objective)"
    if traits.rate:
        yield "an objective that reads the mean output"
    if traits.max_chunk:
        yield f"time in chunks of at most {traits.max_chunk}"


def _passes(found: Traced) -> str:
    return "one forward pass" if found.passes == 1 else f"{found.passes} forward passes"


def _backward(traits: Traits) -> str:
    if traits.backward == "time":
        return "a backward pass through all layers and all steps"
    if traits.backward == "step":
        return "a backward pass through the layers " + ("once a sequence" if traits.rate else "at every step")
    return "no backward pass"


def _walk(traits: Traits, found: Traced) -> Iterator[tuple[str, str]]:
    yield "Forward", " ".join(_forward(traits, found))
    yield "Error", _error(found)
    carried = "; ".join(_carried(found))
    yield "Credit", f"{carried[0].upper()}{carried[1:]}."
    renewed = " M is renewed, too." if found.direct and letter(found) == "M" else ""
    when = "at every step" if traits.updates == "step" else "when the sequence is over"
    yield "Update", f"{AT_FOCUS[found.time]} Weights move {when}.{renewed}"


def _forward(traits: Traits, found: Traced) -> Iterator[str]:
    yield "Spikes travel up the layers; membranes carry what is left to the next step."
    if traits.from_loss:
        runs = f", in {_passes(found)}" if found.passes else ""
        yield f"Weights are tried out along random directions z{runs}."
    elif traits.perturbs:
        yield "Noise z is added at every hidden neuron."
    if found.cyclic:
        yield "Layer 3 speaks to layer 1, one step late."


def _error(found: Traced) -> str:
    if found.time == "loss":
        return "Nothing but losses of the whole sequence is looked at."
    if found.time == "rates":
        return "Every layer's spikes become one mean, and the mean output is compared with the label, once."
    if found.time == "back in time":
        return "Every step's output is compared with the label; errors wait until the sequence has ended."
    lit = [f"t = {step}" for step, lit in enumerate(found.lit, 1) if lit]
    some = f" Only some errors are used, here of {listed(lit)}." if 0 < len(lit) < len(found.lit) else ""
    return f"Every step's output is compared with the label at once.{some}"
