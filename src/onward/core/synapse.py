"""What a synapse is to the engine: a drive, its adjoint, and an outer product.

Three functions per module type turn *rules x layers* into *rules + layers*. Two identities verify a new type:

    <W x, g> = <x, transpose(g)>        <outer(x, g), W> = <W x, g>        (bias zero)

All act on rows ``[R, ...]``: time and batch merged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.kernels.convolve import Geometry, convolve, transposed, unfolded, weight_gradient
from onward.kernels.dense import column_sums, linear, outer, shortens
from onward.kernels.rows import SparseRows
from onward.kernels.taps import LINEAR, Taps, adjoint_taps, conv_taps

Params = Mapping[str, Tensor]


class SynapseOps(ABC):
    """Products of one module type; ``params`` are its effective weights, by name."""

    @abstractmethod
    def apply(self, module: Any, params: Params, x: Tensor) -> Tensor:
        """The drive W x + b."""

    @abstractmethod
    def transpose(self, module: Any, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """The adjoint in the input, W^T post, in the shape of the rows ``like``."""

    @abstractmethod
    def outer(self, module: Any, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """Adds the gradient of everything but the bias, sum over rows of post x pre, to ``into``."""

    def taps(self, module: Any, rows: SparseRows) -> Taps | None:
        """How the module reads ``rows``; None where it takes dense tensors only."""
        return None

    def reads(self, module: Any) -> int | None:
        """How many numbers an output adds up, where all outputs of a place add up the same; None where not."""
        return None

    def places(self, module: Any, size: tuple[int, ...]) -> int:
        """Places of the output, each with numbers of its own, for an input ``[R, *size]``."""
        raise NotImplementedError

    def patches(self, module: Any, x: Tensor, places: Tensor | None = None) -> Tensor:
        """The numbers that outputs add up, ``[R, P, n]``, in the order of a weight's row; at some ``places`` alone."""
        raise NotImplementedError

    def adjoint_taps(self, module: Any, posts: SparseRows, like: Tensor) -> Taps | None:
        """How the adjoint reads ``posts`` of inputs such as ``like``; None where it takes dense tensors only."""
        return None

    @abstractmethod
    def bias(self, module: Any, post: Tensor, into: Params) -> None:
        """Adds the gradient of the bias, the sum of post over rows and positions, to ``into`` if it has one."""


class LinearOps(SynapseOps):
    """nn.Linear."""

    def apply(self, module: nn.Linear, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        return linear(x.flatten(0, -2), params["weight"], params.get("bias")).unflatten(0, x.shape[:-1])

    def transpose(self, module: nn.Linear, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        weight = params["weight"]
        return linear(post, weight.T, None) if shortens(weight.dtype, post) else post @ weight

    def outer(self, module: nn.Linear, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        outer(post.flatten(0, -2), pre.flatten(0, -2), into["weight"], params["weight"].dtype)

    def taps(self, module: nn.Linear, rows: SparseRows) -> Taps | None:
        """See `SynapseOps.taps`."""
        return LINEAR if rows.places == 1 and rows.dim() == 3 else None

    def reads(self, module: nn.Linear) -> int | None:
        """See `SynapseOps.reads`."""
        return module.in_features

    def places(self, module: nn.Linear, size: tuple[int, ...]) -> int:
        """See `SynapseOps.places`."""
        return prod(size[:-1])

    def patches(self, module: nn.Linear, x: Tensor, places: Tensor | None = None) -> Tensor:
        """See `SynapseOps.patches`."""
        rows = x.reshape(len(x), -1, x.shape[-1])
        return rows if places is None else rows[:, places]

    def adjoint_taps(self, module: nn.Linear, posts: SparseRows, like: Tensor) -> Taps | None:
        """See `SynapseOps.adjoint_taps`."""
        return self.taps(module, posts)

    def bias(self, module: nn.Linear, post: Tensor, into: Params) -> None:
        """See `SynapseOps.bias`."""
        if "bias" in into:
            into["bias"].add_(column_sums(post))


class ConvOps(SynapseOps):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d with zero padding given in numbers."""

    def apply(self, module: Any, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        return convolve(x, params["weight"], params.get("bias"), geometry(module))

    def transpose(self, module: Any, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        return transposed(post, params["weight"], like, geometry(module))

    def outer(self, module: Any, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        into["weight"].add_(weight_gradient(post, pre, params["weight"], geometry(module)))

    def bias(self, module: Any, post: Tensor, into: Params) -> None:
        """See `SynapseOps.bias`."""
        if "bias" in into:
            into["bias"].add_(column_sums(post.movedim(1, -1)))

    def taps(self, module: Any, rows: SparseRows) -> Taps | None:
        """See `SynapseOps.taps`; groups read dense tensors."""
        if module.groups != 1 or rows.inner != module.in_channels or rows.dim() != len(module.kernel_size) + 3:
            return None
        return conv_taps(tuple(rows.shape[3:]), module.kernel_size, geometry(module))

    def reads(self, module: Any) -> int | None:
        """See `SynapseOps.reads`; groups read channels of their own."""
        return module.in_channels * prod(module.kernel_size) if module.groups == 1 else None

    def places(self, module: Any, size: tuple[int, ...]) -> int:
        """See `SynapseOps.places`."""
        return prod(geometry(module).size_after(size[1:], module.kernel_size))

    def patches(self, module: Any, x: Tensor, places: Tensor | None = None) -> Tensor:
        """See `SynapseOps.patches`."""
        return unfolded(x, module.kernel_size, geometry(module), places)

    def adjoint_taps(self, module: Any, posts: SparseRows, like: Tensor) -> Taps | None:
        """See `SynapseOps.adjoint_taps`; as for `taps`."""
        if module.groups != 1 or posts.inner != module.out_channels or posts.dim() != like.dim():
            return None
        return adjoint_taps(tuple(like.shape[3:]), module.kernel_size, geometry(module))


def geometry(module: Any) -> Geometry:
    """Stride, padding, dilation and groups of a convolution."""
    return Geometry(module.stride, module.padding, module.dilation, module.groups)


class VjpOps(SynapseOps):
    """Any other linear module, by the vector-Jacobian product of its own forward."""

    def apply(self, module: nn.Module, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        return _with(module, {name: value.to(x.dtype) for name, value in params.items()})(x)

    def transpose(self, module: nn.Module, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        return torch.func.vjp(lambda x: self.apply(module, params, x), like)[1](post)[0]

    def outer(self, module: nn.Module, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        free = {name: value.to(into[name].dtype) for name, value in params.items() if name != "bias"}
        fixed = {name: value for name, value in params.items() if name == "bias"}
        grads = torch.func.vjp(lambda p: self.apply(module, {**p, **fixed}, pre), free)[1](post)[0]
        for name, grad in grads.items():
            into[name].add_(grad)

    def bias(self, module: nn.Module, post: Tensor, into: Params) -> None:
        """See `SynapseOps.bias`; the bias is taken to be one number per output channel (dimension 1)."""
        if "bias" in into:
            others = [d for d in range(post.dim()) if d != (1 if into["bias"].dim() == 1 else None)]
            into["bias"].add_(post.sum(others).view_as(into["bias"]))


def _with(module: nn.Module, params: Params) -> nn.Module:
    """``module`` as its plain class, computing with ``params``: parametrized weights cannot be set from outside."""
    kind: Any = parametrize.type_before_parametrizations(module)
    twin = kind.__new__(kind)
    vars(twin).update(vars(module), _parameters={**module._parameters, **params})
    return twin


_OPS: dict[type[nn.Module], SynapseOps] = {
    nn.Linear: LinearOps(),
    nn.Conv1d: ConvOps(),
    nn.Conv2d: ConvOps(),
    nn.Conv3d: ConvOps(),
}
_FALLBACK = VjpOps()


def register_synapse(kind: type[nn.Module], ops: SynapseOps) -> None:
    """Teaches the engine fast products for a module type."""
    _OPS[kind] = ops


def ops_of(module: nn.Module) -> SynapseOps:
    """The products of ``module``: those registered for its type, or the generic ones."""
    kind = parametrize.type_before_parametrizations(module)
    ops = _OPS.get(kind, _FALLBACK)
    plain = (
        isinstance(getattr(module, "padding", 0), int | tuple) and getattr(module, "padding_mode", "zeros") == "zeros"
    )
    return ops if plain else _FALLBACK


def effective(module: nn.Module) -> dict[str, Tensor]:
    """The weights the module computes with, by name: parameters, or what their parametrization makes of them."""
    names = [name for name, value in module.named_parameters(recurse=False) if value is not None]
    if parametrize.is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]
    return {name: getattr(module, name) for name in names}
