"""notMNIST: the letters A to J in many fonts, 28 x 28, grey, as folders of PNG files.

``notMNIST_small`` was cleaned by hand, ``notMNIST_large`` was not
(http://yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onward.core.errors import DataError
from onward.data.choices import PicturesChoice
from onward.data.dataset import Split
from onward.data.files import holdout_by_class
from onward.data.folders import VARIABLE, candidates
from onward.data.images import Part, image_split
from onward.data.pictures import Decoder, picture_files, read_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDERS = ("notMNIST_large", "notMNIST_small")
LETTERS = "ABCDEFGHIJ"
SIDE = 28


def _grey(picture: Image) -> Image:
    if picture.size != (SIDE, SIDE):
        raise ValueError(f"it is {picture.width} x {picture.height}; expected {SIDE} x {SIDE}")
    return picture.convert("L")


DECODER = Decoder(("PNG",), 1, SIDE, _grey, Path(__file__))


def find_notmnist(root: str | None) -> list[Path]:
    """The large and the small folder, or the one that is there; raises `DataError` where none is."""
    places = candidates("notmnist", root)
    for place in places:
        found = [place / name for name in FOLDERS if all((place / name / letter).is_dir() for letter in LETTERS)]
        if found:
            return found
    raise DataError(
        f"notmnist: looked for {' or '.join(FOLDERS)} with folders A to J in {' or '.join(map(str, places))}. They are "
        "offered at http://yaroslavvb.com/upload/notMNIST/ (.tar.gz); unpack one or both into a folder named notmnist, "
        f"and give its parent with --data.root or {VARIABLE}"
    )


def locate_notmnist(choice: PicturesChoice) -> str:
    """The folder that holds the large or the small one; raises `DataError` where there is none."""
    return str(find_notmnist(choice.root)[0].parent)


def read_notmnist(choice: PicturesChoice) -> tuple[Part, Part]:
    """The large folder to train on and the small one to test on, or a seeded split of the one that is there."""
    parts = [_read(folder, choice.skip_unreadable) for folder in find_notmnist(choice.root)]
    if len(parts) == 2:
        return parts[0], parts[1]
    x, y = parts[0]
    train, test = holdout_by_class(y, choice.holdout, choice.holdout_seed)
    return (x[train], y[train]), (x[test], y[test])


def _read(folder: Path, skip_unreadable: bool) -> tuple[np.ndarray, np.ndarray]:
    return read_pictures(folder.name, [picture_files(folder / letter) for letter in LETTERS], DECODER, skip_unreadable)


def load_notmnist(choice: PicturesChoice) -> Split:
    """See `read_notmnist`; normalised by the training part's statistics if the options ask for it."""
    return image_split(choice, read_notmnist(choice), len(LETTERS))
