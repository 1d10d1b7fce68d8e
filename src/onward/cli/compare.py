"""``onward compare``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.cli import INTERRUPTED
from onward.cli.output import Json, console, emit
from onward.comparison import Compared, ComparisonFolder, Plan, Row, compared, record, write
from onward.comparison import compare as run
from onward.comparison.folder import PLAN
from onward.comparison.rows import chosen, configured, read_recipe
from onward.comparison.table import shown_measures, words
from onward.core.errors import ConfigError, UnknownName
from onward.core.registry import Choice
from onward.credit import spatials
from onward.launch import Launcher, Outcome
from onward.launch import chosen as launcher_called
from onward.rules import rules as registry
from onward.train import RunConfig
from onward.train.folder import write_json
from onward.train.grammar import Request, parse_flags
from onward.train.interrupt import as_ctrl_c
from onward.train.ranks import several
from onward.train.schema import shown

EPOCHS = tuple(parse_flags(["--train.epochs", "2"]))
"""Where none are given."""
RULES = "bp,dfa,opzo"
BRIEF = ("test_accuracy", "test_loss", "backward", "peak_mib", "update_ms", "energy_nj")
"""The measures that fit on a terminal; the page has all."""
FAILED = 1

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def compare(
    *tokens: Tokens,
    rules: Annotated[str | None, Parameter(help="Names, with commas between; default: the recipe's rows.")] = None,
    datasets: Annotated[str | None, Parameter(help="Names of data sets, with commas between.")] = None,
    seeds: Annotated[str | None, Parameter(help="Numbers, with commas between; default: the recipe's.")] = None,
    row: Annotated[list[str] | None, Parameter(help="A row of the recipe; may be given again.", negative="")] = None,
    to: Annotated[Path | None, Parameter(help="The folder; default: a new one in train.out.")] = None,
    launcher: Annotated[str, Parameter(help="local, ray or slurm.")] = "local",
    cores: Annotated[int | None, Parameter(help="Cores that local trainings share; default: all.")] = None,
    threads: Annotated[int | None, Parameter(help="Threads of each training; default: its share of the cores.")] = None,
    slurm: Annotated[str, Parameter(help="For Slurm: partition=gpu,timeout-min=600.")] = "",
    json: Json = False,
) -> int:
    """Trains rules, or the rows of a recipe, on data sets with seeds, and shows them side by side.

    Everything else is as in `onward train`, a recipe and flags included; without them, two epochs of MNIST. A rule
    that brings a network, neuron or objective of its own gets it unless recipe or flags say otherwise. The folder of a
    comparison goes on where it was cut short.
    """
    if several():
        raise ConfigError("onward compare starts its trainings itself; start it without torchrun")
    _check(threads)
    if any((rules, datasets, seeds, row, threads)) or (begun := _begun(tokens, to)) is None:
        plan = planned(tokens, rules, datasets, _numbers(seeds), row, threads)
        folder, out = ComparisonFolder(to) if to else None, Path(plan.rows[0].config.train.out)
    else:
        folder, out = ComparisonFolder.open(begun), begun
        plan = folder.plan()
    where = folder.path if folder else out
    runs = launcher_called(launcher, cores, where / "slurm", slurm)  # before a folder is made that stays empty
    code, told = carry_out(plan, folder or ComparisonFolder.create(out, plan), runs, console(json))
    emit(json, told)
    return code


def carry_out(plan: Plan, folder: ComparisonFolder, launcher: Launcher, out: Console) -> tuple[int, Mapping[str, Any]]:
    """Runs what is missing, writes and shows what has come of it; returns the exit code and the record."""
    folder.begin(plan)
    failed, interrupted = list[Outcome](), False
    try:
        with as_ctrl_c():
            failed = run(plan, folder, launcher, _teller(out))
    except KeyboardInterrupt:
        interrupted = True
    found = compared(plan, folder, failed)
    told = record(found, folder)
    write(found, folder)
    write_json(folder.path / "comparison.json", told)
    _show(out, found, folder)
    if interrupted or failed:
        out.print(f"Go on with: onward compare {folder.path}", soft_wrap=True)
    return INTERRUPTED if interrupted else FAILED if failed else 0, told


def planned(
    tokens: Sequence[str],
    rules: str | None = None,
    datasets: str | None = None,
    seeds: tuple[int, ...] = (),
    labels: Sequence[str] | None = None,
    threads: int | None = None,
) -> Plan:
    """What a recipe's rows or ``rules``, data sets and seeds make together."""
    path = Path(tokens[0]) if tokens and not tokens[0].startswith("-") else None
    recipe, rows = read_recipe(path) if path else ({}, [])
    if labels and (rules or not rows):
        raise ConfigError("--row names rows of a recipe; give a recipe that has rows, and no --rules")
    found: list[Row] = []
    for data in _names(datasets, "--datasets") if datasets else [None]:
        flags = [*tokens, "--data", data] if data else list(tokens)
        if path and rows and not rules:
            these = configured(path, chosen(rows, labels), flags[1:])
        else:
            these = [Row(name, config) for name, config in configurations(rules or RULES, tuple(flags)).items()]
        found += [_on(one, data) for one in these]
    subjects = dict.fromkeys(f"{one.config.data.name}, {one.config.model.name}" for one in found)
    title = recipe.get("title", " / ".join(subjects)) if not rules else " / ".join(subjects)
    return Plan(title, tuple(found), seeds or tuple(recipe.get("seeds", ())) or (found[0].config.seed,), threads)


def _on(row: Row, data: str | None) -> Row:
    """The row as one of several data sets."""
    if data is None:
        return row
    uses = {flag: f"{label}, {data}" for flag, label in row.uses.items()}
    return replace(row, label=f"{row.label}, {data}", uses=uses)


def _begun(tokens: Sequence[str], to: Path | None) -> Path | None:
    """The folder of a comparison that goes on: named in a recipe's place, or with ``--to`` and nothing else."""
    if not tokens and to is not None and (to / PLAN).is_file():
        return to
    path = Path(tokens[0]) if tokens and not tokens[0].startswith("-") else None
    if path is None or not path.is_dir():
        return None
    if len(tokens) > 1:
        raise ConfigError(f"{path} goes on as it was begun; {tokens[1]} was given besides, which would change it")
    return path


def _numbers(text: str | None) -> tuple[int, ...]:
    """``0,1,2``."""
    names = _names(text, "--seeds") if text is not None else []
    if not all(name.isascii() and name.isdigit() for name in names):
        raise ConfigError(f"--seeds: {text} was given; expected whole numbers with commas between, such as 0,1,2")
    return tuple(map(int, names))


def _names(text: str, flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"{flag}: {text!r} was given; expected different names with commas between")
    return names


def _check(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads: {threads} was given; expected a whole number at least 1")


def _teller(out: Console) -> Any:
    def tell(outcome: Outcome, ended: int, jobs: int) -> None:
        accuracy = (outcome.answer or {}).get("test_accuracy")
        came = outcome.problem or (f"{accuracy:.2f} %" if accuracy is not None else "not tested")
        out.print(escape(f"{ended} of {jobs}: {outcome.name}: {came}"), soft_wrap=True)

    return tell


def _show(out: Console, found: Compared, folder: ComparisonFolder) -> None:
    out.print(_table(found))
    for difference in found.differences:
        out.print(escape(f"{difference.one}, {difference.other}: {difference.words}"), soft_wrap=True)
    if found.differs:
        out.print(escape(f"Not the same for all: {'; '.join(unlike(found.differs))}"), soft_wrap=True)
    out.print(f"The page is {folder.path / 'comparison.html'}", soft_wrap=True)


def configurations(names: str, tokens: tuple[str, ...]) -> dict[str, RunConfig]:
    """One configuration for each rule in ``names``."""
    labels = [name.strip() for name in names.split(",") if name.strip()]
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"--rules: {names!r} was given; expected different rules, such as bp,dfa,opzo")
    request = Request.read(tokens)
    if not request.sets("train", "epochs"):
        request = replace(request, flags=(*EPOCHS, *request.flags))
    configs = {label: _over(request, _rule(label)) for label in labels}
    given = configs[labels[0]].rule
    flags = [token for token in tokens if token.partition("=")[0] == "--rule" or token.startswith("--rule.")]
    if flags and given.name not in labels:
        raise ConfigError(
            f"{flags[0]} is about rule {given.name!r}, which is not compared; add it to --rules, or leave it out"
        )
    rules = {label: given if label == given.name else _rule(label) for label in labels}
    return {label: config.model_copy(update={"rule": rules[label]}) for label, config in configs.items()}


def _rule(label: str) -> Choice:
    """The rule of that name; else OTTT's traces with the spatial credit of that name (``bp`` is no rule by itself)."""
    grid = label in spatials.names() and label not in registry.names()
    return registry.parse({"name": "ottt", "spatial": label} if grid else label)


def _over(request: Request, rule: Choice) -> RunConfig:
    """The request over what ``rule`` brings; the rule that the request itself names stays."""
    try:
        return request.over(RunConfig(), rule.name)
    except (ConfigError, UnknownName) as error:
        if not registry.entry(rule.name).brings:
            raise
        raise ConfigError(f"with what rule {rule.name} brings (onward rules {rule.name}): {error}") from None


def unlike(differs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each field that is not the same for all rows: ``neuron lif for bp and dfa, if for ide``."""
    for field, by_label in differs.items():
        labels: dict[str, list[str]] = {}
        for label, value in by_label.items():
            labels.setdefault(shown(value), []).append(label)
        yield f"{field} {', '.join(f'{value} for {_and(names)}' for value, names in labels.items())}"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _table(found: Compared) -> Table:
    """A line for each row, with whether its rule needs transposed weights."""
    columns = [measure for measure in shown_measures(found.lines) if measure.key in BRIEF]
    configs = {row.label: row.config for row in found.plan.rows}
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("row")
    for name in ("seeds", *(measure.title for measure in columns)):
        table.add_column(name, justify="right")
    table.add_column("weight transport")
    for line in found.lines:
        numbers = (words(line.measures.get(measure.key), measure.digits) for measure in columns)
        table.add_row(escape(line.label), str(len(line.seeds)), *numbers, _transport(configs.get(line.label)))
    return table


def _transport(config: RunConfig | None) -> str:
    if config is None:
        return ""
    return "needed" if registry.build(config.rule).traits.weight_transport else "none"
