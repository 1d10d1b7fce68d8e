"""Relayed pseudo-zeroth-order credit: the last hops of a direct error go through estimated weights (ours).

Direct feedback reaches a layer through the mean Jacobian, which keeps less of each sample's own with every layer it
spans. Here it spans fewer: it enters h layers higher, meets the slopes there, and comes down by h mirrors,

    g_0^l = M^l e,    g_h^l = N^{l+1} (psi^{l+1} * g_{h-1}^{l+1}),    the readout's own g is e

N^l estimates the transposed weights of synapse l from the noise that OPZO injects anyway: n is what of the noise
arrives at the synapse, u its drive, and E[u n^T] = E[n^2] W, as nothing else in the drive knows n:

    C <- rho^T C + (1 - rho) sum_t rho^(T - t) u[t] n[t]^T / B,    v likewise of n^2,    N = (C / v)^T

A weight of a convolution is divided by the number of places it acts at, too.

``hops`` h = 0 is OPZO; with as many hops as hidden layers it is back-propagation through weights that are estimated. In
a residual stream of drives, a drive learns from the next spikes alone, as under OPZO. No weight is read, errors wait
for h layers and not for all of them. Memory O(n_l n_{l-1}) for C and O(n m) for M, O(1) in T; a step costs one product
of the size of a weight gradient for C, and h backward products a synapse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Size, Tensor

from onward.core.draws import Draws
from onward.core.errors import ConfigError
from onward.core.graph import Node
from onward.core.interpret import Record
from onward.core.network import Network
from onward.core.products import deposit, drive, through
from onward.core.rule import Holds
from onward.core.signal import Carry, Context, Signal, dense
from onward.core.sink import Sink
from onward.core.synapse import Params, effective
from onward.core.trace import Presynaptic
from onward.credit.averages import Averages
from onward.credit.base import Credit, Head, Port, Spatial, spatials
from onward.credit.opzo import OPZO, OPZOOptions
from onward.credit.ports import OUTPUT
from onward.kernels.feedback import Feedback
from onward.kernels.rows import SparseRows


class RelayOptions(OPZOOptions):
    """Options of relayed credit: those of OPZO, and how far errors are relayed."""

    hops: int = Field(1, ge=0, description="layers that an error comes down through estimated weights; 0 is OPZO")


class Relay(Spatial):
    """OPZO whose errors enter ``hops`` layers higher; see the module's docstring."""

    stochastic = True
    perturbs = True

    def __init__(self, direct: OPZO, hops: int):
        super().__init__()
        if not direct.perturbation.site.is_sent or direct.perturbation.traced:
            raise ConfigError(
                "relayed credit reads weights off the noise that travels with spikes and that traces do not see; use "
                "position 'after' and traced false"
            )
        self.direct, self.hops = direct, hops
        self.layerwise = hops > 0
        self.max_chunk, self.observes_first = direct.max_chunk, direct.observes_first
        self._averages = Averages(self, direct.options.rho)
        self._relays: list[Node] = []
        self._heard: dict[int, list[Tensor]] = {}
        self._mirrors: dict[int, Tensor] = {}

    def allocate(self, net: Network, sizes: dict[int, Size], ports: list[Port], draws: Draws) -> None:
        """M as OPZO allocates it; mirrors start at zero, for every synapse that hears a hidden neuron."""
        self.direct.allocate(net, sizes, ports, draws)
        self._averages.clear()
        self._relays = [node for node in net.synapses if net.sender(node) is not None] if self.hops else []
        for node in self._relays:
            weight = effective(node.module)["weight"].detach()
            dtype = torch.promote_types(weight.dtype, torch.float32)
            self._averages.keep(_seen(node), torch.zeros_like(weight, dtype=dtype))
            self._averages.keep(_power(node), torch.zeros((), dtype=dtype))

    def begin(self, context: Context, sink: Sink) -> None:
        """A sequence starts: mirrors are read afresh."""
        self.direct.begin(context, sink)
        self._mirrors, self._heard = {}, {}

    def connect(self, node: Node, params: Params, x: Tensor, rows: Tensor | SparseRows) -> Tensor:
        """The synapse as it is; errors go back through its mirror. What it hears waits for `observe`."""
        if node not in self._relays:
            return self.direct.connect(node, params, x, rows)
        self._heard.setdefault(node.index, []).append(x.detach())
        if node.index not in self._mirrors:
            self._mirrors[node.index] = self.estimate(node, params, x).to(params["weight"].dtype)
        return through(node.module, params, {"weight": self._mirrors[node.index]}, x, rows)

    def estimate(self, node: Node, params: Params, x: Tensor) -> Tensor:
        """The estimate of the weights of ``node``, of whose inputs ``x`` ``[K, B, ...]`` is one; zero at the start."""
        power = self._averages[_power(node)]
        return (
            self._averages[_seen(node)] / (power * _places(node, params, x)) if power else self._averages[_seen(node)]
        )

    def before(self, node: Node, drive: Tensor, record: Record) -> Tensor:
        """See `Spatial.before`."""
        return self.direct.before(node, drive, record)

    def after(self, node: Node, spikes: Tensor, record: Record) -> Signal:
        """Spikes and noise, where a graph begins that ends at the next spikes."""
        signal = self.direct.after(node, spikes, record)
        if not self.hops or signal.sent is signal.clean:
            return signal
        return Signal(dense(signal.sent).detach().requires_grad_(torch.is_grad_enabled()), signal.clean)

    def credit(self, record: Record, head: Head) -> dict[int, Credit]:
        """Direct credit, then one hop after the other for all layers at once."""
        found = self.direct.credit(record, head)
        for _ in range(self.hops if found and head.port.key == OUTPUT else 0):
            found = {**found, **_hop(record, head, found)}
        return found

    def learn(self, record: Record, heads: list[Head], trace: Callable[[Node], Presynaptic], sink: Sink) -> None:
        """Nothing is learned from errors."""

    def observe(self, record: Record, heads: list[Head], carry: Carry, again: Callable[[], dict[str, Tensor]]) -> None:
        """Lets M learn, and correlates what arrived of the noise with the drives it caused."""
        heard = {index: waiting.pop(0) for index, waiting in self._heard.items() if index in record.drives}
        later = {index: len(waiting) for index, waiting in self._heard.items()}
        self.direct.observe(record, heads, carry, again)
        for index, count in later.items():
            del self._heard[index][count:]  # what a second pass heard
        if self.direct.frozen:
            return
        self._averages.count(carry, len(record.out))
        for node in self._relays:
            if node.index in heard:  # in a loop, nothing is heard at the first step
                self._correlate(record, node, heard[node.index], carry)

    def finish(self, carry: Carry, sink: Sink) -> None:
        """See `Spatial.finish`."""
        self.direct.finish(carry, sink)
        self._averages.absorb(carry, sink.total)
        self._mirrors = {}

    def holds(self, net: Network, steps: range) -> Holds:
        """See `Spatial.holds`: what OPZO holds, and the mirrors."""
        own, mirrors = self.direct.holds(net, steps), self._averages.nbytes
        return replace(own, sums=own.sums + mirrors, read=own.read + mirrors)

    def direct_feedback(self, port: Port) -> dict[int, Tensor]:
        """See `Spatial.direct_feedback`."""
        return self.direct.direct_feedback(port)

    def teaches(self) -> bool:
        """See `Spatial.teaches`."""
        return self.direct.teaches()

    def metrics(self) -> dict[str, float]:
        """See `Spatial.metrics`."""
        return self.direct.metrics()

    def cautions(self, net: Network, steps: int) -> list[str]:
        """See `Spatial.cautions`."""
        return self.direct.cautions(net, steps)

    def remarks(self) -> list[str]:
        """See `Spatial.remarks`."""
        return self.direct.remarks()

    def _correlate(self, record: Record, node: Node, heard: Tensor, carry: Carry) -> None:
        """Adds the chunk's u n^T and n^2, each per sample, to their averages."""
        seen, samples = torch.zeros_like(self._averages[_seen(node)]), record.context.samples
        noise = (heard - dense(record.pres[node.index])).to(seen)
        reached = record.drives[node.index].detach().to(seen)
        into = {"weight": seen}
        deposit(node.module, into, self._averages.aged(noise), reached / samples, into)
        power = self._averages.aged(noise.square().flatten(2).mean(2)).sum() / samples
        self._averages.gather(carry, _seen(node), seen, len(reached))
        self._averages.gather(carry, _power(node), power, len(reached))


def _hop(record: Record, head: Head, credits: dict[int, Credit]) -> dict[int, Credit]:
    """Takes the credit of all spikes, and the readout's error, down to the spikes right below."""
    slopes = {index: record.firings[index].slope for index in credits}
    posts = [g.times(slopes[i]) if isinstance(g, Feedback) else g * slopes[i] for i, g in credits.items()]
    ends = [*zip((record.inputs[index] for index in credits), posts, strict=True), (head.source, head.seed)]
    joined = [(end, post) for end, post in ends if end.requires_grad]
    starts = {index: dense(record.sent[index]) for index in credits}
    found = torch.autograd.grad(
        [end for end, _ in joined],
        list(starts.values()),
        [post for _, post in joined],
        retain_graph=True,
        allow_unused=True,
    )
    return {index: g for index, g in zip(starts, found, strict=True) if g is not None}


def _places(node: Node, params: Params, x: Tensor) -> Tensor:
    """How many places each weight of an output acts at, in one sample such as ``x`` ``[K, B, ...]``."""
    one, weight = torch.ones_like(x[:1, :1]), params["weight"]
    into = {"weight": torch.zeros_like(weight)}
    deposit(node.module, {"weight": weight}, one, torch.ones_like(drive(node.module, params, one)), into)
    return into["weight"][0]


def _seen(node: Node) -> str:
    """The attribute that holds C."""
    return f"c{node.index}"


def _power(node: Node) -> str:
    """The attribute that holds v."""
    return f"v{node.index}"


spatials.register(
    "relay",
    RelayOptions,
    lambda choice: Relay(OPZO(choice.perturbation(), choice), choice.hops),
    "direct feedback that enters a few layers higher and comes down through estimated weights",
    facts={
        "paper": "ours, on Xiao et al. 2024 (ICLR 2026)",
        "equation": "g_0^l[t] = M^l e[t],    g_h^l[t] = N^{l+1} (psi(u^{l+1}[t] - V) * g_{h-1}^{l+1}[t])",
        "published": "nothing: OPZO is its case of no hops",
        "inferred": "all of it",
    },
)
