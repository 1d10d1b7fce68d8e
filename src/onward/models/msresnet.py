"""Membrane-shortcut ResNets (Hu et al. 2021): the residual path carries membrane input, real numbers, never spikes.

    m' = shortcut(m) + BN(conv(LIF(BN(conv(LIF(m))))))

The shortcut is m itself, or BN(conv1x1(average pooling(m))) where the shape changes. Norms start with the neurons'
threshold as scale, a block's last one with 0, so that blocks start as the identity. For ImageNet, the stem is a
convolution of 7 x 7 and the first stage halves sides too. Published with LIF neurons of decay 0.25, threshold 0.5 and a
hard reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from onward.core.network import Network
from onward.models.layers import Stack, Style
from onward.models.registry import MakeNeuron, models
from onward.models.stages import DEPTHS, FILTERS, ResidualOptions, add_block, changes, start_norm
from onward.models.thresholds import threshold_of


class MSOptions(ResidualOptions):
    """Options of an MS-ResNet for small images."""

    @property
    def stem(self) -> tuple[int, int]:
        """Kernel and stride of the first convolution."""
        return 3, 1


class MSImageNetOptions(MSOptions):
    """Options of an MS-ResNet for ImageNet."""

    @property
    def stem(self) -> tuple[int, int]:
        """See `MSOptions.stem`."""
        return 7, 2

    def places(self) -> Iterator[tuple[int, int]]:
        """Filters and stride of every block; the first halves sides, as a pooling would."""
        (filters, _), *others = super().places()
        yield filters, 2
        yield from others


def _add(stack: Stack, filters: int, stride: int) -> None:
    """A block at the end of ``stack``."""

    def fill(body: Stack) -> None:
        body.fire()
        body.append("conv", body.conv(filters, 3, stride))
        _normalise(body)
        body.fire()
        body.append("conv", body.conv(filters, 3))
        body.normalise()
        start_norm(body.layers, "norm2", scale=0)

    def project(shortcut: Stack) -> None:
        if stride != 1:
            shortcut.pool("AP", stride)
        shortcut.append("conv", shortcut.conv(filters, 1))
        _normalise(shortcut)

    add_block(stack, fill, project if changes(stack, filters, stride) else None)


def _normalise(stack: Stack) -> None:
    stack.normalise()
    start_norm(stack.layers, "norm1", scale=threshold_of(stack.neuron()))


def _build(choice: MSOptions, features: tuple[int, ...], classes: int, neuron: MakeNeuron) -> Network:
    stack = Stack(features, classes, neuron, Style("batch", bias=False))
    stack.append("conv", stack.conv(choice.filters(FILTERS), *choice.stem))
    _normalise(stack)
    for filters, stride in choice.places():
        _add(stack, filters, stride)
    stack.fire()
    stack.adaptive_pool(1)
    return Network(stack.readout())


for _depth, _blocks in DEPTHS.items():
    for _kind, _options, _images in (("", MSOptions, "CIFAR"), ("-imagenet", MSImageNetOptions, "ImageNet")):
        models.register(
            f"ms-resnet{_depth}{_kind}",
            _options,
            _build,
            f"membrane-shortcut ResNet-{_depth} for {_images}",
            defaults={"blocks": _blocks},
        )
