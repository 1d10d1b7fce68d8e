"""Properties I11 and I12: normalisation and dropout in networks with feedback, against loops over time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import Feedback, Network, Static
from onward.neurons import IF
from onward.testing.harness import same_bits, teach
from properties.equilibrium_lab import CLASSES, spikes_of


def normalised(norm_of_input: bool = True) -> Network:
    """Two layers in a loop, with batch normalisation of the second's drive and perhaps of the input's."""
    entry: list[nn.Module] = [nn.Linear(6, 10), *([nn.BatchNorm1d(10)] if norm_of_input else [])]
    body = nn.Sequential(IF(), nn.Linear(10, 8), nn.BatchNorm1d(8), IF())
    loop = Feedback(nn.Sequential(*entry), body, nn.Linear(8, 10, bias=False))
    net = Network(nn.Sequential(loop, nn.Linear(8, CLASSES))).double()
    net.get_parameter("0.back.weight").data.mul_(0.5)
    for name in ("0.body.2", *(["0.entry.1"] if norm_of_input else [])):
        net.get_parameter(f"{name}.bias").data.fill_(0.5)
    return net


def batch_norm(z: Tensor, module: Any, running: bool) -> Tensor:
    mean, var = (module.running_mean, module.running_var) if running else (z.mean(0), z.var(0, unbiased=False))
    return (z - mean) / (var + module.eps).sqrt() * module.weight + module.bias


@torch.no_grad()
def simulated(net: Any, x: Tensor, steps: int) -> Tensor:
    """Section 2.6: the input's norm by the statistics of the batch, the other by running ones; spikes of layer 2."""
    entry, body, back = net[0].entry, net[0].body, net[0].back
    drive, sent = batch_norm(entry[0](x), entry[1], running=False), torch.zeros(len(x), 8, dtype=x.dtype)
    u, v, spikes = torch.zeros_like(drive), torch.zeros_like(sent), []
    for _ in range(steps):
        u = u + drive + back(sent)
        first = (u >= 1).to(u)
        u = u - first
        v = v + batch_norm(body[1](first), body[2], running=True)
        sent = (v >= 1).to(v)
        v = v - sent
        spikes.append(sent)
    return torch.stack(spikes)


def plain_modules(net: Network) -> Any:
    return nn.Sequential(*net.children())


def test_i11_running_statistics_move_exactly_once_a_training_step() -> None:
    """I11: towards the statistics of the batch in one pass through f at the measured rates; evaluation moves none."""
    net, (x, y) = normalised(), still_batch(20)
    modules = plain_modules(net)
    modules[0].body[2].running_mean.normal_()
    a = simulated(modules, x, 12).mean(0)
    with torch.no_grad():
        z1 = modules[0].entry[0](x)
        first = (batch_norm(z1, modules[0].entry[1], running=False) + modules[0].back(a)).clamp(0, 1)
        z2 = modules[0].body[1](first)
    norms = [(modules[0].entry[1], z1), (modules[0].body[2], z2)]
    expected = [(0.9 * m.running_mean + 0.1 * z.mean(0), 0.9 * m.running_var + 0.1 * z.var(0)) for m, z in norms]
    teach(net, "ide", Static(x, 12), y)
    for (module, _), (mean, var) in zip(norms, expected, strict=True):
        assert int(module.num_batches_tracked) == 1
        assert torch.allclose(module.running_mean, mean, atol=1e-12)
        assert torch.allclose(module.running_var, var, atol=1e-12)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert torch.equal(spikes_of(net, Static(x, 12), y)[-1], spikes_of(net, Static(x, 12), y)[-1])
    assert same_bits(before, net.state_dict())


def still_batch(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(batch, 6, generator=generator, dtype=torch.float64) * 2
    return x, torch.randint(CLASSES, (batch,), generator=generator)


def trained_spikes(net: Network, x: Tensor, y: Tensor, rule: str) -> Tensor:
    """The last layer's spikes during training."""
    last = net.neurons[-1].index
    return torch.cat([record.firings[last].out for record in teach(net, rule, Static(x, 12), y).records])


@pytest.mark.parametrize("rule", ["ide", "spide"])
def test_i11_simulation_normalises_by_running_statistics_behind_neurons_and_by_the_batch_before(rule: str) -> None:
    """I11: in training mode; the spikes are those of the loops."""
    net, (x, y) = normalised(), still_batch(20)
    modules = plain_modules(net)
    modules[0].body[2].running_mean.normal_()
    expected = simulated(modules, x, 12)
    assert 0.05 < float(expected.mean()) < 0.95
    start = {name: value.clone() for name, value in net.state_dict().items()}
    assert torch.equal(trained_spikes(net, x, y, rule), expected)
    net.load_state_dict({**start, "0.entry.1.running_mean": torch.full((10,), 7.0)})
    assert torch.equal(trained_spikes(net, x, y, rule), expected)
    net.load_state_dict({**start, "0.body.2.running_mean": torch.full((8,), -1.0)})
    changed = simulated(modules, x, 12)
    assert not torch.equal(changed, expected)
    assert torch.equal(trained_spikes(net, x, y, rule), changed)


@pytest.mark.parametrize("rule", ["ide", "spide"])
def test_i11_without_a_norm_of_the_input_samples_do_not_meet_in_the_simulation(rule: str) -> None:
    """I11: batch statistics of a norm behind a neuron are of no consequence to spikes; those of the input's are."""
    x, y = still_batch(20)
    other = torch.cat([x[:4], 3 * x[4:]])
    for norm_of_input in (False, True):
        torch.manual_seed(0)
        net = normalised(norm_of_input)
        start = {name: value.clone() for name, value in net.state_dict().items()}
        one = trained_spikes(net, x, y, rule)[:, :4]
        net.load_state_dict(start)
        assert torch.equal(trained_spikes(net, other, y, rule)[:, :4], one) is not norm_of_input


@pytest.mark.parametrize("rule", ["ide", "spide"])
def test_i12_one_dropout_mask_serves_all_steps_and_the_gradient(rule: str) -> None:
    """I12: a neuron whose drive is dropped never fires and learns nothing; another fires as for twice the drive."""
    entry = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.5))
    net = Network(nn.Sequential(Feedback(entry, IF(), nn.Linear(10, 10, bias=False)), nn.Linear(10, CLASSES))).double()
    net.get_parameter("0.back.weight").data.zero_()
    net.get_parameter("0.entry.0.bias").data.fill_(0.2)
    net.get_parameter("0.entry.0.weight").data.mul_(0.1)
    x, y = still_batch(12)
    drive = plain_modules(net)[0].entry[0](x).detach()
    assert (drive > 0.02).all()
    taught = teach(net, {"name": rule, **({"scale": 1000.0} if rule == "spide" else {})}, Static(x, 50), y)
    spikes = torch.cat([record.firings[net.neurons[0].index].out for record in taught.records])
    counts, dropped = spikes.sum(0), (spikes == 0).all(0)
    assert 0.3 < float(dropped.double().mean()) < 0.7
    kept, u = torch.zeros_like(counts), torch.zeros_like(counts)
    for _ in range(50):
        u = u + 2 * drive
        kept, u = kept + (u >= 1), u - (u >= 1).to(u)
    assert torch.equal(counts, torch.where(dropped, 0.0, kept))
    post = taught.posts("0.entry.0")[0]
    assert (post[dropped] == 0).all()
    assert (post[~dropped] != 0).double().mean() > 0.9


def test_i12_masked_currents_are_right_on_average() -> None:
    """I12: over 4000 samples, the mean masked current is the unmasked one (4 sigma)."""
    entry = nn.Sequential(nn.Linear(6, 10), nn.Dropout(0.25))
    net = Network(nn.Sequential(Feedback(entry, IF(), nn.Linear(10, 10, bias=False)), nn.Linear(10, CLASSES))).double()
    with torch.no_grad():
        net.get_parameter("0.entry.0.weight").zero_()
        net.get_parameter("0.entry.0.bias").fill_(1 / 64)
    x, y = torch.zeros(4000, 6, dtype=torch.float64), torch.zeros(4000, dtype=torch.int64)
    taught = teach(net, "ide", Static(x, 1), y)
    masked = 64 * taught.records[0].firings[net.neurons[0].index].state[0]
    assert masked.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(masked.mean()) == pytest.approx(1.0, abs=4 * (1 / 3) ** 0.5 / 200)
