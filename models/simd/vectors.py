"""A numba type for sixteen float32, with operators that compile to vector instructions.

numba cannot rule out that arrays overlap. So a compiler vectorises a loop over arrays only with
checks at run time, which cost short loops more than vectors save. Here vectors are explicit: the
operators and functions below work on all sixteen lanes, each with the result of a single
float32. Data is loaded once and stored once.

`load` and `store` take the number of elements that are `left`: if it is below sixteen, the
other lanes are neither read nor written.
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

#: Types of values in compiled code. An address points to the first float, see `begin`.
Wide = Any
Address = Any


class _Wide(types.Type):
    """The numba type of sixteen float32."""


wide = _Wide("Wide")


@register_model(_Wide)
class _Model(datamodel.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def everywhere(builder: Any, value: Any) -> Any:
    """Emit a vector with one float or integer in all lanes."""
    unset = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined)
    single = builder.insert_element(unset, value, _INT(0))
    return builder.shuffle_vector(single, unset, ir.Constant(_INTS, [0] * WIDTH))


def fused(builder: Any, factor: Any, other: Any, summand: Any) -> Any:
    """Emit a fused multiply-add on all lanes: `factor * other + summand`."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    call = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
    return builder.call(call, [factor, other, summand])


def address_of(context: Any, builder: Any, kind: Any, memory: Any, index: Any) -> Any:
    """Emit the address of an element of a flat array, or after an address; there is no check."""
    if isinstance(kind, types.Array):
        memory = context.make_array(kind)(context, builder, memory).data
    return builder.gep(memory, [index])


@intrinsic
def begin(typing: Any, array: Any) -> Any:
    """The address of the first element of an array.

    Wherever an inlined function takes an array, numba counts references to it with locked
    instructions, which cost 1 µs per event. It does not count references to an address.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), generate


def _register(function: Any, emit: Any, kinds: tuple[tuple[Any, ...], ...]) -> None:
    """Let compiled code call a function of Python with arguments of these kinds."""

    class Template(AbstractTemplate):
        key = function

        def generic(self, args: Any, kws: Any) -> Any:
            return signature(wide, *args) if args in kinds else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *(_widened(builder, value) for value in args))

    infer_global(function)(Template)
    for kind in kinds:
        lower_builtin(function, *kind)(lower)


def _widened(builder: Any, value: Any) -> Any:
    return value if value.type == FLOATS else everywhere(builder, value)


# These select as numba does for single numbers: the second only if it is strictly less, or
# greater; so the first if the second is NaN.
def _least(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", second, first), second, first)


def _greatest(builder: Any, first: Any, second: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", second, first), second, first)


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
    """A vector with one float32 in all lanes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return everywhere(builder, args[0])

    return wide(types.float32), generate


def _mask(builder: Any, left: Any) -> Any:
    lanes = ir.Constant(_INTS, list(range(WIDTH)))
    bound = everywhere(builder, builder.trunc(left, _INT))
    return builder.icmp_signed("<", lanes, bound)


@intrinsic
def load(typing: Any, memory: Any, index: Any, left: Any, otherwise: Any) -> Any:
    """Load sixteen floats from an index; lanes from `left` on hold `otherwise`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = address_of(context, builder, memory, *args[:2])
        mask = _mask(builder, args[2])
        kind = ir.FunctionType(FLOATS, [start.type, _INT, mask.type, FLOATS])
        name = f"llvm.masked.load.v{WIDTH}f32.p0"
        call = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(call, [start, _INT(4), mask, everywhere(builder, args[3])])

    return wide(memory, types.int64, types.int64, types.float32), generate


@intrinsic
def store(typing: Any, memory: Any, index: Any, left: Any, value: Any) -> Any:
    """Store the first `left` of sixteen floats at an index."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = address_of(context, builder, memory, *args[:2])
        mask = _mask(builder, args[2])
        kind = ir.FunctionType(ir.VoidType(), [FLOATS, start.type, _INT, mask.type])
        name = f"llvm.masked.store.v{WIDTH}f32.p0"
        call = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(call, [args[3], start, _INT(4), mask])
        return context.get_dummy_value()

    return types.void(memory, types.int64, types.int64, wide), generate


@intrinsic
def where_number(typing: Any, value: Any, number: Any, otherwise: Any) -> Any:
    """`number` in lanes where `value` is a number, `otherwise` where it is NaN."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        is_number = builder.fcmp_ordered("ord", args[0], args[0])
        return builder.select(is_number, *(_widened(builder, v) for v in args[1:]))

    return wide(wide, number, otherwise), generate


@intrinsic
def root(typing: Any, value: Any) -> Any:
    """The square roots."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(FLOATS, [FLOATS])
        name = f"llvm.sqrt.v{WIDTH}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return wide(wide), generate


@intrinsic
def power_of_two(typing: Any, value: Any) -> Any:
    """2^n for the integer n in the lowest bits of the mantissa; there is no check."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _INTS)
        shifted = builder.shl(bits, ir.Constant(_INTS, [23] * WIDTH))
        exponent = builder.add(shifted, ir.Constant(_INTS, [127 << 23] * WIDTH))
        return builder.bitcast(exponent, FLOATS)

    return wide(wide), generate


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """The sum of all lanes. Pairs of halves are added until one is left, in a fixed order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        [values], half = args, WIDTH // 2
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
