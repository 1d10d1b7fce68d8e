"""Which layers of a network have binary weights, and how they are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onward.core import Network, Residual
from onward.core.errors import ConfigError, UnknownName, UnsupportedModule
from onward.models import models
from onward.neurons import LIF
from onward.weights import latents, weight_kinds
from onward.weights.binary import binary_of

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [6, 5, 4]},
    "layers": {"spec": "4C3-6C3s2-AP2-8-FC"},
    "feedback": {"layers": "4C3-4C3", "back": "4C3"},
    "preact-resnet18": {"width": 0.05, "blocks": [1, 1]},
    "preact-resnet18-imagenet": {"width": 0.05, "blocks": [1, 1]},
    "zosnn-linear": {"hidden": [5, 4]},
    "zosnn-conv": {},
}
TINY = {"width": 0.03, "dim": 8, "heads": 2}


def binary_layers(net: Network) -> list[str]:
    return [node.name for node in net.synapses if binary_of(node.module) is not None]


def built(name: str, weights: Any = "binary") -> Network:
    torch.manual_seed(0)
    fields = models.entry(name).config.model_fields
    options = SMALL.get(name, {key: value for key, value in TINY.items() if key in fields})
    net = models.build({"name": name, **options}, (3, 32, 32), 5, LIF)
    return weight_kinds.build(weights).apply(net)


@pytest.mark.parametrize("name", models.names())
def test_every_network_can_have_binary_weights(name: str) -> None:
    net, real = built(name), built(name, "real")
    chosen, synapses = binary_layers(net), [node.name for node in net.synapses]
    assert chosen
    assert synapses == [node.name for node in real.synapses]
    assert synapses[0] not in chosen
    assert net.synapses[-1].name not in chosen
    assert net(torch.rand(2, 2, 3, 32, 32)).isfinite().all()
    stored = dict(real.named_parameters())
    assert all(any(torch.equal(p, q) for q in stored.values()) for p in latents(net)), "seeds draw the same weights"


def test_all_but_the_outer_layers_by_default() -> None:
    assert binary_layers(built("mlp")) == ["fc2", "fc3"]
    assert binary_layers(built("layers")) == ["conv2", "fc1"]
    assert binary_layers(built("conv9")) == [f"conv{k}" for k in range(2, 9)]


def test_shortcuts_of_one_place_stay_real() -> None:
    chosen = binary_layers(built("preact-resnet18"))
    assert "block2.body.conv1" in chosen
    assert not any("shortcut" in name for name in chosen)
    square = Residual(nn.Sequential(nn.Conv2d(4, 4, 1), LIF()), nn.Conv2d(4, 4, 1, stride=1))
    net = Network(nn.Sequential(nn.Conv2d(3, 4, 3), LIF(), square, LIF(), nn.Flatten(), nn.Linear(36, 2)))
    assert binary_layers(weight_kinds.build("binary").apply(net)) == ["2.body.0", "2.shortcut"]


def test_weights_of_limited_norm_stay_real_by_default_and_are_refused_by_name() -> None:
    chosen = binary_layers(built("feedback"))
    assert chosen == ["loop.body.conv2"]
    with pytest.raises(UnsupportedModule, match=r"limited norm.*--model\.restriction none"):
        built("feedback", {"name": "binary", "layers": ["loop.back.*"]})


def test_layers_by_name_and_pattern() -> None:
    def named(*layers: str) -> list[str]:
        return binary_layers(built("mlp", {"name": "binary", "layers": layers}))

    assert named("fc1") == ["fc1"]
    assert named("fc*", "readout") == ["fc1", "fc2", "fc3", "readout"]
    with pytest.raises(UnknownName, match=r"unknown synapse 'fc9'; did you mean"):
        named("fc1", "fc9")


def test_a_network_of_outer_layers_alone_is_refused() -> None:
    net = models.build({"name": "mlp", "hidden": [5]}, (4,), 3, LIF)
    with pytest.raises(ConfigError, match=r"no layer .* --weights\.layers \(there are fc1, readout\)"):
        weight_kinds.build("binary").apply(net)


def test_a_module_that_stands_in_two_places_is_made_binary_once() -> None:
    shared = nn.Linear(4, 4)
    net = Network(nn.Sequential(nn.Linear(3, 4), LIF(), shared, LIF(), shared, LIF(), nn.Linear(4, 2)))
    weight_kinds.build("binary").apply(net)
    assert len(list(latents(net))) == 1
    assert net(torch.rand(2, 1, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "Clipped()"),
        ({"window": False}, "Straight()"),
        ({"aware": True, "centred": True}, "MagnitudeAware(inner=Clipped()), centred"),
    ],
)
def test_options_choose_parts(options: dict[str, Any], text: str) -> None:
    net = built("mlp", {"name": "binary", **options})
    assert binary_of(net.synapses[1].module).extra_repr() == f"Leading(), {text}"  # type: ignore[union-attr]
