"""Training: configurations, the loop, run folders, checkpoints."""

from onward._tensors import CheckpointError
from onward.train.checkpoint import Trained
from onward.train.config import RunConfig, TrainConfig
from onward.train.events import BatchDone, Ended, EpochDone, Event, OnEvent, Saved, Started, Warned
from onward.train.fit import Diverged, fit
from onward.train.folder import RunFolder
from onward.train.grammar import load, parse_tokens
from onward.train.launch import (
    Evaluation,
    Subject,
    Summary,
    evaluate_run,
    examine,
    members_of,
    subject_of,
    train,
)
from onward.train.log import Log, scalars, to_log
from onward.train.members import Members, members
from onward.train.networks import load_network
from onward.train.parts import Parts, assemble
from onward.train.resume import resume
from onward.train.score import Score, score
from onward.train.state import Fitted, Progress

__all__ = [
    "BatchDone",
    "CheckpointError",
    "Diverged",
    "Ended",
    "EpochDone",
    "Evaluation",
    "Event",
    "Fitted",
    "Log",
    "Members",
    "OnEvent",
    "Parts",
    "Progress",
    "RunConfig",
    "RunFolder",
    "Saved",
    "Score",
    "Started",
    "Subject",
    "Summary",
    "TrainConfig",
    "Trained",
    "Warned",
    "assemble",
    "evaluate_run",
    "examine",
    "fit",
    "load",
    "load_network",
    "members",
    "members_of",
    "parse_tokens",
    "resume",
    "scalars",
    "score",
    "subject_of",
    "to_log",
    "train",
]
