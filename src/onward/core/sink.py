"""Where deposits become gradients, and the only place where `.grad` is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from onward.core.drawn import Drawn, Take
from onward.core.graph import Node
from onward.core.group import ALONE, Group
from onward.core.network import Network
from onward.core.products import deposit
from onward.core.signal import dense
from onward.core.synapse import Params, effective, ops_of
from onward.core.trace import Postsynaptic, Presynaptic, Trace
from onward.kernels.scan import weighted_sum

Use = Callable[[Tensor], object]
"""What takes a sum over all processes."""

Change = Callable[[dict[str, Tensor]], object]
"""What changes the effective gradients of a synapse, by name, in place."""


class Sink(ABC):
    """Receives what a rule learns. A transform is a sink in front of another one.

    ``group`` are the processes that share every mini-batch.
    """

    group: Group

    @abstractmethod
    def open(self) -> None:
        """Reads the effective weights anew; called when a sequence starts and after every update."""

    @abstractmethod
    def params(self, node: Node) -> Params:
        """The effective weights of a synapse, outside any graph."""

    @abstractmethod
    def reads(self, weights: Params) -> Params:
        """Effective weights as products see them: for who takes others than `params`."""

    @abstractmethod
    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """Adds the outer product of ``pre`` and ``post`` ``[K, B, ...]``, summed over steps and batch.

        ``bias_gain`` multiplies ``post`` for the bias, step by step, where the bias has an eligibility of its own.
        """

    @abstractmethod
    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """Adds gradients of the effective weights of a synapse, by name, that are no outer product with ``pre``.

        Each row of them lies in the span of what the synapse heard up to this chunk, of which ``pre`` tells.
        """

    @abstractmethod
    def add(self, parameter: nn.Parameter, grad: Tensor) -> None:
        """Adds a gradient that has no pre and post: a gain, a threshold, a local readout."""

    @abstractmethod
    def add_drawn(self, drawn: Drawn) -> None:
        """Adds a gradient of many parameters that is not stored, but drawn when it is used."""

    @abstractmethod
    def total(self, tensor: Tensor, use: Use) -> None:
        """Hands ``use`` the sum of ``tensor`` over all processes: at the next flush, or now where there is one."""

    @abstractmethod
    def revise(self, node: Node, change: Change) -> None:
        """Lets ``change`` have its say on the gradients of a synapse, at every flush from now on.

        They are sums over all processes by then, and not yet pulled back to the stored parameters.
        """

    @abstractmethod
    def flush(self, take: Take = Drawn.store) -> None:
        """Pulls effective gradients back to the stored parameters, adds them to ``.grad``, and starts anew.

        Where several processes learn, everything is first summed over them, in one operation. Gradients that are
        drawn go to ``take``, which stores them in ``.grad`` unless told otherwise.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forgets what came since the last flush."""


class GradSink(Sink):
    """Sums deposits in place, in the dtype of the weights; ``products`` may be computed in fewer bits (bfloat16).

    Every process of ``group`` deposits its own share of a mini-batch; `flush` gives each the whole gradient.

    >>> from onward.neurons import LIF
    >>> net = Network(nn.Sequential(nn.Linear(2, 1)))
    >>> sink = GradSink(net)
    >>> sink.deposit(net.synapses[0], torch.ones(1, 3, 2), torch.ones(1, 3, 1))
    >>> sink.flush()
    >>> net.get_parameter("0.weight").grad
    tensor([[3., 3.]])
    """

    def __init__(self, net: Network, products: torch.dtype | None = None, group: Group = ALONE):
        self._net, self.products, self.group = net, products, group
        self._graph: dict[int, dict[str, Tensor]] = {}
        self._params: dict[int, Params] = {}
        self._grads: dict[int, dict[str, Tensor]] = {}
        self._changes: dict[int, list[Change]] = {}
        self._extra: dict[nn.Parameter, Tensor] = {}
        self._totals: list[tuple[Tensor, Use]] = []
        self._drawn: list[Drawn] = []
        self.open()

    def open(self) -> None:
        """See `Sink.open`."""
        with torch.enable_grad():
            self._graph = {node.index: effective(node.module) for node in self._net.synapses}
        self._params = {index: self.reads(weights) for index, weights in self._graph.items()}

    def params(self, node: Node) -> Params:
        """See `Sink.params`."""
        return self._params[node.index]

    def reads(self, weights: Params) -> Params:
        """See `Sink.reads`."""
        return {name: self._read(name, weight) for name, weight in weights.items()}

    @torch.no_grad()
    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        params, module, into = self._params[node.index], node.module, self._into(node)
        if "bias" in into:
            seen = dense(post).flatten(0, 1) if bias_gain is None else weighted_sum(dense(post), bias_gain)
            ops_of(module).bias(module, seen, into)
        for x, memory in pre.terms(post) if isinstance(pre, Trace) else ((pre, post),):
            deposit(module, params, x, memory, into)

    @torch.no_grad()
    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """See `Sink.contribute`."""
        into = self._into(node)
        for name, grad in grads.items():
            into[name].add_(grad)

    @torch.no_grad()
    def add(self, parameter: nn.Parameter, grad: Tensor) -> None:
        """See `Sink.add`; nothing is kept for a frozen parameter."""
        if not parameter.requires_grad:
            return
        held = self._extra.get(parameter)
        self._extra[parameter] = grad.to(parameter.dtype, copy=True) if held is None else held.add_(grad)

    def add_drawn(self, drawn: Drawn) -> None:
        """See `Sink.add_drawn`."""
        self._drawn.append(drawn)

    def total(self, tensor: Tensor, use: Use) -> None:
        """See `Sink.total`."""
        if self.group.size == 1:
            use(tensor)
        else:
            self._totals.append((tensor, use))

    def revise(self, node: Node, change: Change) -> None:
        """See `Sink.revise`."""
        self._changes.setdefault(node.index, []).append(change)

    def flush(self, take: Take = Drawn.store) -> None:
        """See `Sink.flush`."""
        sums = [grad for grads in self._grads.values() for grad in grads.values()]
        told = [*(tensor for tensor, _ in self._totals), *(drawn.told for drawn in self._drawn)]
        self.group.sum_([*sums, *self._extra.values(), *told])
        for drawn in self._drawn:
            drawn.settle()
        for index, grads in self._grads.items():
            for change in self._changes.get(index, ()):
                change(grads)
            for name, grad in grads.items():
                self._write(self._graph[index][name], grad)
        for parameter, grad in self._extra.items():
            _accumulate(parameter, grad)
        for tensor, use in self._totals:
            use(tensor)
        for drawn in self._drawn:
            take(drawn)
        self.discard()

    def discard(self) -> None:
        """See `Sink.discard`."""
        self._grads, self._extra, self._totals, self._drawn = {}, {}, [], []

    def _into(self, node: Node) -> dict[str, Tensor]:
        """The sums of a synapse's gradients, by name."""
        if node.index not in self._grads:
            self._grads[node.index] = {k: torch.zeros_like(w) for k, w in self._graph[node.index].items()}
        return self._grads[node.index]

    def _read(self, name: str, weight: Tensor) -> Tensor:
        """A weight as products see it; biases are added, not multiplied."""
        return weight.detach() if self.products is None or name == "bias" else weight.detach().to(self.products)

    def _write(self, effective_weight: Tensor, grad: Tensor) -> None:
        if not effective_weight.requires_grad:
            return
        if isinstance(effective_weight, nn.Parameter):
            _accumulate(effective_weight, grad)
        else:
            effective_weight.backward(grad)


def _accumulate(parameter: nn.Parameter, grad: Tensor) -> None:
    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)


class Forwarding(Sink):
    """Base of transforms: passes everything on to ``inner``; a transform wraps one and changes what it must."""

    def __init__(self, inner: Sink):
        self.inner, self.group = inner, inner.group

    def open(self) -> None:
        """See `Sink.open`."""
        self.inner.open()

    def params(self, node: Node) -> Params:
        """See `Sink.params`."""
        return self.inner.params(node)

    def reads(self, weights: Params) -> Params:
        """See `Sink.reads`."""
        return self.inner.reads(weights)

    def deposit(self, node: Node, pre: Presynaptic, post: Postsynaptic, bias_gain: list[float] | None = None) -> None:
        """See `Sink.deposit`."""
        self.inner.deposit(node, pre, post, bias_gain)

    def contribute(self, node: Node, pre: Presynaptic, grads: Params) -> None:
        """See `Sink.contribute`."""
        self.inner.contribute(node, pre, grads)

    def add(self, parameter: nn.Parameter, grad: Tensor) -> None:
        """See `Sink.add`."""
        self.inner.add(parameter, grad)

    def add_drawn(self, drawn: Drawn) -> None:
        """See `Sink.add_drawn`."""
        self.inner.add_drawn(drawn)

    def total(self, tensor: Tensor, use: Use) -> None:
        """See `Sink.total`."""
        self.inner.total(tensor, use)

    def revise(self, node: Node, change: Change) -> None:
        """See `Sink.revise`."""
        self.inner.revise(node, change)

    def flush(self, take: Take = Drawn.store) -> None:
        """See `Sink.flush`."""
        self.inner.flush(take)

    def discard(self) -> None:
        """See `Sink.discard`."""
        self.inner.discard()
