"""Hand-made kernels used across the tests: row sum, softmax, matmul, two-pass loops."""

from __future__ import annotations

from tests.ir.builder import KernelBuilder
from transpile.ir.dtypes import F16, F32, DType
from transpile.ir.ir import Kernel
from transpile.ir.sizes import Size

NEG_INF = float("-inf")


def add() -> Kernel:
    """out[m, n] = x[m, n] + y[m, n] over a 2-D grid."""
    b = KernelBuilder("add")
    m, n = b.dim("M"), b.dim("N")
    bm, bn = b.block("BLOCK_M"), b.block("BLOCK_N")
    x, y, out = (b.tensor(t, F32, m, n) for t in ("x", "y", "out"))
    with b.grid(tile_m=(bm, m), tile_n=(bn, n)) as (tm, tn):
        total = b.ew("add", b.load(x, tm, tn, name="a"), b.load(y, tm, tn, name="b"))
        b.store(out, (tm, tn), total)
    return b.build()


def row_sum(dtype: DType = F32, n: int | None = None) -> Kernel:
    """out[m] = sum of x[m, :], over a full slice."""
    b = KernelBuilder("row_sum")
    rows, cols = b.dim("M"), b.dim("N") if n is None else Size.of(n)
    bm = b.block("BLOCK_M")
    x, out = b.tensor("x", dtype, rows, cols), b.tensor("out", dtype, rows)
    with b.grid(tile_m=(bm, rows)) as (tm,):
        row = b.load(x, tm, slice(None), name="row")
        b.store(out, (tm,), b.reduce("sum", b.mask(row, 0, (1, None)), 1))
    return b.build()


def softmax(dtype: DType = F32) -> Kernel:
    """out[m, :] = softmax(x[m, :]), decomposed, in f32."""
    b = KernelBuilder("softmax")
    m, n = b.dim("M"), b.dim("N")
    bm = b.block("BLOCK_M")
    x, out = b.tensor("x", dtype, m, n), b.tensor("out", dtype, m, n)
    with b.grid(tile_m=(bm, m)) as (tm,):
        values = b.load(x, tm, slice(None), name="values")
        if dtype != F32:
            values = b.cast(values, F32)
        amax = b.reduce("max", b.mask(values, NEG_INF, (1, None)), 1, keepdim=True, as_name="amax")
        exp = b.ew("exp", b.ew("sub", values, amax), as_name="exp")
        sum_exp = b.reduce("sum", b.mask(exp, 0, (1, None)), 1, keepdim=True, as_name="sum_exp")
        result = b.ew("div", exp, sum_exp)
        b.store(out, (tm, slice(None)), b.cast(result, dtype) if dtype != F32 else result)
    return b.build()


def matmul(dtype: DType = F16) -> Kernel:
    """out = x @ y with an inner loop over K and an f32 accumulator."""
    b = KernelBuilder("matmul")
    m, k, n = b.dim("M"), b.dim("K"), b.dim("N")
    bm, bn, bk = b.block("BLOCK_M"), b.block("BLOCK_N"), b.block("BLOCK_K")
    x, y, out = b.tensor("x", dtype, m, k), b.tensor("y", dtype, k, n), b.tensor("out", dtype, m, n)
    with b.grid(tile_m=(bm, m), tile_n=(bn, n)) as (tm, tn):
        acc = b.full(0.0, F32, bm, bn)
        acc.name = "acc"
        with b.for_tile(bk, b.const(0), b.size(k), acc, name="tile_k") as loop:
            lhs = b.mask(b.load(x, tm, loop.var), 0, (0, tm), (1, loop.var))
            rhs = b.mask(b.load(y, loop.var, tn), 0, (0, loop.var), (1, tn))
            loop.yields = (b.dot(lhs, rhs, loop.carried[0]),)
        result = loop.results[0]
        b.store(out, (tm, tn), result if dtype == F32 else b.cast(result, dtype))
    return b.build()


def long_sum() -> Kernel:
    """Row sum by a loop with an elementwise [BLOCK_M, BLOCK_N] accumulator."""
    b = KernelBuilder("long_sum")
    m, n = b.dim("M"), b.dim("N")
    bm, bn = b.block("BLOCK_M"), b.block("BLOCK_N")
    x, out = b.tensor("x", F32, m, n), b.tensor("out", F32, m)
    with b.grid(tile_m=(bm, m)) as (tm,):
        acc = b.full(0.0, F32, bm, bn)
        with b.for_tile(bn, b.const(0), b.size(n), acc, name="tile_n") as loop:
            loop.yields = (b.ew("add", loop.carried[0], b.load(x, tm, loop.var)),)
        b.store(out, (tm,), b.reduce("sum", loop.results[0], 1))
    return b.build()


def two_pass_softmax() -> Kernel:
    """Online softmax: one loop for maximum and sum, one for the result."""
    b = KernelBuilder("softmax_two_pass")
    m, n = b.dim("M"), b.dim("N")
    bm, bn = b.block("BLOCK_M"), b.block("BLOCK_N")
    x, out = b.tensor("x", F32, m, n), b.tensor("out", F32, m, n)
    with b.grid(tile_m=(bm, m)) as (tm,):
        mi, di = b.full(NEG_INF, F32, bm), b.full(0.0, F32, bm)
        zero, end = b.const(0), b.size(n)
        with b.for_tile(bn, zero, end, mi, di, name="tile_n") as loop:
            values = b.load(x, tm, loop.var, name="values")
            local = b.reduce("max", b.mask(values, NEG_INF, (1, loop.var)), 1)
            new = b.ew("maximum", loop.carried[0], local)
            shifted = b.ew("sub", values, b.reshape(new, bm, 1))
            terms = b.mask(b.ew("exp", shifted), 0, (1, loop.var))
            scale = b.ew("exp", b.ew("sub", loop.carried[0], new))
            total = b.ew("mul", loop.carried[1], scale)
            loop.yields = (new, b.ew("add", total, b.reduce("sum", terms, 1)))
        mi, di = loop.results
        with b.for_tile(bn, zero, end, name="tile_n") as second:
            values = b.load(x, tm, second.var, name="values")
            shifted = b.ew("exp", b.ew("sub", values, b.reshape(mi, bm, 1)))
            b.store(out, (tm, second.var), b.ew("div", shifted, b.reshape(di, bm, 1)))
    return b.build()
