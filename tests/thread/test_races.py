"""What the checker proves, the verifier refuses and the interpreter detects: planted mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.thread.programs import from_source, lower_kernel
from transpile.ir import ir as tile_ir
from transpile.ir.dtypes import BOOL, F32, I32
from transpile.ir.sizes import Size
from transpile.thread import barriers, ir
from transpile.thread.interpreter import ThreadError, run_threads
from transpile.thread.ir import (
    Apply,
    Assign,
    Barrier,
    Const,
    For,
    Id,
    If,
    Kernel,
    LaneReduce,
    Let,
    SharedBuffer,
    SharedLoad,
    SharedStore,
    Store,
    Var,
    add,
    integer,
)  # fmt: skip
from transpile.thread.verifier import verify
from transpile.thread.walk import bodies, walk

SOFTMAX = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = torch.softmax(x[tile, :], dim=-1)
    return out
"""
RUNNING = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype=torch.float32, device=x.device)
    for rows in hl.tile(x.size(0)):
        acc = hl.zeros([rows], dtype=torch.float32)
        for cols in hl.tile(x.size(1)):
            acc = acc + torch.amax(x[rows, cols], -1)
        out[rows] = acc
    return out
"""
OUT = tile_ir.Tensor("out", F32, (Size.of(64),), (Size.of(1),), "out")
THREAD = Id("thread")


def kernel_of(*body, shared=(), threads=64):
    return Kernel("k", (OUT,), (), (Size.of(1),), threads, 32, tuple(shared), list(body))


def run(kernel):
    out = np.zeros(64, np.float32)
    run_threads(kernel, {"out": out}, {}, {})
    return out


def without_barriers(body):
    """Each version of the body with one barrier taken out."""
    for stmt in list(walk(body)):
        if isinstance(stmt, Barrier):
            for part in [body, *(b for s in walk(body) for b in bodies(s))]:
                if stmt in part:
                    at = part.index(stmt)
                    del part[at]
                    yield
                    part.insert(at, stmt)


@pytest.mark.parametrize("source", [SOFTMAX, RUNNING], ids=["softmax", "running"])
def test_every_barrier_is_needed_and_missing_ones_are_found(source):
    kernel = from_source(
        source, {"x": "f32[M,N]"}, {"block_sizes": [1, 256][: source.count("hl.tile")]}
    )
    lowered = lower_kernel(kernel, config={"num_threads": 64})
    (phase,) = lowered.phases
    lowered.check()
    found = 0
    for _ in without_barriers(phase.body):
        found += 1
        assert barriers.unordered(phase), "the checker does not miss the barrier"
        with pytest.raises(ThreadError, match="without a barrier"):
            lowered.run({"x": torch.randn(3, 700)})
    assert found >= 2
    torch.testing.assert_close(
        *(f({"x": torch.ones(3, 700)}) for f in (lowered.run, lowered.reference))
    )


def exchange(*between):
    """Each thread reads what its neighbour wrote."""
    buffer = SharedBuffer("b", F32, (64,))
    value = Var("value", F32)
    neighbour = Apply("mod", (add(THREAD, integer(1)), integer(64)), I32)
    return kernel_of(
        SharedStore(buffer, (THREAD,), ir.Convert(THREAD, F32)), *between,
        Let(value, SharedLoad(buffer, (neighbour,))), Store(OUT, THREAD, value), shared=[buffer],
    )  # fmt: skip


def test_a_barrier_is_placed_where_threads_exchange():
    kernel = exchange()
    assert len(barriers.unordered(kernel)) == 1
    barriers.place(kernel)
    assert [type(s).__name__ for s in kernel.body][1] == "Barrier"
    assert barriers.unordered(kernel) == []
    assert run(kernel).tolist() == [*range(1, 64), 0]


def test_a_simdgroup_barrier_does_not_order_the_group():
    kernel = exchange(Barrier("simdgroup"))
    with pytest.raises(ThreadError, match="a write and a read of b"):
        run(kernel)


def test_threads_that_keep_to_their_own_elements_need_no_barrier():
    buffer = SharedBuffer("b", F32, (64,))
    kernel = kernel_of(
        SharedStore(buffer, (THREAD,), Const(1.0, F32)),
        Store(OUT, THREAD, SharedLoad(buffer, (THREAD,))), shared=[buffer],
    )  # fmt: skip
    assert barriers.unordered(kernel) == []
    assert run(kernel).tolist() == [1.0] * 64


def test_what_a_loop_leaves_behind_is_ordered_too():
    buffer, value, step = SharedBuffer("b", F32, (64,)), Var("value", F32), Var("step", I32)
    other = Apply("sub", (integer(63), THREAD), I32)
    body = [
        SharedStore(buffer, (THREAD,), ir.Convert(step, F32)), Barrier(),
        Assign(value, SharedLoad(buffer, (other,))),
    ]  # fmt: skip
    loop = For(step, integer(0), integer(3), integer(1), body)
    kernel = kernel_of(Let(value), loop, Store(OUT, THREAD, value), shared=[buffer])
    assert barriers.unordered(kernel)
    with pytest.raises(ThreadError, match="a read and a write of b"):
        run(kernel)
    barriers.place(kernel)
    assert barriers.unordered(kernel) == []
    assert sum(isinstance(s, Barrier) for s in walk(kernel.body)) == 2
    assert run(kernel).tolist() == [2.0] * 64


def test_two_threads_writing_one_element_are_found():
    kernel = kernel_of(Store(OUT, integer(0), ir.Convert(THREAD, F32)))
    with pytest.raises(ThreadError, match="two threads write the same element"):
        run(kernel)


def test_reading_what_nobody_wrote_is_found():
    buffer = SharedBuffer("b", F32, (64,))
    kernel = kernel_of(Store(OUT, THREAD, SharedLoad(buffer, (THREAD,))), shared=[buffer])
    with pytest.raises(ThreadError, match="nothing was written"):
        run(kernel)


def test_accesses_out_of_bounds_are_found():
    with pytest.raises(ThreadError, match=r"out accessed at 1 \.\. 64"):
        run(kernel_of(Store(OUT, add(THREAD, integer(1)), Const(0.0, F32))))


HALF = Apply("lt", (THREAD, integer(40)), BOOL)


@pytest.mark.parametrize(
    ("stmt", "message"),
    [
        (If(HALF, [Barrier()]), "a barrier that not all threads reach"),
        (
            If(HALF, [Let(Var("x", F32), LaneReduce("sum", Const(1.0, F32), (1,)))]),
            "lanes exchanged",
        ),
        (Store(OUT, THREAD, Var("x", F32)), "x is not declared here"),
        (Store(OUT, THREAD, Const(1, I32)), "i32 into f32"),
        (Let(Var("x", I32), Apply("add", (Const(1), Const(1.0, F32)), I32)), "add of f32, i32"),
        (
            SharedStore(SharedBuffer("b", F32, (8,)), (integer(0),), Const(0.0, F32)),
            "b is not planned",
        ),
    ],
    ids=lambda v: v.replace(" ", "_") if isinstance(v, str) else "",
)
def test_the_verifier_refuses(stmt, message):
    assert any(message in problem for problem in verify(kernel_of(stmt)))


def test_the_verifier_knows_shared_indices_and_simd_groups():
    buffer = SharedBuffer("b", F32, (32,))
    kernel = kernel_of(SharedStore(buffer, (THREAD,), Const(0.0, F32)), shared=[buffer])
    assert any("0 .. 63 of b" in problem for problem in verify(kernel))
    same = Apply("eq", (Id("simdgroup"), integer(0)), BOOL)
    reduced = Let(Var("x", F32), LaneReduce("sum", Const(1.0, F32), (1, 2, 4, 8, 16)))
    assert verify(kernel_of(If(same, [reduced]))) == []
    assert verify(kernel_of(If(same, [Barrier("simdgroup")]))) == []
    assert verify(kernel_of(If(same, [Barrier()])))


def test_barriers_that_not_all_threads_reach_are_found_when_run():
    with pytest.raises(ThreadError, match="a barrier that only some threads reach"):
        run(kernel_of(If(HALF, [Barrier()])))
