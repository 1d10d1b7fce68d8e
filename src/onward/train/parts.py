"""From a configuration to everything that training needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import GradSink, KeyedDraws, LearningRule, Network, Objective, Sequence
from onward.core.errors import ConfigError
from onward.core.graph import Kind
from onward.core.group import ALONE, Group, Share
from onward.core.interpret import shapes
from onward.core.objective import objectives
from onward.core.run import auto_chunk, fit_chunk
from onward.data import Batch, Dataset, Loader, Subset, augmentation, load
from onward.models import models
from onward.neurons import neurons
from onward.optim import files_read, optimizers, parameter_groups, schedules
from onward.rules import rules
from onward.train.checkpoint import Trained
from onward.train.config import RunConfig, known_device
from onward.train.folder import Interface
from onward.train.update import Updater

DEFAULT_STEPS = 6
PRODUCTS = {"f32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Parts:
    """A network, what teaches it, and what it learns from, on one device."""

    net: Network
    rule: LearningRule
    objective: Objective
    sink: GradSink
    updater: Updater
    draws: KeyedDraws
    trained: Trained
    loader: Loader
    validation: Loader | None
    test: Loader
    interface: Interface
    device: str
    chunk: int
    group: Group
    norms: Group
    files: Mapping[str, Mapping[str, int | str]]

    def share(self, number: int) -> Share:
        """This process's part of mini-batch ``number`` of an epoch."""
        return Share(self.loader.size(number), self.loader.part(number).start, self.group, self.norms)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The mini-batches of an epoch from number ``first`` on, on the device."""
        for batch in self.loader.epoch(epoch, first):
            yield Batch(batch.x.to(self.device), batch.y.to(self.device), batch.ids)

    def update(self) -> None:
        """Flush, check, clip, step; running statistics that processes took apart become their mean."""
        if self.norms.size < self.group.size:
            for buffer in _running(self.net):
                self.sink.total(buffer / self.group.size, buffer.copy_)
        self.updater()

    def equalise(self) -> None:
        """Gives every process the weights, statistics, feedback and moments that the first one has."""
        for tensors in self.trained.tensors().values():
            self.group.copy_(list(tensors.values()))

    def data_record(self) -> dict[str, Any]:
        """What tells whether all that was read is the same: sizes and hashes of every split, the held-out one included,
        and of files that the configuration names."""
        loaders = {"train": self.loader, "validation": self.validation, "test": self.test}
        splits = {
            split: {"samples": len(loader.dataset), "sha256": loader.dataset.fingerprint(loader.steps)}
            for split, loader in loaders.items()
            if loader is not None
        }
        return {**splits, **self.files}


def assemble(config: RunConfig, group: Group = ALONE) -> tuple[Parts, RunConfig]:
    """Builds what ``config`` describes, and the same configuration with nothing left to be decided.

    Each process of ``group`` gets its own part of the data; weights and feedback start as the first process has them.
    Raises `OnwardError` when data, network, rule and objective do not fit, or the device is not there.
    """
    device = check_device(config.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    split = load(config.data)
    steps = resolve_steps(split.train, config.train.steps)
    train, held = hold_out(split.train, config.train.validation, config.seed)
    net = build_network(config, split.train.features, split.train.classes).to(device)
    config = config.model_copy(update={"objective": resolve_objective(config)})
    rule, objective, draws = rules.build(config.rule), objectives.build(config.objective), KeyedDraws(config.seed)
    sample = split.train.batch(torch.arange(1), steps).x.to(device)
    rule.bind(net, objective, sample, draws)
    rule.to(device)
    chunk = resolve_chunk(config, net, rule, sample, draws)
    size = config.train.batch_size
    loader = Loader(
        train,
        size,
        steps,
        seed=config.seed,
        augment=augmentation(config.data, config.seed),
        workers=config.train.workers,
        drop_last=config.train.drop_last,
        group=group,
    )
    sink = GradSink(net, PRODUCTS[config.precision], group)
    updater = _updater(config.optim, net, rule, sink, config.train.epochs * len(loader))
    parts = Parts(
        net=net,
        rule=rule,
        objective=objective,
        sink=sink,
        updater=updater,
        draws=draws,
        trained=Trained(net, rule, updater.optimizer),
        loader=loader,
        validation=Loader(held, size, steps, shuffle=False, group=group) if held else None,
        test=Loader(split.test, size, steps, shuffle=False, group=group),
        interface=Interface(tuple(split.train.features), split.train.classes),
        device=device,
        chunk=chunk,
        group=group,
        norms=group if config.train.norm == "synchronised" else ALONE,
        files=files_read(config.optim),
    )
    check_parts(parts)
    parts.equalise()
    resolved = {"steps": steps, "chunk": chunk, "threads": torch.get_num_threads()}
    return parts, config.model_copy(update={"train": config.train.model_copy(update=resolved)})


def _running(net: Network) -> list[Tensor]:
    """The running means and variances of normalisation layers."""
    return [buffer for node in net.of(Kind.NORM) for buffer in node.module.buffers() if buffer.is_floating_point()]


def check_parts(parts: Parts) -> None:
    """Raises `ConfigError` where some process would have no part in a mini-batch, or in a test."""
    size, loader = parts.group.size, parts.loader
    if loader.size(len(loader) - 1) < size:
        raise ConfigError(
            f"the last mini-batch of an epoch has {loader.size(len(loader) - 1)} samples, fewer than the {size} "
            "processes; add --train.drop-last, or choose another --train.batch-size"
        )
    for judge in (parts.validation, parts.test):
        if judge is not None and judge.size(0) < size:
            raise ConfigError(
                f"{judge.size(0)} samples to test on cannot be shared by {size} processes; use fewer processes"
            )


def build_network(config: RunConfig, features: tuple[int, ...], classes: int) -> Network:
    """The configured network for samples of shape ``features``, with initial weights fixed by the seed."""
    torch.manual_seed(config.seed)
    return models.build(config.model, features, classes, lambda: neurons.build(config.neuron))


def check_device(device: str) -> str:
    """``device``, if it is there; raises `ConfigError` with the fix."""
    if known_device(device) == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device {device} was asked for, but torch {torch.__version__} sees no CUDA device; "
            "use --device cpu, or install a CUDA build of torch and a driver"
        )
    index, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        raise ConfigError(
            f"device {device} was asked for, but there are {count} (numbered from 0); use --device cuda:0"
        )
    _open(device)
    return device


def _open(device: str) -> None:
    """A first product forward and backward: both threads have a context then, else torch warns that one has none."""
    one = torch.ones(1, 1, device=device, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.mm(one).sum().backward()


def resolve_steps(data: Dataset, asked: int | None) -> int:
    """The number of time steps: what was asked for, else the data's own, else 6."""
    return asked or data.steps or DEFAULT_STEPS


def resolve_objective(config: RunConfig) -> Any:
    """The configured objective; a weighted mean of outputs takes the leak of the neurons unless it has its own."""
    objective: Any = config.objective
    if getattr(objective, "reduce", None) != "weighted" or objective.decay is not None:
        return objective
    return objective.model_copy(update={"decay": getattr(config.neuron, "leak", 1.0)})


def hold_out(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """The data to learn from, and the fraction of it that is only looked at; drawn by ``seed``."""
    if fraction == 0:
        return data, None
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    count = min(max(round(fraction * len(data)), 1), len(data) - 1)
    return Subset(data, order[count:].sort().values), Subset(data, order[:count].sort().values)


def resolve_chunk(config: RunConfig, net: Network, rule: LearningRule, sample: Sequence, draws: KeyedDraws) -> int:
    """The configured chunk, or that of `auto_chunk`, as far as network and rule can take it."""
    chunk = config.train.chunk or auto_chunk(shapes(net, sample, draws), config.train.batch_size, sample.steps)
    return fit_chunk(net, rule, min(chunk, sample.steps), sample.steps, online=rule.traits.updates == "step")


def _updater(options: Any, net: Network, rule: nn.Module, sink: GradSink, total: int) -> Updater:
    groups = parameter_groups(net, rule, options.weight_decay, options.decay_all)
    if not groups:
        raise ConfigError("the network has no parameters to train; add a layer with weights")
    optimizer = optimizers.build(options, groups)
    return Updater(sink, optimizer, schedules.build(options.schedule), total, options.clip, net, rule)
