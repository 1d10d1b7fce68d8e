"""Going on with a run that was cut short, as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import TypeAdapter, ValidationError

from onward._tensors import CheckpointError
from onward.core.errors import ConfigError
from onward.core.group import ALONE, Group
from onward.kernels.choice import pin
from onward.train import checkpoint
from onward.train.config import RunConfig
from onward.train.events import OnEvent, Warned, ignore
from onward.train.folder import CONFIG, DATA, DONE, ENV, METRICS, RunFolder, environment
from onward.train.grammar import with_flags
from onward.train.launch import Summary, carry_out, train
from onward.train.parts import Parts, assemble, turned
from onward.train.schema import shown
from onward.train.state import Fitted

COMPARED = ("packages", "machine", "capability", "variables", "cuda")
"""Parts of the environment that can change a result in its last bits."""


def resume(
    path: Path,
    changes: Sequence[str] = (),
    *,
    force: bool = False,
    on_event: OnEvent = ignore,
    group: Group = ALONE,
) -> Summary:
    """Continues the run in ``path`` from its last intact checkpoint to its end.

    On a CPU the result is that of a run in one piece, bit for bit: weights, optimiser, feedback, order of samples,
    noise, metrics. A run that has ended is left as it is. Raises `ConfigError` where something is not as it was
    (program versions, data, or the configuration, through the flags ``changes``); ``force`` goes on nevertheless.
    Every process of ``group`` reads the configuration; the first one alone reads checkpoints, and writes.
    """
    began, folder = perf_counter(), RunFolder.open(path)
    with folder.held() if group.rank == 0 else nullcontext():
        recorded = folder.config()
        config = with_flags(changes, recorded)
        if config == recorded and (folder.path / DONE).is_file():
            return finished(folder)
        parts, resolved = assemble(config, group)
        fitted = Fitted()
        if group.rank == 0:
            parts, fitted = restore(folder, parts, resolved, on_event)
            obstacles = [*_settings(recorded, config), *_obstacles(folder, parts, fitted)]
            _overcome(path, obstacles, force, on_event)
            _note_processes(folder.record(ENV).get("processes", 1), group.size, on_event)
            if obstacles or not (folder.path / DATA).is_file():
                folder.begin(resolved, parts.interface, parts.data_record(), group.size)
            (folder.path / DONE).unlink(missing_ok=True)
        parts, fitted = shared(fitted, parts, resolved)
        first = folder if group.rank == 0 else None
        return carry_out(parts, resolved, first, fitted, on_event, config.rule.name, began)


def _overcome(path: Path, obstacles: Sequence[str], force: bool, on_event: OnEvent) -> None:
    if obstacles and not force:
        raise ConfigError(
            f"{path} cannot be continued as if it had not been cut short: {'; '.join(obstacles)}. "
            "Add --force to go on nevertheless"
        )
    for obstacle in obstacles:
        on_event(Warned(f"not as before: {obstacle}"))


def _note_processes(before: Any, now: int, on_event: OnEvent) -> None:
    if before != now:
        on_event(Warned(f"the run had {before} processes and has {now}: sums are rounded in another order"))


def _obstacles(folder: RunFolder, parts: Parts, fitted: Fitted) -> Iterator[str]:
    """What is not as it was when the run was cut short."""
    yield from environment_changes(folder.record(ENV))
    yield from _data(folder.record(DATA), parts)
    yield from _metrics(folder, fitted)


def shared(fitted: Fitted, parts: Parts, config: RunConfig) -> tuple[Parts, Fitted]:
    """What the first process has read, in every process; each takes the ways of its kernels from it."""
    told = parts.group.gather(json.dumps(fitted.to_json()) if parts.group.rank == 0 else "")
    fitted = Fitted.from_json(json.loads(told[0]))
    parts = at_lesson(parts, config, fitted)
    parts.equalise()
    pin(fitted.own(parts.group).ways)
    return parts, fitted


def at_lesson(parts: Parts, config: RunConfig, fitted: Fitted) -> Parts:
    """The parts of the lesson that ``fitted`` stands at; past the end, those of the last one."""
    lesson = min(fitted.progress.lesson, len(parts.stream.lessons) - 1)
    return parts if lesson == parts.lesson else turned(parts, config, lesson)


def train_on(config: RunConfig, on_event: OnEvent = ignore, group: Group = ALONE) -> Summary:
    """Continues the newest run of ``config`` in ``config.train.out``; trains a new one where there is none.

    What a launcher that restarts processes needs: the same command again goes on where the last one was cut short.
    """
    path = group.gather(str(newest_run(config) or ""))[0]
    return resume(Path(path), on_event=on_event, group=group) if path else train(config, on_event, group=group)


def newest_run(config: RunConfig) -> Path | None:
    """The newest run of ``config``; what ``config`` leaves open may be anything."""
    runs = (RunFolder(path.parent) for path in sorted(Path(config.train.out).glob(f"*/{CONFIG}"), reverse=True))
    left_open = {name: None for name, value in config.train if value is None}
    for folder in runs:
        recorded = folder.config()
        if recorded.model_copy(update={"train": recorded.train.model_copy(update=left_open)}) == config:
            return folder.path
    return None


def finished(folder: RunFolder) -> Summary:
    """The summary of a run that came to its end."""
    try:
        return TypeAdapter(Summary).validate_python(folder.record(DONE))
    except ValidationError:
        raise CheckpointError(f"{folder.path / DONE}: is no summary of a run; delete it and resume again") from None


def restore(folder: RunFolder, parts: Parts, config: RunConfig, on_event: OnEvent) -> tuple[Parts, Fitted]:
    """Loads the newest intact checkpoint into ``parts``, or into those of the lesson that it was written in.

    Without one, the run starts at its beginning.
    """
    path = folder.newest(lambda text: on_event(Warned(text)))
    if path is None:
        on_event(Warned(f"{folder.path} holds no complete checkpoint: it starts at its beginning"))
        return parts, Fitted()
    fitted = Fitted.from_json(checkpoint.read_state(path))
    parts = at_lesson(parts, config, fitted)
    checkpoint.read_modules(path, parts.net, parts.rule, parts.trained.transform)
    checkpoint.read_optimizer(path, parts.updater.optimizer)
    return parts, fitted


def _metrics(folder: RunFolder, fitted: Fitted) -> Iterator[str]:
    """Cuts the metrics back to the checkpoint; says what is missing."""
    kept, expected = folder.rewind(fitted.progress.logged), fitted.progress.logged
    if kept < expected:
        yield f"{METRICS} holds {kept} of the {expected} lines that were written"
        fitted.progress.logged = kept


def _settings(before: RunConfig, now: RunConfig) -> Iterator[str]:
    return _differences("", before.model_dump(), now.model_dump())


def environment_changes(before: Mapping[str, Any]) -> Iterator[str]:
    """What differs between the recorded environment and this one, in words."""
    now = environment()
    return _differences("", {k: before.get(k) for k in COMPARED}, {k: now[k] for k in COMPARED})


def _data(before: Mapping[str, Any], parts: Parts) -> Iterator[str]:
    """What was read and has changed; a folder of a run that was killed before it wrote it has nothing to compare."""
    now = parts.data_record() if before else {}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            file = "bytes" in {**before, **now}[name]
            changed = f"the file of {name} has" if file else f"the {name} data have"
            yield f"{changed} changed ({_size(before, name)}, now {_size(now, name)})"


def _size(record: Mapping[str, Any], name: str) -> str:
    found = record.get(name)
    if not isinstance(found, Mapping):
        return "none"
    unit = "bytes" if "bytes" in found else "samples"
    return f"{found[unit]:,} {unit} with hash {found['sha256'][:8]}"


def _differences(place: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys(chain(before, now)):
            yield from _differences(f"{place}.{key}".lstrip("."), before.get(key), now.get(key))
    elif before != now:
        yield f"{place} was {shown(before)} and is {shown(now)}"
