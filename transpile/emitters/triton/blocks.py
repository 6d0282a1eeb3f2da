"""Accesses of whole blocks through tensor descriptors (TMA).

A descriptor addresses a box of a tensor and checks it against the tensor's own sizes, so an access
qualifies where its tiles end at those sizes and nothing else masks it. One that does not is made
through pointers; so is all of a phase when a tensor turns out at the launch to be misaligned.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from transpile.emitters.common.tree import (
    ADD,
    Assign,
    Eval,
    Expr,
    Var,
    binary,
    call,
    lit,
    ref,
    sequence,
)
from transpile.emitters.triton.context import Context
from transpile.ir import ir
from transpile.ir.dtypes import I32, I64
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, index_shape


@dataclass(frozen=True, slots=True)
class Box:
    """Where a block begins in each dimension of the tensor, and how large it is."""

    tensor: ir.Tensor
    offsets: tuple[Expr, ...]
    shape: tuple[Size, ...]


def box_of(ctx: Context, op: ir.Load | ir.Store) -> Box | None:
    """The block that the access addresses, or None if it is none."""
    if op.mask is not None or ctx.index_dtype == I64:
        return None
    offsets: list[Expr] = []
    shape: list[Size] = []
    entries = zip(op.index, entry_axes(op.index), op.tensor.shape, strict=True)
    for entry, axes, extent in entries:
        guarded = bool(axes) and any(g.dim == axes[0] for g in op.guards)
        match entry:
            case ir.AtScalar(value=value):
                offsets.append(ctx.expr(value))
                shape.append(ONE)
            case ir.AtTile(tile=tile, offset=offset):
                axis = ctx.axes[tile]
                if axis.begin is None or axis.block in ctx.schedule.dynamic_blocks:
                    return None
                if guarded and (offset is not None or axis.end_size != extent):
                    return None
                offsets.append(_sum(axis.begin, None if offset is None else ctx.expr(offset)))
                shape.append(Size.of(tile.type.block))  # type: ignore[union-attr]
            case ir.AtSlice(start=None, length=length):
                offsets.append(lit("0"))
                shape.append(length)
            case _:
                return None
    if all(isinstance(e, ir.AtScalar) for e in op.index):
        return None
    return Box(op.tensor, tuple(offsets), tuple(shape))


def _row_major(box: Box) -> Box:
    """The box as a descriptor can have it: of a column-major matrix, that of its transpose."""
    tensor = box.tensor
    if len(box.shape) != 2 or tensor.strides[-1] == ONE or tensor.strides[0] != ONE:
        return box
    flipped = dataclasses.replace(
        tensor,
        shape=tensor.shape[::-1],
        strides=tensor.strides[::-1],
        host=f"{tensor.host}.t()",
    )
    return Box(flipped, box.offsets[::-1], box.shape[::-1])


def _sum(a: Expr, b: Expr | None) -> Expr:
    return a if b is None else binary("+", a, b, ADD, I32)


def _is_unfit(ctx: Context, box: Box) -> bool:
    """TMA moves rows of at least 16 bytes, of rank 1 to 5, with a dense last dimension.

    One row is moved as well by a coalesced access, which needs neither descriptor nor barrier."""
    lanes = ctx.extent_int(box.shape[-1])
    short = lanes is not None and lanes * box.tensor.dtype.bits < 128
    rows = sum(size != ONE for size in box.shape)
    return short or rows < 2 or len(box.shape) > 5 or box.tensor.strides[-1] != ONE


def load_block(ctx: Context, op: ir.Load) -> Expr | None:
    """The load through a descriptor, or None if it has to use pointers."""
    box = box_of(ctx, op)
    if box is None or ctx.fill_of(op) not in (None, 0):
        return None
    stored = _row_major(box)
    if _is_unfit(ctx, stored):
        return None
    source = ctx.descriptor(stored.tensor, stored.shape)
    expr = Expr(
        "{0}.load({1})", (source, sequence(list(stored.offsets))), (0, 0),
        dtype=op.result.dtype, shape=stored.shape, is_load=True, ordinal=ctx.loads + 1,
    )  # fmt: skip
    if stored is not box:
        return call("tl.trans", expr, dtype=expr.dtype, shape=op.result.shape)
    return _without_units(ctx, expr, op.result.shape)


def _without_units(ctx: Context, expr: Expr, shape: tuple[Size, ...]) -> Expr:
    if len(expr.shape) == len(shape):
        return expr
    return call("tl.reshape", expr, ctx.shape(shape), dtype=expr.dtype, shape=shape)


def store_block(ctx: Context, op: ir.Store, value: Expr) -> bool:
    """Emit the store through a descriptor; False if it has to use pointers."""
    box = box_of(ctx, op)
    if box is None:
        return False
    stored = _row_major(box)
    if _is_unfit(ctx, stored):
        return False
    value = _exact(ctx, value, ir.TileType(op.tensor.dtype, index_shape(op.index)))
    if stored is box and (parts := _subtiles(ctx, op, box)) > 1:
        _store_parts(ctx, op, box, value, parts)
        return True
    if stored is not box:
        value = call("tl.trans", value, dtype=value.dtype, shape=stored.shape)
    elif len(value.shape) != len(box.shape):
        value = call("tl.reshape", value, ctx.shape(box.shape), dtype=value.dtype)
    args = (ctx.descriptor(stored.tensor, stored.shape), sequence(list(stored.offsets)), value)
    ctx.emit(Eval(Expr("{0}.store({1}, {2})", args, (0, 0, 0))))
    return True


def _subtiles(ctx: Context, op: ir.Store, box: Box) -> int:
    """Into how many column blocks the config splits the store (``epilogue_subtile``)."""
    parts = ctx.schedule.config.get("epilogue_subtile") or 1
    lanes = ctx.extent_int(box.shape[-1])
    whole = len(box.shape) == 2 and not isinstance(op.index[0], ir.AtScalar)
    return int(parts) if whole and lanes is not None and lanes >= 16 * int(parts) else 1


def _store_parts(ctx: Context, op: ir.Store, box: Box, value: Expr, parts: int) -> None:
    """Store a tile in blocks of columns, so that less shared memory is needed at a time."""
    rows, columns = box.shape
    width = columns // parts
    pieces = [value]
    size = columns
    while len(pieces) < parts:
        size = size // 2
        pieces = [half for piece in pieces for half in _halves(ctx, piece, rows, size)]
    target = ctx.descriptor(op.tensor, (rows, width))
    for i, piece in enumerate(pieces):
        first = box.offsets[1]
        if i:
            first = binary("+", first, _columns(ctx, width, i), ADD, I32)
        args = (target, sequence([box.offsets[0], first]), piece)
        ctx.emit(Eval(Expr("{0}.store({1}, {2})", args, (0, 0, 0))))


def _columns(ctx: Context, width: Size, count: int) -> Expr:
    return ctx.size(width * count)


def _halves(ctx: Context, value: Expr, rows: Size, width: Size) -> tuple[Expr, Expr]:
    """The left and right half of a tile's columns: a split of a reshaped and permuted tile."""
    shape = sequence([ctx.extent(rows), lit("2"), ctx.size(width)])
    paired = call("tl.permute", call("tl.reshape", value, shape), lit("(0, 2, 1)"))
    left, right = Var("left"), Var("right")
    ctx.emit(Assign((left, right), call("tl.split", paired)))
    tile = (rows, width)
    return ref(left, value.dtype, tile), ref(right, value.dtype, tile)


def _exact(ctx: Context, value: Expr, tile: ir.TileType) -> Expr:
    if value.is_literal or value.shape == ():
        return ctx.full(value, tile)
    return ctx.coerce(value, ir.TileType(value.dtype or tile.dtype, tile.shape))
