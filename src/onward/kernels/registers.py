"""The one piece of machine code that the loops cannot say in Python: a sum of table rows held in vector registers.

numba keeps a running row in memory, which costs a load and a store for every addition. Written out in LLVM's
language, the row stays in registers from the first addition to the last, whatever their width on the machine at hand.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onward.kernels.host import SPAN

LANES = 16
_INDEX, _NUMBER = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_NUMBER, LANES)
_MASK = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
_ANY = ir.Constant(_VECTOR, ir.Undefined)
_FUSED = ("contract",)


def _add_rows(context: Any, table: Any, shift: Any, indices: Any, values: Any, first: Any, last: Any, row: Any) -> Any:  # noqa: ARG001
    """row[:SPAN] += sum over first <= n < last of values[n] * table[indices[n] + shift, :SPAN].

    ``table`` ``[rows, SPAN]`` and the others are dense arrays; nothing is checked.
    """
    signature = types.void(table, types.int64, indices, values, types.int64, types.int64, row)
    return signature, _generate


add_rows: Any = intrinsic(_add_rows)


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    table, indices, values, row = (
        context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 3, 6)
    )
    shift, first, last = (arguments[i] for i in (1, 4, 5))
    before = builder.basic_block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    start = [builder.load(at, align=4) for at in _vectors(builder, row)]
    builder.branch(head)

    builder.position_at_end(head)
    n, sums = builder.phi(_INDEX), [builder.phi(_VECTOR) for _ in start]
    builder.cbranch(builder.icmp_signed("<", n, last), body, after)

    builder.position_at_end(body)
    index = builder.add(builder.sext(builder.load(builder.gep(indices, [n])), _INDEX), shift)
    source = builder.gep(table, [builder.mul(index, ir.Constant(_INDEX, SPAN))])
    single = builder.insert_element(_ANY, builder.load(builder.gep(values, [n])), ir.Constant(ir.IntType(32), 0))
    value = builder.shuffle_vector(single, _ANY, _MASK)
    loaded = [builder.load(at, align=4) for at in _vectors(builder, source)]
    more = [
        builder.fadd(total, builder.fmul(value, part, flags=_FUSED), flags=_FUSED)
        for total, part in zip(sums, loaded, strict=True)
    ]
    following = builder.add(n, ir.Constant(_INDEX, 1))
    builder.branch(head)

    for phi, initial, next_one in [(n, first, following), *zip(sums, start, more, strict=True)]:
        phi.add_incoming(initial, before)
        phi.add_incoming(next_one, body)

    builder.position_at_end(after)
    for total, at in zip(sums, _vectors(builder, row), strict=True):
        builder.store(total, at, align=4)
    return context.get_dummy_value()


def _vectors(builder: Any, row: Any) -> list[Any]:
    """Pointers to the vectors of a row."""
    places = range(0, SPAN, LANES)
    return [builder.bitcast(builder.gep(row, [ir.Constant(_INDEX, k)]), _VECTOR.as_pointer()) for k in places]
