"""Data: named sets, files and arrays of one's own, event recordings, mini-batches, augmentation."""

from onward.data.arrays import ArrayDataset, FramesLayout, Layout, Scale, StaticLayout, from_torch
from onward.data.augment import Augmentation, Change, Cutout, Flip, PadCrop
from onward.data.binning import (
    Binary,
    Binning,
    ByDuration,
    Counts,
    EventDataset,
    FixedWidth,
    Reading,
    event_dataset,
)
from onward.data.catalogue import Listing, Obtained, augmentation, datasets, listing, load, obtain, open_file
from onward.data.dataset import Batch, Dataset, Split, Subset, spread
from onward.data.event_changes import DropAny, DropArea, DropEvents, DropTime, EventShift
from onward.data.foreign_events import from_events
from onward.data.image_folder import RandomWindow
from onward.data.loader import Augment, Loader
from onward.data.raw import Raw
from onward.data.recordings import Recordings, read_recordings, write_recordings

__all__ = [
    "ArrayDataset",
    "Augment",
    "Augmentation",
    "Batch",
    "Binary",
    "Binning",
    "ByDuration",
    "Change",
    "Counts",
    "Cutout",
    "Dataset",
    "DropAny",
    "DropArea",
    "DropEvents",
    "DropTime",
    "EventDataset",
    "EventShift",
    "FixedWidth",
    "Flip",
    "FramesLayout",
    "Layout",
    "Listing",
    "Loader",
    "Obtained",
    "PadCrop",
    "RandomWindow",
    "Raw",
    "Reading",
    "Recordings",
    "Scale",
    "Split",
    "StaticLayout",
    "Subset",
    "augmentation",
    "datasets",
    "event_dataset",
    "from_events",
    "from_torch",
    "listing",
    "load",
    "obtain",
    "open_file",
    "read_recordings",
    "spread",
    "write_recordings",
]
