"""Element types and numbers in Metal Shading Language."""

from __future__ import annotations

import math
import struct

from transpile.ir.dtypes import (
    BF16,
    BOOL,
    BY_NAME,
    F4E2M1X2,
    F8E4M3,
    F8E5M2,
    F16,
    F32,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
    StandIn,
)
from transpile.thread.merge import TypeParam

#: scalar types; a dtype that is absent does not exist on this target (f64). The 8-bit floats are
#: bytes, which the code decodes where it computes with them.
NAMES: dict[DType, str] = {
    BOOL: "bool",
    I8: "char",
    U8: "uchar",
    I16: "short",
    U16: "ushort",
    I32: "int",
    U32: "uint",
    I64: "long",
    U64: "ulong",
    F16: "half",
    BF16: "bfloat",
    F32: "float",
    F8E4M3: "uchar",
    F8E5M2: "uchar",
    F4E2M1X2: "uchar",
}

#: types of a kernel's struct of scalars, as the shim packs them
STRUCT = {BOOL: "bool", I32: "i32", U32: "u32", I64: "i64", U64: "u64", F16: "f16", F32: "f32"}


def spelled(dtype: DType) -> str:
    """The type's name; KeyError for one that does not exist here."""
    if isinstance(dtype, TypeParam):
        return dtype.name
    return NAMES[BY_NAME[dtype.name] if isinstance(dtype, StandIn) else dtype]


def exists(dtype: DType) -> bool:
    """Whether the type has a name here."""
    return isinstance(dtype, TypeParam | StandIn) or dtype in NAMES


def computes(dtype: DType) -> bool:
    """Whether arithmetic on it is its own: bfloats, and types that may be one, compute in f32."""
    return dtype != BF16 and not (isinstance(dtype, TypeParam) and dtype.is_float)


_SUFFIX = {U32: "u", I64: "l", U64: "ul"}


def is_byte_float(dtype: DType) -> bool:
    """True for the floats that Metal has no type for."""
    return dtype in (F8E4M3, F8E5M2, F4E2M1X2)


def number(value: bool | int | float, dtype: DType) -> str:
    """A literal of the dtype."""
    if dtype == BOOL:
        return "true" if value else "false"
    if dtype.is_int:
        return _integer(int(value), dtype)
    if is_byte_float(dtype):
        assert value == 0, "8-bit floats have no literals"
        return "0"
    number = float(value)
    if math.isnan(number) or math.isinf(number):
        text = "NAN" if math.isnan(number) else "INFINITY" if number > 0 else "-INFINITY"
        return text if dtype == F32 else f"{spelled(dtype)}({text})"
    if dtype == F16:
        return f"{_digits(number)}h"
    text = f"{_digits(number)}f"
    return text if dtype == F32 else f"{spelled(dtype)}({text})"


def _integer(value: int, dtype: DType) -> str:
    if not dtype.signed:
        value %= 1 << dtype.bits
    if value == -(1 << 31) and dtype == I32:
        return "INT_MIN"
    if value == -(1 << 63):
        return "LONG_MIN"
    return f"{value}{_SUFFIX.get(dtype, '')}"


def _digits(value: float) -> str:
    """The shortest decimal that is read back as the same f32."""
    try:
        single = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return repr(value)
    for precision in range(1, 10):
        text = f"{value:.{precision}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", single):
            break
    mantissa, e, exponent = text.partition("e")
    if not e and "." not in mantissa:
        mantissa += ".0"
    return f"{mantissa}e{int(exponent)}" if e else mantissa
