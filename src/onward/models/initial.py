"""How the weights of a layer start; biases start at 0, but for `uniform`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

Init = Callable[[nn.Module], None]


def kaiming(layer: nn.Module) -> None:
    """Kaiming normal: convolutions by the inputs that errors come from (fan-out), linear layers by fan-in."""
    mode = "fan_in" if isinstance(layer, nn.Linear) else "fan_out"
    _start(layer, lambda weight: nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu"))


def kaiming_in(layer: nn.Module) -> None:
    """Kaiming normal by fan-in."""
    _start(layer, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))


def unit(layer: nn.Module) -> None:
    """Uniform in (-1, 1), then every output's filter scaled to length 1 (Xiao et al. 2021).

    >>> layer = nn.Linear(8, 4)
    >>> unit(layer)
    >>> torch.allclose(layer.weight.norm(dim=1), torch.ones(4))
    True
    """
    outputs = 1 if isinstance(layer, _ConvTransposeNd) else 0

    def fill(weight: Tensor) -> None:
        others = [axis for axis in range(weight.dim()) if axis != outputs]
        weight.uniform_(-1, 1).div_(torch.linalg.vector_norm(weight, dim=others, keepdim=True))

    _start(layer, fill)


def uniform(layer: nn.Module) -> None:
    """Weights and biases uniform within 1 / sqrt(fan-in): torch's own start."""
    layer.reset_parameters()  # type: ignore[operator]


@torch.no_grad()
def _start(layer: nn.Module, fill: Callable[[Tensor], object]) -> None:
    fill(layer.get_parameter("weight"))
    if layer.bias is not None:
        nn.init.zeros_(layer.get_parameter("bias"))
