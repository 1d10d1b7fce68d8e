"""Properties that every rule has, each on one tiny network; numbers in float64 unless said otherwise."""

from __future__ import annotations

import weakref
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from onward.core import Frames, GradSink, KeyedDraws, LearningRule, Network, Static, run_sequence
from onward.core.errors import TopologyMismatch
from onward.core.group import Share
from onward.core.rule import Lesson
from onward.core.run import fit_chunk
from onward.core.signal import Context
from onward.rules import rules
from onward.testing.harness import (
    Taught,
    assert_close,
    bound,
    buffers,
    carried,
    clear,
    gradients,
    held_bytes,
    same_bits,
    suited,
    teach,
    teach_in_parts,
)
from onward.testing.zoo import BATCH, PER_BATCH, STEPS, data, make, refusal

Rule = dict[str, Any]
_WHOLE: dict[tuple[str, str], Taught] = {}


def whole(rule: Rule, name: str) -> Taught:
    """One sequence in one chunk; worked out once, and only read."""
    key = (repr(rule), name)
    if key not in _WHOLE:
        _WHOLE[key] = teach(make(name), rule, *data(name), chunk=STEPS)
    return _WHOLE[key]


def refused_at_bind(rule: Rule, name: str) -> None:
    """A network that the rule cannot train is refused in the expected words."""
    said = ""
    try:
        bound(rule, make(name), data(name)[0])
    except TopologyMismatch as error:
        said = str(error)
    expected = refusal(rule, name)
    assert expected is not None and expected in said, f"{expected!r} is not in {said!r}"  # noqa: PT018


def output_is_the_networks_own(rule: Rule, name: str) -> None:
    """Unless the rule perturbs; every parameter gets a finite gradient."""
    taught, net = whole(rule, name), make(name)
    own = net(data(name)[0])
    traits = rules.build(rule).traits
    if traits.perturbs:
        assert not torch.equal(taught.outs, own)
    elif not (traits.rate and name in PER_BATCH):  # rules of rates normalise all steps alike
        assert torch.equal(taught.outs, own)
    assert taught.outs.isfinite().all()
    assert set(taught.grads) >= {n for n, p in net.named_parameters() if p.requires_grad}
    assert all(grad.isfinite().all() for grad in taught.grads.values())


def chunks_change_no_number(rule: Rule, name: str) -> None:
    """Chunks of 1, 3 and all steps agree."""
    expected = whole(rule, name)
    for chunk in (1, 3):
        given = teach(make(name), rule, *data(name), chunk=chunk)
        assert_close(given.grads, expected.grads)
        assert_close({"outs": given.outs}, {"outs": expected.outs})


def same_seed_same_bits(rule: Rule, name: str) -> None:
    """Bit by bit; inputs and the network stay as they were."""
    (x, y), net = data(name), make(name)
    versions, before = (x._version, y._version), {k: v.clone() for k, v in net.state_dict().items()}
    again = teach(net, rule, x, y, chunk=STEPS)
    first = whole(rule, name)
    assert same_bits(again.grads, first.grads)
    assert torch.equal(again.outs, first.outs)
    assert (x._version, y._version) == versions
    assert torch.equal(x, data(name)[0])
    assert same_bits(net.state_dict(), before)


def other_seed_other_numbers(rule: Rule, name: str) -> None:
    """Exactly where the rule is stochastic."""
    x, y = data(name)
    a, b = (teach(make(name), rule, x, y, draws=KeyedDraws(seed)).grads for seed in (0, 1))
    assert same_bits(a, b) != rules.build(rule).traits.stochastic


def halves_make_the_mean(rule: Rule, name: str) -> None:
    """A batch is the mean of its halves, for rules whose samples do not hear of each other."""
    x, y = data(name, batch=2 * BATCH)
    net = make(name)
    built = bound(rule, net, x)
    teach(net, built, x, y)
    start = {k: v.clone() for k, v in built.state_dict().items()}

    def part(rows: slice) -> dict[str, Tensor]:
        built.load_state_dict(start)
        ids = torch.arange(2 * BATCH)[rows]
        taught = teach(net, built, x[:, rows], y[rows], ids=ids, sequence=1)
        feedback = {f"buffer.{k}": b.mean(0) if b.dim() == 3 else b for k, b in buffers(built).items()}
        return {**taught.grads, **feedback}

    both, first, second = part(slice(None)), part(slice(0, BATCH)), part(slice(BATCH, None))
    assert_close({k: (first[k] + second[k]) / 2 for k in first}, both)


def parts_add_up(rule: Rule, name: str) -> None:
    """Data parallel: each place knows its own samples, their ids and the size of the whole batch."""
    (x, y), net = data(name), make(name)
    built = bound(rule, net, x)
    teach(net, built, x, y)
    start = {k: v.clone() for k, v in built.state_dict().items()}
    parts = []
    for rows in (slice(None), slice(0, 1), slice(1, BATCH)):
        built.load_state_dict(start)
        ids = torch.arange(BATCH)[rows]
        share = Share(BATCH, int(ids[0]))
        parts.append(teach(net, built, x[:, rows], y[rows], ids=ids, share=share, sequence=1).grads)
    assert_close({k: parts[1][k] + parts[2][k] for k in parts[0]}, parts[0])


def sequences_in_parts(rule: Rule, name: str) -> None:
    """Only the carry passes from one part of a sequence to the next."""
    net, (x, y) = make(name), data(name)
    built = bound(rule, net, x)
    cuts = range(1, STEPS) if net.cyclic or built.traits.max_chunk == 1 else [2, 3]
    assert_close(teach_in_parts(net, built, x, y, cuts), whole(rule, name).grads)


def saved_and_loaded(rule: Rule, name: str) -> None:
    """A rule saved and loaded goes on as if nothing had happened."""
    net, (x, y) = make(name), data(name)
    first = bound(rule, net, x)
    for sequence in range(2):
        teach(net, first, x, y, sequence=sequence)
    saved = {key: value.clone() for key, value in first.state_dict().items()}
    expected = teach(net, first, x, y, sequence=2).grads
    second = bound(rule, net, x)
    second.load_state_dict(saved)
    assert same_bits(teach(net, second, x, y, sequence=2).grads, expected)


def dtypes_of_gradients(rule: Rule, name: str) -> None:
    """Gradients have the dtype of the weights: float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        net, (x, y) = make(name, dtype), data(name, dtype)
        taught = teach(net, rule, x, y)
        assert taught.outs.dtype == dtype
        for key, parameter in net.named_parameters():
            assert taught.grads[key].dtype == parameter.dtype == dtype
            assert taught.grads[key].isfinite().all()


def sequences_add_up(rule: Rule, name: str) -> None:
    """Gradient accumulation: deposits of several sequences meet in one sink; none recalls another of the same flush."""
    net, (x, y) = make(name), data(name)
    built = bound(rule, net, x)
    teach(net, built, x, y, sequence=7)
    start = {k: v.clone() for k, v in built.state_dict().items()}
    separate = []
    for n in range(2):
        if built.traits.recalls:
            built.load_state_dict(start)
        separate.append(teach(net, built, x, y, sequence=n).grads)
    built.load_state_dict(start)
    together = _accumulate(net, built, x, y)
    assert_close(together, {k: separate[0][k] + separate[1][k] for k in together})


def _accumulate(net: Network, rule: LearningRule, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    clear(net, rule)
    sink = GradSink(net)
    for n in range(2):
        run_sequence(net, rule, suited(rule, net), Frames(x), y, sink, draws=KeyedDraws(0), sequence=n)
    sink.flush()
    return gradients(net, rule)


def memory_as_claimed(rule: Rule, name: str) -> None:
    """The trait ``memory``: what is held at 8 steps and at 128, in chunks of 4."""
    few, many = held_by(rule, name, 8), held_by(rule, name, 128)
    if rules.build(rule).traits.memory == "O(1)":
        assert many <= 1.05 * few, (few, many)
    else:
        assert 12 < many / few < 20, (few, many)


def held_by(rule: Rule, name: str, steps: int) -> int:
    """Most bytes that the rule's graphs and carry hold while ``steps`` steps pass in chunks of 4 (or less)."""
    net = make(name)
    frame, y = data(name)[0][0], data(name)[1]
    x = Static(frame, steps)
    built = bound(rule, net, x)
    sink, context = GradSink(net), Context(KeyedDraws(0), torch.arange(BATCH), 0, steps, Share(BATCH))
    lesson, kept, most = Lesson(net, suited(built, net), x, y, sink, context), _Kept(), 0
    chunk = fit_chunk(net, built, 4, steps, online=False)
    with kept.hooks():
        built.begin(lesson)
        for start in range(0, steps, chunk):
            built.step(lesson, x.chunk(start, min(start + chunk, steps)))
            most = max(most, held_bytes([*carried(lesson.carry), *built.state_dict().values()]))
        built.finish(lesson)
    return kept.peak + most


class _Kept:
    """Counts the bytes that autograd graphs hold at the same time."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda box: box.tensor)

    def _pack(self, tensor: Tensor) -> _Box:
        box = _Box(tensor)
        size = tensor.nelement() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(box, self._forget, size)
        return box

    def _forget(self, size: int) -> None:
        self.now -= size


class _Box:
    """A saved tensor."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


SPIKES = ("_Attach", "_ThroughTime", "_Fire", "_Saturate")
"""How nodes of autograd's graph are called that lie at spikes."""


def crossings(outputs: Any) -> int:
    """Most spikes that lie on one way through the graph of ``outputs``."""
    heads = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    depth: dict[Any, int] = {}

    def below(fn: Any) -> int:
        if fn is None:
            return 0
        if fn not in depth:
            depth[fn] = fn.name().startswith(SPIKES) + max((below(f) for f, _ in fn.next_functions), default=0)
        return depth[fn]

    return max(below(head.grad_fn) for head in heads)


def autograd_as_claimed(rule: Rule, name: str) -> None:
    """The trait ``backward``: how many spikes a gradient crosses."""
    net, (x, y) = make(name), data(name)
    at_output = len(net.neurons) - len(net.hidden)
    seen = [0]
    grad = torch.autograd.grad

    def watched(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(crossings(outputs))
        return grad(outputs, *args, **kwargs)

    with patch.object(torch.autograd, "grad", watched):
        teach(net, rule, x, y, chunk=3)
    reach = {"none": at_output, "step": len(net.hidden) + at_output}.get(rules.build(rule).traits.backward)
    if reach is None:
        assert max(seen) > len(net.hidden) + at_output
    else:
        assert max(seen) <= reach
