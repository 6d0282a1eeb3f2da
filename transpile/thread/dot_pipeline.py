"""Staging several steps ahead (``num_stages``).

Each buffer has the stage as its leading dimension. Before the loop the first steps are copied; in
it, after one barrier, the copy of a later step and the products of this one are in different
stages, so that loads are under way while matrices are multiplied::

    copy(begin, stage 0)
    for step:
        barrier
        if step + 1 < end: copy(step + 1, (stage + 1) % 2)
        multiply(stage)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from transpile.ir import ir
from transpile.ir.walk import operands as operands_of
from transpile.thread.context import Lowering, Run
from transpile.thread.dot_plan import Operand
from transpile.thread.ir import (
    Apply,
    Barrier,
    Body,
    Const,
    Expr,
    If,
    Let,
    Stmt,
    Var,
    add,
    less,
    mul,
)
from transpile.thread.nests import Control
from transpile.thread.scope import Scope

Copy = Callable[[tuple[Expr, ...]], None]
"""Copies the operands of one step to a stage of their buffers."""

_SIMPLE = (ir.Load, ir.Cast, ir.Elementwise, ir.Mask, ir.Permute, ir.Broadcast, ir.Full, ir.Reshape)


def can_run_ahead(low: Lowering, tile: ir.Value, operands: list[Operand]) -> bool:
    """Whether the operands of a step follow from the tile's position alone."""
    return (
        low.runs[tile].start is not None
        and low.scope.parent is not None
        and all(_follows(low, operand.value) for operand in operands)
    )


def _follows(low: Lowering, value: ir.Value) -> bool:
    if value not in low.deferred or low.deferred[value][1] is not low.scope:
        return True
    maker = low.plan.products.makers[value]
    if not isinstance(maker, _SIMPLE):
        return False
    used = [v for v in operands_of(maker) if isinstance(v.type, ir.TileType)]
    if isinstance(maker, ir.Load):
        return all(v not in low.deferred or low.deferred[v][1] is not low.scope for v in used)
    return all(_follows(low, v) for v in used)


def run_ahead(
    low: Lowering, tile: ir.Value, stages: int, first: Copy, later: Copy,
    apart: Callable[[Callable[[], None]], Scope],
) -> Expr:  # fmt: skip
    """Has the steps of the loop over ``tile`` copied ``stages - 1`` of them ahead, by ``first``
    before the loop and by ``later`` in it; the stage of the step at hand."""
    run = low.runs[tile]
    start = run.start
    assert start is not None
    dtype = low.index_dtype
    block = run.block
    for number in range(stages - 1):
        begin = add(start, mul(block, number))
        scope = _at(low, tile, begin, apart, first, (Const(number),))
        assert low.scope.parent is not None
        low.scope.parent.add(Control(_guarded(less(begin, run.end), scope)))
    step = run.begin if start == Const(0, dtype) else Apply("sub", (run.begin, start), dtype)
    step = Apply("floordiv", (step, block), dtype)
    size = Const(stages, dtype)
    stage, target = Var("stage", dtype), Var("next_stage", dtype)
    free = add(step, Const(stages - 1, dtype))
    lets: list[Stmt] = [
        Let(stage, Apply("mod", (step, size), dtype)),
        Let(target, Apply("mod", (free, size), dtype)),
        Barrier(),
    ]
    low.scope.add(Control(lambda: lets))
    ahead = add(run.begin, mul(block, stages - 1))
    scope = _at(low, tile, ahead, apart, later, (target,))
    low.scope.add(Control(_guarded(less(ahead, run.end), scope)))
    return stage


def _at(
    low: Lowering, tile: ir.Value, begin: Expr, apart: Callable[[Callable[[], None]], Scope],
    copy: Copy, lead: tuple[Expr, ...],
) -> Scope:  # fmt: skip
    """A block in which the tile begins at ``begin``, and its operands are copied."""
    run = low.runs[tile]

    def fill() -> None:
        low.runs[tile] = moved(run, begin, low.scope)
        copy(lead)

    scope = apart(fill)
    low.runs[tile] = run
    return scope


def moved(run: Run, begin: Expr, scope: Scope) -> Run:
    """The same tile at another place."""
    return dataclasses.replace(run, begin=begin, scope=scope, bases={}, named={})


def _guarded(condition: Expr, scope: Scope) -> Callable[[], Body]:
    return lambda: [If(condition, scope.build())]
