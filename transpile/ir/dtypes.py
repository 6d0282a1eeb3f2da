"""Element types and torch's promotion lattice, without torch.

The lattice is the one of ``torch.promote_types`` and ``torch.result_type``
(https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc): categories
bool < integer < float; a Python scalar ("weak") only takes part with its category.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Category(IntEnum):
    """Promotion category; a higher one wins over a lower one whatever the widths."""

    BOOL = 0
    INT = 1
    FLOAT = 2


@dataclass(frozen=True, slots=True)
class DType:
    """An element type. ``name`` is the spelling in kt signatures, ``torch`` the one in torch."""

    name: str
    torch: str
    category: Category
    bits: int
    signed: bool = True

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"DType({self.name})"

    @property
    def is_float(self) -> bool:
        return self.category is Category.FLOAT

    @property
    def is_int(self) -> bool:
        return self.category is Category.INT

    @property
    def is_bool(self) -> bool:
        return self.category is Category.BOOL

    @property
    def is_half(self) -> bool:
        """True for the two 16-bit floats, whose transcendentals are computed in f32."""
        return self.is_float and self.bits == 16

    @property
    def is_fp8(self) -> bool:
        return self.is_float and self.bits == 8


@dataclass(frozen=True, slots=True)
class StandIn(DType):
    """An element type in the place of a narrower one, ``of``, in code that is written once for
    both. It is like the type that it names but equal to no other, so that conversions between the
    two, which change nothing, stay where the narrower one needs them."""

    of: DType | None = None

    __repr__ = DType.__repr__


BOOL = DType("bool", "bool", Category.BOOL, 1, signed=False)
I8 = DType("i8", "int8", Category.INT, 8)
U8 = DType("u8", "uint8", Category.INT, 8, signed=False)
I16 = DType("i16", "int16", Category.INT, 16)
U16 = DType("u16", "uint16", Category.INT, 16, signed=False)
I32 = DType("i32", "int32", Category.INT, 32)
U32 = DType("u32", "uint32", Category.INT, 32, signed=False)
I64 = DType("i64", "int64", Category.INT, 64)
U64 = DType("u64", "uint64", Category.INT, 64, signed=False)
F16 = DType("f16", "float16", Category.FLOAT, 16)
BF16 = DType("bf16", "bfloat16", Category.FLOAT, 16)
F32 = DType("f32", "float32", Category.FLOAT, 32)
F64 = DType("f64", "float64", Category.FLOAT, 64)
F8E4M3 = DType("f8e4m3", "float8_e4m3fn", Category.FLOAT, 8)
F8E5M2 = DType("f8e5m2", "float8_e5m2", Category.FLOAT, 8)
F4E2M1X2 = DType("f4e2m1x2", "float4_e2m1fn_x2", Category.FLOAT, 8)

ALL = (
    BOOL, I8, U8, I16, U16, I32, U32, I64, U64, F16, BF16, F32, F64, F8E4M3, F8E5M2, F4E2M1X2,
)  # fmt: skip
BY_NAME = {d.name: d for d in ALL}
BY_TORCH = {d.torch: d for d in ALL} | {
    "half": F16, "float": F32, "double": F64, "short": I16, "int": I32, "long": I64,
}  # fmt: skip


def promote(a: DType, b: DType) -> DType | None:
    """``torch.promote_types(a, b)``; None where torch refuses (fp8 with another dtype, u64...)."""
    if a == b:
        return a
    if a.is_fp8 or b.is_fp8 or F4E2M1X2 in (a, b):
        return None
    if Category.FLOAT in (a.category, b.category) and a.category != b.category:
        return max(a, b, key=lambda d: d.category)
    if a.is_float:
        if a.bits == b.bits:  # f16 with bf16
            return F32
        return max(a, b, key=lambda d: d.bits)
    if any(d.bits > 8 and not d.signed for d in (a, b)):
        return None  # torch has no promotion of u16, u32, u64 with bool and other integers
    if a.category != b.category:
        return max(a, b, key=lambda d: d.category)
    if a.signed == b.signed:
        return max(a, b, key=lambda d: d.bits)
    signed, unsigned = (a, b) if a.signed else (b, a)
    return signed if signed.bits > unsigned.bits else I16


def promote_weak(tensor: DType, scalar: Category) -> DType:
    """Result of a tensor dtype with a Python scalar: the scalar only lifts the category."""
    if scalar <= tensor.category:
        return tensor
    return I64 if scalar is Category.INT else F32
