"""Writing IDX files, for the tests that read them."""

from __future__ import annotations

import numpy as np


def encode(values: np.ndarray) -> bytes:
    """Unsigned bytes in the IDX format."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()
