"""Tile loops over a whole dimension in one block: the loop goes, its axis is the dimension's."""

from __future__ import annotations

import dataclasses

from transpile.ir import ir
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import ZERO, Size, Sym
from transpile.ir.walk import map_block, rebuild, substitute, walk
from transpile.passes.simplify import simplify_block


def collapse(body: Block, loops: dict[Sym, Size]) -> Block:
    """The body without the loops over these blocks, each of which spans ``0 .. size`` once.

    Sizes of the block symbols become the dimensions'; a tile index becomes a full slice.
    """
    tiles = {op.body.params[0] for op in walk(body)
             if isinstance(op, ir.ForTile) and op.block in loops}  # fmt: skip

    def retype(value: Value) -> None:
        if isinstance(value.type, TileType) and any(s.syms & loops.keys() for s in value.shape):
            shape = tuple(s.substitute(loops) for s in value.shape)
            value.type = TileType(value.dtype, shape)

    for op in walk(body):
        for result in op.results:
            retype(result)
        for name in ("body", "cond", "then", "orelse", "combine"):
            for param in getattr(getattr(op, name, None), "params", ()):
                retype(param)

    swap: dict[Value, Value] = {}

    def rewrite(op: Op) -> list[Op] | Op:
        match op:
            case ir.TileIndex(tile=tile) if tile in tiles:
                return ir.Iota(0, 1, results=op.results, span=op.span)
            case ir.TileAttr(tile=tile) if tile in tiles:
                block = tile.type.block  # type: ignore[union-attr]
                number = {"begin": ZERO, "id": ZERO, "count": Size.of(1)}
                size = number.get(op.attr, loops[block])
                return ir.SizeOf(size, results=op.results, span=op.span)
            case ir.Load() | ir.Store() | ir.Atomic():
                index = tuple(_entry(e, tiles, loops) for e in op.index)
                guards = tuple(g for g in op.guards if g.tile not in tiles)
                return dataclasses.replace(op, index=index, guards=guards)
            case ir.Mask():
                guards = tuple(g for g in op.guards if g.tile not in tiles)
                if guards:
                    return dataclasses.replace(op, guards=guards)
                swap[op.result] = op.value
                return []
            case ir.ForTile(block=block) if block in loops:
                params = op.body.params[1:]
                swap.update(zip(params, op.inits, strict=True))
                swap.update(zip(op.results, op.body.yields, strict=True))
                return op.body.ops
            case _:
                return op

    return simplify_block(_sizes(substitute(map_block(body, rewrite), swap), loops))


def _entry(entry: ir.Index, tiles: set[Value], loops: dict[Sym, Size]) -> ir.Index:
    if isinstance(entry, ir.AtTile) and entry.tile in tiles:
        return ir.AtSlice(entry.offset, loops[entry.tile.type.block])  # type: ignore[union-attr]
    if isinstance(entry, ir.AtSlice):
        return ir.AtSlice(entry.start, entry.length.substitute(dict(loops)))
    return entry


def _sizes(body: Block, sizes: dict[Sym, Size]) -> Block:
    """Sizes in operations that name them."""

    def rewrite(op: Op) -> Op:
        if isinstance(op, ir.SizeOf):
            return dataclasses.replace(op, size=op.size.substitute(sizes))
        return rebuild(op, lambda v: v, lambda b: b)

    return map_block(body, rewrite)
