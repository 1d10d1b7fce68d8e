"""Trained networks for use elsewhere: binary weights in one bit each, and graphs that other programs read."""

from pathlib import Path

from onward.export.nir import SUFFIX, from_nir, nir_subject
from onward.export.packed import PackedRun, pack_run, packed_subject, read_packed, write_packed
from onward.train import Subject

__all__ = [
    "PackedRun",
    "file_subject",
    "from_nir",
    "nir_subject",
    "pack_run",
    "packed_subject",
    "read_packed",
    "write_packed",
]


def file_subject(path: Path, device: str = "cpu") -> Subject:
    """The network in a file that Onward wrote, and what it was trained for: NIR by its ending, else packed."""
    read = nir_subject if path.suffix == SUFFIX else packed_subject
    return read(path, device)
