"""E-prop: against loops over every synapse, against BPTT along paths within a neuron, and where it is another rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import GradSink, KeyedDraws, Network, Recurrent, Scale
from onward.core.errors import TopologyMismatch
from onward.core.group import Group, Share
from onward.core.rule import Lesson
from onward.core.sequence import Frames
from onward.core.signal import Context
from onward.neurons import LI, LIF, AdaptiveLIF
from onward.rules import rules
from onward.surrogates import Triangle
from onward.testing.harness import OBJECTIVE, assert_close, bound, carried, held_bytes, teach
from onward.testing.zoo import CLASSES, STEPS, data, make
from onward.transforms.hlop import Hlop
from onward.weights import standardize
from reference import plain
from reference.noted import Noted
from reference.tiny import body, sequence_loss

INPUTS, UNITS = 3, 4
LAM, BETA, RHO, KAPPA = 0.5, 0.3, 0.7, 0.8


def alif() -> AdaptiveLIF:
    return AdaptiveLIF(LIF(decay=LAM, surrogate=Triangle()), BETA, RHO)


def recurrent(adapts: bool, leaks: bool) -> nn.Sequential:
    torch.manual_seed(6)
    neuron = alif() if adapts else LIF(decay=LAM, surrogate=Triangle())
    layer = Recurrent(nn.Linear(INPUTS, UNITS), neuron, nn.Linear(UNITS, UNITS))
    membrane = [LI(decay=KAPPA)] if leaks else []
    found = nn.Sequential(layer, nn.Linear(UNITS, CLASSES), *membrane).double()
    for parameter in found.parameters():
        parameter.data.mul_(2)
    return found


def sample() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = 2 * torch.rand(7, 2, INPUTS, generator=generator, dtype=torch.float64)
    return x, torch.tensor([1, 3])


def by_loops(net: nn.Sequential, x: Tensor, y: Tensor, beta: float, kappa: float) -> dict[str, Tensor]:
    """The published equations, one synapse after the other, with symmetric feedback."""
    modules: list[Any] = list(net)
    layer, readout, psi_of = modules[0], modules[1], Triangle()
    w_in, w_rec, w_out = (m.weight.detach() for m in (layer.synapse, layer.recurrent, readout))
    bias = layer.synapse.bias.detach() + 0 * w_in[:, 0]
    grads = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    steps, batch = x.shape[:2]
    for b in range(batch):
        v, a, z, out = torch.zeros(UNITS), torch.zeros(UNITS), torch.zeros(UNITS), torch.zeros(CLASSES)
        v, a, z, out = (state.double() for state in (v, a, z, out))
        traces = {name: torch.zeros(UNITS, n).double() for name, n in (("in", INPUTS + 1), ("rec", UNITS + 1))}
        slow, filtered = ({k: torch.zeros_like(t) for k, t in traces.items()} for _ in range(2))
        read = torch.zeros(UNITS + 1).double()
        for t in range(steps):
            one, awake = torch.ones(1).double(), float(t > 0)
            heard = {"in": torch.cat([x[t, b], one]), "rec": awake * torch.cat([z, one])}
            drive = w_in @ x[t, b] + bias + awake * (w_rec @ z + layer.recurrent.bias.detach())
            h = LAM * v + drive
            above = h - 1 - beta * a
            z, psi = (above >= 0).double(), psi_of(above[None])[0]
            v, a = h - z, RHO * a + z
            read = kappa * read + torch.cat([z, one])
            out = kappa * out + w_out @ z + readout.bias.detach()
            error = (out.softmax(0) - torch.eye(CLASSES)[y[b]]) / (steps * batch)
            signal = w_out.T @ error
            for k in traces:
                for j in range(UNITS):
                    for i in range(len(heard[k])):
                        traces[k][j, i] = LAM * traces[k][j, i] + heard[k][i]
                        e = psi[j] * (traces[k][j, i] - beta * slow[k][j, i])
                        slow[k][j, i] = psi[j] * traces[k][j, i] + (RHO - beta * psi[j]) * slow[k][j, i]
                        filtered[k][j, i] = kappa * filtered[k][j, i] + e
                        name, where = ("weight", (j, i)) if i < len(heard[k]) - 1 else ("bias", (j,))
                        part = {"in": "0.synapse", "rec": "0.recurrent"}[k]
                        grads[f"{part}.{name}"][where] += signal[j] * filtered[k][j, i]
            grads["1.weight"] += torch.outer(error, read[:-1])
            grads["1.bias"] += error * read[-1]
    return grads


class WithinNeurons(plain.Simulation):
    """Gradients pass through the memories of a neuron, not through what a layer hears of its own past."""

    def _remembered(self, name: str, out: Tensor) -> Tensor:
        self.memory[name] = out.detach()
        return out


def within_neurons(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    simulation = WithinNeurons(net, across_time=True)
    loss = sequence_loss(y)(torch.stack([simulation.step(frame) for frame in x]))
    grads = torch.autograd.grad(loss, list(net.parameters()))
    return {name: grad for (name, _), grad in zip(net.named_parameters(), grads, strict=True)}


each_layer = pytest.mark.parametrize("leaks", [False, True], ids=["plain", "leaky"])
each_neuron = pytest.mark.parametrize("adapts", [False, True], ids=["lif", "alif"])


@each_neuron
@each_layer
def test_eprop_equals_the_published_loops_over_synapses(adapts: bool, leaks: bool) -> None:
    net, (x, y) = recurrent(adapts, leaks), sample()
    expected = by_loops(net, x, y, BETA if adapts else 0.0, KAPPA if leaks else 0.0)
    assert_close(teach(Network(net), "eprop", x, y).grads, expected)
    assert all(grad.abs().max() > 0 for grad in expected.values())


@each_neuron
@each_layer
def test_eprop_is_bptt_along_paths_within_a_neuron(adapts: bool, leaks: bool) -> None:
    net, (x, y) = recurrent(adapts, leaks), sample()
    local = within_neurons(net, x, y)
    assert_close(teach(Network(net), "eprop", x, y).grads, local)
    whole = teach(Network(net), "bptt", x, y).grads["0.recurrent.weight"]
    assert (whole - local["0.recurrent.weight"]).abs().max() > 1e-3 * whole.abs().max()


def _conv_alif() -> nn.Module:
    conv = standardize(nn.Conv2d(2, 3, 3, padding=1, stride=2))
    return nn.Sequential(conv, alif(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(3, CLASSES))


LAYERS = {
    "alif": lambda: nn.Sequential(nn.Linear(12, 10), alif(), nn.Linear(10, CLASSES)),
    "alif, leaky": lambda: nn.Sequential(nn.Linear(12, 10), alif(), nn.Linear(10, CLASSES), LI(decay=KAPPA)),
    "no bias": lambda: nn.Sequential(nn.Linear(12, 10, bias=False), alif(), nn.Linear(10, CLASSES)),
    "gain": lambda: nn.Sequential(
        nn.Linear(12, 10), AdaptiveLIF(LIF(tau=3.0, decay_input=True), 0.5), nn.Linear(10, CLASSES), LI(decay=0.5)
    ),
    "dropout": lambda: nn.Sequential(
        nn.Linear(12, 10), nn.Dropout(0.4), nn.Dropout(0.2), alif(), nn.Dropout(0.1), nn.Linear(10, CLASSES), LI()
    ),
    "conv alif": _conv_alif,
}


@pytest.mark.parametrize("name", list(LAYERS))
@pytest.mark.parametrize("chunk", [1, 4, STEPS])
def test_eprop_is_bptt_for_one_layer_without_recurrence(name: str, chunk: int) -> None:
    torch.manual_seed(3)
    net = Network(LAYERS[name]()).double()
    for parameter in net.parameters():
        parameter.data.mul_(2)
    x, y = data("conv" if "conv" in name else "mlp")
    assert_close(teach(net, "eprop", x, y, chunk=chunk).grads, teach(net, "bptt", x, y).grads)


@pytest.mark.parametrize("name", ["leaky-readout", "spiking-output"])
def test_eprop_is_bptt_below_an_output_with_memory(name: str) -> None:
    x, y = data(name)
    assert_close(teach(make(name), "eprop", x, y).grads, plain.bptt(body(name), x, sequence_loss(y)))


@pytest.mark.parametrize("name", ["mlp", "conv", "recurrent", "spike-residual", "batchnorm", "if"])
@pytest.mark.parametrize(("feedback", "spatial"), [("symmetric", "bp"), ("random", "dfa"), ("adaptive", "dkp")])
def test_without_adaptation_and_memory_it_is_ottt(name: str, feedback: str, spatial: str) -> None:
    x, y = data(name)
    grid = {"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}, "spatial": spatial}
    found, expected = (teach(make(name), rule, x, y).grads for rule in ({"name": "eprop", "feedback": feedback}, grid))
    assert_close({name.replace("feedback", "spatial"): grad for name, grad in found.items()}, expected)


def test_numbers_for_every_weight_give_what_outer_products_give() -> None:
    def net(neuron) -> Network:
        torch.manual_seed(1)
        return Network(nn.Sequential(nn.Linear(12, 10), neuron(), nn.Linear(10, 8), neuron(), nn.Linear(8, CLASSES)))

    x, y = data("mlp", torch.float32)
    each = teach(net(lambda: AdaptiveLIF(LIF(), adaptation=0.0)), "eprop", x, y).grads
    assert_close(each, teach(net(LIF), "eprop", x, y).grads, 1e-5)


@pytest.mark.parametrize("feedback", ["random", "adaptive"])
def test_feedback_takes_the_place_of_the_readouts_weights(feedback: str) -> None:
    """With the readout's own weights as feedback, one layer learns as with symmetric feedback."""
    net, (x, y) = Network(recurrent(adapts=True, leaks=True)), sample()
    expected, built = teach(net, "eprop", x, y).grads, rules.build({"name": "eprop", "feedback": feedback})
    bound(built, net, Frames(x))
    (matrix,) = built.state_dict().values()
    matrix.copy_(net.get_parameter("1.weight").T)
    found = teach(net, built, x, y).grads
    assert_close({name: grad for name, grad in found.items() if not name.startswith("rule.")}, expected)
    if feedback == "adaptive":
        (learned,) = (grad for name, grad in found.items() if name.startswith("rule."))
        assert_close({"B": learned.T}, {"B": found["1.weight"]})


C_REG, F_TARGET = 5.0, 0.2


def regularised(simulation: Noted, y: Tensor, x: Tensor, *names: str) -> Tensor:
    """The loss, and what regularises rates over all samples, steps, and places of a map."""
    loss = sequence_loss(y)(simulation.run(x))
    for name in names:
        rates = simulation.rates(name).mean(0).flatten(1).mean(1) if "conv" in name else simulation.rates(name).mean(0)
        loss = loss + C_REG / 2 * (rates - F_TARGET).square().sum()
    return loss


REGULAR = {"name": "eprop", "c_reg": C_REG, "f_target": F_TARGET}


@each_neuron
@each_layer
@pytest.mark.parametrize("chunk", [1, 3])
def test_regularised_rates_add_the_gradient_within_neurons(adapts: bool, leaks: bool, chunk: int) -> None:
    net, (x, y) = recurrent(adapts, leaks), sample()
    simulation = Noted(net, across_time=True, past=False)
    expected = simulation.grads(regularised(simulation, y, x, "0.neuron"))
    assert_close(teach(Network(net), REGULAR, x, y, chunk=chunk).grads, expected)
    without = teach(Network(net), "eprop", x, y).grads["0.recurrent.weight"]
    assert (expected["0.recurrent.weight"] - without).abs().max() > 1e-2 * without.abs().max()


@pytest.mark.parametrize("name", ["lif", "alif, leaky", "no bias", "conv"])
@pytest.mark.parametrize("chunk", [1, 4, STEPS])
def test_regularised_rates_without_recurrence_add_bptts_gradient(name: str, chunk: int) -> None:
    """Against autograd of the regulariser; the channel of a map has one rate."""
    layers = {
        **LAYERS,
        "lif": lambda: nn.Sequential(nn.Linear(12, 10), LIF(), nn.Linear(10, CLASSES)),
        "conv": lambda: nn.Sequential(_conv_named(), nn.Flatten(), nn.Linear(27, CLASSES)),
    }
    torch.manual_seed(3)
    net = layers[name]().double()
    for parameter in net.parameters():
        parameter.data.mul_(2)
    (x, y), simulation = data("conv" if name == "conv" else "mlp"), Noted(net, across_time=True)
    expected = simulation.grads(regularised(simulation, y, x, "0.conv" if name == "conv" else "1"))
    assert_close(teach(Network(net), REGULAR, x, y, chunk=chunk).grads, expected)


def _conv_named() -> nn.Module:
    named = nn.Sequential()
    named.add_module("synapse", nn.Conv2d(2, 3, 3, padding=1, stride=2))
    named.add_module("conv", alif())
    return named


def test_rates_are_regularised_layer_by_layer() -> None:
    """Spikes of a layer are what its own weights are told about, and no other layer's."""
    (x, y), grads = data("mlp"), {}
    for c_reg in (0.0, C_REG):
        grads[c_reg] = teach(make("mlp"), {**REGULAR, "c_reg": c_reg}, x, y).grads
    simulation = Noted(body("mlp"), across_time=True)
    simulation.run(x)
    own = {}
    for neuron, synapse in (("1", "0"), ("3", "2")):
        loss = C_REG / 2 * (simulation.rates(neuron).mean(0) - F_TARGET).square().sum()
        weights = dict(simulation.body.get_submodule(synapse).named_parameters())
        found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        own |= {f"{synapse}.{key}": grad for key, grad in zip(weights, found, strict=True)}
    assert_close({name: grads[C_REG][name] - grads[0.0][name] for name in own}, own)


def test_regularised_rates_keep_a_number_a_weight_for_all_samples_and_steps() -> None:
    net, (x, y) = Network(recurrent(adapts=False, leaks=False)), sample()
    rule = bound(REGULAR, net, Frames(x))
    lesson = Lesson(
        net, OBJECTIVE, Frames(x), y, GradSink(net), Context(KeyedDraws(0), torch.arange(2), 0, 7, Share(2))
    )
    for t in range(len(x)):
        rule.step(lesson, x[t : t + 1])
    sums = [tensor for tensor in lesson.carry.sums.values() if tensor.dim() == 2]
    weights = UNITS * (INPUTS + 1) + UNITS * (UNITS + 1)
    assert (sum(t.nbytes for t in sums), rule.holds(net, range(1)).sums) == (8 * weights, 8 * weights)
    assert not rule.holds(net, range(1)).eligible


class Halves(Group):
    """Two processes in one: what the other one would bring is known."""

    rank, size = 0, 2

    def __init__(self, other: list[Tensor]):
        self.other = other

    def sum_(self, tensors) -> None:
        for tensor, more in zip(tensors, self.other, strict=True):
            tensor += more

    def copy_(self, tensors) -> None: ...

    def gather(self, text: str) -> list[str]:
        return [text, text]


def test_processes_regularise_the_rates_of_all_samples() -> None:
    (x, y), net = data("mlp"), make("mlp")
    whole = teach(net, REGULAR, x, y)
    parts = []
    for rows, others in ((slice(0, 1), slice(1, 4)), (slice(1, 4), slice(0, 1))):
        counts = [
            torch.cat([record.firings[node.index].out for record in whole.records])[:, others].sum((0, 1))
            for node in net.hidden
        ]
        rule = bound(REGULAR, net, Frames(x))
        share, ids = Share(4, rows.start, Halves(counts)), torch.arange(4)[rows]
        parts.append(teach(net, rule, x[:, rows], y[rows], ids=ids, share=share).grads)
    assert_close({name: parts[0][name] + parts[1][name] for name in whole.grads}, whole.grads)


@pytest.mark.parametrize(("adapts", "leaks", "numbers"), [(False, False, 0), (False, True, 1), (True, True, 2)])
def test_each_weight_keeps_numbers_of_its_own_where_it_must(adapts: bool, leaks: bool, numbers: int) -> None:
    net, (x, y) = Network(recurrent(adapts, leaks)), sample()
    rule = bound("eprop", net, Frames(x))
    context = Context(KeyedDraws(0), torch.arange(2), 0, len(x), Share(2))
    lesson, held = Lesson(net, OBJECTIVE, Frames(x), y, GradSink(net), context), []
    for t in range(len(x)):
        rule.step(lesson, x[t : t + 1])
        own = [tensor for tensor in carried(lesson.carry) if tensor.dim() == 4]
        held.append(held_bytes(own))
    weights = UNITS * (INPUTS + 1) + UNITS * (UNITS + 1)
    assert set(held[2:]) == {numbers * 2 * 8 * weights}
    assert len(rule.holds(net, range(1)).eligible) == 2 * numbers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(12, 10), nn.BatchNorm1d(10), alif(), nn.Linear(10, CLASSES)], "1 stands between weights and 2"),
        ([nn.Linear(12, 10), Scale(2.0), LIF(), nn.Linear(10, CLASSES), LI()], "1 stands between weights and 2"),
        (
            [nn.Unflatten(1, (2, 6)), nn.Conv1d(2, 4, 3, groups=2), alif(), nn.Flatten(), nn.Linear(16, CLASSES)],
            "1 .Conv1d. is no matrix",
        ),
    ],
)
def test_weights_that_can_have_no_eligibility_are_refused(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(TopologyMismatch, match=message):
        bound("eprop", Network(nn.Sequential(*layers)).double(), data("mlp")[0])


def test_what_is_protected_hears_the_inputs_of_every_weight() -> None:
    """Orthogonal projection learns from the inputs and projects the change, as for deposits."""
    net, (x, y) = Network(recurrent(adapts=True, leaks=True)), sample()
    rule = bound("eprop", net, Frames(x))
    hlop = Hlop(net, GradSink(net), rule, KeyedDraws(0), tasks=2)
    hlop.begin_task(0)
    context = Context(KeyedDraws(0), torch.arange(2), 0, len(x), Share(2))
    lesson = Lesson(net, OBJECTIVE, Frames(x), y, hlop, context)
    for t in range(len(x)):
        rule.step(lesson, x[t : t + 1])
    hlop.flush()
    assert set(hlop.metrics()) >= {"captured-energy/0.synapse", "captured-energy/0.recurrent", "captured-energy/1"}
    assert net.get_parameter("0.synapse.weight").grad is not None
