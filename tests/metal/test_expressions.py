"""Expressions of the thread IR as Metal: one case, what it prints."""

from __future__ import annotations

import functools

import pytest

from tests.metal.kernels import TID, M, N, apply, body_of, number, printed, tensor
from transpile.emitters.msl.dtypes import number as literal
from transpile.emitters.msl.names import Scope, legal
from transpile.emitters.msl.wrap import WIDTH, wrap
from transpile.ir import ir as tile
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import (
    BF16,
    BOOL,
    F8E4M3,
    F16,
    F32,
    F64,
    I8,
    I32,
    I64,
    U8,
    U32,
    U64,
    DType,
)
from transpile.thread import ir

X = tensor("x", F32, N)
LANES = (1, 2, 4, 8, 16)


@functools.cache
def loaded(dtype: DType, name: str = "x") -> ir.Load:
    return ir.Load(tensor(name, dtype, N), TID)


def text_of(expr: ir.Expr) -> str:
    """The right-hand side of a variable of that value."""
    loads = [e for e in _leaves(expr) if isinstance(e, ir.Load)]
    tensors = list({e.tensor.name: e.tensor for e in loads}.values())
    (*_, line) = body_of([ir.Let(ir.Var("v", expr.dtype, (), expr.width), expr)], *tensors)
    return line.partition(" = ")[2].removesuffix(";")


def _leaves(expr: ir.Expr) -> list[ir.Expr]:
    inner: tuple[ir.Expr, ...] = ()
    match expr:
        case ir.Apply(args=args):
            inner = args
        case ir.Convert(value=value) | ir.LaneReduce(value=value) | ir.Shuffle(value=value):
            inner = (value,)
        case ir.Random(seed=seed, offset=offset):
            inner = (seed, offset)
    return [leaf for e in inner for leaf in _leaves(e)] or [expr]


A, H, B16, WHOLE = loaded(F32), loaded(F16), loaded(BF16), loaded(I32)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (apply("add", A, apply("mul", A, number(2.0))), "x[tid] + x[tid] * 2.0f"),
        (apply("mul", apply("add", A, A), A), "(x[tid] + x[tid]) * x[tid]"),
        (apply("sub", A, apply("sub", A, A)), "x[tid] - (x[tid] - x[tid])"),
        (apply("add", WHOLE, apply("add", WHOLE, ir.integer(1))), "x[tid] + x[tid] + 1"),
        (apply("add", A, apply("add", A, A)), "x[tid] + (x[tid] + x[tid])"),
        (apply("exp", A), "precise::exp(x[tid])"),
        (apply("exp", H), "half(precise::exp(float(x[tid])))"),
        (apply("add", H, H), "x[tid] + x[tid]"),
        (apply("add", B16, B16), "bfloat(float(x[tid]) + float(x[tid]))"),
        (apply("lt", B16, ir.Const(0.5, BF16)), "float(x[tid]) < 0.5f"),
        (apply("maximum", A, number(0.0)), "nan_max(x[tid], 0.0f)"),
        (apply("maximum", WHOLE, ir.integer(0)), "max(x[tid], 0)"),
        (apply("neg", number(1.0)), "-1.0f"),
        (apply("sub", A, ir.Const(-1.0, F32)), "x[tid] - -1.0f"),
        (apply("sigmoid", A), "1.0f / (1.0f + precise::exp(-x[tid]))"),
        (apply("where", apply("lt", TID, ir.integer(3)), A, A), "tid < 3 ? x[tid] : x[tid]"),
        (
            apply("lor", apply("land", loaded(BOOL), loaded(BOOL)), loaded(BOOL)),
            "(x[tid] && x[tid]) || x[tid]",
        ),
        (apply("and", WHOLE, apply("add", WHOLE, WHOLE)), "x[tid] & (x[tid] + x[tid])"),
        (apply("not", loaded(BOOL)), "!x[tid]"),
        (apply("not", WHOLE), "~x[tid]"),
        (apply("add", loaded(I8), loaded(I8)), "char(x[tid] + x[tid])"),
        (apply("floordiv", TID, ir.integer(4)), "tid / 4"),
        (apply("floordiv", WHOLE, ir.integer(4)), "floor_div(x[tid], 4)"),
        (apply("mod", loaded(U32), ir.Const(4, U32)), "x[tid] % 4u"),
        (apply("mod", A, number(4.0)), "floor_mod(x[tid], 4.0f)"),
        (ir.Convert(H, F32), "float(x[tid])"),
        (ir.Convert(B16, F16), "half(float(x[tid]))"),
        (ir.Convert(WHOLE, BF16), "bfloat(float(x[tid]))"),
        (ir.Convert(A, BOOL), "x[tid] != 0.0f"),
        (ir.Convert(A, I32, bitcast=True), "as_type<int>(x[tid])"),
        (ir.Convert(loaded(F8E4M3), F32), "e4m3_to_float(x[tid])"),
        (ir.Convert(loaded(F8E4M3), F16), "half(e4m3_to_float(x[tid]))"),
        (ir.Convert(H, F8E4M3), "float_to_e4m3(float(x[tid]))"),
        (ir.Convert(loaded(F8E4M3), U8, bitcast=True), "x[tid]"),
        (ir.Convert(ir.integer(3), F32), "3.0f"),
        (ir.LaneReduce("sum", A, LANES), "simd_sum(x[tid])"),
        (ir.LaneReduce("max", A, LANES), "simd_nan_max(x[tid])"),
        (ir.LaneReduce("max", WHOLE, LANES), "simd_max(x[tid])"),
        (ir.LaneReduce("max", A, (1, 8)), "simd_row_nan_max(x[tid])"),
        (ir.LaneReduce("sum", A, (2, 4, 16)), "simd_column_sum(x[tid])"),
        (ir.LaneReduce("sum", A, (1, 2)), "simd_xor_sum<3>(x[tid])"),
        (ir.LaneReduce("sum", B16, LANES), "bfloat(simd_sum(float(x[tid])))"),
        (ir.LaneReduce("any", loaded(BOOL), LANES), "simd_any(x[tid])"),
        (ir.Shuffle("xor", A, ir.integer(4)), "simd_shuffle_xor(x[tid], 4)"),
        (ir.Shuffle("up", loaded(I64), ir.integer(1)), "shuffle_up(x[tid], 1)"),
        (ir.Shuffle("index", loaded(BOOL), ir.integer(0)), "bool(simd_shuffle(ushort(x[tid]), 0))"),
        (ir.Random("uniform", WHOLE, WHOLE, F32), "kt_uniform(kt_philox(x[tid], x[tid]))"),
        (ir.Load(X, TID, guard=apply("lt", TID, ir.Extent(N))), "tid < params.n ? x[tid] : 0.0f"),
        (ir.Load(X, ir.mul(TID, 4), 4), "*(const device float4*)(x + tid * 4)"),
        (ir.Load(X, TID, 4, aligned=False), "load_any<4>(x + tid)"),
        (ir.Load(X, TID, 4, count=ir.integer(3)), "load_aligned<4>(x + tid, 3)"),
        (ir.Load(X, TID, 2, count=ir.integer(1), aligned=False), "load_first<2>(x + tid, 1)"),
        (ir.Load(X, TID, 2, count=ir.integer(1), other=1), "load_aligned<2>(x + tid, 1, 1.0f)"),
        (ir.Extent(N * 3 + M), "params.m + params.n * 3"),
        (apply("mul", ir.Extent(N + 1), ir.integer(2)), "(params.n + 1) * 2"),
    ],
)  # fmt: skip
def test_prints(expr: ir.Expr, expected: str) -> None:
    assert text_of(expr) == expected


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (0.1, F32, "0.1f"), (1, F32, "1.0f"), (1e-12, F32, "1e-12f"), (0.5, F16, "0.5h"),
        (1 / 3, F32, "0.33333333f"), (1.5, BF16, "bfloat(1.5f)"), (float("-inf"), F32, "-INFINITY"),
        (float("inf"), F16, "half(INFINITY)"), (float("nan"), F32, "NAN"), (-5, I32, "-5"),
        (-(2**31), I32, "INT_MIN"), (-1, U32, "4294967295u"), (7, I64, "7l"), (7, U64, "7ul"),
        (-(2**63), I64, "LONG_MIN"), (True, BOOL, "true"), (0, F8E4M3, "0"), (1e38, F32, "1e38f"),
    ],
)  # fmt: skip
def test_literals(value: float, dtype: DType, expected: str) -> None:
    assert literal(value, dtype) == expected


def test_f64_is_refused_with_its_place() -> None:
    span = tile.Span(7, 3)
    with pytest.raises(KtError) as caught:
        printed([ir.Let(ir.Var("v", F64), ir.Const(1.0, F64), span=span)])
    (found,) = caught.value.diagnostics
    assert found.code == "KT0610"
    assert found.span == span


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x", "x"), ("half", "half_"), ("kernel", "kernel_"), ("float4", "float4_"),
        ("exp", "exp_"), ("tid", "tid_"), ("params", "params_"), ("simd_sum", "simd_sum_"),
        ("kt_erf", "kt_erf_"), ("nan_max", "nan_max_"), ("größe", "gr_e"), ("2x", "v2x"),
        ("a__b", "a_b"), ("_", "v_"), ("device", "device_"), ("n2", "n2"), ("_Big", "Big"),
    ],
)  # fmt: skip
def test_names_are_nobody_elses(name: str, expected: str) -> None:
    assert legal(name) == expected


def test_scopes() -> None:
    outer = Scope(["x"])
    inner = outer.inner()
    assert [outer.declare("t"), outer.declare("t"), inner.declare("t"), inner.declare("x")] == [
        "t", "t_2", "t_3", "x_2",
    ]  # fmt: skip
    assert outer.inner().declare("max") == "max_"
    assert outer.inner().inner().declare("x") == "x_2"


def test_long_statements_are_broken_at_the_outermost_operators() -> None:
    text = (
        f"float value = condition ? first_function({', '.join(['argument'] * 9)}) : other * 2.0f;"
    )
    lines = wrap(text, 2)
    assert max(map(len, lines)) <= WIDTH
    assert "".join(line.strip() for line in lines).replace(" ", "") == text.replace(" ", "")
    assert lines[1].lstrip().startswith(("? ", "condition"))
