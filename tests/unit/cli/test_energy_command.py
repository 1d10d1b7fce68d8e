"""``onward energy``: the tables, JSON, what the run's folder keeps, refusals in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onward.cli import USER_ERROR, main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("energy")
    rng = np.random.default_rng(0)
    np.savez(folder / "small.npz", x=rng.random((40, 6), dtype=np.float32), y=rng.integers(0, 2, 40))
    flags = ["--data", f"{folder}/small.npz", "--model.hidden", "8", "--train.steps", "3", "--train.epochs", "1"]
    assert main(["train", *flags, "--train.out", str(folder / "runs")]) == 0
    return str(next((folder / "runs").iterdir()))


def test_tables_for_people(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energy", run, "--traffic"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "3 time steps, a mean over 8:",
        "without spikes, one pass",
        "the same network without spikes",
        "The input stands still",
        "opzo",
        "learning inferred",
        "pJ: MAC 4.6, AC 0.9, number fetched 50. M. Horowitz",
    ):
        assert words in " ".join(shown.split()), words


def test_one_object_with_json_and_in_the_folder(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energy", run, "--samples", "5", "--mac", "2", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["energy"]
    assert found == json.loads((Path(run) / "energy.json").read_text())["energy"]
    assert found["samples"] == 5
    assert found["technology"]["mac"] == 2
    assert found["effective_macs"] == sum(layer["macs"] for layer in found["layers"]) == 6 * 8 * 3
    assert found["joules"]["synapses"] == pytest.approx(
        (found["effective_macs"] * 2 + found["effective_acs"] * 0.9) * 1e-12
    )
    assert found["traffic"] is None


def test_metrics_under_neurobench_s_names(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", run, "--neurobench", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    found = told["neurobench"]
    assert found == json.loads((Path(run) / "metrics.json").read_text())
    assert found["classification_accuracy"] == pytest.approx(told["test_accuracy"] / 100)
    assert found["parameter_count"] * 4 == found["footprint"] == 4 * (6 * 8 + 8 + 8 * 2 + 2)
    assert found["synaptic_operations"]["Dense"] == 3 * (6 * 8 + 8 * 2)
    assert found["membrane_updates"] == 3 * 8
    assert "synaptic_operations Effective_ACs" in captured.err


def test_metrics_stand_beside_a_packed_network(run: str, tmp_path: Path) -> None:
    data = Path(run).parents[1] / "small.npz"
    flags = ["--data", str(data), "--model.hidden", "8", "4", "--weights", "binary", "--rule", "bptt"]
    assert main(["train", *flags, "--train.steps", "3", "--train.epochs", "1", "--train.out", str(tmp_path)]) == 0
    (binary,), file = tmp_path.iterdir(), tmp_path / "small.safetensors"
    assert main(["pack", str(binary), "--to", str(file)]) == 0
    assert main(["eval", str(file), "--data", str(data), "--neurobench"]) == 0
    told = json.loads((tmp_path / "small.safetensors.metrics.json").read_text())
    assert told["synaptic_operations"]["Dense"] == 3 * (6 * 8 + 8 * 4 + 4 * 2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--samples", "0"], "--samples 0 was given; expected at least 1"),
        (["--technology", "45nm"], "unknown technology '45nm'"),
        (["--mac", "-1"], "--mac -1.0 was given; expected an energy in pJ, such as 4.6"),
    ],
)
def test_refusals(run: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energy", run, *flags]) == USER_ERROR
    assert said in capsys.readouterr().err
