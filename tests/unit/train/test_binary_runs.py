"""Runs with binary weights: two stages, sign flips, decay and bounds, packing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from onward._tensors import CheckpointError, packed
from onward.cli import USER_ERROR, main
from onward.core import Network
from onward.core.errors import ConfigError
from onward.core.synapse import effective
from onward.export import pack_run, read_packed
from onward.neurons import LIF
from onward.optim import parameter_groups
from onward.train import RunFolder, assemble, fit, load_network, memory, parse_tokens, resume
from onward.train.flips import Flips
from onward.train.folder import DATA
from onward.train.inherit import hand_over
from onward.weights import Binarizer, Learned, binarize, latents
from onward.weights.binary import binary_of, latent_of
from reference.runs import cut, straight

TWO = ["--model.hidden", "16", "12", "--rule", "bptt", "--optim.lr", "0.05", "--train.epochs", "2"]
BINARY = ["--weights", "binary"]


@pytest.fixture(autouse=True)
def _no_meter_no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def flags(tokens: list[str]) -> list[str]:
    return [*tokens, *TWO]


def run_of(flags: list[str]) -> RunFolder:
    return RunFolder(Path(straight(flags).run))


def test_stage_two_starts_from_the_weights_of_stage_one(flags: list[str]) -> None:
    first = run_of(flags)
    parts, _ = assemble(parse_tokens([*flags, *BINARY, "--train.init-from", str(first.path)]))
    source = load_network(first, "cpu").state_dict()
    assert torch.equal(next(latents(parts.net)), source["fc2.weight"])
    for name in ("fc1.weight", "fc2.bias", "readout.weight"):
        assert torch.equal(parts.net.state_dict()[name], source[name])
    assert parts.flips.since() == {"fc2": 0.0}


def test_a_learned_scale_starts_from_the_weights_of_stage_one(flags: list[str]) -> None:
    first = run_of(flags)
    learned = [*flags, *BINARY, "--weights.scale", "learned"]
    parts, _ = assemble(parse_tokens([*learned, "--train.init-from", str(first.path)]))
    expected = load_network(first, "cpu").get_parameter("fc2.weight").abs().mean(1)
    name = "fc2.parametrizations.weight.0.scale.alpha"
    assert torch.equal(parts.net.get_parameter(name), expected)
    second = run_of([*learned, "--train.init-from", str(first.path)])
    third, _ = assemble(parse_tokens([*learned, "--train.init-from", str(second.path)]))
    assert torch.equal(third.net.get_parameter(name), load_network(second, "cpu").get_parameter(name))
    assert not torch.equal(third.net.get_parameter(name), expected)


@pytest.mark.parametrize("norm", ["batch", "ws"])
def test_norms_and_gains_are_handed_over(flags: list[str], norm: str) -> None:
    normed = [*flags, "--model.norm", norm]
    first = run_of(normed)
    parts, _ = assemble(parse_tokens([*normed, *BINARY, "--train.init-from", str(first.path)]))
    source, found = load_network(first, "cpu").state_dict(), parts.net.state_dict()
    shared = [name for name in source if name in found]
    assert len(shared) > 5
    assert all(torch.equal(source[name], found[name]) for name in shared)


def test_a_run_can_start_from_one_of_its_own_kind(flags: list[str]) -> None:
    first = run_of(flags)
    parts, _ = assemble(parse_tokens([*flags, "--train.init-from", str(first.path), "--seed", "9"]))
    source = load_network(first, "cpu").state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in parts.net.state_dict().items())


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (["--model.hidden", "16", "11"], r"fc2\.weight is float32 \[12, 16\]; expected float32 \[11, 16\]"),
        (["--model.hidden", "16"], r"it has besides fc2\.bias, fc2\.weight"),
        (["--model.norm", "batch"], r"it lacks norm1\.bias"),
        (["--model.norm", "ws"], r"fc1 computed with a plain weight there, .* made by Standardized here"),
        (["--neuron.learn-threshold", "true"], r"it lacks neuron1\.threshold"),
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str], other: list[str], says: str) -> None:
    first = run_of(flags)
    with pytest.raises(ConfigError, match=rf"--train\.init-from .*{says}"):
        assemble(parse_tokens([*flags, *other, "--train.init-from", str(first.path)]))


def test_latent_weights_are_no_real_ones(flags: list[str]) -> None:
    """Also where standardised weights would make the names the same."""
    for norm in ("none", "ws"):
        first = run_of([*flags, *BINARY, "--model.norm", norm])
        with pytest.raises(ConfigError, match=r"fc2 computed with a weight that is made by .*Binary there"):
            assemble(parse_tokens([*flags, "--model.norm", norm, "--train.init-from", str(first.path)]))


def test_no_run_to_start_from(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--train\.init-from .*nowhere: there is no such folder"):
        assemble(parse_tokens([*flags, "--train.init-from", str(tmp_path / "nowhere")]))
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        assemble(parse_tokens([*flags, "--train.init-from", str(tmp_path)]))


def test_networks_are_handed_over_by_name() -> None:
    def make(second: nn.Module) -> Network:
        return Network(nn.Sequential(nn.Linear(4, 3), LIF(), second, LIF(), nn.Linear(3, 2)))

    source, net = make(nn.Linear(3, 3)), make(Binarizer(Learned).apply(nn.Linear(3, 3)))
    hand_over(source, net)
    assert torch.equal(next(latents(net)), source.get_parameter("2.weight"))
    signs = torch.where(source.get_parameter("2.weight") >= 0, 1.0, -1.0)
    expected = signs * source.get_parameter("2.weight").abs().mean(1, keepdim=True)
    assert torch.equal(effective(net.synapses[1].module)["weight"], expected)


def test_a_changed_source_needs_force(flags: list[str]) -> None:
    first = run_of(flags)
    run = cut([*flags, *BINARY, "--train.init-from", str(first.path)], 2)
    record = json.loads((run / DATA).read_text())["train.init_from"]
    assert len(record["sha256"]) == 64
    resume(first.path, ["--train.epochs", "3"], force=True)
    with pytest.raises(ConfigError, match=rf"the file of train\.init_from has changed .*{record['sha256'][:8]}, now"):
        resume(run)
    resume(run, force=True)


def test_a_trained_run_needs_its_source_no_more(flags: list[str]) -> None:
    first = run_of(flags)
    second = run_of([*flags, *BINARY, "--train.init-from", str(first.path)])
    shutil.rmtree(first.path)
    assert load_network(second, "cpu")(torch.rand(2, 1, 12)).isfinite().all()
    pack_run(second)


def test_flips_count_signs_since_the_last_look() -> None:
    layer = binarize(nn.Linear(4, 5))
    net = Network(nn.Sequential(nn.Linear(3, 4), LIF(), layer, LIF(), nn.Linear(5, 2)))
    flips, weight = Flips(net), next(latents(net))
    assert sum(buffer.nbytes for buffer in flips.buffers()) == 3
    weight.data[2, 1] *= -1
    weight.data[0, 3] *= -1
    weight.data[0, 0] *= 0.5
    assert flips.since() == {"2": pytest.approx(0.1)}
    assert flips.since() == {"2": 0.0}
    assert Flips(Network(nn.Sequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2)))).since() == {}


def test_flips_are_in_the_metrics(flags: list[str]) -> None:
    lines = list(run_of([*flags, *BINARY]).metrics())
    assert all(0 <= line["flips"]["fc2"] < 1 for line in lines)
    assert any(line["flips"]["fc2"] > 0 for line in lines)
    assert all(line["flips"] == {} for line in run_of(flags).metrics())


def test_latent_weights_never_decay() -> None:
    net = nn.Sequential(nn.Linear(4, 3), Binarizer(Learned).apply(nn.Linear(3, 3)))
    for decay_all in (False, True):
        groups = {g["name"]: g for g in parameter_groups(net, nn.Identity(), 0.1, decay_all)}
        assert groups["latents"]["weight_decay"] == 0
        assert groups["latents"]["params"] == list(latents(net))
        assert [tuple(p.shape) for p in groups["weights"]["params"]] == [(3, 4)]
        assert {tuple(p.shape) for p in groups["exempt"]["params"]} == {(3,)}


@pytest.mark.parametrize("rule", ["bptt", "mezo"])
def test_latent_weights_stay_within_their_bound(flags: list[str], rule: str) -> None:
    parts, resolved = assemble(parse_tokens([*flags, *BINARY, "--weights.bound", "0.05", "--rule", rule]))
    fit(parts, resolved.train)
    assert next(latents(parts.net)).detach().abs().max() == pytest.approx(0.05)
    assert parts.net.get_parameter("fc1.weight").abs().max() > 0.1


@pytest.mark.parametrize("rule", [["ottt"], ["ottt", "--rule.schedule", "step"], ["sltt"], ["opzo"], ["dsr"]])
def test_rules_move_latents_and_leave_two_values(flags: list[str], rule: list[str]) -> None:
    """Accumulated and at every step."""
    online = [*flags, *BINARY, "--rule", *rule, "--train.epochs", "1"]
    parts, resolved = assemble(parse_tokens(online))
    before = next(latents(parts.net)).detach().clone()
    fit(parts, resolved.train)
    module = parts.net.synapses[1].module
    assert binary_of(module) is not None
    assert not torch.equal(latent_of(module), before)
    assert all(len(row.abs().unique()) == 1 for row in effective(module)["weight"].detach())


@pytest.fixture
def packable(flags: list[str]) -> RunFolder:
    return run_of([*flags, *BINARY])


def test_a_packed_run_gives_the_same_outputs(packable: RunFolder, tmp_path: Path) -> None:
    found = pack_run(packable, tmp_path / "small.safetensors")
    x = torch.rand(4, 5, 12)
    assert torch.equal(read_packed(tmp_path / "small.safetensors")(x), load_network(packable, "cpu")(x))
    latent_bytes, bits = 16 * 12 * 4, 16 * 12 // 8 + 12 * 4
    assert found.before - found.after == latent_bytes - bits
    assert [layer.binary for layer in found.layers] == [False, True, False]


def test_the_command_packs(packable: RunFolder, capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert main(["pack", str(packable.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert Path(told["file"]).is_file()
    assert told["layers"][1]["packed"] == 24 + 48 + 48
    assert main(["pack", str(packable.path)]) == 0
    assert "192 additions" in capsys.readouterr().out
    assert main(["pack", str(run_of(flags).path)]) == USER_ERROR
    assert "nothing to pack; train one with --weights binary" in capsys.readouterr().err


def test_a_packed_file_is_tested_as_its_run_is(
    packable: RunFolder, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same accuracy, loss and members, without the run's folder; where the data are is for whoever reads to say."""
    path, data = tmp_path / "small.safetensors", ["--data.file", str(data_file)]
    pack_run(packable, path)
    told = []
    for place in (packable.path, path):
        assert main(["eval", str(place), "--members", *data, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out.strip().splitlines()[-1]))
    assert told[0]["test_loss"] == pytest.approx(told[1]["test_loss"], rel=1e-6)  # scales are multiplied in last
    for key in ("data", "samples", "test_accuracy", "interval", "rates", "members"):
        assert told[0][key] == told[1][key]
    assert told[1]["run"] == str(path)
    assert str(data_file) not in path.read_bytes().decode(errors="replace")
    assert main(["eval", str(path)]) == USER_ERROR
    assert main(["eval", str(data_file), *data]) == USER_ERROR
    assert "announces a header of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"name": "mlp", "hidden": [10**12]}, "does not hold the network that it describes"),
        ({"name": "mlp", "hidden": [10**18, 10**18]}, "describes no network"),
        ({"name": "spikformer", "blocks": 10**9}, "describes a network of more than"),
    ],
)
def test_a_packed_file_cannot_ask_for_more_than_it_holds(tmp_path: Path, model: dict, says: str) -> None:
    path = tmp_path / "bomb.safetensors"
    told = {"format": 1, "model": model, "neuron": "lif", "weights": "real", "features": [3, 8, 8], "classes": 3}
    path.write_bytes(packed({"x": torch.zeros(1)}, {"onward.packed": json.dumps(told)}))
    with pytest.raises(CheckpointError, match=says):
        read_packed(path)


def test_packed_files_are_checked(packable: RunFolder, tmp_path: Path) -> None:
    path = Path(pack_run(packable).file)
    with pytest.raises(ConfigError, match="there is no such file; expected a file that `onward pack` wrote"):
        read_packed(tmp_path / "none")
    told = {"format": 1, "model": {"name": "mlp", "hidden": [16, 12]}, "neuron": "lif", "weights": "binary"}
    told |= {"features": [12], "classes": 3}

    def refused(about: dict | str, says: str) -> None:
        text = about if isinstance(about, str) else json.dumps(about)
        path.write_bytes(packed({"x": torch.zeros(1)}, {"onward.packed": text}))
        with pytest.raises(CheckpointError, match=says):
            read_packed(path)

    refused("[", "does not say which network it holds")
    refused("3", "does not say which network it holds")
    refused({**told, "format": 2}, "of another format than 1")
    refused({**told, "model": "os:system"}, "unknown model 'os:system'")
    refused({**told, "classes": 0}, "classes")
    refused({**told, "code": "x"}, "code")
    refused(told, "it lacks fc1")
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        read_packed(path)
    with pytest.raises(CheckpointError, match="cannot be written"):
        pack_run(packable, tmp_path / "nowhere" / "x")
