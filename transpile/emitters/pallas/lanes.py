"""Row statistics in scratch memory, with the same number in all lanes of a register.

A column of shape (rows, 1) takes the registers of (rows, 128) and uses one lane of each: what is
read back from memory has to be copied to the other lanes before it meets a row. A reduction along
lanes leaves its result in every lane, so a column that one grid step leaves to the next is kept in
that form, of shape (rows, 128), and what is computed from it lane by lane as well. To meet a
row of another length it is repeated, which moves nothing.
"""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.dtypes import F32
from transpile.ir.ir import Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import operands, walk

LANES = Size.of(128)


def replicated_columns(loop: ir.ForTile, body: ir.Block) -> set[Value]:
    """Columns of ``body`` to keep in every lane: those that ``loop`` carries and combines with
    rows, and what follows from them."""
    carried = list(zip(loop.body.params[1:], loop.body.yields, loop.results, strict=True))
    seeds = {param for param, _, _ in carried if _meets_rows(loop, param)}
    found: set[Value] = set()
    while seeds - found:
        found |= seeds
        seeds = {op.result for op in walk(body) if _follows(op, found)}
        for param, out, result in carried:
            if _is_column(param) and param.dtype == F32 and found & {param, out}:
                seeds |= {param, result}
    return found


def _is_column(value: Value) -> bool:
    if not isinstance(value.type, ir.TileType) or len(value.shape) < 2:
        return False
    return value.shape[-1] == ONE != value.shape[-2]


def _meets_rows(loop: ir.ForTile, param: Value) -> bool:
    """True if the loop combines the column, or one that follows from it, with longer rows."""
    if not _is_column(param) or param.dtype != F32:
        return False
    reached = {param}
    for op in walk(loop.body):
        if isinstance(op, ir.Elementwise | ir.Broadcast) and reached & set(operands(op)):
            if not _is_column(op.result):
                return True
            reached.add(op.result)
    return False


def _follows(op: ir.Op, found: set[Value]) -> bool:
    """True for a column computed lane by lane from one that is in every lane."""
    if not isinstance(op, ir.Elementwise | ir.Cast) or not _is_column(op.result):
        return False
    return bool(found & set(operands(op))) and not (isinstance(op, ir.Cast) and op.bitcast)
