"""Prefetches memory into the cache, with LLVM's instruction.

Rows of the entity table are usually in main memory. With 100,000 rows of 38 features an event
takes 0.8 µs without prefetching, 0.6 µs if the rows of the next group are prefetched together,
and 0.5 µs if they are prefetched one by one, between the events of the current group.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from streamgauge.models.simd.vectors import address_of

LINE_FLOATS = 16  # a cache line of 64 bytes
_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_TO_WRITE, _SOON, _DATA = _WORD(1), _WORD(3), _WORD(1)


@intrinsic
def prefetch(typing: Any, memory: Any, index: Any) -> Any:
    """Prefetch the cache line of an element of a flat array, or after an address, for writing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = address_of(context, builder, memory, *args)
        line = builder.bitcast(pointer, _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        prefetching = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetching, [line, _TO_WRITE, _SOON, _DATA])
        return context.get_dummy_value()

    return types.void(memory, index), generate
