"""Sequences: a chunk is what the mathematics says it is, however it is stored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onward.core import Events, Frames, Sequence, Static
from onward.core.errors import ShapeError


def events(steps: int, batch: int, size: int, seed: int, *, weighted: bool) -> tuple[Events, torch.Tensor]:
    """Random rows (some empty, some indices twice), and the same as a dense tensor filled by a loop."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 5, (steps * batch,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    indices = torch.randint(size, (int(offsets[-1]),), generator=generator)
    values = torch.rand(len(indices), generator=generator, dtype=torch.float64) if weighted else None
    dense = torch.zeros(steps, batch, size, dtype=torch.float64)
    for row in range(steps * batch):
        for place in range(int(offsets[row]), int(offsets[row + 1])):
            dense[row // batch, row % batch, indices[place]] += 1 if values is None else values[place]
    return Events(indices, offsets, steps, batch, (size,), values, dtype=torch.float64), dense


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99), st.booleans(), st.data())
def test_events_are_the_dense_frames_they_stand_for(
    steps: int, batch: int, size: int, seed: int, weighted: bool, data: st.DataObject
) -> None:
    sparse, dense = events(steps, batch, size, seed, weighted=weighted)
    start = data.draw(st.integers(0, steps - 1))
    stop = data.draw(st.integers(start + 1, steps))
    assert torch.allclose(sparse.chunk(start, stop), dense[start:stop])
    rows = sparse.read(start, stop)
    assert rows.shape == dense[start:stop].shape
    assert rows.offsets[0] == 0
    assert rows.offsets[-1] == len(rows.indices) == len(rows.values)


def test_events_take_any_shape_of_features() -> None:
    offsets = torch.tensor([0, 1, 1, 3, 3])
    sparse = Events(torch.tensor([7, 0, 5]), offsets, 2, 2, (2, 2, 2))
    dense = sparse.chunk(0, 2)
    assert dense.shape == (2, 2, 2, 2, 2)
    assert dense.dtype == torch.float32
    assert dense[0, 0, 1, 1, 1] == dense[1, 0, 0, 0, 0] == dense[1, 0, 1, 0, 1] == 1
    assert dense.sum() == 3
    assert sparse.to("cpu", torch.float64).chunk(0, 1).dtype == torch.float64


def test_static_input_is_a_view_that_copies_nothing() -> None:
    x = torch.rand(3, 4)
    chunk = Static(x, 1000).chunk(10, 900)
    assert chunk.shape == (890, 3, 4)
    assert chunk.data_ptr() == x.data_ptr()
    assert torch.equal(chunk[5], x)


def test_frames_are_sliced() -> None:
    x = torch.rand(6, 3, 4)
    frames = Frames(x)
    assert (frames.steps, frames.batch, frames.features) == (6, 3, (4,))
    assert torch.equal(frames.chunk(2, 5), x[2:5])
    assert frames.to("cpu", torch.float64).x.dtype == torch.float64


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Frames(torch.zeros(0, 3, 4)), "sequence of 0 time steps was given; at least 1"),
        (lambda: Frames(torch.zeros(3, 0, 4)), "batch of 0 samples was given; at least 1"),
        (lambda: Frames(torch.zeros(3, 4)), r"frames of shape \[3, 4\] were given; expected \[time, batch"),
        (lambda: Static(torch.zeros(4), 3), r"static input of shape \[4\] was given; expected \[batch"),
        (lambda: Static(torch.zeros(4, 2), 0), "sequence of 0 time steps was given"),
        (
            lambda: Events(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2, 2, (4,)),
            r"2 steps of 2 samples need \[5\]",
        ),
    ],
)
def test_impossible_sequences_are_refused_in_words(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ShapeError, match=message):
        build()


def test_all_kinds_share_one_interface() -> None:
    kinds: list[Sequence] = [
        Static(torch.rand(2, 3), 4),
        Frames(torch.rand(4, 2, 3)),
        events(4, 2, 3, 0, weighted=True)[0],
    ]
    for sequence in kinds:
        assert (sequence.steps, sequence.batch, sequence.features) == (4, 2, (3,))
        assert sequence.chunk(1, 3).shape == (2, 2, 3)
