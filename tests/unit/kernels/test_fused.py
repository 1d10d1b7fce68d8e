"""torch.compile for recurrences: the same numbers, and plain torch where it cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from onward.kernels import fused
from onward.kernels.compiled import KernelWarning
from onward.kernels.fused import fuses, fusible, fusing
from onward.neurons import LIF, HardReset
from onward.surrogates import ATan


@pytest.fixture(autouse=True)
def _unbroken() -> Iterator[None]:
    before = fused._broken
    fused._broken = False
    yield
    fused._broken = before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch.compile says of its own inside
@pytest.mark.parametrize("reset", [None, HardReset(0.1)])
def test_fused_neurons_fire_and_learn_as_plain_ones(reset: HardReset | None) -> None:
    neuron = LIF(reset=reset, surrogate=ATan(), detach_reset=False)
    x = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def learned() -> tuple[torch.Tensor, ...]:
        y = x.clone().requires_grad_()
        out, (v,), _ = neuron.unroll(y, neuron.start(y[0]))
        return out, v, *torch.autograd.grad((out * x).sum() + v.sum(), y), neuron.scan(x, neuron.start(x[0])).slope

    plain = learned()
    with fusing():
        found = learned()
        assert fuses(), "torch.compile failed"
    for a, b in zip(found, plain, strict=True):
        assert torch.allclose(a, b)


def test_nothing_is_compiled_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Callable] = []
    monkeypatch.setattr(fused, "_compiled", lambda function: compiled.append(function) or function)
    double = fusible(lambda x: 2 * x)
    assert double(1) == 2
    assert compiled == []
    with fusing():
        assert double(1) == 2
        with fusing(False):
            assert not fuses()
    assert len(compiled) == 1


def test_a_compiler_that_fails_is_told_of_once_and_plain_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(_function: Callable) -> Callable:
        raise RuntimeError("no C++ compiler was found\nlong story")

    monkeypatch.setattr(fused, "_compiled", no_compiler)
    double = fusible(lambda x: 2 * x)
    with fusing():
        with pytest.warns(KernelWarning, match="torch.compile is off: RuntimeError: no C.. compiler was found; plain"):
            assert double(1) == 2
        assert double(2) == 4
        assert not fuses()


def test_a_fault_of_the_caller_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_compiled", lambda function: function)
    with fusing():
        with pytest.raises(TypeError):
            fusible(lambda x: x + "a")(1)
        assert fuses()
