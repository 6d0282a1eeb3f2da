"""Reductions: over a thread's registers, then over lanes, then over SIMD groups.

A reduction combines tuples of values: one for a sum, value and index for an argmax, whatever the
source says for a user's function. Those of the op table over one value have a lane reduction of
their own; the others are butterflies of shuffles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I32, DType
from transpile.ir.ops import REDUCTIONS, Number
from transpile.thread.context import Lowering, Tile
from transpile.thread.exchange import key_of, position
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Convert,
    Element,
    Expr,
    Id,
    If,
    LaneLoop,
    LaneReduce,
    Let,
    SharedLoad,
    SharedStore,
    Shuffle,
    Var,
    add,
    both,
    integer,
    mul,
)
from transpile.thread.layout import Digit, Layout, lanes_of, thread_part
from transpile.thread.nests import Env, Held

Exprs = Sequence[Expr]
Combine = Callable[[Body, Exprs, Exprs], list[Expr]]
"""Combines two tuples of values; statements that it needs go to the body."""

Take = Callable[[Exprs, Exprs, bool], Expr]
"""Whether the second tuple replaces the first; True if it comes later in the axis anyway."""

_COMBINE = {
    "sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and",
    "xor_sum": "xor",
}  # fmt: skip


@dataclass(eq=False)
class _Reduction:
    """What is reduced and how: by ``combine``, or where ``take`` is given by taking all of the
    second tuple over the first. ``starts`` are the neutral elements, if there are any; ``name`` is
    the op table's, for a single value."""

    tiles: list[Tile]
    dim: int
    combine: Combine
    starts: tuple[Expr, ...]
    names: tuple[str | None, ...]
    hint: str
    name: str | None = None
    take: Take | None = None

    @property
    def dtypes(self) -> list[DType]:
        return [t.dtype for t in self.tiles]


def reduce(low: Lowering, op: ir.Reduce) -> None:
    """A reduction of the op table."""
    value = low.tile(op.value)
    entry = REDUCTIONS[op.name]
    if entry.index:
        _arg_reduce(low, op, value)
        return
    name = op.name
    if value.dtype.is_bool:
        name = {"max": "any", "min": "all"}.get(name, name)
    dtype = _accumulator(name, value.dtype, op.result.dtype)
    value = _converted(low, value, dtype)
    binary = _COMBINE[name]

    def combine(_: Body, a: Exprs, b: Exprs) -> list[Expr]:
        return [Apply(binary, (a[0], b[0]), dtype)]

    start = Const(identity(name, dtype), dtype)
    same = dtype == op.result.dtype
    spec = _Reduction(
        [value], op.dim, combine, (start,), (op.result.name if same else None,), op.name, name
    )
    (total,) = _run(low, spec)
    low.bind(op.result, _shaped(low, op.keepdim, op.dim, op.result, total))


def _shaped(low: Lowering, keepdim: bool, dim: int, result: ir.Value, total: Tile) -> Tile:
    """The result with its dtype, and with its axis of size 1."""
    tile = _converted(low, total, result.dtype, result.name)
    if keepdim:
        return tile
    return tile.moved(tile.layout.without(dim))


def _converted(low: Lowering, tile: Tile, dtype: DType, name: str | None = None) -> Tile:
    if tile.dtype == dtype:
        return tile
    return low.define(
        tile.layout, dtype, lambda env: Convert(tile.read(env), dtype), [tile], name=name, hint="x"
    )


def _accumulator(name: str, source: DType, result: DType) -> DType:
    """Sums and products of narrow floats are f32's, of integers the result's."""
    if name in ("any", "all"):
        return BOOL
    if name in ("sum", "prod"):
        return F32 if result.is_half or result.is_fp8 else result
    return source


def identity(name: str, dtype: DType) -> Number:
    """The neutral element of a reduction in a dtype."""
    start = REDUCTIONS[name].identity
    if isinstance(start, str):
        return extreme(dtype, lowest=start == "min")
    return float(start) if dtype.is_float else start


def extreme(dtype: DType, *, lowest: bool) -> Number:
    """The least or greatest value of a dtype, infinite where it has infinities."""
    if dtype.is_bool:
        return not lowest
    if dtype.is_float:
        finite = {"f8e4m3": 448.0, "f4e2m1x2": 6.0}.get(dtype.name, float("inf"))
        return -finite if lowest else finite
    if dtype.signed:
        return -(1 << dtype.bits - 1) if lowest else (1 << dtype.bits - 1) - 1
    return 0 if lowest else (1 << dtype.bits) - 1


def _arg_reduce(low: Lowering, op: ir.Reduce, value: Tile) -> None:
    """Value and position together; the first of equal extremes wins, and NaN over numbers."""
    largest = op.name == "argmax"
    digits = value.layout.axes[op.dim]
    index = Tile(value.layout, I32, lambda env: position(low, digits, env))

    def take(a: Exprs, b: Exprs, later: bool) -> Expr:
        return better(a, b, largest=largest, later=later)

    first = {d.loop: integer(0) for d in digits}
    starts = (
        Const(extreme(value.dtype, lowest=largest), value.dtype), position(low, digits, first)
    )  # fmt: skip
    hint = op.name.removeprefix("arg")
    names = (None, op.result.name)
    spec = _Reduction([value, index], op.dim, _never, starts, names, hint, take=take)
    _, total = _run(low, spec)
    low.bind(op.result, _shaped(low, op.keepdim, op.dim, op.result, total))


def _never(_: Body, a: Exprs, b: Exprs) -> list[Expr]:
    raise AssertionError("an extreme is taken, not combined")


def better(a: Exprs, b: Exprs, *, largest: bool, later: bool) -> Expr:
    """Whether ``(value, index)`` b is to be taken over a; ``later``: its index is the higher."""
    (x, i), (y, j) = a, b
    name = "gt" if largest else "lt"
    name = f"nan_{name}" if x.dtype.is_float else name
    wins = Apply(name, (y, x), BOOL)
    if later:
        return wins
    equal = Apply("lnot", (Apply(name, (x, y), BOOL),), BOOL)
    earlier = Apply("land", (equal, Apply("lt", (j, i), BOOL)), BOOL)
    return Apply("lor", (wins, earlier), BOOL)


def reduce_with(low: Lowering, op: ir.ReduceWith) -> None:
    """A reduction with the source's own function."""
    layout = low.plan.of(op.values[0])
    tiles = [low.tile(v, layout) for v in op.values]
    names = tuple(r.name for r in op.results)
    spec = _Reduction(tiles, op.dim, inlined(op.combine), (), names, "reduced")
    totals = _run(low, spec)
    for result, total in zip(op.results, totals, strict=True):
        low.bind(result, _shaped(low, op.keepdim, op.dim, result, total))


def inlined(block: ir.Block) -> Combine:
    """The source's combine function, written out where it is called."""

    def combine(body: Body, a: Exprs, b: Exprs) -> list[Expr]:
        env: dict[ir.Value, Expr] = dict(zip(block.params, [*a, *b], strict=True))
        for op in block.ops:
            expr = _scalar_op(op, env)
            if op.result.name is None or isinstance(op, ir.Const):
                env[op.result] = expr
                continue
            var = Var(op.result.name, op.result.dtype)
            body.append(Let(var, expr, span=op.span))
            env[op.result] = var
        return [env[y] for y in block.yields]

    return combine


def _scalar_op(op: ir.Op, env: dict[ir.Value, Expr]) -> Expr:
    match op:
        case ir.Const():
            return Const(op.value, op.result.dtype)
        case ir.Elementwise():
            return Apply(op.name, tuple(env[a] for a in op.args), op.result.dtype)
        case ir.Cast():
            return Convert(env[op.value], op.result.dtype, op.bitcast)
        case ir.Broadcast() | ir.Reshape() | ir.Full():
            return env[op.value]
    raise NotImplementedError(f"{type(op).__name__} in a combine function")


# -- the three steps -----------------------------------------------------------------------------


def _run(low: Lowering, spec: _Reduction) -> list[Tile]:
    layout = spec.tiles[0].layout
    digits = layout.axes[spec.dim]
    registers = tuple(d for d in digits if not d.of_thread)
    threads = tuple(d for d in digits if d.of_thread)
    totals = _in_registers(low, spec, registers) if registers else spec.tiles
    totals = [t.moved(layout.dropped(spec.dim)) for t in totals]
    simd = low.plan.simd
    if lanes := lanes_of(threads, simd):
        totals = _in_lanes(low, spec, totals, lanes)
    beyond = tuple(_beyond(d, simd) for d in threads if d.stride * d.count > simd)
    if beyond:
        totals = _in_group(low, spec, totals, threads, beyond)
    return totals


def _beyond(digit: Digit, simd: int) -> tuple[int, int]:
    """The part of a thread digit that counts SIMD groups: stride and count."""
    if digit.stride >= simd:
        return digit.stride, digit.count
    return simd, digit.stride * digit.count // simd


def _held(spec: _Reduction, layout: Layout) -> list[Held]:
    hints = [spec.hint, f"{spec.hint}_index"] if len(spec.tiles) == 2 else [spec.hint] * 9
    return [
        Held(layout, dtype, name, hint)
        for dtype, name, hint in zip(spec.dtypes, spec.names, hints, strict=False)
    ]


def _own(spec: _Reduction, total: Tile) -> Held | None:
    """The partial result, if it is the reduction's own: its variable is for the next one too."""
    return None if total.held in (t.held for t in spec.tiles) else total.held


def _continued(spec: _Reduction, totals: list[Tile]) -> list[Held]:
    """Values of the next step, in the variables of the last one where those are the reduction's."""
    helds = _held(spec, totals[0].layout)
    for held, total in zip(helds, totals, strict=True):
        held.same_as = _own(spec, total)
    return helds


def _as_tiles(layout: Layout, helds: list[Held]) -> list[Tile]:
    return [Tile(layout, h.dtype, h.read, (h,), h) for h in helds]


def _in_registers(low: Lowering, spec: _Reduction, registers: tuple[Digit, ...]) -> list[Tile]:
    """Accumulators that a thread's own elements are combined into."""
    layout = spec.tiles[0].layout
    result = layout.dropped(spec.dim)
    if len(spec.tiles) == 1 and spec.starts:
        (held,) = _held(spec, result)
        tile = spec.tiles[0]

        def emit(env: Env) -> Body:
            entry = held.entry(env)
            return [Assign(entry, spec.combine([], [entry], [tile.read(env)])[0])]

        low.effect(layout, emit, [tile], defines=(held,), starts=spec.starts, reduced=registers)
        return _as_tiles(result, [held])
    return _several_in_registers(low, spec, registers, result)


def _several_in_registers(
    low: Lowering, spec: _Reduction, registers: tuple[Digit, ...], result: Layout
) -> list[Tile]:
    """The same for tuples: begun with the first element where there is no neutral one."""
    layout = spec.tiles[0].layout
    helds = _held(spec, result)

    def emit(env: Env) -> Body:
        entries = [h.entry(env) for h in helds]
        values = [t.read(env) for t in spec.tiles]
        body = _step(spec, entries, values, later=True)
        if spec.starts:
            return body
        first = both([Apply("eq", (env[d.loop], integer(0)), BOOL) for d in registers])
        assert first is not None
        begin: Body = [Assign(e, v) for e, v in zip(entries, values, strict=True)]
        return [If(first, begin, body)]

    low.effect(
        layout, emit, spec.tiles, defines=tuple(helds), starts=spec.starts, reduced=registers,
        repeats=True,
    )  # fmt: skip
    return _as_tiles(result, helds)


def _step(
    spec: _Reduction, entries: Sequence[Var | Element], others: Exprs, *, later: bool = False
) -> Body:
    """The entries combined with other values."""
    if spec.take is not None:
        chosen: Body = [Assign(e, o) for e, o in zip(entries, others, strict=True)]
        return [If(spec.take(entries, others, later), chosen)]
    body: Body = []
    combined = spec.combine(body, entries, others)
    return body + assigned(entries, combined)


def assigned(targets: Sequence[Var | Element], values: Exprs) -> Body:
    """Assignments all of whose values are computed before."""
    if len(targets) == 1:
        return [Assign(targets[0], values[0])]
    fresh = [Var(f"next_{_name(t)}", t.dtype) for t in targets]
    body: Body = [Let(v, e) for v, e in zip(fresh, values, strict=True)]
    return body + [Assign(t, v) for t, v in zip(targets, fresh, strict=True)]


def _name(target: Var | Element) -> str:
    return target.name if isinstance(target, Var) else target.array.name


def _in_lanes(
    low: Lowering, spec: _Reduction, totals: list[Tile], lanes: tuple[int, ...]
) -> list[Tile]:
    """Over the lanes of a SIMD group; all of them have the result."""
    layout = totals[0].layout
    if spec.name is not None:
        name, total = spec.name, totals[0]
        return [
            low.define_here(
                layout, total.dtype, lambda env: LaneReduce(name, total.read(env), lanes),
                totals, name=spec.names[0], hint=spec.hint, pinned=True,
                same_as=_own(spec, total), clobbers=_own(spec, total),
            )
        ]  # fmt: skip
    helds = _continued(spec, totals)

    def emit(env: Env) -> Body:
        entries = [h.entry(env) for h in helds]
        body: Body = [
            Assign(e, t.read(env))
            for e, h, t in zip(entries, helds, totals, strict=True)
            if h.same_as is None
        ]
        return body + _exchanges(lanes, lambda distance: _with_lane(spec, entries, distance))

    low.effect(layout, emit, totals, defines=tuple(helds), pinned=True, repeats=True)
    return _as_tiles(layout, helds)


def _with_lane(spec: _Reduction, entries: Sequence[Var | Element], distance: Expr) -> Body:
    """The entries combined with those of the lane that is so far."""
    body: Body = []
    others: list[Expr] = []
    for entry in entries:
        other = Var(f"other_{_name(entry)}", entry.dtype)
        body.append(Let(other, Shuffle("xor", entry, distance)))
        others.append(other)
    return body + _step(spec, entries, others)


def _exchanges(lanes: tuple[int, ...], step: Callable[[Expr], Body]) -> Body:
    """A step for each bit of the lane's number, in a loop where the bits are evenly spaced."""
    bits = [lane.bit_length() - 1 for lane in lanes]
    spaces = {b - a for a, b in pairwise(bits)}
    if len(spaces) != 1:
        return [stmt for lane in lanes for stmt in step(integer(lane))]
    var = Var("bit", I32)
    place = add(mul(var, spaces.pop()), integer(bits[0]))
    return [LaneLoop(var, len(bits), step(Apply("shl", (integer(1), place), I32)))]


def _in_group(
    low: Lowering,
    spec: _Reduction,
    totals: list[Tile],
    threads: tuple[Digit, ...],
    beyond: tuple[tuple[int, int], ...],
) -> list[Tile]:
    """Over SIMD groups: one partial result of each through shared memory, read back by all."""
    layout = totals[0].layout
    count = prod(c for _, c in beyond)
    simd = low.plan.simd
    axes = [digits for digits in layout.axes if digits]
    shape = (*(prod(d.count for d in digits) for digits in axes), count)
    buffers = [
        low.buffer(f"{h.hint}_shared", t.dtype, shape)
        for h, t in zip(_held(spec, layout), totals, strict=True)
    ]
    keys = frozenset(key_of(b) for b in buffers)
    lanes = [(d.stride, min(d.count, simd // d.stride)) for d in threads if d.stride < simd]
    replicas = Layout((*layout.axes, tuple(threads))).replicas(low.plan.threads)

    def part(stride: int, parts: int) -> Expr:
        return thread_part(stride, parts, low.plan.threads, simd)

    def cell(env: Env, last: Expr) -> tuple[Expr, ...]:
        return (*(position(low, digits, env) for digits in axes), last)

    def number() -> Expr:
        """Of the SIMD group among those that are reduced over."""
        total, weight = [], 1
        for stride, parts in beyond:
            total.append(mul(part(stride, parts), weight))
            weight *= parts
        return add(*total)

    def publish(env: Env) -> Body:
        guard = low.first(sorted([*lanes, *replicas]))
        index = cell(env, number())
        if len(buffers) == 1:
            return [SharedStore(buffers[0], index, totals[0].read(env), guard)]
        stores: Body = [
            SharedStore(b, index, t.read(env)) for b, t in zip(buffers, totals, strict=True)
        ]
        return stores if guard is None else [If(guard, stores)]

    low.effect(layout, publish, totals, writes=keys, pinned=True)
    if spec.name is not None and not lanes_of(layout.threads, simd) and count <= simd:
        name, buffer = spec.name, buffers[0]
        bits = tuple(1 << i for i in range(count.bit_length() - 1))

        def gathered(env: Env) -> Expr:
            lane: Expr = Id("lane")
            if count < simd:
                lane = Apply("mod", (lane, integer(count)), I32)
            return LaneReduce(name, SharedLoad(buffer, cell(env, lane)), bits)

        return [
            low.define_here(
                layout, totals[0].dtype, gathered, totals, name=spec.names[0], hint=spec.hint,
                pinned=True, reads=keys, same_as=_own(spec, totals[0]),
                clobbers=_own(spec, totals[0]),
            )
        ]  # fmt: skip
    helds = _continued(spec, totals)

    def read_back(env: Env) -> Body:
        entries = [h.entry(env) for h in helds]
        body: Body = [
            Assign(e, SharedLoad(b, cell(env, integer(0))))
            for e, b in zip(entries, buffers, strict=True)
        ]
        var = Var("s", I32)
        inner: Body = []
        index = Apply("add", (var, integer(1)), I32)
        others = []
        for entry, buffer in zip(entries, buffers, strict=True):
            other: Expr = SharedLoad(buffer, cell(env, index))
            if len(entries) > 1:
                inner.append(Let(kept := Var(f"other_{_name(entry)}", entry.dtype), other))
                other = kept
            others.append(other)
        inner += _step(spec, entries, others)
        return [*body, LaneLoop(var, count - 1, inner)]

    low.effect(layout, read_back, totals, defines=tuple(helds), reads=keys, pinned=True)
    return _as_tiles(layout, helds)
