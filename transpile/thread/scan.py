"""Inclusive scans over all threads of a group.

The scanned axis is distributed as any other, ``position = (T * V) * r + V * t + v``: each thread
scans its vectors of V neighbours, lanes pass on what is before them in their SIMD group, and the
totals of SIMD groups, R of each, go through shared memory, where every thread combines those before
its own. A scan from the end takes everything in the reverse order.
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
    Convert,
    Element,
    Expr,
    If,
    LaneLoop,
    LaneScan,
    Let,
    Shuffle,
    Var,
    integer,
    mul,
)
from transpile.thread.layout import Digit, Layout, loop_order
from transpile.thread.nests import Env, Held
from transpile.thread.reduce import Combine, assigned, inlined
from transpile.thread.scan_groups import Totals, along_groups
from transpile.thread.scan_parts import Scan, copied, each, joined, later

_BINARY = {"sum": "add", "prod": "mul"}


def scan(low: Lowering, op: ir.Scan) -> None:
    """``cumsum``, ``cumprod`` or a scan with the source's own function."""
    layout = low.plan.layout(op.values[0].shape)
    tiles = [_widened(low, low.tile(v, layout), op) for v in op.values]
    if op.combine is not None:
        combine = inlined(op.combine)
    else:
        combine = _named(_BINARY[op.name or "sum"], tiles[0].dtype)
    name = (op.name or "sum") if op.combine is None else None
    spec = Scan(low, op, layout, combine, name)
    helds = [
        Held(layout, t.dtype, r.name if t.dtype == r.dtype else None, "scanned")
        for t, r in zip(tiles, op.results, strict=True)
    ]
    if spec.thread is None:
        _along_registers(low, layout, spec.outer, tiles, helds, combine, reverse=op.reverse)
    else:
        _over_threads(spec, tiles, helds)
    for result, held in zip(op.results, helds, strict=True):
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


# -- over threads ----------------------------------------------------------------------------------


def _over_threads(spec: Scan, tiles: list[Tile], results: list[Held]) -> None:
    """The scan's results from each thread's vectors, lanes, and SIMD groups."""
    low = spec.low
    own = _along_vectors(spec, tiles) if spec.inner else tiles
    totals = Totals(spec, own) if spec.rounds * spec.groups > 1 else None
    before = _along_lanes(spec, own, totals)
    if totals is not None:
        along_groups(spec, own, before, totals, results)
        return

    def emit(env: Env) -> Body:
        first = [b.read(env) for b in before]
        whole = joined(spec, env, first, own, results)
        if spec.is_prefix(results[0].dtype):
            return whole
        return [If(later(spec), whole, copied(spec, env, own, results))]

    low.effect(
        Layout((tuple(spec.others),)), emit, [*own, *before], defines=tuple(results), pinned=True,
        repeats=True,
    )  # fmt: skip


def _along_vectors(spec: Scan, tiles: list[Tile]) -> list[Tile]:
    """Each thread's own inclusive scan of its vectors."""
    low, layout = spec.low, spec.layout
    helds = [Held(layout, t.dtype, None, "partial") for t in tiles]

    def emit(env: Env) -> Body:
        var, count, here = each(spec, env)
        values = zip(helds, tiles, strict=True)
        copied: Body = [Assign(h.entry(here), t.read(here)) for h, t in values]
        body: Body = [LaneLoop(var, count, copied)]
        var, count, here = each(spec, env, 1)
        before = {**env, **_last(spec, var)}
        entries: list[Var | Element] = [h.entry(here) for h in helds]
        step: Body = []
        step += assigned(entries, spec.combine(step, [h.entry(before) for h in helds], entries))
        return [*body, LaneLoop(var, count, step)]

    low.effect(Layout((spec.rest,)), emit, tiles, defines=tuple(helds), repeats=True)
    return [Tile(layout, h.dtype, h.read, (h,), h) for h in helds]


def _last(spec: Scan, number: Expr | None = None) -> Env:
    """The thread's last element of its vector, or the one of a number."""
    return {
        d.loop: spec.turned(integer(d.count - 1) if number is None else number, d.count)
        for d in spec.inner
    }


def _along_lanes(spec: Scan, own: list[Tile], totals: Totals | None) -> list[Tile]:
    """For each round what the lanes before have in all, which in the first lane is nothing (or the
    neutral element); what it is with the last lane's own goes to ``totals``."""
    layout = Layout((spec.rest,))
    if spec.is_prefix(own[0].dtype):
        return [_prefix(spec, layout, own[0], totals)]
    helds = [Held(layout, t.dtype, None, "before") for t in own]

    def emit(env: Env) -> Body:
        sums = [Var("total", t.dtype) for t in own]
        values = [t.read({**env, **_last(spec)}) for t in own]
        body: Body = [Let(v, e) for v, e in zip(sums, values, strict=True)]
        steps = spec.lanes[1].bit_length() - 1
        if steps:
            number = Var("k", I32)
            distance = Apply("shl", (integer(1), number), I32)
            step: Body = []
            earlier = _shifted(spec, sums, distance, step)
            into: Body = []
            into += assigned(sums, spec.combine(into, earlier, sums))
            body.append(LaneLoop(number, steps, [*step, If(later(spec, distance), into)]))
        moved = _moved(spec, sums, integer(1))
        body += [Assign(h.entry(env), v) for h, v in zip(helds, moved, strict=True)]
        return body if totals is None else body + totals.publish(env, sums)

    writes = frozenset() if totals is None else totals.keys
    spec.low.effect(
        layout, emit, own, defines=tuple(helds), writes=writes, pinned=True, repeats=True
    )
    return [Tile(layout, h.dtype, h.read, (h,), h) for h in helds]


def _prefix(spec: Scan, layout: Layout, tile: Tile, totals: Totals | None) -> Tile:
    """The same by the target's own scan over lanes."""
    name, low = spec.name, spec.low
    assert name is not None

    def mine(env: Env) -> Expr:
        return tile.read({**env, **_last(spec)})

    before = low.define_here(
        layout, tile.dtype, lambda env: LaneScan(name, mine(env)), [tile], hint="before",
        pinned=True,
    )  # fmt: skip
    if totals is not None:
        through = totals

        def publish(env: Env) -> Body:
            return through.publish(env, spec.combine([], [before.read(env)], [mine(env)]))

        low.effect(layout, publish, [before, tile], writes=totals.keys, pinned=True)
    return before


def _moved(spec: Scan, values: Sequence[Expr], distance: Expr) -> list[Expr]:
    """The values of the lane so far before this one."""
    by = mul(distance, spec.lanes[0])
    return [Shuffle("down" if spec.op.reverse else "up", value, by) for value in values]


def _shifted(spec: Scan, values: Sequence[Expr], distance: Expr, body: Body) -> list[Expr]:
    """The same as variables."""
    found = [Var("earlier", value.dtype) for value in values]
    body += [Let(v, e) for v, e in zip(found, _moved(spec, values, distance), strict=True)]
    return list(found)
