"""Sixteen float32 at once, as compiled code sees them: values of a type of their own.

A compiler vectorises a loop over arrays only behind questions whether they overlap, which
numba cannot rule out, and short loops lose more by these than they win. Here vectors are
written down: operators and functions below work on all sixteen, each as on a single float32,
and an event is read from where it lies, once, and written back, once.

Where fewer than sixteen are `left`, only these are read and written.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, datamodel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

WIDTH = 16  # one register of AVX-512, two of AVX2

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
FLOATS, _INTS = ir.VectorType(_FLOAT, WIDTH), ir.VectorType(_INT, WIDTH)

#: Values of compiled code alone; an address is where floats begin, see `begin`.
Wide = Any
Address = Any


class _Wide(types.Type):
    """Numba's name for sixteen float32."""


wide = _Wide("Wide")


@register_model(_Wide)
class _Model(datamodel.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def everywhere(builder: Any, value: Any) -> Any:
    """Emit one float or integer in all lanes."""
    unset = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined)
    single = builder.insert_element(unset, value, _INT(0))
    return builder.shuffle_vector(single, unset, ir.Constant(_INTS, [0] * WIDTH))


def fused(builder: Any, one: Any, two: Any, three: Any) -> Any:
    """Emit a fused multiply-add on all lanes."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    call = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
    return builder.call(call, [one, two, three])


def address_of(context: Any, builder: Any, kind: Any, memory: Any, place: Any) -> Any:
    """Emit where a place in a flat array, or behind an address, lies; not checked."""
    if isinstance(kind, types.Array):
        memory = context.make_array(kind)(context, builder, memory).data
    return builder.gep(memory, [place])


@intrinsic
def begin(typing: Any, array: Any) -> Any:
    """Where an array begins.

    numba counts references to arrays wherever an inlined function takes one, with locks: an
    event cost 1 µs of that. It counts none to an address.
    """

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        return context.make_array(array)(context, builder, given[0]).data

    return types.CPointer(array.dtype)(array), generate


def _register(function: Any, emit: Any, kinds: tuple[tuple[Any, ...], ...]) -> None:
    """Let compiled code call a function of Python with arguments of these kinds."""

    class Template(AbstractTemplate):
        key = function

        def generic(self, args: Any, kws: Any) -> Any:
            return signature(wide, *args) if args in kinds else None

    def lower(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        return emit(builder, *(_widened(builder, value) for value in given))

    infer_global(function)(Template)
    for kind in kinds:
        lower_builtin(function, *kind)(lower)


def _widened(builder: Any, value: Any) -> Any:
    return value if value.type == FLOATS else everywhere(builder, value)


# As numba has them for single numbers: the first unless the second is truly beyond it.
def _least(builder: Any, one: Any, two: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", two, one), two, one)


def _greatest(builder: Any, one: Any, two: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", two, one), two, one)


_register(operator.neg, ir.IRBuilder.fneg, ((wide,),))
for _function, _emit in (
    (operator.add, ir.IRBuilder.fadd),
    (operator.sub, ir.IRBuilder.fsub),
    (operator.mul, ir.IRBuilder.fmul),
    (operator.truediv, ir.IRBuilder.fdiv),
    (min, _least),
    (max, _greatest),
):
    _register(_function, _emit, ((wide, wide), (wide, types.float32), (types.float32, wide)))


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """One float32 in all lanes."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        return everywhere(builder, given[0])

    return wide(types.float32), generate


def _mask(builder: Any, left: Any) -> Any:
    lanes = ir.Constant(_INTS, list(range(WIDTH)))
    bound = everywhere(builder, builder.trunc(left, _INT))
    return builder.icmp_signed("<", lanes, bound)


@intrinsic
def load(typing: Any, memory: Any, place: Any, left: Any, otherwise: Any) -> Any:
    """Sixteen floats from a place in memory; behind the `left` ones, `otherwise`."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        start = address_of(context, builder, memory, *given[:2])
        mask = _mask(builder, given[2])
        kind = ir.FunctionType(FLOATS, [start.type, _INT, mask.type, FLOATS])
        name = f"llvm.masked.load.v{WIDTH}f32.p0"
        call = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(call, [start, _INT(4), mask, everywhere(builder, given[3])])

    return wide(memory, types.int64, types.int64, types.float32), generate


@intrinsic
def store(typing: Any, memory: Any, place: Any, left: Any, value: Any) -> Any:
    """Write the first `left` of sixteen floats to a place in memory."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        start = address_of(context, builder, memory, *given[:2])
        mask = _mask(builder, given[2])
        kind = ir.FunctionType(ir.VoidType(), [FLOATS, start.type, _INT, mask.type])
        name = f"llvm.masked.store.v{WIDTH}f32.p0"
        call = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(call, [given[3], start, _INT(4), mask])
        return context.get_dummy_value()

    return types.void(memory, types.int64, types.int64, wide), generate


@intrinsic
def where_number(typing: Any, value: Any, one: Any, two: Any) -> Any:
    """`one` where `value` is a number, `two` where it is NaN."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        is_number = builder.fcmp_ordered("ord", given[0], given[0])
        return builder.select(is_number, *(_widened(builder, v) for v in given[1:]))

    return wide(wide, one, two), generate


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square roots."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS])
        name = f"llvm.sqrt.v{WIDTH}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)

    return wide(wide), generate


@intrinsic
def power_of_two(typing: Any, value: Any) -> Any:
    """2^n, where n is in the lowest bits of the mantissa; there is no check."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        bits = builder.bitcast(given[0], _INTS)
        shifted = builder.shl(bits, ir.Constant(_INTS, [23] * WIDTH))
        exponent = builder.add(shifted, ir.Constant(_INTS, [127 << 23] * WIDTH))
        return builder.bitcast(exponent, FLOATS)

    return wide(wide), generate


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """The sum of all sixteen: of halves, of their halves, and so on."""

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        [values], half = given, WIDTH // 2
        while half:
            unset = ir.Constant(values.type, ir.Undefined)
            halves = [
                builder.shuffle_vector(
                    values,
                    unset,
                    ir.Constant(ir.VectorType(_INT, half), list(range(at, at + half))),
                )
                for at in (0, half)
            ]
            values, half = builder.fadd(*halves), half // 2
        return builder.extract_element(values, _INT(0))

    return types.float32(wide), generate
