"""Convolutions and their adjoints: layout in memory, and products in fewer bits."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onward.kernels.choice import Choice
from onward.kernels.dense import short, shortens


class Geometry(NamedTuple):
    """How a convolution moves over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As torch's own operators take it."""
        return self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups

    def axes(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Size, kernel, stride, padding and dilation along each axis of a map."""
        return list(zip(size, kernel, self.stride, self.padding, self.dilation, strict=True))

    def size_after(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
        """The size of the map that comes of a map of ``size``."""
        return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in self.axes(size, kernel)]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The drive of rows ``[R, C, ...]`` in the dtype of ``x``; the product in that of ``weight``."""
    if shortens(weight.dtype, x):
        return short(SHORT, _size(x, weight), x, weight, bias, geometry)
    return torch.convolution(_channels_last(x), weight, bias, *geometry.arguments)


def transposed(post: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """The adjoint of `convolve` in its input, in the shape of ``like``."""
    if shortens(weight.dtype, post):
        return short(SHORT_TRANSPOSED, _size(like, weight), post, weight, like, geometry)
    return _backward(post, like, weight, geometry, [True, False, False])[0]


def weight_gradient(post: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of the weight, whose dtype is that of the product."""
    if shortens(weight.dtype, post):
        return short(SHORT_GRADIENT, _size(x, weight), post, x, weight, geometry)
    return _backward(post, x, weight, geometry, [False, True, False])[1]


def unfolded(x: Tensor, kernel: tuple[int, ...], geometry: Geometry, places: Tensor | None = None) -> Tensor:
    """The patches ``[R, places, C * kernel]`` that a convolution of ``x`` ``[R, C, *size]`` multiplies, channels first.

    >>> geometry = Geometry((1,), (1,), (1,), 1)
    >>> unfolded(torch.tensor([[[1.0, 2.0]]]), (3,), geometry).tolist()
    [[[0.0, 1.0, 2.0], [1.0, 2.0, 0.0]]]
    """
    ends = [width for padding in reversed(geometry.padding) for width in (padding, padding)]
    padded = F.pad(x, ends).contiguous()
    out = geometry.size_after(tuple(x.shape[2:]), kernel)
    row, channel, *along = padded.stride()
    steps = [s * n for s, n in zip(along, geometry.stride, strict=True)]
    inside = [s * n for s, n in zip(along, geometry.dilation, strict=True)]
    patches = padded.as_strided((len(x), *out, x.shape[1], *kernel), (row, *steps, channel, *inside))
    if places is None:
        return patches.reshape(len(x), prod(out), -1)
    return patches[(slice(None), *torch.unravel_index(places, out))].flatten(2)


def _backward(post: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: list[bool]) -> tuple[Tensor, ...]:
    if x.shape[1] == 1:
        x = _channels_last(x)
    if set(weight.shape[2:]) == {1} and max(geometry.stride) > 1:
        # oneDNN writes beyond its buffers for such layers when maps lie channels last
        post, x = post.contiguous(), x.contiguous()
    return torch.ops.aten.convolution_backward(post, x, weight, None, *geometry.arguments, wanted)


def _channels_last(x: Tensor) -> Tensor:
    """Images with channels last in memory, which is faster in float32 on CPUs.

    A single channel lies both first and last; torch takes its maps as channels last where the strides say so.
    """
    if x.dim() != 4 or x.dtype is not torch.float32 or x.device.type != "cpu":
        return x
    if x.shape[1] == 1 and x.is_contiguous():
        height, width = x.shape[2:]
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


def _size(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Rows, places, outputs, products an output: by their sizes products are told apart."""
    return len(x), prod(x.shape[2:]), weight.shape[0], prod(weight.shape[1:])


def _round(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype).to(x.dtype)


def _rounded(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    return convolve(_round(x, weight), weight.to(x.dtype), bias, geometry)


def _native(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    y = torch.convolution(x.to(weight.dtype), weight, None, *geometry.arguments).to(x.dtype)
    return y if bias is None else y.add_(bias.view(-1, *[1] * (y.dim() - 2)))


def _rounded_transposed(post: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    return transposed(_round(post, weight), weight.to(post.dtype), like, geometry)


def _native_transposed(post: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    short_post, short_like = post.to(weight.dtype), like.to(weight.dtype)
    return _backward(short_post, short_like, weight, geometry, [True, False, False])[0].to(post.dtype)


def _rounded_gradient(post: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return weight_gradient(_round(post, weight), _round(x, weight), weight.to(post.dtype), geometry)


def _native_gradient(post: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    short_post, short_x = post.to(weight.dtype), x.to(weight.dtype)
    return _backward(short_post, short_x, weight, geometry, [False, True, False])[1].to(post.dtype)


SHORT = Choice("convolution in bf16", {"rounded": _rounded, "native": _native})
SHORT_TRANSPOSED = Choice(
    "transposed convolution in bf16", {"rounded": _rounded_transposed, "native": _native_transposed}
)
SHORT_GRADIENT = Choice("convolution gradient in bf16", {"rounded": _rounded_gradient, "native": _native_gradient})
