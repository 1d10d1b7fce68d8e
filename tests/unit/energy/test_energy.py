"""Operations against counts by hand: borders, strides, loops, shortcuts, attention; energies and training costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core import Joined, Network, Recurrent, Residual, Scale
from onward.core.attention import Attention, Gate
from onward.core.errors import ConfigError, UnknownName, UnsupportedModule
from onward.data import ArrayDataset, Loader
from onward.data.arrays import FramesLayout
from onward.energy import TECHNOLOGIES, Counts, Energy, count, technology, training_cost
from onward.energy.count import PRODUCT, LayerCount
from onward.neurons import IF, LIF


def still(x: Tensor, steps: int, batch: int = 2) -> Loader:
    return Loader(ArrayDataset(x, torch.zeros(len(x), dtype=torch.int64)), batch, steps, shuffle=False)


def moving(x: Tensor, batch: int = 2) -> Loader:
    """Frames ``[N, T, ...]``."""
    data = ArrayDataset(x, torch.zeros(len(x), dtype=torch.int64), layout=FramesLayout())
    return Loader(data, batch, x.shape[1], shuffle=False)


def spiking(body: nn.Module, x: Tensor) -> Counts:
    return count(Network(body), moving(x[None, None], 1))


def layer(found: Counts, name: str) -> LayerCount:
    return next(layer for layer in found.layers if layer.name == name)


def test_each_active_input_of_a_linear_layer_meets_its_weights_that_are_not_zero() -> None:
    synapse = nn.Linear(3, 4)
    synapse.weight.data = torch.tensor([[1.0, 0, 2], [3, 0, 0], [0, 0, 4], [5, 6, 0]])
    found = spiking(nn.Sequential(synapse), torch.tensor([1.0, 0, 1]))
    assert (found.acs, found.macs, found.dense) == (5, 0, 12)
    assert (found.layers[0].inputs, found.layers[0].active, found.layers[0].weights) == (3, 2, 12)


@pytest.mark.parametrize(
    ("x", "macs", "acs"),
    [
        ([0.5, 0.0, 0.25], 8.0, 0.0),
        ([1.0, -1.0, 0.0], 0.0, 8.0),
        ([2.74, 0.0, 2.74], 0.0, 8.0),
        ([0.0, 0.0, 0.0], 0.0, 0.0),
        ([1.0, 2.0, 0.0], 8.0, 0.0),
    ],
    ids=["analogue", "ternary", "spikes of one height", "silence", "counts of events"],
)
def test_one_magnitude_makes_accumulations_several_make_multiplications(
    x: list[float], macs: float, acs: float
) -> None:
    found = spiking(nn.Sequential(nn.Linear(3, 4)), torch.tensor(x))
    assert (found.macs, found.acs) == (macs, acs)


def fan_by_hand(module: nn.Conv2d, height: int, width: int, y: int, x: int) -> int:
    """Output places whose window holds pixel (y, x), one by one."""
    (kh, kw), (sh, sw) = module.kernel_size, module.stride
    ph, pw = (int(p) for p in module.padding)
    rows, columns = (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1
    windows = [(i * sh - ph, j * sw - pw) for i in range(rows) for j in range(columns)]
    return sum(top <= y < top + kh and left <= x < left + kw for top, left in windows)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_a_pixel_meets_as_many_weights_as_windows_hold_it(stride: int, padding: int) -> None:
    conv = nn.Conv2d(1, 3, 3, stride=stride, padding=padding)
    for y, x in [(0, 0), (0, 3), (2, 2), (4, 5)]:
        frame = torch.zeros(1, 5, 6)
        frame[0, y, x] = 1
        found = spiking(nn.Sequential(conv, nn.Flatten()), frame)
        assert found.acs == 3 * fan_by_hand(conv, 5, 6, y, x)
    every = sum(fan_by_hand(conv, 5, 6, y, x) for y in range(5) for x in range(6))
    assert found.dense == 3 * every


def test_groups_read_channels_of_their_own() -> None:
    conv = nn.Conv2d(4, 8, 1, groups=4)
    frame = torch.zeros(4, 2, 2)
    frame[1, 0, 0] = 1
    assert spiking(nn.Sequential(conv, nn.Flatten()), frame).acs == 2


def test_average_pooling_of_spikes_makes_what_follows_multiply_and_pooling_of_maxima_does_not() -> None:
    frame = torch.tensor([[[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]])
    averaged = spiking(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 5)), frame)
    largest = spiking(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 5)), frame)
    assert (averaged.macs, averaged.acs) == (15, 0)
    assert (largest.macs, largest.acs) == (0, 15)


def test_recurrent_connections_count_the_spikes_of_the_step_before() -> None:
    net = Network(nn.Sequential(Recurrent(nn.Linear(2, 3), IF(), nn.Linear(3, 3)), nn.Linear(3, 2)))
    for weight in (net.get_parameter("0.synapse.weight"), net.get_parameter("0.recurrent.weight")):
        weight.data.fill_(0.6)
    net.get_parameter("0.synapse.bias").data.zero_()
    net.get_parameter("0.recurrent.bias").data.zero_()
    found = count(net, moving(torch.tensor([[[1.0, 1], [0, 0], [0, 0]]]), 1))
    # 1.2 at the first step: all three fire, and hear each other (1.8 and what was left, 0.2) at the second: again.
    assert layer(found, "0.synapse").acs == 2 * 3
    assert layer(found, "0.recurrent").acs == 2 * 9
    assert layer(found, "1").acs == 3 * 3 * 2
    assert layer(found, "0.recurrent").dense == 27, "every step counts, the first one too"
    assert found.passes == 3


def test_sums_of_shortcuts_are_no_spikes_any_more() -> None:
    twice = nn.Linear(2, 2, bias=False)
    twice.weight.data = torch.eye(2) * 2
    block = Residual(nn.Sequential(twice, IF()))
    found = spiking(nn.Sequential(block, nn.Linear(2, 3)), torch.tensor([1.0, 0.0]))
    assert (layer(found, "1").acs, layer(found, "1").macs) == (3, 0), "2 alone has one magnitude"
    found = count(Network(nn.Sequential(block, nn.Linear(2, 3))), moving(torch.tensor([[[1.0, 0.0], [0.2, 0.0]]]), 1))
    assert layer(found, "1").macs == 6, "2 and 0.2 have two"


def test_products_of_attention_by_loops() -> None:
    torch.manual_seed(0)
    for tokens, width in ((3, 4), (5, 2)):
        q, k, v = ((torch.rand(2 * width, tokens) < 0.4).float() for _ in range(3))
        x = torch.cat([q, k, v])
        parts = [Part(i, 2 * width) for i in range(3)]
        net = Joined(Attention(heads=2), q=parts[0], k=parts[1], v=parts[2])
        found = spiking(nn.Sequential(net, nn.Flatten()), x)
        assert found.layers[0].kind == PRODUCT
        assert found.acs == sum(by_loops(*(s[h * width : (h + 1) * width] for s in (q, k, v))) for h in range(2))
        assert found.dense == 2 * 2 * tokens * width * min(tokens, width)
        assert not found.uncounted


class Part(nn.Module):
    """A third of the channels."""

    def __init__(self, number: int, width: int):
        super().__init__()
        self.rows = slice(number * width, (number + 1) * width)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.rows]


def by_loops(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Multiplications of factors that are not zero in the cheaper order of q k^T v, for ``[d, N]``."""
    (width, tokens), found = q.shape, 0
    if tokens <= width:
        scores = torch.zeros(tokens, tokens)
        for n in range(tokens):
            for m in range(tokens):
                both = sum(int(k[i, n] and q[i, m]) for i in range(width))
                scores[n, m], found = both, found + both
                found += int((v[:, n] != 0).sum()) if both else 0
        return found
    for i in range(width):
        for j in range(width):
            both = sum(int(v[i, n] and k[j, n]) for n in range(tokens))
            found += both + (int((q[j] != 0).sum()) if both else 0)
    return found


def test_gates_of_spikes_add_nothing_up_and_strangers_are_named() -> None:
    assert not spiking(nn.Sequential(Joined(Gate(), gate=nn.Identity(), x=nn.Identity())), torch.ones(2)).layers
    assert spiking(nn.Sequential(Joined(Odd(), a=nn.Identity(), b=nn.Identity())), torch.ones(2)).uncounted == (
        "0.join",
    )


class Odd(nn.Module):
    """A product that nobody knows."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


def test_batches_and_chunks_change_no_count() -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(6, 8), LIF(threshold=0.3), Scale(2.0), nn.Linear(8, 3)))
    x = torch.rand(5, 4, 6)
    whole = count(net, moving(x, 5))
    assert count(net, moving(x, 2), chunk=1) == whole
    assert whole.layers[1].acs > 0
    assert whole.leaking == 8 * 4
    assert 0 < whole.sparsity < 1


def test_a_still_input_needs_one_pass_without_spikes() -> None:
    found = count(Network(nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(3, 2))), still(torch.rand(3, 2), steps=5))
    assert found.passes == 1
    energy = Energy("run", "data", technology("45nm-fp32"), found, training_cost_of(found), with_traffic=False)
    assert energy.ann_macs == found.dense / 5 == 12
    assert energy.ann == pytest.approx(12 * 4.6e-12)
    assert energy.synapses == pytest.approx((found.macs * 4.6 + found.acs * 0.9) * 1e-12)
    assert energy.membranes == pytest.approx(3 * 5 * 4.6e-12)


def training_cost_of(found: Counts):
    from onward.energy.training import TrainingCost

    return TrainingCost((), found.dense)


def test_traffic_fetches_a_weight_for_every_operation() -> None:
    net = Network(nn.Sequential(nn.Linear(2, 3, bias=False), IF()))
    net.get_parameter("0.weight").data.fill_(1.0)
    found = count(net, moving(torch.tensor([[[1.0, 0.0]]]), 1))
    costs = technology("45nm-fp32").but(mac=0, ac=0, word=2)
    energy = Energy("run", "data", costs, found, training_cost_of(found), with_traffic=True)
    assert energy.words == 3 + 1 + 2 * 3
    assert energy.total == pytest.approx(20e-12)
    assert energy.mapping()["energy"]["traffic"]["words"] == 10
    assert energy.mapping()["energy"]["effective_acs"] == 3


def test_feedback_of_a_convolution_is_held_once_and_used_at_every_place() -> None:
    net = Network(nn.Sequential(nn.Conv2d(1, 2, 1), LIF(), nn.Conv2d(2, 3, 1), LIF(), nn.Flatten(), nn.Linear(12, 5)))
    loader = still(torch.rand(1, 1, 2, 2), steps=3)
    cost = training_cost(net, next(loader.epoch(0)).x, count(net, loader))
    bp, bptt, dfa, opzo, zo = cost.rules
    assert bp.feedback == 2 * 3 + 12 * 5
    assert bp.errors == 3 * (2 * 3 * 4 + 12 * 5)
    assert bptt.macs - bp.macs == 2 * (8 + 12)
    assert dfa.feedback == (8 + 12) * 5
    assert dfa.macs == 3 * 100
    assert opzo.macs == 2 * dfa.macs
    assert (zo.feedback, zo.macs) == (0, 60)
    assert [rule.transport for rule in cost.rules] == [True, True, False, False, False]
    assert cost.gradients == 3 * (8 + 24 + 60)


def test_constants_of_ones_own_say_so() -> None:
    mine = technology("45nm-int8").but(mac=1.5)
    assert (mine.mac, mine.ac) == (1.5, 0.03)
    assert mine.source.startswith("given: mac 1.5 pJ; the rest: M. Horowitz")
    assert TECHNOLOGIES["45nm-fp32"].but() is TECHNOLOGIES["45nm-fp32"]
    with pytest.raises(ConfigError, match=r"--ac nan was given; expected an energy in pJ"):
        mine.but(ac=float("nan"))
    with pytest.raises(UnknownName, match="did you mean '45nm-fp32'"):
        technology("45nm-fp23")


class TwoWeights(nn.Module):
    """A synapse of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.ones(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a @ self.b


def test_a_synapse_of_two_tensors_is_refused_in_words() -> None:
    with pytest.raises(UnsupportedModule, match=r"0 \(TwoWeights\) computes with a, b; operations are counted of"):
        spiking(nn.Sequential(TwoWeights()), torch.ones(2))
