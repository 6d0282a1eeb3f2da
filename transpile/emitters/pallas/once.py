"""Loops over a tile of the grid in one block: they run once, so that their body is the grid
tile's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from transpile.ir import ir
from transpile.ir.ir import Block, Op, TileType, TileVar, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import map_block, map_phases, rebuild, substitute, walk


def run_once(kernel: ir.Kernel, blocks: Mapping[Sym, int]) -> ir.Kernel:
    """The kernel without loops from ``tile.begin`` to ``tile.end`` whose blocks have the tile's
    size. Values are retyped in place: their axes are the outer tile's."""
    return map_phases(kernel, lambda phase: _run_once(phase.body, blocks))


def _run_once(body: Block, blocks: Mapping[Sym, int]) -> Block:
    makers = {r: op for op in walk(body) for r in op.results}
    tiles: dict[Value, Value] = {}
    for op in walk(body):
        if isinstance(op, ir.ForTile) and (outer := _covered(op, makers, blocks)) is not None:
            tiles[op.body.params[0]] = outer
    sizes = {_block(inner): Size.of(_block(outer)) for inner, outer in tiles.items()}
    others = {
        op.block
        for op in walk(body)
        if isinstance(op, ir.ForTile) and op.body.params[0] not in tiles
    }
    if not tiles or others & sizes.keys():
        return body
    _retype(body, sizes)
    swap: dict[Value, Value] = dict(tiles)

    def rewrite(op: Op) -> list[Op] | Op:
        if isinstance(op, ir.SizeOf):
            return dataclasses.replace(op, size=op.size.substitute(sizes))
        if not isinstance(op, ir.ForTile) or op.body.params[0] not in tiles:
            return op
        swap.update(zip(op.body.params[1:], op.inits, strict=True))
        swap.update(zip(op.results, op.body.yields, strict=True))
        for result, value in zip(op.results, op.body.yields, strict=True):
            value.name = result.name or value.name
        return op.body.ops

    return _without_zeros(substitute(map_block(body, rewrite), swap))


def _without_zeros(body: Block) -> Block:
    """Sums that begin with 0, as accumulators of one step do, without it."""
    makers = {r: op for op in walk(body) for r in op.results}
    swap: dict[Value, Value] = {}

    def zero(value: Value | None) -> bool:
        maker = makers.get(value) if value is not None else None
        if isinstance(maker, ir.Full):
            maker = makers.get(maker.value)
        return isinstance(maker, ir.Const) and not maker.value

    def rewrite(op: Op) -> Op | None:
        match op:
            case ir.Dot(acc=acc) if zero(acc) and op.result.dtype == op.acc_dtype:
                return dataclasses.replace(op, acc=None)
            case ir.Elementwise(name="add", args=(a, b)) if zero(a) and b.type == op.result.type:
                b.name = b.name or op.result.name
                swap[op.result] = b
                return None
            case _:
                return op

    return substitute(map_block(body, rewrite), swap)


def _block(tile: Value) -> Sym:
    assert isinstance(tile.type, TileVar)
    return tile.type.block


def _covered(
    loop: ir.ForTile, makers: Mapping[Value, Op], blocks: Mapping[Sym, int]
) -> Value | None:
    """The tile that the loop walks in one step."""
    begin, end = makers.get(loop.begin), makers.get(loop.end)
    if not isinstance(begin, ir.TileAttr) or not isinstance(end, ir.TileAttr):
        return None
    if (begin.attr, end.attr) != ("begin", "end") or begin.tile is not end.tile:
        return None
    size = blocks.get(_block(begin.tile))
    return begin.tile if size is not None and size == blocks.get(loop.block) else None


def _retype(body: Block, sizes: Mapping[Sym, Size]) -> None:
    values = [v for op in walk(body) for v in _values(op)]
    for value in (*values, *body.params):
        if isinstance(value.type, TileType):
            shape = tuple(s.substitute(dict(sizes)) for s in value.shape)
            value.type = TileType(value.dtype, shape)


def _values(op: Op) -> list[Value]:
    """What an operation binds."""
    found = list(op.results)

    def note(block: Block) -> Block:
        found.extend(block.params)
        return block

    rebuild(op, lambda v: v, note)
    return found
