"""From flags and recipes to a `RunConfig`.

Every field is a flag: ``--train.epochs 5``, ``--train.epochs=5``; dashes and underscores are the same. A
choice takes its name directly: ``--rule opzo`` is ``--rule.name opzo``. Lists are ``800 800`` or ``[800,800]``;
switches are ``--x.y``, ``--no-x.y`` or ``--x.y false``. Flags win over the recipe, the recipe over what its rule
or stream brings, and that over the defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from onward.core.errors import ConfigError, UnknownName, nearest
from onward.core.registry import Registry, describe
from onward.data.streams import streams
from onward.rules import rules
from onward.train import toml
from onward.train.config import RunConfig
from onward.train.files import is_file, reader_of
from onward.train.schema import (
    Option,
    convert,
    expected,
    flag,
    is_bool,
    is_list,
    options,
    registry_of,
    section_of,
    shown,
    typed,
)

Config = TypeVar("Config", bound=BaseModel)

BRINGING: dict[str, Registry[Any]] = {"rule": rules, "stream": streams}
"""Sections whose choices bring defaults for others."""
MOST_DEPTH = 16
"""Of tables in tables; no field lies deeper than four, and what lies deeper than this is one that no table has."""


class UnknownOption(UnknownName):
    """A field that no configuration has; the message names the nearest that exist."""

    def __init__(self, label: str, given: tuple[str, ...], known: Iterable[tuple[str, ...]]):
        paths = {".".join(path): path for path in known}
        leaves = {name.rpartition(".")[2]: path for name, path in paths.items()}
        near = [leaves[name] for name in nearest(given[-1], leaves, cutoff=0.8, most=2)]
        near = near or [paths[name] for name in nearest(".".join(given), paths, cutoff=0.6)]
        self.kind, self.given, self.nearest = "option", label, list(dict.fromkeys(map(flag, near)))[:3]
        hint = f"; did you mean {' or '.join(self.nearest)}?" if near else "."
        Exception.__init__(self, f"unknown option {label}{hint} `onward train --help` lists all options")


@dataclass(frozen=True)
class Setting:
    """A value for the field at ``path``; ``label`` is how the person wrote it, for messages."""

    path: tuple[str, ...]
    value: Any
    label: str

    @property
    def target(self) -> tuple[str, ...]:
        """The path without a trailing ``name``, which says the same."""
        return self.path[:-1] if len(self.path) > 1 and self.path[-1] == "name" else self.path


@dataclass(frozen=True)
class Words:
    """Values as typed, still text."""

    values: tuple[str, ...]


def parse_tokens(tokens: Sequence[str], base: RunConfig | None = None) -> RunConfig:
    """The configuration that command-line ``tokens`` describe: an optional recipe first, then flags.

    Raises `ConfigError` or `UnknownName` in words.

    >>> parse_tokens(["--rule", "dfa", "--train.epochs=3", "--model.hidden", "64", "32"]).train.epochs
    3
    """
    return Request.read(tokens).over(base or RunConfig())


def with_flags(flags: Sequence[str], base: RunConfig) -> RunConfig:
    """``base``, which is complete, with what ``flags`` change in it and nothing else: a rule named here brings nothing.

    Raises as `parse_tokens` does.
    """
    return apply(_from_flags(flags), base)


def load(path: Path) -> RunConfig:
    """The configuration in a TOML file, over what its rule brings and the defaults."""
    return Request(tuple(read_recipe(path))).over(RunConfig())


@dataclass(frozen=True)
class Request:
    """What a recipe and the flags after it ask for."""

    recipe: tuple[Setting, ...] = ()
    flags: tuple[Setting, ...] = ()

    @classmethod
    def read(cls, tokens: Sequence[str]) -> Self:
        """What command-line ``tokens`` ask for; raises `ConfigError` where they are no flags, or the recipe no TOML."""
        recipe, flags = _split(tokens)
        return cls(() if recipe is None else tuple(read_recipe(recipe)), tuple(_from_flags(flags)))

    def sets(self, *path: str) -> bool:
        """Whether the recipe or a flag gives the field at ``path``."""
        return any(setting.target == path for setting in (*self.recipe, *self.flags))

    def over(self, base: RunConfig, rule: str | None = None) -> RunConfig:
        """``base`` with the recipe, then the flags; a rule or stream that either names anew brings its defaults under
        them.

        What the recipe's rule brings is the recipe's. A rule that comes with the flags (``rule``, where it is none of
        theirs) brings what it has for sections that the recipe leaves out. Raises as `parse_tokens` does.
        """
        first = _brought({s: _named(self.recipe, s) for s in BRINGING}, self.recipe, base)
        told = apply(self.recipe, apply(first, base))
        settled = {setting.path[0] for setting in (*first, *self.recipe)}
        named = {s: _named(self.flags, s) for s in BRINGING}
        second = _brought({**named, "rule": rule or named["rule"]}, self.flags, told)
        return apply(self.flags, apply([setting for setting in second if setting.path[0] not in settled], told))


def option_of(name: str, config: RunConfig) -> Option:
    """The field of ``config`` that a flag such as ``--rule.rho`` means; raises `UnknownOption`."""
    tree, setting = config.model_dump(), _setting(name, ())
    known = {option.path: option for option in options(RunConfig, tree)}
    return known.get(setting.target) or known[_completed(tree, setting, RunConfig).target]


def brought_flags(rule: str) -> list[str]:
    """What ``rule`` brings for other sections, as the flags that say the same; raises `UnknownName`."""
    return [token for setting in _brings("rule", rule) for token in (flag(setting.target), *typed(setting.value))]


def apply(settings: Iterable[Setting], base: Config) -> Config:
    """``base`` with ``settings``; names are set before the fields that exist because of them.

    A field inside a group may leave out the choices on its way, where no other field of the group has its name:
    ``rule.rho`` for ``rule.spatial.rho``. Raises `ConfigError` or `UnknownOption` in words.
    """
    tree, root = base.model_dump(), type(base)
    ordered = sorted(settings, key=lambda setting: len(setting.target))
    for setting in [setting for setting in ordered if not _place(tree, setting, root)]:
        _place(tree, _completed(tree, setting, root), root)
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe(error, "configuration")) from None


def _brings(section: str, name: str) -> list[Setting]:
    return list(_flatten(BRINGING[section].entry(name).brings, (), f"what {section} {name} brings"))


def _brought(named: Mapping[str, str | None], settings: Sequence[Setting], below: RunConfig) -> list[Setting]:
    """What the choices ``named`` bring if they are new to ``below``, without those that ``settings`` make otherwise."""
    new = {section: name for section, name in named.items() if name not in (None, getattr(below, section).name)}
    brought = [setting for section, name in new.items() if name for setting in _brings(section, name)]
    kept = {section for section in {s.path[0] for s in brought} if _agree(section, brought, settings, below)}
    return [setting for setting in brought if setting.path[0] in kept]


def _agree(section: str, brought: Sequence[Setting], settings: Sequence[Setting], below: RunConfig) -> bool:
    """Whether ``settings`` leave the section's choice as it is brought."""
    told = _named(settings, section)
    present = getattr(getattr(below, section, None), "name", None)
    return told is None or told == (_named(brought, section) or present)


def _named(settings: Iterable[Setting], section: str) -> str | None:
    """The choice that ``settings`` make for a section; None where they make none, or none that is a name."""
    values = [setting.value for setting in settings if setting.target == (section,)]
    match values[-1:]:
        case [Words((str(name),))] | [str(name)]:
            return name
    return None


def _split(tokens: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    if tokens and not tokens[0].startswith("-"):
        return Path(tokens[0]), tokens[1:]
    return None, tokens


def read_recipe(path: Path) -> list[Setting]:
    """The settings in a TOML file; its table ``[recipe]`` (what should come out, and what did) is not one of them."""
    tree = toml.read(path)
    return list(_flatten({key: value for key, value in tree.items() if key != "recipe"}, (), path.name))


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...], source: str) -> Iterator[Setting]:
    for key, value in tree.items():
        here = (*path, key.replace("-", "_"))
        if isinstance(value, Mapping) and len(here) < MOST_DEPTH:
            yield from _flatten(value, here, source)
        else:
            yield Setting(here, value, f"{'.'.join(here)} in {source}")


def _from_flags(tokens: Sequence[str]) -> list[Setting]:
    return list(_with_readers(list(parse_flags(tokens))))


def parse_flags(tokens: Sequence[str]) -> Iterator[Setting]:
    """Flags with the values that follow them."""
    position = 0
    while position < len(tokens):
        head = tokens[position]
        if not _is_flag(head):
            raise ConfigError(f"{head!r} stands where a --flag was expected (a recipe comes before all flags)")
        values = list(takewhile(lambda token: not _is_flag(token), tokens[position + 1 :]))
        position += 1 + len(values)
        name, equals, value = head.partition("=")
        yield _setting(name, (value, *values) if equals else tuple(values))


def _setting(name: str, values: tuple[str, ...]) -> Setting:
    """``--x.y`` with its values; ``--no-x.y`` is ``--x.y false``."""
    path = name.lstrip("-").replace("-", "_").split(".")
    if not path[0].startswith("no_"):
        return Setting(tuple(path), Words(values), name)
    if values:
        raise ConfigError(f"{name} takes no value; {shown(values)} was given")
    return Setting((path[0].removeprefix("no_"), *path[1:]), Words(("false",)), name)


def _with_readers(settings: list[Setting]) -> Iterator[Setting]:
    """``--data FILE`` is ``--data READER --data.file FILE``, and ``--data.file FILE`` alone chooses the reader too."""
    named = any(setting.target == ("data",) for setting in settings)
    for setting in settings:
        file = setting.value.values[0] if isinstance(setting.value, Words) and setting.value.values else ""
        if setting.target == ("data",) and is_file(file):
            yield Setting(("data",), reader_of(file), setting.label)
            yield replace(setting, path=("data", "file"))
            continue
        if setting.target == ("data", "file") and not named:
            yield Setting(("data",), reader_of(file), setting.label)
        yield setting


def _is_flag(token: str) -> bool:
    return token.startswith("-") and not token[1:2].isdigit() and token[1:2] not in (".", "")


def _place(tree: dict[str, Any], setting: Setting, root: type[BaseModel]) -> bool:
    """Writes one setting into the tree of a configuration; False if it has no such field."""
    *above, last = setting.target
    model, node = root, tree
    for part in above:
        section = section_of(model.model_fields[part], node[part]) if part in model.model_fields else None
        if section is None:
            return False
        model, node = section, node[part]
    if last not in model.model_fields:
        return False
    node[last] = _read(setting.value, model.model_fields[last], node[last], setting.label)
    return True


def _completed(tree: dict[str, Any], setting: Setting, root: type[BaseModel]) -> Setting:
    """The setting at the one place in its group where a field has its name; raises `UnknownOption`."""
    known = [option.path for option in options(root, tree)]
    group, name = setting.target[:-1], setting.target[-1]
    found = [path for path in known if group and path[: len(group)] == group and path[-1] == name]
    if len(found) != 1:
        raise UnknownOption(setting.label, setting.target, known)
    return replace(setting, path=found[0])


def _read(value: Any, info: Any, present: Any, label: str) -> Any:
    """What the field at hand becomes."""
    registry = registry_of(info)
    raw = _raw(value, info, label) if isinstance(value, Words) else value
    if registry is None:
        return _section(info, label) if section_of(info, present) else convert(raw, info, label)
    if not isinstance(raw, str):
        raise ConfigError(f"{label}: {shown(raw)} was given; expected the name of a {registry.kind}")
    if isinstance(present, Mapping) and present["name"] == raw:
        return present
    return registry.parse(raw).model_dump()


def _section(info: Any, label: str) -> Any:
    known = ", ".join(info.annotation.model_fields)
    raise ConfigError(f"{label} is a group of options and takes no value; its options: {known}")


def _raw(words: Words, info: Any, label: str) -> Any:
    """Words as the text, the list of texts, or the JSON value that pydantic converts."""
    values = words.values
    if is_list(info):
        if not values:
            raise ConfigError(f"{label}: nothing was given; expected {expected(info)}, or [] for none")
        return _json_list(values[0], label) if values[0].startswith("[") else list(values)
    if not values and is_bool(info):
        return True
    if len(values) != 1:
        raise ConfigError(f"{label} takes one value; {shown(values)} was given")
    return values[0]


def _json_list(text: str, label: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{label}: {text} was given; expected a list such as [800,800]") from None
