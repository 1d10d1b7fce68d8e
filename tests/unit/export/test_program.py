"""Programs of torch.export: every spike, the same bits once read back, without Onward, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward import cli
from onward._tensors import CheckpointError
from onward.core import Frames, Network
from onward.core.errors import UnsupportedModule
from onward.core.run import outputs
from onward.export.program import InferenceStep, run, write_program
from onward.export.purpose import Purpose
from onward.neurons import LIF, HardReset, Neuron
from onward.testing.zoo import CLASSES, FLAT, MAPS, STEPS, make

NETS = {
    **dict.fromkeys(("mlp", "shifted", "drive-residual", "recurrent", "feedback", "leaky-readout", "cuba-lif"), FLAT),
    **dict.fromkeys(("delayed-layer", "adaptive-lif", "learned-threshold", "batchnorm", "all-knobs"), FLAT),
    **dict.fromkeys(("standardized", "binary", "dropout", "gated"), MAPS),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "network.pt2"


def purpose(features: tuple[int, ...]) -> Purpose:
    return Purpose(features=features, classes=CLASSES, heads=1, steps=STEPS)


@torch.no_grad()
def program_outputs(file: Path, x: Tensor) -> Tensor:
    """What a file makes of ``x`` ``[T, B, ...]``, in nothing but torch."""
    extra = {"onward.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    states = [torch.full((x.shape[1], *s["shape"]), s["initial"]) for s in json.loads(extra["onward.json"])["states"]]
    outs = []
    for frame in x:
        out, states = program(frame, states)
        outs.append(out)
    return torch.stack(outs)


@pytest.mark.parametrize("name", NETS)
def test_a_step_fires_as_the_network_does(name: str) -> None:
    found = run.check_network(make(name), purpose(NETS[name]), name)
    assert found.agreed == found.states
    assert found.spikes > 0


@pytest.mark.parametrize(("name", "batch"), [("mlp", 1), ("recurrent", 5)])
def test_a_file_is_the_network_for_any_batch(name: str, batch: int, file: Path) -> None:
    net = make(name)
    told = write_program(file, net, purpose(NETS[name]))
    assert told.agreement.first is None
    x = torch.rand(STEPS, batch, *NETS[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat(list(outputs(net.float().eval(), Frames(x), chunk=1)))
    torch.testing.assert_close(program_outputs(file, x), expected)


def test_the_file_describes_itself(file: Path) -> None:
    net = Network(nn.Sequential(nn.Linear(12, 4), LIF(reset=HardReset(-0.5), initial=-0.5), nn.Linear(4, CLASSES)))
    write_program(file, net, purpose(FLAT))
    extra = {"onward.json": ""}
    torch.export.load(file, extra_files=extra)
    told = json.loads(extra["onward.json"])
    assert told["input"] == {"shape": [12], "dtype": "float32"}
    assert told["states"] == [{"name": "1.membrane", "shape": [4], "initial": -0.5}]
    assert (told["steps"], told["outputs"]) == (STEPS, CLASSES)


@pytest.mark.slow
def test_it_runs_without_onward(file: Path) -> None:
    write_program(file, make("mlp"), purpose(FLAT))
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module(); "
        "out, states = program(torch.ones(2, 12), [torch.zeros(2, 10), torch.zeros(2, 8)]); "
        "print(tuple(out.shape), len(states), 'onward' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == f"(2, {CLASSES}) 2 False"


class Strange(nn.Module):
    """Asks about values while it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > -1e9 else -x


ABSTRACT = ("start", "scan", "unroll", "parameter_grads", "after_reset")
Odd: Any = type("Odd", (Neuron,), {"decay": 0.0, "spiking": False, **dict.fromkeys(ABSTRACT)})
"""A neuron of one's own, of which no program is made."""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (nn.Sequential(nn.Linear(12, CLASSES), Odd()), "1 is Odd, of which no program is made"),
        (nn.Sequential(Strange(), nn.Linear(12, CLASSES)), "torch.export cannot follow the network"),
    ],
)
def test_what_cannot_be_written_is_refused(body: nn.Module, words: str, file: Path) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        write_program(file, Network(body), purpose(FLAT))
    assert not file.exists()


def test_noise_and_heads_are_refused(file: Path) -> None:
    net = make("mlp")
    with pytest.raises(UnsupportedModule, match="2 heads"):
        write_program(file, net, purpose(FLAT).model_copy(update={"heads": 2}))
    module: Any = net.neurons[0].module
    module.test_noise = 0.1
    with pytest.raises(UnsupportedModule, match="noise"):
        InferenceStep(net, FLAT)


def test_a_file_that_does_otherwise_is_deleted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = run.load

    def spoilt(path: Path) -> Any:
        program = loaded(path)
        next(iter(program.state_dict.values())).add_(1)
        return program

    monkeypatch.setattr(run, "load", spoilt)
    with pytest.raises(CheckpointError, match="another at step 0 once read back; it was deleted"):
        write_program(file, make("mlp"), purpose(FLAT))
    assert not file.exists()


def test_a_step_that_fires_otherwise_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make("mlp")
    other = Network(nn.Sequential(nn.Linear(12, 10), LIF(3.0), nn.Linear(10, 8), LIF(3.0), nn.Linear(8, CLASSES)))
    step = InferenceStep(other, FLAT)
    monkeypatch.setattr(run, "InferenceStep", lambda net, features: step)
    with pytest.raises(CheckpointError, match="does not fire as the network does: neuron"):
        write_program(file, net, purpose(FLAT))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.hidden", "16", "--train.epochs", "1", "--train.steps", "4", "--train.out", str(tmp_path / "run")]
    assert cli.main(["train", *flags, "--data.limit", "256", "--data.limit-test", "64", "--json"]) == 0
    capsys.readouterr()
    (run_folder,) = {path.parent for path in tmp_path.rglob("config.toml")}
    assert cli.main(["export", "torch", str(run_folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert Path(told["file"]) == run_folder / "network.pt2"
    assert told["agreement"]["agreed"] == told["agreement"]["states"]
