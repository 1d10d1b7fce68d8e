"""Operations of products between signals, which have no weights: attention.

A counter gets the factors of a chunk, 1 where they are not zero, ``[R, D, *positions]``, and returns how many of the
multiplications have two factors that are not zero, and how many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from onward.core.attention import Attention, Gate, Veto

Counter = Callable[..., tuple[int, int]]


def _attention(module: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int]:
    """Both products, in the order that `Attention` takes them in: 2 N^2 d or 2 N d^2 a head, were nothing zero."""
    queries, keys, values = (x.flatten(2).unflatten(1, (module.heads, -1)) for x in (q, k, v))
    width, tokens = queries.shape[-2:]
    heads = queries[..., 0, 0].numel()
    if tokens <= width:
        scores, last = keys.mT @ queries, values
        second = (last @ (scores != 0).to(last)).sum()
    else:
        scores, last = values @ keys.mT, queries
        second = ((scores != 0).to(last) @ last).sum()
    return int(scores.sum().double() + second.double()), 2 * heads * width * tokens * min(width, tokens)


def _selects(module: Any, first: Tensor, second: Tensor) -> tuple[int, int]:  # noqa: ARG001
    """Of spikes AND, or AND NOT: one signal lets the other pass, and nothing is added up."""
    return 0, 0


_COUNTERS: dict[type[nn.Module], Counter] = {Attention: _attention, Gate: _selects, Veto: _selects}


def register_products(kind: type[nn.Module], counter: Counter) -> None:
    """Teaches the count what a module that joins signals takes."""
    _COUNTERS[kind] = counter


def counter_of(module: nn.Module) -> Counter | None:
    """The counter of ``module``; None where nobody has said."""
    return _COUNTERS.get(type(module))
