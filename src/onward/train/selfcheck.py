"""What ``onward doctor`` tries on this machine: gradients, compiled kernels, a checkpoint, two processes."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onward import _pair
from onward.core import CrossEntropy, Frames, GradSink, KeyedDraws, LearningRule, Network, PerStep, run_sequence
from onward.core.errors import OnwardError
from onward.core.products import deposit, drive, transpose
from onward.core.synapse import Params
from onward.kernels.compiled import KERNELS, Use, in_use, using
from onward.kernels.feedback import Feedback, correlate
from onward.kernels.fire import Recurrence, Shape, fire, membrane
from onward.kernels.rows import sparse_rows
from onward.kernels.signs import plain_signs, signs
from onward.neurons import LIF, Affine
from onward.optim import optimizers, parameter_groups
from onward.rules import rules
from onward.surrogates import Sigmoid
from onward.train.checkpoint import Trained, read_modules, read_optimizer, write

EXACT = 1e-9
"""Relative error of a gradient in double precision; rounding makes about 1e-15."""
CLOSE = 1e-4
"""Relative error of a sum of some hundred terms in single precision; rounding makes about 1e-6."""
PATIENCE = 20.0
"""Seconds that two processes have to meet and add."""
STARTING = 40.0
"""Seconds that they have before, to start and to import torch on a busy machine."""

STEPS, BATCH, INPUTS, CLASSES = 6, 5, 12, 5
OBJECTIVE = PerStep(CrossEntropy())


class CheckFailed(OnwardError):
    """Something does not work on this machine as it must."""


class Check(NamedTuple):
    """``run`` returns what was found, in words, or raises `CheckFailed`."""

    name: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Checked:
    """What came of a check."""

    name: str
    passed: bool
    found: str
    seconds: float


def self_check(checks: Sequence[Check] | None = None) -> Iterator[Checked]:
    """Runs the checks, or those of `CHECKS`, one by one; about 10 s in all, most of it for two processes to start.

    A check that fails in an unexpected way has failed; nothing is raised.

    >>> [done.passed for done in self_check(CHECKS[:1])]
    [True]
    """
    for check in CHECKS if checks is None else checks:
        began = perf_counter()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                passed, found = True, check.run()
        except CheckFailed as failure:
            passed, found = False, str(failure)
        except Exception as error:
            passed, found = False, str(CheckFailed(f"{type(error).__name__}: {error}"))
        yield Checked(check.name, passed, found, perf_counter() - began)


class _Fires(torch.autograd.Function):
    """[x >= 0], with a stand-in derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, psi: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.psi = psi
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.psi(*ctx.saved_tensors), None


def _network(*hidden: int) -> Network:
    """A small network of LIF layers in double precision."""
    layers: list[nn.Module] = []
    for fan_in, units in zip((INPUTS, *hidden), hidden, strict=False):
        layers += [nn.Linear(fan_in, units), LIF()]
    net = Network(nn.Sequential(*layers, nn.Linear(hidden[-1], CLASSES))).double()
    for weights in net.parameters():
        weights.data.mul_(2)
    return net


def _lesson() -> tuple[Tensor, Tensor]:
    """Inputs ``[T, B, n]`` and labels."""
    return 2 * torch.rand(STEPS, BATCH, INPUTS, dtype=torch.float64), torch.arange(BATCH) % CLASSES


def _learned(net: Network, rule: LearningRule, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradients of one sequence by a learning rule."""
    sink, draws = GradSink(net), KeyedDraws(0)
    rule.bind(net, OBJECTIVE, Frames(x), draws)
    run_sequence(net, rule, OBJECTIVE, Frames(x), y, sink, draws=draws)
    sink.flush()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def _autograd(net: Network, x: Tensor, y: Tensor, *, across_time: bool) -> dict[str, Tensor]:
    """The gradients of a loop over time, by torch; memories leave the graph unless ``across_time``."""
    modules = list(net.children())
    memory: dict[int, Tensor] = {}
    loss = x.new_zeros(())
    for frame in x:
        for place, module in enumerate(modules):
            if isinstance(module, Affine):
                h = module.decay * memory.get(place, torch.zeros_like(frame)) + frame
                frame = _Fires.apply(h - module.threshold, module.surrogate)
                left = h - module.threshold * frame.detach()
                memory[place] = left if across_time else left.detach()
            else:
                frame = module(frame)
        loss = loss + nn.functional.cross_entropy(frame, y) / len(x)
    names, parameters = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def _agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], most: float, what: str) -> str:
    """The largest relative error in words; raises `CheckFailed` above ``most``."""
    if found.keys() != expected.keys():
        raise CheckFailed(f"gradients of {', '.join(found)} came; expected those of {', '.join(expected)}")
    worst = max(expected, key=lambda name: _error(found[name], expected[name]))
    error = _error(found[worst], expected[worst])
    if not error <= most:
        raise CheckFailed(f"{worst} differs from {what} by {error:.1e}; expected {most:.0e} at most")
    return f"equal to {what}, within {error:.0e}"


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-4))


def _bptt() -> str:
    net, (x, y) = _network(10, 8), _lesson()
    return _agree(
        _learned(net, rules.build("bptt"), x, y),
        _autograd(net, x, y, across_time=True),
        EXACT,
        "autograd through all time steps",
    )


def _sltt() -> str:
    net, (x, y) = _network(10, 8), _lesson()
    expected = _autograd(net, x, y, across_time=False)
    return _agree(_learned(net, rules.build("sltt"), x, y), expected, EXACT, "autograd within each time step")


def _ottt() -> str:
    """With one hidden layer and the reset outside the graph, exact traces carry all that BPTT carries."""
    net, (x, y) = _network(10), _lesson()
    rule = rules.build({"name": "online", "temporal": {"name": "ottt", "fidelity": "exact"}, "spatial": "bp"})
    return _agree(_learned(net, rule, x, y), _autograd(net, x, y, across_time=True), EXACT, "BPTT of one hidden layer")


def _dfa() -> str:
    """Deposits are the input times psi(u) B e, B the rule's own matrix."""
    net, (x, y) = _network(10), _lesson()
    rule = rules.build({"name": "online", "temporal": "sltt", "spatial": "dfa"})
    found = _learned(net, rule, x, y)
    (b,) = (buffer for buffer in rule.buffers() if buffer.shape == (10, CLASSES))
    return _agree(found, _by_feedback(net, b.double(), x, y), EXACT, "outer products with B e")


def _by_feedback(net: Network, b: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    hidden, neuron, readout = net.children()
    assert isinstance(neuron, Affine)
    grads = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    first, first_bias, last, last_bias = grads.values()
    v = x.new_zeros(())
    with torch.no_grad():
        for frame in x:
            h = neuron.decay * v + hidden(frame)
            s = (h >= neuron.threshold).double()
            v = h - neuron.threshold * s
            e = (readout(s).softmax(-1) - nn.functional.one_hot(y, CLASSES)) / y.numel() / len(x)
            post = neuron.surrogate(h - neuron.threshold) * (e @ b.T)
            for weight, bias, credit, pre in ((first, first_bias, post, frame), (last, last_bias, e, s)):
                weight += credit.T @ pre
                bias += credit.sum(0)
    return grads


def _kernels() -> str:
    """Every compiled loop beside its plain twin on one random input."""
    if in_use() is Use.NEVER:
        return "switched off by ONWARD_KERNELS; plain torch serves"
    off = [name for name, kernel in KERNELS.items() if not kernel.works]
    with using(Use.ALWAYS), torch.no_grad():
        for compare in (_firing, _bits, _sparse_products, _feedback):
            compare()
    return f"{len(KERNELS) - len(off)} equal to plain torch" + (f"; off: {', '.join(off)}" if off else "")


def _firing() -> None:
    """Neurons that come close to the threshold are left out: rounding may decide there."""
    law, psi = Recurrence(0.5, 1.0, 0.0, 1.0, False, 1.0, 1.0), Sigmoid(4.0)
    x, v = torch.randn(8, 4, 1000), torch.randn(4, 1000)
    h, s, after = membrane(x, v, law)
    clear = ((h - 1).abs() > 1e-5).all(0)
    found = fire(x, v, law, Shape("sigmoid", 4.0)) or (s, psi(h - 1), after)
    _same(
        "fire",
        [found[0][:, clear], found[1][:, clear], found[2][clear]],
        [s[:, clear], psi(h - 1)[:, clear], after[clear]],
    )


def _bits() -> None:
    keys = torch.randint(-(2**62), 2**62, (50,))
    _same("signs", [signs(keys, 333, torch.float32)], [plain_signs(keys, 333, torch.float32)])


def _sparse_products() -> None:
    """Products of what is mostly zero: forward, back, and for the weight gradient."""
    for module, features in ((nn.Linear(300, 170), (300,)), (nn.Conv2d(5, 40, 3, padding=1), (9, 8, 5))):
        x = torch.randn(4, 3, *features).relu() * (torch.rand(4, 3, *features) < 0.1)
        x = x.movedim(-1, 2) if len(features) > 1 else x
        params = {name: p.detach() for name, p in module.named_parameters()}
        rows, plain = sparse_rows(x, most=1.0), drive(module, params, x)
        post = torch.randn_like(plain)
        dense, sparse = ({name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2))
        deposit(module, params, x, post, dense)
        deposit(module, params, x if rows is None else rows, post, sparse)
        found = drive(module, params, x if rows is None else rows)
        _same("gather", [found], [plain])
        _same("scatter", list(sparse.values()), list(dense.values()))
        _posts(module, params, x, post * (torch.rand_like(post) < 0.1))


def _posts(module: nn.Module, params: Params, x: Tensor, post: Tensor) -> None:
    """The same where posts are mostly zero."""
    rows = sparse_rows(post, most=1.0)
    few = post if rows is None else rows
    _same("gather", [transpose(module, params, few, x)], [transpose(module, params, post, x)])
    dense, sparse = ({"weight": torch.zeros_like(params["weight"])} for _ in range(2))
    deposit(module, params, x, post, dense)
    deposit(module, params, x, few, sparse)
    _same("scatter", [sparse["weight"]], [dense["weight"]])


def _feedback() -> None:
    slope, error, matrix = torch.randn(4, 6, 500), torch.randn(4, 6, 10), torch.randn(500, 10)
    credit = Feedback(error, matrix)
    _same("feedback", [credit.times(slope)], [credit.dense(slope) * slope])
    halves = [(slope[:, part], error[:, part]) for part in (slice(0, 2), slice(2, None))]
    expected = torch.stack([torch.einsum("tbn,tbm->nm", z, o) for z, o in halves])
    _same("correlate", [correlate(slope, error, 2)], [expected])


def _same(kernel: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    error = max(_error(one, other) for one, other in zip(found, expected, strict=True))
    if not error <= CLOSE:
        raise CheckFailed(
            f"kernel {kernel} differs from plain torch by {error:.1e}; set ONWARD_KERNELS=never, and report it"
        )


def _checkpoint() -> str:
    """What was learned comes back bit for bit."""
    one, other = _trained(updates=2), _trained(updates=1)
    with tempfile.TemporaryDirectory(prefix="onward-check-") as folder:
        path = write(Path(folder) / "step-2", one, {"updates": 2})
        size = sum(file.stat().st_size for file in path.iterdir())
        read_modules(path, other.net, other.rule)
        read_optimizer(path, other.optimizer)
    for part, tensors in one.tensors().items():
        there = other.tensors()[part]
        for name, tensor in tensors.items():
            if name not in there or not torch.equal(tensor, there[name]):
                raise CheckFailed(f"{name} of the {part} was not what had been saved; check the disk")
    return f"{size:,} bytes written, read and compared"


def _trained(updates: int) -> Trained:
    net, rule, (x, y) = _network(10), rules.build("dkp"), _lesson()
    optimizer: torch.optim.Optimizer | None = None
    for _ in range(updates):
        _learned(net, rule, x, y)
        optimizer = optimizer or optimizers.build("adam", parameter_groups(net, rule, 0.0, False))
        optimizer.step()
    assert optimizer is not None
    return Trained(net, rule, optimizer)


def _processes() -> str:
    """Two processes meet through a file and add a tensor with gloo, as data-parallel training does."""
    if not dist.is_available() or not dist.is_gloo_available():
        raise CheckFailed("this build of torch has no gloo; several processes cannot train together with it")
    with tempfile.TemporaryDirectory(prefix="onward-check-", ignore_cleanup_errors=True) as folder:
        found = _answers(folder)
    expected = str([1.0, 3.0, 5.0, 7.0])
    if wrong := [text for text in found if text != expected]:
        raise CheckFailed(
            f"two processes could not add their numbers ({wrong[0]}); they talk over the network of this machine "
            "alone: allow that in its firewall, or name an interface with GLOO_SOCKET_IFNAME, such as lo"
        )
    return f"{_pair.RANKS} processes added a tensor with gloo"


def _answers(folder: str) -> list[str]:
    """What each process found; those that take too long are ended."""
    context, end = multiprocessing.get_context("spawn"), monotonic() + STARTING + PATIENCE
    processes = [
        context.Process(target=_pair.add, args=(folder, rank, PATIENCE), daemon=True) for rank in range(_pair.RANKS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, end - monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    if late:
        return [f"no answer after {STARTING + PATIENCE:.0f} s"]
    files = [_pair.answer(folder, rank) for rank in range(_pair.RANKS)]
    return [file.read_text(encoding="utf-8") if file.is_file() else "a process ended at once" for file in files]


CHECKS = (
    Check("gradients of bptt", _bptt),
    Check("gradients of sltt", _sltt),
    Check("gradients of ottt", _ottt),
    Check("gradients of dfa", _dfa),
    Check("compiled kernels", _kernels),
    Check("save and load", _checkpoint),
    Check("two processes", _processes),
)
"""In the order in which they run."""
