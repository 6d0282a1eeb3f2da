"""The rewrites in front of the emitter change no result: IR before and after, interpreted."""

from __future__ import annotations

import pytest
import torch

from tests.frontend.lower import kernels
from transpile.emitters.pallas.columns import keep_columns
from transpile.emitters.pallas.gathers import rewrite_gathers
from transpile.emitters.pallas.once import run_once
from transpile.emitters.pallas.predicates import sink_new_axes
from transpile.ir import ir
from transpile.ir.interpreter import run_kernel
from transpile.ir.walk import walk_kernel

ROWS = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        row = x[tile, :]
        mean = row.sum(1) / row.size(1)
        scale = torch.rsqrt((row * row).sum(1) + 1.0)
        out[tile, :] = (row - mean[:, None]) * scale[:, None]
    return out
"""

PICKED = """
@helion.kernel()
def f(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    n, v = x.size()
    flat = x.view(-1)
    out = torch.empty([n], dtype=x.dtype, device=x.device)
    for tile in hl.tile(n):
        out[tile] = flat[tile.index * v + labels[tile]]
    return out
"""

CAUSAL = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile(x.size()):
        keep = (tile_m.index > 2)[:, None] & (tile_n.index < 5)[None, :]
        out[tile_m, tile_n] = torch.where(keep, x[tile_m, tile_n], 0.0)
    return out
"""


PARTIALS = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    block_m = hl.register_block_size(m)
    out = x.new_zeros([n])
    for outer in hl.tile(m, block_size=block_m):
        total = hl.zeros([n], dtype=torch.float32)
        for inner in hl.tile(outer.begin, outer.end):
            total += x[inner, :].sum(0)
        hl.atomic_add(out, [slice(None)], total)
    return out
"""


def _once(kernel: ir.Kernel) -> ir.Kernel:
    return run_once(kernel, {b.sym: 4 for b in kernel.blocks})


def _run(kernel: ir.Kernel, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
    blocks = {b.sym: 4 for b in kernel.blocks}
    result = run_kernel(kernel, {k: v.clone() for k, v in arguments.items()}, blocks)
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize(
    ("snippet", "rewrite", "arguments"),
    [
        (ROWS, keep_columns, {"x": torch.arange(42.0).reshape(7, 6)}),
        (CAUSAL, sink_new_axes, {"x": torch.arange(63.0).reshape(7, 9)}),
        (PARTIALS, _once, {"x": torch.arange(42.0).reshape(7, 6)}),
    ],
    ids=["columns", "predicates", "loops that run once"],
)
def test_same_results(snippet: str, rewrite: object, arguments: dict[str, torch.Tensor]) -> None:
    assert callable(rewrite)
    before = kernels(snippet, args={"x": "f32[M,N]"})[0]
    want = _run(before, arguments)
    after = rewrite(kernels(snippet, args={"x": "f32[M,N]"})[0])
    assert after is not before
    torch.testing.assert_close(_run(after, arguments), want)


def test_row_statistics_keep_their_axis() -> None:
    kernel = keep_columns(kernels(ROWS, args={"x": "f32[M,N]"})[0])
    reduces = [op for op in walk_kernel(kernel) if isinstance(op, ir.Reduce)]
    assert reduces
    assert all(op.keepdim for op in reduces)


def test_a_loop_over_a_tile_in_one_block_is_the_tile() -> None:
    before = kernels(PARTIALS, args={"x": "f32[M,N]"})[0]
    outer, inner = (b.sym for b in before.blocks)
    apart = run_once(before, {outer: 8, inner: 4})
    assert any(isinstance(op, ir.ForTile) for op in walk_kernel(apart))
    whole = run_once(before, {outer: 4, inner: 4})
    assert not any(isinstance(op, ir.ForTile) for op in walk_kernel(whole))
    assert not any(isinstance(op, ir.Elementwise) for op in walk_kernel(whole))  # 0 + sum


def test_no_truth_value_is_reshaped() -> None:
    kernel = sink_new_axes(kernels(CAUSAL, args={"x": "f32[M,N]"})[0])
    reshapes = [op for op in walk_kernel(kernel) if isinstance(op, ir.Reshape)]
    assert not any(op.result.dtype.is_bool for op in reshapes)


def test_an_element_of_a_flat_view_is_a_column_of_the_matrix() -> None:
    args = {"x": "f32[N,V]", "labels": "i32[N]"}
    kernel = rewrite_gathers(kernels(PICKED, args=args)[0])
    loads = [op for op in walk_kernel(kernel) if isinstance(op, ir.Load)]
    assert not any(isinstance(e, ir.AtTensor) for op in loads for e in op.index)
    x = torch.arange(35.0).reshape(5, 7)
    labels = torch.tensor([3, 0, 6, 2, 5], dtype=torch.int32)
    got = _run(kernel, {"x": x, "labels": labels})
    torch.testing.assert_close(got, x[torch.arange(5), labels.long()])
