"""Batch normalisation of a chunk is the module's, step by step."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from onward.core.interpret import frozen_statistics
from onward.core.norms import PerStep
from onward.kernels.normalise import normalise, serves

SHAPES = {nn.BatchNorm1d: (3, 4, 5), nn.BatchNorm2d: (3, 4, 5, 6, 2), nn.BatchNorm3d: (2, 3, 4, 2, 3, 2)}


def chunk(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 + 1
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


def plainly(module: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([module(step) for step in x.unbind(0)])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"momentum": 0.5, "eps": 0.1}],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_chunk_is_normalised_as_step_after_step(kind: type, options: dict, dtype: torch.dtype) -> None:
    x = chunk(SHAPES[kind], dtype).requires_grad_()
    module = kind(x.shape[2], **options).to(dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    twin, close = deepcopy(module), {"rtol": 1e-4, "atol": 1e-5}
    assert serves(module)
    found, wanted = normalise(module, x), plainly(twin, x)
    assert torch.allclose(found, wanted, **close)
    post = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        torch.autograd.grad(found, [x, *module.parameters()], post),
        torch.autograd.grad(wanted, [x, *twin.parameters()], post),
        strict=True,
    ):
        assert torch.allclose(a, b, **close)
    for (name, a), b in zip(module.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a, b, **close), name


def test_other_modules_and_evaluation_are_left_to_torch() -> None:
    class Own(nn.BatchNorm2d):
        """What this does nobody knows."""

    assert not serves(nn.BatchNorm2d(3).eval())
    assert not serves(Own(3))
    assert not serves(nn.GroupNorm(1, 3))
    x = chunk((2, 3, 4, 5))
    norm = nn.GroupNorm(2, 4).double()
    assert torch.allclose(PerStep()(norm, x, 2), plainly(norm, x))


def test_running_statistics_stay_where_they_are_frozen() -> None:
    import onward

    net = onward.Network(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), onward.LIF(), nn.Linear(4, 2)))
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm1d))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with frozen_statistics(net):
        normalise(norm, torch.randn(2, 5, 4))
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
    normalise(norm, torch.randn(2, 5, 4))
    assert int(norm.num_batches_tracked) == 2  # type: ignore[arg-type]
