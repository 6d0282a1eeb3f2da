"""Loads, stores and atomics: addresses, guards, vectors, and which copy of an element is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from transpile.ir import ir
from transpile.ir.ops import Number
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, index_shape
from transpile.thread import ir as tir
from transpile.thread.coalesce import access_of_its_own, row_padding
from transpile.thread.context import Lowering, Run, Tile
from transpile.thread.exchange import exchange
from transpile.thread.ir import Body, Const, Convert, Expr, add, both, less, mul
from transpile.thread.layout import Digit, Layout
from transpile.thread.nests import Env, Held

Access = ir.Load | ir.Store | ir.Atomic


@dataclass(eq=False)
class _Address:
    """An access in a layout: where each element is, and whether it exists."""

    low: Lowering
    op: Access
    layout: Layout
    shape: tuple[Size, ...]
    parts: Mapping[int, Tile]  # what index entries are computed from, by number; -1: the mask
    guards: tuple[ir.Guard, ...]  # those that may exclude elements
    runs: Mapping[ir.Value, Run]  # the tiles as they are where the access stands

    def offset(self, env: Env) -> Expr:
        """Linear offset in elements."""
        terms = []
        for number, (entry, dims) in enumerate(self._entries()):
            stride = self.op.tensor.strides[number]
            position = self._position(number, entry, dims, env)
            if stride != Size.of(0) and position != Const(0, self.low.index_dtype):
                terms.append(mul(position, self.low.size(stride)))
        return add(*terms) if terms else Const(0, self.low.index_dtype)

    def _entries(self) -> list[tuple[ir.Index, tuple[int, ...]]]:
        return list(zip(self.op.index, entry_axes(self.op.index), strict=True))

    def _position(self, number: int, entry: ir.Index, dims: tuple[int, ...], env: Env) -> Expr:
        low = self.low
        match entry:
            case ir.AtTile(tile=tile, offset=offset):
                position = low.position(self.runs[tile], self.layout.axes[dims[0]], env)
                return position if offset is None else add(position, self._index(number, env))
            case ir.AtSlice(start=start, length=length):
                run = low.slice_run(length)
                position = low.position(run, self.layout.axes[dims[0]], env)
                return position if start is None else add(self._index(number, env), position)
            case ir.AtScalar() | ir.AtTensor():
                return self._index(number, env)

    @property
    def operands(self) -> list[Tile]:
        """What indices and mask are read from."""
        return list(self.parts.values())

    def _index(self, number: int, env: Env) -> Expr:
        expr = self.parts[number].read(env)
        if isinstance(expr, Const):
            return Const(expr.value, self.low.index_dtype)
        dtype = self.low.index_dtype
        return expr if expr.dtype == dtype else Convert(expr, dtype)

    def conditions(self, env: Env, skip: int | None = None) -> list[Expr]:
        """What must hold for the element to exist; guards of axis ``skip`` left out."""
        guards = [g for g in self.guards if g.dim != skip or self._is_room(g)]
        found = self.low.guard(guards, self.shape, self.layout, env, self.runs)
        for number, (entry, dims) in enumerate(self._entries()):
            if isinstance(entry, ir.AtSlice) and entry.start is not None and dims[0] != skip:
                extent = self.op.tensor.shape[number]
                if not self._inside(entry, extent):
                    position = self._position(number, entry, dims, env)
                    found.append(less(position, self.low.size(extent)))
        if self.op.mask is not None:
            found.append(self.parts[-1].read(env))
        return found

    def _is_room(self, guard: ir.Guard) -> bool:
        """Whether a guard keeps within a tile, whose layout has room for more."""
        if guard.tile is not None:
            return False
        entries = (entry for entry, dims in self._entries() if guard.dim in dims)
        return any(isinstance(entry, ir.AtTile) for entry in entries)

    def _inside(self, entry: ir.AtSlice, extent: Size) -> bool:
        assert entry.start is not None
        begin = self.low.known_size(entry.start)
        if begin is None:
            return False
        slack = (extent - begin - entry.length).substitute(self.low.blocks)
        return slack.non_negative or (slack.as_int() or 0) > 0

    # -- vectors -------------------------------------------------------------------------------

    def vector(self) -> _Vector | None:
        """How whole vectors are accessed, None where elements are accessed one by one."""
        digits = tuple(d for d in self.layout.registers if d.vector)
        if not digits or self.op.mask is not None or self.op.tensor.dtype.is_bool:
            return None  # a vector of conditions need not be laid out as they are in memory
        dims = [d for d, axis in enumerate(self.layout.axes) if set(digits) & set(axis)]
        if len(dims) != 1:
            return None
        dim, width = dims[0], prod(d.count for d in digits)
        along = [n for n, (_, dims) in enumerate(self._entries()) if dim in dims]
        if len(along) != 1 or self.op.tensor.strides[along[0]] != ONE:
            return None
        entry = self.op.index[along[0]]
        if not isinstance(entry, ir.AtTile | ir.AtSlice) or self._bound_within(entry, along[0]):
            return None
        aligned = self._aligned(entry, along[0], width)
        if not aligned and not self.low.limits.unaligned_vectors:
            return None
        run = self._run(entry)
        guarded = any(g.dim == dim for g in self.guards) and self._ragged(dim, entry)
        return _Vector(self, digits, width, dim, run, guarded, aligned)

    def _bound_within(self, entry: ir.AtTile | ir.AtSlice, number: int) -> bool:
        """Whether a slice may end after its dimension does, wherever it starts."""
        if not isinstance(entry, ir.AtSlice) or entry.start is None:
            return False
        return not self._inside(entry, self.op.tensor.shape[number])

    def _run(self, entry: ir.AtTile | ir.AtSlice) -> Run:
        if isinstance(entry, ir.AtTile):
            return self.runs[entry.tile]
        return self.low.slice_run(entry.length)

    def _ragged(self, dim: int, entry: ir.AtTile | ir.AtSlice) -> bool:
        if isinstance(entry, ir.AtTile):
            return True
        return self.low.is_padded(entry.length, self.layout.axes[dim])

    def _aligned(self, entry: ir.AtTile | ir.AtSlice, number: int, width: int) -> bool:
        """Whether every vector starts at a multiple of its length."""
        low = self.low
        facts = low.kernel.multiple_of
        start = entry.offset if isinstance(entry, ir.AtTile) else entry.start
        if start is not None:
            size = low.known_size(start)
            if size is None or not size.substitute(low.blocks).divisible_by(width, facts):
                return False
        if not low.begins_at(self._run(entry), width):
            return False
        return all(
            stride.substitute(low.blocks).divisible_by(width, facts)
            for at, stride in enumerate(self.op.tensor.strides)
            if at != number
        )


@dataclass(eq=False)
class _Vector:
    """An access of vectors along axis ``dim``."""

    address: _Address
    digits: tuple[Digit, ...]
    width: int
    dim: int
    run: Run
    guarded: bool
    aligned: bool

    def parts(self, env: Env) -> tuple[Expr, Expr | None, Expr | None]:
        """Offset of the first component, guard, and the number of components that exist."""
        first = {**env, **{d.loop: Const(0) for d in self.digits}}
        low = self.address.low
        conditions = self.address.conditions(first, self.dim)
        count = None
        if self.guarded:
            position = low.position(self.run, self.address.layout.axes[self.dim], first)
            if self._whole():
                conditions.append(less(position, self.run.end))
            else:
                count = tir.Apply("sub", (self.run.end, position), position.dtype)
        return self.address.offset(first), both(conditions), count

    def _whole(self) -> bool:
        """Whether no vector is cut by the end of the axis."""
        low = self.address.low
        end = self.run.end_size
        if end is None or not low.begins_at(self.run, self.width):
            return False
        return end.substitute(low.blocks).divisible_by(self.width, low.kernel.multiple_of)


def tensor_layout(layout: Layout, entry: ir.AtTensor, shape: tuple[Size, ...]) -> Layout:
    """The layout of an index tile whose axes are axes ``entry.dims`` of the access."""
    return Layout(
        tuple(
            () if size == ONE and shape[dim] != ONE else layout.axes[dim]
            for dim, size in zip(entry.dims, entry.value.shape, strict=True)
        )
    )


def _address(low: Lowering, op: Access, layout: Layout) -> _Address:
    shape = index_shape(op.index)
    parts = {}
    for number, entry in enumerate(op.index):
        match entry:
            case ir.AtTile(offset=ir.Value() as value) | ir.AtSlice(start=ir.Value() as value):
                parts[number] = low.tile(value)
            case ir.AtScalar(value=value):
                parts[number] = low.tile(value)
            case ir.AtTensor(value=value):
                parts[number] = low.tile(value, tensor_layout(layout, entry, shape))
            case _:
                pass
    if op.mask is not None:
        parts[-1] = low.tile(op.mask, low.sub(layout, op.mask.shape, shape))
    guards = tuple(g for g in op.guards if g.tile not in low.whole)
    known = {g.dim for g in guards if g.tile is None}
    padded = (
        ir.Guard(dim, None)
        for dim, (size, digits) in enumerate(zip(shape, layout.axes, strict=True))
        if size != ONE and dim not in known and low.is_padded(size, digits)
    )
    return _Address(low, op, layout, shape, parts, (*guards, *padded), dict(low.runs))


def load(
    low: Lowering,
    op: ir.Load,
    layout: Layout,
    other: Number = 0,
    name: str | None = None,
) -> Tile:
    """Reads a tile, in vectors where memory allows; ``other`` where it is out of range."""
    if own := access_of_its_own(low, op, layout):
        tile, pad = (
            load(low, op, own, other, name),
            row_padding(op.tensor.dtype, uniform=low.limits.uniform),
        )
        return exchange(low, tile, layout, name or op.result.name, op.tensor.name, pad)
    address = _address(low, op, layout)
    vector = address.vector()

    def element(env: Env) -> Expr:
        guard = both(address.conditions(env))
        return tir.Load(op.tensor, address.offset(env), guard=guard, other=other)

    def whole(env: Env) -> Expr:
        assert vector is not None
        offset, guard, count = vector.parts(env)
        width = vector.width
        return tir.Load(op.tensor, offset, width, guard, count, other, vector.aligned)

    inner = _inner(layout, whole=vector is not None)
    return low.define(
        layout, op.tensor.dtype, whole if vector else element, address.operands,
        name=name or op.result.name, hint=op.tensor.name, inner=inner,
        reads=frozenset({op.tensor.storage}), cell=(op.tensor.name, op.index),
    )  # fmt: skip


def store(low: Lowering, op: ir.Store) -> None:
    """Writes a tile: each element by one of the threads that hold it."""
    shape = index_shape(op.index)
    layout = access_layout(low, op.value, shape)
    value, layout = _to_store(low, op, layout, shape)
    address = _address(low, op, layout)
    vector = address.vector()
    if vector is not None:
        value = _as_vector(low, value, layout, op.tensor.name)

    def element(env: Env) -> Body:
        guard = both([low.owner(layout), *address.conditions(env)])
        return [tir.Store(op.tensor, address.offset(env), value.read(env), guard)]

    def whole(env: Env) -> Body:
        assert vector is not None
        assert value.held is not None
        offset, guard, count = vector.parts(env)
        guard = both([low.owner(layout), guard])
        vec = value.held.whole(env)
        return [tir.Store(op.tensor, offset, vec, guard, count, vector.aligned)]

    low.before_write(op.tensor.storage)
    low.effect(
        layout, whole if vector else element, [*address.operands, value],
        inner=_inner(layout, whole=vector is not None),
        writes=frozenset({op.tensor.storage}), cell=(op.tensor.name, op.index),
    )  # fmt: skip


def _to_store(
    low: Lowering, op: ir.Store, layout: Layout, shape: tuple[Size, ...]
) -> tuple[Tile, Layout]:
    """The value to be stored, in the layout in which it is."""
    own = access_of_its_own(low, op, layout) if op.value.shape == shape else None
    if own is None or op.value in low.deferred:
        layout = own or layout
        return low.tile(op.value, low.sub(layout, op.value.shape, shape)), layout
    value, pad = low.tile(op.value, layout), row_padding(op.value.dtype, uniform=low.limits.uniform)
    return exchange(low, value, own, op.value.name, op.tensor.name, pad), own


def _inner(layout: Layout, *, whole: bool) -> tuple[Digit, ...]:
    """The digits that loops around single accesses count; not those within whole vectors."""
    return tuple(d.loop for d in layout.registers if d.inner and not (whole and d.vector))


def _as_vector(low: Lowering, value: Tile, layout: Layout, hint: str) -> Tile:
    """The tile as a value of its own whose registers are vectors."""
    held = value.held
    if held is not None and held.layout.registers == layout.registers:
        return value
    return low.define(layout, value.dtype, value.read, [value], hint=hint)


def access_layout(low: Lowering, value: ir.Value, shape: tuple[Size, ...]) -> Layout:
    """The layout in which a value is written to memory: the one that it is in."""
    usual = low.plan.layout(shape)
    if value.shape != shape:
        return usual
    if value in low.tiles:
        known = low.tiles[value]
        return known.layout if known.sources else usual
    return low.plan.layouts.get(value, usual)


def atomic(low: Lowering, op: ir.Atomic) -> None:
    """Read-modify-write of each element, by one of the threads that hold it."""
    shape = index_shape(op.index)
    layout = access_layout(low, op.value, shape)
    address = _address(low, op, layout)
    operands = [
        low.tile(v, low.sub(layout, v.shape, shape))
        for v in (op.value, op.expected)
        if v is not None
    ]
    result = None
    if op.results and op.result in low.uses:
        result = Held(layout, op.tensor.dtype, op.result.name, "previous")

    def emit(env: Env) -> Body:
        guard = both([low.owner(layout), *address.conditions(env)])
        values = [t.read(env) for t in operands]
        return [
            tir.Atomic(
                op.kind, op.tensor, address.offset(env), values[0],
                values[1] if len(values) > 1 else None, guard,
                None if result is None else result.entry(env), op.sem,
            )
        ]  # fmt: skip

    low.before_write(op.tensor.storage)
    low.effect(
        layout, emit, [*address.operands, *operands], defines=() if result is None else (result,),
        reads=frozenset({op.tensor.storage}), writes=frozenset({op.tensor.storage}),
    )  # fmt: skip
    if result is not None:
        tile = Tile(layout, op.tensor.dtype, result.read, (result,), result)
        if layout.replicas(low.plan.threads):
            tile = low.exchange(tile, layout, op.result)
        low.bind(op.result, tile)
