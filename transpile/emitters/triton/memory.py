"""Loads, stores and atomics: index -> pointer expression and mask."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    BIT_AND,
    MUL,
    Eval,
    Expr,
    binary,
    call,
    lit,
    postfix,
)
from transpile.emitters.triton.arguments import with_axis
from transpile.emitters.triton.blocks import load_block, store_block
from transpile.emitters.triton.context import Axis, Context, less
from transpile.emitters.triton.dtypes import spell_number
from transpile.emitters.triton.ops import EVICTION
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, index_shape


def placed(expr: Expr, dims: tuple[int, ...], rank: int) -> Expr:
    """A tile whose axes are result axes ``dims``, expanded to ``rank`` axes."""
    if len(expr.shape) < len(dims):
        return expr  # a scalar stands for the tile
    if rank == len(dims) or not dims:
        return expr
    items = [":" if d in dims else "None" for d in range(rank)]
    axes = iter(expr.shape)
    shape = tuple(next(axes) if d in dims else ONE for d in range(rank))
    return postfix(expr, "[" + ", ".join(items) + "]", expr.dtype, shape)


def slice_axis(ctx: Context, size: Size, begin: bool = False) -> Axis:
    """Offsets along a slice of ``size`` elements, bound once at the kernel's start."""
    key = (size, "")
    if key not in ctx.slices:
        if size == ONE:
            ctx.slices[key] = Axis(None, None)
        else:
            body, ctx.body = ctx.body, ctx.top
            name = ctx.size_hint(size)
            offsets = ctx.let(with_axis("offs", name), ctx.offset_dtype(ctx.arange(size)))
            limit = ctx.size(size) if ctx.padded(size) else None
            axis = Axis(offsets, limit)
            if limit is not None:
                axis.mask = ctx.let(with_axis("mask", name), less(offsets, limit), "inline").var
            ctx.slices[key] = axis
            ctx.body = body
    return ctx.slices[key]


def guard_mask(
    ctx: Context, guards: tuple[ir.Guard, ...], shape: tuple[Size, ...], extra: Expr | None = None
) -> Expr | None:
    """The conjunction of guards (and of an extra mask), None if there is nothing to check."""
    total: Expr | None = None
    for guard in sorted(guards, key=lambda g: g.dim):
        axis = ctx.axes[guard.tile] if guard.tile is not None else slice_axis(ctx, shape[guard.dim])
        if axis.mask is None:
            continue
        mask = Expr("", var=axis.mask, dtype=BOOL, shape=(shape[guard.dim],))
        mask = placed(mask, (guard.dim,), len(shape))
        total = mask if total is None else conjunction(ctx, total, mask)
    if extra is not None and not (extra.is_literal and extra.template == "True"):
        total = extra if total is None else conjunction(ctx, total, extra)
    return total


def extra_mask(ctx: Context, op: ir.Load | ir.Store | ir.Atomic) -> Expr | None:
    """The access's own mask, and the bounds of slices that may reach beyond the tensor."""
    total = None if op.mask is None else ctx.expr(op.mask)
    rank = len(index_shape(op.index))
    entries = zip(op.index, entry_axes(op.index), op.tensor.shape, strict=True)
    for entry, dims, extent in entries:
        if not ctx.reaches_beyond(entry, extent):
            continue
        position = _position(ctx, entry)
        assert position is not None
        bound = less(placed(position, dims, rank), ctx.size(extent))
        total = bound if total is None else conjunction(ctx, total, bound)
    return total


def conjunction(ctx: Context, a: Expr, b: Expr) -> Expr:
    """Both masks."""
    return binary("&", a, b, BIT_AND, BOOL, ctx.broadcast(a, b))


def _offset_terms(ctx: Context, tensor: ir.Tensor, index: tuple[ir.Index, ...]) -> list[Expr]:
    rank = len(index_shape(index))
    terms: list[Expr] = []
    for entry, dims, stride in zip(index, entry_axes(index), tensor.strides, strict=True):
        position = _position(ctx, entry)
        if position is None or stride.as_int() == 0:
            continue
        terms.append(_scaled(ctx, placed(position, dims, rank), stride))
    return terms


def _position(ctx: Context, entry: ir.Index) -> Expr | None:
    """Positions along the tensor's dimension; None for position 0."""
    match entry:
        case ir.AtTile(tile=tile, offset=offset):
            expr = ctx.axes[tile].offsets
            return _plus(ctx, expr, None if offset is None else ctx.expr(offset))
        case ir.AtScalar(value=value):
            return _plus(ctx, None, ctx.expr(value))
        case ir.AtSlice(start=start, length=length):
            offsets = slice_axis(ctx, length).offsets
            return _plus(ctx, offsets, None if start is None else ctx.expr(start))
        case ir.AtTensor(value=value):
            return ctx.expr(value)


def _plus(ctx: Context, a: Expr | None, b: Expr | None) -> Expr | None:
    if b is not None and b.is_literal and b.template == "0":
        b = None
    if a is None or b is None:
        return a if b is None else b
    shape = ctx.broadcast(a, b)
    if b.is_literal and b.template.startswith("-"):
        return binary("-", a, lit(b.template[1:]), ADD, a.dtype, shape)
    if b.template == "-{0}":
        return binary("-", a, b.args[0], ADD, a.dtype, shape)
    return binary("+", a, b, ADD, a.dtype, shape)


def _scaled(ctx: Context, position: Expr, stride: Size) -> Expr:
    if stride == ONE:
        return position
    factor = ctx.size(stride)
    if position.is_literal and position.template == "1":
        return factor
    return binary("*", position, factor, MUL, position.dtype or I32, position.shape)


def pointer(ctx: Context, tensor: ir.Tensor, index: tuple[ir.Index, ...]) -> Expr:
    """``x + offs_m[:, None] * n + offs_n[None, :]``."""
    total = ctx.tensor(tensor)
    for term in _offset_terms(ctx, tensor, index):
        shape = ctx.broadcast(total, term)
        total = Expr("{0} + {1}", (total, term), (ADD, ADD), ADD, shape=shape)
    return total


def lower_load(ctx: Context, op: ir.Load) -> Expr:
    """``tl.load`` through a pointer tile, or as the config asks through a block of memory."""
    if ctx.by_descriptor() and (expr := load_block(ctx, op)) is not None:
        ctx.loads += 1
        return expr
    address = pointer(ctx, op.tensor, op.index)
    shape = op.result.shape
    extra = extra_mask(ctx, op)
    covered = [g for g in op.guards if _covers(address, g.dim, len(shape))]
    beside = tuple(g for g in op.guards if g not in covered)
    beside_extra = extra if extra is not None and address.shape == () and extra.shape else None
    mask = guard_mask(ctx, tuple(covered), shape, None if beside_extra is not None else extra)
    fill = ctx.fill_of(op)
    args, template = [address], "tl.load({0}"
    if mask is not None:
        args.append(mask)
        template += ", mask={1}"
        if fill is not None:
            args.append(spell_number(fill, op.result.dtype))
            template += ", other={2}"
    template += _load_options(ctx, op) + ")"
    actual = address.shape if mask is None else ctx.broadcast(address, mask)
    expr = Expr(
        template, tuple(args), (0,) * len(args), ATOM,
        dtype=op.result.dtype, shape=actual, is_load=True, ordinal=ctx.loads,
    )  # fmt: skip
    if fill is None or not (beside or beside_extra is not None):
        return expr
    return _masked_beside(ctx, op, expr, guard_mask(ctx, beside, shape, beside_extra), fill)


def _covers(address: Expr, dim: int, rank: int) -> bool:
    """True if the address varies along result axis ``dim`` (a broadcast dimension does not)."""
    at = dim - (rank - len(address.shape))
    return at >= 0 and address.shape[at] != ONE


def _masked_beside(
    ctx: Context, op: ir.Load, expr: Expr, mask: Expr | None, fill: bool | int | float
) -> Expr:
    """A load that is the same along an axis, masked along it afterwards."""
    if mask is None:
        return expr
    value = spell_number(fill, op.result.dtype)
    return Expr(
        "tl.where({0}, {1}, {2})", (mask, expr, value), (0, 0, 0), ATOM,
        dtype=op.result.dtype, shape=ctx.broadcast(mask, expr),
    )  # fmt: skip


def _load_options(ctx: Context, op: ir.Load) -> str:
    text = ""
    eviction = EVICTION.get(op.eviction, op.eviction) or ctx.schedule.eviction(ctx.loads)
    if eviction:
        text += f', eviction_policy="{eviction}"'
    if modifier := ctx.schedule.load_modifier(ctx.loads):
        text += f', cache_modifier="{modifier}"'
    ctx.loads += 1
    return text


def lower_store(ctx: Context, op: ir.Store) -> None:
    """``tl.store``, likewise."""
    value = strip_cast(ctx, op.value, op.tensor)
    ctx.consume(op)
    if ctx.by_descriptor():
        ctx.settle()
        if store_block(ctx, op, value):
            ctx.stores += 1
            return
    address = pointer(ctx, op.tensor, op.index)
    shape = index_shape(op.index)
    extra = extra_mask(ctx, op)
    mask = guard_mask(ctx, op.guards, shape, extra)
    ctx.settle()
    if address.shape == () and value.shape != ():
        value = call("tl.reshape", value, lit("[]"))
    args, template = [address, value], "tl.store({0}, {1}"
    if mask is not None:
        args.append(mask)
        template += ", mask={2}"
    if modifier := ctx.schedule.store_modifier(ctx.stores):
        template += f', cache_modifier="{modifier}"'
    ctx.stores += 1
    ctx.emit(Eval(Expr(template + ")", tuple(args), (0,) * len(args))))


def strip_cast(ctx: Context, value: ir.Value, tensor: ir.Tensor) -> Expr:
    """The value to store; ``tl.store`` converts floats by itself."""
    expr = ctx.expr(value)
    if expr.template.startswith("{0}.to(") and "bitcast" not in expr.template:
        inner = expr.args[0]
        alike = inner.dtype is not None and inner.dtype.category == tensor.dtype.category
        if alike and expr.dtype == tensor.dtype and not tensor.dtype.is_bool:
            return inner
    return expr


def lower_atomic(ctx: Context, op: ir.Atomic) -> None:
    """``tl.atomic_*``; the previous value is bound if it is used."""
    value = ctx.coerce(ctx.expr(op.value), ir.TileType(op.tensor.dtype, op.value.shape))
    ctx.consume(op)
    address = pointer(ctx, op.tensor, op.index)
    shape = index_shape(op.index)
    extra = extra_mask(ctx, op)
    mask = guard_mask(ctx, op.guards, shape, extra)
    ctx.settle()
    if op.kind == "cas":
        assert op.expected is not None
        expected = ctx.coerce(ctx.expr(op.expected), ir.TileType(op.tensor.dtype, op.value.shape))
        args, template = [address, expected, value], "tl.atomic_cas({0}, {1}, {2}"
    else:
        args, template = [address, value], f"tl.atomic_{op.kind}({{0}}, {{1}}"
        if mask is not None:
            template += f", mask={{{len(args)}}}"
            args.append(mask)
    template += f', sem="{op.sem}")'
    expr = Expr(template, tuple(args), (0,) * len(args), ATOM, dtype=op.tensor.dtype, shape=shape)
    if op.results and ctx.uses.get(op.result):
        ctx.assign(op.result, expr, "previous")
    else:
        ctx.emit(Eval(expr))
