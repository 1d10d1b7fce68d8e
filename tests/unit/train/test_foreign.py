"""Weights of another library's ResNets: the same numbers come out, and what does not fit is told in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from onward.core import Network
from onward.core.errors import ConfigError
from onward.models import Twin, models, set_thresholds, thresholds_from_activations
from onward.neurons import Neuron, Rectifier, neurons
from onward.train import assemble, parse_tokens
from onward.train.foreign import read_foreign
from onward.train.inherit import take_over

WIDTHS, CLASSES = (8, 16, 32, 64), 5
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def norm(name: str, channels: int, draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    """A batch normalisation that has seen something."""
    return {
        f"{name}.weight": 1 + 0.2 * draw(channels),
        f"{name}.bias": 0.2 * draw(channels),
        f"{name}.running_mean": 0.2 * draw(channels),
        f"{name}.running_var": 0.5 + draw(channels).square(),
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def resnet(depth: int = 18, classes: int = CLASSES) -> dict[str, Tensor]:
    """The tensors of a ResNet by torchvision's names."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def conv(out: int, into: int, kernel: int) -> Tensor:
        return draw(out, into, kernel, kernel) * (2 / (into * kernel**2)) ** 0.5

    found = {"conv1.weight": conv(WIDTHS[0], 3, 7), **norm("bn1", WIDTHS[0], draw)}
    into = WIDTHS[0]
    for stage, (width, blocks) in enumerate(zip(WIDTHS, DEPTHS[depth], strict=True), 1):
        for number in range(blocks):
            name = f"layer{stage}.{number}"
            found |= {f"{name}.conv1.weight": conv(width, into, 3), **norm(f"{name}.bn1", width, draw)}
            found |= {f"{name}.conv2.weight": conv(width, width, 3), **norm(f"{name}.bn2", width, draw)}
            if into != width:
                found |= {f"{name}.downsample.0.weight": conv(width, into, 1)}
                found |= norm(f"{name}.downsample.1", width, draw)
            into = width
    return {**found, "fc.weight": 0.3 * draw(classes, into), "fc.bias": draw(classes)}


def forward(w: dict[str, Tensor], x: Tensor, depth: int = 18) -> Tensor:
    """He et al. 2016, written out."""

    def bn(name: str, h: Tensor) -> Tensor:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scaled = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    h = bn("bn1", F.conv2d(x, w["conv1.weight"], stride=2, padding=3)).relu()
    h = F.max_pool2d(h, 3, 2, 1)
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        for number in range(blocks):
            name, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            body = bn(f"{name}.bn1", F.conv2d(h, w[f"{name}.conv1.weight"], stride=stride, padding=1)).relu()
            body = bn(f"{name}.bn2", F.conv2d(body, w[f"{name}.conv2.weight"], padding=1))
            if f"{name}.downsample.0.weight" in w:
                h = bn(f"{name}.downsample.1", F.conv2d(h, w[f"{name}.downsample.0.weight"], stride=stride))
            h = (body + h).relu()
    return F.linear(h.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def built(
    name: str = "postact-resnet18-imagenet", classes: int = CLASSES, neuron: Callable[[], Neuron] = Rectifier
) -> Network:
    return models.build({"name": name, "width": 0.125}, (3, 64, 64), classes, neuron).double()


@pytest.mark.parametrize("depth", [18, 34])
def test_a_network_of_rectifiers_computes_what_the_foreign_one_did(depth: int) -> None:
    weights, net = resnet(depth), built(f"postact-resnet{depth}-imagenet").eval()
    take_over(weights, net)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(net(x[None])[0], forward(weights, x, depth), rtol=1e-11, atol=1e-11)


def test_spikes_say_what_rectifiers_said_where_thresholds_follow_their_activations() -> None:
    """Converted: neurons whose spikes are as high as their thresholds, here the largest activations."""
    weights, net = resnet(), built(neuron=lambda: neurons.build({"name": "dsr-if"})).eval()
    take_over(weights, net)
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tops = thresholds_from_activations(Twin(net), [x], 100.0)
    heights: list[tuple[str, Any]] = [(node.name, node.module) for node in net.neurons]
    set_thresholds(net, {name: tops[name] / neuron.height_share for name, neuron in heights})
    told, said = net(x.expand(32, *x.shape)).mean(0).flatten(), forward(weights, x).flatten()
    assert torch.corrcoef(torch.stack([told, said]))[0, 1] > 0.95


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "old.pt", "wrapped.pt", "parallel.pt"])
def test_files_of_every_kind_hold_the_same(name: str, tmp_path: Path) -> None:
    weights, path = resnet(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        held = {f"module.{key}": value for key, value in weights.items()} if name == "parallel.pt" else weights
        whole = {"model": held, "epoch": 3} if name == "wrapped.pt" else held
        torch.save(whole, path, _use_new_zipfile_serialization=name != "old.pt")
    found = read_foreign(path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_our_own_names_and_missing_counters_are_taken_too() -> None:
    first, second = built(), built()
    take_over(resnet(), first)
    own = {name: t.float() for name, t in first.state_dict().items() if not name.endswith("num_batches_tracked")}
    take_over(own, second)
    given = second.state_dict()
    assert all(torch.equal(given[name].float(), tensor) for name, tensor in own.items())


@pytest.mark.parametrize(
    ("weights", "net", "says"),
    [
        (resnet, lambda: built(classes=4), r"readout\.\w+ is float64 \[5\b.*; expected float64 \[4\b"),
        (lambda: {**resnet(), "aux.weight": torch.ones(1)}, built, r"it has besides aux\.weight"),
        (lambda: {"0.weight": torch.ones(1)}, built, r"it lacks block1\.body\.conv1\.weight"),
        (resnet, lambda: built("postact-resnet18"), r"conv1\.weight is float64 \[8, 3, 7, 7\]; expected"),
    ],
)
def test_what_does_not_fit_is_named(weights, net, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"does not fit this network: .*{says}.*postact-resnet18-imagenet"):
        take_over(weights(), net())


@pytest.mark.parametrize("name", ["sew-resnet18-imagenet", "postact-resnet34-imagenet"])
def test_the_same_names_elsewhere_are_no_fit(name: str) -> None:
    """Spike-element-wise blocks have tensors of the same names and shapes, and add behind their last neurons."""
    with pytest.raises(ConfigError, match=r"a ResNet of 8 blocks by torchvision's names, .* stand elsewhere"):
        take_over(resnet(), built(name))


def test_a_file_that_holds_more_than_tensors_runs_nothing(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "lr": 0.1}, tmp_path / "more.pt")
    with pytest.raises(ConfigError, match="more than tensors by name"):
        read_foreign(tmp_path / "more.pt")
    torch.save({"net": Rectifier()}, tmp_path / "module.pt")
    with pytest.raises(ConfigError, match=r"cannot be read .* expected tensors by name and nothing else"):
        read_foreign(tmp_path / "module.pt")
    for name in ("junk.pt", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ConfigError, match="cannot be read"):
            read_foreign(tmp_path / name)
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"ends in \.npz was given; expected \.safetensors, \.pt, \.pth or \.nir"):
        read_foreign(tmp_path / "w.npz")


def test_a_run_starts_from_a_file_with_thresholds_from_its_activations(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "resnet.pt"
    np.savez(tmp_path / "d.npz", x=rng.random((8, 3, 32, 32), dtype=np.float32), y=np.arange(8) % CLASSES)
    torch.save({name: t.float() if t.is_floating_point() else t for name, t in resnet().items()}, path)
    flags = ["--data", str(tmp_path / "d.npz"), "--model", "postact-resnet18-imagenet", "--model.width", "0.125"]
    flags += ["--neuron", "dsr-if", "--rule", "opzo-gaussian", "--rule.spatial.alpha", "0.15"]
    flags += ["--train.init-from", str(path), "--train.init-thresholds", "99.9", "--train.steps", "2"]
    parts, _ = assemble(parse_tokens([*flags, "--train.batch-size", "4"]))
    assert torch.equal(parts.net.get_parameter("readout.bias"), resnet()["fc.bias"].float())
    assert parts.net.get_parameter("block8.body.neuron1.threshold").item() != 1.0
    assert "sha256" in parts.data_record()["train.init_from"]
    parts.net.train()
    parts.run(next(parts.batches(0)), 0, parts.share(0))
    parts.update()
    assert parts.net.get_parameter("readout.bias").isfinite().all()
    with pytest.raises(ConfigError, match=r"--train\.init-from .*resnet\.pt: the file holds a ResNet of 8 blocks"):
        assemble(parse_tokens([*flags, "--model.blocks", "1", "1", "1", "1"]))
