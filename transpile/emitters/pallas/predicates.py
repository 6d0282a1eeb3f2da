"""New axes of truth values go to what they are computed from.

Mosaic moves numbers between lanes and sublanes, truth values it does not; and the positions of a
tile are made along any axis for free. So ``(rows < n)[:, None]`` becomes ``rows[:, None] < n``.
"""

from __future__ import annotations

import dataclasses

from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import definitions, map_block, map_phases


def sink_new_axes(kernel: ir.Kernel) -> ir.Kernel:
    """The kernel without reshapes of truth values."""
    return map_phases(kernel, lambda phase: _Sinker(phase.body).run())


class _Sinker:
    def __init__(self, body: Block) -> None:
        self.body = body
        self.makers = definitions(body)

    def run(self) -> Block:
        return map_block(self.body, self._op)

    def _op(self, op: Op) -> list[Op] | Op:
        if not isinstance(op, ir.Reshape) or not op.result.dtype.is_bool or not op.value.shape:
            return op
        ops: list[Op] = []
        made = self._reshaped(op.value, op.result.shape, ops, op.result.name)
        if not ops or ops[-1].results[0] is not made:
            return op
        ops[-1].results = (op.result,)
        return ops

    def _reshaped(
        self, value: Value, shape: tuple[Size, ...], ops: list[Op], name: str | None = None
    ) -> Value:
        """The value in a shape that has the same axes but for those of 1."""
        if value.shape == ():
            return value
        maker = self.makers.get(value)
        mine = [s for s in value.shape if s != ONE]
        if isinstance(maker, ir.Elementwise) and mine == [s for s in shape if s != ONE]:
            same = all(
                a.shape == () or [s for s in a.shape if s != ONE] in (mine, []) for a in maker.args
            )
            if same:
                args = tuple(self._reshaped(a, _like(a, value, shape), ops) for a in maker.args)
                return _emit(ops, dataclasses.replace(maker, args=args), value, shape, name)
        if value.dtype.is_bool:
            number = Value(TileType(I32, value.shape))
            ops.append(ir.Cast(value, results=(number,)))
            moved = Value(TileType(I32, shape))
            ops.append(ir.Reshape(number, results=(moved,)))
            return _emit(ops, ir.Cast(moved), value, shape, name)
        return _emit(ops, ir.Reshape(value), value, shape, name)


def _like(arg: Value, value: Value, shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """The shape of an operand of ``value`` once ``value`` has ``shape``."""
    return shape if any(s != ONE for s in arg.shape) else (ONE,) * len(shape)


def _emit(ops: list[Op], op: Op, like: Value, shape: tuple[Size, ...], name: str | None) -> Value:
    result = Value(TileType(like.dtype, shape), name)
    op.results = (result,)
    ops.append(op)
    return result
