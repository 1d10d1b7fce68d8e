"""How parts become files, and valid parts of every format."""

from __future__ import annotations

import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
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


def nmnist_events(x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray) -> bytes:
    """Events of N-MNIST: 8 bits of column and of row, one of polarity, 23 of time."""
    parts = (x, y, p << 7 | t >> 16, t >> 8 & 0xFF, t & 0xFF)
    return np.stack(parts, axis=1).astype(np.uint8).tobytes()


AEDAT2_HEAD = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
AEDAT3_HEAD = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 0: DVS128\r\n#Start-Time: 2017-01-01\r\n#!END-HEADER\r\n"


def aedat2_events(address: np.ndarray, t: np.ndarray) -> bytes:
    """Pairs of version 2.0."""
    return np.stack([address, t], axis=1).astype(">u4").tobytes()


def aedat3_packet(
    data: np.ndarray, t: np.ndarray, *, kind: int = 1, overflow: int = 0, valid: int | None = None
) -> bytes:
    """A packet of version 3.1; ``valid`` is how many events its header calls so."""
    count = len(data)
    words = (8, 4, overflow, count, count, count if valid is None else valid)
    head = kind.to_bytes(2, "little") + bytes(2) + b"".join(word.to_bytes(4, "little") for word in words)
    return head + np.stack([data, t], axis=1).astype("<u4").tobytes()


def aedat3_data(x: np.ndarray, y: np.ndarray, p: np.ndarray, valid: int = 1) -> np.ndarray:
    """The data of polarity events."""
    return x.astype(np.int64) << 17 | y.astype(np.int64) << 2 | p.astype(np.int64) << 1 | valid


def gestures() -> Parts:
    """A trial of two packets and three gestures, its labels, and the lists of both parts, which have the same trial."""
    k = np.arange(30)
    packets = (aedat3_packet(aedat3_data(k % 9, k % 7, k % 2), 100 * k + start) for start in (0, 3000))
    labels = b"class,startTime_usec,endTime_usec\n1,0,1500\n11,1500,4000\n3,4500,6000\n"
    return AEDAT3_HEAD + b"".join(packets), labels, b"user01_led.aedat\n", b"user01_led.aedat\n"


GESTURE_FILES = ("user01_led.aedat", "user01_led_labels.csv", "trials_to_train.txt", "trials_to_test.txt")


def gesture_folder(parts: Parts) -> Files:
    """The first parts as the files of DVS-Gesture."""
    return dict(zip(GESTURE_FILES, (*parts, b"", b"", b"", b""), strict=False))


def shd(times: Sequence[np.ndarray], units: Sequence[np.ndarray], labels: np.ndarray) -> bytes:
    """An HDF5 file as that of the Spiking Heidelberg Digits; needs h5py."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as hdf:
        spikes = hdf.create_group("spikes")
        for name, lists, dtype in (("times", times, np.float16), ("units", units, np.uint16)):
            made = spikes.create_dataset(name, len(lists), h5py.vlen_dtype(dtype))
            for row, values in enumerate(lists):
                made[row] = values.astype(dtype)
        hdf["labels"] = labels.astype(np.uint16)
    return file.getvalue()


def picture(form: str, size: tuple[int, int] = (13, 9)) -> bytes:
    """A picture of noise; needs Pillow."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def digit_events() -> list[Parts]:
    """Recordings of N-MNIST, one of them with the marks of the clock."""
    k = np.arange(40)
    plain, marked = (nmnist_events(k % 34, y, k % 2, 7000 * k) for y in (k % 31, np.where(k % 9 == 8, 240, k % 31)))
    return [(plain,), (plain[:100], marked)]


def dvs128() -> list[Parts]:
    """Recordings of DVS-CIFAR10: a header and events."""
    k = np.arange(40)
    return [(AEDAT2_HEAD, aedat2_events(k % 128 << 8 | k % 9 << 1 | k % 2, 1000 + start * k)) for start in (10, 0)]


EMPTY_PACKET = aedat3_packet(np.zeros(0, np.int64), np.zeros(0, np.int64))


def spoken() -> list[Parts]:
    """Recordings of the Spiking Heidelberg Digits."""
    times, units = [np.arange(n) / 64 for n in (4, 0, 9)], [np.arange(n) * 70 for n in (4, 0, 9)]
    return [(shd(times, units, np.array([3, 19, 0])),)]
