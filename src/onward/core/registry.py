"""Names that people type, the typed options behind them, and what they build."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward.core.errors import ConfigError, UnknownName

T = TypeVar("T")
OWN = "onward"
_ORIGIN: ContextVar[str] = ContextVar("origin", default=OWN)


@contextmanager
def registering(origin: str) -> Iterator[None]:
    """What is registered inside comes from ``origin``, such as a distribution and its version."""
    token = _ORIGIN.set(origin)
    try:
        yield
    finally:
        _ORIGIN.reset(token)


class Choice(BaseModel):
    """Options of one named choice: frozen, no unknown fields, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="which entry of the registry these options belong to")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """What a registry knows about one name; ``brings`` are defaults for other sections of a configuration.

    ``origin`` says who registered it: Onward itself, or the distribution of a plug-in.
    """

    name: str
    config: type[Choice]
    build: Callable[..., T]
    summary: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    brings: Mapping[str, Any] = field(default_factory=dict)
    origin: str = OWN

    def parse(self, options: Mapping[str, Any]) -> Choice:
        """The entry's options, its own defaults overlaid with ``options`` (nested mappings merge)."""
        merged = merge(self.defaults, {**options, "name": self.name})
        check_fields(f"{self.name}", self.config, merged)
        try:
            return self.config.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(describe(error, self.name)) from None


class Registry(Generic[T]):
    """Named choices of one kind, with typed options.

    >>> fruits = Registry("fruit")
    >>> fruits.register("apple", Choice, lambda choice: "an apple", "round")
    >>> fruits.build("apple")
    'an apple'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self,
        name: str,
        config: type[Choice],
        build: Callable[..., T],
        summary: str,
        *,
        defaults: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        brings: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an entry; a name may be given once.

        ``brings`` names what the entry works with elsewhere in a configuration, as a recipe would:
        ``{"neuron": {"name": "if", "threshold": 2.0}, "train": {"steps": 30}}``; whatever a user says wins over it.
        """
        if name in self._entries:
            first = self._entries[name].origin
            raise ConfigError(f"the {self.kind} {name!r} is registered twice: by {first}, and by {_ORIGIN.get()}")
        if self.kind in (brings or {}):
            raise ConfigError(f"the {self.kind} {name!r} brings options of a {self.kind}; give its own as defaults")
        told = (defaults or {}, facts or {}, brings or {})
        self._entries[name] = Entry(name, config, build, summary, *told, _ORIGIN.get())

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Entry[T]:
        """The entry called ``name``; raises `UnknownName` with the nearest ones."""
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def parse(self, value: str | Mapping[str, Any] | Choice) -> Choice:
        """A name, a mapping with a ``name``, or ready options, as validated options."""
        if isinstance(value, Choice):
            return value
        options = {"name": value} if isinstance(value, str) else dict(value)
        if "name" not in options:
            raise ConfigError(f"a {self.kind} needs a name; known: {', '.join(self.names())}")
        return self.entry(options["name"]).parse(options)

    def build(self, value: str | Mapping[str, Any] | Choice, *context: Any) -> T:
        """What the choice describes, built; ``context`` is handed to the builder after the options."""
        choice = self.parse(value)
        return self.entry(choice.name).build(choice, *context)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overlaid with ``over``; mappings merge key by key, unless ``over`` names another choice."""
    return {**base, **{key: _overlaid(base.get(key), value) for key, value in over.items()}}


def _overlaid(below: Any, value: Any) -> Any:
    if not isinstance(below, Mapping):
        return value
    if isinstance(value, str) and "name" in below:
        value = {"name": value}
    if isinstance(value, Mapping) and value.get("name", below.get("name")) == below.get("name"):
        return merge(below, value)
    return value


def check_fields(owner: str, config: type[BaseModel], options: Mapping[str, Any]) -> None:
    """Raises `UnknownName` for the first option that ``config`` has no field for."""
    for key in options:
        if key not in config.model_fields:
            raise UnknownName(f"option of {owner}", key, config.model_fields)


def describe(error: ValidationError, owner: str) -> str:
    """A validation error as one line a person can act on."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or owner
    return f"{owner}: {where} = {first.get('input')!r} will not do: {first['msg'].lower()}"
