"""Lowering of the operations without side effects to jax expressions."""

from __future__ import annotations

import re
from collections.abc import Callable

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    MUL,
    TERNARY,
    Expr,
    binary,
    call,
    lit,
    postfix,
    retyped,
)
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.dtypes import NAMES, spell_number
from transpile.emitters.pallas.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I32
from transpile.ir.sizes import ONE, Size


def lower_const(ctx: Context, op: ir.Const) -> Expr:
    """A literal."""
    return spell_number(op.value, op.result.dtype)


def lower_size(ctx: Context, op: ir.SizeOf) -> Expr:
    """A size of the host program; one that depends on a number passed at run time is in SMEM."""
    if any(s.kind == "scalar" for s in op.size.syms):
        return Expr("{0}[0]", (ctx.number(op.size),), (ATOM,), dtype=I32, is_load=True)
    return ctx.size(op.size)


def lower_host_scalar(ctx: Context, op: ir.HostScalar) -> Expr:
    """A number from SMEM."""
    var = ctx.scalar(op.name)
    return Expr("{0}[0]", (var,), (ATOM,), dtype=op.result.dtype)


def lower_tile_index(ctx: Context, op: ir.TileIndex) -> Expr:
    """Positions of a tile."""
    return ctx.positions(ctx.tiles[op.tile], op.result.shape, 0)


def lower_tile_attr(ctx: Context, op: ir.TileAttr) -> Expr:
    """A scalar of a tile."""
    tile = ctx.tiles[op.tile]
    block = ctx.block(tile.block)
    match op.attr:
        case "begin":
            return tile.begin
        case "id":
            if tile.id is not None:
                return tile.id
            return binary("//", tile.begin, block, MUL, dtype=I32)
        case "end":
            stop = binary("+", tile.begin, block, ADD, dtype=I32)
            return call("jnp.minimum", stop, tile.stop, dtype=I32)
        case "count":
            extent = tile.stop
            if tile.first is not None and tile.first.text() != "0":
                extent = binary("-", extent, tile.first, ADD, dtype=I32)
            return call("pl.cdiv", extent, block, dtype=I32)


# -- elementwise -----------------------------------------------------------------------------------


def lower_elementwise(ctx: Context, op: ir.Elementwise) -> Expr:
    """An operation of the op table."""
    spelling = ELEMENTWISE.get(op.name)
    if spelling is None:
        raise ctx.unsupported(f"`{op.name}`", op.span, "Mosaic has no such operation")
    args = _arguments(ctx, op)
    if spelling.helper:
        ctx.helpers.add(spelling.helper)
    if op.name == "floordiv" and op.result.dtype.is_float:
        quotient = binary("/", args[0], args[1], MUL, F32, ctx.broadcast(*args))
        return call("jnp.floor", quotient, dtype=op.result.dtype, shape=quotient.shape)
    if op.name == "where" and all(a.is_literal for a in args[1:]):
        args[1] = ctx.full(args[1], ir.TileType(op.result.dtype))
    if op.name == "where":
        cond, value, other = args
        return ctx.select(cond, value, other, op.result.dtype, held=ctx.holds(op.result))
    if op.name in ("fmax", "fmin") and not op.result.dtype.is_float:
        spelling = ELEMENTWISE["maximum" if op.name == "fmax" else "minimum"]
    if all(a.is_literal for a in args):
        name = lit(NAMES[op.args[0].dtype])
        args[0] = call("jnp.full", lit("()"), args[0], name, dtype=op.args[0].dtype)
    host = all(a.is_literal or ctx.is_host_number(a) for a in args)
    if host and op.name in ("maximum", "minimum"):
        return call(op.name.removesuffix("imum"), *args, dtype=I32)
    return Expr(
        spelling.template, tuple(args), spelling.needs[: len(args)], spelling.prec,
        dtype=op.result.dtype, shape=ctx.broadcast(*args),
    )  # fmt: skip


def _arguments(ctx: Context, op: ir.Elementwise) -> list[Expr]:
    if op.result in ctx.replicated:
        return [ctx.held(a) for a in op.args]
    return [ctx.across(a, op.result.shape[-1]) if a in ctx.replicated else ctx.expr(a)
            for a in op.args]  # fmt: skip


def lower_cast(ctx: Context, op: ir.Cast) -> Expr:
    """``x.astype(dtype)``."""
    value = ctx.held(op.value) if op.result in ctx.replicated else ctx.expr(op.value)
    dtype = op.result.dtype
    if op.bitcast:
        return call(
            "lax.bitcast_convert_type", ctx.exact(op.value), lit(NAMES[dtype]), dtype=dtype,
            shape=value.shape,
        )  # fmt: skip
    if value.is_literal:
        return value
    if dtype.is_bool and not op.value.dtype.is_bool:
        return Expr("{0} != 0", (value,), (ADD,), 4, dtype=BOOL, shape=value.shape)
    if ctx.is_host_number(value) and dtype.is_int:
        return value
    if ctx.is_host_number(value) and dtype == F32:
        return value  # a Python number is weakly typed
    return ctx.cast(value, dtype)


# -- shapes ----------------------------------------------------------------------------------------


def lower_reshape(ctx: Context, op: ir.Reshape) -> Expr:
    """New axes as subscripts, anything else as ``jnp.reshape``."""
    target = op.result.shape
    if op.value in ctx.replicated and target == op.value.shape[:-1]:
        return ctx.first_lane(op.value)
    value = ctx.expr(op.value)
    if value.is_literal or value.shape == ():
        return value
    maker = ctx.makers.get(op.value)
    if isinstance(maker, ir.TileIndex) and (place := _only_axis(target)) is not None:
        return ctx.positions(ctx.tiles[maker.tile], target, place)
    if isinstance(maker, ir.Iota) and (place := _only_axis(target)) is not None:
        return _iota(ctx, maker, target, place)
    value = ctx.coerce(value, ir.TileType(value.dtype or op.value.dtype, op.value.shape))
    if (subscript := newaxis(op.value.shape, target)) is not None:
        return postfix(value, subscript, value.dtype, target)
    if (subscript := _dropped(op.value.shape, target)) is not None:
        if (reduced := _without_kept_axis(value, target)) is not None:
            return reduced
        return postfix(value, subscript, value.dtype, target)
    return call("jnp.reshape", value, ctx.shape(target), dtype=value.dtype, shape=target)


def _only_axis(shape: tuple[Size, ...]) -> int | None:
    """The one axis of a shape that is not 1."""
    places = [i for i, s in enumerate(shape) if s != ONE]
    return places[0] if len(places) == 1 else None


def newaxis(old: tuple[Size, ...], new: tuple[Size, ...]) -> str | None:
    """The subscript that inserts axes of size 1 and changes nothing else."""
    items: list[str] = []
    i = 0
    for size in new:
        left = len(new) - len(items) > len(old) - i
        if i < len(old) and old[i] == size and not (size == ONE and left):
            items.append(":")
            i += 1
        elif size == ONE:
            items.append("None")
        else:
            return None
    return "[" + ", ".join(items) + "]" if i == len(old) else None


def _dropped(old: tuple[Size, ...], new: tuple[Size, ...]) -> str | None:
    """The subscript that takes position 0 of axes of size 1 away."""
    items: list[str] = []
    i = 0
    for size in old:
        left = len(old) - len(items) > len(new) - i
        if i < len(new) and new[i] == size and not (size == ONE and left):
            items.append(":")
            i += 1
        elif size == ONE:
            items.append("0")
        else:
            return None
    return "[" + ", ".join(items) + "]" if i == len(new) else None


_KEPT = re.compile(r", axis=(\d+), keepdims=True\)$")


def _without_kept_axis(value: Expr, target: tuple[Size, ...]) -> Expr | None:
    """A reduction that drops the axis itself."""
    if value.template.startswith("{0}.astype("):
        inner = _without_kept_axis(value.args[0], target)
        return (
            None if inner is None else retyped(value, args=(inner, *value.args[1:]), shape=target)
        )
    kept = _KEPT.search(value.template)
    if kept is None:
        return None
    axis = int(kept[1])
    if (*value.shape[:axis], *value.shape[axis + 1 :]) != target:
        return None
    return retyped(value, template=_KEPT.sub(f", axis={axis})", value.template), shape=target)


def lower_broadcast(ctx: Context, op: ir.Broadcast) -> Expr:
    """The operand itself."""
    return ctx.expr(op.value)  # jax broadcasts; ctx.exact() does where it would not


def lower_permute(ctx: Context, op: ir.Permute) -> Expr:
    """``x.T`` or ``jnp.transpose``."""
    shape = op.result.shape
    if (stacked := _stacked(ctx, op)) is not None:
        return stacked
    value = ctx.exact(op.value)
    if value.shape == ():
        return value
    if op.order == (1, 0):
        return postfix(value, ".T", value.dtype, shape)
    order = lit("(" + ", ".join(map(str, op.order)) + ")")
    return call("jnp.transpose", value, order, dtype=value.dtype, shape=shape)


def _stacked(ctx: Context, op: ir.Permute) -> Expr | None:
    """Two tiles joined and then turned are stacked along another axis than the last, which would be
    two lanes of 128."""
    maker = ctx.makers.get(op.value)
    last = len(op.order) - 1
    if not isinstance(maker, ir.Join) or [d for d in op.order if d != last] != list(range(last)):
        return None
    if any(v not in ctx.values for v in (maker.lhs, maker.rhs)):
        return None
    lhs, rhs = ctx.exact(maker.lhs), ctx.exact(maker.rhs)
    return Expr(
        f"jnp.stack([{{0}}, {{1}}], axis={op.order.index(last)})", (lhs, rhs), (0, 0),
        dtype=op.result.dtype, shape=op.result.shape,
    )  # fmt: skip


def lower_join(ctx: Context, op: ir.Join) -> Expr:
    """Two tiles stacked along a new last axis."""
    lhs, rhs = ctx.exact(op.lhs), ctx.exact(op.rhs)
    return Expr(
        "jnp.stack([{0}, {1}], axis=-1)", (lhs, rhs), (0, 0), dtype=op.result.dtype,
        shape=op.result.shape,
    )  # fmt: skip


def lower_iota(ctx: Context, op: ir.Iota) -> Expr:
    """Counting numbers."""
    return _iota(ctx, op, op.result.shape, 0)


def _iota(ctx: Context, op: ir.Iota, shape: tuple[Size, ...], dim: int) -> Expr:
    expr = ctx.lanes(shape, dim)
    if op.step != 1:
        expr = binary("*", expr, lit(str(op.step)), MUL, expr.dtype, expr.shape)
    if op.start:
        expr = binary("+", expr, lit(str(op.start)), ADD, expr.dtype, expr.shape)
    return ctx.cast(expr, op.result.dtype)


def lower_full(ctx: Context, op: ir.Full) -> Expr:
    """A tile of one number."""
    scalar = ctx.expr(op.value)
    return ctx.full(scalar, op.result.tile) if op.result.name is not None else scalar


def lower_mask(ctx: Context, op: ir.Mask) -> Expr:
    """The value with out-of-range lanes reset, where something sees them."""
    value = ctx.expr(op.value)
    if value.shape != op.result.shape:
        value = ctx.coerce(value, op.result.tile)
    guards = tuple(
        g
        for g in op.guards
        if g.tile is not None and not ctx.unseen.hidden(op.result, g.tile, g.dim)
    )
    return ctx.masked(value, guards, op.result.shape, op.fill, op.result.dtype)


# -- reductions, products --------------------------------------------------------------------------


def lower_reduce(ctx: Context, op: ir.Reduce) -> Expr:
    """A reduction along one axis."""
    spelling = REDUCTIONS.get(op.name)
    if spelling is None:
        raise ctx.unsupported(f"the reduction `{op.name}`", op.span, "Mosaic has no such reduction")
    value = ctx.exact(op.value)
    if spelling.helper:
        ctx.helpers.add(spelling.helper)
    keep = ", keepdims=True" if op.keepdim else ""
    dtype = op.result.dtype
    if op.name in ("argmax", "argmin") and op.value.dtype != F32:
        ctx.helpers.add("_arg_extreme")
        extreme = "jnp.max" if op.name == "argmax" else "jnp.min"
        template = f"_arg_extreme({{0}}, {extreme}, axis={op.dim}{keep})"
        return Expr(template, (value,), (0,), dtype=I32, shape=op.result.shape)
    template = f"{spelling.function}({{0}}, axis={op.dim}{keep})"
    return Expr(template, (value,), (0,), dtype=dtype, shape=op.result.shape)


def lower_dot(ctx: Context, op: ir.Dot) -> Expr:
    """``acc + jnp.dot(lhs, rhs)``; a transposed operand is contracted where it stands."""
    product = ctx.cast(_product(ctx, op), op.acc_dtype)
    if op.acc is None:
        return ctx.cast(product, op.result.dtype)
    acc = ctx.expr(op.acc)
    if acc.is_literal and acc.template in ("0", "0.0"):
        return ctx.cast(product, op.result.dtype)
    if acc.template == "jnp.zeros({0}, {1})":
        return ctx.cast(product, op.result.dtype)
    total = binary("+", ctx.expr(op.acc), product, ADD, op.acc_dtype, op.result.shape)
    return ctx.cast(total, op.result.dtype)


def _product(ctx: Context, op: ir.Dot) -> Expr:
    rank = len(op.result.shape)
    wide = F32 if op.acc_dtype.is_float else I32
    lhs, rhs = op.lhs, op.rhs
    swap = (*range(rank - 2), rank - 1, rank - 2)
    turned = [_turned(ctx, v, swap) for v in (lhs, rhs)]
    keywords = f"preferred_element_type={NAMES[wide]}"
    args = tuple(ctx.exact(t or v) for t, v in zip(turned, (lhs, rhs), strict=True))
    if lhs.dtype == F32 and op.precision in ("ieee", "tf32x3"):
        keywords += ", precision={2}"
        args = (*args, lit("lax.Precision.HIGHEST"))
    needs = (TERNARY,) * len(args)
    if rank == 2 and turned == [None, None]:
        return Expr(
            f"jnp.dot({{0}}, {{1}}, {keywords})", args, needs, dtype=wide, shape=op.result.shape
        )
    batch = ", ".join(map(str, range(rank - 2)))
    batch = f"({batch},)" if batch else "()"
    contract = tuple(
        rank - 1 if (side == 0) != (t is not None) else rank - 2 for side, t in enumerate(turned)
    )
    dims = f"((({contract[0]},), ({contract[1]},)), ({batch}, {batch}))"
    if (contract, batch) == ((1, 1), "()"):
        dims = "_NT_DIMS"
        ctx.helpers.add(dims)
    return Expr(
        f"lax.dot_general({{0}}, {{1}}, {dims}, {keywords})", args, needs, dtype=wide,
        shape=op.result.shape,
    )  # fmt: skip


def _turned(ctx: Context, value: ir.Value, swap: tuple[int, ...]) -> ir.Value | None:
    """What is transposed to give the operand, if it is."""
    maker = ctx.makers.get(value)
    if isinstance(maker, ir.Permute) and maker.order == swap and maker.value in ctx.values:
        return maker.value
    return None


def lower_gather(ctx: Context, op: ir.Gather) -> Expr:
    """``torch.gather`` as a product with one-hot columns, which the vector unit does have."""
    value, index = ctx.exact(op.value), ctx.exact(op.index)
    ctx.helpers.add("_take")
    template = f"_take({{0}}, {{1}}, {op.dim})"
    return Expr(template, (value, index), (0, 0), dtype=value.dtype, shape=op.result.shape)


def lower_random(ctx: Context, op: ir.Random) -> Expr:
    """Philox, as the source dialect has it."""
    seed, offset = ctx.expr(op.seed), ctx.exact(op.offset)
    ctx.helpers.add("_philox")
    word = call("_philox", seed, offset, dtype=I32, shape=op.result.shape)
    if op.kind == "uniform":
        ctx.helpers.add("_uniform")
        return call("_uniform", word, dtype=F32, shape=op.result.shape)
    return call(
        "lax.bitcast_convert_type", word, lit("jnp.int32"), dtype=I32, shape=op.result.shape
    )


PURE: dict[type[ir.Op], Callable[..., Expr]] = {
    ir.Const: lower_const,
    ir.SizeOf: lower_size,
    ir.HostScalar: lower_host_scalar,
    ir.TileIndex: lower_tile_index,
    ir.TileAttr: lower_tile_attr,
    ir.Elementwise: lower_elementwise,
    ir.Cast: lower_cast,
    ir.Reshape: lower_reshape,
    ir.Broadcast: lower_broadcast,
    ir.Permute: lower_permute,
    ir.Join: lower_join,
    ir.Iota: lower_iota,
    ir.Full: lower_full,
    ir.Mask: lower_mask,
    ir.Reduce: lower_reduce,
    ir.Dot: lower_dot,
    ir.Gather: lower_gather,
    ir.Random: lower_random,
}
