"""Splits the ragged last block off a product's loop, so that the others need no mask along it.

Masks along the reduced axis cost a matrix product a tenth of its speed: they keep its loads from
being asynchronous copies of whole lines. The tail is a second loop of no or one iteration, which an
emitter prints as an ``if``; see :func:`is_tail`.
"""

from __future__ import annotations

from collections.abc import Mapping

from transpile.ir import ir
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import clone, map_phases, rebuild, regions, walk


def peel_products(kernel: ir.Kernel, blocks: Mapping[Sym, int]) -> ir.Kernel:
    """The kernel with every loop around a single product split, where its last block is ragged."""

    def rewrite(block: Block, sizes: dict[Value, Size]) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if isinstance(op, ir.SizeOf):
                sizes[op.result] = op.size
            elif isinstance(op, ir.Const) and op.value == 0:
                sizes[op.result] = Size.of(0)
            if (
                isinstance(op, ir.ForTile)
                and _is_product(op)
                and _is_ragged(op, sizes, kernel, blocks)
            ):
                ops += _peeled(op, sizes[op.end])
            elif regions(op):
                ops.append(rebuild(op, lambda v: v, lambda b: rewrite(b, sizes)))
            else:
                ops.append(op)
        return Block(block.params, ops, block.yields)

    return map_phases(kernel, lambda phase: rewrite(phase.body, {}))


def _is_product(op: ir.ForTile) -> bool:
    """The body only loads, converts and multiplies into the carried accumulator."""
    dots = [o for o in walk(op.body) if isinstance(o, ir.Dot)]
    plain = (
        ir.Load, ir.Mask, ir.Cast, ir.Permute, ir.Dot, ir.Const, ir.SizeOf, ir.Elementwise,
        ir.Broadcast, ir.Reshape, ir.TileIndex, ir.TileAttr,
    )  # fmt: skip
    block = Size.of(op.block)
    return (
        len(dots) == 1
        and len(op.inits) == 1
        and dots[0].lhs.shape[-1] == block
        and dots[0].acc in op.body.params
        and all(isinstance(o, plain) for o in op.body.ops)
    )


def _is_ragged(
    op: ir.ForTile, sizes: Mapping[Value, Size], kernel: ir.Kernel, blocks: Mapping[Sym, int]
) -> bool:
    begin, end = sizes.get(op.begin), sizes.get(op.end)
    if begin != Size.of(0) or end is None or op.block not in blocks:
        return False
    return not end.divisible_by(blocks[op.block], kernel.multiple_of)


def _whole(end: Size, block: Sym) -> Size:
    """Where the last block that is whole ends."""
    return end // Size.of(block) * Size.of(block)


def is_tail(begin: Size | None, end: Size | None, block: Sym) -> bool:
    """True if a loop from ``begin`` to ``end`` has no or one iteration, as a peeled tail has."""
    return begin is not None and end is not None and begin == _whole(end, block)


def _peeled(op: ir.ForTile, end: Size) -> list[Op]:
    tile = op.body.params[0]
    name = (tile.name or "tile").removeprefix("tile_").removesuffix("_tile")
    stop = Value(TileType(op.end.dtype), f"whole_{name}" if name != "tile" else "whole")
    between = tuple(Value(r.type, r.name) for r in op.results)
    tail = clone(op.body)
    return [
        ir.SizeOf(_whole(end, op.block), results=(stop,), span=op.span),
        ir.ForTile(
            op.begin, stop, op.block, op.inits, op.body, op.loop, results=between, span=op.span
        ),
        ir.ForTile(stop, op.end, op.block, between, tail, op.loop, results=op.results),
    ]
