"""Which synapses orthogonal projection can protect, and what to say of the others."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from onward.core.errors import ConfigError, UnknownName, UnsupportedModule
from onward.core.graph import Node
from onward.core.network import Network
from onward.core.synapse import effective, ops_of


def protectable(net: Network, unprotected: tuple[str, ...]) -> list[Node]:
    """The synapses to protect, in order: all that learn, but those called in ``unprotected``.

    Raises `UnknownName`, `ConfigError` where none is left, and `UnsupportedModule` for one that is no matrix.
    """
    known = [node.name for node in net.synapses]
    for name in unprotected:
        if name not in known:
            raise UnknownName("synapse", name, known)
    nodes = [node for node in net.synapses if node.name not in unprotected and _learns(node)]
    if not nodes:
        raise ConfigError("no synapse is left to protect; name fewer in --transform.unprotected, or use no transform")
    for node in nodes:
        _check_synapse(net, node)
    return nodes


def _learns(node: Node) -> bool:
    return any(p.requires_grad for name, p in node.module.named_parameters() if not name.endswith("bias"))


def _check_synapse(net: Network, node: Node) -> None:
    leave = f"or leave it unprotected with --transform.unprotected {node.name}, and what it computes will change"
    kind = parametrize.type_before_parametrizations(node.module).__name__
    if parametrize.is_parametrized(node.module):
        raise UnsupportedModule(
            f"{node} computes with a weight that is made of another one (standardised, restricted or binary), which "
            "does not move as its gradient says; use plain weights, with normalisation between layers if need be, "
            f"{leave}"
        )
    if "weight" not in effective(node.module) or ops_of(node.module).reads(node.module) is None:
        raise UnsupportedModule(
            f"{node} ({kind}) does not multiply one matrix with its input; expected nn.Linear, or a convolution in one "
            f"group with zero padding given in numbers, {leave}"
        )
    twins = [other for other in net.synapses if other is not node and weight_of(node) in set(other.module.parameters())]
    if twins:
        raise UnsupportedModule(
            f"{node} and {twins[0]} share a weight, whose changes cannot be kept out of what two layers heard; give "
            f"each its own, {leave}"
        )


def weight_of(node: Node) -> nn.Parameter:
    """The weight of a synapse that can be protected."""
    return node.module.get_parameter("weight")


def width_of(node: Node) -> int:
    """How many inputs an output of the synapse adds up."""
    return weight_of(node)[0].numel()
