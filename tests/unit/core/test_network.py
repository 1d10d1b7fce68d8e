"""Networks: what reads what, names of parameters, the default chunk, firing rates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onward.core import Delay, Frames, KeyedDraws, Network, Rates, Residual, evaluate
from onward.core.graph import Kind
from onward.core.interpret import shapes
from onward.core.run import auto_chunk, fit_chunk
from onward.neurons import LIF
from onward.rules import rules
from onward.testing.harness import OBJECTIVE, bound, relative, teach
from onward.testing.zoo import ZOO, data, make
from reference import plain


def names(nodes: list) -> list[str]:
    return [str(node) for node in nodes]


def test_every_network_computes_what_its_modules_say() -> None:
    """Forward pass of the whole zoo against a simulation that walks modules one step at a time."""
    for name in ZOO:
        net, (x, _) = make(name).eval(), data(name)
        assert relative(net(x), plain.outputs(nn.Sequential(*net.children()), x)) < 1e-12, name


def test_parameters_keep_the_names_of_the_body() -> None:
    body = nn.Sequential(nn.Linear(3, 4), LIF(), Residual(nn.Sequential(nn.Linear(4, 4), LIF())), nn.Linear(4, 2))
    keys = [name for name, _ in body.named_parameters()]
    assert [name for name, _ in Network(body).named_parameters()] == keys
    assert list(Network(nn.Linear(3, 2)).state_dict()) == ["0.weight", "0.bias"]


def test_who_reads_whom() -> None:
    net = make("drive-residual")
    reader = {str(node): str(net.reader(node)) for node in net.synapses}
    assert reader == {"0": "1.body.0", "1.body.1": "1.body.2", "1.body.3": "2", "3": "None"}
    assert names(net.hidden) == ["1.body.0", "1.body.2", "2"]
    assert {str(node): str(net.sender(node)) for node in net.synapses} == {
        "0": "None",
        "1.body.1": "1.body.0",
        "1.body.3": "1.body.2",
        "3": "2",
    }


def test_readouts_are_not_hidden() -> None:
    assert names(make("leaky-readout").hidden) == ["1"]
    assert names(make("spiking-output").hidden) == ["1"]
    assert names(make("mlp").hidden) == ["1", "3"]


def test_cycles_are_seen_and_run_step_by_step() -> None:
    for name in ZOO:
        net = make(name)
        assert net.cyclic == (name in ("recurrent", "feedback"))
        rule = bound("bptt", net, data(name)[0])
        assert fit_chunk(net, rule, 6, 6, online=False) == (1 if net.cyclic else 6)
        assert fit_chunk(net, rule, 6, 6, online=True) == 1
    assert [node.name for node in make("recurrent").of(Kind.DELAY)] == ["0.delay"]


def test_what_lies_behind_a_cycle_wakes_a_step_later() -> None:
    net = make("feedback")
    assert {str(node): net.wakes(node) for node in net.synapses} == {
        "0.entry": 0,
        "0.back": 1,
        "0.body.1": 0,
        "1": 0,
    }


def test_a_feed_forward_delay_sends_zeros_first() -> None:
    net = Network(nn.Sequential(Delay(2), nn.Linear(3, 3)))
    nn.init.eye_(net.get_parameter("1.weight"))
    nn.init.zeros_(net.get_parameter("1.bias"))
    x = torch.rand(5, 2, 3)
    assert torch.equal(net(x), torch.cat([torch.zeros(2, 2, 3), x[:3]]))


def test_shapes_of_every_neuron_and_the_output() -> None:
    net = make("conv")
    found = shapes(net, Frames(data("conv")[0]), KeyedDraws(0))
    assert found == {net.neurons[0].index: (4, 6, 6), net.neurons[1].index: (6, 2, 2), -1: (5,)}
    assert net.training


def test_the_default_chunk_fits_its_budget() -> None:
    small, large = {1: torch.Size([100]), -1: torch.Size([10])}, {1: torch.Size([2048, 64, 64])}
    assert auto_chunk(small, batch=32, steps=6) == 6
    assert auto_chunk(small, batch=32, steps=1000) == 32
    assert auto_chunk(large, batch=4, steps=100) == 1
    sizes = {1: torch.Size([1_000_000])}
    chunk = auto_chunk(sizes, batch=16, steps=100)
    assert 4 * 16 * 4 * 1_000_000 * chunk <= 384 * 2**20 < 4 * 16 * 4 * 1_000_000 * (chunk + 1)


class Overwritten(Frames):
    """Frames of which each pair of steps is equal, shown as one frame seen twice, always in the same memory."""

    def chunk(self, start: int, stop: int) -> Tensor:
        self.frame = getattr(self, "frame", torch.empty_like(self.x[0])).copy_(self.x[start])
        return self.frame.expand(stop - start, *self.frame.shape)


def test_a_frame_that_stands_still_for_one_chunk_only_is_seen_to_change() -> None:
    x, y = data("mlp")
    x = x[:2].repeat_interleave(2, 0)
    found, expected = (teach(make("mlp"), "sltt", frames, y, chunk=2) for frames in (Overwritten(x), Frames(x)))
    assert not torch.equal(x[0], x[2])
    assert relative(found.outs, expected.outs) < 1e-12
    assert all(relative(found.grads[name], grad) < 1e-12 for name, grad in expected.grads.items())


def test_firing_rates_are_means_over_steps_batch_and_units() -> None:
    net, (x, y) = make("mlp"), data("mlp")
    rates, records = Rates(), []

    def watch(record: object) -> None:
        records.append(record)
        rates(record)  # type: ignore[arg-type]

    evaluate(net, OBJECTIVE, Frames(x), y, chunk=4, watch=watch)
    for node in net.neurons:
        spikes = torch.cat([record.firings[node.index].out for record in records])
        assert abs(rates.means()[node.name] - float(spikes.mean())) < 1e-6


def test_parameters_of_two_networks_never_share_state() -> None:
    """Two interleaved models give what each gives alone: all memory is in the carry."""
    (x, y), a, b = data("mlp"), make("mlp", seed=1), make("mlp", seed=2)
    alone = [teach(net, "opzo", x, y).grads for net in (make("mlp", seed=1), make("mlp", seed=2))]
    rule_a, rule_b = bound("opzo", a, x), bound("opzo", b, x)
    first, second = teach(a, rule_a, x, y).grads, teach(b, rule_b, x, y).grads
    assert all(torch.equal(first[k], alone[0][k]) and torch.equal(second[k], alone[1][k]) for k in first)
    assert rules.build("opzo") is not rules.build("opzo")
