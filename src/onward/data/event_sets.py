"""The event data sets that have a name: where the files of each are found, and which recordings they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onward.core.errors import DataError
from onward.data.aedat import SIDE, Listed, read_aedat2, read_aedat3
from onward.data.choices import DvsCifarChoice, RecordedChoice
from onward.data.dataset import Split, spread_rows
from onward.data.files import held_out, holdout_by_class
from onward.data.folders import VARIABLE, candidates
from onward.data.gestures import CLASSES, read_gestures, read_list
from onward.data.nmnist_files import read_nmnist
from onward.data.recorded import Filed, Trial, filed_test, filed_train

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Trials = tuple[Sequence[Trial], Sequence[Trial]]


class EventSource(NamedTuple):
    """An event data set in files of its own format, on a sensor of ``side`` x ``side`` pixels.

    A folder holds it that has all of ``files``, which ``advice`` says how to get; ``trials(folder, options)`` are the
    recordings to train on and to test on, ``read`` lists the events of a file.
    """

    name: str
    summary: str
    side: int
    classes: int
    files: Sequence[str]
    advice: str
    trials: Callable[[Path, RecordedChoice], Trials]
    read: Callable[[Path], Listed]
    config: type[RecordedChoice] = RecordedChoice

    def find(self, root: str | None) -> Path:
        """The folder of the files; raises `DataError`, which says how to get them, where there is none."""
        places = candidates(self.name, root)
        for place in places:
            if all((place / file).exists() for file in self.files):
                return place
        raise DataError(
            f"{self.name}: looked for {', '.join(self.files)} in {' or '.join(map(str, places))}. {self.advice} into a "
            f"folder named {self.name}, and give its parent with --data.root or {VARIABLE}"
        )

    def locate(self, choice: RecordedChoice) -> str:
        """See `find`."""
        return str(self.find(choice.root))

    def load(self, choice: RecordedChoice) -> Split:
        """The recordings to train on and to test on, as many as the limits let be read."""
        train, test = self.trials(self.find(choice.root), choice)
        return Split(
            filed_train(self._filed(train, choice.limit), choice, self.classes),
            filed_test(self._filed(test, choice.limit_test), choice, self.classes),
        )

    def _filed(self, trials: Sequence[Trial], limit: int | None) -> Filed:
        rows = spread_rows(len(trials), limit).tolist()
        return Filed([trials[row] for row in rows], self.read, self.side, self.side)


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files in the order of the numbers in their names, or else of their names."""
    files = [file for file in folder.glob(f"*{suffix}") if not file.name.startswith(".")]
    if not files:
        raise DataError(f"{folder}: holds no {suffix} file; expected one for each recording")
    return sorted(files, key=lambda file: (int("".join(re.findall(r"\d+", file.stem)[-1:]) or 0), file.name))


def _of_classes(folder: Path, classes: Sequence[str], suffix: str) -> list[Trial]:
    return [Trial(file, label) for label, name in enumerate(classes) for file in _files(folder / name, suffix)]


def _nmnist(folder: Path, _choice: RecordedChoice) -> Trials:
    digits = [str(digit) for digit in range(10)]
    return _of_classes(folder / "Train", digits, ".bin"), _of_classes(folder / "Test", digits, ".bin")


def _gestures(folder: Path, _choice: RecordedChoice) -> Trials:
    """Those of the trials that the two lists name."""
    train, test = (
        [folder / name for name in read_list(folder / f"trials_to_{part}.txt")] for part in ("train", "test")
    )
    return _gestures_of(train), _gestures_of(test)


def _gestures_of(files: Sequence[Path]) -> list[Trial]:
    return [
        Trial(file, gesture.label, gesture.start, gesture.stop)
        for file in files
        for gesture in read_gestures(file.with_name(f"{file.stem}_labels.csv"))
    ]


def _dvs_cifar10(folder: Path, choice: RecordedChoice) -> Trials:
    """Nine of ten recordings of each class and the others, the last ones or those that a seed draws."""
    assert isinstance(choice, DvsCifarChoice)
    whole = _of_classes(folder, CIFAR_CLASSES, ".aedat")
    labels = np.array([trial.label for trial in whole])
    if choice.test_part == "seeded":
        train, test = holdout_by_class(labels, choice.holdout, choice.holdout_seed)
    else:
        train, test = _last_of_each(labels, choice.holdout)
    return [whole[row] for row in train], [whole[row] for row in test]


def _last_of_each(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and the last ones of every class, both ascending; ``labels`` ascend."""
    sizes = np.bincount(labels)
    held = np.array([held_out(size, fraction) for size in sizes.tolist()])
    last = np.arange(len(labels)) >= np.repeat(np.cumsum(sizes) - held, sizes)
    return np.flatnonzero(~last), np.flatnonzero(last)


EVENT_SOURCES = (
    EventSource(
        "nmnist",
        "MNIST before an event camera that made three saccades, 2 x 34 x 34; 60,000 + 10,000 .bin files",
        34,
        10,
        ("Train", "Test"),
        "They are offered at https://www.garrickorchard.com/datasets/n-mnist (Train.zip, Test.zip); unpack them",
        _nmnist,
        read_nmnist,
    ),
    EventSource(
        "dvs-gesture",
        "gestures of hands and arms before an event camera, 2 x 128 x 128, 11 classes; .aedat files and their labels",
        SIDE,
        CLASSES,
        ("trials_to_train.txt", "trials_to_test.txt"),
        "They are offered at https://research.ibm.com/dvsgesture/ (DvsGesture.tar.gz); unpack it",
        _gestures,
        read_aedat3,
    ),
    EventSource(
        "dvs-cifar10",
        "10,000 images of CIFAR-10 that moved before an event camera, 2 x 128 x 128; .aedat files, a tenth held out",
        SIDE,
        len(CIFAR_CLASSES),
        CIFAR_CLASSES,
        "They are offered at https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671 (a .zip for each class); "
        "unpack all",
        _dvs_cifar10,
        read_aedat2,
        DvsCifarChoice,
    ),
)
