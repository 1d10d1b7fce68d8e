"""ONNX files: the step in another runtime, and what is said where it is not installed."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onward._tensors import CheckpointError
from onward.core.errors import ConfigError
from onward.export.program import onnx, write_onnx
from onward.export.purpose import Purpose
from onward.testing.zoo import CLASSES, FLAT, STEPS, make

PURPOSE = Purpose(features=FLAT, classes=CLASSES, heads=1, steps=STEPS)
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra onnx"
)


@needs_onnx
@pytest.mark.parametrize("name", ["mlp", "recurrent", "binary"])
def test_onnx_runtime_agrees(name: str, tmp_path: Path) -> None:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    file, features = tmp_path / "network.onnx", (2, 6, 6) if name == "binary" else FLAT
    told = write_onnx(file, make(name), PURPOSE.model_copy(update={"features": features}))
    assert told.agreed >= 0.95 * told.steps
    session = onnxruntime.InferenceSession(str(file))
    said = json.loads(session.get_modelmeta().custom_metadata_map["onward.json"])
    given = {state["name"]: np.full((3, *state["shape"]), state["initial"], np.float32) for state in said["states"]}
    out, *after = session.run(None, {"input": np.ones((3, *features), np.float32), **given})
    assert out.shape == (3, CLASSES)
    assert [o.name for o in session.get_outputs()] == ["output", *(f"{name}.next" for name in given)]
    assert [a.shape for a in after] == [value.shape for value in given.values()]


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(onnx, "import_module", missing)
    with pytest.raises(ConfigError, match=r"onnx is not installed; install Onward with its extra `onnx`"):
        write_onnx(tmp_path / "network.onnx", make("mlp"), PURPOSE)


def test_a_file_that_does_otherwise_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that answers with zeros."""
    file = tmp_path / "network.onnx"

    class Wrong:
        def __init__(self, path: str, providers: list[str]):
            del path, providers

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="input")]

        def run(self, names: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
            del names
            batch = len(given["input"])
            return [np.zeros((batch, n), np.float32) for n in (CLASSES, 10, 8)]

    packages = {
        "onnx": SimpleNamespace(
            helper=SimpleNamespace(set_model_props=lambda *_: None), save=lambda model, path: Path(path).write_text("")
        ),
        "onnxruntime": SimpleNamespace(InferenceSession=Wrong),
        "onnxscript": None,
    }
    monkeypatch.setattr(onnx, "import_module", packages.get)
    monkeypatch.setattr(onnx, "_model", lambda *_: None)
    with pytest.raises(CheckpointError, match="steps of probes agree once read back; it was deleted"):
        write_onnx(file, make("mlp"), PURPOSE)
    assert not file.exists()


def test_the_translation_is_quiet_and_leaves_warnings_as_they_were() -> None:
    with onnx._quiet():
        warnings.warn("inside", stacklevel=1)
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn("outside", stacklevel=1)
