"""What fields a configuration has, which depends on the names chosen in it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from onward.core.errors import ConfigError
from onward.core.registry import Registry
from onward.train.toml import NONE

LARGEST = 2**63 - 1
"""Whole numbers beyond are none that torch and numpy can count with."""

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURALS = {int: ("whole numbers", "800 800"), float: ("numbers", "0.5 0.75"), str: ("words", "one two")}
_BOUNDS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


@dataclass(frozen=True)
class Option:
    """One field of a configuration: ``path`` from the root, and what pydantic knows about it."""

    path: tuple[str, ...]
    info: FieldInfo
    value: Any

    @property
    def flag(self) -> str:
        """How the field is written on the command line."""
        return flag(self.path)

    @property
    def registry(self) -> Registry | None:
        """Where the field's choices are registered, if it is a choice."""
        return registry_of(self.info)


def flag(path: tuple[str, ...]) -> str:
    """``("rule", "vth_init")`` as ``--rule.vth-init``."""
    return "--" + ".".join(path).replace("_", "-")


def registry_of(info: FieldInfo) -> Registry | None:
    """The registry whose ``parse`` validates the field; None for a plain field."""
    for mark in _marks(info.annotation, info.metadata):
        owner = getattr(mark.func, "__self__", None) if isinstance(mark, BeforeValidator) else None
        if isinstance(owner, Registry):
            return owner
    return None


def _marks(annotation: Any, metadata: list[Any]) -> Iterator[Any]:
    yield from metadata
    for part in get_args(annotation):
        yield from _marks(part, list(getattr(part, "__metadata__", ())))


def section_of(info: FieldInfo, value: Any) -> type[BaseModel] | None:
    """The model of the fields below this one, given its present value (a mapping); None for a plain field."""
    registry = registry_of(info)
    if registry is not None:
        return registry.entry(value["name"]).config if isinstance(value, Mapping) else None
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
        return info.annotation
    return None


def options(model: type[BaseModel], tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every field of ``model``, with those below it, as the names chosen in ``tree`` define them."""
    for name, info in model.model_fields.items():
        if name == "name":
            continue
        yield Option((*path, name), info, tree[name])
        section = section_of(info, tree[name])
        if section is not None:
            yield from options(section, tree[name], (*path, name))


def is_list(info: FieldInfo) -> bool:
    """Whether the field takes several values."""
    return any(get_origin(kind) in (list, tuple) for kind in alternatives(info))


def is_bool(info: FieldInfo) -> bool:
    """Whether the field is a switch."""
    return bool in alternatives(info)


def alternatives(info: FieldInfo) -> list[Any]:
    """The types that the field may have, None left out."""
    annotation = info.annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [part for part in parts if part is not type(None)]


def is_optional(info: FieldInfo) -> bool:
    """Whether the field may be none."""
    return type(None) in get_args(info.annotation)


def expected(info: FieldInfo) -> str:
    """What the field takes, in words.

    >>> from onward.optim import OptimOptions
    >>> expected(OptimOptions.model_fields["clip"])
    'a number above 0, or none'
    """
    kinds = " or ".join(_words(kind) for kind in alternatives(info))
    text = _bounded(kinds, info.metadata)
    return f"{text}, or none" if is_optional(info) else text


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (list, tuple):
        item = get_args(kind)[0]
        plural, example = _PLURALS[getattr(item, "__origin__", item)]
        return f"{_bounded(plural, getattr(item, '__metadata__', ()))}, such as {example}"
    return _KINDS.get(kind, getattr(kind, "__name__", str(kind)))


def _bounded(words: str, marks: Iterable[Any]) -> str:
    """``words`` with the bounds among pydantic's ``marks``."""
    return " ".join([words, " and ".join(_bound(mark) for mark in marks if type(mark) in _BOUNDS)]).strip()


def _bound(mark: Any) -> str:
    words, attribute = _BOUNDS[type(mark)]
    return f"{words} {getattr(mark, attribute):g}"


def convert(value: Any, info: FieldInfo, label: str) -> Any:
    """``value`` in the field's type; raises `ConfigError` with ``label``, the value, and what is expected."""
    if value == NONE and is_optional(info):
        return None
    try:
        found = _adapter(info).validate_python(value)
    except ValidationError:
        raise ConfigError(f"{label}: {shown(value)} was given; expected {expected(info)}") from None
    if any(isinstance(n, int) and abs(n) > LARGEST for n in (found if isinstance(found, list) else [found])):
        raise ConfigError(f"{label}: {shown(value)} was given; expected {expected(info)}, and below 2^63")
    return found


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    annotated: Any = Annotated
    return TypeAdapter(annotated[info.annotation, info], config=ConfigDict(allow_inf_nan=False))


def typed(value: Any) -> list[str]:
    """The words that give a field ``value`` on the command line.

    >>> typed([800, 800]), typed([]), typed(None), typed(True), typed(1e-7)
    (['800', '800'], ['[]'], ['none'], ['true'], ['1e-07'])
    """
    match value:
        case list() | tuple():
            return [word for item in value for word in typed(item)] or ["[]"]
        case None:
            return [NONE]
        case bool():
            return [str(value).lower()]
    return [str(value)]


def shown(value: Any) -> str:
    """A configuration value as a person writes it; of lists in lists and the like, what they are."""
    match value:
        case None:
            return NONE
        case bool():
            return str(value).lower()
        case list() | tuple():
            return " ".join("a list" if isinstance(item, list) else shown(item) for item in value) or "nothing"
        case Mapping():
            return "a table"
        case int() if abs(value) > LARGEST:
            return f"a number of {value.bit_length()} bits"
        case "":
            return "nothing"
        case float():
            return f"{value:g}"
    return str(value)
