"""Walks the depth of a matrix product in steps, where it is a whole dimension of the source.

``x[tile_m, :] @ y[:, tile_n]`` holds whole rows and columns at once, for which a target that
computes products from a small memory of its own has no room. The product becomes a loop that loads
and multiplies a few columns and rows at a time; what else its operands are used for stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from transpile.ir import ir
from transpile.ir.dtypes import I32, I64
from transpile.ir.ir import Block, Guard, Kernel, Op, TileType, TileVar, Value
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import definitions, entry_axes, rebuild, regions, reshape_groups, walk

_ALONE = 32  # depth up to which a product that no loop repeats stays whole
_REPEATED = 256  # the same for one in a loop: its operands may be kept from step to step


def step_products(kernel: Kernel, blocks: dict[Sym, int], step: int = 16) -> Kernel:
    """The kernel with products of long whole dimensions as loops of ``step`` columns and rows.

    ``blocks`` gets the sizes of the new tiles.
    """
    taken = {b.sym.name for b in kernel.blocks}
    made: list[ir.BlockSize] = []
    phases = []
    for phase in kernel.phases:
        stepper = _Stepper(phase.body, blocks, step, taken, kernel.index_dtype is not None)
        body = stepper.block(phase.body, 0)
        made += stepper.made
        phases.append(phase if body is phase.body else dataclasses.replace(phase, body=body))
    if not made:
        return kernel
    blocks |= {b.sym: step for b in made}
    return dataclasses.replace(kernel, phases=tuple(phases), blocks=(*kernel.blocks, *made))


class _Whole(Exception):
    """The operand is not made of loads alone."""


@dataclass(eq=False)
class _Stepper:
    """Rewrites the products of one phase."""

    body: Block
    blocks: Mapping[Sym, int]
    step: int
    taken: set[str]
    wide_index: bool
    made: list[ir.BlockSize] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.makers = definitions(self.body)
        stores = (op for op in walk(self.body) if isinstance(op, ir.Store | ir.Atomic))
        self.written = {op.tensor.storage for op in stores}

    def block(self, block: Block, depth: int) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if isinstance(op, ir.Dot) and self._is_long(op, depth):
                ops += self._loop(op) or [op]
            elif regions(op):
                inside = depth + isinstance(op, ir.ForTile | ir.ForRange | ir.While)
                ops.append(rebuild(op, lambda v: v, partial(self.block, depth=inside)))
            else:
                ops.append(op)
        same = len(ops) == len(block.ops) and all(
            a is b for a, b in zip(ops, block.ops, strict=True)
        )
        return block if same else Block(block.params, ops, block.yields)

    def _is_long(self, op: ir.Dot, depth: int) -> bool:
        size = op.lhs.shape[-1]
        if any(s.kind == "block" for s in size.syms):
            return False
        extent = size.as_int()
        accumulates = op.acc is None or op.acc.dtype == op.acc_dtype
        return accumulates and (extent is None or extent > (_REPEATED if depth else _ALONE))

    def _loop(self, op: ir.Dot) -> list[Op] | None:
        """The loop that the product becomes, None if its operands are needed whole."""
        size = op.lhs.shape[-1]
        sym = self._symbol(size)
        tile = Value(TileVar(sym), f"tile_{sym.name.removeprefix('BLOCK_').lower()}")
        chunk = _Chunk(self.makers, self.written, size, tile, op)
        try:
            lhs = chunk.masked(op.lhs, len(op.lhs.shape) - 1)
            rhs = chunk.masked(op.rhs, len(op.rhs.shape) - 2)
        except _Whole:
            return None
        self.made.append(ir.BlockSize(sym, fixed=Size.of(self.step), extents=(size,)))
        self.taken.add(sym.name)
        before: list[Op] = []
        acc = op.acc or self._zeros(op, before)
        total, carried = (Value(op.result.type, op.result.name or "acc") for _ in range(2))
        chunk.ops.append(ir.Dot(lhs, rhs, carried, op.acc_dtype, op.precision, results=(total,)))
        index = self._index_type()
        begin, end = Value(index), Value(index)
        body = Block((tile, carried), chunk.ops, (total,))
        ops = [
            *before,
            ir.Const(0, results=(begin,)),
            ir.SizeOf(size, results=(end,)),
            ir.ForTile(begin, end, sym, (acc,), body, -1, results=op.results),
        ]
        for made in (*ops, *chunk.ops):
            made.span = made.span or op.span
        return ops

    def _index_type(self) -> TileType:
        return TileType(I64 if self.wide_index else I32)

    def _zeros(self, op: ir.Dot, before: list[Op]) -> Value:
        zero = Value(TileType(op.acc_dtype))
        acc = Value(op.result.type, op.result.name or "acc")
        number = 0.0 if op.acc_dtype.is_float else 0
        before += [ir.Const(number, results=(zero,)), ir.Full(zero, results=(acc,))]
        return acc

    def _symbol(self, size: Size) -> Sym:
        sym = size.as_sym()
        plain = sym is not None and sym.name.isidentifier()
        stem = f"BLOCK_{sym.name.upper()}" if plain and sym is not None else "BLOCK_K"
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        return Sym(name, "block")


@dataclass(eq=False)
class _Chunk:
    """The operations of one step: copies of what makes the operands, for a tile of the depth."""

    makers: Mapping[Value, Op]
    written: set[str]
    size: Size
    tile: Value
    dot: ir.Dot
    ops: list[Op] = field(default_factory=list)
    known: dict[tuple[Value, int], Value] = field(default_factory=dict)

    def masked(self, value: Value, dim: int) -> Value:
        """The step's part of an operand, 0 beyond the end."""
        part = self.part(value, dim)
        return self._emit(ir.Mask(part, (Guard(dim, self.tile),), 0), part.shape, value)

    def part(self, value: Value, dim: int) -> Value:
        """The step's part of a value whose axis ``dim`` is the depth."""
        if (value, dim) not in self.known:
            self.known[value, dim] = self._copy(value, dim)
        return self.known[value, dim]

    def _copy(self, value: Value, dim: int) -> Value:
        maker = self.makers.get(value)
        if isinstance(maker, ir.Mask) and all(g.dim == dim for g in maker.guards):
            return self.part(maker.value, dim)
        rule = None if maker is None else _RULES.get(type(maker))
        if maker is None or rule is None:
            raise _Whole
        shape = tuple(self._step if d == dim else s for d, s in enumerate(value.shape))
        return self._emit(rule(self, maker, dim), shape, value, maker)

    @property
    def _step(self) -> Size:
        assert isinstance(self.tile.type, TileVar)
        return Size.of(self.tile.type.block)

    def _emit(self, op: Op, shape: tuple[Size, ...], like: Value, maker: Op | None = None) -> Value:
        result = Value(TileType(like.dtype, shape), like.name)
        op.results = (result,)
        op.span = maker.span if maker is not None else self.dot.span
        self.ops.append(op)
        return result

    def _arg(self, arg: Value, dim: int) -> Value:
        """An operand of a pointwise operation: the part of it that belongs to the step."""
        has = bool(arg.shape) and arg.shape[dim] == self.size
        return self.part(arg, dim) if has else arg

    # -- one operation -------------------------------------------------------------------------

    def load(self, op: ir.Load, dim: int) -> Op:
        if op.tensor.storage in self.written:
            raise _Whole
        index: list[ir.Index] = []
        for entry, dims in zip(op.index, entry_axes(op.index), strict=True):
            if dim not in dims:
                index.append(entry)
            elif isinstance(entry, ir.AtSlice) and entry.start is None:
                index.append(ir.AtTile(self.tile))
            else:
                raise _Whole
        guards = (*(g for g in op.guards if g.dim != dim), Guard(dim, self.tile))
        mask = op.mask
        if mask is not None:
            shift = len(op.result.shape) - len(mask.shape)
            if dim >= shift and mask.shape[dim - shift] == self.size:
                mask = self.part(mask, dim - shift)
        return ir.Load(op.tensor, tuple(index), guards, mask, op.eviction)

    def elementwise(self, op: ir.Elementwise, dim: int) -> Op:
        return ir.Elementwise(op.name, tuple(self._arg(a, dim) for a in op.args))

    def cast(self, op: ir.Cast, dim: int) -> Op:
        return ir.Cast(self.part(op.value, dim), op.bitcast)

    def mask(self, op: ir.Mask, dim: int) -> Op:
        guards = tuple(g for g in op.guards if g.dim != dim)
        return ir.Mask(self.part(op.value, dim), guards, op.fill)

    def permute(self, op: ir.Permute, dim: int) -> Op:
        return ir.Permute(self.part(op.value, op.order[dim]), op.order)

    def broadcast(self, op: ir.Broadcast, dim: int) -> Op:
        return ir.Broadcast(self._arg(op.value, dim))

    def reshape(self, op: ir.Reshape, dim: int) -> Op:
        groups = reshape_groups(op.value.shape, op.result.shape)
        old = next((o[0] for o, n in groups if n == (dim,) and len(o) == 1), None)
        if old is None or op.value.shape[old] == ONE:
            raise _Whole
        return ir.Reshape(self.part(op.value, old))

    def full(self, op: ir.Full, dim: int) -> Op:
        return ir.Full(op.value)


_RULES: dict[type[Op], Callable[..., Op]] = {
    ir.Load: _Chunk.load, ir.Elementwise: _Chunk.elementwise, ir.Cast: _Chunk.cast,
    ir.Mask: _Chunk.mask, ir.Permute: _Chunk.permute, ir.Broadcast: _Chunk.broadcast,
    ir.Reshape: _Chunk.reshape, ir.Full: _Chunk.full,
}  # fmt: skip
