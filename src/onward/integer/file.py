"""Integer networks on disk: safetensors of int8, int16 and int32, the law as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import save_file

from onward.core.errors import ConfigError
from onward.integer.network import IntegerNetwork

KEY = "onward.integer"


def write(net: IntegerNetwork, path: Path) -> None:
    """Writes ``weights.K`` ``[n_in, n_out]``, ``feedback.K`` ``[m, n]``, ``thresholds`` and ``rates``.

    Raises `ConfigError` where the folder does not exist.
    """
    require_folder(path)
    tensors = {f"weights.{k}": w for k, w in enumerate(net.weights)}
    tensors |= {f"feedback.{k}": m for k, m in enumerate(net.feedback, 1)}
    told = {"law": net.law._asdict(), "sizes": net.sizes, "learned": net.learned}
    save_file({**tensors, "thresholds": net.thresholds, "rates": net.rates}, path, {KEY: json.dumps(told)})


def require_folder(path: Path) -> None:
    """Raises `ConfigError` where a file could not be written at ``path``, for want of a folder."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path} was given, and there is no folder {path.parent}; make it first")
