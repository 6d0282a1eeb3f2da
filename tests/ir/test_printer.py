"""The text of the IR."""

from __future__ import annotations

import dataclasses

from tests.ir import samples
from tests.ir.builder import KernelBuilder
from transpile.ir import ir
from transpile.ir.dtypes import F32, I32, I64
from transpile.ir.ir import Guard, TileType, Value
from transpile.ir.printer import format_kernel, format_op, format_type
from transpile.ir.sizes import Size, Sym

MATMUL = """\
kernel matmul() {
  param x: tensor
  param y: tensor
  param out: tensor
  tensor x: f16[M, K] strides (K, 1) = `x` of param x
  tensor y: f16[K, N] strides (N, 1) = `y` of param y
  tensor out: f16[M, N] strides (N, 1) = `out` of param out
  block BLOCK_M
  block BLOCK_N
  block BLOCK_K
  host {
    launch 0
  }
  phase 0 loop 1 grid (%tile_m: tile[BLOCK_M] in 0..M, %tile_n: tile[BLOCK_N] in 0..N) {
    %0: f32 = const 0.0
    %acc: f32[BLOCK_M, BLOCK_N] = full %0
    %1: i32 = const 0
    %2: i32 = size K
    %acc.2: f32[BLOCK_M, BLOCK_N] = for_tile %tile_k: tile[BLOCK_K] in %1..%2 loop 0 \
carry (%acc.1: f32[BLOCK_M, BLOCK_N] = %acc) {
      %3: f16[BLOCK_M, BLOCK_K] = load x[%tile_m, %tile_k] guard(0 < %tile_m, 1 < %tile_k)
      %4: f16[BLOCK_M, BLOCK_K] = mask %3 guard(0 < %tile_m, 1 < %tile_k) fill 0
      %5: f16[BLOCK_K, BLOCK_N] = load y[%tile_k, %tile_n] guard(0 < %tile_k, 1 < %tile_n)
      %6: f16[BLOCK_K, BLOCK_N] = mask %5 guard(0 < %tile_k, 1 < %tile_n) fill 0
      %7: f32[BLOCK_M, BLOCK_N] = dot %4, %6 acc %acc.1 in f32 precision ieee
      yield %7
    }
    %8: f16[BLOCK_M, BLOCK_N] = cast %acc.2
    store out[%tile_m, %tile_n], %8 guard(0 < %tile_m, 1 < %tile_n)
  }
}
"""


def test_kernel() -> None:
    kernel = samples.matmul()
    assert format_kernel(kernel) == MATMUL
    assert format_kernel(samples.matmul()) == MATMUL


def test_header() -> None:
    n = Sym("N", "dim")
    kernel = dataclasses.replace(
        samples.row_sum(),
        signature="x=f32[M,N]",
        params=(ir.Param("causal", "bool", None, "constexpr", True),),
        scalars=(ir.Scalar("eps", F32, "float(eps)"),),
        blocks=(
            ir.BlockSize(Sym("B", "block"), Size.of(64), 16, Size.of(n), (Size.of(n), Size.of(8))),
        ),
        size_names=((Size.of(n) // 2, "d // 2"),),
        multiple_of={n: 16},
        config={"num_warps": 4},
        index_dtype=I64,
        host=(ir.HostCode("if x.numel():\n    pass"), ir.Launch(0, 1), ir.HostCode("return out")),
        phases=(),
    )
    assert format_kernel(kernel).splitlines() == [
        "kernel row_sum(x=f32[M,N]) {",
        "  param causal: constexpr = True",
        "  tensor x: f32[M, N] strides (N, 1) = `x` of param x",
        "  tensor out: f32[M] strides (1) = `out` of param out",
        "  scalar eps: f32 = `float(eps)`",
        "  block B fixed 64 min 16 max N tiles (N, 8)",
        "  size N // 2 = `d // 2`",
        "  fact N % 16 == 0",
        "  index i64",
        "  config num_warps = 4",
        "  host {",
        "    | if x.numel():",
        "    |     pass",
        "        launch 0",
        "    | return out",
        "  }",
        "}",
    ]


def test_types() -> None:
    assert format_type(TileType(F32)) == "f32"
    assert format_type(TileType(F32, (Size.of(2), Size.of(Sym("K", "dim"))))) == "f32[2, K]"
    assert format_type(ir.TileVar(Sym("BLOCK", "block"))) == "tile[BLOCK]"


def test_regions_and_accesses() -> None:
    b = KernelBuilder()
    m, n, bm = b.dim("M"), b.dim("N"), b.block("B")
    x, idx = b.tensor("x", F32, m, n), b.tensor("idx", I64, m)
    with b.grid(tile=(bm, m), g=(None, 7)) as (tile, g):
        rows = b.load(idx, tile, name="rows")
        start = b.const(3)
        value = b.load(
            x, ir.AtTensor(rows, (0,)), ir.AtSlice(start, Size.of(4)),
            guards=[Guard(0, tile)],
        )  # fmt: skip
        value = b.load(x, ir.AtTile(tile, g), g, mask=b.ew("lt", rows, b.const(5, I64)))
        cond = b.ew("lt", g, start)
        with b.region() as then:
            then.yields = (value,)
        with b.region() as orelse:
            orelse.yields = (b.ew("neg", value),)
        picked = Value(value.type, "picked")
        b.emit(ir.If(cond, then, orelse, results=(picked,)))
        lhs, rhs = Value(TileType(F32), "a"), Value(TileType(F32), "b")
        with b.region(lhs, rhs) as combine:
            combine.yields = (b.ew("add", lhs, rhs),)
        scan = ir.Scan((picked,), 0, None, combine, True, results=(Value(value.type),))
        b.store(x, (tile, g), b.emit(scan))
        index = b.index(tile)
        b.emit(
            ir.Atomic(
                "add", x, (ir.AtTensor(index, (0,)), ir.AtScalar(g)), value, (Guard(0, tile),)
            )
        )
        inits = (b.const(0),)
        again, state = Value(TileType(I32), "i"), Value(TileType(I32), "i")
        with b.region(again) as test:
            test.yields = (b.ew("lt", again, start),)
        with b.region(state) as body:
            body.yields = (b.ew("add", state, start),)
        b.emit(ir.While(inits, test, body, results=(Value(TileType(I32), "i"),)))
    text = format_kernel(b.build())
    body_lines = [line[2:] for line in text[text.index("  phase") :].splitlines()[:-1]]
    assert body_lines == [
        "phase 0 loop 0 grid (%tile: tile[B] in 0..M, %g: index in 0..7) {",
        "  %rows: i64[B] = load idx[%tile] guard(0 < %tile)",
        "  %0: i32 = const 3",
        "  %1: f32[B, 4] = load x[%rows -> (0), %0:+4] guard(1 < extent, 0 < %tile)",
        "  %2: i64 = const 5",
        "  %3: bool[B] = lt %rows, %2",
        "  %4: f32[B] = load x[%tile + %g, @%g] guard(0 < %tile) mask %3",
        "  %5: bool = lt %g, %0",
        "  %picked: f32[B] = if %5 {",
        "    yield %4",
        "  } else {",
        "    %6: f32[B] = neg %4",
        "    yield %6",
        "  }",
        "  %8: f32[B] = scan with %picked dim 0 reverse (%a: f32, %b: f32) {",
        "    %7: f32 = add %a, %b",
        "    yield %7",
        "  }",
        "  store x[%tile, @%g], %8 guard(0 < %tile)",
        "  %9: i32[B] = index %tile",
        "  atomic_add x[%9 -> (0), @%g], %4 guard(0 < %tile) sem relaxed",
        "  %10: i32 = const 0",
        "  %i.2: i32 = while carry (%i: i32 = %10) {",
        "    %11: bool = lt %i, %0",
        "    yield %11",
        "  } do (%i.1: i32) {",
        "    %12: i32 = add %i.1, %0",
        "    yield %12",
        "  }",
        "}",
    ]


def test_one_operation() -> None:
    value = Value(TileType(F32, (Size.of(4),)), "v")
    op = ir.Mask(value, (Guard(0, None),), 0.0, results=(Value(value.type),))
    assert format_op(op) == "%0: f32[4] = mask %v guard(0 < extent) fill 0.0"
