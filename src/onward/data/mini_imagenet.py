"""mini-ImageNet: 100 classes of 600 colour pictures, one folder a class; shown 84 x 84.

Vinyals et al., Matching Networks for One Shot Learning, 2016.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from onward.core.errors import DataError
from onward.data.arrays import ArrayDataset, fixed_scale
from onward.data.choices import PicturesChoice
from onward.data.dataset import Split
from onward.data.files import holdout_by_class
from onward.data.folders import VARIABLE, candidates
from onward.data.pictures import Decoder, picture_files, read_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 100
SIDE = 84
PARTS = ("train", "val", "test")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, of values in [0, 1]."""


def _coloured(picture: Image) -> Image:
    """In three channels, squeezed to a square; one that has the size is not sampled anew."""
    from PIL.Image import Resampling

    coloured = picture.convert("RGB")
    return coloured if coloured.size == (SIDE, SIDE) else coloured.resize((SIDE, SIDE), Resampling.LANCZOS)


DECODER = Decoder(("JPEG", "PNG"), 3, SIDE, _coloured, Path(__file__))


def find_classes(root: str | None) -> tuple[Path, list[list[Path]]]:
    """The folder, and the files of its 100 classes in the order of their names; raises `DataError` where none is."""
    places = candidates("mini-imagenet", root)
    found = [(place, _classes(place)) for place in places]
    for place, classes in found:
        if len(classes) == CLASSES:
            return place, [classes[name] for name in sorted(classes)]
    told = " and ".join(f"{len(classes)} in {place}" for place, classes in found)
    raise DataError(
        f"mini-imagenet: looked for {CLASSES} folders of pictures, one a class, and found {told}. Put all classes into "
        f"a folder named mini-imagenet, or into {', '.join(PARTS)} in it, and give its parent with --data.root or "
        f"{VARIABLE}"
    )


def _classes(place: Path) -> dict[str, list[Path]]:
    """The pictures in each folder of ``place``, and of its parts; folders of one name are one class."""
    classes = defaultdict(list)
    for home in (place, *(place / part for part in PARTS)):
        for folder in home.glob("*"):
            if folder.name not in PARTS:
                classes[folder.name] += picture_files(folder)
    return {name: files for name, files in classes.items() if files}


def locate_mini_imagenet(choice: PicturesChoice) -> str:
    """The folder of the class folders; raises `DataError` where there is none."""
    return str(find_classes(choice.root)[0])


def load_mini_imagenet(choice: PicturesChoice) -> Split:
    """A seeded split of each class; normalised by ImageNet's statistics if the options ask for it."""
    x, y = read_pictures("mini-imagenet", find_classes(choice.root)[1], DECODER, choice.skip_unreadable)
    scale = fixed_scale(MEAN, STD) if choice.normalise else None
    rows = holdout_by_class(y, choice.holdout, choice.holdout_seed)
    train, test = (ArrayDataset(x[part], y[part], classes=CLASSES, name=choice.name, scale=scale) for part in rows)
    return Split(train, test)
