"""Networks as NIR graphs and back: every node, what is folded, what is refused, files that are no good."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onward._tensors import CheckpointError
from onward.cli import USER_ERROR, main
from onward.core import Network
from onward.core.attention import Gate
from onward.core.containers import Joined, Recurrent, Residual
from onward.core.errors import ConfigError, UnsupportedModule
from onward.core.glue import Delay
from onward.export.nir import from_nir, read_network, run, write_network
from onward.export.nir.check import agreement
from onward.export.nir.neurons import below
from onward.export.purpose import Purpose
from onward.neurons import IF, LIF, AdaptiveLIF, Affine, CubaLIF, HardReset, Rectifier
from onward.train import assemble, memory, parse_tokens
from unit.export.graphs import euler, layers, lif, lossy, trained_norm, write, zoo

nir = pytest.importorskip("nir", reason="reads and writes graphs with the package nir")
h5py = pytest.importorskip("h5py", reason="the package nir brings it")

ZOO, LOSSY = zoo(), lossy()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "network.nir"


@pytest.mark.parametrize("name", ZOO)
def test_what_is_written_is_read_back_and_fires_alike(name: str, file: Path) -> None:
    net, features, nodes = ZOO[name]
    found = write(file, net, features)
    assert nodes <= found.nodes.keys()
    assert found.agreement.first is None
    assert found.agreement.agreed == found.agreement.states > found.agreement.spikes > 0
    assert found.lost == []


@pytest.mark.parametrize("name", ZOO)
def test_outputs_in_single_precision(name: str, file: Path) -> None:
    net, features, _ = ZOO[name]
    write(file, net, features)
    x = torch.rand(5, 3, *features)
    far = (net(x) - from_nir(file)(x)).abs() > 1e-5
    assert far.float().mean() < 0.01  # rounding of folded weights may move a spike


@pytest.mark.parametrize("words", LOSSY)
def test_what_nir_cannot_say_is_refused_or_noted(words: str, file: Path) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        write(file, LOSSY[words], (6,))
    assert not file.exists()
    found = write(file, LOSSY[words], (6,), lossy=True)
    assert words in " ".join(found.lost)
    assert found.agreement.first is None
    assert found.agreement.spikes


def test_another_program_reads_a_soft_reset_as_a_hard_one(file: Path) -> None:
    write(file, LOSSY["soft reset"], (6,), lossy=True)
    node = nir.read(file).nodes["n"]
    assert node.v_reset.tolist() == [0.0] * 5
    assert node.metadata["reset"] == "subtract"
    assert node.metadata["reset_by"] == 0.5


REFUSED: dict[str, Callable[[], Network]] = {
    "n is AdaptiveLIF": lambda: layers(a=nn.Linear(6, 5), n=AdaptiveLIF(lif())),
    "n is Rectifier": lambda: layers(a=nn.Linear(6, 5), n=Rectifier()),
    "d is Delay": lambda: layers(a=nn.Linear(6, 5), d=Delay(2), n=lif()),
    "join is Gate": lambda: layers(g=Joined(Gate(), a=nn.Linear(6, 6), b=nn.Identity()), n=lif()),
    "a is LayerNorm": lambda: layers(a=nn.LayerNorm(6), b=nn.Linear(6, 3), n=lif()),
    "norm is BatchNorm1d, which adds to": lambda: layers(
        norm=trained_norm(nn.BatchNorm1d(6)), a=nn.Linear(6, 3), n=lif()
    ),
    "current does not leak": lambda: layers(a=nn.Linear(6, 5), n=CubaLIF(lif(), 1.0)),
    "drifts by 0.1": lambda: layers(a=nn.Linear(6, 5), n=Affine(1.0, drift=0.1, reset=HardReset())),
    "r.delay leads a signal back that is multiplied": lambda: layers(
        r=Recurrent(nn.Linear(6, 5), Affine(0.5, height=2.0, reset=HardReset()), nn.Linear(5, 5, bias=False))
    ),
}
REFUSED_IMAGES: dict[str, Callable[[], Network]] = {
    "p is MaxPool2d": lambda: layers(a=nn.Conv2d(2, 3, 3), p=nn.MaxPool2d(2), n=lif()),
    "a is ConvTranspose2d": lambda: layers(a=nn.ConvTranspose2d(2, 3, 3), n=lif()),
    "a pads by 'circular'": lambda: layers(a=nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), n=lif()),
    "a is a linear layer that reads an array": lambda: layers(a=nn.Linear(6, 3), n=lif()),
    "which are no windows of one size": lambda: layers(p=nn.AdaptiveAvgPool2d(4), a=nn.Conv2d(2, 3, 3), n=lif()),
    "averages of NIR count what is padded": lambda: layers(
        p=nn.AvgPool2d(4, ceil_mode=True), a=nn.Conv2d(2, 3, 1), n=lif()
    ),
}


@pytest.mark.parametrize("words", REFUSED | REFUSED_IMAGES)
def test_layers_that_nir_has_no_node_for_are_refused_by_name(words: str, file: Path) -> None:
    features = (6,) if words in REFUSED else (2, 6, 6)
    with pytest.raises(UnsupportedModule, match=words):
        write(file, (REFUSED | REFUSED_IMAGES)[words](), features)
    assert not file.exists()


def test_noise_of_tests_is_refused(file: Path) -> None:
    net = layers(a=nn.Linear(6, 5), n=lif())
    net.neurons[0].module.test_noise = 0.1
    with pytest.raises(UnsupportedModule, match="n has noise on what it sends"):
        write(file, net, (6,))


def test_the_formulas(file: Path) -> None:
    write(file, layers(a=nn.Linear(6, 5), n=LIF(decay=0.75, threshold=0.5, reset=HardReset(0.25))), (6,), dt=1e-3)
    node = nir.read(file).nodes["n"]
    expected = {"tau": 4e-3, "r": 4.0, "v_leak": 0.25, "v_reset": 0.25, "v_threshold": below(0.5)}
    for name, value in expected.items():
        assert getattr(node, name) == pytest.approx([value] * 5)
    assert nir.read(file).metadata["dt"] == 1e-3


@pytest.mark.parametrize(
    "neuron", [LIF(2.0, reset=HardReset()), IF(reset=HardReset()), LIF(2.0, reset=HardReset(0.25))]
)
def test_equations_as_nir_states_them_give_the_same_spikes_ties_included(neuron: Affine, file: Path) -> None:
    weight = nn.Linear(6, 50, bias=False)
    weight.weight.data = torch.randint(-2, 5, (50, 6)) / 8  # exact sums, many of them equal to the threshold
    net = layers(a=weight, n=neuron)
    write(file, net, (6,), dt=2.0**-10)
    x = (torch.rand(12, 1, 6) < 0.6).float()
    graph = nir.read(file)
    expected = euler(graph.nodes["n"], (x[:, 0] @ weight.weight.T).detach().double().numpy(), 2.0**-10)
    assert np.array_equal(net(x)[:, 0].numpy(), expected)
    ties = layers(a=weight, n=neuron_without_ties(neuron))(x)
    assert not torch.equal(ties, net(x))


def neuron_without_ties(neuron: Affine) -> Affine:
    law = neuron.recurrence
    return Affine(law.decay, drift=law.drift, reset=neuron.reset, ties_fire=False)


def test_weights_that_nothing_was_folded_into_are_the_same_bits(file: Path) -> None:
    net = ZOO["residual"][0]
    write(file, net, (6,))
    node = nir.read(file).nodes["r.body.0"]
    assert node.weight.dtype == np.float32
    assert np.array_equal(node.weight, net.get_submodule("r.body.0").weight.detach().numpy())


def test_a_file_that_fires_otherwise_is_deleted(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(path: Path, graph: Any) -> None:
        graph.nodes["n"].v_reset += 0.3
        write_graph(path, graph)

    write_graph = run.write_graph
    monkeypatch.setattr(run, "write_graph", mistaken)
    with pytest.raises(CheckpointError, match=r"does not fire .*, and was deleted: neuron \d of n fires"):
        write(file, ZOO["linear"][0], (6,))
    assert not file.exists()


def test_a_time_step_must_be_positive(file: Path) -> None:
    with pytest.raises(ConfigError, match="expected a positive number of seconds"):
        write(file, ZOO["linear"][0], (6,), dt=0.0)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A few layers of six numbers each, some of them side by side, some of them coming back."""

    def neuron() -> nn.Module:
        reset = HardReset(draw(st.sampled_from([0.0, -0.5, 0.125])))
        tau, threshold = draw(st.sampled_from([1.0, 2.0, 3.0])), draw(st.sampled_from([0.25, 0.4]))
        if draw(st.booleans()):
            return CubaLIF(LIF(tau, threshold=threshold, reset=reset), draw(st.sampled_from([0.0, 0.3])))
        return LIF(tau, threshold=threshold, reset=reset, ties_fire=draw(st.booleans()))

    def block(depth: int) -> nn.Module:
        kind = draw(st.sampled_from(["spiking", "normed", "recurrent", *(["residual", "two"] if depth else [])]))
        if kind == "residual":
            return Residual(block(depth - 1), draw(st.sampled_from([None, nn.Linear(6, 6)])))
        if kind == "two":
            return nn.Sequential(block(depth - 1), block(depth - 1))
        if kind == "recurrent":
            return Recurrent(nn.Linear(6, 6), neuron(), nn.Linear(6, 6, bias=False))  # type: ignore[arg-type]
        norm = [trained_norm(nn.BatchNorm1d(6))] if kind == "normed" else []
        return nn.Sequential(nn.Linear(6, 6), *norm, neuron())

    torch.manual_seed(draw(st.integers(0, 1000)))
    return layers(first=block(1), second=block(2), readout=nn.Linear(6, 3))


@given(networks())
def test_random_networks_come_back(tmp_path_factory: pytest.TempPathFactory, net: Network) -> None:
    found = write(tmp_path_factory.mktemp("nir") / "network.nir", net, (6,), dt=1e-3)
    assert found.agreement.agreed == found.agreement.states


# graphs of other programs


def save(path: Path, nodes: dict[str, Any], edges: list[tuple[str, str]], **metadata: Any) -> Path:
    nir.write(path, nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False))
    return path


def ends(reads: int, sends: int) -> dict[str, Any]:
    return {"input": nir.Input(np.array([reads])), "output": nir.Output(np.array([sends]))}


def affine(reads: int, sends: int) -> Any:
    draw = np.random.default_rng(0)
    return nir.Affine(draw.random((sends, reads), np.float32), draw.random(sends, np.float32))


def of(shape: tuple[int, ...], **numbers: float) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value) for name, value in numbers.items()}


LIF_NUMBERS = {"tau": 2e-4, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
WAY = [("input", "a"), ("a", "n"), ("n", "output")]


def test_one_number_stands_for_a_layer_and_a_graph_may_hold_graphs(file: Path) -> None:
    inner = nir.NIRGraph(
        {**ends(3, 3), "lif": nir.LIF(**of((3,), **LIF_NUMBERS)), "w_rec": nir.Linear(np.eye(3))},
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
        type_check=False,
    )
    nodes = {**ends(2, 3), "a": affine(2, 3), "n": inner, "b": affine(3, 3), "m": nir.LIF(**of((1,), **LIF_NUMBERS))}
    save(file, nodes, [("input", "a"), ("a", "n"), ("n", "b"), ("b", "m"), ("m", "output")])
    net = from_nir(file, dt=1e-4)
    assert net.cyclic
    assert [node.name for node in net.neurons] == ["graph.n_lif", "graph.m"]
    assert all(node.module.decay == 0.5 for node in net.neurons)


def test_currents_with_a_gain_of_their_own(file: Path) -> None:
    cuba = {**LIF_NUMBERS, "tau_mem": 2e-4, "tau_syn": 4e-4, "w_in": 2.0}
    del cuba["tau"]
    save(file, {**ends(2, 3), "a": affine(2, 3), "n": nir.CubaLIF(**of((3,), **cuba))}, WAY)
    net = from_nir(file, dt=1e-4)
    gain, neuron = net.get_submodule("n_gain"), net.neurons[0].module
    assert gain.factor == pytest.approx(0.5)
    assert neuron.current_decay == pytest.approx(0.75)
    assert neuron.membrane.gain == 1


def test_a_threshold_is_a_neuron_without_memory(file: Path) -> None:
    save(file, {**ends(2, 3), "a": affine(2, 3), "n": nir.Threshold(np.full(3, 0.5))}, WAY)
    neuron = from_nir(file, dt=1.0).neurons[0].module
    assert (neuron.decay, neuron.threshold, neuron.ties_fire) == (0.0, 0.5, False)


@pytest.mark.parametrize(("start", "end"), [(0, -1), (1, -1), (1, 3)])
def test_axes_are_counted_with_the_batch_or_without(start: int, end: int, file: Path) -> None:
    flat = nir.Flatten({"input": None}, start, end)
    nodes = {"input": nir.Input(np.array([1, 2, 2])), "f": flat, "a": affine(4, 3), "output": nir.Output(np.array([3]))}
    flat.input_type = {"input": np.array([1, 2, 2])}
    save(file, nodes, [("input", "f"), ("f", "a"), ("a", "output")])
    assert from_nir(file, dt=1.0)(torch.ones(1, 1, 1, 2, 2)).shape == (1, 1, 3)


def test_a_file_that_does_not_say_its_time_step(file: Path) -> None:
    save(file, {**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((3,), **LIF_NUMBERS))}, WAY)
    with pytest.raises(ConfigError, match=r"say so with onward import nir .* --dt SECONDS"):
        from_nir(file)
    with pytest.raises(CheckpointError, match=r"n: tau is 0\.0002 s, and a time step 0.001 s"):
        from_nir(file, dt=1e-3)


BAD: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "a, b are a cycle without a neuron": (
        {**ends(2, 2), "a": affine(2, 2), "b": affine(2, 2)},
        [("input", "a"), ("a", "b"), ("b", "a"), ("a", "output")],
    ),
    "no way leads from the input": ({**ends(2, 3), "a": affine(2, 3)}, [("a", "output")]),
    "no way leads from b to the output": (
        {**ends(2, 3), "a": affine(2, 3), "b": affine(2, 3)},
        [("input", "a"), ("input", "b"), ("a", "output")],
    ),
    "n reads nothing but what comes back": (
        {**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((3,), **LIF_NUMBERS))},
        [("input", "a"), ("a", "output"), ("n", "n"), ("n", "output")],
    ),
    "only one of these nodes is there": ({**ends(2, 3), "a": affine(2, 3)}, [("input", "a"), ("a", "x")]),
    "an edge is there twice": ({**ends(2, 3), "a": affine(2, 3)}, [("input", "a"), ("input", "a"), ("a", "output")]),
    "0 nodes of type Output": ({"input": nir.Input(np.array([2])), "a": affine(2, 3)}, [("input", "a")]),
    "a cannot read an array of shape": ({**ends(5, 3), "a": affine(2, 3)}, [("input", "a"), ("a", "output")]),
    "output reads an array of shape": (
        {**ends(2, 3), "a": affine(2, 3), "b": affine(2, 2)},
        [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")],
    ),
    "n has neurons of shape": ({**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((4,), **LIF_NUMBERS))}, WAY),
    "tau differs among the neurons": (
        {**ends(2, 2), "a": affine(2, 2), "n": nir.LIF(**{**of((2,), **LIF_NUMBERS), "tau": np.array([1e-3, 2e-3])})},
        WAY,
    ),
    "v_threshold is 0": (
        {**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((3,), **{**LIF_NUMBERS, "v_threshold": 0.0}))},
        WAY,
    ),
    "r is no list of finite numbers": (
        {**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((3,), **{**LIF_NUMBERS, "r": np.nan}))},
        WAY,
    ),
    "weights are not finite": (
        {**ends(2, 3), "a": nir.Linear(np.full((3, 2), np.inf))},
        [("input", "a"), ("a", "output")],
    ),
    "factors differ": ({**ends(2, 2), "a": nir.Scale(np.array([1.0, 2.0]))}, [("input", "a"), ("a", "output")]),
    "n is of type 'Delay'": ({**ends(2, 3), "a": affine(2, 3), "n": nir.Delay(np.ones(3))}, WAY),
    "two nodes would be called 'a_b'": (
        {**ends(2, 2), "a.b": affine(2, 2), "a_b": affine(2, 2)},
        [("input", "a.b"), ("a.b", "a_b"), ("a_b", "output")],
    ),
    "expected sizes of at least 1": ({**ends(0, 3), "a": affine(2, 3)}, [("input", "a"), ("a", "output")]),
    "the input of the graph has shape": ({**ends(2**40, 3), "a": affine(2, 3)}, [("input", "a"), ("a", "output")]),
}


@pytest.mark.parametrize("words", BAD)
def test_graphs_that_are_no_network_are_refused_in_words(words: str, file: Path) -> None:
    save(file, *BAD[words])
    with pytest.raises(CheckpointError, match=words):
        from_nir(file, dt=1e-4)


def test_padding_that_would_fill_memory_is_refused(file: Path) -> None:
    conv = nir.Conv2d((2, 2), np.ones((1, 1, 1, 1), np.float32), 1, (2**20, 2**20), 1, 1, np.zeros(1, np.float32))
    nodes = {"input": nir.Input(np.array([1, 2, 2])), "a": conv, "output": nir.Output(np.array([1]))}
    save(file, nodes, [("input", "a"), ("a", "output")])
    with pytest.raises(CheckpointError, match=r"a would send [\d,]+ numbers"):
        from_nir(file, dt=1e-4)


def test_files_cut_short_and_files_of_something_else(file: Path, tmp_path: Path) -> None:
    write(file, ZOO["linear"][0], (6,))
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cannot be read as a NIR file"):
            from_nir(file)
    with pytest.raises(ConfigError, match="there is no such file"):
        from_nir(tmp_path / "nothing.nir")


def remove_graph(hdf: Any) -> None:
    del hdf["node"]


def remove_edges(hdf: Any) -> None:
    del hdf["node/edges"]


def remove_tau(hdf: Any) -> None:
    del hdf["node/nodes/n/tau"]


def outside(hdf: Any) -> None:
    del hdf["node/nodes/a/weight"]
    hdf["node/nodes/a/weight"] = h5py.ExternalLink("elsewhere.h5", "weight")


def around(hdf: Any) -> None:
    hdf["node/nodes/more"] = h5py.SoftLink("/node/nodes")


def zeros(hdf: Any) -> None:
    del hdf["node/nodes/a/weight"]
    hdf["node/nodes/a"].create_dataset("weight", shape=(2**17, 2**17), dtype="f4", chunks=(2**10, 2**10), compression=9)


def deep(hdf: Any) -> None:
    group = hdf["node/nodes"]
    for _ in range(20):
        group = group.create_group("n2")


def flat_edges(hdf: Any) -> None:
    del hdf["node/edges"]
    hdf["node/edges"] = np.zeros((3, 7))


def metadata_number(hdf: Any) -> None:
    hdf["node/nodes/n/metadata"].move("fires_at", "x")
    del hdf["node/nodes/n/metadata"]
    hdf["node/nodes/n/metadata"] = 3.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_graph, "HDF5 without a graph"),
        (remove_edges, "lacks nodes or edges"),
        (remove_tau, "a node lacks something"),
        (outside, "weight leads elsewhere"),
        (around, "more leads elsewhere"),
        (zeros, "announces .* bytes"),
        (deep, "graphs in graphs"),
        (flat_edges, r"edges have shape \[3, 7\]"),
        (metadata_number, "the metadata of n are no table"),
    ],
)
def test_files_that_are_not_what_they_should_be(change: Callable[[Any], None], words: str, file: Path) -> None:
    write(file, ZOO["linear"][0], (6,))
    with h5py.File(file, "r+") as hdf:
        change(hdf)
    with pytest.raises(CheckpointError, match=words):
        from_nir(file)


@pytest.mark.parametrize("key", ["fires_at", "initial", "reset_by", "reset"])
@pytest.mark.parametrize("value", [np.nan, "text", 7, np.zeros(3)])
def test_notes_that_make_no_sense_are_refused_or_passed_over(key: str, value: Any, file: Path) -> None:
    write(file, LOSSY["soft reset"], (6,), lossy=True)
    with h5py.File(file, "r+") as hdf:
        notes = hdf["node/nodes/n/metadata"]
        if key in notes:
            del notes[key]
        notes[key] = value
    with suppress(CheckpointError):
        assert from_nir(file).neurons


def test_without_the_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "nir", None)
    for act in (lambda: from_nir(file), lambda: write(file, ZOO["linear"][0], (6,))):
        with pytest.raises(ConfigError, match="nir, which is not installed; install it with `pip install nir`"):
            act()


def test_agreement_says_where_networks_differ() -> None:
    net, other = layers(a=nn.Linear(6, 5), n=lif()), layers(a=nn.Linear(6, 5), n=lif())
    assert agreement(net, net, (6,)).first is None
    assert "neuron" in (agreement(net, other, (6,)).first or "")
    assert agreement(net, layers(a=nn.Linear(6, 5), m=lif()), (6,)).first == "the layers of neurons are not the same"
    plain, scaled = layers(a=nn.Linear(6, 5)), layers(a=nn.Linear(6, 5))
    assert "outputs differ by up to" in (agreement(plain, scaled, (6,)).first or "")


# commands


@pytest.fixture
def trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, list[str]]:
    """The folder of a small run, and the flags that it was trained with."""
    monkeypatch.setattr(memory, "Allocations", memory.Off)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    x = np.random.default_rng(0).random((96, 12), dtype=np.float32)
    np.savez(tmp_path / "thirds.npz", x=x, y=x.reshape(96, 3, 4).sum(-1).argmax(-1))
    flags = ["--data", str(tmp_path / "thirds.npz"), "--train.out", str(tmp_path / "runs"), "--model.hidden", "16"]
    flags += ["--train.steps", "4", "--rule", "bptt", "--train.epochs", "1", "--neuron.threshold", "0.3"]
    assert main(["train", *flags, "--neuron.reset", "hard"]) == 0
    capsys.readouterr()
    return next((tmp_path / "runs").iterdir()), flags


def accuracy(text: str) -> str:
    return text[text.index("Accuracy") : text.index("samples of")]


def test_export_eval_import(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    data = ["--data", str(tmp_path / "thirds.npz")]
    assert main(["export", "nir", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 Input, 2 Affine, 1 LIF, 1 Output" in said
    assert "Read back and tried on random inputs" in said
    assert main(["eval", str(folder), *data]) == 0
    expected = accuracy(capsys.readouterr().out)
    assert main(["eval", str(folder / "network.nir"), *data]) == 0
    assert accuracy(capsys.readouterr().out) == expected
    assert main(["import", "nir", str(folder / "network.nir"), "--out", str(tmp_path / "again.nir")]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "again.nir"), *data, "--members"]) == 0
    assert accuracy(capsys.readouterr().out) == expected


def test_weights_of_a_file_start_a_run(trained: tuple[Path, list[str]]) -> None:
    folder, flags = trained
    assert main(["export", "nir", str(folder)]) == 0
    parts, _ = assemble(parse_tokens([*flags, "--train.init-from", str(folder / "network.nir")]))
    again = from_nir(folder / "network.nir")
    assert torch.equal(parts.net.get_parameter("fc1.weight"), again.get_parameter("fc1.weight"))
    assert torch.equal(parts.net.get_parameter("readout.bias"), again.get_parameter("readout.bias"))


def test_files_of_other_programs_are_imported_before_they_are_tested(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((4, 2), np.float32), y=np.array([0, 1, 2, 0]))
    save(file, {**ends(2, 3), "a": affine(2, 3), "n": nir.LIF(**of((3,), **LIF_NUMBERS))}, WAY, dt=1e-4)
    assert main(["eval", str(file)]) == USER_ERROR
    assert "onward import nir" in capsys.readouterr().err
    assert main(["import", "nir", str(file), "--steps", "3"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "network-onward.nir"), "--data", str(tmp_path / "x.npz")]) == 0
    assert read_network(tmp_path / "network-onward.nir").purpose.steps == 3  # type: ignore[union-attr]


def test_networks_of_several_heads_are_refused(file: Path) -> None:
    with pytest.raises(UnsupportedModule, match="2 heads"):
        write_network(file, ZOO["linear"][0], Purpose(features=(6,), classes=3, heads=2, steps=None))
