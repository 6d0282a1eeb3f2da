"""Loads, stores and atomics: an index becomes a subscript of a window's ref."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    COMPARE,
    TERNARY,
    Eval,
    Expr,
    binary,
    call,
    lit,
    postfix,
    ref,
)
from transpile.emitters.pallas.context import Context, Tile
from transpile.emitters.pallas.dtypes import on_device
from transpile.emitters.pallas.windows import Access, Window, WindowDim
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, index_shape


def lower_load(ctx: Context, op: ir.Load) -> Expr:
    """``x_ref[...]``, with the fill where lanes that something sees are out of range."""
    shape = op.result.shape
    gathers = [e for e in op.index if isinstance(e, ir.AtTensor)]
    if gathers:
        from transpile.emitters.pallas.rows import lower_gathered

        expr = lower_gathered(ctx, op)
    else:
        expr = read(ctx, op)
    if not shape:
        return expr
    guards = tuple(
        g
        for g in op.guards
        if g.tile is not None and not ctx.unseen.hidden(op.result, g.tile, g.dim)
    )
    expr = ctx.masked(expr, guards, shape, 0, op.result.dtype)
    mask = extra_mask(ctx, op)
    if mask is not None:
        zero = lit("0.0" if op.result.dtype.is_float else "0")
        if op.result.dtype.is_bool:
            return ctx.conjunction([mask, expr])
        expr = ctx.select(mask, expr, zero, op.result.dtype, held=True)
    return expr


def extra_mask(ctx: Context, op: Access) -> Expr | None:
    """The access's own mask, and the bounds of slices that may reach beyond the tensor."""
    masks = []
    if op.mask is not None:
        mask = ctx.expr(op.mask)
        if not (mask.is_literal and mask.template == "True"):
            masks.append(mask)
    shape = index_shape(op.index)
    entries = zip(op.index, entry_axes(op.index), op.tensor.shape, strict=True)
    for entry, dims, extent in entries:
        if isinstance(entry, ir.AtSlice) and entry.start is not None:
            begin = ctx.windows.scalars_size(entry.start)
            slack = None if begin is None else extent - begin - entry.length
            if slack is not None and (slack.non_negative or (slack.as_int() or -1) >= 0):
                continue
            line = tuple(s if d == dims[0] else ONE for d, s in enumerate(shape))
            at = binary("+", ctx.expr(entry.start), ctx.lanes(line, dims[0]), ADD, I32, line)
            masks.append(Expr("{0} < {1}", (at, ctx.size(extent)), (ADD, ADD), 4, None, BOOL, line))
    return ctx.conjunction(masks) if masks else None


def read(ctx: Context, op: Access, window: Window | None = None) -> Expr:
    """What the window holds at the index."""
    window = window or ctx.windows.of[op]
    shape = index_shape(op.index)
    dtype = on_device(op.tensor.dtype)
    base = ref(window.ref)
    if window.space == "buffer":
        if (wait := ctx.waits.pop(window, None)) is not None:
            ctx.emit(wait)
        return subscript(base, [ctx.slots[window]], dtype, shape)
    if window.space in ("smem", "prefetch"):
        return subscript(base, [ctx.expr(e.value) for e in op.index], dtype, ())  # type: ignore[union-attr]
    entries, rolls = _subscripts(ctx, op, window)
    expr = subscript(base, entries, dtype, shape)
    if rolls:
        axes = entry_axes(op.index)
        for dim, start, length in rolls:
            expr = _rolled(ctx, expr, axes[dim][0], start, length, shape)
    return expr


def _rolled(
    ctx: Context, expr: Expr, axis: int, start: Expr, length: Size, shape: tuple[Size, ...]
) -> Expr:
    """``length`` positions from ``start`` on of a whole axis: rolled to the front, then cut."""
    ctx.helpers.add("_window")
    return Expr(
        f"_window({{0}}, {{1}}, {{2}}, {axis})", (expr, start, ctx.size(length)), (0, 0, 0),
        dtype=expr.dtype, shape=shape,
    )  # fmt: skip


def subscript(base: Expr, items: list[Expr], dtype: object, shape: tuple[Size, ...]) -> Expr:
    """``base[items]``; trailing whole axes are left out, and all of them are ``...``."""
    while items and items[-1].template == ":":
        items = items[:-1]
    if not items:
        items = [lit("...")]
    slots = ", ".join(f"{{{i + 1}}}" for i in range(len(items)))
    return Expr(
        f"{{0}}[{slots}]", (base, *items), (ATOM, *(TERNARY,) * len(items)), dtype=dtype,  # type: ignore[arg-type]
        shape=shape, is_load=True,
    )  # fmt: skip


Roll = tuple[int, Expr, Size]


def _subscripts(ctx: Context, op: Access, window: Window) -> tuple[list[Expr], list[Roll]]:
    """Subscript entries, and dimensions whose positions start where memory is not aligned."""
    items: list[Expr] = []
    rolls: list[Roll] = []
    for d, (entry, dim) in enumerate(zip(op.index, window.dims, strict=True)):
        if window.unit and d == len(window.dims) - 1:
            items.append(lit("0"))
        if dim.kind == "squeezed":
            continue
        if dim.kind == "block":
            items.append(_within(ctx, entry))
            continue
        item, start, length = _whole(ctx, entry, dim, window, d)
        items.append(item)
        if start is not None and length is not None:
            rolls.append((d, start, length))
    return items, rolls


def _within(ctx: Context, entry: ir.Index) -> Expr:
    """The part of a block that an entry stands for: all of it, or what a loop walks."""
    tile = ctx.tiles[entry.tile] if isinstance(entry, ir.AtTile) else None
    if tile is None or tile.local is None:
        return lit(":")
    return call("pl.ds", tile.local, ctx.block(tile.block))


def _whole(
    ctx: Context, entry: ir.Index, dim: WindowDim, window: Window, d: int
) -> tuple[Expr, Expr | None, Size | None]:
    match entry:
        case ir.AtScalar(value=value):
            return ctx.expr(value), None, None
        case ir.AtSlice(start=None, length=length):
            whole = length == dim.size and not padded(ctx, dim)
            return lit(":") if whole else _range(lit("0"), ctx.size(length)), None, None
        case ir.AtSlice(start=start, length=length):
            assert start is not None
            begin = ctx.windows.scalars_size(start)
            if begin is not None:
                first = ctx.size(begin)
                if begin + length == dim.size and not padded(ctx, dim):
                    return Expr("{0}:", (first,), (TERNARY,)), None, None
                return _range(first, ctx.size(begin + length)), None, None
            return lit(":"), ctx.expr(start), length
        case ir.AtTile(tile=tile, offset=offset):
            return _tile(ctx, ctx.tiles[tile], offset, window, d)
        case _:
            return lit(":"), None, None


def _tile(
    ctx: Context, tile: Tile, offset: ir.Value | None, window: Window, d: int
) -> tuple[Expr, Expr | None, Size | None]:
    block = ctx.block(tile.block)
    shift = None if offset is None else ctx.expr(offset)
    if shift is None or shift.text() == "0":
        return call("pl.ds", aligned(ctx, tile), block), None, None
    if d < len(window.dims) - 2:
        start = binary("+", tile.begin, shift, ADD, I32)
        return call("pl.ds", start, block), None, None
    start = binary("+", tile.begin, shift, ADD, I32)
    return lit(":"), start, Size.of(tile.block)


def aligned(ctx: Context, tile: Tile) -> Expr:
    """Where a tile begins, as Mosaic can see that it is a multiple of its block."""
    return tile.begin


def _range(start: Expr, stop: Expr) -> Expr:
    first = "" if start.text() == "0" else "{0}"
    return Expr(f"{first}:{{1}}", (start, stop), (TERNARY, TERNARY))


def padded(ctx: Context, dim: WindowDim) -> bool:
    """True if the window may be longer than the dimension."""
    return bool(dim.steps)


# -- stores ----------------------------------------------------------------------------------------


def lower_store(ctx: Context, op: ir.Store) -> None:
    """``out_ref[...] = value``; masked lanes keep what they hold."""
    window = ctx.windows.of[op]
    shape = index_shape(op.index)
    value = ctx.expr(op.value)
    ctx.consume(op)
    ctx.settle()
    if any(isinstance(e, ir.AtTensor) for e in op.index):
        from transpile.emitters.pallas.rows import scatter

        scatter(ctx, op, value)
        return
    dtype = on_device(op.tensor.dtype)
    if window.space == "buffer":
        store_block(ctx, window, stored(ctx, value, ir.TileType(dtype, shape), window))
        return
    mask = kept_lanes(ctx, op)
    if window.space == "smem":
        scalar = value if value.shape == () else postfix(value, "[0]", value.dtype)
        emit_store(ctx, read(ctx, op), ctx.cast(scalar, dtype))
        return
    target = read(ctx, op)
    if not target.template.startswith("{0}["):
        raise ctx.unsupported(
            "this store", op.span, "it starts where memory is not aligned to whole tiles",
            "choose block sizes that divide the offset",
        )  # fmt: skip
    if mask is not None:
        held = target
        if (before := ctx.windows.direct.get(op.tensor)) is not None:
            held = read(ctx, op, before)
        value = ctx.select(mask, ctx.cast(value, dtype), held, dtype, held=True)
    emit_store(ctx, target, stored(ctx, value, ir.TileType(dtype, shape), window))


def store_block(ctx: Context, window: Window, value: Expr) -> None:
    """Into the buffer of this turn, as soon as the copy from it has ended; then its next copy."""
    before, after = ctx.writes.get(window, ([], []))
    for stmt in before:
        ctx.emit(stmt)
    emit_store(
        ctx, subscript(ref(window.ref), [ctx.slots[window]], value.dtype, value.shape), value
    )
    for stmt in after:
        ctx.emit(stmt)


def stored(ctx: Context, value: Expr, want: ir.TileType, window: Window) -> Expr:
    """The value with the ref's shape and element type."""
    if value.is_literal or value.shape == () != want.shape:
        return ctx.full(value, want)
    if value.shape != want.shape:
        value = ctx.coerce(value, ir.TileType(value.dtype or want.dtype, want.shape))
    if value.template == "{0}.astype(" + "jnp." and value.dtype == want.dtype:
        return value
    return ctx.cast(value, want.dtype)


def emit_store(ctx: Context, target: Expr, value: Expr) -> None:
    """``target = value``, a cast to the ref's type spelled so."""
    if value.template.startswith("{0}.astype(jnp.") and target.args[0].var is not None:
        inner = value.args[0]
        value = Expr(
            "{0}.astype({1}.dtype)", (inner, target.args[0]), (ATOM, ATOM), dtype=value.dtype,
            shape=value.shape,
        )  # fmt: skip
    ctx.emit(Eval(Expr("{0} = {1}", (target, value), (0, 0))))


def kept_lanes(ctx: Context, op: Access) -> Expr | None:
    """The mask of a store: its own, and the ends of tiles that its window does not end with."""
    window = ctx.windows.of[op]
    shape = index_shape(op.index)
    masks = []
    for guard in op.guards:
        if guard.tile is None:
            continue
        tile = ctx.tiles[guard.tile]
        if not _ends_with(ctx, op, guard, tile, window):
            masks.append(ctx.in_range(tile, shape, guard.dim))
    mask = extra_mask(ctx, op)
    if mask is not None:
        masks.append(mask)
    return ctx.conjunction(masks) if masks else None


def _ends_with(ctx: Context, op: Access, guard: ir.Guard, tile: Tile, window: Window) -> bool:
    """True if what lies beyond the tile's end lies beyond the tensor's: nothing to protect."""
    if tile.lower is not None:
        return False
    if guard.tile in ctx.windows.nested and tile.local is not None:
        return any(isinstance(e, ir.AtTile) and e.tile is guard.tile for e in op.index)
    for entry, axes, extent in zip(op.index, entry_axes(op.index), op.tensor.shape, strict=True):
        if isinstance(entry, ir.AtTile) and axes == (guard.dim,):
            shift = None if entry.offset is None else ctx.windows.scalars_size(entry.offset)
            if entry.offset is None or (shift is not None and shift.as_int() == 0):
                return tile.stop.text() == ctx.size(extent).text()
    return False


# -- atomics ---------------------------------------------------------------------------------------


_COMBINE = {
    "add": "{0} + {1}", "max": "jnp.maximum({0}, {1})", "min": "jnp.minimum({0}, {1})",
    "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "xchg": "{1}",
}  # fmt: skip


def _combined(
    ctx: Context, op: ir.Atomic, target: Expr, value: Expr, shape: tuple[Size, ...]
) -> Expr:
    """What memory holds afterwards."""
    if op.kind == "cas":
        assert op.expected is not None
        found = binary("==", target, ctx.expr(op.expected), COMPARE, BOOL, shape)
        return ctx.select(found, value, target, target.dtype or value.dtype or I32)
    return Expr(
        _COMBINE[op.kind], (target, value), (ADD, ADD), ADD, dtype=target.dtype, shape=shape
    )


def lower_atomic(ctx: Context, op: ir.Atomic) -> None:
    """Grid steps along shared blocks run one after the other, so a plain update does."""
    dtype = on_device(op.tensor.dtype)
    value = ctx.cast(ctx.expr(op.value), dtype)
    if any(isinstance(e, ir.AtTensor) for e in op.index):
        from transpile.emitters.pallas.rows import scatter

        ctx.consume(op)
        ctx.settle()
        scatter(ctx, op, value)
        return
    if op.results and ctx.uses.get(op.result):
        old = read(ctx, op)
        ctx.assign(op.result, old, "previous")
    ctx.consume(op)
    ctx.settle()
    target = read(ctx, op)
    shape = index_shape(op.index)
    mask = kept_lanes(ctx, op)
    if op.kind == "add" and mask is not None and shape:
        zero = lit("0.0" if dtype.is_float else "0")
        value, mask = ctx.select(mask, value, zero, dtype), None
    if op.kind == "add":
        value = value if value.shape == shape else ctx.coerce(value, ir.TileType(dtype, shape))
        ctx.emit(Eval(Expr("{0} += {1}", (target, value), (0, 0))))
        return
    combined = _combined(ctx, op, target, value, shape)
    if mask is not None:
        combined = ctx.select(mask, combined, target, dtype)
    emit_store(ctx, target, ctx.coerce(combined, ir.TileType(dtype, shape)))
