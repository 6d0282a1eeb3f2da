"""Inclusive scans: along a thread's consecutive elements, then over the lanes of a SIMD group.

The plan gives a scanned axis consecutive elements on each thread and no more threads than a SIMD
group has, so the thread's total is passed on by shuffles alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I32, DType
from transpile.thread.context import Lowering, Tile
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Convert,
    Element,
    Expr,
    If,
    LaneLoop,
    Let,
    Shuffle,
    Var,
    integer,
)
from transpile.thread.layout import Digit, Layout, loop_order, thread_part
from transpile.thread.nests import Env, Held
from transpile.thread.reduce import Combine, assigned, inlined

_BINARY = {"sum": "add", "prod": "mul"}


def scan(low: Lowering, op: ir.Scan) -> None:
    """``cumsum``, ``cumprod`` or a scan with the source's own function."""
    layout = low.plan.layout(op.values[0].shape)
    tiles = [_widened(low, low.tile(v, layout), op) for v in op.values]
    if op.combine is not None:
        combine = inlined(op.combine)
    else:
        combine = _named(_BINARY[op.name or "sum"], tiles[0].dtype)
    helds = [
        Held(layout, t.dtype, r.name if t.dtype == r.dtype else None, "scanned")
        for t, r in zip(tiles, op.results, strict=True)
    ]
    digits = layout.axes[op.dim]
    _along_registers(low, layout, digits, tiles, helds, combine, reverse=op.reverse)
    threads = [d for d in digits if d.of_thread]
    results = helds
    if threads:
        results = _along_lanes(low, layout, digits, helds, combine, reverse=op.reverse)
    for result, held in zip(op.results, results, strict=True):
        tile = Tile(layout, held.dtype, held.read, (held,), held)
        low.bind(result, _narrowed(low, tile, result))


def _named(binary: str, dtype: DType) -> Combine:
    def combine(_: Body, a: Sequence[Expr], b: Sequence[Expr]) -> list[Expr]:
        return [Apply(binary, (a[0], b[0]), dtype)]

    return combine


def _widened(low: Lowering, tile: Tile, op: ir.Scan) -> Tile:
    """Narrow floats are summed in f32, integers in the result's dtype."""
    if op.combine is not None:
        return tile
    dtype = F32 if tile.dtype.is_half or tile.dtype.is_fp8 else op.result.dtype
    if tile.dtype == dtype:
        return tile
    return low.define(tile.layout, dtype, lambda env: Convert(tile.read(env), dtype), [tile])


def _narrowed(low: Lowering, tile: Tile, result: ir.Value) -> Tile:
    if tile.dtype == result.dtype:
        return tile
    return low.define(
        tile.layout, result.dtype, lambda env: Convert(tile.read(env), result.dtype), [tile],
        name=result.name,
    )  # fmt: skip


def _loops(
    digits: Sequence[Digit], env: dict[Digit, Expr], body: Body, *, reverse: bool
) -> tuple[dict[Digit, Expr], list[tuple[Var, int]]]:
    """Loop variables over register digits, and what they stand for (from the end, reversed)."""
    del body
    loops = []
    for digit in digits:
        var = Var("i", I32)
        loops.append((var, digit.count))
        last = integer(digit.count - 1)
        env[digit.loop] = Apply("sub", (last, var), I32) if reverse else var
    return env, loops


def _wrapped(loops: list[tuple[Var, int]], body: Body) -> Body:
    for var, count in reversed(loops):
        body = [LaneLoop(var, count, body)]
    return body


def _along_registers(
    low: Lowering, layout: Layout, digits: Sequence[Digit], tiles: list[Tile], helds: list[Held],
    combine: Combine, *, reverse: bool,
) -> None:  # fmt: skip
    """Each thread's own inclusive scan."""
    along = sorted((d for d in digits if not d.of_thread), key=loop_order)
    others = [d for d in layout.registers if d not in along]

    def emit(outer: Env) -> Body:
        env, loops = _loops(along, dict(outer), [], reverse=reverse)
        running = [Var(f"running_{h.name or h.hint}", h.dtype) for h in helds]
        values = [t.read(env) for t in tiles]
        entries: list[Var | Element] = [h.entry(env) for h in helds]
        if not along:
            return [Assign(e, v) for e, v in zip(entries, values, strict=True)]
        step: Body = []
        step += assigned(running, combine(step, running, values))
        first = _is_first(along, [var for var, _ in loops])
        start: Body = [Assign(r, v) for r, v in zip(running, values, strict=True)]
        inner: Body = [If(first, start, step)]
        inner += [Assign(e, r) for e, r in zip(entries, running, strict=True)]
        lets: Body = [Let(r) for r in running]
        return lets + _wrapped(loops, inner)

    low.effect(Layout((tuple(others),)), emit, tiles, defines=tuple(helds), repeats=True)


def _is_first(along: Sequence[Digit], variables: list[Var]) -> Expr:
    tests: list[Expr] = [Apply("eq", (v, integer(0)), BOOL) for v in variables]
    total = tests[0]
    for test in tests[1:]:
        total = Apply("land", (total, test), BOOL)
    return total


def _along_lanes(
    low: Lowering, layout: Layout, digits: Sequence[Digit], helds: list[Held], combine: Combine,
    *, reverse: bool,
) -> list[Held]:  # fmt: skip
    """Adds to each thread's elements the total of the threads before it."""
    along = sorted((d for d in digits if not d.of_thread), key=loop_order)
    (thread,) = [d for d in digits if d.of_thread]
    results = [Held(layout, h.dtype, h.name, h.hint) for h in helds]
    others = [d for d in layout.registers if d not in along]
    part = thread_part(thread.stride, thread.count, low.plan.threads, low.plan.simd)
    direction = "down" if reverse else "up"

    def before(distance: int) -> Expr:
        """Whether there is a thread so far before this one."""
        if reverse:
            return Apply("lt", (part, integer(thread.count - distance)), BOOL)
        return Apply("ge", (part, integer(distance)), BOOL)

    def shifted(values: Sequence[Expr], distance: int, body: Body, hint: str) -> list[Expr]:
        found: list[Expr] = []
        for value in values:
            var = Var(hint, value.dtype)
            by = integer(distance * thread.stride)
            body.append(Let(var, Shuffle(direction, value, by)))  # type: ignore[arg-type]
            found.append(var)
        return found

    def emit(outer: Env) -> Body:
        last: Env = {**outer, **{d.loop: Const(0 if reverse else d.count - 1) for d in along}}
        totals = [Var(f"total_{h.name or h.hint}", h.dtype) for h in helds]
        body: Body = [Let(t, h.read(last)) for t, h in zip(totals, helds, strict=True)]
        distance = 1
        while distance < thread.count:
            earlier = shifted(totals, distance, body, "earlier")
            step: Body = []
            step += assigned(totals, combine(step, earlier, totals))
            body.append(If(before(distance), step))
            distance *= 2
        prefix = shifted(totals, 1, body, "prefix")
        env, loops = _loops(along, dict(outer), [], reverse=False)
        values = [h.read(env) for h in helds]
        entries = [h.entry(env) for h in results]
        joined: Body = []
        joined += [
            Assign(e, v) for e, v in zip(entries, combine(joined, prefix, values), strict=True)
        ]
        plain: Body = [Assign(e, v) for e, v in zip(entries, values, strict=True)]
        return body + _wrapped(loops, [If(before(1), joined, plain)])

    sources = [Tile(layout, h.dtype, h.read, (h,), h) for h in helds]
    low.effect(
        Layout((tuple(others),)), emit, sources, defines=tuple(results), pinned=True,
        repeats=True,
    )  # fmt: skip
    return results
