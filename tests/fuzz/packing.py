"""How parts become files, and valid parts of every format."""

from __future__ import annotations

import gzip
import io
import lzma
import warnings
import zipfile
from collections.abc import Callable, Mapping

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
