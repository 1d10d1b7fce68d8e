"""Tiny networks, one for each thing that a topology can do, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from onward.core import Delay, Feedback, Joined, Network, Recurrent, Residual, RPReLU, Scale, Shift
from onward.core.attention import Attention, Gate, HeadSums, TokenSums, Veto
from onward.neurons import IF, LI, LIF, AdaptiveLIF, Affine, CubaLIF, HardReset, Neuron
from onward.rules import rules
from onward.surrogates import LocalZO, Triangle
from onward.weights import Binarizer, Learned, binarize, standardize

STEPS, BATCH, CLASSES, FLAT, MAPS = 6, 4, 5, (12,), (2, 6, 6)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), LIF(), nn.Linear(10, 8), LIF(), nn.Linear(8, CLASSES))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        LIF(),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def _standardized() -> nn.Module:
    return nn.Sequential(
        standardize(nn.Conv2d(2, 4, 3, padding=1)),
        LIF(),
        Scale(2.74),
        nn.AvgPool2d(3),
        nn.Flatten(),
        standardize(nn.Linear(16, 8)),
        LIF(),
        Scale(2.74),
        nn.Linear(8, CLASSES),
    )


def _binary() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(),
        binarize(nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2)),
        LIF(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        Binarizer(Learned, centred=True).apply(standardize(nn.Linear(24, 8))),
        LIF(),
        nn.Linear(8, CLASSES),
    )


def _shifted() -> nn.Module:
    stream = nn.Sequential(Shift(10), LIF(), nn.Linear(10, 10))
    net = nn.Sequential(
        nn.Linear(12, 10), RPReLU(10), Residual(stream), RPReLU(10), Shift(10), LIF(), nn.Linear(10, CLASSES)
    )
    for module in net.modules():
        if isinstance(module, Shift | RPReLU):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.05, 0.4)
    return net


def _spike_residual() -> nn.Module:
    block = Residual(nn.Sequential(nn.Linear(10, 10), LIF()))
    return nn.Sequential(nn.Linear(12, 10), LIF(), block, nn.Linear(10, CLASSES))


def _drive_residual() -> nn.Module:
    block = Residual(nn.Sequential(LIF(), nn.Linear(10, 10), LIF(), nn.Linear(10, 10)), nn.Identity())
    return nn.Sequential(nn.Linear(12, 10), block, LIF(), nn.Linear(10, CLASSES))


def _projected_residual() -> nn.Module:
    block = Residual(nn.Sequential(nn.Linear(10, 8), LIF()), nn.Sequential(nn.Linear(10, 8), LIF()))
    return nn.Sequential(nn.Linear(12, 10), LIF(), block, nn.Linear(8, 8), LIF(), nn.Linear(8, CLASSES))


def _recurrent() -> nn.Module:
    return nn.Sequential(Recurrent(nn.Linear(12, 10), LIF(), nn.Linear(10, 10)), nn.Linear(10, CLASSES))


def _feedback() -> nn.Module:
    body = nn.Sequential(LIF(), nn.Linear(10, 8), LIF())
    return nn.Sequential(Feedback(nn.Linear(12, 10), body, nn.Linear(8, 10)), nn.Linear(8, CLASSES))


def _batchnorm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 10), nn.BatchNorm1d(10), LIF(), nn.Linear(10, 8), nn.BatchNorm1d(8), LIF(), nn.Linear(8, CLASSES)
    )


def _leaky_readout() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), LIF(), nn.Linear(10, CLASSES), LI(decay=0.8))


def _spiking_output() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), LIF(), nn.Linear(10, CLASSES), LIF())


def _delayed_input() -> nn.Module:
    return nn.Sequential(Delay(2), nn.Linear(12, 10), LIF(), nn.Linear(10, CLASSES))


def _delayed_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), LIF(), Delay(1), nn.Linear(10, 8), LIF(), nn.Linear(8, CLASSES))


def _dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        LIF(),
        nn.Dropout2d(0.3),
        nn.Flatten(),
        nn.Linear(144, 8),
        LIF(),
        nn.Dropout(0.4),
        nn.Linear(8, CLASSES),
    )


def _between(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(12, 10), make(), nn.Linear(10, 8), make(), nn.Linear(8, CLASSES))


def _series() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 7), nn.Linear(7, 10), LIF(), nn.Linear(10, 8), nn.Linear(8, CLASSES))


def _transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(2, 3, 2, stride=2), LIF(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(27, CLASSES)
    )


def _spiking_conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), LIF())


def _attention() -> nn.Module:
    parts = {name: _spiking_conv(4, 4) for name in ("q", "k", "v")}
    mixer = nn.Sequential(Joined(Attention(2, 0.25), **parts), LIF(threshold=0.5), _spiking_conv(4, 4))
    return nn.Sequential(_spiking_conv(2, 4, 3), nn.AvgPool2d(3), Residual(mixer), nn.Flatten(), nn.Linear(16, CLASSES))


def _gated() -> nn.Module:
    tokens = Joined(Gate(), gate=nn.Sequential(_spiking_conv(4, 4), HeadSums(2), LIF()), k=_spiking_conv(4, 4))
    channels = nn.Sequential(Joined(Gate(), k=_spiking_conv(4, 4), v=nn.Identity()), TokenSums(), LIF())
    return nn.Sequential(
        _spiking_conv(2, 4, 3),
        nn.AvgPool2d(3),
        tokens,
        Joined(Gate(), kv=channels, q=nn.Identity()),
        Joined(Veto(), body=_spiking_conv(4, 4, 3), shortcut=nn.Identity()),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def _disturbed() -> nn.Module:
    body = _mlp()
    for module in body.modules():
        if isinstance(module, Neuron):
            module.noise = 0.3
    return body


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (_mlp, FLAT),
    "conv": (_conv, MAPS),
    "standardized": (_standardized, MAPS),
    "binary": (_binary, MAPS),
    "shifted": (_shifted, FLAT),
    "spike-residual": (_spike_residual, FLAT),
    "drive-residual": (_drive_residual, FLAT),
    "projected-residual": (_projected_residual, FLAT),
    "recurrent": (_recurrent, FLAT),
    "feedback": (_feedback, FLAT),
    "batchnorm": (_batchnorm, FLAT),
    "leaky-readout": (_leaky_readout, FLAT),
    "spiking-output": (_spiking_output, FLAT),
    "delayed-input": (_delayed_input, FLAT),
    "delayed-layer": (_delayed_layer, FLAT),
    "dropout": (_dropout, MAPS),
    "transposed": (_transposed, MAPS),
    "series": (_series, FLAT),
    "attention": (_attention, MAPS),
    "gated": (_gated, MAPS),
    "disturbed": (_disturbed, FLAT),
    "if": (_between(IF), FLAT),
    "cuba-lif": (_between(lambda: CubaLIF(LIF(learn_threshold=True), 0.3)), FLAT),
    "adaptive-lif": (_between(lambda: AdaptiveLIF(LIF(), 0.3, 0.7)), FLAT),
    "hard-reset": (_between(lambda: LIF(reset=HardReset(0.1), initial=0.1, surrogate=Triangle())), FLAT),
    "learned-threshold": (_between(lambda: LIF(decay_input=True, learn_threshold=True)), FLAT),
    "localzo": (_between(lambda: LIF(surrogate=LocalZO(samples=2), detach_reset=False)), FLAT),
    "all-knobs": (_between(lambda: Affine(0.7, 0.9, 0.05, 0.8, 1.3, ties_fire=False, detach_reset=False)), FLAT),
}

NO_RATE = {"leaky-readout", "cuba-lif", "adaptive-lif", "hard-reset"}
"""Networks whose neurons have no rate that follows from their mean drive."""


DIRECT_BELOW = {"relay-opzo"}
"""Rules whose errors come down the layers where they can, and straight to a layer where they cannot."""


def refusal(rule: dict, name: str) -> str | None:
    """The words in which `bind` refuses a network that the rule cannot train; None where it takes it."""
    traits, cyclic = rules.build(rule).traits, name in ("recurrent", "feedback")
    if traits.from_loss:
        return None
    if traits.rate:
        if name in NO_RATE:
            return "has no rate that follows from its mean drive"
        if name == "disturbed":
            return "sends noise"
        return "hears its own past" if cyclic and rule["name"] == "dsr" else None
    if name == "delayed-layer" and traits.backward == "step" and rule["name"] not in DIRECT_BELOW:
        return "every way from 1 to the output passes a delay"
    return None


PER_BATCH = {"batchnorm"}
"""Networks whose samples see each other."""


def label(rule: dict) -> str:
    """A short name for a rule and its options."""

    def text(value: object) -> str:
        if isinstance(value, dict):
            return "(" + ",".join(str(v) if k == "name" else f"{k}={text(v)}" for k, v in value.items()) + ")"
        return Path(str(value)).name

    return "-".join(text(v) for v in rule.values())


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> Network:
    """A network of the zoo with weights loud enough that every layer fires."""
    torch.manual_seed(seed)
    net = Network(ZOO[name][0]())
    for node in net.synapses:
        for key, parameter in node.module.named_parameters():
            parameter.data.mul_(1.0 if "gain" in key else 2.0)
    return net.to(dtype)


def data(
    name: str, dtype: torch.dtype = torch.float64, batch: int = BATCH, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Inputs ``[T, B, ...]`` and labels for a network of the zoo."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(steps, batch, *ZOO[name][1], generator=generator, dtype=torch.float64) * 2
    return x.to(dtype), torch.randint(CLASSES, (batch,), generator=generator)
