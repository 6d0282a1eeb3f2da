"""Loops and branches: carried tiles are variables declared before, overwritten at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transpile.ir import ir
from transpile.ir.sizes import Size
from transpile.ir.walk import walk
from transpile.thread import ir as tir
from transpile.thread.context import Lowering, Run, Tile
from transpile.thread.ir import Apply, Assign, Body, Const, Expr, Id, Let, Stmt, Var, add, mul
from transpile.thread.layout import Layout
from transpile.thread.nests import Control, Env, Held
from transpile.thread.scope import Scope

LowerBlock = Callable[[ir.Block], None]

_AXES: tuple[tir.IdKind, ...] = ("group_x", "group_y", "group_z")


# -- the grid ------------------------------------------------------------------------------------


def grid(low: Lowering, order: Sequence[int], swizzle: int = 1) -> tuple[Size, ...]:
    """Binds the phase's axes to the group's place in the grid; ``order[0]`` varies fastest.

    With ``swizzle`` above 1 groups that follow each other walk down so many tiles of the first axis
    before the next one of the second, so that they share what they load.
    """
    axes = [low.phase.axes[i] for i in order]
    counts = [axis.count.substitute(low.fixed).substitute(low.blocks) for axis in axes]
    if swizzle > 1 and 2 <= len(axes) <= len(_AXES):
        _swizzled(low, axes[0], axes[1], counts, swizzle)
        for kind, axis in zip(_AXES[1:], axes[2:], strict=False):
            _grid_axis(low, axis, low.indexed(Id(kind)))
        return (counts[0] * counts[1], *counts[2:])
    if len(axes) <= len(_AXES):
        for kind, axis in zip(_AXES, axes, strict=False):
            _grid_axis(low, axis, low.indexed(Id(kind)))
        return tuple(counts)
    number: Expr = low.indexed(Id("group_x"))
    total = Size.of(1)
    for axis, count in zip(axes, counts, strict=True):
        extent = low.size(count)
        last = axis is axes[-1]
        part = number if last else Apply("mod", (number, extent), number.dtype)
        _grid_axis(low, axis, part)
        total = total * count
        if not last:
            rest = Var("rest", number.dtype)
            low.top.prologue.append(Let(rest, Apply("floordiv", (number, extent), rest.dtype)))
            number = rest
    return (total,)


def _swizzled(
    low: Lowering, first: ir.GridAxis, second: ir.GridAxis, counts: Sequence[Size], rows: int
) -> None:
    """Two axes from one number: bands of ``rows`` tiles of the first axis, down before across."""
    dtype = low.index_dtype

    def let(name: str, value: Expr) -> Var:
        var = Var(name, dtype)
        low.top.prologue.append(Let(var, value))
        return var

    def op(name: str, a: Expr, b: Expr) -> Expr:
        return Apply(name, (a, b), dtype)

    number = low.indexed(Id("group_x"))
    height = Const(rows, dtype)
    band = let("band", mul(low.size(counts[1]), height))
    top = let("band_start", mul(op("floordiv", number, band), height))
    tall = let("band_height", op("minimum", op("sub", low.size(counts[0]), top), height))
    within = op("mod", number, band)
    down = let(f"pid_{_short(first)}", add(top, op("mod", within, tall)))
    across = let(f"pid_{_short(second)}", op("floordiv", within, tall))
    _grid_axis(low, first, down)
    _grid_axis(low, second, across)


def _short(axis: ir.GridAxis) -> str:
    return axis_name(axis.var, axis.block.name if axis.block else "", axis.end)


def _grid_axis(low: Lowering, axis: ir.GridAxis, number: Expr) -> None:
    begin = low.size(axis.begin)
    if axis.block is None:
        step = Const(axis.step, low.index_dtype)
        var = Var(axis.var.name or "pid", axis.var.dtype)
        value = add(begin, mul(number, step)) if axis.begin != Size.of(0) else mul(number, step)
        low.top.prologue.append(Let(var, value))
        low.bind(axis.var, Tile(Layout(), axis.var.dtype, lambda _: var))
        return
    size = low.size(Size.of(axis.block))
    first = mul(number, size)
    if axis.begin != Size.of(0):
        first = add(begin, first)
    if isinstance(number, Apply):  # a part of the group's number: computed once
        var = Var(axis.var.name or "tile", first.dtype)
        low.top.prologue.append(Let(var, first))
        first = var
    known = low.ranges.tiles[axis.var]
    low.runs[axis.var] = Run(
        axis_name(axis.var, axis.block.name, axis.end), Size.of(axis.block), first,
        low.size(axis.end), axis.end, known.begin, size, low.size(axis.count), low.top,
    )  # fmt: skip


def axis_name(var: ir.Value, block: str, end: Size) -> str:
    """``m`` for ``tile_m``, else after what is tiled: what positions along a tile are called."""
    name = var.name or ""
    short = name.removeprefix("tile_").removesuffix("_tile")
    if short not in ("", "tile", name) and short.isidentifier():
        return short
    sym = end.as_sym()
    if sym is not None and sym.name.isidentifier():
        return sym.name.lower()
    short = block.lower().removeprefix("block_")
    return short if short.isidentifier() else "index"


# -- carried values ------------------------------------------------------------------------------


def _carried(
    low: Lowering, params: Sequence[ir.Value], inits: Sequence[ir.Value],
    results: Sequence[ir.Value],
) -> list[Held]:  # fmt: skip
    """Variables for carried values, set to what they begin with."""
    lets: list[Stmt] = []
    found: list[Held] = []
    pending: list[tuple[Held, Tile]] = []
    for param, init, result in zip(params, inits, results, strict=True):
        layout = _carried_layout(low, param, init)
        tile = low.tile(init, layout)
        if (own := _handed_on(low, init, result, tile, layout)) is not None:
            found.append(own)
            low.bind(param, Tile(layout, own.dtype, own.read, (own,), own))
            continue
        held = Held(layout, param.dtype, param.name, init.name or "carried")
        low.settle(tile)
        let = held.keep(layout.registers)
        if _is_constant(tile):
            let.value = tile.read({})
        else:
            pending.append((held, tile))
        lets.append(let)
        found.append(held)
        low.bind(param, Tile(layout, param.dtype, held.read, (held,), held))
    if lets:
        low.scope.add(Control(lambda: lets))
    for held, tile in pending:
        _overwrite(low, held, tile, low.order)
    return found


def _handed_on(
    low: Lowering, init: ir.Value, result: ir.Value, tile: Tile, layout: Layout
) -> Held | None:
    """The variable of a value that only the loop reads: the loop may overwrite it."""
    products, held = low.plan.products, tile.held
    if held is None or held.var is None or held.item is not None or held.layout != layout:
        return None
    alone = products.uses.get(init) == 1 and products.homes[init] is products.homes[result]
    return held if alone else None


def _is_constant(tile: Tile) -> bool:
    """Whether one expression serves all elements."""
    if tile.sources:
        return not tile.layout.registers
    try:
        tile.read({})
    except KeyError:
        return False
    return True


def _carried_layout(low: Lowering, param: ir.Value, init: ir.Value) -> Layout:
    if param in low.plan.layouts:
        return low.plan.layouts[param]
    known = low.tiles.get(init)
    if known is not None and known.sources and known.held is not None:
        return known.layout if known.layout == known.held.layout else low.plan.of(param)
    return low.plan.of(param)


def _overwrite(low: Lowering, held: Held, tile: Tile, order: int) -> None:
    """``held = tile``, element by element."""

    def emit(env: Env) -> Body:
        return [Assign(held.entry(env), tile.read(env))]

    saved, low.order = low.order, order
    low.effect(held.layout, emit, [tile], clobbers=held)
    low.order = saved


_LAST = 1 << 30


def _hand_over(low: Lowering, carried: Sequence[Held], yields: Sequence[ir.Value]) -> None:
    """Sets the variables to their next values, all of which are computed from the old ones."""
    tiles = [low.tile(v, h.layout) for h, v in zip(carried, yields, strict=True)]
    for tile in tiles:
        low.place(tile)
    pending = []
    for number, (held, tile) in enumerate(zip(carried, tiles, strict=True)):
        if tile.held is not held and not computed_there(low, held, tile, tiles[:number]):
            pending.append((held, tile))
    overwritten = {held for held, _ in pending}
    for number, (held, tile) in enumerate(pending):
        apart = tile
        if tile.held in overwritten or (tile.held is None and set(tile.sources) & overwritten):
            apart = low.define(
                tile.layout, tile.dtype, tile.read, [tile], hint=held.hint, pinned=True
            )
            low.place(apart)
        pending[number] = held, apart
    for number, (held, tile) in enumerate(pending):
        _overwrite(low, held, tile, _LAST + number)


def computed_there(low: Lowering, held: Held, tile: Tile, others: list[Tile]) -> bool:
    """Has the next value computed in the variable itself, where nothing reads the old one later."""
    new = tile.held
    item = None if new is None else new.item
    if new is None or item is None or item.compute is None or new.var is not None:
        return False
    segments = low.scope.segments
    taken = any(held in t.sources for t in others) or item.clobbers is not None
    if taken or item.nest not in segments or new.layout.registers != held.layout.registers:
        return False
    at = segments.index(item.nest)
    for reader in held.readers:
        if reader.nest is None or reader.nest not in segments:
            return False
        place = segments.index(reader.nest)
        if place > at or (place == at and (reader.order > item.order or reader.repeats)):
            return False
    item.clobbers = held
    new.var, new.dims = held.var, held.dims
    return True


def _nested(low: Lowering, lower: Callable[[], None]) -> Scope:
    """A block of its own, filled by ``lower``."""
    scope = Scope(low.scope)
    saved, low.scope = low.scope, scope
    lower()
    low.scope = saved
    return scope


def _writes(*blocks: ir.Block) -> list[str]:
    """Storages of tensors that are written in the blocks."""
    ops = (op for block in blocks for op in walk(block))
    return [op.tensor.storage for op in ops if isinstance(op, ir.Store | ir.Atomic)]


def _before_writes(low: Lowering, *blocks: ir.Block) -> None:
    for tensor in dict.fromkeys(_writes(*blocks)):
        low.before_write(tensor)
    if any(isinstance(op, ir.Barrier) for block in blocks for op in walk(block)):
        low.before_any_write()


def _results(low: Lowering, results: Sequence[ir.Value], helds: Sequence[Held]) -> None:
    for result, held in zip(results, helds, strict=True):
        low.bind(result, Tile(held.layout, held.dtype, held.read, (held,), held))


# -- loops ---------------------------------------------------------------------------------------


def for_tile(low: Lowering, op: ir.ForTile, lower: LowerBlock) -> None:
    """``for (tile = begin; tile < end; tile += block)``."""
    _before_writes(low, op.body)
    begin, end = (low.indexed_value(v) for v in (op.begin, op.end))
    tile, params = op.body.params[0], op.body.params[1:]
    carried = _carried(low, params, op.inits, op.results)
    var = Var(tile.name or "tile", low.index_dtype)
    step = low.size(Size.of(op.block))
    known = low.ranges.tiles[tile]

    def body() -> None:
        extent = Apply("sub", (end, begin), low.index_dtype)
        rounded = add(extent, step, Const(-1, low.index_dtype))
        low.runs[tile] = Run(
            axis_name(tile, op.block.name, known.loop_end), Size.of(op.block), var, end,
            known.loop_end, known.begin, step,
            Apply("floordiv", (rounded, step), low.index_dtype), low.scope, start=begin,
        )  # fmt: skip
        lower(op.body)
        _hand_over(low, carried, op.body.yields)

    scope = _nested(low, body)
    span = op.span
    low.scope.add(Control(lambda: [tir.For(var, begin, end, step, scope.build(), span=span)]))
    _results(low, op.results, carried)


def for_range(low: Lowering, op: ir.ForRange, lower: LowerBlock) -> None:
    """``for (i = begin; i < end; i += step)``."""
    _before_writes(low, op.body)
    index, params = op.body.params[0], op.body.params[1:]
    begin, end, step = (low.scalar(v) for v in (op.begin, op.end, op.step))
    carried = _carried(low, params, op.inits, op.results)
    var = Var(index.name or "i", index.dtype)

    def body() -> None:
        low.bind(index, Tile(Layout(), index.dtype, lambda _: var))
        lower(op.body)
        _hand_over(low, carried, op.body.yields)

    scope = _nested(low, body)
    span = op.span
    low.scope.add(Control(lambda: [tir.For(var, begin, end, step, scope.build(), span=span)]))
    _results(low, op.results, carried)


def while_loop(low: Lowering, op: ir.While, lower: LowerBlock) -> None:
    """A loop with a condition of its own."""
    _before_writes(low, op.cond, op.body)
    carried = _carried(low, op.body.params, op.inits, op.results)
    for param, held in zip(op.cond.params, carried, strict=True):
        low.bind(param, Tile(held.layout, held.dtype, held.read, (held,), held))
    conditions: list[Tile] = []

    def test() -> None:
        lower(op.cond)
        tile = low.tile(op.cond.yields[0])
        low.settle(tile)
        conditions.append(tile)

    def body() -> None:
        lower(op.body)
        _hand_over(low, carried, op.body.yields)

    before = _nested(low, test)
    scope = _nested(low, body)

    def build() -> Body:
        statements = before.build()
        condition = conditions[0].read({})
        return [tir.While(statements, condition, scope.build(), span=op.span)]

    low.scope.add(Control(build))
    _results(low, op.results, carried)


def branch(low: Lowering, op: ir.If, lower: LowerBlock) -> None:
    """A branch that all threads take alike."""
    _before_writes(low, op.then, op.orelse)
    condition = low.tile(op.cond)
    low.settle(condition)
    helds = [Held(low.plan.of(r), r.dtype, r.name, "chosen") for r in op.results]
    lets: Body = [held.keep(held.layout.registers) for held in helds]
    if lets:
        low.scope.add(Control(lambda: lets))

    def arm(block: ir.Block) -> Callable[[], None]:
        def fill() -> None:
            lower(block)
            for number, (held, value) in enumerate(zip(helds, block.yields, strict=True)):
                _overwrite(low, held, low.tile(value, held.layout), _LAST + number)

        return fill

    then, orelse = _nested(low, arm(op.then)), _nested(low, arm(op.orelse))

    def build() -> Body:
        test = condition.read({})
        return [tir.If(test, then.build(), orelse.build(), span=op.span)]

    low.scope.add(Control(build))
    _results(low, op.results, helds)
