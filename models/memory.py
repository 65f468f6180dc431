"""Copies memory, and asks for it ahead of time, in LLVM's own terms.

numba compiles a loop that copies into dozens of instructions that ask whether it may be
vectorised, wherever it stands: a step that copies two dozen vectors takes half a minute to
compile. And a row of the entity table is as far away as memory gets: with 100,000 rows of
38 features a step takes 1.8 µs when it waits for them, 1.3 µs when they were asked for a
group ahead.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE_FLOATS = 16  # a cache line of 64 bytes
_FLOAT_BYTES = 4
_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_TO_WRITE, _SOON, _DATA = _WORD(1), _WORD(3), _WORD(1)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Where a place in a flat array lies."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


@intrinsic
def prefetch(typing: Any, array: Any, place: Any) -> Any:
    """Ask for the line of a place in a flat array; any place will do, nothing is read."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *given)
        line = builder.bitcast(pointer, _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [line, _TO_WRITE, _SOON, _DATA])
        return context.get_dummy_value()

    return types.void(array, place), generate


@intrinsic
def copy(typing: Any, to: Any, place: Any, source: Any, start: Any, count: Any) -> Any:
    """Copy `count` float32 between places of flat arrays that do not overlap; not checked."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        target = _pointer(context, builder, kinds[0], given[0], given[1])
        origin = _pointer(context, builder, kinds[2], given[2], given[3])
        cgutils.raw_memcpy(builder, target, origin, given[4], _FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(to, place, source, start, count), generate
