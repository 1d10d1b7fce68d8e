"""The order of mini-batches, and augmentation keyed by sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from onward.core.errors import DataError
from onward.core.sequence import Frames, Static
from onward.data import ArrayDataset, Augmentation, Batch, Cutout, Flip, Loader, PadCrop, Subset, from_torch
from onward.data.loader import order


def data(count: int = 23) -> ArrayDataset:
    return ArrayDataset(torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 3)


def ids(loader: Loader, epoch: int) -> list[int]:
    return torch.cat([batch.ids for batch in loader.epoch(epoch)]).tolist()


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10_000), count=st.integers(1, 60))
def test_order_is_a_permutation_of_seed_and_epoch(seed: int, epoch: int, count: int) -> None:
    first = order(seed, epoch, count)
    assert sorted(first.tolist()) == list(range(count))
    assert torch.equal(first, order(seed, epoch, count))


def test_epochs_and_seeds_differ_and_nothing_is_remembered() -> None:
    loader = Loader(data(), 4, 2, seed=5)
    second = ids(loader, 1)
    assert ids(loader, 0) != second
    assert ids(Loader(data(), 7, 2, seed=5), 1) == second, "epoch 1 needs no epoch 0, and no batch size"
    assert ids(Loader(data(), 4, 2, seed=6), 1) != second


def test_order_is_uniform() -> None:
    first = torch.stack([order(seed, 0, 5) for seed in range(2000)])
    counts = torch.stack([(first == value).sum(0) for value in range(5)])
    assert (counts - 400).abs().max() < 90, "each value in each place 400 times, 5 sigma = 89"


def test_batches_cover_the_set_once() -> None:
    loader = Loader(data(), 4, 2, shuffle=False)
    batches = list(loader.epoch(0))
    assert ids(loader, 0) == list(range(23))
    assert len(loader) == len(batches) == 6
    assert [len(batch.y) for batch in batches] == [4] * 5 + [3]
    assert torch.equal(batches[1].x.chunk(0, 1)[0, :, 0], torch.arange(4.0, 8))


def test_drop_last() -> None:
    loader = Loader(data(), 4, 2, drop_last=True)
    assert len(loader) == len(list(loader.epoch(0))) == 5
    with pytest.raises(DataError, match="no full batch of the 23 samples"):
        Loader(data(), 24, 2, drop_last=True)
    with pytest.raises(DataError, match="a batch size of 0"):
        Loader(data(), 0, 2)


def test_subset_renumbers() -> None:
    part = Subset(data(), torch.tensor([20, 3, 8]))
    batch = part.batch(torch.tensor([2, 0]), 1)
    assert batch.x.chunk(0, 1).flatten().tolist() == [8, 20]
    assert batch.ids.tolist() == [2, 0]
    with pytest.raises(DataError, match="no sample"):
        Subset(data(), torch.arange(0))


def images(chosen: torch.Tensor, frames: int = 0) -> Batch:
    x = torch.rand(40, *[frames] * bool(frames), 2, 9, 7, generator=torch.Generator().manual_seed(0))[chosen]
    sequence = Frames(x.transpose(0, 1)) if frames else Static(x, 5)
    return Batch(sequence, torch.zeros(len(chosen), dtype=torch.int64), chosen)


AUGMENT = Augmentation([PadCrop(3), Flip(), Cutout(4)], seed=1)


@pytest.mark.parametrize("frames", [0, 4])
def test_augmentation_is_keyed_by_id(frames: int) -> None:
    together = AUGMENT(images(torch.arange(40), frames), 2).x.chunk(0, frames or 5)
    some = torch.tensor([31, 4, 17])
    apart = AUGMENT(images(some, frames), 2).x.chunk(0, frames or 5)
    assert torch.equal(apart, together[:, some])


def test_augmentation_changes_with_epoch_and_seed() -> None:
    batch = images(torch.arange(40))
    first = AUGMENT(batch, 0).x.chunk(0, 1)
    assert torch.equal(first, AUGMENT(batch, 0).x.chunk(0, 1))
    assert not torch.equal(first, AUGMENT(batch, 1).x.chunk(0, 1))
    assert not torch.equal(first, Augmentation([PadCrop(3), Flip()], seed=2)(batch, 0).x.chunk(0, 1))


def test_crop_is_a_window_of_the_padded_image() -> None:
    x, u = torch.rand(3, 2, 5, 6), torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.99, 0.2]])
    cropped = PadCrop(2).apply(x, u)
    for image, result, (top, left) in zip(x, cropped, [(0, 0), (2, 2), (4, 1)], strict=True):
        padded = torch.zeros(2, 9, 10)
        padded[:, 2:7, 2:8] = image
        assert torch.equal(result, padded[:, top : top + 5, left : left + 6])


def test_crop_reaches_every_place_and_flip_is_fair() -> None:
    count = 5000
    dot = torch.zeros(count, 1, 3, 3)
    dot[:, 0, 1, 1] = 1
    batch = Batch(Static(dot, 1), torch.zeros(count, dtype=torch.int64), torch.arange(count))
    places = Augmentation([PadCrop(1)], seed=0)(batch, 0).x.chunk(0, 1)[0].sum(0)[0]
    assert (places - count / 9).abs().max() < 5 * (count / 9) ** 0.5
    left = torch.zeros(count, 1, 1, 2)
    left[..., 0] = 1
    kept = Augmentation([Flip()], seed=0)(batch._replace(x=Static(left, 1)), 0).x.chunk(0, 1)[0][..., 0].sum()
    assert abs(float(kept) - count / 2) < 5 * (count / 4) ** 0.5


@pytest.mark.parametrize("side", [1, 2, 3, 8, 40])
def test_cutout_is_a_square_around_a_pixel(side: int) -> None:
    x, u = torch.rand(4, 3, 2, 5, 6) + 1, torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.99, 0.2], [0.3, 0.99]])
    expected = x.clone()
    for image, (down, across) in zip(expected, u.tolist(), strict=True):
        top, left = int(5 * down) - side // 2, int(6 * across) - side // 2
        image[..., max(top, 0) : top + side, max(left, 0) : left + side] = 0
    assert torch.equal(Cutout(side).apply(x, u), expected)
    assert torch.equal(Cutout(side).apply(x[:, 0], u), expected[:, 0])


def test_augmentation_needs_images() -> None:
    flat = Batch(Static(torch.rand(2, 10), 3), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    with pytest.raises(DataError, match=r"need images \[channels, height, width\].*\[10\]"):
        AUGMENT(flat, 0)
    with pytest.raises(DataError, match="padding of 0"):
        PadCrop(0)
    with pytest.raises(DataError, match="a square of 0 pixels"):
        Cutout(0)


def test_workers_change_no_batch_and_stay_from_epoch_to_epoch() -> None:
    pictures = ArrayDataset(torch.rand(22, 2, 9, 7), torch.arange(22) % 3)
    plain, busy = (Loader(pictures, 4, 5, seed=3, augment=AUGMENT, workers=count) for count in (0, 2))
    for epoch, first in ((0, 0), (1, 2), (1, 6)):
        expected, found = list(plain.epoch(epoch, first)), list(busy.epoch(epoch, first))
        assert len(found) == len(expected) == 6 - first
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.y, other.y)
            assert torch.equal(one.x.chunk(0, 5), other.x.chunk(0, 5))


def test_a_batch_shares_no_memory_with_the_next() -> None:
    """Torch moves the memory of what a worker sends, in another thread than the one that prepares the next batch."""
    loader = Loader(data(), 4, 2, seed=5)
    for batch in loader.epoch(0):
        for tensor in (batch.ids, batch.y, batch.x.chunk(0, 1)):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_an_epoch_may_begin_anywhere() -> None:
    loader = Loader(data(), 4, 2, seed=5)
    whole = [batch.ids.tolist() for batch in loader.epoch(1)]
    assert [batch.ids.tolist() for batch in loader.epoch(1, 4)] == whole[4:]
    assert list(loader.epoch(1, 6)) == []


def test_fingerprints_tell_data_apart() -> None:
    x, y = torch.rand(300, 4), torch.arange(300) % 3
    changed, relabelled = x.clone(), y.clone()
    changed[299, 3] += 1e-6
    relabelled[0] = 2
    sets = [ArrayDataset(x, y), ArrayDataset(changed, y), ArrayDataset(x, relabelled), ArrayDataset(x[:-1], y[:-1])]
    sets += [Subset(sets[0], torch.arange(299)), Subset(sets[0], torch.arange(1, 300))]
    assert len({one.fingerprint(1) for one in sets}) == len(sets)
    assert ArrayDataset(x.clone(), y.clone()).fingerprint(1) == sets[0].fingerprint(1)
    pairs = from_torch(TensorDataset(x, y))
    assert pairs.fingerprint(2) == from_torch(TensorDataset(x.clone(), y)).fingerprint(2)
    assert pairs.fingerprint(2) != from_torch(TensorDataset(x[:-1], y[:-1])).fingerprint(2)
