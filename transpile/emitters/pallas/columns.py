"""Row statistics as columns: what a reduction along the last axis leaves keeps an axis of one lane.

The vector unit reduces along lanes to a value per sublane, shape (rows, 1); as a one-dimensional
value it would be turned into lanes and, to meet a row again, back into sublanes. So the result
of such a reduction, and whatever is computed from it lane by lane, keeps its last axis.
"""

from __future__ import annotations

import dataclasses

from transpile.ir import ir
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import ONE
from transpile.ir.walk import map_phases, rebuild, walk

_Loop = ir.ForTile | ir.ForRange | ir.While


def keep_columns(kernel: ir.Kernel) -> ir.Kernel:
    """The kernel with row statistics as columns; values are retyped in place."""
    return map_phases(kernel, lambda phase: _Columns(phase.body).run())


class _Columns:
    """Works on one phase's body."""

    def __init__(self, body: Block) -> None:
        self.body = body
        self.columns: dict[Value, Value] = {}  # value -> its column

    def run(self) -> Block:
        marked: set[Value] = set()
        while True:
            size = len(marked)
            for op in walk(self.body):
                self._mark(op, marked)
            if len(marked) == size:
                break
        if not marked:
            return self.body
        self.columns = {
            v: Value(TileType(v.dtype, (*v.shape, ONE)), v.name)
            for v in sorted(marked, key=lambda v: v.name or "")
        }
        return self._block(self.body)

    # -- which ---------------------------------------------------------------------------------

    def _mark(self, op: Op, marked: set[Value]) -> None:
        match op:
            case ir.Reduce(value=value, dim=dim, keepdim=False):
                if dim == len(value.shape) - 1 and dim > 0:
                    marked.add(op.result)
            case ir.Elementwise(args=args):
                if op.result.shape and any(a in marked for a in args):
                    marked.add(op.result)
            case ir.Cast(value=value, bitcast=False) | ir.Mask(value=value):
                if value in marked:
                    marked.add(op.result)
            case ir.ForTile() | ir.ForRange() | ir.While():
                self._mark_loop(op, marked)
            case ir.If(then=then, orelse=orelse):
                for result, a, b in zip(op.results, then.yields, orelse.yields, strict=True):
                    if a in marked or b in marked:
                        marked.add(result)
            case _:
                return

    def _mark_loop(self, op: _Loop, marked: set[Value]) -> None:
        lead = 0 if isinstance(op, ir.While) else 1
        params = op.body.params[lead:]
        groups = list(zip(op.inits, params, op.body.yields, op.results, strict=True))
        conds = op.cond.params if isinstance(op, ir.While) else params
        for (init, param, out, result), cond in zip(groups, conds, strict=True):
            if init in marked or out in marked or param in marked:
                marked |= {param, result, cond}

    # -- rewriting -----------------------------------------------------------------------------

    def _block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            self._op(op, ops)
        params = tuple(self.columns.get(p, p) for p in block.params)
        return Block(params, ops, block.yields)

    def _op(self, op: Op, ops: list[Op]) -> None:
        wants_column = any(r in self.columns for r in op.results)
        match op:
            case ir.Reduce() if wants_column:
                column = self.columns[op.result]
                new = dataclasses.replace(op, keepdim=True, results=(column,))
                new.value = self._natural(op.value, ops)
                ops.append(new)
            case ir.Elementwise() if wants_column:
                args = tuple(self._column(a, ops) for a in op.args)
                ops.append(dataclasses.replace(op, args=args, results=(self.columns[op.result],)))
            case ir.Cast() | ir.Mask() if wants_column:
                value = self._column(op.value, ops)
                ops.append(dataclasses.replace(op, value=value, results=(self.columns[op.result],)))
            case ir.Reshape(value=value) if value in self.columns:
                column = self.columns[value]
                ops.append(dataclasses.replace(op, value=column))
            case ir.ForTile() | ir.ForRange() | ir.While() | ir.If():
                self._control(op, ops)
            case _:
                ops.append(self._plain(op, ops))

    def _plain(self, op: Op, ops: list[Op]) -> Op:
        return rebuild(op, lambda v: self._natural(v, ops), self._inner)

    def _inner(self, block: Block) -> Block:
        inner = self._block(block)
        tail: list[Op] = []
        yields = tuple(self._natural(y, tail) for y in inner.yields)
        return Block(inner.params, [*inner.ops, *tail], yields)

    def _control(self, op: _Loop | ir.If, ops: list[Op]) -> None:
        wanted = [r in self.columns for r in op.results]
        changes: dict[str, object] = {"results": tuple(self.columns.get(r, r) for r in op.results)}
        if isinstance(op, ir.If):
            changes["cond"] = self._natural(op.cond, ops)
            for name in ("then", "orelse"):
                changes[name] = self._yielding(getattr(op, name), wanted)
        else:
            pairs = zip(op.inits, wanted, strict=True)
            changes["inits"] = tuple(self._as(v, column, ops) for v, column in pairs)
            changes["body"] = self._yielding(op.body, wanted)
            if isinstance(op, ir.While):
                changes["cond"] = self._yielding(op.cond, [False])
            elif isinstance(op, ir.ForTile):
                changes["begin"] = self._natural(op.begin, ops)
                changes["end"] = self._natural(op.end, ops)
        ops.append(dataclasses.replace(op, **changes))  # type: ignore[arg-type]

    def _yielding(self, block: Block, wanted: list[bool]) -> Block:
        inner = self._block(block)
        tail: list[Op] = []
        pairs = zip(inner.yields, wanted, strict=True)
        yields = tuple(self._as(v, column, tail) for v, column in pairs)
        return Block(inner.params, [*inner.ops, *tail], yields)

    def _as(self, value: Value, column: bool, ops: list[Op]) -> Value:
        return self._column(value, ops) if column else self._natural(value, ops)

    def _natural(self, value: Value, ops: list[Op]) -> Value:
        """The value in its own shape."""
        if value not in self.columns:
            return value
        result = Value(value.type, value.name)
        ops.append(ir.Reshape(self.columns[value], results=(result,)))
        return result

    def _column(self, value: Value, ops: list[Op]) -> Value:
        """The value with an axis of one lane behind its own."""
        if value in self.columns:
            return self.columns[value]
        if not value.shape:
            return value
        result = Value(TileType(value.dtype, (*value.shape, ONE)), value.name)
        ops.append(ir.Reshape(value, results=(result,)))
        return result
