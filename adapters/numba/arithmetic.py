"""Single IEEE operations with the same bits in Python, on the CPU and on a GPU, for all options of the calling code.

On the CPU, LLVM fuses a product and a sum only under ``fastmath``. On a GPU, NVVM does so by default, and under
``fastmath`` it also flushes subnormals and approximates. So each operation here is a separate instruction. On the CPU
it is the plain one. On a GPU it is PTX's ``mul.rn``, ``add.rn``, ``div.rn`` or ``sqrt.rn``, which are never fused,
approximated or flushed. In Python, and so in Numba's CUDA simulator, it is an operation of NumPy scalars.

A function decorated with :data:`exact` runs in Python and in compiled code, and ignores its caller's ``fastmath``. All
integers are uint64, because Numba promotes a uint64 and an int64 to a float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, register_jitable, type_callable

__all__ = [
    "add",
    "at_least",
    "at_most",
    "bfloat16_pair",
    "bits32",
    "bits64",
    "div",
    "double",
    "exact",
    "float16_pair",
    "float32_of_bits",
    "float32_of_int",
    "float64_of_bits",
    "float64_of_int",
    "mul",
    "negated",
    "polynomial",
    "product32",
    "shifted32",
    "single",
    "sqrt",
    "sub",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Lower = Callable[[ir.IRBuilder, list[ir.Value]], ir.Value]

exact: Final[Callable[[Any], Any]] = register_jitable(fastmath=False, forceinline=True)
"""Decorates a Python function that ``@njit`` and ``@cuda.jit`` code may call."""

_i32, _i64, _f32, _f64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


def _compiled(result: Any, *kinds: Any) -> Callable[[Lower], Callable[[Function], Function]]:
    """Defines the compiled instructions of a Python function with one or two arguments of the same type.

    `result` is the type of its value; None means the type of the arguments.
    """

    def instructions(lower: Lower) -> Callable[[Function], Function]:
        def register(plain: Function) -> Function:
            def of(*arguments: Any) -> Any:
                fit = all(map(isinstance, arguments, kinds)) and len(set(arguments)) == 1
                return (result or arguments[0]) if fit else None

            @type_callable(plain)
            def _(context: Any) -> Callable[..., Any]:
                # Numba reads the number of arguments from these
                return (lambda x: of(x)) if len(kinds) == 1 else (lambda a, b: of(a, b))  # noqa: PLW0108

            @lower_builtin(plain, *kinds)
            def _(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
                return lower(builder, arguments)

            return plain

        return register

    return instructions


def _is_gpu(builder: ir.IRBuilder) -> bool:
    return str(builder.module.triple).startswith("nvptx")


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """A call of an LLVM intrinsic function."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [each.type for each in arguments]), name)
    return builder.call(function, arguments)


def _rounded(operation: str, plain: Lower) -> Lower:
    """The plain operation; on a GPU, the named one that rounds to nearest even."""

    def lower(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
        if not _is_gpu(builder):
            return plain(builder, arguments)
        of = arguments[0].type
        return _call(builder, f"llvm.nvvm.{operation}.rn.{'f' if of == _f32 else 'd'}", of, arguments)

    return lower


def _root(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    of = arguments[0].type
    return _call(builder, f"llvm.sqrt.{'f32' if of == _f32 else 'f64'}", of, arguments)


def _negated(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    of = arguments[0].type
    integer = _i32 if of == _f32 else _i64
    flipped = builder.xor(builder.bitcast(arguments[0], integer), integer(1 << (integer.width - 1)))
    return builder.bitcast(flipped, of)


def _difference(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    if not _is_gpu(builder):
        return builder.fsub(*arguments)
    return _sum(builder, [arguments[0], _negated(builder, arguments[1:])])


def _bound(comparison: str, name: str) -> Lower:
    """x limited by a bound. Takes the comparison and its name in PTX."""

    def lower(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
        x, limit = arguments
        if not (_is_gpu(builder) and x.type == _f32):
            return builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
        # explicit, because a comparison under fastmath may treat a subnormal as 0
        text = f"{{.reg .pred p; setp.{name}.f32 p, $1, $2; selp.f32 $0, $2, $1, p;}}"
        return builder.call(ir.InlineAsm(ir.FunctionType(_f32, [_f32, _f32]), text, "=f,f,f"), arguments)

    return lower


def _widened(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    if not _is_gpu(builder):
        return builder.fpext(arguments[0], _f64)
    instruction = ir.InlineAsm(ir.FunctionType(_f64, [_f32]), "cvt.f64.f32 $0, $1;", "=d,f")
    return builder.call(instruction, arguments)


def _narrowed(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    if not _is_gpu(builder):
        return builder.fptrunc(arguments[0], _f32)
    return _call(builder, "llvm.nvvm.d2f.rn", _f32, arguments)


def _pair(name: str) -> Lower:
    """Rounds two float32 values to a 16-bit format with the GPU's own instruction."""

    def lower(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
        instruction = ir.InlineAsm(ir.FunctionType(_i32, [_f32, _f32]), f"cvt.rn.{name}.f32 $0, $2, $1;", "=r,f,f")
        return builder.zext(builder.call(instruction, arguments), _i64)

    return lower


def _shifted(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    return builder.zext(builder.ashr(*(builder.trunc(value, _i32) for value in arguments)), _i64)


def _wide_product(builder: ir.IRBuilder, arguments: list[ir.Value]) -> ir.Value:
    """One named instruction, because a GPU's compiler turns a masked product into four."""
    instruction = ir.InlineAsm(ir.FunctionType(_i64, [_i32, _i32]), "mul.wide.u32 $0, $1, $2;", "=l,r,r")
    return builder.call(instruction, [builder.trunc(value, _i32) for value in arguments])


_product = _rounded("mul", lambda builder, ab: builder.fmul(*ab))
_sum = _rounded("add", lambda builder, ab: builder.fadd(*ab))


# Operations


@_compiled(None, types.Float, types.Float)(_product)
def mul(a: Any, b: Any) -> Any:
    """The product, of two float32 or two float64."""
    return a * b


@_compiled(None, types.Float, types.Float)(_sum)
def add(a: Any, b: Any) -> Any:
    """The sum."""
    return a + b


@_compiled(None, types.Float, types.Float)(_difference)
def sub(a: Any, b: Any) -> Any:
    """The difference."""
    return a - b


@_compiled(None, types.Float, types.Float)(_rounded("div", lambda builder, ab: builder.fdiv(*ab)))
def div(a: Any, b: Any) -> Any:
    """The quotient."""
    return a / b


@_compiled(None, types.Float)(_rounded("sqrt", _root))
def sqrt(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x)


@_compiled(None, types.Float)(_negated)
def negated(x: Any) -> Any:
    """The negative of a number."""
    return -x


@_compiled(None, types.Float, types.Float)(_bound("<", "lt"))
def at_least(x: Any, limit: Any) -> Any:
    """The larger of x and the limit; neither is NaN."""
    return limit if x < limit else x


@_compiled(None, types.Float, types.Float)(_bound(">", "gt"))
def at_most(x: Any, limit: Any) -> Any:
    """The smaller of x and the limit; neither is NaN."""
    return limit if x > limit else x


@_compiled(types.uint64, types.Integer, types.Integer)(
    lambda builder, ab: _wide_product(builder, ab) if _is_gpu(builder) else builder.mul(*ab)
)
def product32(a: Any, b: Any) -> Any:
    """The product of two uint64 below 2**32."""
    return a * b


@_compiled(types.uint64, types.Integer, types.Integer)(_shifted)
def shifted32(w: Any, count: Any) -> Any:
    """Shifts the lower half of a uint64 right as a signed integer. Returns the lower half, with zeros above."""
    return np.uint64((np.int64(np.int32(w & np.uint64(0xFFFFFFFF))) >> np.int64(count)) & 0xFFFFFFFF)


def polynomial(coefficients: Sequence[float], real: Any) -> Callable[[Any], Any]:
    """A function for the polynomial with these coefficients, lowest degree first, for compiled code.

    Each step multiplies, then adds, with one rounding each, in the precision `real`.
    """
    constants = [real(c) for c in coefficients]

    # instead of a loop, which compilers unroll too late to process several values at once
    def steps(builder: ir.IRBuilder, x: list[ir.Value]) -> ir.Value:
        p, *rest = (ir.Constant(x[0].type, float(c)) for c in reversed(constants))
        for c in rest:
            p = _sum(builder, [_product(builder, [p, x[0]]), c])
        return p

    @_compiled(None, types.Float)(steps)
    def value(x: Any) -> Any:
        p = constants[-1]
        for c in reversed(constants[:-1]):
            p = p * x + c
        return p

    return value


# Conversions


@_compiled(types.float64, types.Float)(lambda builder, x: x[0] if x[0].type == _f64 else _widened(builder, x))
def double(x: Any) -> Any:
    """A float32 or float64 as float64."""
    return np.float64(x)


@_compiled(types.float32, types.Float)(lambda builder, x: x[0] if x[0].type == _f32 else _narrowed(builder, x))
def single(x: Any) -> Any:
    """A float32 or float64 rounded to float32."""
    return np.float32(x)


@_compiled(types.float32, types.Integer)(lambda builder, w: builder.sitofp(builder.trunc(w[0], _i32), _f32))
def float32_of_int(w: Any) -> Any:
    """The lower half of a uint64 as a signed integer, rounded to float32."""
    return np.float32(np.int32(w & np.uint64(0xFFFFFFFF)))


@_compiled(types.float64, types.Integer)(lambda builder, w: builder.sitofp(w[0], _f64))
def float64_of_int(w: Any) -> Any:
    """A uint64 as a signed integer, rounded to float64."""
    return np.float64(np.int64(w))


@_compiled(types.uint64, types.Float)(lambda builder, x: builder.zext(builder.bitcast(x[0], _i32), _i64))
def bits32(x: Any) -> Any:
    """The bits of a float32, as a uint64."""
    return np.uint64(x.view(np.uint32))


@_compiled(types.uint64, types.Float)(lambda builder, x: builder.bitcast(x[0], _i64))
def bits64(x: Any) -> Any:
    """The bits of a float64."""
    return x.view(np.uint64)


@_compiled(types.float32, types.Integer)(lambda builder, w: builder.bitcast(builder.trunc(w[0], _i32), _f32))
def float32_of_bits(w: Any) -> Any:
    """The float32 with the bits of the lower half of a uint64."""
    return np.uint32(w).view(np.float32)


@_compiled(types.float64, types.Integer)(lambda builder, w: builder.bitcast(w[0], _f64))
def float64_of_bits(w: Any) -> Any:
    """The float64 with these bits."""
    return w.view(np.float64)


# Two values at once, on GPUs of compute capability 8.0 and newer


@_compiled(types.uint64, types.Float, types.Float)(_pair("f16x2"))
def float16_pair(a: Any, b: Any) -> Any:
    """The bits of two finite float32 values rounded to float16, the first in the lower half of 32 bits."""
    low, high = (np.uint64(np.float16(x).view(np.uint16)) for x in (a, b))
    return low | (high << np.uint64(16))


@_compiled(types.uint64, types.Float, types.Float)(_pair("bf16x2"))
def bfloat16_pair(a: Any, b: Any) -> Any:
    """The same in bfloat16."""
    low, high = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1)) for bits in (bits32(a), bits32(b)))
    return (low >> np.uint64(16)) | (high & np.uint64(0xFFFF0000))
