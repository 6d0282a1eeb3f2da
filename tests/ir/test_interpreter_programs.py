"""The reference interpreter: memory, control flow and host programs."""

# ruff: noqa: E402

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.ir import samples
from tests.ir.builder import KernelBuilder
from transpile.ir import dtypes, ir
from transpile.ir.dtypes import (
    BF16,
    BOOL,
    F8E4M3,
    F16,
    F32,
    I32,
    I64,
    DType,
)
from transpile.ir.interpreter import InterpreterError, run_kernel, run_phase
from transpile.ir.ir import Guard, TileType, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.verifier import verify

Write = Callable[[KernelBuilder, Any], Value]


# -- memory ----------------------------------------------------------------------------------------


def scene(
    write: Callable[[KernelBuilder, ir.Tensor, Value], None], x: Any, block: int = 4, **modes: Any
) -> None:
    """Run ``write(b, x, tile)`` over tiles of x's first dimension; x changes in place."""
    b = KernelBuilder()
    by_torch = {getattr(torch, d.torch): d for d in dtypes.ALL}
    m = b.dim("M")
    dims = [m, *(b.dim(f"N{i}") for i in range(x.ndim - 1))]
    tensor = b.tensor("x", by_torch[x.dtype], *dims)
    with b.grid(tile=(b.block("B"), m)) as (tile,):
        write(b, tensor, tile)
    kernel = b.build()
    verify(kernel)
    sizes = {d.as_sym(): n for d, n in zip(dims, x.shape, strict=True)}
    run_phase(kernel, 0, {"x": x}, {}, sizes, {Sym("B", "block"): block}, **modes)


def test_ragged_tiles_touch_their_lanes_only() -> None:
    x = torch.zeros(10)[:7]
    scene(lambda b, t, tile: b.store(t, (tile,), b.const(1.0)), x)
    assert x.tolist() == [1.0] * 7
    assert x._base is not None
    assert x._base.tolist() == [1.0] * 7 + [0.0] * 3


def test_offsets_slices_and_scalars() -> None:
    x = torch.arange(24.0).reshape(6, 4)

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        with b.for_tile(tile.type.block, b.const(0), b.const(4)) as loop:  # type: ignore[union-attr]
            two = b.const(2)
            moved = b.load(t, ir.AtTile(loop.var, two), two)  # x[2:6, 2]
            part = b.load(t, b.const(0), ir.AtSlice(b.const(1), Size.of(2)))  # x[0, 1:3]
            total = b.reduce("sum", part, 0)
            b.store(t, (loop.var, b.const(0)), b.ew("add", moved, total))

    scene(write, x, block=8)
    assert x[:4, 0].tolist() == [10 + 3, 14 + 3, 18 + 3, 22 + 3]


def test_index_tiles_are_cartesian_or_broadcast() -> None:
    x = torch.arange(20.0).reshape(4, 5)

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        rows, columns = b.iota(2, 1), b.iota(3, 0, 2)
        grid = b.load(t, ir.AtTensor(rows, (0,)), ir.AtTensor(columns, (1,)))  # x[1:3, ::2]
        pairs = b.load(
            t, ir.AtTensor(b.reshape(rows, 2, 1), (0, 1)),
            ir.AtTensor(b.reshape(columns, 1, 3), (0, 1)),
        )  # fmt: skip
        turned = b.load(t, ir.AtTensor(rows, (1,)), ir.AtTensor(columns, (0,)))
        same = b.ew(
            "eq", b.ew("add", grid, pairs), b.ew("mul", b.permute(turned, 1, 0), b.const(2.0))
        )
        both = b.reduce("all", b.reduce("all", same, 1), 0)
        b.store(t, (b.const(0), b.const(0)), b.cast(both, F32))

    scene(write, x)
    assert x[0, 0] == 1.0


def test_masks_of_loads_and_stores() -> None:
    x = torch.tensor([5.0, -1.0, 7.0, -3.0, 2.0])

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        index = b.index(tile)
        low = b.ew("lt", index, b.const(2))
        value = b.load(t, tile, mask=low)
        b.store(t, (tile,), b.ew("add", value, b.const(100.0)), mask=b.ew("ge", index, b.const(1)))

    scene(write, x)
    assert x.tolist() == [5.0, 99.0, 100.0, 100.0, 100.0]


@pytest.mark.parametrize(
    ("kind_", "values", "expected", "old"),
    [
        ("add", [1, 2, 4, 8], [1 + 2 + 4 + 8, 0], [0, 1, 3, 7]),
        ("max", [3, 9, 4, 1], [9, 0], [0, 3, 9, 9]),
        ("xchg", [3, 9, 4, 1], [1, 0], [0, 3, 9, 4]),
    ],
)
def test_atomics_on_one_element(
    kind_: Any, values: list[int], expected: list[int], old: list[int]
) -> None:
    x = torch.tensor([*values, *expected, *old])
    x[4:] = 0

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        value = b.load(t, ir.AtTensor(b.iota(4), (0,)))
        at = ir.AtTensor(b.ew("mul", b.iota(4), b.const(0)), (0,))
        four = b.const(4)
        place = ir.AtTensor(b.ew("add", at.value, four), (0,))
        result = Value(value.type)
        b.emit(ir.Atomic(kind_, t, (place,), value, (), results=(result,)))
        b.store(t, (ir.AtTensor(b.iota(4, 6), (0,)),), result)

    scene(write, x, block=16)
    assert x[4:].tolist() == [*expected, *old]


def test_compare_and_swap() -> None:
    x = torch.tensor([1, 2, 3, 2])

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        two, nine = b.const(2, I64), b.const(9, I64)
        op = ir.Atomic("cas", t, (ir.AtTile(tile),), nine, (Guard(0, tile),), expected=two)
        b.emit(op)

    scene(write, x, block=8)
    assert x.tolist() == [1, 9, 3, 9]


def test_out_of_bounds_is_an_error() -> None:
    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        op = ir.Load(
            t, (ir.AtTile(tile, b.const(1)),), (Guard(0, tile),), span=ir.Span(7, 1),
            results=(Value(TileType(F32, (Size.of(tile.type.block),))),),
        )  # fmt: skip
        b.emit(op)

    with pytest.raises(
        InterpreterError, match=r"line 7: index 4 in dimension 0 of size 4 in `.*load"
    ):
        scene(write, torch.zeros(4))


def test_a_wrong_result_type_is_an_error() -> None:
    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        value = b.load(t, tile)
        b.emit(ir.Cast(value, results=(Value(TileType(F16, value.shape)),)))
        op = b._ops[-1][-1]
        assert isinstance(op, ir.Cast)
        op.bitcast = True

    with pytest.raises(Exception, match="bitcast from 32 to 16"):
        scene(write, torch.zeros(4))


def test_target_code_is_an_error() -> None:
    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        b.emit(ir.Inline(("triton",), "triton", "tl.foo()", ()))

    with pytest.raises(InterpreterError, match="target code for triton"):
        scene(write, torch.zeros(4))


# -- control flow ----------------------------------------------------------------------------------


def test_loops_and_branches() -> None:
    x = torch.zeros(4, dtype=torch.int64)

    def write(b: KernelBuilder, t: ir.Tensor, tile: Value) -> None:
        begin, end, step = b.const(1), b.const(8), b.const(3)
        with b.for_range(begin, end, step, b.const(0)) as loop:
            odd = b.ew("eq", b.ew("mod", loop.var, b.const(2)), b.const(1))
            with b.region() as then:
                then.yields = (b.ew("add", loop.carried[0], loop.var),)
            with b.region() as orelse:
                orelse.yields = (b.ew("sub", loop.carried[0], loop.var),)
            picked = Value(TileType(I32))
            b.emit(ir.If(odd, then, orelse, results=(picked,)))
            loop.yields = (picked,)
        start = loop.results[0]  # 1 - 4 + 7
        again, state = Value(TileType(I32)), Value(TileType(I32))
        with b.region(again) as cond:
            cond.yields = (b.ew("lt", again, b.const(100)),)
        with b.region(state) as body:
            body.yields = (b.ew("mul", state, b.const(3)),)
        doubled = Value(TileType(I32))
        b.emit(ir.While((start,), cond, body, results=(doubled,)))
        b.store(t, (b.const(0),), b.cast(doubled, I64))
        for place, attr in enumerate(("end", "id", "count"), start=1):
            with b.for_tile(tile.type.block, b.const(1), b.const(4)) as inner:  # type: ignore[union-attr]
                b.store(t, (b.const(place),), b.cast(b.attr(inner.var, attr), I64))

    scene(write, x, block=2)
    assert x.tolist() == [4 * 27, 4, 1, 2]


# -- host programs ---------------------------------------------------------------------------------


def _with_host(kernel: ir.Kernel, *host: Any, **changes: Any) -> ir.Kernel:
    return dataclasses.replace(kernel, host=host, **changes)


def softmax_with_host() -> ir.Kernel:
    kernel = samples.softmax()
    return _with_host(
        kernel,
        ir.HostCode(
            "m, n = x.size()\nout = torch.empty_like(x)\nassert block == __kt_block_BLOCK_M__"
        ),
        ir.Launch(0),
        ir.HostCode("return out, SCALE"),
        params=(
            ir.Param("x", "torch.Tensor", None, "tensor"),
            ir.Param("block", None, "4", "constexpr", 4),
        ),
        prelude="SCALE = 3",
    )


def test_run_kernel() -> None:
    x = torch.randn(5, 11)
    blocks = {Sym("BLOCK_M", "block"): 4}
    for pad in (False, True):
        out, scale = run_kernel(softmax_with_host(), {"x": x}, blocks, pad_size_axes=pad)
        torch.testing.assert_close(out, x.softmax(1))
        assert scale == 3


def test_host_branches() -> None:
    kernel = _with_host(
        samples.row_sum(),
        ir.HostCode("out = torch.zeros(x.size(0))\nif run:"),
        ir.Launch(0, indent=1),
        ir.HostCode("return out"),
        params=(ir.Param("x", None, None, "tensor"), ir.Param("run", None, None, "other")),
    )
    blocks = {Sym("BLOCK_M", "block"): 4}
    x = torch.ones(3, 5)
    assert run_kernel(kernel, {"x": x, "run": True}, blocks).tolist() == [5.0] * 3
    assert run_kernel(kernel, {"x": x, "run": False}, blocks).tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", [F32, BF16, F8E4M3, I32, BOOL], ids=str)
def test_unwritten_results_show(dtype: DType) -> None:
    kernel = dataclasses.replace(
        samples.add(),
        params=(),
        tensors=(),
        phases=(),
        host=(ir.HostCode(f"return torch.empty(3, dtype=torch.{dtype.torch})"),),
    )
    out = run_kernel(kernel, {}, {}, fill_empty=True)
    assert out.isnan().all() if dtype.is_float else (out != 0).all()


def test_mismatched_shapes_are_an_error() -> None:
    kernel = samples.add()
    blocks = {Sym("BLOCK_M", "block"): 4, Sym("BLOCK_N", "block"): 4}
    args = {"x": torch.zeros(3, 4), "y": torch.zeros(3, 4), "out": torch.zeros(3, 5)}
    with pytest.raises(InterpreterError, match=r"out has shape \(3, 5\), not \(M, N\)"):
        run_kernel(kernel, args, blocks)
    args["out"] = torch.zeros(4, 3).t()
    with pytest.raises(InterpreterError, match=r"out has strides \(1, 3\), not \(N, 1\)"):
        run_kernel(kernel, args, blocks)
    with pytest.raises(InterpreterError, match="no parameter z"):
        run_kernel(kernel, {"z": 1}, blocks)


def test_scalars_and_sizes_by_spelling() -> None:
    b = KernelBuilder()
    n = Sym("n", "scalar")
    x = b.tensor("x", F32, b.dim("M"))
    with b.grid(tile=(b.block("B"), Size.of(n))) as (tile,):
        b.store(x, (tile,), b.scalar("eps", F32))
    kernel = dataclasses.replace(b.build(), size_names=((Size.of(n), "min(k, 2)"),))
    kernel = dataclasses.replace(
        kernel, params=(*kernel.params, ir.Param("k", None, None, "scalar"))
    )
    data = torch.zeros(4)
    run_kernel(kernel, {"x": data, "eps": 0.5, "k": 3}, {Sym("B", "block"): 4})
    assert data.tolist() == [0.5, 0.5, 0.0, 0.0]


def test_empty_tensors_run_no_program() -> None:
    kernel = samples.softmax()
    x = torch.zeros(0, 5)
    run_kernel(kernel, {"x": x, "out": x.clone()}, {Sym("BLOCK_M", "block"): 4})
