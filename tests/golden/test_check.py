"""The checker itself: it must fail where something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from golden.compare import compare
from golden.report import check, main

SCRIPT = Path(__file__).with_name("check.py")


def _surrogate_case(path: Path, **changes: Tensor | None) -> Path:
    x, g = torch.tensor([-2.0, -0.25, 0.0, 0.75]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    tensors: dict[str, Tensor] = {"in.x": x, "in.g": g}
    for tag, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        tensors[f"{tag}.tent.spike"] = torch.tensor([0, 0, 1, 1], dtype=dtype)
        tensors[f"{tag}.tent.dx"] = torch.tensor([0.0, 1.5, 3.0, 1.0], dtype=dtype)
    for name, value in changes.items():
        key = name.replace("__", ".")
        tensors = {k: t for k, t in {**tensors, key: value}.items() if t is not None}
    config = {"surrogates": [["tent", "triangle", 1.0]], "n": 4}
    save_file(tensors, path, metadata={"case": "sltt/tents", "config": json.dumps(config)})
    return path


def test_a_right_case_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _surrogate_case(tmp_path / "tents.safetensors")
    assert main([str(tmp_path)]) == 0
    header, row, totals = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["method", "case", "tensors"]
    assert row.split()[:3] == ["sltt", "tents", "4"]
    assert row.endswith("pass")
    assert totals == "total: 1 cases, 4 tensors compared: 1 pass, 0 mismatch, 0 unreadable"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"f64__tent__dx": torch.tensor([0, 1.5, 3 + 1e-9, 1], dtype=torch.float64)}, "differs by 1e-09"),
        ({"f32__tent__dx": torch.tensor([0, 1.5, 3, float("nan")])}, "differs by nan"),
        ({"f32__tent__spike": torch.tensor([0.0, 0.0, 0.0, 1.0])}, "differs in 1 of 4 spikes"),
        ({"f32__tent__dx": torch.zeros(3)}, "is stored as [3]"),
        ({"f64__tent__dx": torch.tensor([0, 1.5, 3, 1])}, "is stored as [4] torch.float32"),
        ({"f32__tent__curvature": torch.zeros(4)}, "computes nothing by that name"),
    ],
    ids=["value", "nan", "spike", "shape", "dtype", "unknown-result"],
)
def test_a_tampered_tensor_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, said: str):
    _surrogate_case(tmp_path / "tents.safetensors", **changes)
    assert main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-2].endswith("mismatch")
    assert said in captured.err


def test_unreadable_files_fail_and_hide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good = _surrogate_case(tmp_path / "good.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-7])
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    save_file({"f32.x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    save_file({"f32.x": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={"config": "{"})
    assert main([str(tmp_path)]) == 1
    *rows, totals = capsys.readouterr().out.splitlines()
    assert totals == "total: 5 cases, 4 tensors compared: 1 pass, 0 mismatch, 4 unreadable"
    assert sum("unreadable: " in row for row in rows) == 4


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("hebb/one", {}, "unknown method 'hebb'"),
        ("sltt/one", {"surrogates": [["a", "cosine", 1.0]]}, "unknown surrogate 'cosine'"),
        ("sltt/one", {}, "has no 'surrogates'"),
        ("sltt/one", {"surrogates": 3}, "AttributeError"),
    ],
    ids=["method", "surrogate", "setting", "layout"],
)
def test_what_the_checker_does_not_know_is_unreadable(tmp_path: Path, name: str, config: dict, said: str):
    tensors = {"in.x": torch.zeros(1), "in.g": torch.zeros(1), "f32.a.dx": torch.zeros(1)}
    save_file(tensors, tmp_path / "one.safetensors", metadata={"case": name, "config": json.dumps(config)})
    row = check(tmp_path / "one.safetensors")
    assert row.state == "unreadable"
    assert said in row.unreadable


def test_an_input_that_nothing_reads_is_unreadable(tmp_path: Path):
    row = check(_surrogate_case(tmp_path / "tents.safetensors", in__noise=torch.zeros(4)))
    assert row.unreadable == "inputs that the checker would not use: noise"


def test_no_cases_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "total: 0 cases found"
    assert main([str(tmp_path / "absent")]) == 1


def test_zero_gradients_are_compared_absolutely():
    stored, computed = {"grad.bn.bias": torch.tensor([1e-9])}, [("grad.bn.bias", torch.tensor([9e-7]))]
    tight = {"grad.bn.bias": stored["grad.bn.bias"].double()}, [("grad.bn.bias", computed[0][1].double())]
    assert compare("f64", *tight, zero_gradients=["bn.bias"]).passed
    assert not compare("f64", *tight).passed


def test_left_out_tensors_carry_their_reason():
    stored = {"q": torch.zeros(1), "good": torch.ones(1)}
    verdict = compare("f32", stored, [("good", torch.ones(1))], not_compared={"q.*": "not divided"})
    assert verdict.passed
    assert verdict.left_out == {"q": "not divided"}
    assert not compare("f32", {"q": torch.zeros(1)}, [], not_compared={"q": "all of it"}).passed


def test_the_script_runs_by_itself(tmp_path: Path):
    _surrogate_case(tmp_path / "tents.safetensors")
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("total: 1 cases")
