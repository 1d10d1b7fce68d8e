"""``onward integer``, what it reads, what it writes, and what a lesson takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from onward.cli import USER_ERROR, main
from onward.core.errors import DataError
from onward.data import ArrayDataset, load
from onward.data.arrays import FramesLayout
from onward.integer import IntegerNetwork, Law
from onward.integer.cost import operations, random_bits
from onward.integer.train import accuracy, epochs, inputs


def test_a_network_of_integers_is_trained_tested_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "digits.safetensors"
    flags = ["--hidden", "128", "64", "--epochs", "2", "--limit", "100", "--out", str(file)]
    assert main(["integer", *flags, "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out.splitlines()[-1])
    assert found["sizes"] == [784, 128, 64, 10]
    assert found["test_accuracy"] == found["epochs"][1]
    assert 0 < found["picojoules"] < found["float_picojoules"] / 10
    assert "epoch 2/2: test" in shown.err
    tensors = load_file(file)
    assert tensors["weights.2"].shape == (64, 10)
    assert tensors["feedback.1"].shape == (10, 128)
    kinds = {name.split(".")[0]: tensor.dtype for name, tensor in tensors.items()}
    assert kinds == {"weights": np.int8, "feedback": np.int16, "thresholds": np.int32, "rates": np.int32}


def test_it_learns_digits() -> None:
    split = load({"name": "mnist", "limit": 10_000, "limit_test": 1000})
    net = IntegerNetwork((784, 256, 10))
    net.learn(*inputs(split.train, 4))
    assert accuracy(net, *inputs(split.test, 4)) > 0.8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "0"], "--epochs 0 was given; expected at least 1"),
        (["--limit", "-3"], "--limit -3 was given; expected at least 1"),
        (["--hidden", "0"], "layers of [784, 0, 10] were given"),
        (["--data", "nmnist-sim", "--limit", "10"], "integer OPZO learns still samples"),
        (["--out", "nowhere/x.safetensors"], "there is no folder nowhere"),
    ],
)
def test_refusals_are_in_words(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integer", *flags]) == USER_ERROR
    assert words in " ".join(capsys.readouterr().err.split())


def test_pictures_become_integers_as_their_bytes_do() -> None:
    data = load({"name": "mnist", "limit": 50}).train
    images, labels = inputs(data, 4)
    raw, _ = inputs(data, 8)
    assert images.dtype == np.uint8
    assert images.shape == (50, 784)
    assert images.max() == 15
    assert raw.max() == 255
    assert np.array_equal(images, raw >> 4)
    assert np.array_equal(labels, data.labels().numpy())


def test_numbers_outside_and_frames_are_refused() -> None:
    y = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match=r"holds numbers from -1 to 0\.5; integer OPZO expects 0 to 1"):
        inputs(ArrayDataset(torch.tensor([[-1.0], [0.5]]), y), 4)
    with pytest.raises(DataError, match="moves in time"):
        inputs(ArrayDataset(torch.zeros(2, 3, 4), y, layout=FramesLayout()), 4)


def test_rates_are_halved_between_epochs() -> None:
    net = IntegerNetwork((4, 3, 2), rates=(5, 6))
    images, labels = np.full((6, 4), 9, np.uint8), np.zeros(6, np.int64)
    rates = [net.rates.tolist() for _ in epochs(net, images, labels, 3, 0)]
    assert rates == [[5, 6], [6, 7], [7, 8]]
    assert net.learned == 18


def test_answers_cost_lessons_nothing() -> None:
    net = IntegerNetwork((4, 3, 2))
    assert accuracy(net, np.full((6, 4), 9, np.uint8), np.zeros(6, np.int64)) in (0.0, 1.0)
    assert not net.counts.any()


def test_operations_are_counted_and_charged_as_by_hand() -> None:
    """Two inputs of three active; M is zero, so that only the readout learns, and only if a hidden neuron spiked."""
    net = IntegerNetwork((3, 4, 2), Law(steps=2), thresholds=(1000,), starts=(0, 0))
    net.weights[0][:, :3] = 100  # u = 1500, then more: three of four fire in both steps
    net.learn(np.array([[15, 0, 15]], np.uint8), np.array([1]))
    rows = {row.name: row for row in operations(net.law, net.sizes, net.counts, 1)}
    numbers = {name: row.number for name, row in rows.items()}
    assert numbers == {
        "inputs meet weights": 2 * 4,
        "spikes meet weights": 6 * 2,
        "membranes leak and charge": 4 * 2,
        "traces": 7 * 2,
        "credit M e": 2 * 4,
        "changes of weights": 3 * 2,
        "changes of M": 4 * 2,
    }
    assert rows["changes of weights"].picojoules == pytest.approx((6 * (0.2 + 0.03 + 0.1), 6 * 4.6))
    assert rows["spikes meet weights"].picojoules == pytest.approx((12 * 0.1, 12 * 0.9))
    assert rows["credit M e"].fetched == pytest.approx((8 * 2 * 12.5, 8 * 4 * 12.5))
    words = (2 + 4) + (3 + 2) + (4 + 2)  # rows and columns of both layers, neurons and classes of M
    assert random_bits(net.law, net.sizes, net.counts, 1) == 4 + 16 * words
