"""The blocks that a loop over tiles walks, and names for what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.tree import ADD, FLOOR, MUL, UNARY, Expr, binary, call, lit
from transpile.emitters.pallas.context import Context
from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.ir import Value


def axis_name(name: str) -> str:
    """``k`` of ``tile_k``."""
    for affix in ("tile_", "block_", "_tile", "_block"):
        name = name.removeprefix(affix) if affix.endswith("_") else name.removesuffix(affix)
    return "" if name in ("tile", "block") else name


def with_axis(prefix: str, name: str | None) -> str:
    """``start`` and ``tile_k`` make ``start_k``."""
    axis = axis_name(name or "")
    return f"{prefix}_{axis}" if axis else prefix


@dataclass(frozen=True, slots=True)
class LoopBlocks:
    """The blocks that a loop walks: from ``first``, a multiple of ``align``, to ``end``."""

    ctx: Context
    op: ir.ForTile
    begin: Expr
    end: Expr
    block: Expr
    first: Expr
    align: Expr | None
    lower: Expr | None  # where the loop begins, if that is not ``first``

    @property
    def tile(self) -> Value:
        return self.op.body.params[0]

    def position(self, j: Expr, exact: bool = True) -> Expr:
        """Where block ``j`` begins; ``exact``: so that Mosaic sees what it is a multiple of."""
        start = binary("*", j, self.block, MUL, I32)
        if self.first.text() == "0":
            return start
        start = binary("+", self.first, start, ADD, I32)
        if self.align is None or self.tile in self.ctx.windows.nested or not exact:
            return start
        return call("pl.multiple_of", start, self.align, dtype=I32)

    def count(self) -> Expr:
        """Number of blocks."""
        at_zero = self.first.text() == "0"
        extent = self.end if at_zero else binary("-", self.end, self.first, ADD, I32)
        length, size = self.ctx.known(extent), self.ctx.known(self.block)
        if length is not None and size:
            return lit(str(-(-length // size)))
        return call("pl.cdiv", extent, self.block, dtype=I32)

    def number(self) -> Expr:
        """The number of the first block in its dimension."""
        if self.first.text() == "0":
            return self.first
        return floored(self.first if self.lower is None else self.begin, self.block)


def loop_blocks(ctx: Context, op: ir.ForTile, whole: bool) -> LoopBlocks:
    """``whole``: blocks are whole ones of their dimension, whatever the loop begins with."""
    tile, block = op.body.params[0], ctx.block(op.block)
    begin = stable(ctx, ctx.expr(op.begin), with_axis("first", tile.name))
    end = stable(ctx, ctx.expr(op.end), with_axis("end", tile.name))
    align = ctx.sizes.schedule.blocks.get(op.block, 1) if whole else ctx.alignment(tile, op)
    if align == 1:
        return LoopBlocks(ctx, op, begin, end, block, begin, None, None)
    by = block if whole else lit(str(align))
    if ctx.is_multiple(op.begin, align):
        return LoopBlocks(ctx, op, begin, end, block, begin, by, None)
    down = binary("*", floored(begin, by), by, MUL, I32)
    first = ctx.let(with_axis("aligned", tile.name), down, "drop")
    return LoopBlocks(ctx, op, begin, end, block, first, by, begin)


def floored(begin: Expr, align: Expr) -> Expr:
    """``begin // align``."""
    return Expr("{0} // {1}", (begin, align), (UNARY, UNARY), FLOOR, dtype=I32)


def stable(ctx: Context, expr: Expr, name: str) -> Expr:
    """An expression that is read more than once, as a variable."""
    if expr.var is not None or expr.is_literal:
        return expr
    return ctx.let(name, expr, "drop")
