"""Clean-up: it changes no bit of the results, and leaves what is expected."""

# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings

from tests.ir.builder import KernelBuilder
from tests.passes.programs import Program, programs
from transpile.ir import dtypes, ir
from transpile.ir.dtypes import ALL, BF16, F16, F32, F64, I8, I32, I64, U8, DType
from transpile.ir.ir import Kernel, Value
from transpile.ir.printer import format_kernel
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.simplify import simplify, widens


@settings(max_examples=100)
@given(programs())
def test_results_are_the_same_bits(program: Program) -> None:
    simple = simplify(program.kernel)
    verify(simple)
    before, after = program.run(), program.run(simple)
    assert torch.equal(before.nan_to_num(nan=7.0), after.nan_to_num(nan=7.0))
    assert simplify(simple) is simple


def body_after(write: Callable[[KernelBuilder, Value], Value], dtype: DType = F32) -> list[str]:
    """The operations left of ``out[tile] = write(x[tile])``, one line each."""
    b = KernelBuilder()
    m, bm = b.dim("M"), b.block("B")
    x = b.tensor("x", dtype, m)
    with b.grid(tile=(bm, m)) as (tile,):
        value = write(b, b.load(x, tile, name="v"))
        b.store(b.tensor("out", value.dtype, m), (tile,), value)
    kernel = simplify(b.build())
    verify(kernel)
    text = format_kernel(kernel)
    lines = [line.strip() for line in text[text.index("  phase") :].splitlines()[1:-2]]
    return [line for line in lines if "load" not in line and "store" not in line]


@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda b, v: b.cast(b.cast(v, F64), F32), []),
        (lambda b, v: b.cast(b.cast(v, F64), F16), ["%0: f16[B] = cast %v"]),
        (lambda b, v: b.cast(v, F32), []),
        (lambda b, v: b.reshape(b.reshape(v, 1, v.shape[0]), v.shape[0]), []),
        (lambda b, v: b.ew("mul", v, b.const(1.0)), []),
        (lambda b, v: b.ew("div", v, b.const(1.0)), []),
        (lambda b, v: b.ew("sub", v, b.const(0.0)), []),
        (
            lambda b, v: b.ew("add", v, b.const(0.0)),  # turns -0.0 into 0.0
            ["%0: f32 = const 0.0", "%1: f32[B] = add %v, %0"],
        ),
        (lambda b, v: b.ew("where", b.const(True), v, b.const(2.0)), []),
        (
            lambda b, v: b.ew("mul", v, b.ew("add", b.const(2.0), b.const(3.0))),
            ["%0: f32 = const 5.0", "%1: f32[B] = mul %v, %0"],
        ),
        (
            lambda b, v: b.ew("mul", v, b.full(3.0, F32, v.shape[0])),
            ["%0: f32 = const 3.0", "%1: f32[B] = mul %v, %0"],
        ),
        (
            lambda b, v: b.ew(
                "sub", b.full(0.0, F32, v.shape[0]), b.full(float("inf"), F32, v.shape[0])
            ),
            ["%0: f32 = const -inf", "%1: f32[B] = full %0"],
        ),
        (
            lambda b, v: b.permute(b.permute(b.reshape(v, 1, v.shape[0]), 1, 0), 1, 0),
            ["%0: f32[1, B] = reshape %v"],
        ),
    ],
)  # fmt: skip
def test_leaves(write: Callable[[KernelBuilder, Value], Value], left: list[str]) -> None:
    if "reshape" in "".join(left):  # rank 2: reduce it away for the store
        original = write
        write = lambda b, v: b.reduce("sum", original(b, v), 0)  # noqa: E731
        left = [*left, "%1: f32[B] = reduce sum %0 dim 0"]
    assert body_after(write) == left


def test_narrowing_casts_stay() -> None:
    assert len(body_after(lambda b, v: b.cast(b.cast(v, BF16), F32))) == 2
    assert len(body_after(lambda b, v: b.cast(b.cast(v, F16), F32), BF16)) == 2


def test_names_move_to_what_stays() -> None:
    assert body_after(lambda b, v: _named(b.cast(b.ew("exp", v), F32), "y")) == [
        "%y: f32[B] = exp %v"
    ]


def _named(value: Value, name: str) -> Value:
    value.name = name
    return value


# -- dead code ---------------------------------------------------------------------------------


def loop_kernel(uses: bool) -> Kernel:
    """A loop with two carried sums, of which the second is stored only if ``uses``."""
    b = KernelBuilder()
    m, n, bm, bn = b.dim("M"), b.dim("N"), b.block("BM"), b.block("BN")
    x, out = b.tensor("x", F32, m, n), b.tensor("out", F32, m)
    with b.grid(tile_m=(bm, m)) as (tm,):
        first, second = b.full(0.0, F32, bm), b.full(0.0, F32, bm)
        kept = b.full(2.0, F32, bm)
        with b.for_tile(bn, b.const(0), b.size(n), first, second, kept) as loop:
            value = b.load(x, tm, loop.var)
            row = b.reduce("sum", b.mask(value, 0, (1, loop.var)), 1)
            more = b.ew("add", loop.carried[1], b.ew("mul", row, row))
            loop.yields = (b.ew("add", loop.carried[0], row), more, loop.carried[2])
        total = b.ew("mul", loop.results[0], loop.results[2])
        b.store(out, (tm,), b.ew("add", total, loop.results[1]) if uses else total)
    return b.build()


@pytest.mark.parametrize(("uses", "carried"), [(True, 2), (False, 1)])
def test_carried_values(uses: bool, carried: int) -> None:
    kernel = simplify(loop_kernel(uses))
    verify(kernel)
    (loop,) = [op for op in walk_kernel(kernel) if isinstance(op, ir.ForTile)]
    assert len(loop.results) == len(loop.inits) == len(loop.body.yields) == carried


def test_a_loop_without_use_goes() -> None:
    b = KernelBuilder()
    m, bm = b.dim("M"), b.block("B")
    x, out = b.tensor("x", F32, m), b.tensor("out", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        with b.for_tile(b.block("BN"), b.const(0), b.size(m), b.full(0.0, F32, bm)) as loop:
            loop.yields = (b.ew("add", loop.carried[0], b.load(x, tile)),)
        b.store(out, (tile,), b.load(x, tile))
    kernel = simplify(b.build())
    assert [type(op).__name__ for op in walk_kernel(kernel)] == ["Load", "Store"]


def test_a_constant_branch_is_taken() -> None:
    b = KernelBuilder()
    m, bm = b.dim("M"), b.block("B")
    x, out = b.tensor("x", F32, m), b.tensor("out", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        value = b.load(x, tile)
        with b.region() as then:
            then.yields = (b.ew("exp", value),)
        with b.region() as orelse:
            orelse.yields = (b.ew("neg", value),)
        result = Value(value.type, "y")
        b.emit(ir.If(b.const(False), then, orelse, results=(result,)))
        b.store(out, (tile,), result)
    kernel = simplify(b.build())
    verify(kernel)
    names = [op.name for op in walk_kernel(kernel) if isinstance(op, ir.Elementwise)]
    assert names == ["neg"]


# -- exact widening, against torch -------------------------------------------------------------


def _samples(dtype: DType) -> torch.Tensor:
    kind = getattr(torch, dtype.torch)
    if dtype.is_bool:
        return torch.tensor([False, True])
    if dtype.is_int:
        info = torch.iinfo(kind)
        numbers = [info.min, info.min + 1, 0, 1, info.max - 1, info.max, info.max // 3]
        return torch.tensor(numbers, dtype=kind)
    bits = torch.randint(-(2**15), 2**15, (4096,), generator=torch.Generator().manual_seed(0))
    if dtype.bits == 8:
        value = bits.to(torch.int8).view(kind)
    elif dtype.bits == 16:
        value = bits.to(torch.int16).view(kind)
    else:
        value = torch.cat([torch.randn(64), torch.tensor([1 / 3, 2.0**-126])]).to(kind) / 3
    return value[value.float().isfinite()]


_SIGNED = [d for d in ALL if d.name not in ("u16", "u32", "u64", "f4e2m1x2")]


@pytest.mark.parametrize("source", _SIGNED, ids=str)
@pytest.mark.parametrize("target", _SIGNED, ids=str)
def test_widening_is_exact(source: DType, target: DType) -> None:
    if target.is_bool or not widens(source, target):
        return
    value = _samples(source)
    there = value.to(getattr(torch, target.torch))
    back = there.to(value.dtype)
    assert torch.equal(back.double(), value.double())
    assert torch.equal(there.double(), value.double())


@pytest.mark.parametrize(
    ("source", "target"),
    [(F16, F32), (BF16, F32), (F32, F64), (I8, F16), (U8, BF16), (I8, I32), (U8, I32), (I32, I64)],
)  # fmt: skip
def test_widens(source: DType, target: DType) -> None:
    assert widens(source, target)
    assert not widens(target, source)


@pytest.mark.parametrize(("source", "target"), [(F16, BF16), (I32, F32), (I8, U8), (U8, I8)])
def test_does_not_widen(source: DType, target: DType) -> None:
    assert not widens(source, target)
    assert dtypes.ALL
