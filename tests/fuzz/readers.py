"""What is fuzzed. One line of `READERS` is one reader: its valid inputs, how they become files, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from tests.fuzz import bombs, checkpoints, packing
from tests.fuzz.mutate import Parts
from tests.fuzz.packing import Files, Pack

from onward.core.errors import OnwardError
from onward.data import load
from onward.data.aedat import read_aedat2
from onward.data.catalogue import open_file
from onward.data.choices import FileChoice, FolderChoice
from onward.data.cifar import CIFAR10, CIFAR100, Format, read_cifar
from onward.data.idx import read_idx
from onward.data.image_folder import FolderDataset, RandomWindow
from onward.data.nmnist_files import read_nmnist
from onward.data.npz import npz_keys
from onward.data.raw import Raw
from onward.data.recorded import Filed, Trial
from onward.data.shd import read_shd
from onward.data.svhn import read_svhn
from onward.models.layers import parse_layers
from onward.optim import read_cell, read_query
from onward.train import grammar, toml
from onward.train.config import RunConfig
from onward.train.schema import options

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class Reader:
    """``seeds`` are valid; ``pack`` makes files of one, in a folder that ``read`` is given.

    ``crafted`` are files that no accident would make; ``words`` those of the format, for the mutator.
    """

    seeds: Sequence[Parts]
    pack: Pack
    read: Callable[[Path], object]
    crafted: Callable[[], Iterable[Files]] = tuple
    words: Sequence[bytes] = ()


def read_tokens(folder: Path) -> object:
    """A command line, as the system hands it over."""
    tokens = (folder / "tokens").read_bytes().decode(errors="surrogateescape").split("\n")
    return grammar.parse_tokens(tokens)


def read_layers(folder: Path) -> object:
    """A network as a line of text."""
    return parse_layers((folder / "layers").read_bytes().decode(errors="surrogateescape"))


def read_cifar_file(form: Format, folder: Path) -> object:
    """Two records."""
    return read_cifar(folder / "batch.bin", 2, form)


def read_digits(folder: Path) -> object:
    """Cropped digits."""
    return read_svhn(folder / "digits.mat")


def read_arrays(folder: Path) -> object:
    """As a data set, up to a mini-batch, in every layout, and as a file to evaluate on."""
    path = str(folder / "mine.npz")
    return _all(
        lambda: _batch({"name": "file", "file": path}),
        lambda: _batch({"name": "file", "file": path, "layout": "frames"}),
        lambda: open_file(Path(path), FileChoice(name="file")),
        lambda: grammar.parse_tokens(["--data", path]),
    )


def read_events(folder: Path) -> object:
    """As a data set, up to a mini-batch, in every binning, and as a file to evaluate on."""
    choice = {"name": "events", "file": str(folder / "mine.npz"), "height": 4, "width": 5}
    return _all(
        lambda: _batch(choice),
        lambda: _batch({**choice, "bin_us": 1000, "counts": True}),
        lambda: npz_keys(folder / "mine.npz"),
    )


def read_digit(folder: Path) -> object:
    """One of N-MNIST, up to the sensor's addresses."""
    return Filed([Trial(folder / "00001.bin", 0)], read_nmnist, 34, 34).take(np.array([0]))


def read_dvs128(folder: Path) -> object:
    """One of DVS-CIFAR10, up to the sensor's addresses."""
    return Filed([Trial(folder / "cat.aedat", 0)], read_aedat2, 128, 128).take(np.array([0]))


def read_gesture_folder(folder: Path) -> object:
    """As a data set, up to a mini-batch, without the cache."""
    return _batch({"name": "dvs-gesture", "root": str(folder), "event_shift": 1})


def read_picture(folder: Path) -> object:
    """Its middle, and a random part of it."""
    choice = FolderChoice(name="image-folder", size=8, resize=10)
    x = FolderDataset(choice, [folder / "picture"], np.zeros(1, np.int64), 2, True).batch(torch.arange(1), 1).x
    assert isinstance(x, Raw)
    part = RandomWindow().apply(x.samples, torch.full((1, 4), 0.4))
    return _all(lambda: x.chunk(0, 1), lambda: x.make(part))


def _batch(choice: Mapping) -> object:
    data = load(choice).train
    return data.batch(torch.arange(min(2, len(data))), data.steps or 3)


def _all(*reads: Callable[[], object]) -> object:
    """Calls all of them, though one refuses."""
    refusal = None
    for read in reads:
        try:
            read()
        except OnwardError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return reads


def _recipes() -> list[Parts]:
    texts = [path.read_bytes() for path in sorted(RECIPES.glob("*.toml"))]
    small = (
        b'rule = "dfa"\nseed = 4\n[train]\nbatch-size = 10\n[model]\nhidden = [5, 7]\n[neuron.reset]\nname = "hard"\n'
    )
    chosen = b'[data]\nname = "events"\nfile = "x.npz"\n[rule]\nname = "opzo"\n[rule.spatial]\nrho = 0.5\n'
    return [*((text,) for text in texts), (toml.dumps(RunConfig().model_dump()).encode(),), (small,), (chosen,)]


def _command_lines() -> list[Parts]:
    lines = (
        ("--rule", "dfa", "--train.epochs=3", "--model.hidden", "64", "32"),
        ("--neuron.reset.to", "0.25", "--neuron.reset", "hard", "--no-data.flip"),
        ("--data", "nowhere.npz", "--data.bin-us", "1000"),
        ("--model", "layers", "--model.spec", "8C3-AP2-FC", "--optim.clip", "none", "--seed", "-3"),
        ("--model.hidden", "[800,800]", "--optim.lr", "1e-3", "--device", "cuda:0", "--train.out", "runs"),
        ("recipes/none.toml", "--rule.rho", "0.5"),
    )
    return [tuple(token.encode() for token in line) for line in lines]


def _flags() -> list[bytes]:
    flags = {option.flag.encode() for option in options(RunConfig, RunConfig().model_dump())}
    return [*sorted(flags), *(flag.replace(b"--", b"--no-", 1) for flag in sorted(flags))]


_HEADS = (
    packing.header("'<f8'", "(1000000000000,)"),
    packing.header("'<f8'", "(9223372036854775807, 4)"),
    packing.header("'|O'", "(3,)"),
    packing.header("'<U0'", "(4,)"),
    packing.header("'<c32'", "(2, 1)"),
    packing.header("[('a', '<i4'), ('b', 'O')]", "(2,)"),
    packing.header("'<i4'", "(2, -3)"),
    packing.header("'<i4'", "(" * 2000),
    packing.header("'<u8'", "(4,)", version=2),
    packing.header("'<i4'", "(4,)", version=3, order="True"),
)
_ZIP_WORDS = (*packing.METHODS, b"x.npy", b"y.npy", b"x_test.npy", b"y_test.npy", b"x", *_HEADS)
_EVENT_WORDS = (*_ZIP_WORDS, b"t.npy", b"offsets.npy", b"split.npy", b"label.npy", b"\x00\x00\x11\x00")
_AEDAT_WORDS = (packing.AEDAT2_HEAD, packing.AEDAT3_HEAD, b"#!AER-DAT2.0\r\n", b"#!END-HEADER\r\n")
_GESTURE_WORDS = (*_AEDAT_WORDS, packing.EMPTY_PACKET, b"\n5,0,100\n", b",", b"user01_led.aedat\n", b"..", b"/")
_IDX = [(packing.idx(),), (packing.idx((2, 1, 1)),)]
_MAT_WORDS = tuple(packing.mat_element(kind, content) for kind, content in packing.MAT_ELEMENTS)
_CIFAR = {form: bytes([1] * form.label_bytes + [7] * 3072) * 2 for form in (CIFAR10, CIFAR100)}

READERS: dict[str, Reader] = {
    "recipe": Reader(
        _recipes(),
        packing.plain("recipe.toml"),
        lambda folder: grammar.load(folder / "recipe.toml"),
        bombs.recipes,
        (b"[rule]\n", b"[[rule]]\n", b'name = "', b"name", b"seed = ", b" = [[", b"1979-05-27T07:32:00Z", b"recipe"),
    ),
    "command line": Reader(
        _command_lines(), lambda parts: {"tokens": b"\n".join(parts)}, read_tokens, bombs.command_lines, _flags()
    ),
    "layers": Reader(
        [(b"128C3-AP2-256C3s2-MP2-800-D0.2-FC",), (b"64C3-GAP-FC",), (b"16-10",)],
        packing.plain("layers"),
        read_layers,
        words=(b"C3", b"-", b"AP", b"s0", b"D0.", b"FC-FC", "\u0663C3".encode()),
    ),
    "idx": Reader(_IDX, packing.plain("images"), lambda folder: read_idx(folder / "images", 3), bombs.idx_plain),
    "idx.gz": Reader(
        _IDX, packing.gzipped("images.gz"), lambda folder: read_idx(folder / "images.gz", 3), bombs.idx_gz
    ),
    "idx.xz": Reader(
        _IDX, packing.xzipped("images.xz"), lambda folder: read_idx(folder / "images.xz", 3), bombs.idx_xz
    ),
    "cifar10": Reader([(_CIFAR[CIFAR10],)], packing.plain("batch.bin"), partial(read_cifar_file, CIFAR10)),
    "cifar100": Reader([(_CIFAR[CIFAR100],)], packing.plain("batch.bin"), partial(read_cifar_file, CIFAR100)),
    "svhn": Reader(
        [packing.digits(), packing.digits("big")], packing.plain("digits.mat"), read_digits, bombs.mat, _MAT_WORDS
    ),
    "svhn, compressed": Reader(
        [packing.digits()], packing.mat_deflated("digits.mat"), read_digits, bombs.mat_deflated, _MAT_WORDS
    ),
    "arrays .npz": Reader(packing.arrays(), packing.zipped("mine.npz"), read_arrays, bombs.arrays, _ZIP_WORDS),
    "recordings .npz": Reader(
        [packing.recordings(), packing.recordings({"t": np.tile(np.arange(5) * 700, 4)}, b"stored")],
        packing.zipped("mine.npz"),
        read_events,
        bombs.recordings,
        _EVENT_WORDS,
    ),
    "n-mnist": Reader(
        packing.digit_events(), packing.plain("00001.bin"), read_digit, words=(b"\x05\xf0\x00\x00\x00", b"\xff" * 5)
    ),
    "aedat 2.0": Reader(
        packing.dvs128(), packing.plain("cat.aedat"), read_dvs128, words=(*_AEDAT_WORDS, b"\x80\x00\x00\x00", b"#\r\n")
    ),
    "dvs-gesture": Reader(
        [packing.gestures()], packing.gesture_folder, read_gesture_folder, bombs.gestures, _GESTURE_WORDS
    ),
    "checkpoint": Reader(
        checkpoints.valid(), checkpoints.forged, checkpoints.read, checkpoints.crafted, checkpoints.WORDS
    ),
    "learned optimiser": Reader(
        checkpoints.cells(),
        packing.plain("cell.safetensors"),
        lambda folder: read_cell(folder / "cell.safetensors"),
        words=(b'"hidden\\": 256', b'"layers\\": 4', b'"raw', b'"log', b"__metadata__", b'"F64"', b"1e999"),
    ),
    "query network": Reader(
        checkpoints.queries(),
        packing.plain("query.safetensors"),
        lambda folder: read_query(folder / "query.safetensors"),
        words=(b'"hidden\\": 256', b'"penalty\\": -1', b"__metadata__", b'"F64"', b"1e999"),
    ),
    "packed network": Reader(
        checkpoints.packed_networks(),
        packing.plain("packed.safetensors"),
        checkpoints.read_packed_network,
        checkpoints.packed_bombs,
        (
            b'\\"hidden\\": [',
            b'\\"blocks\\": 999999',
            b'\\"classes\\": ',
            b'\\"steps\\": ',
            b"__metadata__",
            b'"U8"',
            b"1e999",
        ),
    ),
    "list of hashes": Reader(checkpoints.listed(), checkpoints.with_list, checkpoints.read),
}

if find_spec("PIL"):
    READERS["picture"] = Reader(
        [(packing.picture("PNG"),), (packing.picture("JPEG"),)],
        packing.plain("picture"),
        read_picture,
        bombs.pictures,
        (
            b"IHDR",
            b"IDAT",
            b"PLTE",
            b"tRNS",
            b"iCCP",
            b"acTL",
            b"IEND",
            b"\xff\xda",
            b"\xff\xc0",
            b"\xff\xd8",
            b"II*\x00",
        ),
    )

if find_spec("h5py"):
    READERS["shd"] = Reader(
        packing.spoken(),
        packing.plain("shd.h5"),
        lambda folder: read_shd(folder / "shd.h5"),
        bombs.spoken,
        (b"GCOL", b"SNOD", b"TREE", b"HEAP", b"OHDR", b"\x89HDF\r\n\x1a\n", b"times", b"labels", b"/etc/hostname"),
    )

if find_spec("nir"):
    READERS["nir"] = Reader(
        checkpoints.graphs(),
        packing.plain("network.nir"),
        checkpoints.read_graph_of_a_network,
        words=(b"GCOL", b"SNOD", b"TREE", b"HEAP", b"OHDR", b"NIRGraph", b"Conv2d", b"weight", b"edges", b"fires_at"),
    )
