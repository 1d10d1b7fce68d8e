"""The self-check passes here, and notices what does not work."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from onward import _pair
from onward.credit import dfa, ottt
from onward.kernels import compiled
from onward.kernels.compiled import KERNELS, Kernel, Use, using
from onward.neurons import Affine
from onward.train import selfcheck
from onward.train.selfcheck import CHECKS, Check, Checked, CheckFailed, self_check

NAMES = [check.name for check in CHECKS]


def check(name: str) -> Checked:
    (done,) = self_check([check for check in CHECKS if check.name == name])
    return done


@pytest.mark.parametrize("name", [name for name in NAMES if name != "two processes"])
def test_this_machine_passes(name: str) -> None:
    done = check(name)
    assert done.passed, done.found
    assert done.seconds > 0


def test_nothing_outside_is_changed() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert all(done.passed for done in self_check(CHECKS[:5]))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (CheckFailed("no disk"), "no disk"),
        (ZeroDivisionError("a\nb"), "ZeroDivisionError: a\\nb"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_whatever_a_check_raises_is_told_and_the_others_run(error: Exception, found: str) -> None:
    def fail() -> str:
        raise error

    first, second = self_check([Check("bad", fail), Check("good", lambda: "fine")])
    assert (first.name, first.passed, first.found) == ("bad", False, found)
    assert (second.passed, second.found) == (True, "fine")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("gradients")])
def test_neurons_that_charge_a_little_wrong_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Affine.charge
    monkeypatch.setattr(Affine, "charge", lambda *args, **options: right(*args, **options).mul_(1 + 1e-6))
    done = check(name)
    assert not done.passed
    assert "differs from" in done.found


def test_traces_that_decay_a_little_wrong_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ottt.neuron_decay
    monkeypatch.setattr(ottt, "neuron_decay", lambda node: 1.001 * right(node))
    done = check("gradients of ottt")
    assert not done.passed
    assert "differs from BPTT" in done.found


def test_feedback_by_another_matrix_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfa, "Feedback", lambda error, matrix: selfcheck.Feedback(error, matrix * 1.001))
    done = check("gradients of dfa")
    assert not done.passed
    assert "differs from outer products with B e by 1.0e-03" in done.found


def test_missing_and_non_finite_gradients_are_noticed() -> None:
    one = {"w": torch.ones(2)}
    with pytest.raises(CheckFailed, match="gradients of b came; expected those of w"):
        selfcheck._agree({"b": torch.ones(2)}, one, 1e-9, "autograd")
    with pytest.raises(CheckFailed, match="w differs from autograd by nan"):
        selfcheck._agree({"w": torch.full((2,), torch.nan)}, one, 1e-9, "autograd")


@pytest.mark.parametrize("name", ["fire", "signs", "gather", "scatter", "feedback", "correlate"])
def test_a_broken_kernel_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose loop writes nonsense over its last floating-point array."""
    right = Kernel.__call__

    def wrong(kernel: Kernel, *arguments: Any) -> Any:
        result = right(kernel, *arguments)
        if kernel.name == name:
            outputs = [a for a in arguments if isinstance(a, Tensor) and a.is_floating_point() and a.numel() > 1]
            outputs[-1].add_(0.5)
        return result

    with using(Use.ALWAYS):
        assert KERNELS[name].works
    monkeypatch.setattr(Kernel, "__call__", wrong)
    done = check("compiled kernels")
    assert not done.passed
    assert f"kernel {name} differs from plain torch" in done.found
    assert "ONWARD_KERNELS=never" in done.found


def test_kernels_that_are_off_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with using(Use.NEVER):
        assert check("compiled kernels").found == "switched off by ONWARD_KERNELS; plain torch serves"
    monkeypatch.setattr(KERNELS["signs"], "_broken", "its results differ from those of plain torch")
    done = check("compiled kernels")
    assert done.passed, "plain torch serves, and doctor lists the kernel"
    assert done.found.endswith("off: signs")
    assert compiled.in_use() is Use.AUTO


def test_a_disk_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "read_optimizer", lambda *_: None)
    done = check("save and load")
    assert not done.passed
    assert "of the optimizer was not what had been saved" in done.found


def test_two_processes_add_their_numbers() -> None:
    done = check("two processes")
    assert done.passed, done.found
    assert done.found == "2 processes added a tensor with gloo"


class Refusing:
    """Processes that leave ``found`` behind, or nothing, or do not end."""

    def __init__(self, found: str | None, *, endless: bool = False):
        self.found, self.alive, self.ended = found, endless, 0

    def Process(self, target: Any, args: tuple[str, int, float], daemon: bool) -> Refusing:
        assert target is _pair.add
        assert daemon
        if self.found is not None:
            _pair.answer(args[0], args[1]).write_text(self.found)
        return self

    def start(self) -> None:
        pass

    def join(self, _seconds: float | None = None) -> None:
        pass

    def kill(self) -> None:
        self.alive, self.ended = False, self.ended + 1

    def is_alive(self) -> bool:
        return self.alive


@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        (Refusing("Connection refused"), "Connection refused"),
        (Refusing("[1.0, 2.0, 3.0, 4.0]"), "[1.0, 2.0, 3.0, 4.0]"),
        (Refusing(None), "a process ended at once"),
        (Refusing(None, endless=True), "no answer after 60 s"),
    ],
)
def test_processes_that_do_not_add_are_told_in_words(
    processes: Refusing, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: processes)
    done = check("two processes")
    assert not done.passed
    assert f"could not add their numbers ({reason})" in done.found
    assert "firewall" in done.found
    assert not processes.alive


def test_torch_without_gloo_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_gloo_available", lambda: False)
    assert check("two processes").found.startswith("this build of torch has no gloo")


def test_a_process_leaves_the_reason_where_it_fails(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    _pair.add(str(tmp_path), 0, 0.1)
    found = _pair.answer(str(tmp_path), 0).read_text()
    assert found
    assert "\n" not in found
