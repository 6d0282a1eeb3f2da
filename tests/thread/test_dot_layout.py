"""Fragment layouts against the lane map of 8x8 matrices, staging layouts, and how a phase's values
get them."""

from __future__ import annotations

from itertools import product

import pytest

from tests.thread.matrices import UNIT, planned
from transpile.ir.dtypes import BF16, F8E4M3, F16, F32, I8, I32
from transpile.ir.sizes import Size, Sym
from transpile.thread.dot_layout import (
    SimdGrid,
    accumulator,
    choose_grid,
    register_operand,
    staging,
)
from transpile.thread.layout import Axis, Layout, lanes_of

ROWS, COLS = Axis(Size.of(Sym("M", "dim")), 0, -2), Axis(Size.of(Sym("N", "dim")), 0, -1)


def held(layout: Layout, thread: int) -> list[tuple[int, ...]]:
    """Positions of the elements that a thread holds."""
    registers = layout.registers
    found = []
    for counters in product(*(range(d.count) for d in registers)):
        at = dict(zip(registers, counters, strict=True))
        found.append(
            tuple(
                sum(
                    d.weight * ((thread // d.stride) % d.count if d.of_thread else at[d])
                    for d in digits
                )
                for digits in layout.axes
            )
        )
    return found


def test_one_matrix_has_the_lane_map_of_apple_gpus():
    layout = Layout(accumulator((ROWS, COLS), (8, 8), SimdGrid(1, 1), UNIT, 32))
    for lane in range(32):
        quad = lane // 4
        row = (quad & 4) + (lane // 2) % 4
        col = (quad & 2) * 2 + (lane % 2) * 2
        assert held(layout, lane) == [(row, col), (row, col + 1)]


def test_rows_reduce_over_lanes_1_and_8_and_columns_over_the_others():
    rows, cols = accumulator((ROWS, COLS), (8, 8), SimdGrid(1, 1), UNIT, 32)
    assert lanes_of(cols, 32) == (1, 8)
    assert lanes_of(rows, 32) == (2, 4, 16)


@pytest.mark.parametrize(
    ("m", "n", "grid"), [(64, 64, (2, 2)), (32, 64, (4, 1)), (8, 8, (1, 1)), (24, 40, (1, 1))]
)
def test_each_element_of_a_result_has_one_owner(m, n, grid):
    simd_grid = SimdGrid(*grid)
    layout = Layout(accumulator((ROWS, COLS), (m, n), simd_grid, UNIT, 32))
    threads = 32 * simd_grid.groups
    elements = [e for t in range(threads) for e in held(layout, t)]
    assert sorted(elements) == sorted(product(range(m), range(n)))
    assert layout.replicas(threads) == ()


def test_small_results_have_room_for_whole_matrices():
    layout = Layout(accumulator((ROWS, COLS), (4, 12), SimdGrid(1, 1), UNIT, 32))
    assert layout.extents == (8, 16)


@pytest.mark.parametrize(
    ("m", "n", "groups", "whole", "expected"),
    [
        (64, 64, 4, False, (2, 2)),
        (128, 256, 8, False, (2, 4)),
        (16, 256, 4, False, (1, 4)),
        (32, 64, 4, True, (4, 1)),
        (16, 64, 4, True, (2, 1)),
        (8, 8, 8, False, (1, 1)),
        (40, 8, 4, False, (1, 1)),
    ],
)
def test_simd_groups_divide_results_into_whole_matrices(m, n, groups, whole, expected):
    assert choose_grid(m, n, groups, UNIT, whole_rows=whole) == SimdGrid(*expected)


def test_results_are_left_operands_as_they_are():
    grid = SimdGrid(4, 1)
    scores = accumulator((ROWS, COLS), (32, 64), grid, UNIT, 32)
    assert register_operand(scores[0], COLS, 64, UNIT) == scores


@pytest.mark.parametrize(
    ("extents", "along", "threads", "vector", "busy"),
    [
        ((64, 16), 1, 128, 8, 128),
        ((16, 64), 1, 128, 8, 128),
        ((32, 64), 0, 128, 8, 128),
        ((8, 8), 1, 128, 8, 64),
        ((96, 24), 1, 128, 4, 64),
        ((3, 16, 32), 2, 64, 4, 64),
        ((24, 80), 1, 256, 8, 256),
        ((16, 72), 1, 128, 8, 128),
    ],
)
def test_copies_cover_a_tile_once_in_vectors_along_memory(extents, along, threads, vector, busy):
    axes = [Axis(Size.of(n), i, i) for i, n in enumerate(extents)]
    layout = staging(axes, extents, along, threads, vector)
    owners = [t for t in range(threads) if not _is_copy(layout, t, threads)]
    found = (e for t in owners for e in held(layout, t))
    elements = [e for e in found if all(at < n for at, n in zip(e, extents, strict=True))]
    assert sorted(elements) == sorted(product(*map(range, extents)))
    vectors = [d for d in layout.registers if d.vector]
    assert all(d.axis == axes[along] and d.weight == 1 for d in vectors)
    assert len(owners) == busy


def _is_copy(layout, thread, threads):
    return any((thread // s) % c for s, c in layout.replicas(threads))


def test_neighbouring_threads_copy_neighbouring_vectors():
    axes = [Axis(Size.of(64), 0, 0), Axis(Size.of(16), 1, 1)]
    layout = staging(axes, (64, 16), 1, 128, 8)
    assert [held(layout, t)[0] for t in range(4)] == [(0, 0), (0, 8), (1, 0), (1, 8)]


def test_operands_that_the_matrices_do_not_take():
    assert UNIT.operand(F16, F32) == F16
    assert UNIT.operand(BF16, F32) == BF16
    assert UNIT.operand(F8E4M3, F32) == F16
    assert UNIT.operand(I8, I32) is None


# -- phases ----------------------------------------------------------------------------------------

MATMUL = """
def matmul(x, y, bias):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
        out[tile_m, tile_n] = torch.relu(acc + bias[tile_n][None, :]).to(x.dtype)
    return out
"""

ATTENTION = """
def attention(q, k, v):
    m, d = q.size()
    n = k.size(0)
    d = hl.specialize(d)
    out = torch.empty_like(q)
    for tile_m in hl.tile(m):
        q_tile = q[tile_m, :]
        row_max = hl.full([tile_m], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([tile_m], dtype=torch.float32)
        acc = hl.zeros([tile_m, d], dtype=torch.float32)
        for tile_n in hl.tile(n):
            scores = hl.dot(q_tile, k[tile_n, :].T)
            new_max = torch.maximum(row_max, torch.amax(scores, dim=-1))
            probs = torch.exp(scores - new_max[:, None])
            alpha = torch.exp(row_max - new_max)
            row_sum = row_sum * alpha + torch.sum(probs, dim=-1)
            acc = hl.dot(probs.to(v.dtype), v[tile_n, :], acc=acc * alpha[:, None])
            row_max = new_max
        out[tile_m, :] = (acc / row_sum[:, None]).to(out.dtype)
    return out
"""


def test_a_product_its_accumulator_and_epilogue_share_one_layout():
    plan, values = planned(MATMUL, "x=f16[M,64] y=f16[64,N] bias=f32[N]", [64, 64, 16])
    assert plan.threads == 128
    (product_,) = plan.products.values()
    assert product_.grid == SimdGrid(2, 2)
    assert product_.lhs.staged and product_.rhs.staged
    layout = plan.layouts[product_.op.result]
    accumulators = [v for v in values if v.name == "acc"]
    assert len(accumulators) == 3
    assert {plan.layouts[v] for v in accumulators} == {layout}
    (bias,) = [v for v in values if len(v.shape) == 1]
    assert plan.layouts[bias].axes == (layout.axes[1],)


@pytest.mark.parametrize(
    ("dtype", "blocks", "grid"),
    [
        ("f16", [64, 64, 16], SimdGrid(2, 1)),  # 32 matrices each
        ("f16", [128, 128, 16], SimdGrid(4, 2)),
        ("f16", [32, 32, 16], SimdGrid(2, 2)),  # small
        ("f32", [64, 64, 16], SimdGrid(2, 2)),  # operands take registers too
    ],
)
def test_few_simd_groups_with_large_parts_where_the_source_asks_for_none(dtype, blocks, grid):
    signature = f"x={dtype}[M,64] y={dtype}[64,N] bias=f32[N]"
    plan, _ = planned(MATMUL, signature, blocks, groups=None)
    (product_,) = plan.products.values()
    assert product_.grid == grid
    assert plan.threads == 32 * grid.groups


def test_column_major_operands_are_staged_as_they_lie_in_memory():
    plan, _ = planned(MATMUL, "x=f16[M,64]{0,1} y=f16[64,N]{0,1} bias=f32[N]", [64, 64, 16])
    (product_,) = plan.products.values()
    assert (product_.lhs.transposed, product_.rhs.transposed) == (True, True)


def test_attention_keeps_queries_and_probabilities_in_registers():
    plan, values = planned(ATTENTION, "q=f16[M,64] k=f16[N,64] v=f16[N,64]", [32, 32])
    first, second = plan.products.values()
    assert first.grid == second.grid == SimdGrid(4, 1)
    assert not first.lhs.staged and not second.lhs.staged
    assert first.rhs.transposed and not second.rhs.transposed
    rows = plan.layouts[first.op.result].axes[0]
    vectors = [v for v in values if v.name in ("row_max", "row_sum", "new_max", "alpha")]
    assert {plan.layouts[v].axes for v in vectors} == {(rows,)}


def test_products_of_integers_are_plain():
    plan, _ = planned(
        """
def matmul(x, y):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.int32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.int32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
        out[tile_m, tile_n] = acc
    return out
""",
        "x=i8[M,64] y=i8[64,N]",
        [32, 32, 32],
    )
    (product_,) = plan.products.values()
    assert product_.grid is None
    assert product_.op.result not in plan.layouts
