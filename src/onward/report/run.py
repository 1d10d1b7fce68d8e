"""The page of one run: ``report.html`` in its folder, made of what the folder holds and of nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onward._durable import write_whole
from onward.core.errors import ConfigError
from onward.core.registry import Registry
from onward.credit import locals_, spatials, temporals
from onward.report import panels
from onward.report.credit import credit
from onward.report.layers import layers, samples
from onward.report.page import Html, Section, facts, figure, grid, html, joined, page, paragraph, table
from onward.report.record import Epoch, Record, Result, read
from onward.report.words import bytes_of, counted, docstring, duration, percent
from onward.rules import rules
from onward.train.folder import PAGE, RunFolder
from onward.train.launch import interval
from onward.train.schema import shown


def write_page(folder: RunFolder) -> Path:
    """Writes the page of a run and says where it is.

    Raises `ConfigError` or `CheckpointError` in one line where the folder is foreign or damaged, or cannot be
    written to. Cost: well under a second.
    """
    text, path = run_page(read(folder)), folder.path / PAGE
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path}: the page cannot be written ({error.strerror or error})") from None
    return path


def run_page(record: Record) -> str:
    """The page of a run, as HTML."""
    config = record.config
    title = f"{config.rule.name} on {config.data.name}, {config.model.name}"
    return page(title, filter(None, _sections(record)), joined(*_lead(record)))


def _sections(record: Record) -> Iterator[Section | None]:
    yield learning(record)
    yield tasks(record)
    yield confusion(record)
    yield samples(record)
    yield layers(record)
    yield credit(record)
    yield effort(record)
    yield energy(record)
    yield equations(record)
    yield configuration(record)
    yield environment(record)


def _lead(record: Record) -> Iterator[Html]:
    config = record.config
    yield paragraph(f"Run {record.name}. {_sentence(rules.entry(config.rule.name).summary)}", "caption")
    if record.result is None:
        going = f"{counted(len(record.epochs), 'epoch')} of {record.config.train.epochs} so far"
        yield paragraph(f"This run has not come to its end: {going}.", "warning")
    for text in _alarms(record.epochs):
        yield paragraph(text, "warning")
    yield facts(dict(_headline(record)))


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _alarms(epochs: list[Epoch]) -> Iterator[str]:
    """What was wrong with layers in the last epoch, and how much was left out."""
    yield from epochs[-1].alarms[:8] if epochs else ()
    if skipped := sum(epoch.skipped for epoch in epochs):
        yield f"{counted(skipped, 'mini-batch')} could not be learned from and were left out: NaN or infinity."


Fact = tuple[str, tuple[Any, Any]]


def _headline(record: Record) -> Iterator[Fact]:
    config, result = record.config, record.result
    if result is not None:
        yield from _outcome(record, result)
    elif scored := [epoch for epoch in record.epochs if epoch.score]:
        last = scored[-1]
        assert last.score
        yield f"{last.judged_on} accuracy", (percent(last.score.accuracy), f"after epoch {last.epoch}")
    sizes = {k: v for k, v in config.model.model_dump().items() if isinstance(v, (int, float, list, tuple))}
    built = [f"{k.replace('_', ' ')} {shown(v)}" for k, v in sizes.items() if not isinstance(v, bool)]
    neurons = f"{config.neuron.name} neurons, {counted(config.train.steps or 1, 'time step')}"
    yield "network", (config.model.name, ", ".join([*built[:3], neurons]))
    if result is not None:
        yield "parameters", (f"{result.parameters:,}", f"{config.weights.name} weights, trained")
        yield "time", (duration(result.seconds), f"{counted(result.epochs, 'epoch')} and tests, on {_device(record)}")
        yield "memory", (bytes_of(result.peak_bytes), _memory_of(record))


def _outcome(record: Record, result: Result) -> Iterator[Fact]:
    if result.test_accuracy is None:
        return
    condition, tested = result.reported, record.confusion
    if result.stream is None and tested is not None and tested.on == "test":
        count = sum(map(sum, tested.counts))
        if count:
            low, high = interval(result.test_accuracy, count)
            condition += f"; {counted(count, 'sample')}, 95 % interval {low:.2f} to {high:.2f}"
    yield "test accuracy", (percent(result.test_accuracy), condition)
    if result.stream is not None and result.stream.backward is not None:
        yield "forgetting", (f"{result.stream.backward:+.2f}", "points since each task was learned (BWT)")


def _memory_of(record: Record) -> str:
    return f"for one update of {record.config.train.batch_size} samples, beyond parameters, optimiser and data"


def _device(record: Record) -> str:
    """The device in words."""
    cuda = record.environment.get("cuda")
    if record.config.device.startswith("cuda") and cuda:
        return str(cuda)
    return f"{record.config.device}, {counted(record.config.train.threads or 1, 'thread')}"


def learning(record: Record) -> Section | None:
    """Loss and accuracy over epochs."""
    if not record.epochs:
        return None
    loss, accuracy = "loss", "accuracy (%)"
    judged = record.epochs[-1].judged_on
    trained = {"training": [(k, e.loss) for k, e in enumerate(record.epochs, 1)]}
    tested = {judged: [(k, e.score.loss) for k, e in enumerate(record.epochs, 1) if e.score]}
    right = {
        "training": [(k, e.accuracy) for k, e in enumerate(record.epochs, 1)],
        judged: [(k, e.score.accuracy) for k, e in enumerate(record.epochs, 1) if e.score],
    }
    pictures = [
        figure(panels.lines(loss, _known({**trained, **tested}), "epoch")),
        figure(panels.lines(accuracy, _known(right), "epoch")),
    ]
    lessons = " Epochs of all lessons follow one another." if record.epochs[-1].lesson else ""
    caption = (
        "Training values are means over the epoch, while the weights move and, with rules that inject noise, under "
        f"that noise; {judged} values are taken after it, without.{lessons}"
    )
    return Section("Learning curves", grid([*pictures, *_told(record)]), caption)


def _known(series: Mapping[str, Iterable[tuple[float, float | None]]]) -> dict[str, list[tuple[float, float]]]:
    """The series without what is not known."""
    return {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}


def _told(record: Record) -> Iterator[Html]:
    """What the rule, binary weights and surrogates told after every epoch, a picture for each kind."""
    kinds: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for place, epoch in enumerate(record.epochs, 1):
        for name, value in epoch.rule.items():
            kind, _, layer = name.partition("/")
            kinds.setdefault(kind, {}).setdefault(layer or kind, []).append((place, value))
        for kind, values in (("sign flips", epoch.flips), ("active slopes", epoch.active)):
            for layer, value in values.items():
                kinds.setdefault(kind, {}).setdefault(layer, []).append((place, value))
    for kind, series in list(kinds.items())[:8]:
        yield figure(panels.over_epochs(kind, _known(series)))


def tasks(record: Record) -> Section | None:
    """What is right of every task after every lesson of a stream."""
    stream = record.result.stream if record.result else None
    if stream is None:
        return None
    rows = {"before": stream.matrix[0], **{f"lesson {k}": row for k, row in enumerate(stream.matrix[1:], 1)}}
    names = f"Tasks 1 to {len(stream.tasks)}: {', '.join(stream.tasks[:40])}." if stream.tasks else ""
    caption = (
        "Percent that are right of each task (column), tested after each lesson (row). What pales downwards was "
        "forgotten."
    )
    picture = panels.table_of_shades("accuracy (%) of every task", rows, "task")
    return Section("Tasks", joined(figure(picture), paragraph(names, "caption")), caption)


def confusion(record: Record) -> Section | None:
    """Which class was taken for which."""
    found = record.confusion
    if found is None or not found.counts:
        return None
    worst = sorted(_errors(found.counts), reverse=True)[:3]
    words = ", ".join(f"{i} for {j} ({count})" for count, i, j in worst)
    where = f" of the task of lesson {found.lesson + 1}" if record.config.stream.name != "none" else ""
    caption = (
        f"{counted(sum(map(sum, found.counts)), 'sample')} of the {found.on} data{where}, after epoch {found.epoch}. "
        "Blue: the share of a class that is right; orange, by its root so that few can be seen: what it was taken for."
        + (f" Most often: {words}." if words else "")
    )
    picture = panels.shades("samples by class and prediction", found.counts, "prediction", "class")
    return Section("Confusion", Html(f'<div class="narrow">{figure(picture)}</div>'), caption)


def _errors(counts: list[list[int]]) -> Iterator[tuple[int, int, int]]:
    for i, row in enumerate(counts):
        yield from ((count, i, j) for j, count in enumerate(row) if i != j and count)


def effort(record: Record) -> Section | None:
    """Time and memory."""
    if not record.epochs:
        return None
    traits, result = rules.build(record.config.rule).traits, record.result
    pace = {"training": [(k, e.samples_per_second) for k, e in enumerate(record.epochs, 1)]}
    tested = {
        "testing": [
            (k, e.score.samples / e.score.seconds)
            for k, e in enumerate(record.epochs, 1)
            if e.score and e.score.seconds
        ]
    }
    rows: list[tuple[str, str]] = [
        ("memory in the number of time steps", traits.memory),
        ("back-propagation", {"none": "none", "step": "within each step", "time": "through time"}[traits.backward]),
        ("transposed weights", "needed" if traits.weight_transport else "not needed"),
    ]
    if result is not None:
        rows += [
            ("peak memory", f"{bytes_of(result.peak_bytes)}, {_memory_of(record)}"),
            ("training speed", f"{result.samples_per_second:,.0f} samples a second, loading and updates included"),
            ("in all", f"{duration(result.seconds)} from start to test"),
        ]
    looked = [e.observed.credit.seconds for e in record.epochs if e.observed.credit]
    if looked:
        rows.append(("comparing gradients", f"{duration(sum(looked))} of it, on {counted(len(looked), 'occasion')}"))
    speed = figure(panels.lines("samples a second", _known({**pace, **tested}), "epoch", bounds=[0]))
    body = grid([speed, table(rows)], least=420)
    return Section("Time and memory", body, f"Measured on {_device(record)}.")


def energy(record: Record) -> Section | None:
    """What one sample takes, where its operations were counted."""
    found = record.result.energy if record.result else None
    if found is None:
        return None
    rows = [
        ("spikes", f"{found.spikes:,.0f}"),
        ("synaptic operations", f"{found.synaptic_operations:,.0f}, of which {found.multiplications:,.0f} multiply"),
        ("energy", f"{found.nanojoules:,.1f} nJ"),
        ("energy of the same network without spikes", f"{found.without_spikes_nanojoules:,.1f} nJ"),
    ]
    told = f"Of one sample, a mean over {counted(found.samples, 'sample')}: operations, times what each costs"
    return Section("Energy", table(rows), f"{told} ({found.technology}). onward energy RUN tells it by layer.")


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested mappings, with its name."""
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, f"{value:.4g}" if isinstance(value, float) else shown(value)


AXES: dict[str, Registry] = {"temporal": temporals, "spatial": spatials, "local": locals_}


def equations(record: Record) -> Section:
    """How the rule learns, in its own words."""
    choice = record.config.rule
    entry = rules.entry(choice.name)
    chosen = {axis: getattr(choice, axis).name for axis in AXES if hasattr(choice, axis)}
    parts = [_document(entry.build)]
    for axis, name in chosen.items():
        if name != "none":
            heading = Html(f"<h3>{html(axis.capitalize())} credit: {html(name)}</h3>")
            parts += [heading, _document(AXES[axis].entry(name).build)]
    source = (
        f"Paper: {entry.facts.get('paper', 'not stated')}. Published: {entry.facts.get('published', 'not stated')}. "
    )
    return Section("The rule", joined(*parts), f"{source}Inferred: {entry.facts.get('inferred', 'not stated')}.")


def _document(build: Any) -> Html:
    """What the module of a registered choice says of it."""
    return docstring(sys.modules[build.__module__].__doc__ or "")


def configuration(record: Record) -> Section:
    """Every setting."""
    tree = record.config.model_dump()
    plain = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    groups = {"run": plain, **{key: value for key, value in tree.items() if isinstance(value, Mapping)}}
    parts = [joined(Html(f"<h3>{html(name)}</h3>"), table(_flat(values))) for name, values in groups.items() if values]
    caption = "As resolved at the start; config.toml in the run's folder holds the same, and starts the same run again."
    return Section("Configuration", grid(parts), caption)


def environment(record: Record) -> Section:
    """Versions, hardware and data."""
    data = {name: dict(found) for name, found in record.data.items() if isinstance(found, Mapping)}
    rows = [(name, *_data_row(found)) for name, found in data.items()]
    parts = [joined(Html("<h3>Programs and hardware</h3>"), table(_flat(record.environment)))]
    if rows:
        parts.append(joined(Html("<h3>Data</h3>"), table(rows, ["split", "samples", "SHA-256 begins"])))
    if record.result and record.result.fingerprint:
        parts.append(
            joined(Html("<h3>What was learned</h3>"), table([("SHA-256 begins", record.result.fingerprint[:16])]))
        )
    return Section("Environment", grid(parts))


def _data_row(found: Mapping[str, Any]) -> tuple[str, str]:
    count = found.get("samples")
    return f"{count:,}" if isinstance(count, int) else "", str(found.get("sha256", ""))[:16]
