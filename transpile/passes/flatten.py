"""``flatten_loops``: a multi-dimensional elementwise grid as one axis over all elements.

The tile becomes one-dimensional; the position along each original dimension follows from the flat
one by division and remainder. Only what is computed lane by lane can be flattened; a kernel that
reduces, multiplies matrices or asks where its tiles are keeps its grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from transpile.ir import ir
from transpile.ir.dtypes import I32, DType
from transpile.ir.ir import Block, Op, TileType, TileVar, Value
from transpile.ir.sizes import ONE, ZERO, Size, Sym

_LANEWISE = (
    ir.Load, ir.Store, ir.Elementwise, ir.Cast, ir.Const, ir.SizeOf, ir.HostScalar, ir.Full,
    ir.Broadcast, ir.Reshape,
)  # fmt: skip


def flatten_loops(kernel: ir.Kernel, flags: Sequence[bool]) -> ir.Kernel:
    """The kernel with the flagged multi-dimensional grids flattened, where that can be done."""
    multi = [p for p in kernel.phases if len(p.axes) > 1]
    chosen = [p for p, flag in zip(multi, flags, strict=False) if flag and _can_flatten(p)]
    for number, phase in enumerate(chosen):
        kernel = _flatten(kernel, phase, number)
    return kernel


def _can_flatten(phase: ir.Phase) -> bool:
    if any(a.block is None or a.begin != ZERO for a in phase.axes):
        return False
    return all(isinstance(op, _LANEWISE) and _is_lanewise(op) for op in phase.body.ops)


def _is_lanewise(op: Op) -> bool:
    """An access has one tile or number per dimension; a reshape only moves axes of size 1."""
    if isinstance(op, ir.Load | ir.Store):
        return all(isinstance(e, ir.AtTile | ir.AtScalar) for e in op.index)
    if isinstance(op, ir.Reshape):
        return _wide(op.value.shape) == _wide(op.result.shape)
    return True


def _wide(shape: tuple[Size, ...]) -> list[Size]:
    return [s for s in shape if s != ONE]


def _flatten(kernel: ir.Kernel, phase: ir.Phase, number: int) -> ir.Kernel:
    syms = [a.block for a in phase.axes if a.block is not None]
    name = "BLOCK_SIZE" if number == 0 else f"BLOCK_SIZE_{number + 1}"
    sym = Sym(name, "block")
    fixed, total = ONE, ONE
    for block, axis in zip(syms, phase.axes, strict=True):
        fixed, total = fixed * Size.of(block), total * axis.end
    flat = _Flattener(phase, sym, kernel.index_dtype or I32).run(total)
    phases = tuple(flat if p is phase else p for p in kernel.phases)
    block_size = ir.BlockSize(sym, fixed=fixed, extents=(total,))
    return dataclasses.replace(kernel, phases=phases, blocks=(*kernel.blocks, block_size))


class _Flattener:
    """Rebuilds a phase's body on one-dimensional tiles."""

    def __init__(self, phase: ir.Phase, sym: Sym, index_dtype: DType) -> None:
        self.phase = phase
        self.lanes = (Size.of(sym),)
        self.tile = Value(TileVar(sym), "tile")
        self.index_dtype = index_dtype
        self.env: dict[Value, Value] = {}
        self.positions: dict[Value, Value] = {}
        self.ops: list[Op] = []

    def run(self, total: Size) -> ir.Phase:
        self._locate()
        for op in self.phase.body.ops:
            self._op(op)
        axis = ir.GridAxis(self.tile, ZERO, total, self.tile.type.block)  # type: ignore[union-attr]
        return dataclasses.replace(self.phase, axes=(axis,), body=Block((), self.ops))

    def _locate(self) -> None:
        """Positions along the original axes: the last one is the fastest."""
        rest = self._emit(ir.TileIndex(self.tile), self.index_dtype, self.lanes)
        for axis in reversed(self.phase.axes[1:]):
            size = self._emit(ir.SizeOf(axis.end), self.index_dtype, ())
            position = self._emit(ir.Elementwise("mod", (rest, size)), self.index_dtype, self.lanes)
            position.name = (axis.var.name or "tile").replace("tile", "offs", 1)
            self.positions[axis.var] = position
            rest = self._emit(
                ir.Elementwise("floordiv", (rest, size)), self.index_dtype, self.lanes
            )
        first = self.phase.axes[0].var
        rest.name = (first.name or "tile").replace("tile", "offs", 1)
        self.positions[first] = rest

    def _emit(self, op: Op, dtype: DType, shape: tuple[Size, ...]) -> Value:
        op.results = (Value(TileType(dtype, shape)),)
        self.ops.append(op)
        return op.result

    def _shape(self, shape: tuple[Size, ...]) -> tuple[Size, ...]:
        return self.lanes if _wide(shape) else ()

    def _at(self, value: Value) -> Value:
        return self.env.get(value, value)

    def _op(self, op: Op) -> None:
        match op:
            case ir.Broadcast(value=value) | ir.Reshape(value=value):
                source = self._at(value)
                if source.shape == () and self._shape(op.result.shape):
                    self.env[op.result] = self._emit(
                        ir.Broadcast(source, span=op.span), source.dtype, self.lanes
                    )
                else:
                    self.env[op.result] = source
            case ir.Load() | ir.Store():
                self._access(op)
            case ir.Elementwise(name=name, args=args):
                args = tuple(self._at(a) for a in args)
                self._rebuilt(op, ir.Elementwise(name, args, span=op.span))
            case ir.Cast(value=value, bitcast=bitcast):
                self._rebuilt(op, ir.Cast(self._at(value), bitcast, span=op.span))
            case ir.Full(value=value):
                self._rebuilt(op, ir.Full(self._at(value), span=op.span))
            case _:
                self.ops.append(op)

    def _rebuilt(self, old: Op, new: Op) -> None:
        result = self._emit(new, old.result.dtype, self._shape(old.result.shape))
        result.name = old.result.name
        self.env[old.result] = result

    def _access(self, op: ir.Load | ir.Store) -> None:
        index = tuple(self._entry(e) for e in op.index)
        wide = any(isinstance(e, ir.AtTensor) for e in index)
        guards = (ir.Guard(0, self.tile),) if wide and op.guards else ()
        mask = None if op.mask is None else self._at(op.mask)
        if isinstance(op, ir.Store):
            value = self._at(op.value)
            self.ops.append(
                dataclasses.replace(op, index=index, guards=guards, mask=mask, value=value)
            )
            return
        copy = dataclasses.replace(op, index=index, guards=guards, mask=mask)
        self._rebuilt(op, copy)
        copy.result.type = TileType(op.result.dtype, self.lanes if wide else ())

    def _entry(self, entry: ir.Index) -> ir.Index:
        if isinstance(entry, ir.AtScalar):
            return ir.AtScalar(self._at(entry.value))
        assert isinstance(entry, ir.AtTile)
        position = self.positions[entry.tile]
        if entry.offset is not None:
            position = self._emit(
                ir.Elementwise("add", (position, self._at(entry.offset))),
                self.index_dtype,
                self.lanes,
            )
        return ir.AtTensor(position, (0,))
