"""From a configuration to everything that training needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onward._tensors import fingerprint
from onward.core import (
    GradSink,
    KeyedDraws,
    LearningRule,
    Network,
    Objective,
    Outcome,
    Sequence,
    Sink,
    run_sequence,
)
from onward.core.errors import ConfigError
from onward.core.glue import turn
from onward.core.graph import Kind
from onward.core.group import ALONE, Group, Share
from onward.core.interpret import Record, shapes
from onward.core.objective import objectives
from onward.core.run import auto_chunk, fit_chunk
from onward.data import Batch, Dataset, Loader, Subset, augmentation
from onward.data.loader import Mixed
from onward.data.streams import Stream, StreamChoice, streams
from onward.distil import Teaching, distils
from onward.optim import files_read, optimizers, parameter_groups, schedules
from onward.rules import rules
from onward.train.bounds import bounded
from onward.train.checkpoint import Trained
from onward.train.config import RunConfig
from onward.train.flips import Flips
from onward.train.folder import Interface
from onward.train.inherit import start
from onward.train.leakage import Starts
from onward.train.networks import build_network, check_device
from onward.train.observe import Observer, probe_batch
from onward.train.rectified import start_thresholds
from onward.train.teacher import read_teacher, teacher_files
from onward.train.update import Updater
from onward.transforms import Transform, Updates, freeze_after_first, transforms
from onward.transforms.choices import ProjectionOptions

DEFAULT_STEPS = 6
PRODUCTS = {"f32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Parts:
    """A network, what teaches it, and what it learns from, on one device."""

    net: Network
    rule: LearningRule
    objective: Objective
    teaching: Teaching
    grads: GradSink
    sink: Transform
    updater: Updater
    draws: KeyedDraws
    trained: Trained
    stream: Stream
    starts: Starts
    flips: Flips
    lesson: int
    loader: Loader
    validation: Loader | None
    tests: tuple[Loader, ...]
    interface: Interface
    device: str
    chunk: int
    group: Group
    norms: Group
    observer: Observer
    files: Mapping[str, Mapping[str, int | str]]

    def share(self, number: int) -> Share:
        """This process's part of mini-batch ``number`` of an epoch."""
        return self.share_of(self.loader, number)

    def share_of(self, loader: Loader, number: int) -> Share:
        """This process's part of mini-batch ``number`` of ``loader``."""
        return Share(loader.size(number), loader.part(number).start, self.group, self.norms)

    @property
    def judge(self) -> Loader:
        """What tells how well the network does: held-out data, or the tests of the lesson's own task (the last one)."""
        return self.validation or self.tests[self.task]

    @property
    def judged_on(self) -> str:
        """What the judge's data are called."""
        return "validation" if self.validation else "test"

    @property
    def task(self) -> int:
        """The task of the lesson at hand; of several, the last one."""
        return self.stream.lessons[self.lesson][-1]

    def looked_at(self) -> Batch | None:
        """The samples that layers are looked at on, if there are any."""
        judge, samples = self.judge, self.observer.probe.samples
        return probe_batch(judge.dataset, samples, judge.steps, self.device) if samples else None

    def observed(self, epoch: int) -> dict[str, Any]:
        """What there is to note after an epoch, for the run's page."""
        batch = self.looked_at()
        return {} if batch is None else self.observer(self.net, self.rule, self.objective, batch, epoch)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The mini-batches of an epoch from number ``first`` on, on the device."""
        return map(self.on_device, self.loader.epoch(epoch, first))

    def on_device(self, batch: Batch) -> Batch:
        """The same mini-batch where the network is."""
        return batch._replace(x=batch.x.to(self.device), y=batch.y.to(self.device))

    def run(
        self,
        batch: Batch,
        number: int,
        share: Share | None = None,
        *,
        sink: Sink | None = None,
        after_step: Callable[[], None] | None = None,
        watch: Callable[[Record], None] | None = None,
    ) -> Outcome:
        """One sequence of a mini-batch on the device: deposits, and no update but what ``after_step`` does.

        ``number`` keys its draws; deposits go to ``sink``, by default the transform. A teacher is asked first.
        """
        turn(self.net, batch.task)
        objective = self.teaching(self.objective, self.net, batch.x, self.chunk)
        return run_sequence(
            self.net,
            self.rule,
            objective,
            batch.x,
            batch.y,
            sink or self.sink,
            draws=self.draws,
            ids=batch.ids,
            sequence=number,
            chunk=self.chunk,
            share=share,
            after_step=after_step,
            watch=watch,
        )

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
        held = {"validation": self.validation.dataset} if self.validation is not None else {}
        splits = {name: self._recorded(data) for name, data in {**self._splits(), **held}.items()}
        return {**splits, **self.files}

    def _splits(self) -> dict[str, Dataset]:
        if len(self.tests) == 1:
            return {"train": self.loader.dataset, "test": self.tests[0].dataset}
        each = {task.name: task.split for task in self.stream.tasks}
        named = ({f"{name}, train": split.train, f"{name}, test": split.test} for name, split in each.items())
        return dict(chain.from_iterable(splits.items() for splits in named))

    def _recorded(self, data: Dataset) -> dict[str, Any]:
        return {"samples": len(data), "sha256": data.fingerprint(self.loader.steps)}


def assemble(config: RunConfig, group: Group = ALONE) -> tuple[Parts, RunConfig]:
    """Builds what ``config`` describes, and the same configuration with nothing left to be decided.

    Of a stream, these are the parts of its first lesson; `turned` makes those of the others. Each process of ``group``
    gets its own part of the data; weights and feedback start as the first process has them.
    Raises `OnwardError` when data, network, rule and objective do not fit, or the device is not there.
    """
    device = check_device(config.device)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    stream = streams.build(config.stream, config.data, config.seed)
    first = stream.tasks[0].split.train
    steps = resolve_steps(first, config.train.steps)
    interface = Interface(tuple(first.features), stream.classes, stream.heads)
    teaching = distils.build(config.distil, lambda path: read_teacher(path, interface, device))
    net = build_network(config, interface)
    rule = rules.build(config.rule)
    told = {f"rule.{option}": fingerprint(path) for option, path in rule.files().items()}
    files = {**files_read(config.optim), **told, **teacher_files(config.distil), **start(config, net)}
    net = net.to(device)
    start_thresholds(config.train, net, first, steps)
    config = config.model_copy(update={"objective": resolve_objective(config)})
    objective, draws = objectives.build(config.objective), KeyedDraws(config.seed)
    check_stream(config, rule)
    teaching.check(objective)
    sample = first.batch(torch.arange(1), steps).x.to(device)
    rule.bind(net, objective, sample, draws)
    rule.to(device)
    chunk = resolve_chunk(config, net, rule, sample, draws)
    resolved = {"steps": steps, "chunk": chunk, "threads": torch.get_num_threads()}
    config = config.model_copy(update={"train": config.train.model_copy(update=resolved)})
    loader, held = _lesson(config, stream, 0, group)
    grads = GradSink(net, PRODUCTS[config.precision], group)
    sink = _transform(config, net, grads, rule, draws, stream)
    starts, flips = Starts(net, len(stream.lessons) > 1), Flips(net)
    updater = _learner_of(config, net, rule, sink, config.train.epochs * len(loader))
    parts = Parts(
        net=net,
        rule=rule,
        objective=objective,
        teaching=teaching,
        grads=grads,
        sink=sink,
        updater=updater,
        draws=draws,
        trained=Trained(net, rule, updater.optimizer, remembered(sink, starts, flips)),
        stream=stream,
        starts=starts,
        flips=flips,
        lesson=0,
        loader=loader,
        validation=held,
        tests=tuple(_judge(config, task.split.test, group) for task in stream.tasks),
        interface=interface,
        device=device,
        chunk=chunk,
        group=group,
        norms=group if config.train.norm == "synchronised" else ALONE,
        observer=Observer(config.probe, config.rule, draws, chunk),
        files=files,
    )
    check_parts(parts)
    parts.equalise()
    return parts, config


def turned(parts: Parts, config: RunConfig, lesson: int) -> Parts:
    """The parts of another lesson of the stream: its data, and an optimiser that starts anew.

    ``config`` is resolved, as `assemble` returns it. Beyond the first lesson, `freeze_after_first` holds what must not
    move.
    """
    if lesson > 0 and cast(StreamChoice, config.stream).freeze:
        freeze_after_first(parts.net, parts.sink)
    loader, held = _lesson(config, parts.stream, lesson, parts.group)
    total = config.train.epochs * len(loader)
    updater = _learner_of(config, parts.net, parts.rule, parts.sink, total)
    trained = replace(parts.trained, optimizer=updater.optimizer)
    found = replace(parts, lesson=lesson, loader=loader, validation=held, updater=updater, trained=trained)
    check_parts(found)
    return found


def remembered(transform: Transform, starts: Starts, flips: Flips) -> nn.Module:
    """What is kept of earlier tasks and epochs, for checkpoints."""
    return nn.ModuleDict({"transform": transform.modules, "starts": starts, "flips": flips})


def _lesson(config: RunConfig, stream: Stream, lesson: int, group: Group) -> tuple[Loader, Loader | None]:
    """What a lesson learns from, and what it holds out."""
    numbers, fraction = stream.lessons[lesson], config.train.validation
    halves = [hold_out(stream.tasks[number].split.train, fraction, config.seed) for number in numbers]
    loaders = [
        _loader(config, data, (config.seed + (number << 20)) % 2**63, group)
        for number, (data, _) in zip(numbers, halves, strict=True)
    ]
    held = halves[0][1]
    judge = None if held is None else _judge(config, held, group)
    return (loaders[0] if len(loaders) == 1 else Mixed(loaders, config.train.workers)), judge


def _loader(config: RunConfig, data: Dataset, seed: int, group: Group) -> Loader:
    assert config.train.steps is not None
    return Loader(
        data,
        config.train.batch_size,
        config.train.steps,
        seed=seed,
        augment=augmentation(config.data, seed),
        workers=config.train.workers,
        drop_last=config.train.drop_last,
        group=group,
    )


def _judge(config: RunConfig, data: Dataset, group: Group) -> Loader:
    assert config.train.steps is not None
    return Loader(data, config.train.batch_size, config.train.steps, shuffle=False, group=group)


def _running(net: Network) -> list[Tensor]:
    """The running means and variances of normalisation layers."""
    return [buffer for node in net.of(Kind.NORM) for buffer in node.module.buffers() if buffer.is_floating_point()]


def check_stream(config: RunConfig, rule: LearningRule) -> None:
    """Raises `ConfigError` for settings that have no meaning where tasks follow one another."""
    choice = config.stream
    if config.transform.name != "none" and (not isinstance(choice, StreamChoice) or choice.joint):
        raise ConfigError(
            f"transform {config.transform.name} protects what earlier tasks taught, and there is one lesson only; add "
            "a stream of tasks such as --stream permuted-mnist (without --stream.joint), or leave out --transform"
        )
    if not isinstance(choice, StreamChoice):
        return
    if config.train.validation:
        raise ConfigError(
            "train.validation chooses an epoch on held-out data, and in a stream of tasks each goes on from where the "
            "one before it ended; leave it out"
        )
    if choice.replay and rule.traits.updates == "step":
        raise ConfigError(
            "stream.replay adds up the gradients of all tasks, and this rule updates after every time step; leave out "
            "--rule.schedule step, or --stream.replay"
        )


def check_parts(parts: Parts) -> None:
    """Raises `ConfigError` where some process would have no part in a mini-batch, or in a test."""
    size, loader = parts.group.size, parts.loader
    if loader.size(len(loader) - 1) < size:
        raise ConfigError(
            f"the last mini-batch of an epoch has {loader.size(len(loader) - 1)} samples, fewer than the {size} "
            "processes; add --train.drop-last, or choose another --train.batch-size"
        )
    for judge in (parts.validation, *parts.tests):
        if judge is not None and judge.size(0) < size:
            raise ConfigError(
                f"{judge.size(0)} samples to test on cannot be shared by {size} processes; use fewer processes"
            )


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


def learner(
    options: Any, net: Network, rule: nn.Module, sink: Sink, total: int, guard: Callable[[Optimizer], Updates]
) -> Updater:
    """What turns deposits in ``sink`` into ``total`` updates, with an optimiser that starts anew."""
    groups = parameter_groups(net, rule, options.weight_decay, options.decay_all)
    if not groups:
        raise ConfigError("the network has no parameters to train; add a layer with weights")
    optimizer, schedule = optimizers.build(options, groups), schedules.build(options.schedule)
    return Updater(sink, optimizer, schedule, total, options.clip, net, rule, updates=guard(optimizer))


def _learner_of(config: RunConfig, net: Network, rule: LearningRule, sink: Transform, total: int) -> Updater:
    """As `learner`; what a run is configured to do around every step is done."""
    return learner(config.optim, net, rule, sink, total, lambda optimizer: bounded(config, net, sink.guard(optimizer)))


def _transform(
    config: RunConfig, net: Network, grads: GradSink, rule: LearningRule, draws: KeyedDraws, stream: Stream
) -> Transform:
    """The configured transform; heads that belong to one task need no protection."""
    choice = config.transform
    if stream.own_heads and isinstance(choice, ProjectionOptions):
        heads = [node.name for node in net.synapses if net.exposed(node)]
        choice = choice.model_copy(update={"unprotected": (*choice.unprotected, *heads)})
    return transforms.build(choice, net, grads, rule, draws, len(stream.lessons))
