"""Binary weights: properties BW1 to BW6, BW11 and BW13, and the options."""

from __future__ import annotations

import warnings
from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

from onward.core import Network
from onward.core.errors import ConfigError, TopologyMismatch, UnsupportedModule
from onward.core.glue import RPReLU, Scale, Shift
from onward.core.probe import replaced
from onward.core.synapse import effective
from onward.neurons import IF, LIF
from onward.weights import (
    Binarizer,
    Clipped,
    Counting,
    Learned,
    MagnitudeAware,
    Straight,
    binarize,
    costs,
    fold,
    latents,
    restrictions,
    standardize,
    with_packed_weights,
)
from onward.weights.binary import Estimator, latent_of, unscaled
from onward.weights.bits import pack, unpack
from onward.weights.packed import packed_of, signs_of
from onward.weights.rows import rows_of
from unit.weights.synapse_zoo import build, every_synapse


def latent(module: nn.Module) -> nn.Parameter:
    return next(latents(module))


def rows(module: nn.Module, weight: Tensor) -> Tensor:
    """A row for every output channel, by looking at what each output reads."""
    groups = getattr(module, "groups", 1)
    if not isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return torch.stack([weight[c].flatten() for c in range(len(weight))])
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    return torch.stack(
        [weight[g * inputs : (g + 1) * inputs, c].flatten() for g in range(groups) for c in range(outputs)]
    )


def pulled_back(module: nn.Module) -> tuple[Tensor, Tensor]:
    """A gradient at the effective weight, and what becomes of it at the latent one."""
    weight = effective(module)["weight"]
    g = torch.randn_like(weight)
    return g, torch.autograd.grad(weight, latent(module), g)[0]


@every_synapse
def test_each_output_channel_has_two_values(name: str) -> None:
    """BW1, whatever the layer; some latent weights are exactly 0."""
    module, _ = build(name)
    with torch.no_grad():
        module.get_parameter("weight").view(-1)[::3] = 0
    real = module.get_parameter("weight").detach().clone()
    weight = effective(binarize(module))["weight"].detach()
    for row, before in zip(rows(module, weight), rows(module, real), strict=True):
        alpha = before.abs().mean()
        assert torch.equal(row, torch.where(before >= 0, alpha, -alpha))


@every_synapse
def test_rows_are_output_channels_and_come_back(name: str) -> None:
    module, features = build(name)
    weight = module.get_parameter("weight").detach()
    matrix = rows_of(module).of(weight)
    assert torch.equal(matrix, rows(module, weight))
    assert torch.equal(rows_of(module).back(matrix, tuple(weight.shape)), weight)
    x = torch.randn(1, *features, dtype=torch.float64)
    silent = matrix.clone()
    silent[-1] = 0
    before = module(x)
    with torch.no_grad():
        module.get_parameter("weight").copy_(rows_of(module).back(silent, tuple(weight.shape)))
    changed = (module(x) - before).abs().flatten(2).sum((0, 2)) if x.dim() > 2 else (module(x) - before).abs()[0]
    assert (changed > 0).tolist() == [False] * (len(matrix) - 1) + [True]


@given(st.integers(1, 12), st.integers(0, 1000), st.floats(-0.5, 0.5).filter(lambda d: abs(d) > 1e-3))
def test_the_scale_is_the_least_squares_optimum(fan_in: int, seed: int, off: float) -> None:
    """BW2."""
    w = torch.randn(fan_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    signs, alpha = torch.where(w >= 0, 1.0, -1.0), w.abs().mean()
    assert (w - (alpha + off) * signs).norm() > (w - alpha * signs).norm()


def test_the_estimator_is_clipped() -> None:
    """BW3: also at exactly 1, and with alpha that does not multiply."""
    module = nn.Linear(64, 8).double()
    module.weight.data.normal_()
    module.weight.data[0, :4] = torch.tensor([1.0, -1.0, 1.0 + 1e-12, 0.0])
    g, found = pulled_back(binarize(module))
    assert torch.equal(found, torch.where(latent(module).abs() <= 1, g, 0.0))
    assert 0 < (found == 0).double().mean() < 1


@pytest.mark.parametrize(
    ("estimator", "window", "aware"),
    [
        (Straight(), False, False),
        (MagnitudeAware(Clipped()), True, True),
        (MagnitudeAware(Straight()), False, True),
    ],
    ids=str,
)
def test_other_estimators(estimator: Estimator, window: bool, aware: bool) -> None:
    module = nn.Linear(64, 8).double()
    module.weight.data.normal_()
    g, found = pulled_back(Binarizer(estimator=estimator).apply(module))
    w = latent(module).detach()
    expected = g * w.abs().mean(1, keepdim=True) if aware else g
    assert torch.allclose(found, torch.where(w.abs() <= 1, expected, 0.0) if window else expected)


def test_a_learned_scale_starts_at_the_mean_magnitude_and_has_its_true_gradient() -> None:
    plain = nn.Linear(16, 4).double()
    module = Binarizer(Learned).apply(nn.Linear(16, 4).double())
    latent(module).data.copy_(plain.weight.data)
    alpha = module.get_parameter("parametrizations.weight.0.scale.alpha")
    assert alpha.shape == (4,)
    assert not torch.equal(alpha, plain.weight.abs().mean(1))
    module = Binarizer(Learned).apply(plain)
    alpha = module.get_parameter("parametrizations.weight.0.scale.alpha")
    signs = torch.where(latent(module) >= 0, 1.0, -1.0)
    assert torch.equal(alpha, latent(module).abs().mean(1))
    weight = effective(module)["weight"]
    g = torch.randn_like(weight)
    to_latent, to_alpha = torch.autograd.grad(weight, (latent(module), alpha), g)
    assert torch.equal(to_latent, torch.where(latent(module).abs() <= 1, g, 0.0))
    assert torch.allclose(to_alpha, (g * signs).sum(1))


def test_without_a_scale_weights_are_signs() -> None:
    weight = effective(Binarizer(unscaled).apply(nn.Conv2d(2, 3, 3)))["weight"]
    assert set(weight.unique().tolist()) == {-1.0, 1.0}


def test_centred_signs_are_those_of_the_deviations() -> None:
    module = nn.Linear(32, 4).double()
    module.weight.data.add_(3)
    w = module.weight.data.clone()
    g, found = pulled_back(Binarizer(centred=True).apply(module))
    deviations = w - w.mean(1, keepdim=True)
    alpha = deviations.abs().mean(1, keepdim=True)
    assert torch.equal(effective(module)["weight"], torch.where(deviations >= 0, alpha, -alpha))
    masked = torch.where(deviations.abs() <= 1, g, 0.0)
    assert torch.allclose(found, masked - masked.mean(1, keepdim=True))


@pytest.mark.parametrize("binarizer", [Binarizer(), Binarizer(Learned, MagnitudeAware(Clipped()), centred=True)])
def test_forward_mode_is_the_transpose_of_the_way_back(binarizer: Binarizer) -> None:
    """<g, J v> = <J^T g, v>, so that rules in dual numbers see the same estimator."""
    module = binarizer.apply(nn.Linear(16, 4).double())
    latent(module).data.normal_()
    parameters = list(module.parametrizations.parameters())  # type: ignore[union-attr]
    weight = effective(module)["weight"]
    g, moves = torch.randn_like(weight), [torch.randn_like(p) for p in parameters]
    back = torch.autograd.grad(weight, parameters, g)
    along = dict(zip(parameters, moves, strict=True))

    def dual(p: nn.Parameter) -> Tensor | None:
        return forward_ad.make_dual(p.detach(), along[p]) if p in along else None

    with warnings.catch_warnings(), torch.no_grad(), forward_ad.dual_level():
        warnings.simplefilter("ignore")  # the first dual number of a process compiles formulas, in a deprecated way
        with replaced(module, dual):
            moved = forward_ad.unpack_dual(effective(module)["weight"]).tangent
    assert moved is not None
    expected = torch.stack([(b * m).sum() for b, m in zip(back, moves, strict=True)]).sum()
    assert torch.allclose((g * moved).sum(), expected)


@pytest.mark.parametrize("scale", [0.25, 0.5])
def test_scaling_latents_scales_the_channel(scale: float) -> None:
    """BW4, and what batch normalisation leaves of it."""
    module = binarize(nn.Conv2d(3, 4, 3, bias=False)).double()
    norm, x = nn.BatchNorm2d(4).double(), (torch.rand(6, 3, 7, 7) < 0.4).double()
    before = module(x)
    normal = norm(before)
    latent(module).data[2].mul_(scale)
    after = module(x)
    factor = torch.tensor([1.0, 1.0, scale, 1.0], dtype=torch.float64).view(-1, 1, 1)
    assert torch.allclose(after, before * factor, rtol=1e-12)
    assert (norm(after) - normal).abs().max() < 1e-2
    exact = nn.BatchNorm2d(4, eps=1e-30).double()
    assert torch.allclose(exact(after), exact(before), atol=1e-9)


def test_one_latent_past_zero_flips_one_weight() -> None:
    """BW5: of the signs exactly one."""
    module = binarize(nn.Linear(16, 4).double())
    before = effective(module)["weight"].detach().clone()
    latent(module).data[1, 3] *= -1
    after = effective(module)["weight"].detach()
    assert torch.equal((before != after).nonzero(), torch.tensor([[1, 3]]))
    assert after[1, 3] == -before[1, 3]


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_drives_of_binary_spikes_count(kind: str) -> None:
    """BW6: integers of at most the fan-in, as even or odd as the number of active inputs."""
    module = nn.Linear(20, 5, bias=False) if kind == "linear" else nn.Conv2d(3, 5, 3, bias=False)
    module = binarize(module.double())
    x = (torch.rand(4, 20) < 0.3).double() if kind == "linear" else (torch.rand(4, 3, 6, 6) < 0.3).double()
    alpha, places = signs_of(module)[1], [1] * (x.dim() - 2)
    counts = module(x) / alpha.view(-1, *places)
    whole = counts.round()
    assert torch.allclose(counts, whole, atol=1e-9)
    assert whole.abs().max() <= latent_of(module).shape[1]
    ones = torch.ones_like(effective(module)["weight"][:1])
    active = nn.functional.linear(x, ones) if kind == "linear" else nn.functional.conv2d(x, ones)
    assert torch.equal((whole % 2), (active % 2).expand_as(whole))


def test_standardised_weights_can_be_binary() -> None:
    """Signs are those of the standardised weight, through which gradients go on."""
    module = standardize(nn.Linear(16, 4))
    expected = effective(module)["weight"].detach().clone()
    binarize(module)
    assert torch.equal(effective(module)["weight"] >= 0, expected >= 0)
    _, found = pulled_back(module)
    assert found.abs().sum() > 0
    assert found.sum(1).abs().max() < 1e-5  # nothing can be learned along a row's mean


@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_weights_of_limited_norm_stay_real(norm: str) -> None:
    module = restrictions.build(norm).apply(nn.Linear(4, 4), (4,))
    with pytest.raises(UnsupportedModule, match=r"limited norm.*--model\.restriction none"):
        binarize(module)


def test_what_has_no_signs_is_refused() -> None:
    with pytest.raises(UnsupportedModule, match=r"BatchNorm1d has no weight with output channels"):
        binarize(nn.BatchNorm1d(4))
    with pytest.raises(ConfigError, match="hold no number"), pytest.warns(UserWarning, match="zero-element"):
        binarize(nn.Linear(0, 4))
    with pytest.raises(UnsupportedModule, match=r"Linear has no binary weight.*binarize"):
        signs_of(nn.Linear(4, 4))


@given(st.lists(st.booleans(), max_size=70))
def test_bits_come_back(values: list[bool]) -> None:
    """BW11."""
    given_ = torch.tensor(values, dtype=torch.bool)
    packed = pack(given_)
    assert packed.dtype is torch.uint8
    assert packed.nbytes == ceil(len(values) / 8)
    assert torch.equal(unpack(packed, (len(values),)), given_)
    assert packed.tolist() == [
        sum(bit << k for k, bit in enumerate(values[i : i + 8])) for i in range(0, len(values), 8)
    ]


def network() -> Network:
    torch.manual_seed(3)
    return Network(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            LIF(),
            Binarizer(Learned).apply(nn.Conv2d(4, 7, 3)),
            LIF(),
            binarize(standardize(nn.ConvTranspose2d(7, 6, 2, groups=1))),
            LIF(),
            nn.Flatten(),
            nn.Linear(150, 3),
        )
    )


def test_packed_weights_are_the_same_numbers() -> None:
    """BW11: ceil(n / 8) bytes and a scale for each channel; the original goes on as it was."""
    net, x = network(), torch.rand(3, 2, 2, 6, 6) * 3
    expected = net(x)
    packed = with_packed_weights(net)
    assert torch.equal(packed(x), expected)
    assert torch.equal(net(x), expected)
    module = packed_of(packed.synapses[1].module)
    assert module is not None
    assert module.nbytes == ceil(7 * 36 / 8) + 7 * 4
    again = with_packed_weights(network())
    again.load_state_dict(packed.state_dict())
    assert torch.equal(again(x), expected)
    assert with_packed_weights(packed.double()).state_dict().keys() == packed.state_dict().keys()


def test_costs_by_layer() -> None:
    net = network()
    found = {layer.name: layer for layer in costs(net, (2, 6, 6))}
    assert [layer.binary for layer in found.values()] == [False, True, True, False]
    assert found["2"].bytes == 7 * 36 * 4 + 7 * 4
    assert found["2"].packed == ceil(7 * 36 / 8) + 7 * 4 + 7 * 4
    assert found["0"].operations == 4 * 36 * 18
    assert found["2"].operations == 7 * 16 * 36
    assert found["4"].operations == 7 * 16 * 6 * 4
    assert found["7"].operations == 450
    packed = costs(with_packed_weights(net), (2, 6, 6))
    assert [(layer.binary, layer.packed) for layer in packed] == [(one.binary, one.packed) for one in found.values()]


def trained_norm(channels: int, kind: type[nn.BatchNorm1d | nn.BatchNorm2d]) -> nn.Module:
    norm = kind(channels).double()
    norm.running_mean = torch.randn(channels, dtype=torch.float64)
    norm.running_var = torch.rand(channels, dtype=torch.float64) + 0.5
    nn.init.normal_(norm.weight)  # of both signs: directions flip
    nn.init.normal_(norm.bias)
    norm.weight.data[0] = 0
    return norm.eval()


@pytest.mark.parametrize("ties_fire", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("seed", [0, 1])
def test_integer_thresholds_give_the_same_spikes(kind: str, ties_fire: bool, seed: int) -> None:
    """BW13."""
    torch.manual_seed(seed)
    linear = kind == "linear"
    synapse = binarize((nn.Linear(30, 9) if linear else nn.Conv2d(3, 9, 3, padding=1)).double())
    norm = trained_norm(9, nn.BatchNorm1d if linear else nn.BatchNorm2d)
    shift, scale, neuron = Shift(9).double(), Scale(0.7), LIF(decay=0.0, threshold=0.3, ties_fire=ties_fire)
    nn.init.normal_(shift.offset)
    x = (torch.rand(40, 30) < 0.4).double() if linear else (torch.rand(8, 3, 6, 6) < 0.4).double()
    drive = shift(scale(norm(synapse(x))))
    expected = neuron.simulate(drive[None], neuron.start(drive)).out[0]
    layer = Counting.of(synapse, norm, scale, shift, neuron=neuron)
    assert torch.equal(layer(x), expected)
    assert 0.1 < expected.mean() < 0.9
    assert layer.least.dtype is torch.int64
    line = fold(synapse, norm, scale, shift)
    places = [1] * (x.dim() - 2)
    folded = line.gain.view(-1, *places) * layer.counts(x) + line.offset.view(-1, *places)
    assert torch.allclose(folded, drive, atol=1e-12)


def test_a_tie_is_decided_as_the_neuron_decides_it() -> None:
    synapse = Binarizer(unscaled).apply(nn.Linear(4, 1, bias=False))
    latent(synapse).data.fill_(0.1)
    x = torch.tril(torch.ones(5, 4), -1)  # 0 to 4 active inputs
    for ties_fire, expected in ((True, [0, 0, 1, 1, 1]), (False, [0, 0, 0, 1, 1])):
        layer = Counting.of(synapse, neuron=LIF(decay=0.0, threshold=2.0, ties_fire=ties_fire))
        assert layer(x)[:, 0].tolist() == expected


def test_what_cannot_be_folded_is_refused() -> None:
    synapse = binarize(nn.Linear(4, 3))
    with pytest.raises(UnsupportedModule, match="RPReLU does not fold"):
        fold(synapse, RPReLU(3))
    with pytest.raises(UnsupportedModule, match="running statistics"):
        fold(synapse, nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(UnsupportedModule, match="no binary weight"):
        fold(nn.Linear(4, 3))
    with pytest.raises(TopologyMismatch, match="without memory"):
        Counting.of(synapse, neuron=IF())
