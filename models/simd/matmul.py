"""Matrix products whose bits are the same on every machine, whatever stands beside.

A BLAS picks its kernel by processor and shape, and each sums in another order. Here every
output is one chain of fused multiply-adds (IEEE 754-2019, 5.4.1) over the inner dimension,
from first to last, and its bias comes last: its bits follow from its own row and event alone.
`COLUMNS` outputs of `EVENTS` events are held in registers, and events are read where they
lie. That is also twice as fast as OpenBLAS for matrices of this size, which it splits and
copies first.

numba compiles plain loops well, but puts sums into registers only if told to in LLVM's own
terms; `_tile` is that one loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from streamgauge.models.simd.vectors import FLOATS, WIDTH, address_of, everywhere, fused

LANES = 16  # events of a group, one each of as many entities
# Outputs in registers: as many chains hide the latency of a multiply-add. More events at a
# time are as fast for full groups, and slower for those of one event, which hot entities make.
EVENTS, COLUMNS = 4, 3 * WIDTH

_INT = ir.IntType(64)
_ZERO = ir.Constant(FLOATS, [0.0] * WIDTH)


def pack(matrix: NDArray[Any]) -> NDArray[Any]:
    """Lay out a matrix (M, K) for `product`: (ceil(M / COLUMNS), K, COLUMNS), zeros behind."""
    count, depth = matrix.shape
    blocks = -(-count // COLUMNS)
    whole = np.zeros((blocks * COLUMNS, depth), np.float32)
    whole[:count] = matrix
    return np.ascontiguousarray(whole.reshape(blocks, COLUMNS, depth).transpose(0, 2, 1))


@njit
def product(
    packed: NDArray[Any], events: NDArray[Any], starts: NDArray[Any], count: int, out: NDArray[Any]
) -> None:
    """Multiply a packed matrix (M, K + 1), biases last, by `count` events.

    Args:
        packed: by `pack`.
        events: flat; each event's K floats lie somewhere in it.
        starts: (LANES,) where they begin, also behind `count`.
        count: of events.
        out: (LANES * ceil(M / COLUMNS) * COLUMNS,), one event's outputs behind the other's.
    """
    blocks, depth = packed.shape[0], packed.shape[1]
    weights, width = packed.reshape(-1), blocks * COLUMNS
    for block in range(blocks):
        first = block * depth * COLUMNS
        for lane in range(0, count, EVENTS):
            place = lane * width + block * COLUMNS
            _tile(weights, first, events, starts, lane, out, place, width, depth - 1)


@intrinsic
def _tile(
    typing: Any,
    weights: Any,
    first: Any,
    events: Any,
    starts: Any,
    lane: Any,
    out: Any,
    place: Any,
    width: Any,
    depth: Any,
) -> Any:
    """`EVENTS` times `COLUMNS` outputs: chains over `depth` floats, and a bias behind."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        weight = address_of(context, builder, kinds[0], given[0], given[1])
        lanes = address_of(context, builder, kinds[3], given[3], given[4])
        event = [
            address_of(context, builder, kinds[2], given[2], _at(builder, lanes, _INT(i)))
            for i in range(EVENTS)
        ]
        before, loop, behind = (
            builder.block,
            builder.append_basic_block("loop"),
            builder.append_basic_block("behind"),
        )
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_INT)
        k.add_incoming(_INT(0), before)
        sums = [[builder.phi(FLOATS) for _ in _COLUMNS] for _ in event]
        columns = _columns(builder, weight, k)
        for start, row in zip(event, sums, strict=True):
            value = everywhere(builder, _at(builder, start, k))
            for total, column in zip(row, columns, strict=True):
                total.add_incoming(_ZERO, before)
                total.add_incoming(fused(builder, column, value, total), loop)
        following = builder.add(k, _INT(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, given[8]), loop, behind)
        builder.position_at_end(behind)
        columns = _columns(builder, weight, given[8])
        for i, row in enumerate(sums):
            start = builder.add(given[6], builder.mul(given[7], _INT(i)))
            for offset, total, bias in zip(_COLUMNS, row, columns, strict=True):
                at = address_of(
                    context, builder, kinds[5], given[5], builder.add(start, _INT(offset))
                )
                final = builder.fadd(total.incomings[1][0], bias)
                builder.store(final, builder.bitcast(at, ir.PointerType(FLOATS)), align=4)
        return context.get_dummy_value()

    floats = (weights, types.int64, events, starts, types.int64, out)
    return types.void(*floats, types.int64, types.int64, types.int64), generate


_COLUMNS = range(0, COLUMNS, WIDTH)


def _columns(builder: Any, weight: Any, k: Any) -> list[Any]:
    """The weights of `COLUMNS` outputs for input k."""
    first = builder.mul(k, _INT(COLUMNS))
    places = [builder.gep(weight, [builder.add(first, _INT(at))]) for at in _COLUMNS]
    kind = ir.PointerType(FLOATS)
    return [builder.load(builder.bitcast(place, kind), align=4) for place in places]


def _at(builder: Any, start: Any, index: Any) -> Any:
    return builder.load(builder.gep(start, [index]))
