"""Surrogate derivatives of the spike function, and their names for configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from onward.core.registry import Choice, Registry
from onward.surrogates.base import Surrogate
from onward.surrogates.localzo import LocalZO, Windowed, windowed
from onward.surrogates.probes import (
    Flat,
    Laplace,
    Logistic,
    Matched,
    Normal,
    Probe,
    Signs,
    StudentT,
    Superspike,
    Tent,
)
from onward.surrogates.shapes import ATan, FastSigmoid, Gaussian, QuasiClamp, Rectangle, Sigmoid, Triangle

__all__ = [
    "ATan",
    "FastSigmoid",
    "Gaussian",
    "LocalZO",
    "QuasiClamp",
    "Rectangle",
    "Sigmoid",
    "Surrogate",
    "Triangle",
    "Windowed",
    "probes",
    "surrogates",
]


class Slope(Choice):
    """Options of a surrogate given by its slope."""

    slope: float = Field(gt=0, description="steepness k of the surrogate")


class Width(Choice):
    """Options of a surrogate given by its width."""

    width: float = Field(gt=0, description="width of the surrogate, in units of the membrane potential")


surrogates: Registry[Surrogate] = Registry("surrogate")


def _register(name: str, surrogate: Callable[[float], Surrogate], field: str, default: float, summary: str) -> None:
    surrogates.register(
        name,
        Slope if field == "slope" else Width,
        lambda choice: surrogate(getattr(choice, field)),
        summary,
        defaults={field: default},
    )


_register("sigmoid", Sigmoid, "slope", Sigmoid.slope, "derivative of a logistic function (OTTT, HLOP)")
_register("triangle", Triangle, "slope", Triangle.slope, "piecewise-linear tent (SLTT)")
_register("rectangle", Rectangle, "width", Rectangle.width, "box of unit area")
_register("atan", ATan, "slope", ATan.slope, "derivative of an arctangent (SpikingJelly)")
_register("gaussian", Gaussian, "width", Gaussian.width, "normal density")
_register("fast-sigmoid", FastSigmoid, "slope", FastSigmoid.slope, "heavy-tailed, peak 1 (SuperSpike)")
_register("quasi-clamp", QuasiClamp, "width", QuasiClamp.width, "1 inside a window, 0 outside")

SurrogateChoice = Annotated[SerializeAsAny[Choice], BeforeValidator(surrogates.parse)]


class FreedomOptions(Choice):
    """Options of Student's law."""

    freedom: float = Field(3.0, gt=0, description="degrees of freedom; of 3 the mean is atan")


class MatchedOptions(Choice):
    """Options of a law made for a surrogate."""

    surrogate: SurrogateChoice = Field(surrogates.parse("atan"), description="the mean of the estimates")
    exponent: float = Field(1.0, description="power of |z| in an estimate; 1 is a two-point estimate")


probes: Registry[Probe] = Registry("law")
probes.register("normal", Choice, lambda choice: Normal(), "N(0, 1); mean: a normal density")
probes.register("uniform", Choice, lambda choice: Flat(), "uniform, variance 1; mean: a parabola")
probes.register("laplace", Choice, lambda choice: Laplace(), "Laplace, variance 1")
probes.register("rademacher", Choice, lambda choice: Signs(), "+1 or -1; mean: a box, no variance")
probes.register("student-t", FreedomOptions, lambda choice: StudentT(choice.freedom), "heavy-tailed; mean: atan for 3")
probes.register("sigmoid", Choice, lambda choice: Logistic(), "variance 1; mean: derivative of a logistic function")
probes.register(
    "fast-sigmoid",
    Slope,
    lambda choice: Superspike(choice.slope),
    "mean: 1 / (1 + k abs(x))^2",
    defaults={"slope": Superspike.slope},
)
probes.register(
    "triangle", Width, lambda choice: Tent(choice.width), "uniform; mean: a tent", defaults={"width": Tent.width}
)
probes.register(
    "matched",
    MatchedOptions,
    lambda choice: Matched(surrogates.build(choice.surrogate), choice.exponent),
    "the law whose mean is a surrogate of your choice",
)


class LocalZOOptions(Choice):
    """Options of LocalZO."""

    delta: float = Field(0.5, gt=0, description="size of the perturbation, in units of the membrane potential")
    samples: int = Field(5, ge=1, description="draws a slope")
    law: Annotated[SerializeAsAny[Choice], BeforeValidator(probes.parse)] = Field(
        probes.parse("normal"), description="what perturbations are drawn from"
    )
    form: Literal["sampled", "mean", "window"] = Field(
        "sampled", description="the estimates; their mean; or their mean where about as many neurons would be active"
    )


def _localzo(choice: LocalZOOptions) -> Surrogate:
    probe = probes.build(choice.law)
    if choice.form == "sampled":
        return LocalZO(choice.delta, choice.samples, probe)
    return probe.mean(choice.delta) if choice.form == "mean" else windowed(choice.delta, choice.samples, probe)


surrogates.register("localzo", LocalZOOptions, _localzo, "zeroth-order estimate, zero far from the threshold")
