"""Distributions: every element has an owner, and its position is where the layout says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from transpile.ir.sizes import Size
from transpile.thread import ir
from transpile.thread.addresses import Scope, numbers
from transpile.thread.layout import (
    Axis,
    Layout,
    lanes_of,
    register_position,
    spread,
    thread_position,
    uncovered,
)

POWER = st.sampled_from([1, 2, 4, 8, 16, 32])
SIMD = 32


def positions(digits, threads):
    """(thread, registers) -> position, for all of them."""
    registers = [d for d in digits if not d.of_thread]
    variables = {d: ir.Var("i", ir.I32) for d in registers}
    scope = Scope(threads, SIMD, tuple((variables[d], d.count) for d in registers))
    expr = ir.add(thread_position(digits, threads, SIMD), register_position(digits, variables))
    found = numbers(expr, scope, None, {})
    return list(zip((thread for thread, _ in scope.points()), found, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    threads=POWER,
    stride=POWER,
    registers=st.integers(1, 5),
    vector=st.sampled_from([1, 2, 4]),
)
def test_every_position_has_one_owner(threads, stride, registers, vector):
    total = max(SIMD, threads * stride)
    digits = spread(Axis(Size.of(7)), threads, stride, registers, vector)
    owners = {}
    gaps = uncovered([d for d in digits if d.of_thread], total)
    for thread, position in positions(digits, total):
        if all(thread // at % count == 0 for at, count in gaps):
            assert position not in owners
            owners[position] = thread
    assert sorted(owners) == list(range(threads * registers * vector))


@settings(max_examples=40, deadline=None)
@given(threads=POWER, vector=st.sampled_from([1, 2, 4]), registers=st.integers(1, 3))
def test_neighbouring_threads_hold_neighbouring_vectors(threads, vector, registers):
    digits = spread(Axis(Size.of(7)), threads, 1, registers, vector)
    by_thread = {}
    for thread, position in positions(digits, max(SIMD, threads)):
        by_thread.setdefault(thread, []).append(position)
    for thread in range(threads):
        starts = [p for p in by_thread[thread] if p % vector == 0]
        assert starts == [(r * threads + thread) * vector for r in range(registers)]


@settings(max_examples=40, deadline=None)
@given(rows=POWER, cols=POWER)
def test_threads_are_shared_out_among_axes(rows, cols):
    m, n = Axis(Size.of(64)), Axis(Size.of(128), rank=1)
    layout = Layout((spread(m, rows, cols, 2), spread(n, cols, 1, 1, 4)))
    total = max(SIMD, rows * cols)
    assert layout.extents == (rows * 2, cols * 4)
    assert layout.elements == 8
    held = set()
    for thread in range(total):
        if all(thread // at % count == 0 for at, count in layout.replicas(total)):
            held.add((thread // cols % rows, thread % cols))
    assert len(held) == rows * cols


def test_lanes_of_a_matrix_row_are_those_that_differ_in_bits_0_and_3():
    """The 8x8 fragments of Apple's GPUs: columns are in lane bits 0 and 3 and two components."""
    n = Axis(Size.of(8))
    parts = ir.FragmentShape(8, 8, 2, (), (ir.Part(2, 4, 8), ir.Part(2, 2, 1), ir.Part(2, 1)))
    from transpile.thread.layout import Digit

    digits = tuple(Digit(n, p.count, p.weight, p.stride, vector=p.stride == 0) for p in parts.col)
    assert lanes_of(digits, SIMD) == (1, 8)
    assert sorted({p for _, p in positions(digits, SIMD)}) == list(range(8))
