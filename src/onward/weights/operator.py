"""The linear map that a weight makes, and its spectral norm: the most by which it lengthens an input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core.errors import ShapeError, UnsupportedModule
from onward.core.synapse import effective, ops_of

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class Operator(ABC):
    """A linear map A(W), linear in the weight W too."""

    @abstractmethod
    def domain(self, weight: Tensor) -> tuple[int, ...]:
        """The shape of what it maps."""

    @abstractmethod
    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """A(W) x; differentiable in ``weight``."""

    @abstractmethod
    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """A(W)^T y."""


@dataclass(frozen=True)
class Matrix(Operator):
    """The weight as a matrix, dimension 0 against the rest: what an nn.Linear does, and not what a convolution does."""

    def domain(self, weight: Tensor) -> tuple[int, ...]:
        """See `Operator.domain`."""
        return (weight[0].numel(),)

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """See `Operator.apply`."""
        return weight.flatten(1) @ x

    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """See `Operator.adjoint`."""
        return y @ weight.flatten(1)


@dataclass(frozen=True)
class Drive(Operator):
    """What ``module``, bare of weights, makes of one input of shape ``features`` ``[C, *positions]``."""

    module: nn.Module
    features: tuple[int, ...]

    def domain(self, weight: Tensor) -> tuple[int, ...]:
        """See `Operator.domain`."""
        return self.features

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """See `Operator.apply`."""
        return ops_of(self.module).apply(self.module, {"weight": weight}, x[None])[0]

    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """See `Operator.adjoint`."""
        like = y.new_zeros(1, *self.features)
        return ops_of(self.module).transpose(self.module, {"weight": weight}, y[None], like)[0]


def operator_of(module: nn.Module, features: tuple[int, ...]) -> Operator:
    """What ``module`` does to inputs of shape ``features``, bias left out.

    Stride, padding, dilation, groups and output padding are those of the module. Raises `UnsupportedModule` for
    anything but nn.Linear, nn.Conv* and nn.ConvTranspose*, `ShapeError` where the features do not fit.

    >>> operator_of(nn.Linear(3, 2), (3,))
    Matrix()
    """
    _check(module, features)
    if isinstance(module, nn.Linear):
        return Matrix()
    if not isinstance(module, CONVOLUTIONS):
        raise UnsupportedModule(
            f"the operator of {_name(module)} is not known; expected nn.Linear, nn.Conv* or nn.ConvTranspose* "
            "(the norms 'reshaped' and 'frobenius' take any weight)"
        )
    drive = Drive(_bare(module), tuple(features))
    weight = torch.empty(effective(module)["weight"].shape, device="meta")
    with _fitting(module, features):
        drive.apply(weight, weight.new_empty(features))
    return drive


@torch.no_grad()
def operator_norm(
    module: nn.Module,
    features: tuple[int, ...],
    *,
    iterations: int = 500,
    tolerance: float = 1e-5,
    dtype: torch.dtype | None = None,
) -> float:
    """The spectral norm of a linear synapse on inputs of shape ``features``, bias left out: for warnings and logs.

    Power iteration from a fixed start until an iteration adds less than ``tolerance`` of the norm; the result is a
    lower bound. ``dtype``: of the products, by default that of the weights. Costs a copy of the module and at most
    2 ``iterations`` products with one input; changes nothing, not even the iteration of a restricted weight. Raises
    `ShapeError` where the features do not fit.

    >>> layer = nn.Linear(2, 2)
    >>> layer.weight.data = torch.diag(torch.tensor([3.0, 1.0]))
    >>> round(operator_norm(layer, (2,)), 4)
    3.0
    """
    _check(module, features)
    still = deepcopy(module).eval().to(dtype)
    ops, params = ops_of(still), effective(still)
    zero = next(still.parameters(), torch.zeros((), dtype=dtype)).new_zeros(1, *features)
    with _fitting(module, features):
        shift = ops.apply(still, params, zero)
    v, norm = unit(noise(zero.shape, zero)), 0.0
    for _ in range(iterations):
        y = ops.apply(still, params, v) - shift
        last, norm = norm, float(torch.linalg.vector_norm(y))
        if not norm - last > tolerance * norm:
            break
        v = unit(ops.transpose(still, params, y, zero))
    return norm


def unit(x: Tensor) -> Tensor:
    """``x`` divided by its Euclidean length; zeros stay zeros."""
    return x / torch.linalg.vector_norm(x).clamp_min(torch.finfo(x.dtype).tiny)


def noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Normal numbers, always the same ones for one shape; leaves torch's own random state alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)


def _bare(module: nn.Module) -> nn.Module:
    """A twin of ``module`` as its plain class, without weights, hooks or parametrizations."""
    kind: Any = parametrize.type_before_parametrizations(module)
    bare = kind.__new__(kind)
    nn.Module.__init__(bare)
    vars(bare).update({name: value for name, value in vars(module).items() if name not in vars(bare)})
    bare.register_parameter("weight", None)
    bare.register_parameter("bias", None)
    return bare


def _check(module: nn.Module, features: tuple[int, ...]) -> None:
    """Raises `ShapeError` for features that torch might take for something else, such as a map without channels."""
    if isinstance(module, nn.Linear) and tuple(features[-1:]) != (module.in_features,):
        raise _misfit(module, features, f"{module.in_features} numbers in the last place")
    if isinstance(module, CONVOLUTIONS):
        axes = len(module.kernel_size)
        if len(features) != axes + 1 or features[0] != module.in_channels or min(features) < 1:
            raise _misfit(module, features, f"{module.in_channels} channels, then {axes} sizes of at least 1")


@contextmanager
def _fitting(module: nn.Module, features: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _misfit(module, features, f"what it can take ({error})") from None


def _misfit(module: nn.Module, features: tuple[int, ...], expected: str) -> ShapeError:
    return ShapeError(f"an input of shape {list(features)} does not fit {_name(module)}; expected {expected}")


def _name(module: nn.Module) -> str:
    return f"{parametrize.type_before_parametrizations(module).__name__}({module.extra_repr()})"
