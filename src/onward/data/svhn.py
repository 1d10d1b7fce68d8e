"""The cropped digits of SVHN (http://ufldl.stanford.edu/housenumbers/), in MATLAB files.

``X`` is [32, 32, 3, N]: rows, columns, channels, samples; ``y`` is [N, 1], from 1 to 10, and 10 means 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onward.core.errors import DataError
from onward.data.mat import read_mat

FILES = ("train_32x32.mat", "test_32x32.mat")
_IMAGE = (32, 32, 3)


def read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 3, 32, 32]`` uint8 and labels ``[N]`` uint8 of one file.

    Raises `DataError` as `read_mat` does, and for arrays of another type, shape or range.
    """
    arrays = read_mat(path, ("X", "y"))
    x, y = arrays["X"], arrays["y"]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != _IMAGE or not x.size:
        raise DataError(f"{path}: X is {list(x.shape)} of {x.dtype.name}; expected [32, 32, 3, N] of uint8")
    if y.shape != (x.shape[3], 1):
        raise DataError(f"{path}: y is {list(y.shape)}; expected [{x.shape[3]}, 1], a label for each image")
    wrong = ~np.isin(y, range(1, 11))
    if wrong.any():
        raise DataError(f"{path}: y holds the label {y[wrong][0]}; expected 1 to 10, where 10 is the digit 0")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), (y[:, 0] % 10).astype(np.uint8)
