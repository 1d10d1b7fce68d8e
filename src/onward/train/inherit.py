"""Training that starts from the weights of an earlier run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from onward._tensors import difference, fingerprint
from onward.core import Network
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.train import checkpoint
from onward.train.config import RunConfig
from onward.train.folder import RunFolder
from onward.train.networks import trained_network
from onward.train.rectified import learned_thresholds
from onward.weights.binary import Binary, binary_of, parametrizations, restart_scale

_STORED = re.compile(r"parametrizations\.(\w+)\.original$")


def start(config: RunConfig, net: Network) -> dict[str, dict[str, int | str]]:
    """Gives ``net`` the weights that ``config.train.init_from`` names, if any; what tells whether they are the same.

    Raises `ConfigError` where there is no such run, or what it learned does not fit ``net``.
    """
    if config.train.init_from is None:
        return {}
    path = Path(config.train.init_from).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"--train.init-from {path}: there is no such folder; expected that of a run, which `onward train` made, so "
            "put it back if it was there, or name it where it is now"
        )
    folder, own = RunFolder.open(path), () if config.train.init_thresholds is None else learned_thresholds(net)
    try:
        hand_over(trained_network(folder), net, own)
    except ConfigError as error:
        raise ConfigError(f"--train.init-from {path}: {error}") from None
    return {"train.init_from": fingerprint(folder.trained() / checkpoint.NETWORK)}


@torch.no_grad()
def hand_over(source: Network, net: Network, own: Collection[str] = ()) -> None:
    """Copies all that ``source`` has learned, and its statistics, into ``net``, by name.

    What stands behind a weight of ``source`` may be the latent one of a binary weight of ``net``, whose scale then
    starts from it. Tensors with names in ``own`` stay as they are where ``source`` has none. Raises `ConfigError`
    where a tensor is missing, is one too many, or has another shape, and where weights are made otherwise.
    """
    _check_made_alike(source, net)
    given = {_plain(name): tensor for name, tensor in source.state_dict().items()}
    wanted = {_plain(name): tensor for name, tensor in net.state_dict().items()}
    fresh = {node: names for node in net.synapses if (names := _of_scale(node)) and not names & given.keys()}
    for name in set[str]().union(*fresh.values(), own) - given.keys():
        del wanted[name]
    words = difference(_forms(given), _forms(wanted))
    if words:
        raise ConfigError(
            f"what that run learned does not fit this network: {words}; expected the same --model, --neuron and data "
            "of the same shape and number of classes"
        )
    for name, tensor in wanted.items():
        tensor.copy_(given[name])
    for node in fresh:
        restart_scale(node.module)


def _check_made_alike(source: Network, net: Network) -> None:
    """Raises `ConfigError` unless weights are made in the same way, up to signs that are taken last."""
    before = {node.name: _made_by(node.module) for node in source.synapses}
    for node in net.synapses:
        then, now = before.get(node.name, _made_by(node.module)), _made_by(node.module)
        if now not in (then, [*then, Binary.__name__]):
            raise ConfigError(
                f"{node.name} computed with {_words(then)} there, and computes with {_words(now)} here; expected the "
                "same, or binary weights in the place of others (--weights, --model.norm and --model.restriction say "
                "which)"
            )


def _made_by(module: nn.Module) -> list[str]:
    return [type(part).__name__ for part in parametrizations(module)]


def _words(made_by: list[str]) -> str:
    return f"a weight that is made by {', '.join(made_by)}" if made_by else "a plain weight"


def _plain(name: str) -> str:
    """The name of a tensor, whether or not something is made of it."""
    return _STORED.sub(r"\1", name)


def _of_scale(node: Node) -> set[str]:
    """The names of what a binary weight's scale has learned."""
    binary = binary_of(node.module)
    if binary is None:
        return set()
    place = parametrizations(node.module).index(binary)
    return {f"{node.name}.parametrizations.weight.{place}.{key}" for key in binary.state_dict()}


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
