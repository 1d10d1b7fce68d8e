"""From errors to the postsynaptic factors of every synapse, within one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from onward.core.credit_walk import pull_back
from onward.core.graph import Kind, Node
from onward.core.interpret import Record, trainable
from onward.core.products import few_posts
from onward.core.sink import Sink
from onward.core.trace import Postsynaptic
from onward.credit.base import Credit, Head, Port
from onward.kernels.feedback import Feedback


class Posts:
    """Gathers the postsynaptic factors of one chunk: what heads bring through the graph, and what credit adds."""

    def __init__(self, record: Record, sink: Sink, crosses_spikes: bool):
        self.record, self.sink, self.net, self.crosses_spikes = record, sink, record.net, crosses_spikes
        self._posts: dict[int, Tensor] = {}
        self._credits: dict[int, list[Credit]] = {}

    @property
    def readout(self) -> list[Node]:
        """What no spike separates from the output."""
        hidden = set(self.net.hidden)
        return [node for node in self._fitted if self.net.reader(node) not in hidden]

    @property
    def _fitted(self) -> list[Node]:
        return [
            n
            for n in (*self.net.synapses, *self.net.fitted_glue)
            if n.kind is not Kind.SYNAPSE or n.index in self.record.drives
        ]

    def teachable(self, head: Head) -> list[Node]:
        """What the neurons below a head read, as far as the head's graph leads there."""
        below = set(head.port.below)
        fed = [node for node in self._fitted if self.net.reader(node) in below]
        return fed if self.crosses_spikes else [node for node in fed if self.net.exposed(node)]

    def from_head(self, head: Head, nodes: list[Node]) -> None:
        """Pulls a head's error back to ``nodes`` and to the parameters of the neurons they feed."""
        self._pull(head.source, head.seed, nodes)
        if not head.source.requires_grad:
            return
        above = set(self.net.hidden).difference(head.port.below)
        readers = dict.fromkeys(reader for node in nodes for reader in self.net.readers(node) if reader not in above)
        for neuron in (reader for reader in readers if any(True for _ in reader.module.parameters())):
            spikes = self.record.spikes[neuron.index]
            if spikes.requires_grad:
                (credit,) = pull_back(head.source, head.seed, [spikes])
                if credit is not None:
                    self._fit_neuron(neuron, credit)

    def credit(self, found: Mapping[int, Credit]) -> None:
        """Adds credit at spikes."""
        for index, credit in found.items():
            self._credits.setdefault(index, []).append(credit)

    def inside(self, found: Mapping[int, Tensor]) -> None:
        """Adds credit at spikes that travels on: through the graph, or where it ends there, to that layer alone."""
        if not self.crosses_spikes:
            return self.credit(found)
        for index, credit in found.items():
            below = [node for node in self.net.hidden if node.index <= index]
            spikes, none = self.record.spikes[index], credit.new_empty(0)
            head = Head(Port(f"layer {index}", 0, tuple(below)), none, none, none, spikes, credit, none)
            self.from_head(head, self.teachable(head))

    def settle(self) -> Iterator[tuple[Node, Postsynaptic]]:
        """Credit times slope, pulled back to the next spike and no further; then every synapse with its post.

        Of slopes with exact zeros, what is not zero alone, where deposits are faster so.
        """
        for index, credits in self._credits.items():
            neuron, slope = self.net.nodes[index], self.record.firings[index].slope
            for credit in credits:
                post = credit.times(slope) if isinstance(credit, Feedback) else credit * slope
                self._pull(self.record.inputs[index], post, self._taught_by(neuron))
                self._fit_neuron(neuron, credit)
        for index, post in self._posts.items():
            yield self.net.nodes[index], self._few(self.net.nodes[index], post)

    def _few(self, node: Node, post: Tensor) -> Postsynaptic:
        if not self.net.exact_zeros(node):
            return post
        return few_posts(node.module, self.sink.params(node), self.record.pres[node.index], post)

    def _taught_by(self, neuron: Node) -> list[Node]:
        """What takes the credit of ``neuron``: all that reaches no other neuron before it.

        In a residual stream a drive learns from the next spiking layer, not from those further down the identity.
        """
        return [node for node in self._fitted if self.net.reader(node) is neuron]

    def _fit_neuron(self, neuron: Node, credit: Credit) -> None:
        module: Any = neuron.module
        if next(module.parameters(), None) is None:
            return
        if isinstance(credit, Feedback):
            credit = credit.dense(self.record.firings[neuron.index].slope)
        for name, grad in module.parameter_grads(credit, self.record.firings[neuron.index]).items():
            self.sink.add(module.get_parameter(name), grad)

    def _pull(self, source: Tensor, seed: Tensor, nodes: list[Node]) -> None:
        synapses = [node for node in nodes if node.kind is Kind.SYNAPSE]
        weights = trainable(node for node in nodes if node.kind is not Kind.SYNAPSE)
        targets = [self.record.drives[node.index] for node in synapses]
        grads = pull_back(source, seed, [*targets, *weights])
        for node, post in zip(synapses, grads, strict=False):
            if post is not None:
                held = self._posts.get(node.index)
                self._posts[node.index] = post if held is None else held + post
        for parameter, grad in zip(weights, grads[len(synapses) :], strict=True):
            if grad is not None:
                self.sink.add(parameter, grad)
