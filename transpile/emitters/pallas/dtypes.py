"""jax.numpy spellings of element types and literals, and which types a kernel may compute in."""

from __future__ import annotations

import math

from transpile.emitters.common.tree import Expr, lit
from transpile.ir import dtypes as dt
from transpile.ir.dtypes import DType

#: element type -> jax.numpy name; what is absent does not exist on the device
NAMES: dict[DType, str] = {
    dt.BOOL: "jnp.bool_",
    dt.I8: "jnp.int8",
    dt.U8: "jnp.uint8",
    dt.I16: "jnp.int16",
    dt.U16: "jnp.uint16",
    dt.I32: "jnp.int32",
    dt.U32: "jnp.uint32",
    dt.BF16: "jnp.bfloat16",
    dt.F32: "jnp.float32",
    dt.F8E4M3: "jnp.float8_e4m3fn",
    dt.F8E5M2: "jnp.float8_e5m2",
}

#: element type of a tensor -> the one it has in a kernel, where they differ
ON_DEVICE: dict[DType, DType] = {dt.I64: dt.I32, dt.U64: dt.U32, dt.F16: dt.F32}

#: names of the types as jax arrays outside kernels have them
HOST_NAMES = NAMES | {dt.F16: "jnp.float16", dt.I64: "jnp.int32", dt.U64: "jnp.uint32"}


def on_device(dtype: DType) -> DType:
    """The element type that a value of ``dtype`` has in a kernel."""
    return ON_DEVICE.get(dtype, dtype)


def spell_number(value: bool | int | float, dtype: DType) -> Expr:
    """A literal of the dtype, weakly typed in jax as a Python scalar is."""
    if dtype.is_bool:
        return lit(str(bool(value)))
    if dtype.is_float:
        value = float(value)
        if math.isnan(value):
            return lit("jnp.nan")
        if math.isinf(value):
            return lit("jnp.inf" if value > 0 else "-jnp.inf")
        return lit(repr(value))
    number = int(value)
    if dtype.bits == 32 and dtype.signed and not -(2**31) <= number < 2**31:
        number = (number + 2**31) % 2**32 - 2**31
    return lit(repr(number))


def bytes_of(dtype: DType) -> int:
    """Bytes of an element in device memory."""
    return max(1, on_device(dtype).bits // 8)
