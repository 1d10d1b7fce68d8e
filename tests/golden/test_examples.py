"""The checker on cases of the known layouts that no stored file has, made by plain loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from golden import examples
from golden.cases import read
from golden.examples import Plain
from golden.report import Row, check

_ROLES = ("bn1", "conv1", "lif1", "bn2", "conv2", "lif2")


def _blocks(style: str, neuron: str = "lif") -> dict[str, str]:
    named = {f"{b}{role}": style.format(b, role.replace("lif", neuron)) for b in (1, 2) for role in _ROLES}
    return {**named, "2shortcut": style.format(2, "shortcut")}


NAMES = {
    "dotted": {"stem": "stem", "bn": "bn", "lif": "lif", "fc": "fc", **_blocks("block{}.{}")},
    "authors": {"stem": "conv1", "bn": "bn1", "lif": "relu1", "fc": "linear", **_blocks("layer{}.0.{}", "relu")},
    "underscored": {"stem": "stem", "bn": "bn_f", "lif": "lif_f", "fc": "fc", **_blocks("b{}_{}")},
    "joined": {
        "stem": "stem",
        "bn": "bn",
        "lif": "lif",
        "fc": "fc",
        **_blocks("block{}.{}"),
        "2shortcut": "block2.conv_sc",
    },
    "numbered": {
        **{"stem": "conv", "bn": "bn", "lif": "lif", "fc": "fc", "2shortcut": "shortcut2"},
        **{f"{b}{kind}{i}": f"{kind}{b}_{i}" for b in (1, 2) for kind in ("bn", "conv", "lif") for i in (1, 2)},
    },
    "flat": {
        **{"stem": "conv0", "bn": "bn5", "lif": "lif5", "fc": "fc", "2shortcut": "shortcut2"},
        **{f"{b}{kind}{i}": f"{kind}{2 * b - 2 + i}" for b in (1, 2) for kind in ("bn", "conv", "lif") for i in (1, 2)},
    },
}
SUBSETS = {"sltt_k1": [2], "sltt_k3": [4, 0, 1]}


Make = Callable[[Path, str], None]
"""Writes a case of the given name, from random numbers, to the given path."""


def _write(path: Path, case: str, make: Make) -> Row:
    """The first seed whose potentials keep their distance from the threshold."""
    for seed in range(100):
        torch.manual_seed(seed)
        try:
            make(path, case)
        except examples.TooNear:
            continue
        return check(path)
    raise AssertionError("no seed keeps its distance from the threshold")


def _assert_passes(row: Row) -> None:
    assert row.state == "pass", "\n".join([str(row), *row.details()])


def _sltt_preactivation(names: dict[str, str], widths: tuple[int, ...], kernel: int, **settings: Any) -> Make:
    config = {"arch": "preact", "tau": 1.1, "v_threshold": 1.0, "surrogate": ["triangle", 1.0], "classes": 5}
    strides = (1, 2)
    config |= {"Ks": [1, 3], "static_input": False, "loss_lambda": 0.0, **settings}
    fed = [names[role] for role in ("stem", "1conv1", "1conv2", "2conv1", "2conv2", "2shortcut")]
    config["zero_gradient_params"] = [f"{name}.bias" for name in fed]

    def make(path: Path, case: str) -> None:
        params = examples.preactivation_params(names, widths, 2 if kernel else 12, kernel)
        x, y = 2 * torch.rand(5, 4, *((2, 8, 8) if kernel else (12,))), torch.randint(0, 5, (4,))
        chosen = {name.removeprefix("sltt_"): torch.tensor(steps) for name, steps in SUBSETS.items()}
        inputs = {"x": x, "y": y, **{f"subset_{k}": steps for k, steps in chosen.items()}}
        step = examples.preactivation(names, strides)
        examples.write(
            path,
            case,
            config,
            inputs,
            params,
            lambda x: examples.sltt_results(step, config, params, x, y, SUBSETS),
        )

    return make


@pytest.mark.parametrize("style", NAMES)
def test_preactivation_networks_by_any_naming(tmp_path: Path, style: str):
    make = _sltt_preactivation(NAMES[style], (4, 4, 6), kernel=3)
    _assert_passes(_write(tmp_path / "case.safetensors", "sltt/preactivation", make))


def test_preactivation_network_of_linear_layers(tmp_path: Path):
    names = {role: name.replace("conv", "fc") for role, name in NAMES["dotted"].items()}
    make = _sltt_preactivation(names, (9, 9, 7), kernel=0, tau=2.0, loss_lambda=0.05, loss_means=1.0)
    _assert_passes(_write(tmp_path / "case.safetensors", "sltt/residual_mlp", make))


def test_preactivation_network_with_hard_reset(tmp_path: Path):
    settings = {"tau": 1.5, "v_reset": -0.1, "decay_input": True, "surrogate": ["atan", 2.0]}
    make = _sltt_preactivation(NAMES["dotted"], (4, 4, 6), kernel=3, **settings)
    _assert_passes(_write(tmp_path / "case.safetensors", "sltt/hard", make))


def test_preactivation_network_under_bptt(tmp_path: Path):
    """The same network in the layout of the bptt cases, whose layer list cannot say how a block is wired."""
    names = NAMES["dotted"]
    _write(tmp_path / "sltt.safetensors", "sltt/blocks", _sltt_preactivation(names, (4, 4, 6), kernel=3))
    case = read(tmp_path / "sltt.safetensors")
    layers = [["stem", "conv", 2, 4, 3, 1, 1, False], ["block1", "preact", 4, 4, 1], ["block2", "preact", 4, 6, 2]]
    config = {"layers": layers, "lif": {key: case.config[key] for key in ("tau", "v_threshold")}, "losses": ["stepce"]}
    config |= {"surrogates": {"tent": ["triangle", 1.0]}, "classes": 5, "merged_time_batch": False}
    config["zero_gradient_params"] = case.config["zero_gradient_params"]
    place = {".bptt.grad.": ".grad.tent.nodetach.stepce.", ".bptt.loss": ".loss.stepce"}
    tensors = {_moved(name, place): value for name, value in case.tensors.items() if ".sltt" not in name}
    save_file(tensors, tmp_path / "bptt.safetensors", metadata={"case": "bptt/blocks", "config": json.dumps(config)})
    _assert_passes(check(tmp_path / "bptt.safetensors"))


def _moved(name: str, place: dict[str, str]) -> str:
    return next((name.replace(old, new) for old, new in place.items() if old in name), name)


def _conv(net: Plain, x: Tensor) -> Tensor:
    x = 2.74 * net.neuron("lif1", net.synapse("conv1", x))
    x = F.avg_pool2d(2.74 * net.neuron("lif2", net.synapse("conv2", x, stride=2)), 2)
    x = 2.74 * net.neuron("lif3", net.synapse("conv3", x))
    return net.synapse("fc", F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(
    "settings",
    [
        {"neuron": "lif", "tau": 3.0, "v_reset": -0.2, "decay_input": True},
        {"neuron": "if", "tau": None, "v_threshold": 1.5},
        {"neuron": "lif", "tau": 2.0, "surrogate": ["atan", 2.0], "loss_lambda": 0.001, "static_input": True},
    ],
    ids=["hard-reset", "if", "static"],
)
def test_ottt_follows_its_settings(tmp_path: Path, settings: dict[str, Any]):
    config = {"arch": "conv", "conv_cfg": [3, "S", 4, "M", 5], "fc_hw": 1, "scale": None, "modes": ["A"], "classes": 5}
    config |= {"v_threshold": 1.0, "surrogate": ["sigmoid", 4.0], "static_input": False, "loss_lambda": 0.0, **settings}

    def make(path: Path, case: str) -> None:
        shapes = {"conv1": (3, 2, 3, 3), "conv2": (4, 3, 3, 3), "conv3": (5, 4, 3, 3), "fc": (5, 5)}
        params = {}
        for name, (out, into, *kernel) in shapes.items():
            layer = nn.Conv2d(into, out, 3) if kernel else nn.Linear(into, out)
            params |= {f"{name}.{leaf}": 2 * p.detach() for leaf, p in layer.named_parameters()}
        x, y = 2 * torch.rand(4, 3, 2, 8, 8), torch.randint(0, 5, (3,))
        x = x[:1].repeat(4, 1, 1, 1, 1) if config["static_input"] else x
        examples.write(
            path,
            case,
            config,
            {"x": x, "y": y},
            params,
            lambda x: examples.ottt_results(_conv, config, params, x, y),
        )

    _assert_passes(_write(tmp_path / "case.safetensors", "ottt/strided", make))
