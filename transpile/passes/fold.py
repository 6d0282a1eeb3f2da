"""Exact folding of operations on numbers.

A result is given only when every target must compute exactly it: rounding, overflow, wrap-around,
denormals and NaN give None, as do transcendental functions but for the arguments at which every
implementation is exact (``exp(0)``, ``rsqrt(1)``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from transpile.ir.dtypes import DType
from transpile.ir.ops import ELEMENTWISE, ElementwiseOp, Number

_LANDMARKS = (0, 1, -1, math.inf, -math.inf)


class _Format(NamedTuple):
    """A binary float format: explicit mantissa bits, least normal exponent, greatest value."""

    mantissa: int
    least_exponent: int
    greatest: float
    infinite: bool = True


_FORMATS = {
    "f64": _Format(52, -1022, math.inf),
    "f32": _Format(23, -126, (2 - 2.0**-23) * 2.0**127),
    "bf16": _Format(7, -126, (2 - 2.0**-7) * 2.0**127),
    "f16": _Format(10, -14, 65504.0),
    "f8e5m2": _Format(2, -14, 57344.0),
    "f8e4m3": _Format(3, -6, 448.0, infinite=False),
    "f4e2m1x2": _Format(0, 0, 0.0, infinite=False),  # packed pairs: nothing folds
}


def fold(name: str, args: Sequence[Number], operand: DType, result: DType) -> Number | None:
    """Value of elementwise operation ``name``, or None.

    ``operand`` is the dtype of the value operands, ``result`` that of the result.
    """
    op = ELEMENTWISE[name]
    if op.fold is None or any(isinstance(a, float) and math.isnan(a) for a in args):
        return None
    if name in ("shl", "shr") and not 0 <= args[1] < operand.bits:
        return None
    try:
        value = _evaluate(op, args, operand)
    except (ArithmeticError, ValueError, TypeError):
        return None
    return None if value is None else as_number(value, result)


def _evaluate(
    op: ElementwiseOp, args: Sequence[Number], operand: DType
) -> Number | Fraction | None:
    assert op.fold is not None
    if not operand.is_float and op.rule != "float":
        return op.fold(*args)
    finite = all(math.isfinite(a) for a in args)
    transcendental = op.f32_math
    if transcendental:
        value = op.fold(*map(float, args)) if all(a in _LANDMARKS for a in args) else None
        return value if value in _LANDMARKS else None
    if finite:
        exact = (a if isinstance(a, bool) else Fraction(a) for a in args)
        return op.fold(*exact)  # the functions of the table are exact on fractions
    return op.fold(*args)


def as_number(value: Number | Fraction, dtype: DType) -> Number | None:
    """The value as a number of ``dtype`` if it has exactly that value, else None."""
    if dtype.is_bool:
        return bool(value) if value in (0, 1) else None
    if dtype.is_int:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        bits = dtype.bits - 1 if dtype.signed else dtype.bits
        least = -(1 << bits) if dtype.signed else 0
        return int(value) if int(value) == value and least <= value < (1 << bits) else None
    return _as_float(value, _FORMATS[dtype.name])


def _as_float(value: Number | Fraction, form: _Format) -> float | None:
    if isinstance(value, float) and not math.isfinite(value):
        return value if form.infinite and not math.isnan(value) else None
    try:
        number = float(value)
    except OverflowError:
        return None
    if number == 0.0:
        return 0.0 if value == 0 else None
    if Fraction(number) != Fraction(value) or abs(number) > form.greatest:
        return None
    exponent = math.frexp(number)[1] - 1
    if exponent < form.least_exponent:  # denormal: targets may flush it
        return None
    quantum = Fraction(2) ** (exponent - form.mantissa)
    return number if (Fraction(number) / quantum).denominator == 1 else None


def convert(value: Number, target: DType) -> Number | None:
    """The value after a cast to ``target`` (truncating to integers), or None if not exact."""
    if target.is_bool:
        return value != 0
    if target.is_int:
        return as_number(math.trunc(value), target) if math.isfinite(value) else None
    return as_number(value, target)


def absorb(name: str, value: Number, operand: DType) -> Number | None:
    """The result of a commutative operation given one operand, whatever the other is."""
    if name == "and" and (value is False or (operand.is_int and value == 0)):
        return value
    if name == "or" and value is True:
        return True
    if name == "mul" and operand.is_int and value == 0:
        return 0
    return None


def reduce_constant(name: str, value: Number, result: DType) -> Number | None:
    """Reduction or scan ``name`` over any positive number of lanes that all hold ``value``."""
    if name in ("sum", "xor_sum"):
        return convert(0, result) if value == 0 else None
    if name == "prod":
        return convert(value, result) if value in (0, 1) else None
    if name in ("argmax", "argmin"):
        return 0
    return bool(value) if name in ("any", "all") else convert(value, result)


def greatest(dtype: DType) -> Number:
    """The greatest value: infinity where the dtype has one."""
    if dtype.is_bool:
        return True
    if dtype.is_int:
        return (1 << (dtype.bits - dtype.signed)) - 1
    form = _FORMATS[dtype.name]
    return math.inf if form.infinite else form.greatest


def least(dtype: DType) -> Number:
    """The least value: minus infinity where the dtype has one."""
    if dtype.is_bool:
        return False
    if dtype.is_int:
        return -(1 << (dtype.bits - 1)) if dtype.signed else 0
    return -greatest(dtype)
