"""What the Pallas emitter writes: one snippet, and the lines its kernel must have."""

from __future__ import annotations

import pytest

from tests.pallas.generate import build, function
from transpile.ir.diagnostics import KtError

ELEMENTWISE = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(out.size()):
        out[tile] = {}
    return out
"""

SOFTMAX = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = torch.softmax(x[tile, :], dim=1)
    return out
"""

MATMUL = """
@helion.kernel()
def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    _, n = y.size()
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc.to(out.dtype)
    return out
"""


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ("x[tile] * 2 + 1", "out_ref[...] = x_ref[...] * 2.0 + 1.0"),
        ("torch.expm1(x[tile])", "out_ref[...] = _expm1(x_ref[...])"),
        ("torch.erfc(x[tile])", "out_ref[...] = _erfc(x_ref[...])"),
        ("torch.rsqrt(x[tile])", "out_ref[...] = lax.rsqrt(x_ref[...])"),
    ],
)
def test_elementwise(expression: str, line: str) -> None:
    text = build(ELEMENTWISE.format(expression), args={"x": "f32[M,N]"})
    assert line in function(text, "_f_kernel")
    helper = line.partition("= ")[2].partition("(")[0]
    if helper.startswith("_"):
        assert f"def {helper}(x):" in text


def test_blocks_are_clamped_to_their_dimension() -> None:
    call = function(build(ELEMENTWISE.format("x[tile] + 1"), args={"x": "f32[M,N]"}), "_f_call")
    assert "block_0 = min(256, m)" in call
    assert "grid=(pl.cdiv(m, block_0), pl.cdiv(n, block_1))" in call
    assert 'dimension_semantics=("parallel", "parallel")' in call


def test_sizes_of_another_target_are_widened() -> None:
    """(1, 32) is no block of vector memory: (8, 128) is the least."""
    snippet = ELEMENTWISE.format("x[tile] + 1")
    call = function(build(snippet, args={"x": "f32[M,N]"}, block_sizes=[1, 32]), "_f_call")
    assert "block_0 = min(8, m)" in call
    assert "block_1 = min(128, n)" in call


def test_whole_rows_need_no_mask() -> None:
    text = build(SOFTMAX, args={"x": "f32[M,N]"})
    kernel = function(text, "_f_kernel")
    assert "jnp.where" not in kernel
    assert "_mask" not in kernel
    assert kernel.count("axis=1, keepdims=True") == 2
    assert "pl.BlockSpec((block, n), lambda i: (i, 0))" in text


def test_a_product_is_accumulated_along_the_innermost_grid_axis() -> None:
    text = build(MATMUL, args={"x": "bf16[M,K]", "y": "bf16[K,N]"})
    kernel = function(text, "_f_kernel")
    assert "@pl.when(pid_k == 0)" in kernel
    assert "acc_ref[...] += jnp.dot(" in kernel
    assert "_mask_tail(x_ref[...], 1, pid_k * block_k, k, 0.0)" in kernel
    assert "_mask_tail(y_ref[...], 0, pid_k * block_k, k, 0.0)" in kernel
    assert "@pl.when(pid_k == pl.num_programs(2) - 1)" in kernel
    assert '("parallel", "parallel", "arbitrary")' in text


def test_a_dividing_static_depth_needs_no_mask() -> None:
    text = build(MATMUL, args={"x": "bf16[256,512]", "y": "bf16[512,128]"}, block_sizes=[128] * 3)
    assert "_mask" not in text


def test_float16_products_are_not_rounded_to_bfloat16() -> None:
    text = build(MATMUL, args={"x": "f16[M,K]", "y": "f16[K,N]"})
    assert "precision=lax.Precision.HIGHEST" in function(text, "_f_kernel")
    call = function(text, "_f_call")
    assert "x, y = kt.widened(x, y)" in call
    assert call.endswith(")(x, y).astype(dtype)")


def test_atomics_accumulate_along_a_sequential_axis() -> None:
    snippet = """
    @helion.kernel()
    def f(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        for tile_m, tile_n in hl.tile([x.size(0), x.size(1)]):
            hl.atomic_add(out, [tile_n], x[tile_m, tile_n].sum(0))
        return out
    """
    text = build(snippet, args={"x": "f32[M,N]", "out": "f32[N]"})
    kernel, call = function(text, "_f_kernel"), function(text, "_f_call")
    assert "out_ref[...] = out_in_ref[...]" in kernel
    assert "out_ref[...] += " in kernel
    assert 'dimension_semantics=("parallel", "arbitrary")' in call
    assert "grid=(pl.cdiv(n, block_n), pl.cdiv(m, block_m))" in call
    assert "input_output_aliases={1: 0}" in call


def test_rows_picked_by_an_index_are_found_by_the_index_map() -> None:
    snippet = """
    @helion.kernel()
    def f(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        out = torch.empty([ids.size(0), table.size(1)], dtype=table.dtype, device=table.device)
        for tile, tile_d in hl.tile([ids.size(0), table.size(1)]):
            out[tile, tile_d] = table[ids[tile], tile_d]
        return out
    """
    args = {"ids": "i64[T]", "table": "bf16[V,D]"}
    call = function(build(snippet, args=args, block_sizes=[1, 1024]), "_f_call")
    assert "num_scalar_prefetch=1" in call
    assert "lambda i, j, ids_ref: (ids_ref[i], 0, j)" in call


def test_data_dependent_loops_start_aligned_and_mask_both_ends() -> None:
    snippet = """
    @helion.kernel()
    def f(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        n = offsets.size(0) - 1
        out = torch.empty([n, x.size(1)], dtype=x.dtype, device=x.device)
        for tile_b, tile_d in hl.tile([n, x.size(1)], block_size=[1, None]):
            start = offsets[tile_b.begin]
            end = offsets[tile_b.begin + 1]
            acc = hl.zeros([tile_d], dtype=torch.float32)
            for tile_l in hl.tile(start, end):
                acc = acc + x[tile_l, tile_d].sum(0)
            out[tile_b.begin, tile_d] = acc
        return out
    """
    kernel = function(build(snippet, args={"x": "f32[L,D]", "offsets": "i32[9]"}), "_f_kernel")
    assert "pl.multiple_of(" in kernel
    assert "_mask_outside(" in kernel
    assert "aligned_l = (start // 256) * 256" in kernel
    assert "blocks_l = pl.cdiv(end - aligned_l, 256)" in kernel
    assert "lax.fori_loop(0, blocks_l, body, acc)" in kernel


def test_double_precision_is_refused() -> None:
    with pytest.raises(KtError) as caught:
        build(ELEMENTWISE.format("x[tile] + 1"), args={"x": "f64[M,N]"})
    assert {d.code for d in caught.value.diagnostics} == {"KT0602"}


def test_short_loops_over_numbers_are_written_out() -> None:
    snippet = """
    @helion.kernel()
    def f(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty([x.size(1)], dtype=x.dtype, device=x.device)
        for tile in hl.tile(x.size(1)):
            acc = hl.zeros([tile], dtype=torch.float32)
            for i in hl.grid(4):
                acc = acc + x[i, tile]
            out[tile] = acc
        return out
    """
    assert "for i in range(4):" in function(build(snippet, args={"x": "f32[4,N]"}), "_f_kernel")


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_masks_of_one_row_select_words(dtype: str) -> None:
    """Mosaic has no such mask for packed elements; both signatures read the same."""
    snippet = """
    @helion.kernel()
    def f(x: torch.Tensor, count: int) -> torch.Tensor:
        out = torch.empty_like(x)
        for tile_m, tile_n in hl.tile(x.size()):
            first = (tile_n.index < count)[None, :]
            rows = (tile_m.index < count)[:, None]
            kept = torch.where(first, x[tile_m, tile_n], 0.0)
            out[tile_m, tile_n] = torch.where(rows, kept, 1.0)
        return out
    """
    kernel = function(build(snippet, args={"x": f"{dtype}[M,N]", "count": "i32"}), "_f_kernel")
    assert kernel.count("_select(") == 1
    assert kernel.count("jnp.where(") == 1


NEAREST = """
@helion.kernel()
def f(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    n, d = x.size()
    d = hl.specialize(d)
    v = codes.size(0)
    out = torch.empty([n], dtype=torch.float32, device=x.device)
    for tile_n in hl.tile(n):
        row = x[tile_n, :]
        best = hl.full([tile_n], float("-inf"), dtype=torch.float32)
        total = hl.zeros([tile_n], dtype=torch.float32)
        for tile_v in hl.tile(v):
            scores = hl.dot(row, codes[tile_v, :].T)
            higher = torch.maximum(best, torch.amax(scores, dim=1))
            fade = torch.exp(best - higher)
            total = total * fade + torch.sum(torch.exp(scores - higher[:, None]), dim=1)
            best = higher
        out[tile_n] = best + torch.log(total)
    return out
"""


def test_row_statistics_of_earlier_steps_fill_their_registers() -> None:
    text = build(NEAREST, args={"x": "bf16[N,128]", "codes": "bf16[V,128]"})
    kernel = function(text, "_f_kernel")
    assert "pltpu.VMEM((block_n, 128), jnp.float32)" in text
    assert "best = _resumed(best_ref, 1, -jnp.inf)" in kernel
    assert "jnp.exp(scores - _across(higher, block_v))" in kernel  # no lane is copied
    assert "jnp.log(total))[:, 0]" in kernel


def test_a_step_walks_several_blocks_that_wait_for_row_statistics() -> None:
    text = build(NEAREST, args={"x": "bf16[N,128]", "codes": "bf16[V,128]"})
    kernel = function(text, "_f_kernel")
    assert "for turn in range(turns_v):" in kernel
    assert "codes_ref[pl.ds(turn * block_v, block_v)]" in kernel
    assert "_mask_tail(scores, 1, (pid_v * turns_v + turn) * block_v, v, -jnp.inf)" in kernel
    call = function(text, "_f_call")
    assert "turns_v = kt.turns(v, block_v)" in call
    assert "pl.BlockSpec((block_v * turns_v, 128), lambda i, j: (j, 0))" in call
    assert "pl.cdiv(v, block_v * turns_v)" in call


def test_blocks_of_long_rows_have_fewer() -> None:
    text = build(SOFTMAX, args={"x": "f32[M,N]"})
    assert "block = min(256, m, kt.block_rows(n, 32))" in text.replace("block_0", "block")
    assert "block_rows" not in build(SOFTMAX, args={"x": "f32[M,N]"}, block_sizes=[64])
    assert "block_rows" not in build(SOFTMAX, args={"x": "f32[M,1024]"})
