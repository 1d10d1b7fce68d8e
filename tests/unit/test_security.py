"""Nothing that is read from a file can name or run code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onward
from onward.core.errors import OnwardError
from onward.train import parse_tokens

SOURCES = sorted(Path(onward.__file__).parent.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.load", "torch.save", "np.load", "importlib.import_module"}
ALLOWED = {
    ("npz.py", "np.load"): {"allow_pickle": "False"},
    ("foreign.py", "torch.load"): {"weights_only": "True"},
    ("_lazy.py", "importlib.import_module"): {},
}
"""By file and call, what must be said in it. Imported are names of our own modules, written in our own sources."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_reads_code_from_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                assert not FORBIDDEN_MODULES & {name.name.partition(".")[0] for name in names}
            case ast.ImportFrom(module=str(module)):
                assert module.partition(".")[0] not in FORBIDDEN_MODULES
            case ast.Call(func=function, keywords=keywords) if (name := ast.unparse(function)) in FORBIDDEN_CALLS:
                assert (path.name, name) in ALLOWED, name
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                assert ALLOWED[path.name, name].items() <= said.items(), name


@pytest.mark.parametrize(
    "flag", ["--rule", "--data", "--model", "--neuron", "--objective", "--optim", "--rule.spatial", "--optim.schedule"]
)
@pytest.mark.parametrize("name", ["os:system", "builtins.eval", "onward.rules.online", "__import__", "torch.nn.Linear"])
def test_a_choice_is_a_registered_name_and_nothing_else(flag: str, name: str) -> None:
    with pytest.raises(OnwardError):
        parse_tokens([flag, name])
