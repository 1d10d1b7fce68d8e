"""Teachers that other runs trained: read, checked, and recorded so that a resumed run has the same one."""

from __future__ import annotations

from pathlib import Path

from onward._tensors import fingerprint
from onward.core.errors import ConfigError
from onward.core.objective import objectives
from onward.core.registry import Choice
from onward.distil import Other, RunOptions
from onward.distil.soft import check_fit
from onward.train.folder import CONFIG, DONE, Interface, RunFolder
from onward.train.networks import load_network

TEACHER = "distil.teacher"


def read_teacher(path: str | None, own: Interface, device: str) -> Other:
    """The network of the finished run in ``path``, frozen; raises `OnwardError` where it cannot teach this one."""
    folder = _folder(path)
    config, interface = folder.config(), folder.interface()
    check_fit(interface.features, interface.classes * interface.heads, own.features, own.classes * own.heads)
    net = load_network(folder, device).requires_grad_(False)
    return Other(net, objectives.build(config.objective), config.train.steps or 1)


def teacher_files(choice: Choice) -> dict[str, dict[str, int | str]]:
    """What tells whether the teacher that the options name is the same: hashes of its weights and configuration."""
    if not isinstance(choice, RunOptions):
        return {}
    folder = _folder(choice.teacher)
    weights = folder.trained() / "network.safetensors"
    return {TEACHER: fingerprint(weights), f"{TEACHER}/{CONFIG}": fingerprint(folder.path / CONFIG)}


def _folder(path: str | None) -> RunFolder:
    if path is None:
        raise ConfigError(
            "a teacher was asked for, and no run was named; train one (onward train --neuron relu --rule bptt "
            "--train.steps 1), then add --distil.teacher RUN"
        )
    if not Path(path).expanduser().is_dir():
        raise ConfigError(
            f"--distil.teacher {path}: there is no such folder; expected that of a finished run, so put it back if it "
            "was there, or name it where it is now"
        )
    folder = RunFolder.open(Path(path).expanduser())
    if not (folder.path / DONE).is_file():
        raise ConfigError(
            f"--distil.teacher {path}: this run has not come to its end, and its network may change; go on with "
            f"onward resume {path} first"
        )
    return folder
