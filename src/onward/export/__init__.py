"""Trained networks for use elsewhere: binary weights in one bit each."""

from onward.export.nir import from_nir
from onward.export.packed import PackedRun, pack_run, packed_subject, read_packed, write_packed

__all__ = ["PackedRun", "pack_run", "packed_subject", "read_packed", "write_packed"]
