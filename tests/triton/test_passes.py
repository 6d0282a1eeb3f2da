"""The rewrites before printing keep the results, bit for bit or up to the order of summation."""

# ruff: noqa: E402

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.lower import kernels
from tests.ir import samples
from tests.passes.programs import Program, agree, programs
from tests.triton.test_kernels import MATMUL, MATMUL_ARGS
from transpile.ir import ir
from transpile.ir.interpreter import run_kernel
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.fills import lift_fills
from transpile.passes.flatten import flatten_loops
from transpile.passes.masks import remove_masks
from transpile.passes.peel import peel_products
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import resolve
from transpile.passes.squeeze import squeeze


def masks(kernel: ir.Kernel) -> int:
    return sum(isinstance(op, ir.Mask) for op in walk_kernel(kernel))


@settings(max_examples=200, deadline=None)
@given(programs())
def test_prepared_programs_agree(program: Program) -> None:
    blocks = [program.blocks[b.sym] for b in program.kernel.blocks]
    program.kernel.config = {"block_sizes": blocks}
    before = masks(program.kernel)
    prepared = prepare(program.kernel, resolve(program.kernel))
    verify(prepared)
    assert masks(program.kernel) == before, "a pass changed its input"
    assert agree(program.run(), program.run(prepared, pad_size_axes=True))


@settings(max_examples=200, deadline=None)
@given(programs())
def test_squeezed_programs_agree(program: Program) -> None:
    squeezed = squeeze(program.kernel, program.blocks)
    verify(squeezed)
    units = {s for s, n in program.blocks.items() if n == 1}
    for op in walk_kernel(squeezed):
        for result in op.results:
            assert not any(size.as_sym() in units for size in result.shape)
    assert agree(program.run(), program.run(squeezed))


def test_a_product_of_one_row_becomes_a_sum() -> None:
    kernel = kernels(MATMUL, args={"x": "f32[M,K]", "y": "f32[K,N]"})[0]
    blocks = {b.sym: n for b, n in zip(kernel.blocks, (1, 4, 2), strict=True)}
    squeezed = squeeze(kernel, blocks)
    verify(squeezed)
    assert not any(isinstance(op, ir.Dot) for op in walk_kernel(squeezed))
    x, y = torch.randn(3, 7), torch.randn(7, 5)
    assert torch.allclose(run_kernel(squeezed, {"x": x, "y": y}, blocks), x @ y, atol=1e-5)


@pytest.mark.parametrize("blocks", [(1, 4), (4, 1), (1, 1)])
def test_index_tiles_with_axes_of_one_lane(blocks: tuple[int, int]) -> None:
    source = """
    @helion.kernel
    def f(x: torch.Tensor, w: torch.Tensor, group: int) -> torch.Tensor:
        m, n = x.size()
        groups = n // 4
        out = torch.empty_like(x)
        for tile_m in hl.tile(m):
            rows = (tile_m.begin + hl.arange(tile_m.block_size))[:, None, None]
            for tile_g, tile_n in hl.tile([groups, 4], block_size=[None, 4]):
                within = tile_g.index[:, None] * 4 + tile_n.index[None, :]
                columns = within[None, :, :]
                inside = (tile_g.index < groups)[None, :, None] & (rows < m)
                scale = hl.load(w, [columns], extra_mask=(tile_g.index < groups)[None, :, None])
                tile = hl.load(x, [rows, columns], extra_mask=inside)
                hl.store(out, [rows, columns], tile * scale, extra_mask=inside)
        return out
    """
    kernel = kernels(source, args={"x": "f32[M,N]", "w": "f32[N]", "group": "i32"})[0]
    tunable = [b.sym for b in kernel.blocks if b.fixed is None]
    sizes = dict(zip(tunable, blocks, strict=True))
    sizes |= {b.sym: 4 for b in kernel.blocks if b.fixed is not None}
    squeezed = squeeze(kernel, sizes)
    verify(squeezed)
    x, w = torch.randn(5, 12), torch.randn(12)
    got = run_kernel(squeezed, {"x": x, "w": w, "group": 4}, sizes)
    assert torch.equal(got, x * w)


@pytest.mark.parametrize("k", [1, 3, 4, 8, 9])
def test_peeled_products(k: int) -> None:
    kernel = kernels(MATMUL, args={"x": "f32[M,K]", "y": "f32[K,N]"})[0]
    blocks = {b.sym: 4 for b in kernel.blocks}
    peeled = peel_products(kernel, blocks)
    verify(peeled)
    assert sum(isinstance(op, ir.ForTile) for op in walk_kernel(peeled)) == 2
    x, y = torch.randn(5, k), torch.randn(k, 6)
    assert torch.allclose(run_kernel(peeled, {"x": x, "y": y}, blocks), x @ y, atol=1e-5)


def test_no_peeling_of_static_multiples() -> None:
    kernel = kernels(MATMUL, args={"x": "f16[M,64]", "y": "f16[64,N]"})[0]
    blocks = {b.sym: 16 for b in kernel.blocks}
    peeled = peel_products(kernel, blocks)
    assert sum(isinstance(op, ir.ForTile) for op in walk_kernel(peeled)) == 1


def test_softmax_is_masked_once() -> None:
    kernel = samples.softmax()
    assert masks(remove_masks(kernel, {}, pads_size_axes=True)) == 2
    lifted = remove_masks(lift_fills(kernel), {}, pads_size_axes=True)
    assert masks(lifted) == 1
    x = torch.randn(5, 7)
    x[2, 3] = float("inf")
    x[3] = float("-inf")
    out = torch.full((5, 7), float("nan"))
    blocks = {b.sym: 2 for b in kernel.blocks}
    exact, got = x.softmax(1), {"x": x, "out": out}
    run_kernel(lifted, got, blocks, pad_size_axes=True)
    assert torch.allclose(out, exact, equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1, 4), (2, 2), (4, 1)]))
def test_flattened_grid(m: int, n: int, sizes: tuple[int, int]) -> None:
    source = """
    @helion.kernel()
    def add(x, y):
        m, n = x.size()
        out = torch.empty_like(x)
        for tile_m, tile_n in hl.tile([m, n]):
            out[tile_m, tile_n] = x[tile_m, tile_n] * 2.0 + y[tile_n]
        return out
    """
    kernel = kernels(source, args={"x": "f32[M,N]", "y": "f32[N]"})[0]
    flat = flatten_loops(kernel, [True])
    verify(flat)
    assert len(flat.phases[0].axes) == 1
    blocks = dict(zip((b.sym for b in kernel.blocks), sizes, strict=True))
    blocks[flat.blocks[-1].sym] = sizes[0] * sizes[1]
    x, y = torch.randn(m, n), torch.randn(n)
    assert torch.equal(run_kernel(flat, {"x": x, "y": y}, blocks), x * 2.0 + y)


def test_matmul_keeps_its_grid() -> None:
    kernel = kernels(MATMUL, args=MATMUL_ARGS)[0]
    assert flatten_loops(kernel, [True]) is kernel
