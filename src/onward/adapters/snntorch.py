"""snnTorch's networks. A spike resets the membrane in the step that follows (``reset_delay``), unless told otherwise:

    Leaky, subtract       U[t] = beta U[t-1] + x[t] - theta s[t-1]
    Leaky, zero           U[t] = beta (1 - s[t-1]) U[t-1] + x[t]
    none                  U[t] = beta U[t-1] + x[t]
    s[t] = [U[t] > theta]

With H = U these are `onward.Affine` with V = H - (theta / beta) s, V = (1 - s) H, V = H; a membrane set to 0 at once is
the second. Synaptic has the current I[t] = alpha I[t-1] + x[t] in the place of x (`onward.CubaLIF`), Lapicque has
1 - dt / (R C) in that of beta and x dt / C in that of x. Some resets are no affine neuron's, and are refused in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from onward.adapters.reading import Given, Library, Part, network_of
from onward.core import Network
from onward.core.errors import ConfigError
from onward.neurons import Affine, CubaLIF, HardReset, SoftReset
from onward.surrogates import ATan, FastSigmoid, Sigmoid, Surrogate

_MECHANISMS = ("subtract", "zero", "none")


def from_snntorch(
    network: Given,
    checkpoint: Path | str | Mapping[str, Tensor] | None = None,
    *,
    surrogate: Surrogate | None = None,
) -> Network:
    """A network of snnTorch's modules as an Onward network, with their weights, neurons and surrogates.

    ``network`` is an ``nn.Sequential`` (neurons with ``init_hidden``), or layers in order: a list, or a mapping by
    name, which is how the layers of a class with a forward of its own are given:
    ``from_snntorch({"fc1": net.fc1, "lif1": net.lif1})``. ``checkpoint``, a file or a state dict of the same network,
    replaces its values. A given ``surrogate`` takes the place of all of theirs. A learned beta becomes a constant; the
    network sends spikes where neurons come last. Raises `UnsupportedModule`, which names every module that cannot be
    mapped.
    """
    return network_of(LIBRARY, network, checkpoint, surrogate)


def _leaky(part: Part) -> Affine:
    decay = _clamped(part, "beta")
    return _affine(part, decay, 1.0, _reset(part, decay, zero_keeps_input=True))


def _synaptic(part: Part) -> CubaLIF:
    decay = _clamped(part, "beta")
    return CubaLIF(_affine(part, decay, 1.0, _reset(part, decay)), _clamped(part, "alpha"))


def _lapicque(part: Part) -> Affine:
    r, c, dt = part.number("R"), part.number("C"), part.number("time_step")
    decay = 1 - dt / (r * c)
    return _affine(part, decay, r * (1 / (r * c)) * dt, _reset(part, decay))


def _affine(part: Part, decay: float, gain: float, reset: SoftReset | HardReset) -> Affine:
    if part.value("inhibition"):
        raise ConfigError("lets one neuron fire at a time (inhibition), for which there is no neuron here")
    if part.value("state_quant"):
        raise ConfigError("rounds its states (state_quant), for which there is no neuron here")
    return Affine(
        decay,
        gain=gain,
        threshold=part.number("threshold"),
        height=part.number("graded_spikes_factor"),
        reset=reset,
        ties_fire=False,
        surrogate=part.surrogate or _surrogate(part.value("spike_grad")),
        learn_threshold=isinstance(part.module.threshold, nn.Parameter),
    )


def _reset(part: Part, decay: float, *, zero_keeps_input: bool = False) -> SoftReset | HardReset:
    """What a spike does; raises `ConfigError` where no affine neuron does the same."""
    mechanism, late = _MECHANISMS[int(part.number("reset_mechanism_val"))], getattr(part.module, "reset_delay", True)
    if mechanism == "none":
        return SoftReset(0.0)
    if mechanism == "zero":
        if late and not zero_keeps_input:
            raise ConfigError("sets its membrane to 0 a step late, and drops what comes in then; use 'subtract'")
        return HardReset(0.0)
    if not late:
        raise ConfigError("subtracts at once, and again while it stays above (reset_delay=False); use 'zero'")
    if decay == 0:
        raise ConfigError("subtracts a step late and remembers nothing (beta 0); use 'zero'")
    return SoftReset(1 / decay)


def _clamped(part: Part, key: str) -> float:
    return min(max(part.number(key), 0.0), 1.0)


def _surrogate(given: Any) -> Surrogate:
    """The same surrogate here, told by the function that made it; raises `ConfigError` where there is none."""
    maker = getattr(given, "__qualname__", type(given).__name__).partition(".")[0]
    if maker not in _SURROGATES:
        raise ConfigError(f"has the surrogate {maker}, which is not there; say which one with surrogate=")
    key, make = _SURROGATES[maker]
    held = dict(zip(given.__code__.co_freevars, given.__closure__ or (), strict=True))
    return make(float(held[key].cell_contents))


_SURROGATES: dict[str, tuple[str, Callable[[float], Surrogate]]] = {
    "atan": ("alpha", ATan),
    "fast_sigmoid": ("slope", FastSigmoid),
    "sigmoid": ("slope", Sigmoid),
}

LIBRARY = Library(
    "from_snntorch", {"Leaky": _leaky, "Synaptic": _synaptic, "Lapicque": _lapicque}, {}, frozenset[str]()
)
