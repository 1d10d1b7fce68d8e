"""Neurons of discrete time here, and of continuous time in NIR.

NIR states differential equations, and what a spike does:

    LIF      tau v' = v_leak - v + R I
    CubaLIF  tau_mem v' = v_leak - v + R I,  tau_syn I' = -I + w_in S
    IF       v' = R I
    LI, I    LIF and IF that never fire
    fires where v > v_threshold, and then v = v_reset

Steps of dt by Euler's forward method, the current of a CubaLIF first, are H = a V + b x + c and I = alpha I + x with

    a = 1 - dt / tau    b = R dt / tau    c = v_leak dt / tau    alpha = 1 - dt / tau_syn    1 = w_in dt / tau_syn

and, for neurons without leak (a = 1, c = 0), b = R dt. Solved for what a file holds:

    tau = dt / (1 - a)    R = b / (1 - a)    v_leak = c / (1 - a)    tau_syn = w_in dt = dt / (1 - alpha)
    R = b / dt  where a = 1

Onward compares by >= unless told otherwise. v_threshold is then the float32 number just below: v > v_threshold says
the same of every float32. Three things have no place in NIR and stand in the node's metadata: ``fires_at``, the
threshold as it was; ``reset`` "subtract" with ``reset_by``, a soft reset; and ``initial``, a potential before the first
step that is not 0. Other programs do not know of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from onward.core.errors import ConfigError, UnsupportedModule
from onward.core.glue import Scale
from onward.core.neuron import Neuron
from onward.export.nir.package import package
from onward.kernels.fire import Recurrence
from onward.neurons import LI, Affine, CubaLIF, HardReset, SoftReset

KINDS = "IF, LIF, CubaLIF and LI"
CLOSE = 1e-12
"""Relative distance at which a factor of 1 is meant, after division and multiplication."""


@dataclass(frozen=True)
class Written:
    """A neuron as a NIR node; ``height`` is what a spike sends, ``lost`` says what other programs will not know of."""

    node: Any
    height: float = 1.0
    lost: list[str] = field(default_factory=list)


def to_nir(neuron: nn.Module, name: str, shape: tuple[int, ...], dt: float) -> Written:
    """``neuron`` as a node with parameters of ``shape``; raises `UnsupportedModule` for what NIR cannot say."""
    if isinstance(neuron, Neuron) and neuron.test_noise:
        raise UnsupportedModule(f"{name} has noise on what it sends (test_noise {neuron.test_noise:g}); NIR knows none")
    match neuron:
        case CubaLIF():
            return _current_based(neuron, name, shape, dt)
        case Affine():
            return _affine(neuron, name, shape, dt)
        case LI():
            return Written(_integrator(neuron, shape, dt))
    raise UnsupportedModule(f"{name} is {type(neuron).__name__}, for which NIR has no node; expected {KINDS} neurons")


def from_nir(node: Any, dt: float) -> list[nn.Module]:
    """The neurons of ``node``, behind a factor on their input where they need one; raises `ConfigError` in words."""
    return _READERS[type(node).__name__](_Reader(node, dt))


def below(threshold: float) -> float:
    """The float32 number just below ``threshold``.

    >>> below(1.0)
    0.9999999403953552
    """
    return float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))


def _affine(neuron: Affine, name: str, shape: tuple[int, ...], dt: float) -> Written:
    law, nir = neuron.recurrence, package()
    firing, metadata, lost = _firing(neuron, name)
    if law.decay < 1:
        node = nir.LIF(**_arrays({**_membrane(law, dt), **firing}, shape), metadata=metadata)
    elif law.drift == 0:
        node = nir.IF(**_arrays({"r": law.gain / dt, **firing}, shape), metadata=metadata)
    else:
        raise UnsupportedModule(f"{name} drifts by {law.drift:g} a step without a leak, for which NIR has no node")
    return Written(node, law.height, lost)


def _current_based(neuron: CubaLIF, name: str, shape: tuple[int, ...], dt: float) -> Written:
    law, alpha = neuron.membrane.recurrence, neuron.current_decay
    if law.decay == 1 or alpha == 1:
        raise UnsupportedModule(
            f"{name} is a CubaLIF whose {'membrane' if law.decay == 1 else 'current'} does not leak; those of NIR do"
        )
    firing, metadata, lost = _firing(neuron.membrane, name)
    numbers = {**_membrane(law, dt), **firing, "tau_syn": dt / (1 - alpha), "w_in": 1 / (1 - alpha)}
    numbers["tau_mem"] = numbers.pop("tau")
    return Written(package().CubaLIF(**_arrays(numbers, shape), metadata=metadata), law.height, lost)


def _integrator(neuron: LI, shape: tuple[int, ...], dt: float) -> Any:
    if neuron.decay == 1:
        return package().I(**_arrays({"r": neuron.gain / dt}, shape))
    leak = 1 - neuron.decay
    return package().LI(**_arrays({"tau": dt / leak, "r": neuron.gain / leak, "v_leak": 0.0}, shape))


def _membrane(law: Recurrence, dt: float) -> dict[str, float]:
    leak = 1 - law.decay
    return {"tau": dt / leak, "r": law.gain / leak, "v_leak": law.drift / leak}


def _firing(neuron: Affine, name: str) -> tuple[dict[str, float], dict[str, Any], list[str]]:
    """Threshold and reset, what the metadata say of them, and which of that NIR itself cannot say."""
    law, metadata, lost = neuron.recurrence, dict[str, Any](), list[str]()
    numbers = {"v_threshold": law.threshold, "v_reset": law.amount if law.hard else 0.0}
    if not law.strict:
        numbers["v_threshold"], metadata["fires_at"] = below(law.threshold), law.threshold
    if not law.hard:
        metadata |= {"reset": "subtract", "reset_by": law.amount}
        lost.append(f"{name} subtracts {law.amount:g} when it fires (soft reset), and NIR sets to a value (hard reset)")
    if neuron.initial:
        metadata["initial"] = float(neuron.initial)
        lost.append(f"{name} starts from a potential of {neuron.initial:g}, and NIR says nothing of that")
    return numbers, metadata, lost


def _arrays(numbers: dict[str, float], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {key: np.full(shape, value, np.float64) for key, value in numbers.items()}


@dataclass(frozen=True)
class _Reader:
    """The numbers of one node of neurons: each is one number for all of them."""

    node: Any
    dt: float

    def number(self, key: str) -> float:
        """The parameter ``key``."""
        values = np.asarray(getattr(self.node, key), np.float64)
        if not values.size or not np.isfinite(values).all():
            raise ConfigError(f"{key} is no list of finite numbers")
        if values.min() != values.max():
            raise ConfigError(
                f"{key} differs among the neurons ({values.min():g} to {values.max():g}); the neurons "
                "of a layer have one value here"
            )
        return float(values.flat[0])

    def rate(self, key: str) -> float:
        """dt / tau."""
        tau = self.number(key)
        if not 0 < self.dt <= tau * (1 + CLOSE):
            raise ConfigError(
                f"{key} is {tau:g} s, and a time step {self.dt:g} s; expected a step of no more than "
                "any time constant: say with --dt which one the network was made for"
            )
        return min(self.dt / tau, 1.0)

    def membrane(self, rate: float, per_input: float, rest: float = 0.0) -> Affine:
        """The neuron with leak ``rate`` and gain ``per_input``."""
        threshold, metadata = self.number("v_threshold"), self.node.metadata
        fires_at = metadata.get("fires_at")
        ties = isinstance(fires_at, float) and below(fires_at) == threshold
        threshold = float(fires_at) if ties else threshold
        if threshold <= 0:
            raise ConfigError(f"v_threshold is {threshold:g}; expected a positive number")
        return Affine(
            1 - rate,
            gain=near_one(per_input),
            drift=rate * rest,
            threshold=threshold,
            reset=self._reset(metadata, threshold),
            initial=float(metadata.get("initial", 0.0)),
            ties_fire=ties,
        )

    def _reset(self, metadata: dict[str, Any], threshold: float) -> HardReset | SoftReset:
        if metadata.get("reset") == "subtract":
            return SoftReset(float(metadata.get("reset_by", threshold)) / threshold)
        return HardReset(self.number("v_reset"))


def near_one(factor: float) -> float:
    """``factor``, or 1 where only rounding keeps it from being 1."""
    return 1.0 if abs(factor - 1) < CLOSE else factor


def _behind(factor: float, neuron: Neuron) -> list[nn.Module]:
    """``neuron`` behind a factor on its input."""
    factor = near_one(factor)
    return [neuron] if factor == 1 else [Scale(factor), neuron]


def _read_lif(read: _Reader) -> list[nn.Module]:
    rate = read.rate("tau")
    return [read.membrane(rate, rate * read.number("r"), read.number("v_leak"))]


def _read_if(read: _Reader) -> list[nn.Module]:
    return [read.membrane(0.0, read.dt * read.number("r"))]


def _read_cuba(read: _Reader) -> list[nn.Module]:
    rate, synaptic = read.rate("tau_mem"), read.rate("tau_syn")
    membrane = read.membrane(rate, rate * read.number("r"), read.number("v_leak"))
    return _behind(synaptic * read.number("w_in"), CubaLIF(membrane, 1 - synaptic))


def _read_li(read: _Reader) -> list[nn.Module]:
    rate = read.rate("tau")
    if read.number("v_leak"):
        raise ConfigError(f"v_leak is {read.number('v_leak'):g}; leaky integrators rest at 0 here")
    if near_one(read.number("r")) == 1:
        return [LI(decay=1 - rate, decay_input=True)]
    return _behind(rate * read.number("r"), LI(decay=1 - rate))


def _read_integrator(read: _Reader) -> list[nn.Module]:
    return _behind(read.dt * read.number("r"), LI(decay=1.0))


_READERS: dict[str, Callable[[_Reader], list[nn.Module]]] = {
    "LIF": _read_lif,
    "IF": _read_if,
    "CubaLIF": _read_cuba,
    "LI": _read_li,
    "I": _read_integrator,
}
NEURONS = frozenset(_READERS)
"""The names of the nodes that `from_nir` reads."""
