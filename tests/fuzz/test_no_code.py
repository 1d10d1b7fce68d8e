"""Nothing that is read is ever run: no name is imported, no object unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fuzz import packing
from tests.fuzz.bombs import Canary, Harmful
from tests.fuzz.watch import CANARY, Auditor

from onward.core.errors import DataError, OnwardError, UnknownName
from onward.data import load, open_file, read_recordings
from onward.data.choices import FileChoice
from onward.train import load as load_recipe
from onward.train import parse_tokens

AUDITOR = Auditor()
NAMES = [
    "os.system",
    "os:system",
    "__import__('os').system('true')",
    "builtins.eval",
    "torch.nn.Linear",
    "onward.rules.bptt.BPTT",
    f"{CANARY}.boom",
    f"{CANARY}:boom",
    "!!python/object/apply:os.system ['true']",
    "${oc.env:HOME}",
    "{{7*7}}",
    "$(true)",
    "`true`",
]
CHOICES = ["rule", "model", "neuron", "objective", "optim", "distil", "rule.spatial", "neuron.surrogate"]
CHOICES += ["optim.schedule"]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind where it is imported."""
    trace = tmp_path / "sang"
    (tmp_path / f"{CANARY}.py").write_text(
        f"open({str(trace)!r}, 'w').close()\ndef boom(*a): open({str(trace)!r}, 'w')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return trace


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NAMES)
def test_configurations_cannot_name_what_can_be_imported(choice: str, name: str, canary: Path) -> None:
    recipe = canary.with_name("recipe.toml")
    recipe.write_text(f"{choice} = '''{name}'''\n")
    with AUDITOR.listening() as harm:
        with pytest.raises(UnknownName, match="unknown"):
            parse_tokens([f"--{choice}={name}"])
        with pytest.raises(UnknownName, match="unknown"):
            load_recipe(recipe)
    assert not harm
    assert not canary.exists()


@pytest.mark.parametrize(
    "text", [f"{CANARY} = 1", "[__builtins__]\neval = 1", "[rule.__class__]\nname = 'x'", "target = 'os.system'"]
)
def test_recipes_cannot_reach_attributes(text: str, canary: Path) -> None:
    recipe = canary.with_name("recipe.toml")
    recipe.write_text(text)
    with AUDITOR.listening() as harm, pytest.raises(OnwardError, match="unknown option"):
        load_recipe(recipe)
    assert not harm
    assert not canary.exists()


@pytest.mark.parametrize("payload", [Harmful(), Canary()])
@pytest.mark.parametrize("where", ["x", "y", "x_test", "y_test"])
def test_objects_in_arrays_are_never_unpickled(payload: object, where: str, canary: Path) -> None:
    arrays = {"x": np.zeros((4, 2)), "y": np.arange(4), "x_test": np.zeros((4, 2)), "y_test": np.arange(4)}
    arrays[where] = np.array([payload] * 4, dtype=object)
    path = canary.with_name("mine.npz")
    path.write_bytes(packing.zipped("a")(packing.members(arrays))["a"])
    with AUDITOR.listening() as harm:
        with pytest.raises(DataError, match=f"array {where} cannot be read .*never loaded"):
            load({"name": "file", "file": str(path)})
        if "test" not in where:
            with pytest.raises(DataError, match="never loaded"):
                open_file(path, FileChoice(name="file"))
    assert not harm
    assert not canary.exists()


@pytest.mark.parametrize("payload", [Harmful(), Canary()])
@pytest.mark.parametrize("where", ["x", "t", "label", "split", "mnist_index"])
def test_objects_in_recordings_are_never_unpickled(payload: object, where: str, canary: Path) -> None:
    path = canary.with_name("mine.npz")
    path.write_bytes(packing.zipped("a")(packing.recordings({where: np.array([payload] * 4, dtype=object)}))["a"])
    with AUDITOR.listening() as harm, pytest.raises(DataError, match="never loaded"):
        read_recordings(path, 4, 5)
    assert not harm
    assert not canary.exists()


def test_the_canary_sings_when_it_is_imported(canary: Path) -> None:
    with AUDITOR.listening() as harm:
        __import__(CANARY)
    assert harm
    assert canary.exists()
