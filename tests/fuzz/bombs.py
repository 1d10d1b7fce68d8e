"""Inputs that no accident would make: a few bytes that announce, or unpack to, more than a machine holds."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from tests.fuzz import packing
from tests.fuzz.packing import Files, header, members, npy, zipped

MIB = 2**20
_npz = zipped("mine.npz")


class Harmful:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("true",)


class Canary:
    """Imports the canary when it is unpickled."""

    def __reduce__(self) -> tuple:
        return __import__, ("fuzz_canary",)


def recipes() -> Iterator[Files]:
    """Nesting, numbers and names beyond reason."""
    for text in (
        b"a = " + b"[" * 60_000,
        b"hidden = " + b"[" * 200 + b"1" + b"]" * 200,
        b"[model]\nhidden = " + b"[" * 90 + b"1" + b"]" * 90,
        b"a = " + b"{a=" * 15_000,
        b"a." * 30_000 + b"a = 1",
        b"\n".join(b"a." * 199 + b"a%d = 1" % n for n in range(150)),
        b"[" + b"a." * 300 + b"a]\nb = 1",
        b"".join(b"[" + b"a." * n + b"a]\n" for n in range(190)),
        b"[[a]]\n" * 10_000,
        b"seed = " + b"9" * 60_000,
        b"seed = 0x" + b"f" * 60_000,
        b"seed = 100000000000000000000",
        b"[optim]\nlr = nan",
        b"[optim]\nlr = 1e999",
        b"[optim]\nlr = 0x" + b"f" * 400,
        b"[model]\nhidden = [0x" + b"f" * 20_000 + b"]",
        b'[data]\nname = "' + b"A" * 60_000 + b'"',
        b'rule = "a\\u0000\\u001b[2J\\nb"',
        b'[data]\nname = "file"\nfile = "\\u0000"',
        b"x = 1\n" * 10_000,
        b"".join(b"a%d = 1\n" % n for n in range(7_000)),
        b"#" * MIB,
        b"\x00" * 1000,
    ):
        yield {"recipe.toml": text}


def command_lines() -> Iterator[Files]:
    """The same as flags, and paths that are no recipes."""
    for words in (
        ["--model.hidden", "[" * 100_000],
        ["--model.hidden", "[" * 900 + "1" + "]" * 900],
        ["--model.hidden", "[" + "9" * 5000 + "]"],
        ["--model.hidden", '[{"a":' * 100_000],
        ["--seed", "9" * 5000],
        ["--seed", "100000000000000000000"],
        ["--seed", "1e400"],
        ["--optim.lr", "9" * 400],
        ["--rule", "a" * 1_000_000],
        ["--" + "a." * 100_000 + "b", "1"],
        ["--rule." * 2000, "1"],
        ["--seed", "1"] * 1000,
        ["--data", "a" * 5000 + ".npz"],
        ["--data", "~nobody-of-this-name/x.npz"],
        ["--data", "/dev/zero"],
        ["--data", "\x00.npz"],
        ["--data.file", "/proc/self/mem"],
        ["--data", "\udcff.npz"],
        ["--train.out", "\udcff"],
        ["/dev/zero"],
        ["/proc/self/mem"],
        ["\x00"],
        ["a" * 5000],
        ["/"],
        ["\udcff\udcfe.toml"],
    ):
        yield {"tokens": "\n".join(words).encode(errors="surrogateescape")}


def _vast_idx(*sides: int) -> bytes:
    return bytes([0, 0, 8, len(sides)]) + b"".join(side.to_bytes(4, "big") for side in sides)


def idx_plain() -> Iterator[Files]:
    """Headers that announce what is not there."""
    for sides in ((2**32 - 1,) * 3, (2**31, 2**31, 4), (2**32 - 1, 2**32 - 1, 0), (0, 0, 0), (1, 0, 2**32 - 1)):
        yield {"images": _vast_idx(*sides) + bytes(100)}


def idx_gz() -> Iterator[Files]:
    """Bombs of zeros: announced, unannounced, and of millions of empty members."""
    yield {"images.gz": _gzip_bomb(_vast_idx(4096, 1024, 1024), 4096 * MIB)}
    yield {"images.gz": _gzip_bomb(_vast_idx(2**32 - 1, 2**20, 2**20), 80 * MIB)}
    yield {"images.gz": _gzip_bomb(_vast_idx(60, 1024, 1024), 60 * MIB)}
    yield {"images.gz": _gzip_bomb(_vast_idx(1, 1, 1), 4096 * MIB)}
    yield {"images.gz": packing.gzipped("")((b"",) * 5000)[""]}
    yield {"images.gz": b"\x1f\x8b\x08\x08" + bytes(6) + b"A" * MIB}


def idx_xz() -> Iterator[Files]:
    """Bombs of zeros, and a dictionary of gigabytes."""
    for sides in ((1024, 1024, 1024), (2**32 - 1,) * 3, (20, 1024, 1024), (1, 1, 1)):
        yield {"images.xz": lzma.compress(_vast_idx(*sides) + bytes(20 * MIB), preset=0)}
    yield {"images.xz": lzma.compress(_vast_idx(1, 1, 1)) * 2000}
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096, "preset": 0}]
    small = bytearray(lzma.compress(packing.idx(), filters=filters))
    small[16] = 40  # the dictionary's size: 4 GB
    small[20:24] = zlib.crc32(bytes(small[12:20])).to_bytes(4, "little")
    yield {"images.xz": bytes(small)}


def _vast_mat(*sides: int, size: int) -> bytes:
    """An array X of bytes whose header announces ``sides``, and that many values."""
    flags = packing.mat_element(6, bytes([9]) + bytes(7))
    axes = packing.mat_element(5, b"".join(side.to_bytes(4, "little") for side in sides))
    head = flags + axes + packing.mat_element(1, b"X") + (2).to_bytes(4, "little") + size.to_bytes(4, "little")
    return (14).to_bytes(4, "little") + (len(head) + size).to_bytes(4, "little") + head


def mat() -> Iterator[Files]:
    """Dimensions and lengths that announce what is not there, and arrays without end."""
    header = packing.mat_header()
    for sides in ((32, 32, 3, 2**31 - 1), (2**31 - 1,) * 16, (0,) * 4, (32, 32, 3, 0)):
        for size in (100, 2**32 - 200):
            yield {"digits.mat": header + _vast_mat(*sides, size=size) + bytes(100)}
    yield {"digits.mat": header + packing.mat_array("z", np.zeros((1, 1))) * 20_000}
    yield {"digits.mat": header + packing.mat_element(14, b"") * 100_000}
    yield {"digits.mat": header[:124] + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(1000)}


def mat_deflated() -> Iterator[Files]:
    """Bombs of zeros: announced, too many, unannounced, behind the array and in one that nobody asks for."""
    header, zeros = packing.mat_header(), bytes(80 * MIB)
    for sides, size in (((32, 32, 3, 27_000), 32 * 32 * 3 * 27_000), ((32, 32, 3, 10_000), 32 * 32 * 3 * 10_000)):
        whole = _vast_mat(*sides, size=size) + zeros[:size]
        yield {"digits.mat": header + packing.mat_packed(whole)}
        yield {"digits.mat": header + packing.mat_packed(whole.replace(b"X", b"z", 1))}
    yield {"digits.mat": header + packing.mat_packed(_vast_mat(32, 32, 3, 1, size=3072) + zeros)}
    yield {"digits.mat": header + packing.mat_packed(zeros)}
    yield {"digits.mat": header + packing.mat_packed(packing.mat_packed(zeros))}
    yield {"digits.mat": header + packing.mat_packed(b"") * 20_000}


def _gzip_bomb(head: bytes, zeros: int) -> bytes:
    """``head`` and that many ``zeros``, packed at once: the same block of zeros repeats."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc, size = zlib.crc32(head), len(head) + zeros
    if zeros <= 80 * MIB:
        for _ in range(zeros // MIB):
            crc = zlib.crc32(bytes(MIB), crc)
    tail = crc.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + first + block * (zeros // MIB) + packer.flush() + tail


def _zeros(shape: str, size: int, descr: str = "'|u1'") -> bytes:
    return header(descr, shape) + bytes(size)


def arrays() -> Iterator[Files]:
    """Zip bombs, headers that announce terabytes, objects."""
    y = npy(np.arange(4))
    for x in (
        *(header(descr, shape) + bytes(64) for descr, shape in _IMPOSSIBLE),
        header("'<f8'", "(4, 1)", version=2)[:8] + b"\xff\xff\xff\xff" + b" " * 80 * MIB,
        npy(np.array([Harmful(), Canary()], dtype=object)),
        pickle.dumps(Harmful()),
        pickle.dumps(Canary()),
        _zeros("(4, 20971520)", 80 * MIB),
        _zeros("(4, 10485760)", 40 * MIB),
        b"",
    ):
        yield _npz((b"deflated", b"x.npy", x, b"y.npy", y))
    for method in (b"bzip2", b"lzma"):
        yield _npz((method, b"x.npy", _zeros("(4, 2621440)", 10 * MIB), b"y.npy", y))
    yield _npz((b"deflated", b"x.npy", npy(np.zeros((4, 1))), b"y.npy", _zeros("(20971520,)", 20 * MIB)))
    yield from _lying_sizes()
    yield _npz((b"stored", *(part for n in range(5_000) for part in (b"a%d.npy" % n, b""))))
    yield {"mine.npz": header("'<f8'", "(1000000000000,)")}
    yield _npz(members({"x": np.zeros((4, *[1] * 40)), "y": np.arange(4)}))
    yield _npz(members({"x": np.full((4, 1), 2**64 - 1, np.uint64), "y": np.arange(4)}))


_IMPOSSIBLE = (
    ("'<f8'", "(1000000000000,)"),
    ("'<f8'", "(4, 4611686018427387904)"),
    ("'<f8'", "(4, 18446744073709551616)"),
    ("'<f8'", "(4, " + "9" * 4000 + ")"),
    ("'<f8'", "(4, " + "9" * 5000 + ")"),
    ("'<f8'", "(-4, -2)"),
    ("'<f8'", "(True, 8)"),
    ("'<f8'", "(" + "1," * 70 + "8)"),
    ("'<f8'", "(0, 9223372036854775807, 9223372036854775807)"),
    ("'|V0'", "(9223372036854775807,)"),
    ("'<U0'", "(4, 9223372036854775807)"),
    ("'<U536870911'", "(4,)"),
    ("'|O'", "(8,)"),
    ("[('a', '|O')]", "(8,)"),
    ("[('a', '<f4'), ('a', '<f4')]", "(8,)"),
    ("'f4,' * 100", "(8,)"),
    ("'f4,f4'", "(8,)"),
    ("('<f4', (2, 4))", "(2,)"),
    ("('<f4', (2147483647, 2147483647))", "(2,)"),
    ("'(1000000,1000000)f8'", "(2,)"),
    ("'<c32'", "(2,)"),
    ("'<M8[s]'", "(8,)"),
    ("'a8'", "(8,)"),
    ("__import__('os').system('true')", "(8,)"),
    ("'<f8'", "(" * 2000),
    ("'<f8'", "-" * 4000 + "1"),
    ("[" * 3000, "(8,)"),
    ("{1: 2, 'a': 3}", "(8,)"),
)


def _lying_sizes() -> Iterator[Files]:
    """Archives whose directory claims other sizes than there are."""
    honest = _npz(members({"x": np.zeros((4, 2)), "y": np.arange(4)}, b"stored"))["mine.npz"]
    where = honest.index(b"PK\x01\x02")
    for packed, unpacked in ((2**31, 2**31), (2**32 - 2, 2**32 - 2), (100, 2**32 - 2), (0, 0), (2**32 - 1, 2**32 - 1)):
        sizes = packed.to_bytes(4, "little") + unpacked.to_bytes(4, "little")
        yield {"mine.npz": honest[: where + 20] + sizes + honest[where + 28 :]}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", npy(np.zeros((4, 2))))
        archive.getinfo("x.npy").flag_bits |= 1  # encrypted
    yield {"mine.npz": file.getvalue()}


def recordings() -> Iterator[Files]:
    """Recordings of more time, pixels, events or letters than there can be."""
    late = np.full(20, 2**32 - 1, np.uint32)
    for changed in (
        {"t": late},
        {"t": np.full(20, 2**64 - 1, np.uint64)},
        {"label": np.array([0, 1, 2**31 - 1, 0])},
        {"offsets": np.array([0, 2**63 - 1, -(2**63), 5, 20])},
        {"offsets": np.array([0, 2**64 - 1, 5, 5, 20], np.uint64)},
        {"split": np.array(["train", "\x1b[2J", "a" * 100_000, "\n"])},
        {"split": np.frombuffer(b"\xff" * 16, "<U1")},
        {"split": np.array([Harmful()] * 4, dtype=object)},
        {"x": np.array([Canary()] * 20, dtype=object)},
    ):
        yield _npz(packing.recordings(changed))
    many = 5 * MIB
    zeros = {name: np.zeros(many, np.uint8) for name in "xypt"}
    yield _npz(packing.recordings({"offsets": np.array([0, many, many, many, many]), **zeros}))
    big = _zeros("(83886080,)", 80 * MIB)
    vast = {f"{name}.npy".encode(): big if name == "t" else npy(zeros["x"]) for name in "xypt"}
    yield _npz((b"deflated", *(part for pair in vast.items() for part in pair), *packing.recordings()[9:]))


def gestures() -> Iterator[Files]:
    """Packets that announce terabytes, or of no size, by the thousand; lists of files elsewhere and without end."""
    trial, labels, *lists = packing.gestures()
    head = packing.EMPTY_PACKET
    for packets in (
        head * 20_000,
        head[:20] + b"\xff\xff\xff\x7f" * 2,
        head[:4] + bytes(4) + head[8:20] + b"\xff\xff\xff\x7f" * 2,
        head[:4] + b"\xff" * 24,
        head[:12] + b"\xff\xff\xff\x7f" + trial[-240 - 16 :],
    ):
        yield packing.gesture_folder((packing.AEDAT3_HEAD + packets, labels, *lists))
    for names in (b"/dev/zero.aedat", b"../user01_led.aedat", b"user01_led.aedat\n" * 2000, b"a" * 5000 + b".aedat"):
        yield packing.gesture_folder((trial, labels, names, lists[1]))
    for rows in (b"1," + b"9" * 5000 + b",1\n", b"1,0,9223372036854775807\n" * 500, b"\n" * MIB, b"1,0,2\n" * MIB):
        yield packing.gesture_folder((trial, labels + rows, *lists))


def pictures() -> Iterator[Files]:
    """Pictures that announce far more than they hold."""
    png, jpeg = packing.picture("PNG"), packing.picture("JPEG")
    for size in (b"\x00\x00\xff\xff" * 2, b"\x7f\xff\xff\xff" * 2, b"\x00\x00\x00\x00" * 2):
        head = b"IHDR" + size + png[24:29]
        yield {"picture": png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:]}
    place = jpeg.index(b"\xff\xc0") + 5
    yield {"picture": jpeg[:place] + b"\xff\xff\xff\xff" + jpeg[place + 4 :]}
    yield {"picture": packing.picture("GIF")}


def spoken() -> Iterator[Files]:
    """Data in other files, lists of zeros by the million, and many lists that are one."""
    import h5py

    (content,) = packing.spoken()[0]
    for make in (
        lambda hdf: hdf.create_dataset("labels", (3,), "u2", external=[("/etc/hostname", 0, 6)]),
        lambda hdf: hdf.__setitem__("labels", h5py.ExternalLink("/etc/hostname", "labels")),
        lambda hdf: hdf.create_dataset("labels", (2**28,), "u1", chunks=(2**24,), compression="gzip"),
        lambda hdf: hdf.create_dataset("labels", (2**50,), "u8", chunks=(2**16,)),
        lambda hdf: hdf.create_group("labels"),
        lambda hdf: hdf.create_dataset("labels", data=["1", "2", "3"]),
    ):
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as hdf:
            del hdf["labels"]
            make(hdf)
        yield {"shd.h5": file.getvalue()}
