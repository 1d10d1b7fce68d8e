"""What a synapse is to the engine: a drive, its adjoint, and an outer product.

Three functions per module type turn *rules x layers* into *rules + layers*. Two identities verify a new type:

    <W x, g> = <x, transpose(g)>        <outer(x, g), W> = <W x, g>        (bias zero)

All act on rows ``[R, ...]``: time and batch merged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

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

    @abstractmethod
    def bias(self, module: Any, post: Tensor, into: Params) -> None:
        """Adds the gradient of the bias, the sum of post over rows and positions, to ``into`` if it has one."""


class LinearOps(SynapseOps):
    """nn.Linear."""

    def apply(self, module: nn.Linear, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        return F.linear(x, params["weight"], params.get("bias"))

    def transpose(self, module: nn.Linear, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        return post @ params["weight"]

    def outer(self, module: nn.Linear, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        into["weight"].addmm_(post.flatten(0, -2).T, pre.flatten(0, -2))

    def bias(self, module: nn.Linear, post: Tensor, into: Params) -> None:
        """See `SynapseOps.bias`."""
        if "bias" in into:
            into["bias"].add_(post.flatten(0, -2).sum(0))


class ConvOps(SynapseOps):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d with zero padding given in numbers."""

    def apply(self, module: Any, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        settings = (
            module.stride,
            module.padding,
            module.dilation,
            False,
            [0] * len(module.stride),
            module.groups,
        )
        return torch.convolution(x, params["weight"], params.get("bias"), *settings)

    def transpose(self, module: Any, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        return self._backward(module, params, post, like, [True, False, False])[0]

    def outer(self, module: Any, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        into["weight"].add_(self._backward(module, params, post, pre, [False, True, False])[1])

    def bias(self, module: Any, post: Tensor, into: Params) -> None:
        """See `SynapseOps.bias`."""
        if "bias" in into:
            into["bias"].add_(post.flatten(2).sum((0, 2)))

    @staticmethod
    def _backward(module: Any, params: Params, post: Tensor, x: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        zeros = [0] * len(module.stride)
        settings = (module.stride, module.padding, module.dilation, False, zeros, module.groups)
        return torch.ops.aten.convolution_backward(post, x, params["weight"], None, *settings, wanted)


class VjpOps(SynapseOps):
    """Any other linear module, by the vector-Jacobian product of its own forward."""

    def apply(self, module: nn.Module, params: Params, x: Tensor) -> Tensor:
        """See `SynapseOps.apply`."""
        return _with(module, params)(x)

    def transpose(self, module: nn.Module, params: Params, post: Tensor, like: Tensor) -> Tensor:
        """See `SynapseOps.transpose`."""
        return torch.func.vjp(lambda x: self.apply(module, params, x), like)[1](post)[0]

    def outer(self, module: nn.Module, params: Params, pre: Tensor, post: Tensor, into: Params) -> None:
        """See `SynapseOps.outer`."""
        free = {name: value for name, value in params.items() if name != "bias"}
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
