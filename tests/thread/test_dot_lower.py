"""Products in thread IR: what is done per step, per matrix, and where operands go."""

from __future__ import annotations

from tests.thread.matrices import UNIT, prepared
from tests.thread.test_dot_layout import ATTENTION, MATMUL
from transpile.thread import ir
from transpile.thread.dot_fit import fitted_blocks
from transpile.thread.limits import Limits
from transpile.thread.lower import lower
from transpile.thread.walk import all_nodes, walk


def lowered(source: str, signature: str, blocks: list[int], stages: int = 1) -> ir.Kernel:
    kernel, schedule = prepared(source, signature, blocks)
    limits = Limits("test", matrices=UNIT)
    config = {"num_warps": 4, "num_stages": stages}
    return lower(kernel, kernel.phases[0], schedule.blocks, limits, config=config)


def loads(body: ir.Body) -> list[ir.Load]:
    return [node for node in all_nodes(body) if isinstance(node, ir.Load)]


def statements(body: ir.Body, kind: type) -> list:
    return [stmt for stmt in walk(body) if isinstance(stmt, kind)]


def test_whole_tiles_are_copied_without_tests():
    kernel = lowered(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [64, 64, 16])
    (main, tail) = statements(kernel.body, ir.For)
    (choice,) = statements(main.body, ir.If)
    assert {(n.guard, n.count) for n in loads(choice.then)} == {(None, None)}
    assert all(n.guard is not None or n.count is not None for n in loads(choice.orelse))
    assert len(loads(choice.then)) == len(loads(choice.orelse)) == 2
    assert not statements(tail.body, ir.If)


def test_the_tail_of_the_depth_uses_the_buffers_and_accumulator_of_the_loop():
    kernel = lowered(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [64, 64, 16])
    assert [(b.name, b.shape, b.pad) for b in kernel.shared] == [
        ("x_shared", (64, 16), 8),
        ("y_shared", (16, 64), 8),
    ]
    assert sum(b.bytes for b in kernel.shared) == 5376
    targets = {stmt.target.array for stmt in statements(kernel.body, ir.Mma)}
    assert len(targets) == 1
    (acc,) = targets
    assert (acc.shape, acc.components, acc.fragment) == ((4, 4), 2, UNIT.acc.shape)


def test_column_major_operands_are_transposed_by_the_matrix_loads():
    kernel = lowered(MATMUL, "x=f16[M,64]{0,1} y=f16[64,N] bias=f32[N]", [64, 64, 16])
    first, second = statements(kernel.body, ir.FragmentLoad)
    assert (first.transpose, second.transpose) == (True, False)
    assert {b.name: b.shape for b in kernel.shared} == {
        "x_shared": (16, 64),
        "y_shared": (16, 64),
    }


def test_probabilities_do_not_go_through_shared_memory():
    kernel = lowered(ATTENTION, "q=f16[M,64] k=f16[N,64] v=f16[N,64]", [32, 32])
    assert sorted(b.name for b in kernel.shared) == ["k_shared", "v_shared"]
    first, second = statements(kernel.body, ir.Mma)
    assert first.lhs.array.name == "q_tile"
    assert second.lhs.array.dtype.name == "f16"
    (loop,) = statements(kernel.body, ir.For)
    stored = {stmt.buffer.name for stmt in statements(loop.body, ir.SharedStore)}
    assert stored == {"k_shared", "v_shared"}


def test_an_accumulator_is_scaled_where_it_is():
    kernel = lowered(ATTENTION, "q=f16[M,64] k=f16[N,64] v=f16[N,64]", [32, 32])
    arrays = {
        s.var for s in statements(kernel.body, ir.Let) if s.var.shape == (8,) and s.var.fragment
    }
    assert sorted(v.name for v in arrays) == ["acc", "q_tile"]


SCORES = """
def scores(q, k):
    m, d = q.size()
    n = k.size(0)
    d = hl.specialize(d)
    out = torch.empty([m, n], dtype=torch.float32, device=q.device)
    for tile_m in hl.tile(m):
        a = q[tile_m, :]
        for tile_n in hl.tile(n):
            out[tile_m, tile_n] = hl.dot(a, k[tile_n, :].T)
    return out
"""


def test_operands_that_a_loop_does_not_change_are_copied_before_it():
    kernel = lowered(SCORES, "q=f32[M,80] k=f32[N,80]", [64, 32])
    (loop,) = statements(kernel.body, ir.For)
    inside = {stmt.buffer.name for stmt in statements(loop.body, ir.SharedStore)}
    outside = {stmt.buffer.name for stmt in statements(kernel.body, ir.SharedStore)} - inside
    assert (inside, outside) == ({"k_shared"}, {"a_shared"})


GATED = """
def gated(x, w, z):
    m, k = x.size()
    n = z.size(2)
    k = hl.specialize(k)
    out = torch.empty_like(z)
    for tile_m in hl.tile(m):
        gate = torch.sigmoid(hl.dot(x[tile_m, :], w[:, :]))
        for tile_n in hl.tile(n):
            out[tile_m, :, tile_n] = z[tile_m, :, tile_n] * gate[:, :, None]
    return out
"""


def test_what_a_loop_does_not_change_changes_its_distribution_before_it():
    kernel = lowered(GATED, "x=f16[M,64] w=f16[64,64] z=f32[M,64,N]", [32, 4])
    (loop,) = statements(kernel.body, ir.For)
    assert not statements(loop.body, ir.SharedStore)
    assert not statements(loop.body, ir.Barrier)


def test_steps_are_halved_until_the_operands_fit():
    kernel, schedule = prepared(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [128, 128, 64])
    limits = Limits("test", matrices=UNIT)
    blocks = fitted_blocks(kernel, schedule.blocks, 8, limits)
    assert [blocks[s] for s in schedule.tunable] == [128, 128, 32]
    less = fitted_blocks(
        kernel, schedule.blocks, 8, Limits("test", matrices=UNIT, shared_bytes=16384)
    )
    assert [less[s] for s in schedule.tunable] == [128, 128, 16]


def test_with_stages_a_step_has_one_barrier():
    one = lowered(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [64, 64, 16])
    two = lowered(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [64, 64, 16], 2)
    assert [
        len(statements(statements(k.body, ir.For)[0].body, ir.Barrier)) for k in (one, two)
    ] == [2, 1]
    assert {b.name: b.shape for b in two.shared} == {
        "x_shared": (2, 64, 16),
        "y_shared": (2, 16, 64),
    }


def test_no_more_stages_than_shared_memory_holds():
    kernel = lowered(MATMUL, "x=f16[M,K] y=f16[K,N] bias=f32[N]", [64, 64, 32], 8)
    assert {b.shape[0] for b in kernel.shared} == {3}
