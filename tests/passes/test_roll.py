"""Rolled reductions: the same results from loops over chunks."""

# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ir import samples
from tests.ir.builder import KernelBuilder
from tests.passes.programs import Program, agree, programs
from tests.thread.programs import from_source
from transpile.ir import ir
from transpile.ir.dtypes import BF16, BOOL, F16, F32, I8, I32, DType
from transpile.ir.interpreter import run_kernel, run_phase
from transpile.ir.ir import Kernel, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.analysis import analyse
from transpile.passes.masks import remove_masks
from transpile.passes.roll import reduction_sizes, roll_reductions
from transpile.passes.simplify import simplify


@settings(max_examples=100)
@given(programs(columns="slice"), st.sampled_from([1, 2, 4]))
def test_rolled_programs_agree(program: Program, chunk: int) -> None:
    rolled = roll_reductions(program.kernel, [chunk], program.blocks)
    verify(rolled.kernel)
    if rolled.refusals:
        assert rolled.kernel is program.kernel
        return
    exact = program.run()
    assert agree(exact, program.run(rolled.kernel))
    bare = simplify(remove_masks(rolled.kernel, program.blocks, pads_size_axes=True))
    verify(bare)
    claims = analyse(bare, program.blocks, pads_size_axes=True)
    assert agree(exact, program.run(bare, poison=claims, pad_size_axes=True))


def loops(kernel: Kernel) -> int:
    return sum(isinstance(op, ir.ForTile) for op in walk_kernel(kernel))


@pytest.mark.parametrize(
    ("make", "count"),
    [(samples.row_sum, 1), (samples.softmax, 3), (lambda: samples.softmax(F16), 3)],
)
def test_number_of_loops(make: Callable[[], Kernel], count: int) -> None:
    rolled = roll_reductions(make(), [64], {})
    assert not rolled.refusals
    assert loops(rolled.kernel) == count
    assert rolled.kernel.blocks[-1].fixed == Size.of(64)


def test_no_chunk_and_a_chunk_that_is_enough_leave_the_kernel() -> None:
    kernel = samples.softmax()
    assert roll_reductions(kernel, [None], {}).kernel is kernel
    static = samples.row_sum(n=64)
    assert roll_reductions(static, [64], {}).kernel is static
    assert loops(roll_reductions(static, [32], {}).kernel) == 1


def test_reduction_sizes() -> None:
    assert reduction_sizes(samples.softmax()) == (Size.of(Sym("N", "dim")),)
    assert reduction_sizes(samples.matmul()) == ()


# -- what is accumulated how ---------------------------------------------------------------------


def one_reduction(name: str, dtype: DType, masked: bool) -> Kernel:
    b = KernelBuilder()
    m, n, bm = b.dim("M"), b.dim("N"), b.block("B")
    x = b.tensor("x", dtype, m, n)
    with b.grid(tile=(bm, m)) as (tile,):
        value = b.load(x, tile, slice(None), name="v")
        if masked:
            fill = {"sum": 0, "any": False, "all": True}[name]
            value = b.mask(value, fill, (1, None))
        total = b.reduce(name, value, 1)
        b.store(b.tensor("out", total.dtype, m), (tile,), total)
    return b.build()


def run(kernel: Kernel, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    sizes = {Sym("M", "dim"): x.shape[0], Sym("N", "dim"): x.shape[1]}
    run_phase(kernel, 0, {"x": x, "out": out}, {}, sizes, {Sym("B", "block"): 4})
    return out


_CASES: list[tuple[str, DType, str, Callable[[torch.Tensor], Any]]] = [
    ("sum", F32, "f32", lambda x: x.sum(1)),
    ("sum", F16, "f32", lambda x: x.float().sum(1).half()),
    ("sum", BF16, "f32", lambda x: x.float().sum(1).bfloat16()),
    ("sum", I8, "i64", lambda x: x.sum(1)),
    ("prod", F32, "f32", lambda x: x.prod(1)),
    ("max", F16, "f16", lambda x: x.amax(1)),
    ("min", I32, "i32", lambda x: x.amin(1)),
    ("any", BOOL, "bool", lambda x: x.any(1)),
    ("all", BOOL, "bool", lambda x: x.all(1)),
]


@pytest.mark.parametrize(("name", "dtype", "acc", "reference"), _CASES)
@pytest.mark.parametrize("chunk", [2, 16])
def test_accumulators(
    name: str, dtype: DType, acc: str, reference: Callable[[torch.Tensor], Any], chunk: int
) -> None:
    kernel = roll_reductions(one_reduction(name, dtype, masked=False), [chunk], {}).kernel
    verify(kernel)
    (loop,) = [op for op in walk_kernel(kernel) if isinstance(op, ir.ForTile)]
    assert str(loop.results[0].dtype) == acc
    x = torch.randint(-2, 3, (7, 13)).to(getattr(torch, dtype.torch))
    expected = reference(x)
    out = run(kernel, x, torch.zeros_like(expected))
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("dtype", [F32, F16, I32], ids=str)
@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_places_of_extremes(name: str, dtype: DType, chunk: int) -> None:
    kernel = roll_reductions(one_reduction(name, dtype, masked=False), [chunk], {}).kernel
    verify(kernel)
    x = torch.randint(-2, 3, (40, 13)).to(getattr(torch, dtype.torch))
    if dtype.is_float:
        x[0] = float("-inf")
        x[1] = float("inf")
        x[2, [5, 9]] = float("nan")
        x[3, 12] = float("nan")
    expected = getattr(torch, name)(x, 1)
    assert torch.equal(run(kernel, x, torch.zeros_like(expected)), expected)


def test_a_mask_is_not_repeated() -> None:
    kernel = roll_reductions(one_reduction("sum", F32, masked=True), [4], {}).kernel
    assert sum(isinstance(op, ir.Mask) for op in walk_kernel(kernel)) == 1


def test_an_iota_becomes_the_tile_index() -> None:
    b = KernelBuilder()
    m, n, bm = b.dim("M"), b.dim("N"), b.block("B")
    x, out = b.tensor("x", F32, m, n), b.tensor("out", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        weights = b.reshape(b.cast(b.iota(n, start=3, step=2), F32), 1, n)
        value = b.ew("mul", b.load(x, tile, slice(None)), weights)
        b.store(out, (tile,), b.reduce("sum", b.mask(value, 0, (1, None)), 1))
    kernel = roll_reductions(b.build(), [4], {}).kernel
    verify(kernel)
    data = torch.randn(5, 11)
    expected = (data * (3 + 2 * torch.arange(11))).sum(1)
    torch.testing.assert_close(run(kernel, data, torch.zeros(5)), expected)


def test_in_place_results_are_stored_in_the_last_loop() -> None:
    b = KernelBuilder()
    m, n, bm = b.dim("M"), b.dim("N"), b.block("B")
    x = b.tensor("x", F32, m, n)
    out = b.tensor("out", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        row = b.load(x, tile, slice(None))
        b.store(x, (tile, slice(None)), b.ew("neg", row))
        top = b.reduce("max", b.mask(row, samples.NEG_INF, (1, None)), 1, keepdim=True)
        rest = b.mask(b.ew("sub", row, top), 0, (1, None))
        b.store(out, (tile,), b.reduce("sum", rest, 1))
    kernel = roll_reductions(b.build(), [4], {}).kernel
    verify(kernel)
    data = torch.randn(5, 11)
    x_after, expected = -data, (data - data.amax(1, keepdim=True)).sum(1)
    torch.testing.assert_close(run(kernel, data, torch.zeros(5)), expected)
    torch.testing.assert_close(data, x_after)


# -- what cannot be rolled -----------------------------------------------------------------------


SCANS = {
    "sum": "hl.cumsum(x[tile, :], dim=1)",
    "product": "hl.cumprod(x[tile, :], dim=1)",
    "shifted": "hl.cumsum(x[tile, :], dim=1) - torch.amax(x[tile, :], dim=1)[:, None]",
    "composed": "hl.associative_scan(compose, (x[tile, :], x[tile, :]), dim=1)[1]",
}
SCANNED = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = {body}
    return out


def compose(a, b, c, d):
    return a * c, c * b + d
"""


@pytest.mark.parametrize("name", list(SCANS))
@pytest.mark.parametrize(("length", "chunk"), [(21, 8), (16, 4), (1, 8)])
def test_scans_carry_what_came_before(name: str, length: int, chunk: int) -> None:
    kernel = from_source(SCANNED.format(body=SCANS[name]), {"x": "f32[M,N]"})
    rolled = roll_reductions(kernel, [chunk], {})
    assert not rolled.refusals
    verify(rolled.kernel)
    assert any(isinstance(op, ir.ForTile) for op in walk_kernel(rolled.kernel))
    x = torch.rand(3, length) - 0.7
    got, want = (
        run_kernel(k, {"x": x.clone()}, {b.sym: 2 for b in kernel.blocks} | chunks, fill_empty=True)
        for k, chunks in (
            (rolled.kernel, {b.sym: chunk for b in rolled.kernel.blocks if b.fixed is not None}),
            (kernel, {}),
        )
    )
    torch.testing.assert_close(got, want)


def refused(write: Callable[[KernelBuilder, ir.Tensor, Value, Size], Value | None]) -> str:
    b = KernelBuilder()
    m, n, bm = b.dim("M"), b.dim("N"), b.block("B")
    x, out = b.tensor("x", F32, m, n), b.tensor("out", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        value = write(b, x, tile, n)
        if value is None:
            value = b.load(x, tile, slice(None))
        b.store(out, (tile,), b.reduce("sum", b.mask(value, 0, (1, None)), 1))
    kernel = b.build()
    verify(kernel)
    rolled = roll_reductions(kernel, [16], {})
    assert rolled.kernel is kernel
    (refusal,) = rolled.refusals
    assert refusal.size == n
    return refusal.reason


def _dot(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> Value:
    w = b.load(b.tensor("w", F32, n, n), slice(None), slice(None))
    return b.dot(b.load(x, tile, slice(None)), w)


def _dot_square(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> Value:
    row = b.load(x, tile, slice(None))
    square = b.dot(row, b.permute(row, 1, 0))
    return b.ew("add", row, b.reduce("sum", square, 1, keepdim=True))


def _scan(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> Value:
    row = b.load(x, tile, slice(None))
    return b.emit(ir.Scan((row,), 1, "sum", reverse=True, results=(Value(row.type),)))


def _carried(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> Value:
    row = b.load(x, tile, slice(None))
    with b.for_range(b.const(0), b.const(3), b.const(1), row) as loop:
        loop.yields = (b.ew("exp", loop.carried[0]),)
    return loop.results[0]


def _inner(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> None:
    row = b.load(x, tile, slice(None))
    with b.for_range(b.const(0), b.const(3), b.const(1)):
        total = b.reduce("sum", row, 1)
        b.store(b.tensor("more", F32, x.shape[0]), (tile,), total)


def _merge(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> Value:
    row = b.load(x, tile, slice(None))
    flat = b.reshape(row, Size.of(tile.type.block) * n)  # type: ignore[union-attr]
    return b.reshape(flat, *row.shape)


def _rewritten(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> None:
    b.store(x, (tile, slice(None)), b.ew("neg", b.load(x, tile, slice(None))))


def _barrier(b: KernelBuilder, x: ir.Tensor, tile: Value, n: Size) -> None:
    b.emit(ir.Barrier())


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_dot, "two axes"),
        (_dot_square, "a dot needs all"),
        (_scan, "a scan from the end"),
        (_carried, "used in an inner loop"),
        (_inner, "used in an inner loop"),
        (_merge, "splits or merges"),
        (_rewritten, "x is written and accessed again"),
        (_barrier, "waits for its own stores"),
    ],
)
def test_refusals(write: Any, reason: str) -> None:
    assert reason in refused(write)
