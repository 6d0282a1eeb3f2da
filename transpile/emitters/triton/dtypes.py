"""Triton spellings of element types and literals, and Triton's own promotion rules."""

from __future__ import annotations

import math

from transpile.emitters.common.tree import Expr, lit
from transpile.ir import dtypes as dt
from transpile.ir.dtypes import DType

#: element type -> triton.language name
NAMES: dict[DType, str] = {
    dt.BOOL: "tl.int1",
    dt.I8: "tl.int8",
    dt.U8: "tl.uint8",
    dt.I16: "tl.int16",
    dt.U16: "tl.uint16",
    dt.I32: "tl.int32",
    dt.U32: "tl.uint32",
    dt.I64: "tl.int64",
    dt.U64: "tl.uint64",
    dt.F16: "tl.float16",
    dt.BF16: "tl.bfloat16",
    dt.F32: "tl.float32",
    dt.F64: "tl.float64",
    dt.F8E4M3: "tl.float8e4nv",
    dt.F8E5M2: "tl.float8e5",
    dt.F4E2M1X2: "tl.uint8",
}


def spell_number(value: bool | int | float, dtype: DType) -> Expr:
    """A literal of the dtype; Triton treats it as weak, like torch a Python scalar."""
    if dtype.is_bool:
        return lit(str(bool(value)))
    if dtype.is_float:
        value = float(value)
        if math.isnan(value):
            return lit('float("nan")')
        if math.isinf(value):
            return lit('float("inf")' if value > 0 else 'float("-inf")')
        return lit(repr(value))
    return lit(repr(int(value)))


def promote(a: DType | None, b: DType | None, *, divides: bool = False) -> DType | None:
    """What Triton's binary operators compute in; None stands for a Python literal.

    Mirrors ``TritonSemantic.computation_type_impl``: division widens 16-bit floats to f32.
    """
    if a is None or b is None:
        known = a or b
        return dt.F32 if divides and known is not None and known.is_half else known
    if dt.F64 in (a, b):
        return dt.F64
    if dt.F32 in (a, b):
        return dt.F32
    if dt.F16 in (a, b):
        return dt.F32 if divides else dt.F16
    if dt.BF16 in (a, b):
        return dt.F32 if divides or a != b else dt.BF16
    if a.is_fp8 or b.is_fp8:
        return a if a == b else dt.F16
    if a.signed == b.signed:
        return max(a, b, key=lambda d: d.bits)
    signed, unsigned = (a, b) if a.signed else (b, a)
    return unsigned if unsigned.bits >= signed.bits else signed
