"""How parts become files, and valid parts of every format."""

from __future__ import annotations

import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from tests.fuzz.mutate import Parts

Files = dict[str, bytes]
Pack = Callable[[Parts], Files]

METHODS = {
    b"stored": zipfile.ZIP_STORED,
    b"deflated": zipfile.ZIP_DEFLATED,
    b"bzip2": zipfile.ZIP_BZIP2,
    b"lzma": zipfile.ZIP_LZMA,
}


def plain(name: str) -> Pack:
    """All parts one after the other."""
    return lambda parts: {name: b"".join(parts)}


def gzipped(name: str) -> Pack:
    """Gzip members, one for each part."""
    return lambda parts: {name: b"".join(gzip.compress(part, 1, mtime=0) for part in parts)}


def xzipped(name: str) -> Pack:
    """Xz streams, one for each part."""
    return lambda parts: {name: b"".join(lzma.compress(part, preset=0) for part in parts)}


def zipped(name: str) -> Pack:
    """A zip archive with right checksums: the method, then names and contents in turn."""

    def pack(parts: Parts) -> Files:
        method, *members = parts or (b"stored",)
        file = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(file, "w", METHODS.get(method, zipfile.ZIP_STORED)) as archive:
            warnings.simplefilter("ignore")  # two members of one name
            for member, content in zip(members[::2], members[1::2], strict=False):
                archive.writestr(member[:60_000].decode("latin-1").partition("\0")[0] or "_", content)
        return {name: file.getvalue()}

    return pack


def npy(array: np.ndarray) -> bytes:
    """The array as numpy writes it, objects included."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def header(descr: str, shape: str, *, order: str = "False", version: int = 1) -> bytes:
    """The head of an .npy file with any text in it."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


def members(arrays: Mapping[str, np.ndarray], method: bytes = b"deflated") -> Parts:
    """Parts for `zipped`."""
    pairs = [(f"{name}.npy".encode(), npy(array)) for name, array in arrays.items()]
    return (method, *(part for pair in pairs for part in pair))


def arrays() -> list[Parts]:
    """Data sets of one's own."""
    rng = np.random.default_rng(0)
    y = np.arange(6) % 3
    plain = {"x": rng.random((6, 4)).astype(np.float32), "y": y}
    frames = {"x": rng.integers(0, 256, (6, 3, 2, 2), dtype=np.uint8), "y": y.astype(np.uint8)}
    tested = {**plain, "x_test": rng.random((2, 4)), "y_test": np.array([0, 2], ">i2")}
    fortran = {"x": np.asfortranarray(rng.random((6, 2, 3))), "y": y.astype(bool)}
    return [members(plain), members(frames, b"stored"), members(tested), members(fortran, b"stored")]


def recordings(changed: Mapping[str, np.ndarray] | None = None, method: bytes = b"deflated") -> Parts:
    """Four recordings of five events, with some arrays ``changed``."""
    made = {
        "x": np.arange(20, dtype=np.uint8) % 5,
        "y": np.arange(20, dtype=np.uint8) % 4,
        "p": np.arange(20, dtype=np.uint8) % 2,
        "t": np.tile(np.arange(5, dtype=np.uint32) * 700, 4),
        "offsets": np.arange(5) * 5,
        "label": np.arange(4, dtype=np.uint8) % 2,
        "split": np.array(["train", "test"] * 2),
        "mnist_index": np.arange(4, dtype=np.int32),
    }
    return members({**made, **(changed or {})}, method)


def idx(shape: tuple[int, ...] = (3, 2, 4)) -> bytes:
    """Bytes in the format of MNIST."""
    axes = b"".join(side.to_bytes(4, "big") for side in shape)
    return bytes([0, 0, 8, len(shape)]) + axes + bytes(range(int(np.prod(shape))))


Order = Literal["little", "big"]
_MAT_CLASSES = {"u1": 9, "i1": 8, "u2": 11, "i2": 10, "u4": 13, "i4": 12, "f4": 7, "f8": 6}
_MAT_TYPES = {"u1": 2, "i1": 1, "u2": 4, "i2": 3, "u4": 6, "i4": 5, "f4": 7, "f8": 9}

MAT_ELEMENTS = (
    (6, bytes([9]) + bytes(7)),
    (6, bytes([6, 8]) + bytes(6)),
    (6, bytes([2]) + bytes(7)),
    (5, b"\xff\xff\xff\x7f" * 4),
    (5, b"\x00\x00\x00\x00" * 4),
    (5, b"\xff\xff\xff\xff" * 2),
    (1, b"X"),
    (1, b"y"),
    (14, b""),
    (15, b""),
)
"""Types and contents that the format has, and some beyond it."""


def mat_header(order: Order = "little") -> bytes:
    """The beginning of a MATLAB file of level 5."""
    mark = b"IM" if order == "little" else b"MI"
    return b"MATLAB 5.0 MAT-file".ljust(124) + (0x0100).to_bytes(2, order) + mark


def mat_element(kind: int, content: bytes, order: Order = "little") -> bytes:
    """Type, length and content, in the short form where that is used."""
    if 0 < len(content) <= 4:
        return (len(content) << 16 | kind).to_bytes(4, order) + content.ljust(4, b"\0")
    return kind.to_bytes(4, order) + len(content).to_bytes(4, order) + content + bytes(-len(content) % 8)


def mat_array(name: str, values: np.ndarray, order: Order = "little", kind: int | None = None) -> bytes:
    """An array, of the class number ``kind`` if it is another than that of its values."""
    code = values.dtype.str[1:]
    flags = (_MAT_CLASSES[code] if kind is None else kind).to_bytes(4, order) + bytes(4)
    axes = b"".join(side.to_bytes(4, order) for side in values.shape)
    stored = values.astype(("<" if order == "little" else ">") + code).tobytes(order="F")
    parts = ((6, flags), (5, axes), (1, name.encode()), (_MAT_TYPES[code], stored))
    return mat_element(14, b"".join(mat_element(*part, order) for part in parts), order)


def mat_packed(element: bytes, order: Order = "little") -> bytes:
    """An element as a compressed one, which is never padded."""
    content = zlib.compress(element)
    return (15).to_bytes(4, order) + len(content).to_bytes(4, order) + content


def digits(order: Order = "little") -> Parts:
    """Two images and their labels, as SVHN has them: a header and two arrays, not compressed."""
    x = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(32, 32, 3, 2)
    return mat_header(order), mat_array("X", x, order), mat_array("y", np.array([[10.0], [3.0]]), order)


def mat_deflated(name: str) -> Pack:
    """The first part, and all others compressed."""
    return lambda parts: {name: b"".join([*parts[:1], *map(mat_packed, parts[1:])])}
