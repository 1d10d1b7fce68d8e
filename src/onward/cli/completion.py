"""``onward completion``: what a shell needs to complete commands, flags and names.

The parser of commands writes such scripts, from the signatures of functions. Fields of a configuration are not in the
signatures of the commands that take them, so they are put there, as the default configuration has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter as Argument
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from cyclopts import App, Parameter

from onward.cli import app
from onward.cli.output import Json, emit
from onward.cli.rules import known
from onward.data import datasets
from onward.meta.config import MetaRecipe
from onward.train import RunConfig
from onward.train.schema import Option, alternatives, is_bool, options

Shell = Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that completes.")]
OF_DATA = ("eval", "energy")
"""The commands that take fields of data alone."""


def completion(shell: Shell, /, *, json: Json = False) -> None:
    """Prints a script that makes a shell complete commands, flags, and the names of rules, choices and data sets."""
    script = _described(app, "onward").generate_completion(shell=shell)
    if json:
        emit(json, {"shell": shell, "script": script})
    else:
        print(script)


def _described(group: App, name: str) -> App:
    """A group of commands whose signatures say all that the commands take."""
    made = App(name=name, help=group.help, version_flags=group.version_flags, help_flags=group.help_flags)
    for each in group:
        if each.startswith("-"):
            continue
        command = group[each]
        if command.default_command is None:
            made.command(_described(command, each))
        else:
            made.command(_speaking(each, command.default_command), name=each, help=command.help)
    return made


def _speaking(command: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes what the command does: what its own signature says, names, and fields."""

    def speaking() -> None:
        """Never called."""

    plain = signature(function, eval_str=True)
    taken = [_named(command, argument) for argument in plain.parameters.values()]
    fields = [_argument(option) for option in _fields(command)] if "tokens" in plain.parameters else []
    arguments = {argument.name: argument for argument in [*fields, *taken]}.values()
    in_order = Signature(sorted(arguments, key=lambda argument: argument.kind))
    speaking.__signature__ = in_order  # type: ignore[attr-defined]
    speaking.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    return speaking


def _named(command: str, argument: Argument) -> Argument:
    """The argument; with the names that it may be, or as a file, where its type is plain text."""
    names = _names().get(command, ())
    if argument.kind not in (Argument.VAR_POSITIONAL, Argument.POSITIONAL_ONLY):
        return argument
    if names:
        return argument.replace(annotation=Literal[tuple(names)])
    return argument.replace(annotation=Path) if argument.name == "tokens" else argument


def _names() -> Mapping[str, list[str]]:
    """What may stand behind a command, by command."""
    kinds = known()
    every = sorted(set().union(*kinds.values()))
    return {"explain": every, "rules": every, "get": datasets.names(), "completion": ["bash", "zsh", "fish"]}


def _fields(command: str) -> Iterator[Option]:
    """The fields of a configuration that the command takes as flags."""
    config = RunConfig()
    for option in options(RunConfig, config.model_dump()):
        if command not in OF_DATA or option.path[0] == "data":
            yield option
    if command == "meta-train":
        table = MetaRecipe.parse(()).help()
        yield from options(type(table), table.model_dump())


def _argument(option: Option) -> Argument:
    """A field as an argument that only a flag can give."""
    flags = [option.flag, f"--no-{option.flag[2:]}"] if is_bool(option.info) else [option.flag]
    kind = Annotated[_kind(option), Parameter(name=flags, negative="", help=option.info.description)]
    return Argument("_".join(option.path), Argument.KEYWORD_ONLY, default=None, annotation=kind)


def _kind(option: Option) -> Any:
    """The type that a shell can complete: names, one of few values, a switch, or anything."""
    if option.registry is not None:
        return Literal[tuple(option.registry.names())]
    if is_bool(option.info):
        return bool
    few = [kind for kind in alternatives(option.info) if get_origin(kind) is Literal]
    return few[0] if few else str
