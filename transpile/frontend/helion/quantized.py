"""Packed 4-bit floats: no target computes on them, so they are read as bytes and decoded.

A byte holds two E2M1 numbers, the first in its low bits: a sign, two bits of exponent with bias 1,
one of mantissa. The eight magnitudes are 0, 0.5, 1, 1.5, 2, 3, 4 and 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transpile.frontend.builder import describe
from transpile.frontend.helion.language import device
from transpile.frontend.values import HostTensor, NeedFact
from transpile.ir import ir
from transpile.ir.dtypes import BF16, F4E2M1X2, F16, F32, I32, U8, DType

if TYPE_CHECKING:
    from transpile.frontend.helion.lowering import Lowering


@device("float4_e2m1fn_x2_to_float32")
def _unpack(ev: Lowering, value: Any) -> tuple[ir.Value, ir.Value]:
    if not isinstance(value, ir.Value) or value.dtype != F4E2M1X2:
        _need(ev, value, F4E2M1X2)
        ev.fail("KT0401", f"hl.float4_e2m1fn_x2_to_float32 of {describe(value)}")
    return _halves(ev, ev.b.bitcast(value, U8), F32)


@device("load_float4_e2m1fn_x16_to_float16")
def _load_x16(
    ev: Lowering, storage: Any, group_offsets: Any, extra_mask: Any = None
) -> tuple[ir.Value, ...]:
    if not isinstance(storage, HostTensor) or storage.dtype not in (U8, F4E2M1X2):
        if isinstance(storage, HostTensor) and storage.param in ev.assumed:
            raise NeedFact(storage.param or "?", dtype=U8)
        ev.fail("KT0401", f"packed 4-bit floats in {describe(storage)}")
    flat = ev.memory_view(storage, U8, flat=True)
    pairs = [
        _halves(ev, _element(ev, flat, group_offsets, 8, i, extra_mask), F16) for i in range(8)
    ]
    return tuple(half for pair in pairs for half in pair)


@device("load_bfloat16_x16_to_float16")
def _load_bf16_x16(
    ev: Lowering, storage: Any, group_offsets: Any, extra_mask: Any = None
) -> tuple[ir.Value, ...]:
    if not isinstance(storage, HostTensor) or storage.dtype != BF16:
        if isinstance(storage, HostTensor) and storage.param in ev.assumed:
            raise NeedFact(storage.param or "?", dtype=BF16)
        ev.fail("KT0401", f"hl.load_bfloat16_x16_to_float16 of {describe(storage)}")
    flat = ev.memory_view(storage, BF16, flat=True)
    return tuple(
        ev.b.cast(_element(ev, flat, group_offsets, 16, i, extra_mask), F16) for i in range(16)
    )


def _element(
    ev: Lowering, flat: HostTensor, groups: Any, width: int, i: int, mask: Any
) -> ir.Value:
    """Element ``i`` of each group of ``width``."""
    at = ev.b.elementwise("add", ev.b.elementwise("mul", groups, width), i)
    value: ir.Value = ev.load(flat, [at], mask=mask)
    return value


def _need(ev: Lowering, value: Any, dtype: DType) -> None:
    """A parameter of assumed type that is unpacked holds packed numbers."""
    op = ev.b.producer.get(value) if isinstance(value, ir.Value) else None
    while isinstance(op, ir.Reshape):
        op = ev.b.producer.get(op.value)
    if isinstance(op, ir.Load) and (origin := ev.indexer.origins.get(op.tensor)) is not None:
        raise NeedFact(origin, dtype=dtype)


def _halves(ev: Lowering, packed: ir.Value, dtype: DType) -> tuple[ir.Value, ir.Value]:
    bits = _named(ev.b.cast(packed, I32), "bits")
    low = _named(ev.b.elementwise("and", bits, 15), "low")
    high = _named(ev.b.elementwise("shr", bits, 4), "high")
    return _decode(ev, low, dtype), _decode(ev, high, dtype)


def _decode(ev: Lowering, nibble: ir.Value, dtype: DType) -> ir.Value:
    """(2 + mantissa) * 2**exponent / 4, or mantissa / 2 where the exponent is 0."""
    b = ev.b
    mantissa = _named(b.elementwise("and", nibble, 1), "mantissa")
    exponent = _named(b.elementwise("and", b.elementwise("shr", nibble, 1), 3), "exponent")
    normal = b.elementwise("shl", b.elementwise("add", mantissa, 2), exponent)
    subnormal = b.elementwise("mul", mantissa, 2)
    zero = b.elementwise("eq", exponent, 0)
    quarters = _named(b.elementwise("where", zero, subnormal, normal), "quarters")
    signed = b.elementwise(
        "where", b.elementwise("ge", nibble, 8), b.elementwise("neg", quarters), quarters
    )
    return b.elementwise("mul", b.cast(signed, dtype), 0.25)


def _named(value: ir.Value, name: str) -> ir.Value:
    value.name = value.name or name
    return value
