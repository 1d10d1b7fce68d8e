"""Recipes at published size: every row builds its network, and learns from a synthetic mini-batch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.recipes import check

from onward.comparison.rows import RecipeRow, read_recipe
from onward.core.errors import OnwardError
from onward.distil import distils
from onward.train import RunConfig, assemble, parse_tokens
from onward.train.folder import Interface
from onward.train.networks import build_network

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "full").glob("*.toml"))
SIDES = {"image-folder": 224, "cifar10": 32, "cifar100": 32}
CLASSES = {"image-folder": 1000, "cifar10": 10, "cifar100": 100}
PARAMETERS = {
    "nf-resnet34": {1000: 21_797_688},
    "nf-resnet50": {1000: 25_557_048},
    "nf-resnet101": {1000: 44_549_193},
    "vgg": {10: 9_228_362, 100: 9_274_532},
    "sltt-resnet18": {10: 11_176_906, 100: 11_223_076},
    "preact-resnet18-imagenet": {1000: 11_691_640},
    "qkformer-imagenet": {1000: 64_962_760},
    "conv5": {10: 3_922_058, 100: 4_659_428},
    "conv9": {100: 10_042_532},
}
"""Of each network and number of classes, learned thresholds of DSR's neurons left out."""


def config_of(path: Path, row: RecipeRow, *flags: str) -> RunConfig:
    return parse_tokens([str(path), *row.flags, *flags])


def configs_of(path: Path) -> list[RunConfig]:
    return [config_of(path, row) for row in read_recipe(path)[1]]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_full_recipe_says_what_it_needs_and_what_was_published(path: Path) -> None:
    recipe, rows = read_recipe(path)
    assert recipe["needs"] == "gpu"
    assert all(recipe[key] for key in ("title", "dataset", "published", "must", "seeds"))
    with pytest.raises(
        OnwardError, match=rf"{path.name} has the size that was published, and needs a GPU: add --device"
    ):
        check(path, recipe, rows, "cpu")


def test_data_that_is_not_there_is_asked_for_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    path = next(path for path in RECIPES if path.stem == "imagenet-ottt")
    recipe, rows = read_recipe(path)
    with pytest.raises(OnwardError, match=r"needs ImageNet .*, which is not there: .*looked for train and val"):
        check(path, {**recipe, "needs": "nothing"}, rows, "cpu")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_networks_have_their_published_numbers_of_parameters(path: Path) -> None:
    configs = {(config.model.name, config.neuron.name, config.weights.name): config for config in configs_of(path)}
    for config in configs.values():
        side, classes = SIDES[config.data.name], CLASSES[config.data.name]
        with torch.device("meta"):
            net = build_network(config, Interface((3, side, side), classes, 1))
        found = sum(p.numel() for name, p in net.named_parameters() if not name.endswith(".threshold"))
        assert found == PARAMETERS[config.model.name][classes]


STEPS = [(path, row) for path in RECIPES for row in read_recipe(path)[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "row"), STEPS, ids=[f"{path.stem}, {row.label}" for path, row in STEPS])
def test_a_row_learns_from_a_mini_batch(
    path: Path, row: RecipeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    classes = CLASSES[config_of(path, row).data.name]
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=rng.random((4, 3, 32, 32), dtype=np.float32), y=np.arange(4))
    data = ("--data", str(tmp_path / "noise.npz"), "--data.classes", str(classes), "--data.holdout", "0.5")
    small = ("--train.batch-size", "2", "--train.steps", "2", "--train.threads", "1")
    config = config_of(path, row, *data, *small)
    parts, _ = assemble(config.model_copy(update={"distil": distils.parse("none")}))  # its teacher is another row
    before = {name: p.detach().clone() for name, p in parts.net.named_parameters()}
    parts.net.train()
    batch = next(parts.batches(0))
    outcome = parts.run(batch, 0, parts.share(0))
    parts.update()
    assert outcome.loss.isfinite()
    assert all(p.isfinite().all() for p in parts.net.parameters())
    assert any(not torch.equal(p, before[name]) for name, p in parts.net.named_parameters())
