"""Matrix products with the same bits on every machine and for every batch.

A BLAS selects its kernel by processor and shape, and kernels sum in different orders. Here every
output is one chain of fused multiply-adds (IEEE 754-2019, 5.4.1) over the inner dimension,
from first to last, followed by its bias. So its bits depend on its row of the matrix and on its
event alone. `COLUMNS` outputs of `EVENTS` events are held in registers, and events are read
without a copy. For matrices of this size that is twice as fast as OpenBLAS, which splits and
copies them first.

numba compiles plain loops well, but holds sums in registers only if the loop is written in LLVM
instructions. `_tile` is that loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from streamgauge.models.simd.vectors import FLOATS, WIDTH, address_of, everywhere, fused

LANES = 16  # events per group, each of another entity
# Outputs in registers. That many chains hide the latency of a multiply-add. More events at a
# time are as fast for full groups, and slower for groups of one event, which hot entities cause.
EVENTS, COLUMNS = 4, 3 * WIDTH

_INT = ir.IntType(64)
_ZERO = ir.Constant(FLOATS, [0.0] * WIDTH)


def pack(matrix: NDArray[Any]) -> NDArray[Any]:
    """Lay out a matrix (M, K) for `product`: (ceil(M / COLUMNS), K, COLUMNS), padded with zeros."""
    count, depth = matrix.shape
    blocks = -(-count // COLUMNS)
    whole = np.zeros((blocks * COLUMNS, depth), np.float32)
    whole[:count] = matrix
    return np.ascontiguousarray(whole.reshape(blocks, COLUMNS, depth).transpose(0, 2, 1))


@njit
def product(
    packed: NDArray[Any], events: NDArray[Any], starts: NDArray[Any], count: int, out: NDArray[Any]
) -> None:
    """Multiply a packed matrix (M, K + 1), with the biases in the last column, by events.

    Args:
        packed: the result of `pack`.
        events: flat; holds the K floats of each event.
        starts: (LANES,) index of the first float of each event; valid also from `count` on.
        count: number of events.
        out: (LANES * ceil(M / COLUMNS) * COLUMNS,), receives the outputs, event by event.
    """
    blocks, depth = packed.shape[0], packed.shape[1]
    weights, width = packed.reshape(-1), blocks * COLUMNS
    for block in range(blocks):
        first = block * depth * COLUMNS
        for lane in range(0, count, EVENTS):
            target = lane * width + block * COLUMNS
            _tile(weights, first, events, starts, lane, out, target, width, depth - 1)


@intrinsic
def _tile(
    typing: Any,
    weights: Any,
    first: Any,
    events: Any,
    starts: Any,
    lane: Any,
    out: Any,
    target: Any,
    width: Any,
    depth: Any,
) -> Any:
    """Compute `COLUMNS` outputs of `EVENTS` events: chains over `depth` floats, then the bias."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        weight = address_of(context, builder, kinds[0], args[0], args[1])
        lanes = address_of(context, builder, kinds[3], args[3], args[4])
        event = [
            address_of(context, builder, kinds[2], args[2], _at(builder, lanes, _INT(i)))
            for i in range(EVENTS)
        ]
        before, loop, after = (
            builder.block,
            builder.append_basic_block("loop"),
            builder.append_basic_block("after"),
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
        builder.cbranch(builder.icmp_signed("<", following, args[8]), loop, after)
        builder.position_at_end(after)
        columns = _columns(builder, weight, args[8])
        for i, row in enumerate(sums):
            start = builder.add(args[6], builder.mul(args[7], _INT(i)))
            for offset, total, bias in zip(_COLUMNS, row, columns, strict=True):
                address = address_of(
                    context, builder, kinds[5], args[5], builder.add(start, _INT(offset))
                )
                final = builder.fadd(total.incomings[1][0], bias)
                builder.store(final, builder.bitcast(address, ir.PointerType(FLOATS)), align=4)
        return context.get_dummy_value()

    floats = (weights, types.int64, events, starts, types.int64, out)
    return types.void(*floats, types.int64, types.int64, types.int64), generate


_COLUMNS = range(0, COLUMNS, WIDTH)


def _columns(builder: Any, weight: Any, k: Any) -> list[Any]:
    """Emit loads of the weights of `COLUMNS` outputs for input k."""
    first = builder.mul(k, _INT(COLUMNS))
    addresses = [builder.gep(weight, [builder.add(first, _INT(at))]) for at in _COLUMNS]
    kind = ir.PointerType(FLOATS)
    return [builder.load(builder.bitcast(each, kind), align=4) for each in addresses]


def _at(builder: Any, start: Any, index: Any) -> Any:
    return builder.load(builder.gep(start, [index]))
