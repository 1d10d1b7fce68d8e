"""The configuration of a run: the flags of `onward train`, and ``config.toml`` in a run's folder."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from onward.core.errors import ConfigError
from onward.core.objective import objectives
from onward.core.registry import Choice
from onward.data import datasets
from onward.data.streams import streams
from onward.distil import DistilChoice, distils
from onward.models import models
from onward.neurons import neurons
from onward.optim import optimizers
from onward.rules import rules
from onward.transforms import TransformChoice, transforms
from onward.weights import weight_kinds

DataField = Annotated[SerializeAsAny[Choice], BeforeValidator(datasets.parse)]
StreamField = Annotated[SerializeAsAny[Choice], BeforeValidator(streams.parse)]
ModelField = Annotated[SerializeAsAny[Choice], BeforeValidator(models.parse)]
NeuronField = Annotated[SerializeAsAny[Choice], BeforeValidator(neurons.parse)]
RuleField = Annotated[SerializeAsAny[Choice], BeforeValidator(rules.parse)]
ObjectiveField = Annotated[SerializeAsAny[Choice], BeforeValidator(objectives.parse)]
WeightsField = Annotated[SerializeAsAny[Choice], BeforeValidator(weight_kinds.parse)]
OptimField = Annotated[SerializeAsAny[Choice], BeforeValidator(optimizers.parse)]


class TrainConfig(BaseModel):
    """How long, how much at a time, and what is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=5, ge=0, description="passes over the training data")
    batch_size: int = Field(default=128, ge=1, description="samples in a mini-batch")
    steps: int | None = Field(
        default=None, ge=1, description="time steps of a sequence; none: the data's own number, or 6"
    )
    chunk: int | None = Field(
        default=None, ge=1, description="time steps computed at once; changes no result; none: up to 32 in about 384 MB"
    )
    validation: float = Field(
        default=0.0, ge=0, lt=1, description="fraction of the training data held out to choose the epoch"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many evaluations without a better one; needs train.validation",
    )
    keep_best: bool = Field(default=True, description="with train.validation: report the best epoch, not the last")
    eval_every: int = Field(default=1, ge=1, description="epochs from one evaluation to the next")
    save_every: int | None = Field(
        default=None, ge=1, description="mini-batches from one checkpoint to the next; none: one at the end of an epoch"
    )
    keep: int = Field(default=2, ge=1, description="how many of the last checkpoints stay, besides the best one")
    on_nonfinite: Literal["stop", "skip", "f32"] = Field(
        default="stop",
        description="on NaN or infinity: stop; skip the mini-batch; or learn it, and all after it, in full precision",
    )
    drop_last: bool = Field(
        default=False, description="leave out the last mini-batch of an epoch where it is incomplete"
    )
    norm: Literal["replica", "synchronised"] = Field(
        default="replica",
        description="statistics of batch normalisation where several processes train: of each process, or of all",
    )
    workers: int = Field(
        default=0, ge=0, description="processes that prepare mini-batches ahead of time; changes no result"
    )
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads; none: torch's own choice")
    compile: bool = Field(
        default=False, description="torch.compile for recurrences that have no kernel; needs a C++ compiler on a CPU"
    )
    init_from: str | None = Field(
        default=None, description="folder of an earlier run, whose weights training starts from; none: fresh ones"
    )
    init_thresholds: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="learned thresholds start as this percentile of the activations of the ReLU network with the same "
        "weights; none: as the neuron says",
    )
    out: str = Field(default="runs", description="folder in which the run's folder is made")

    @model_validator(mode="after")
    def _patience_has_a_judge(self) -> Self:
        if self.patience is not None and self.validation == 0:
            raise ConfigError(
                "train.patience stops on held-out accuracy, and nothing is held out; "
                "add train.validation, such as --train.validation 0.1"
            )
        return self


class ProbeConfig(BaseModel):
    """What is noted after every epoch, on a few samples, for the run's page; no result depends on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(
        default=64, ge=0, description="samples of the test (or held-out) data that layers are looked at on; 0: none"
    )
    credit_every: int | None = Field(
        default=None,
        ge=1,
        description="epochs from one comparison of gradients with BP's and BPTT's to the next; none: never",
    )
    draws: int = Field(
        default=4, ge=1, description="gradients of the rule that a comparison takes, for bias and spread"
    )


class RunConfig(BaseModel):
    """Everything that decides a run's result.

    >>> config = RunConfig.model_validate({"rule": "bptt", "train": {"epochs": 2}})
    >>> config.rule.name, config.train.epochs, config.data.name
    ('bptt', 2, 'mnist')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataField = Field(default=datasets.parse("mnist"), description="what is learned")
    stream: StreamField = Field(default=streams.parse("none"), description="tasks that are learned one after the other")
    model: ModelField = Field(default=models.parse("mlp"), description="the network's layers")
    weights: WeightsField = Field(
        default=weight_kinds.parse("real"), description="what the layers compute with: real numbers, or one bit each"
    )
    neuron: NeuronField = Field(default=neurons.parse("lif"), description="the neurons between the layers")
    rule: RuleField = Field(default=rules.parse("opzo"), description="how credit is assigned")
    transform: TransformChoice = Field(
        default=transforms.parse("none"), description="what keeps earlier tasks of a stream from being forgotten"
    )
    objective: ObjectiveField = Field(
        default=objectives.parse({"name": "per-step", "kappa": 0.05}), description="what is minimised"
    )
    distil: DistilChoice = Field(
        default=distils.parse("none"), description="whose word counts beside that of the labels"
    )
    optim: OptimField = Field(default=optimizers.parse("adam"), description="how gradients become updates")
    train: TrainConfig = Field(default=TrainConfig(), description="how long, how much at a time, what is kept")
    probe: ProbeConfig = Field(
        default=ProbeConfig(), description="what is noted for the run's page; no result depends on it"
    )
    seed: int = Field(default=0, description="fixes initial weights, order of samples, and noise")
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    precision: Literal["f32", "bf16"] = Field(
        default="f32", description="of products in training; membranes, feedback and sums stay in f32"
    )

    @model_validator(mode="after")
    def _device_is_known(self) -> Self:
        known_device(self.device)
        return self


def known_device(device: str) -> str:
    """``device``, if it is a name of one; raises `ConfigError`."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device {device!r} was given; expected cpu, cuda or cuda:N")
    return device
