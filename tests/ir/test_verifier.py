"""Each rule of the IR: a kernel that breaks it, and what the verifier says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.ir import samples
from tests.ir.builder import KernelBuilder
from transpile.ir import ir
from transpile.ir.dtypes import F16, F32, I32, I64
from transpile.ir.ir import Guard, Kernel, TileType, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.verifier import VerifyError, verify

SAMPLES = [
    samples.add, samples.row_sum, samples.softmax, samples.matmul, samples.long_sum,
    samples.two_pass_softmax,
]  # fmt: skip


@pytest.mark.parametrize("make", SAMPLES)
def test_samples_are_valid(make: Callable[[], Kernel]) -> None:
    verify(make())


class Scene:
    """One tile of ``x`` (f32 [M, N]) and what tests want to combine it with."""

    def __init__(self) -> None:
        self.b = KernelBuilder()
        self.m, self.n = self.b.dim("M"), self.b.dim("N")
        self.bm = self.b.block("B")
        self.x = self.b.tensor("x", F32, self.m, self.n)
        self.tile: Value
        self.row: Value

    def result(self, op: ir.Op, *types: ir.Type) -> Value:
        op.results = tuple(Value(t) for t in types)
        return self.b.emit(op)

    def like(self, dtype: object = F32, *shape: Size | int) -> TileType:
        return TileType(dtype, tuple(Size.of(s) for s in shape))  # type: ignore[arg-type]


def violations(write: Callable[[Scene], object]) -> str:
    s = Scene()
    with s.b.grid(tile=(s.bm, s.m)) as (tile,):
        s.tile = tile
        s.row = s.b.load(s.x, tile, slice(None), name="row")
        write(s)
    with pytest.raises(VerifyError) as caught:
        verify(s.b.build())
    return "\n".join(caught.value.violations)


BREACHES: list[tuple[Callable[[Scene], object], str]] = [
    (lambda s: s.b.ew("neg", Value(s.row.type, "ghost")), "ghost is used before definition"),
    (
        lambda s: s.result(ir.Elementwise("nope", (s.row,)), s.row.type),
        "nope is not in the op table",
    ),
    (lambda s: s.result(ir.Elementwise("add", (s.row,)), s.row.type), "takes 2 operands, not 1"),
    (
        lambda s: s.result(ir.Elementwise("neg", (s.row,)), s.like(F16, s.m, s.n)),
        "does not fit [M, N]",
    ),
    (
        lambda s: s.result(ir.Elementwise("neg", (s.row,)), TileType(F16, s.row.shape)),
        "result is f16, not f32",
    ),
    (
        lambda s: s.result(ir.Elementwise("lt", (s.row, s.row)), s.row.type),
        "result is f32, not bool",
    ),
    (
        lambda s: s.b.ew("add", s.row, s.b.const(1)),
        "operands of f32, i32",
    ),
    (lambda s: s.b.ew("exp", s.b.cast(s.row, F16)), "exp of f16 must be in f32"),
    (lambda s: s.b.ew("where", s.row, s.row, s.row), "condition of dtype f32"),
    (
        lambda s: s.result(ir.Elementwise("neg", (s.b.const(1.0),)), s.row.type),
        "no operand has the result's axis 1 of size N",
    ),
    (
        lambda s: s.result(
            ir.Elementwise("add", (s.row, s.b.reduce("sum", s.row, 1))), s.row.type
        ),
        "operand of rank 1, not 2",
    ),
    (
        lambda s: s.result(ir.Cast(s.row), TileType(F16, s.row.shape[:1])),
        "a cast changes the shape",
    ),
    (
        lambda s: s.result(ir.Cast(s.row, bitcast=True), TileType(F16, s.row.shape)),
        "bitcast from 32 to 16 bits",
    ),
    (lambda s: s.b.reshape(s.row, s.n), "reshape of B * N elements to N"),
    (lambda s: s.b.broadcast(s.row, s.n, s.n), "does not fit [N, N]"),
    (
        lambda s: s.result(ir.Permute(s.row, (0, 0)), s.row.type),
        "order (0, 0)",
    ),
    (lambda s: s.result(ir.Join(s.row, s.row), s.row.type), "results are"),
    (lambda s: s.result(ir.Split(s.row), s.row.type, s.row.type), "split of a last axis"),
    (lambda s: s.b.mask(s.row, 0), "mask without guards"),
    (lambda s: s.b.mask(s.row, 0, (2, None)), "guard of axis 2"),
    (lambda s: s.b.mask(s.row, 0, (1, s.tile)), "guard of axis 1 of size N by a tile of B"),
    (
        lambda s: s.result(ir.Reduce("sum", s.row, 2), s.row.type),
        "axis 2 of a value of rank 2",
    ),
    (
        lambda s: s.result(ir.Reduce("max", s.row, 1), s.like(I64, Size.of(s.bm))),
        "max of f32 gives i64",
    ),
    (
        lambda s: s.result(ir.Reduce("argmax", s.row, 1), s.like(F32, Size.of(s.bm))),
        "argmax gives f32",
    ),
    (lambda s: s.b.dot(s.row, s.row), "dot over N and B"),
    (
        lambda s: s.b.dot(s.row, s.b.permute(s.b.cast(s.row, F16), 1, 0)),
        "dot of f32 and f16",
    ),
    (
        lambda s: s.result(ir.Scan((s.row,), 0), s.row.type),
        "a scan has a name or a combine",
    ),
    (
        lambda s: s.result(ir.Const(1.5), TileType(I32)),
        "float constant of dtype i32",
    ),
    (lambda s: s.result(ir.HostScalar("eps"), TileType(F32)), "scalar eps is not declared"),
    (lambda s: s.b.load(s.x, s.tile), "1 index entries for a tensor of rank 2"),
    (
        lambda s: s.result(
            ir.Load(s.x, (ir.AtTile(s.tile), ir.AtSlice(None, s.n)), ()), TileType(F32, (s.m,))
        ),
        "results are (f32[M]), not (f32[B, N])",
    ),
    (
        lambda s: s.b.store(s.x, (s.tile, slice(None)), s.b.cast(s.row, F16)),
        "store of f16 to a tensor of f32",
    ),
    (
        lambda s: s.b.load(s.x, s.tile, s.b.const(1.0)),
        "a scalar index has dtype f32",
    ),
    (
        lambda s: s.b.load(s.x, s.tile, slice(None), mask=s.row),
        "mask of dtype f32",
    ),
    (
        lambda s: s.result(
            ir.Load(
                s.x, (ir.AtTensor(s.b.index(s.tile), (1,)), ir.AtScalar(s.b.const(0))), ()
            ),
            s.row.type,
        ),
        "index tiles leave gaps",
    ),
    (
        lambda s: s.b.load(ir.Tensor("y", F32, (s.m,), (s.n,), "y"), s.tile),
        "tensor y is not declared",
    ),
    (
        lambda s: s.result(ir.If(s.b.ew("lt", s.row, s.row), ir.Block((), []), ir.Block((), []))),
        "the condition is no scalar",
    ),
    (
        lambda s: s.result(
            ir.If(s.b.const(True), ir.Block((), [], (s.row,)), ir.Block((), [])), s.row.type
        ),
        "yields are (), not (f32[B, N])",
    ),
    (lambda s: s.result(ir.SizeOf(s.n), TileType(F32)), "the result has dtype f32"),
    (
        lambda s: s.result(ir.TileIndex(s.tile), TileType(I32, (s.n,))),
        "result shape is not [B]",
    ),
    (lambda s: s.result(ir.TileAttr(s.row, "begin"), TileType(I32)), "begin of something"),
    (
        lambda s: s.b.emit(
            ir.Random("uniform", s.b.const(1), s.b.index(s.tile), results=(Value(s.row.type),))
        ),
        "shape of the offset and the result",
    ),
    (lambda s: s.b.emit(ir.Op(results=(Value(s.row.type),))), "unknown operation Op"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "message"), BREACHES, ids=[m for _, m in BREACHES])
def test_breaches(write: Callable[[Scene], object], message: str) -> None:
    assert message in violations(write)


def test_values_of_a_loop_do_not_leave_it() -> None:
    def write(s: Scene) -> None:
        with s.b.for_tile(s.bm, s.b.const(0), s.b.size(s.m)) as loop:
            inside = s.b.load(s.x, loop.var, slice(None), name="inside")
        s.b.ew("neg", inside)

    assert "inside is used before definition" in violations(write)


def test_carried_types() -> None:
    def write(s: Scene) -> None:
        with s.b.for_tile(s.bm, s.b.const(0), s.b.size(s.m), s.row) as loop:
            loop.yields = (s.b.cast(loop.carried[0], F16),)

    assert "yields are (f16[B, N]), not (f32[B, N])" in violations(write)


def test_all_violations_are_listed() -> None:
    def write(s: Scene) -> None:
        s.b.ew("add", s.row, s.b.const(1))
        s.b.mask(s.row, 0, (5, None))
        s.b.reshape(s.row, s.n)

    assert violations(write).count("\n") == 2


def test_line_numbers() -> None:
    def write(s: Scene) -> None:
        s.b.mask(s.row, 0, (5, None))
        s.b._ops[-1][-1].span = ir.Span(12, 3)

    assert violations(write).startswith("line 12: ")


def test_kernel_level() -> None:
    kernel = samples.add()
    broken = dataclasses.replace(
        kernel,
        tensors=(*kernel.tensors, kernel.tensors[0]),
        host=(ir.Launch(3),),
        blocks=(),
    )
    with pytest.raises(VerifyError, match="internal error: invalid IR for kernel add") as caught:
        verify(broken)
    text = "\n".join(caught.value.violations)
    assert "two tensors or scalars are called x" in text
    assert "launch of unknown phase 3" in text
    assert "phase 0 is never launched" in text
    assert "block size BLOCK_M is not declared" in text


def test_a_value_is_defined_once() -> None:
    kernel = samples.add()
    body = kernel.phases[0].body
    body.ops.append(body.ops[0])
    with pytest.raises(VerifyError, match="defined twice"):
        verify(kernel)


def test_guard_of_a_tile_out_of_scope() -> None:
    s = Scene()
    other = Value(ir.TileVar(Sym("B", "block")), "other")
    with s.b.grid(tile=(s.bm, s.m)) as (tile,):
        row = s.b.load(s.x, tile, slice(None))
        s.b.emit(ir.Mask(row, (Guard(0, other),), 0, results=(Value(row.type),)))
    with pytest.raises(VerifyError, match="other is used before definition"):
        verify(s.b.build())
