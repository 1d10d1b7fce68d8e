"""The data sets that have a name: options, loading, and whether this machine has them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from collections.abc import Sequence as Ordered
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from onward.core.errors import DataError
from onward.core.registry import Choice, Registry
from onward.data.arrays import ArrayDataset, Scale
from onward.data.augment import Augmentation, Change, Cutout, Flip, PadCrop
from onward.data.choices import (
    DataChoice,
    EventsChoice,
    FileChoice,
    FolderChoice,
    ImageChoice,
    ImageFields,
    PicturesChoice,
    RecordedChoice,
    RecordingFields,
)
from onward.data.dataset import Dataset, Split, spread
from onward.data.download import NotFetched
from onward.data.event_changes import event_changes
from onward.data.event_sets import EVENT_SOURCES
from onward.data.files import load_events, load_file, locate_file, open_samples
from onward.data.five import load_five, locate_five
from onward.data.folders import VARIABLE, data_folder
from onward.data.image_folder import FolderDataset, RandomWindow, load_folders, locate_folders
from onward.data.images import SOURCES
from onward.data.loader import Augment
from onward.data.mini_imagenet import load_mini_imagenet, locate_mini_imagenet
from onward.data.nmnist import SimulatorChoice, load_simulation, locate_simulation
from onward.data.notmnist import load_notmnist, locate_notmnist
from onward.data.published import PUBLISHED, Published
from onward.data.rows import Rows
from onward.data.shd import load_shd, locate_shd
from onward.data.simulator import SENSOR

datasets: Registry[Split] = Registry("data set")

for _source in SOURCES:
    datasets.register(_source.name, ImageChoice, _source.load, _source.summary, facts={"locate": _source.locate})
datasets.register(
    "notmnist",
    PicturesChoice,
    load_notmnist,
    "the letters A to J in many fonts, grey, 28 x 28; 529,119 + 18,724 PNG files, or a part of the latter",
    facts={"locate": locate_notmnist},
)
datasets.register(
    "five-datasets",
    PicturesChoice,
    load_five,
    "cifar10, mnist, svhn, fashion-mnist and notmnist as one set of 50 classes, in colour, 32 x 32",
    facts={"locate": locate_five},
)
datasets.register(
    "mini-imagenet",
    PicturesChoice,
    load_mini_imagenet,
    "100 classes of 600 colour pictures, 84 x 84, of which a sixth is held out",
    facts={"locate": locate_mini_imagenet},
    defaults={"holdout": 1 / 6},
)
datasets.register(
    "image-folder",
    FolderChoice,
    load_folders,
    "colour pictures of your own, or ImageNet: train and val with a folder a class, decoded as they are needed",
    facts={"locate": locate_folders},
    defaults={"flip": True},
)
for _recorded in EVENT_SOURCES:
    datasets.register(
        _recorded.name,
        _recorded.config,
        _recorded.load,
        _recorded.summary,
        facts={"locate": _recorded.locate, "side": _recorded.side},
    )
datasets.register(
    "shd",
    RecordedChoice,
    load_shd,
    "spoken digits as spikes of 700 channels of a model of the ear, 20 classes; 8,156 + 2,264, in HDF5",
    facts={"locate": locate_shd},
)
datasets.register(
    "file", FileChoice, load_file, "arrays of your own: an .npz file with x and y", facts={"locate": locate_file}
)
datasets.register(
    "events",
    EventsChoice,
    load_events,
    "event-camera recordings of your own: an .npz file with x, y, p, t, offsets and label",
    facts={"locate": locate_file},
)
datasets.register(
    "nmnist-sim",
    SimulatorChoice,
    load_simulation,
    "MNIST as an event camera records it in three saccades, 2 x 34 x 34; simulated",
    facts={"locate": locate_simulation},
)


def load(choice: Choice | Mapping | str) -> Split:
    """The data set that ``choice`` describes, cut to its limits.

    Raises `DataError` when its files are missing or damaged.

    >>> split = load({"name": "mnist", "limit": 1000})
    >>> len(split.train), len(split.test), split.train.features
    (1000, 10000, (1, 28, 28))
    """
    parsed = datasets.parse(choice)
    split = datasets.build(parsed)
    if not isinstance(parsed, DataChoice):
        return split
    train, test = spread(split.train, parsed.limit), spread(split.test, parsed.limit_test)
    return Split(_by_rows(train, parsed), _by_rows(test, parsed))


def _by_rows(dataset: Dataset, choice: Choice) -> Dataset:
    """The data set as ``choice`` shows it: whole pictures, or their rows."""
    return Rows(dataset, choice.rows) if isinstance(choice, DataChoice) and choice.rows else dataset


def augmentation(choice: Choice, seed: int) -> Augment | None:
    """The seeded augmentation that ``choice`` asks for, for a `Loader`; None where it asks for none."""
    changes, before = _image_changes(choice), _changes_before(choice)
    return Augmentation(changes, seed, before) if changes or before else None


def _image_changes(choice: Choice) -> list[Change[Tensor]]:
    """Those of images."""
    if not isinstance(choice, ImageFields):
        return []
    changes: list[Change[Tensor]] = []
    if isinstance(choice, ImageChoice) and choice.crop:
        changes.append(PadCrop(choice.crop))
    if choice.flip:
        changes.append(Flip())
    if choice.cutout:
        changes.append(Cutout(choice.cutout))
    return changes


def _changes_before(choice: Choice) -> Ordered[Change[Any]]:
    """Those of samples as they are stored."""
    if isinstance(choice, RecordingFields):
        return event_changes(choice)
    return [RandomWindow(choice.smallest)] if isinstance(choice, FolderChoice) and choice.random_crop else []


def open_file(path: Path, like: Choice, *, split: str | None = None) -> Dataset:
    """All samples of an .npz file, to evaluate a network that was trained on ``like``.

    The file holds x and y, or recordings; its keys tell which. Recordings are binned, arrays laid out and scaled, as
    ``like`` says where it says so. ``split`` keeps the recordings of that split only. Raises `DataError` otherwise.
    """
    return _by_rows(open_samples(path, like, _scale(path, like), _sensor(like), split), like)


def _sensor(like: Choice) -> tuple[int, int]:
    """Rows and columns of what ``like`` was recorded with; those of N-MNIST where it was not."""
    if isinstance(like, EventsChoice):
        return like.height, like.width
    side = datasets.entry(like.name).facts.get("side", SENSOR)
    return side, side


def _scale(path: Path, like: Choice) -> Scale | None:
    """How ``like`` normalised what a network was trained on; None where it did not."""
    if not isinstance(like, ImageFields) or not like.normalise:
        return None
    train = datasets.build(like).train
    if not isinstance(train, ArrayDataset | FolderDataset):
        raise DataError(
            f"{path}: {like.name} normalises each of its sets in another way, and which one these samples are like is "
            "not known; evaluate on the sets themselves, or train with --no-data.normalise"
        )
    return train.scale


class Listing(NamedTuple):
    """A line of ``onward data list``: ``where`` is a place when ``found``, else what to do."""

    name: str
    summary: str
    found: bool
    where: str


def listing() -> list[Listing]:
    """Every data set, and whether and where it is on this machine; reads no data."""
    return [_listed(name) for name in datasets.names()]


def _listed(name: str) -> Listing:
    entry = datasets.entry(name)
    try:
        return Listing(name, entry.summary, True, entry.facts["locate"](entry.parse({})))
    except DataError as missing:
        return Listing(name, entry.summary, False, str(missing))


class Obtained(NamedTuple):
    """A data set that is on this machine now: its folder, the files that had to be fetched, the flags that name it."""

    name: str
    folder: str
    fetched: list[str]
    flags: str


def obtain(name: str, root: Path | None = None, context: ssl.SSLContext | None = None) -> Obtained:
    """Fetches the data set ``name`` into a subfolder of ``root``, verified; what is there as it must be stays.

    Without a ``root`` it goes where `load` looks, unless it is found elsewhere already. ``context`` takes the place of
    the system's certificates. Raises `DataError` for a set that is not published, and where fetching fails.

    >>> obtain("mnist").fetched  # it is inside the package
    []
    """
    published, found = _published(name), _listed(name)
    home = data_folder() if root is None else root.expanduser().absolute()
    if root is None and found.found and Path(found.where) != home / published.subfolder:
        return Obtained(name, found.where, [], f"--data {name}")
    try:
        fetched = published.get(home, context)
    except NotFetched as error:
        raise DataError(f"{error}. {_by_hand(published, home, name)}") from None
    folder = str(home / published.subfolder)
    return Obtained(name, folder, fetched, f"--data {name}" + _root_flag(name, home, folder))


def _published(name: str) -> Published:
    entry = datasets.entry(name)
    if name not in PUBLISHED:
        raise DataError(f"{name} is not fetched ({entry.summary}); these are: {', '.join(sorted(PUBLISHED))}")
    return PUBLISHED[name]


def _root_flag(name: str, root: Path, folder: str) -> str:
    return "" if _listed(name).where == folder else f" --data.root {root}"


def _by_hand(published: Published, root: Path, name: str) -> str:
    folder, remotes = published.by_hand(root)
    files = ", ".join(f"{remote.known} from {remote.url}" for remote in remotes)
    return (
        f"Without a network: put {files} into {folder}, then run `onward data get {name} --to {root}`, and "
        f"point to it with --data.root {root} or {VARIABLE}={root}"
    )
