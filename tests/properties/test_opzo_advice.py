"""OPZO: what a user is told (reliability of M, cautions about noise) and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from onward.core.errors import ConfigError, UnknownName
from onward.neurons import IF, LIF
from onward.rules import rules
from properties.spatial_lab import (
    Bench,
    Identity,
    dense,
    still,
)

# What a user is told


def test_reliability_is_near_zero_for_noise_and_near_one_when_settled():
    """Split-half reliability: an M that no layer influences is noise (and the run says so); one on frozen weights
    settles. Both after 3.6 time constants of M."""
    silent, settled_net = dense([5, 800, 3], Identity), dense([5, 800, 3], Identity)
    with torch.no_grad():
        silent.get_parameter("2.weight").zero_()
    values = {}
    for name, net in (("silent", silent), ("settled", settled_net)):
        bench = Bench(net, still(64, 5, 6, scale=0.1), {"name": "opzo", "rho": 0.99, "schedule": "fresh", "alpha": 1})
        for _ in range(60):
            bench.learn()
        values[name] = bench.rule.metrics()["reliability/1"]
        remarks = [text for text in bench.rule.warnings() if "mostly noise" in text]
        assert bool(remarks) is (name == "silent")
        if remarks:
            assert "layer 1" in remarks[0]
            assert "raise rho or the batch size" in remarks[0]
    assert values["silent"] < 0.2
    assert values["settled"] > 0.9


def test_nothing_is_said_of_a_matrix_that_had_no_time_to_settle():
    """Before three time constants, and with rho = 1, reliability is a number but no warning."""
    for options in ({"rho": 0.999}, {"rho": 1.0}):
        bench = Bench(dense([5, 6, 4, 3]), still(8, 5, 6), {"name": "opzo", **options})
        bench.learn()
        assert set(bench.rule.metrics()) == {"reliability/1", "reliability/3"}
        assert not bench.rule.warnings()


def test_reliability_grows_with_momentum():
    """A longer memory averages more draws: reliability rises with rho once settled."""
    net = dense([5, 30, 3], Identity)
    found = []
    for rho in (0.5, 0.9, 0.98):
        bench = Bench(net, still(16, 5, 6, scale=0.3), {"name": "opzo", "rho": rho, "alpha": 0.5})
        for _ in range(60):
            bench.learn()
        found.append(bench.opzo.reliability()["1"])
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.parametrize("batch", [1, 3])
def test_odd_batches_have_halves_too(batch):
    """The sample left over goes to either half in turns: M is the plain mean, and a batch of 1 has a reliability."""
    net = dense([5, 8, 3], Identity)
    bench = Bench(net, still(batch, 5, 6, scale=0.1), {"name": "opzo", "rho": 0.99, "alpha": 1.0})
    for _ in range(150):
        bench.learn()
    assert bench.opzo.reliability()["1"] > 0.7
    assert not bench.rule.warnings()
    fresh = Bench(net, still(batch, 5, 6, scale=0.1), {"name": "opzo", "rho": 0.99, "alpha": 1.0})
    taught = fresh.learn()
    ages = 0.99 ** torch.arange(5, -1, -1, dtype=torch.float64)
    plain = 0.01 * torch.einsum("t,tbi,tbj->ij", ages, taught.noise(net.hidden[0]), taught.out) / batch
    assert torch.allclose(fresh.m(0), plain, atol=1e-14)


@pytest.mark.parametrize(
    ("neuron", "schedule", "steps", "said"),
    [
        (LIF, "pairs", 6, []),
        (lambda: LIF(decay=0.9), "pairs", 6, ["leak slowly"]),
        (IF, "pairs", 6, ["leak slowly"]),
        (LIF, "pairs", 5, ["one of 5 steps unpaired"]),
        (IF, "pairs", 5, ["leak slowly", "unpaired"]),
        (LIF, "codes", 6, ["cut short by 6 steps"]),
        (IF, "codes", 8, []),
        (IF, "fresh", 5, []),
        (IF, "two-pass", 5, []),
        (IF, "hold", 5, []),
    ],
)
def test_cautions_name_what_biases_or_widens_m(neuron, schedule, steps, said):
    """Antithetic pairs warn of slow leaks, IF neurons and odd T; codes of a cut block; the others of nothing."""
    spatial = {"name": "opzo", "schedule": schedule}
    warnings = Bench(dense([5, 6, 3], neuron), still(2, 5, steps), spatial).rule.warnings()
    assert len(warnings) == len(said)
    for text, part in zip(warnings, said, strict=True):
        assert part in text


def test_single_point_zo_is_cautioned_alike():
    """The cautions belong to the noise, not to OPZO."""
    warnings = Bench(dense([5, 6, 3], IF), still(2, 5, 5), {"name": "zo"}).rule.warnings()
    assert len(warnings) == 2


# What is refused


@pytest.mark.parametrize(
    ("spatial", "message"),
    [
        ({"alpha": -0.1}, "alpha = -0.1 will not do"),
        ({"rho": 1.5}, "rho = 1.5 will not do"),
        ({"rho": -0.5}, "rho = -0.5 will not do"),
        ({"per": "epoch"}, "per = 'epoch' will not do"),
        ({"warmup": -1}, "warmup = -1 will not do"),
        ({"freeze_after": -1}, "freeze_after = -1 will not do"),
        ({"sharing": "spatial"}, "sharing = 'spatial' will not do"),
        ({"schedule": {"name": "codes", "length": 3}}, "length = 3 will not do"),
        ({"schedule": {"name": "codes", "length": 14}}, "length = 14 will not do"),
    ],
)
def test_options_out_of_range_are_refused(spatial, message):
    """One line that names the option and the value."""
    with pytest.raises(ConfigError, match=message):
        rules.build({"name": "opzo", "spatial": spatial})


@pytest.mark.parametrize(
    ("spatial", "message"),
    [
        ({"law": "gausian"}, "unknown noise law 'gausian'; did you mean 'gaussian'"),
        ({"position": "befor"}, "unknown noise position 'befor'; did you mean 'before'"),
        ({"schedule": "pair"}, "unknown noise schedule 'pair'; did you mean 'pairs'"),
        ({"rhoo": 0.9}, "unknown option of opzo 'rhoo'; did you mean 'rho'"),
    ],
)
def test_misspelt_options_are_answered_with_the_nearest(spatial, message):
    """The message names the word and its neighbours."""
    with pytest.raises(UnknownName, match=message):
        rules.build({"name": "opzo", "spatial": spatial})
