"""The options of each data set: what ``--data.FIELD`` sets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onward.core.registry import Choice


class DataChoice(Choice):
    """Options of every data set."""

    limit: int | None = Field(
        default=None, ge=1, description="train on at most this many samples, evenly spaced over the set"
    )
    limit_test: int | None = Field(default=None, ge=1, description="test on at most this many samples, evenly spaced")
    rows: int = Field(
        default=0, ge=0, description="show so many frames of a picture or recording row by row, a step each; 0: whole"
    )


class RootFields(DataChoice):
    """Data in a folder that is looked for."""

    root: str | None = Field(
        default=None, description="folder of the files, or its parent; default: ONWARD_DATA, or the platform's folder"
    )


class ImageFields(RootFields):
    """Still images: one frame, shown at every time step."""

    normalise: bool = Field(default=False, description="zero mean and unit variance per channel, instead of [0, 1]")
    flip: bool = Field(default=False, description="augmentation: mirror left and right with probability 1/2")
    cutout: int = Field(default=0, ge=0, description="augmentation: zeros in a square of this side at random; 0: off")


class ImageChoice(ImageFields):
    """Still images of one size."""

    crop: int = Field(default=0, ge=0, description="augmentation: pad by this many pixels, crop at random; 0: off")


class SkipFields(DataChoice):
    """What becomes of files that cannot be decoded."""

    skip_unreadable: bool = Field(
        default=False, description="leave out files that cannot be decoded, and name them; else one of them is an error"
    )


class FolderChoice(ImageFields, SkipFields):
    """Picture files of any size in folders train and val, decoded when a mini-batch needs them."""

    size: int = Field(default=224, ge=1, le=4096, description="rows and columns that a network sees")
    resize: int = Field(
        default=256, ge=1, le=8192, description="without augmentation: the shorter side before the middle is cut out"
    )
    random_crop: bool = Field(default=True, description="augmentation: show a random part of the picture, resized")
    smallest: float = Field(default=0.08, gt=0, le=1, description="augmentation: that part's least share of the area")


class PicturesChoice(ImageChoice, SkipFields):
    """Still images that are picture files, one folder a class."""

    holdout: float = Field(
        default=0.1, gt=0, lt=1, description="test on this fraction of each class where there is no test part"
    )
    holdout_seed: int = Field(default=0, description="chooses which samples are set aside")


class HoldoutChoice(DataChoice):
    """Data of one's own, which may need a test part set aside."""

    file: str | None = Field(default=None, description="the .npz file")
    holdout: float = Field(default=0.2, gt=0, lt=1, description="test on this fraction where the file has no test part")
    holdout_seed: int = Field(default=0, description="chooses which samples are set aside")
    classes: int | None = Field(default=None, ge=2, description="number of classes; default: the largest label plus 1")


class FileChoice(HoldoutChoice):
    """Arrays x and y, optionally x_test and y_test."""

    layout: Literal["static", "frames"] = Field(
        default="static", description="axes of x: static = [N, *features], frames = [N, T, *features]"
    )


class BinningFields(DataChoice):
    """How events become time steps."""

    bin_us: int | None = Field(
        default=None, ge=1, description="width of a time step in microseconds; default: equal parts of each recording"
    )
    counts: bool = Field(
        default=False, description="an input is the number of its events in the step, instead of 0 or 1"
    )


class RecordingFields(BinningFields):
    """How recordings are changed before they are binned."""

    event_drop: Literal["events", "time", "area", "any"] | None = Field(
        default=None,
        description="augmentation: lose random events, those of a time, or of an area; any: one of these, or none",
    )
    event_drop_most: float = Field(
        default=0.3, gt=0, le=1, description="augmentation: largest share of events, duration or sides that is lost"
    )
    event_shift: int = Field(default=0, ge=0, description="augmentation: move by up to this many pixels; 0: off")


class RecordedChoice(RecordingFields, RootFields):
    """Recordings in files of their own format."""


class DvsCifarChoice(RecordedChoice):
    """Recordings of which nobody published which to train on."""

    test_part: Literal["last", "seeded"] = Field(
        default="last", description="test on the last recordings of each class, or on those that a seed draws"
    )
    holdout: float = Field(default=0.1, gt=0, lt=1, description="test on this fraction of each class")
    holdout_seed: int = Field(default=0, description="chooses which samples are set aside")


class EventsChoice(HoldoutChoice, RecordingFields):
    """A file of event-camera recordings."""

    split: str | None = Field(
        default=None, description="use this split only; default: train on 'train', test on 'test' where both exist"
    )
    height: int = Field(default=34, ge=1, description="rows of the sensor")
    width: int = Field(default=34, ge=1, description="columns of the sensor")
