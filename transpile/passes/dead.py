"""Dead code: operations without effect whose results nobody uses, carried values included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from transpile.ir import ir
from transpile.ir.ir import Block, Op, Value
from transpile.ir.walk import operands, regions

_EFFECTS = (ir.Store, ir.Atomic, ir.Barrier, ir.Inline)
_T = TypeVar("_T")


def without_dead(body: Block) -> Block:
    """The block without dead operations; the same object if there are none."""
    live = _live_values(body)
    return _strip(body, live)


def has_effect(op: Op) -> bool:
    """Whether an operation does more than give results. A while loop may not end."""
    if isinstance(op, (*_EFFECTS, ir.While)):
        return True
    return any(has_effect(inner) for region in regions(op) for inner in region.ops)


def _live_values(body: Block) -> set[Value]:
    """Values that reach an effect or a yield of the outermost block."""
    live: set[Value] = set(body.yields)
    size = -1
    while len(live) != size:  # loops feed values back
        size = len(live)
        _mark(body, live)
    return live


def _mark(block: Block, live: set[Value]) -> None:
    for op in reversed(block.ops):
        if not _needed(op, live):
            continue
        if isinstance(op, (ir.ForTile, ir.ForRange)):
            _mark_loop(op, live)
        elif isinstance(op, ir.If):
            live.add(op.cond)
            for result, *sides in zip(op.results, op.then.yields, op.orelse.yields, strict=True):
                if result in live:
                    live.update(sides)
        else:
            live.update(operands(op))
            for region in regions(op):
                live.update(region.yields)
        for region in regions(op):
            _mark(region, live)


def _needed(op: Op, live: set[Value]) -> bool:
    return has_effect(op) or any(r in live for r in op.results)


def _mark_loop(op: ir.ForTile | ir.ForRange, live: set[Value]) -> None:
    """A carried value is live if its result is, or if the body needs it."""
    live.update((op.begin, op.end))
    if isinstance(op, ir.ForRange):
        live.add(op.step)
    carried = zip(op.results, op.body.params[1:], op.inits, op.body.yields, strict=True)
    for result, param, init, after in carried:
        if result in live or param in live:
            live.update((result, param, init, after))


def _strip(block: Block, live: set[Value]) -> Block:
    ops = [_strip_op(op, live) for op in block.ops if _needed(op, live)]
    if len(ops) == len(block.ops) and all(a is b for a, b in zip(ops, block.ops, strict=True)):
        return block
    return Block(block.params, ops, block.yields)


def _strip_op(op: Op, live: set[Value]) -> Op:
    if isinstance(op, (ir.ForTile, ir.ForRange)):
        keep = [r in live for r in op.results]
        var, *params = op.body.params
        body = _strip(op.body, live)
        if all(keep):
            return op if body is op.body else dataclasses.replace(op, body=body)
        body = Block((var, *_kept(params, keep)), body.ops, _kept(op.body.yields, keep))
        return dataclasses.replace(
            op, body=body, inits=_kept(op.inits, keep), results=_kept(op.results, keep)
        )
    if isinstance(op, ir.If):
        keep = [r in live for r in op.results]
        blocks = []
        for side in (op.then, op.orelse):
            stripped = _strip(side, live)
            if not all(keep):
                stripped = Block((), stripped.ops, _kept(side.yields, keep))
            blocks.append(stripped)
        if blocks[0] is op.then and blocks[1] is op.orelse:
            return op
        return dataclasses.replace(
            op, then=blocks[0], orelse=blocks[1], results=_kept(op.results, keep)
        )
    return op


def _kept(items: Sequence[_T], keep: Sequence[bool]) -> tuple[_T, ...]:
    return tuple(item for item, wanted in zip(items, keep, strict=True) if wanted)
