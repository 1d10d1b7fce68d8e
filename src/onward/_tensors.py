"""Tensors on disk: safetensors, checked against what is expected before anything is allocated.

A file is eight bytes of header length (little-endian), the header (JSON: name -> dtype, shape, place), the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from onward.core.errors import OnwardError

MOST_HEADER_BYTES = 16 * 2**20
MOST_TENSORS = 100_000
METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
Form = tuple[torch.dtype, tuple[int, ...]]


class CheckpointError(OnwardError):
    """A checkpoint that is missing, incomplete, damaged, or of another network."""


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> bytes:
    """The tensors as the bytes of a file; each gets memory of its own, which the format asks for.

    ``about`` is what the file says beside them.
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(own, dict(about) if about else None)


def read_tensors(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in ``path``, which must have the names, dtypes and shapes of ``like``.

    Memory: a header of at most 16 MiB, then what ``like`` takes. Raises `CheckpointError` naming the first difference.
    """
    given, wanted = header(path), {name: (t.dtype, tuple(t.shape)) for name, t in like.items()}
    words = difference(given, wanted)
    if words:
        raise CheckpointError(f"{path}: does not fit this configuration: {words}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def header(path: Path) -> dict[str, Form]:
    """Dtype and shape of every tensor in ``path``, by name; reads none of them. Raises `CheckpointError`."""
    return {name: _form(entry, name, path) for name, entry in _entries(path).items() if name != METADATA}


def about(path: Path) -> dict[str, str]:
    """What the file says about itself beside its tensors. Raises `CheckpointError`."""
    found = _entries(path).get(METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CheckpointError(f"{path}: what its header says beside the tensors is no table of texts")
    return found


def _entries(path: Path) -> dict[str, Any]:
    """The header, within limits."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MOST_HEADER_BYTES, path.stat().st_size):
                raise CheckpointError(
                    f"{path}: announces a header of {length:,} bytes; expected at most {MOST_HEADER_BYTES:,} "
                    "and no more than the file holds"
                )
            entries = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: has no readable header; expected a safetensors file") from None
    if not isinstance(entries, dict) or len(entries) > MOST_TENSORS:
        raise CheckpointError(f"{path}: its header is no table of at most {MOST_TENSORS:,} tensors")
    return entries


def _form(entry: Any, name: str, path: Path) -> Form:
    try:
        return _DTYPES[entry["dtype"]], tuple(map(int, entry["shape"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{path}: tensor {name!r} has no dtype and shape that are known here") from None


def difference(given: Mapping[str, Form], wanted: Mapping[str, Form]) -> str:
    """What ``given`` lacks of ``wanted``, or has besides, or otherwise, in words; nothing where they are the same."""
    if given == wanted:
        return ""
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or extra:
        return "; ".join(
            f"{words} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for words, names in (("it lacks", missing), ("it has besides", extra))
            if names
        )
    name = next(name for name in wanted if given[name] != wanted[name])
    return f"{name} is {_words(given[name])}; expected {_words(wanted[name])}"


def _words(form: Form) -> str:
    dtype, shape = form
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def fingerprint(path: Path) -> dict[str, int | str]:
    """What tells whether the file ``path`` is the same: size and hash."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}
