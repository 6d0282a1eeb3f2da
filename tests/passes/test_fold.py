"""Exact folding, against torch."""

# ruff: noqa: E402

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from transpile.ir import dtypes
from transpile.ir.dtypes import BF16, BOOL, F8E4M3, F16, F32, F64, I8, I16, I32, U8, DType
from transpile.ir.ops import ELEMENTWISE, Number
from transpile.ir.reference.numerics import elementwise, same_as
from transpile.passes.fold import as_number, convert, fold, greatest, least, reduce_constant

_DTYPES = [BOOL, I8, U8, I16, I32, BF16, F16, F32, F64]


def tensor(value: Number, dtype: DType) -> Any:
    return torch.tensor(value, dtype=getattr(torch, dtype.torch))


def _numbers(dtype: DType) -> st.SearchStrategy[Number]:
    if dtype.is_bool:
        return st.booleans()
    if dtype.is_int:
        ends = st.sampled_from([int(least(dtype)), int(greatest(dtype))])
        return st.one_of(st.integers(int(least(dtype)), int(greatest(dtype))), ends)
    small = st.integers(-20, 20).map(lambda i: i / 4)
    return st.one_of(small, st.sampled_from([math.inf, -math.inf, 0.0, 1.0, 2.0**12, 65504.0]))


@given(st.data(), st.sampled_from(sorted(ELEMENTWISE)), st.sampled_from(_DTYPES))
def test_folds_what_torch_computes(data: st.DataObject, name: str, dtype: DType) -> None:
    op = ELEMENTWISE[name]
    numbers = [as_number(data.draw(_numbers(dtype)), dtype) for _ in range(op.arity)]
    args = [n for n in numbers if n is not None]
    if len(args) < op.arity:
        return
    dtypes_of = [dtype] * op.arity
    if name == "where":
        args[0], dtypes_of[0] = bool(args[0]), BOOL
    result = (
        BOOL if op.rule == "bool" else F32 if op.rule == "float" and not dtype.is_float else dtype
    )
    value = fold(name, args, dtype, result)
    if value is not None:
        operands = [tensor(a, d) for a, d in zip(args, dtypes_of, strict=True)]
        try:
            got = elementwise(name, operands)
        except (NotImplementedError, RuntimeError):
            # torch has no arithmetic on bool, and no bit operations on floats
            assert dtype.is_bool or name in ("and", "not", "or", "shl", "shr", "xor")
            return
        assert bool(same_as(got, value)), f"{name}{args} is {got}, not {value}"
        assert got.dtype == getattr(torch, result.torch)


@given(st.data(), st.sampled_from(_DTYPES), st.sampled_from(_DTYPES))
def test_conversions(data: st.DataObject, source: DType, target: DType) -> None:
    value = as_number(data.draw(_numbers(source)), source)
    converted = None if value is None else convert(value, target)
    if value is not None and converted is not None:
        got = tensor(value, source).to(getattr(torch, target.torch))
        assert bool(same_as(got, converted))


@pytest.mark.parametrize("dtype", [F16, BF16, F8E4M3, dtypes.F8E5M2], ids=str)
def test_representable_floats(dtype: DType) -> None:
    """Of the 8- and 16-bit patterns exactly the normal numbers, zero and infinities."""
    bits = {8: torch.int8, 16: torch.int16}[dtype.bits]
    kind = getattr(torch, dtype.torch)
    count = 2**dtype.bits
    values = torch.arange(-count // 2, count // 2).to(bits).view(kind).double()
    normal = (values == 0) | (values.abs() >= torch.finfo(kind).smallest_normal)
    step = 1 if dtype.bits == 8 else 13
    for value, wanted in zip(values[::step].tolist(), normal[::step].tolist(), strict=True):
        assert (as_number(value, dtype) == value) is (wanted and not math.isnan(value))
        between = value * (1 + 2.0**-12)
        if value != 0 and math.isfinite(value):
            assert as_number(between, dtype) is None


@pytest.mark.parametrize(
    ("name", "args", "operand", "result", "expected"),
    [
        ("exp", [0.0], F32, F32, 1.0),
        ("exp", [-math.inf], F32, F32, 0.0),
        ("exp", [1.0], F32, F32, None),
        ("log", [1.0], F32, F32, 0.0),
        ("log", [0.0], F32, F32, None),
        ("div", [1, 3], I32, F32, None),
        ("div", [1, 4], I32, F32, 0.25),
        ("add", [127, 1], I8, I8, None),
        ("sub", [math.inf, math.inf], F32, F32, None),
        ("pow", [2, 3], I32, I32, 8),
        ("pow", [2, -1], I32, I32, None),
        ("shl", [1, 32], I32, I32, None),
        ("not", [True], BOOL, BOOL, False),
        ("not", [0], I32, I32, -1),
        ("maximum", [math.nan, 1.0], F32, F32, None),
    ],
)
def test_table(
    name: str, args: list[Number], operand: DType, result: DType, expected: Number | None
) -> None:
    value = fold(name, args, operand, result)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sum", 0.0, 0.0), ("sum", 1.0, None), ("prod", 1.0, 1.0), ("prod", 2.0, None),
        ("max", -math.inf, -math.inf), ("min", 3.0, 3.0), ("xor_sum", 0.0, 0.0),
    ],
)  # fmt: skip
def test_reductions_of_one_number(name: str, value: float, expected: float | None) -> None:
    assert reduce_constant(name, value, F32) == expected
