"""Traversal and rewriting of IR, generic over the operations of ``ir.py``.

Operands are found by field type, so an operation added to ``ir.py`` is traversed without a
change here. Operands inside an operation's regions are not its own; use :func:`walk` for those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from transpile.ir.ir import (
    AtScalar,
    AtSlice,
    AtTensor,
    AtTile,
    Block,
    Guard,
    Index,
    Kernel,
    Op,
    Phase,
    Value,
)
from transpile.ir.sizes import Size

_OpT = TypeVar("_OpT", bound=Op)
_OPERAND_FIELDS: dict[type[Op], tuple[str, ...]] = {}


def _fields(kind: type[Op]) -> tuple[str, ...]:
    """The fields of an operation class that may hold operands or regions."""
    if kind not in _OPERAND_FIELDS:
        names = (f.name for f in dataclasses.fields(kind))
        _OPERAND_FIELDS[kind] = tuple(n for n in names if n not in ("results", "span", "attrs"))
    return _OPERAND_FIELDS[kind]


def operands(op: Op) -> Iterator[Value]:
    """The values an operation uses directly: arguments, index entries, guards' tiles, masks."""
    for name in _fields(type(op)):
        yield from _values_in(getattr(op, name))


def regions(op: Op) -> tuple[Block, ...]:
    """The operation's blocks, in field order."""
    found = (getattr(op, name) for name in _fields(type(op)))
    return tuple(f for f in found if isinstance(f, Block))


def walk(block: Block) -> Iterator[Op]:
    """All operations of a block, an operation before those of its regions."""
    for op in block.ops:
        yield op
        for region in regions(op):
            yield from walk(region)


def walk_kernel(kernel: Kernel) -> Iterator[Op]:
    """All operations of all phases."""
    for phase in kernel.phases:
        yield from walk(phase.body)


def use_counts(block: Block) -> dict[Value, int]:
    """How often each value is used in the block, nested regions and yields included."""
    counts: dict[Value, int] = {}

    def visit(body: Block) -> None:
        for op in body.ops:
            for value in operands(op):
                counts[value] = counts.get(value, 0) + 1
            for region in regions(op):
                visit(region)
        for value in body.yields:
            counts[value] = counts.get(value, 0) + 1

    visit(block)
    return counts


def definitions(block: Block) -> dict[Value, Op]:
    """The defining operation of every value that one in the block (or nested) defines."""
    return {result: op for op in walk(block) for result in op.results}


def index_values(entry: Index) -> tuple[Value, ...]:
    """The values an index entry uses."""
    return tuple(_values_in(entry))


def _values_in(item: Any) -> Iterator[Value]:
    if isinstance(item, Value):
        yield item
    elif isinstance(item, tuple):
        for part in item:
            yield from _values_in(part)
    elif isinstance(item, AtTile):
        yield item.tile
        if item.offset is not None:
            yield item.offset
    elif isinstance(item, (AtScalar, AtTensor)):
        yield item.value
    elif isinstance(item, AtSlice):
        if item.start is not None:
            yield item.start
    elif isinstance(item, Guard) and item.tile is not None:
        yield item.tile


# -- rewriting ---------------------------------------------------------------------------------


def rebuild(
    op: _OpT,
    value: Callable[[Value], Value],
    region: Callable[[Block], Block],
) -> _OpT:
    """The operation with operands and regions replaced; the same object if nothing changed.

    Results are kept: a rewritten operation defines the values that the old one did.
    """
    changes: dict[str, Any] = {}
    for name in _fields(type(op)):
        old = getattr(op, name)
        new = _map(old, value, region)
        if new is not old:
            changes[name] = new
    return dataclasses.replace(op, **changes) if changes else op


def _map(item: Any, value: Callable[[Value], Value], region: Callable[[Block], Block]) -> Any:
    if isinstance(item, Value):
        return value(item)
    if isinstance(item, Block):
        return region(item)
    if isinstance(item, tuple) and item:
        parts = tuple(_map(part, value, region) for part in item)
        return item if all(a is b for a, b in zip(parts, item, strict=True)) else parts
    if isinstance(item, (AtTile, AtScalar, AtSlice, AtTensor, Guard)):
        return _map_entry(item, value)
    return item


def _map_entry(entry: Index | Guard, value: Callable[[Value], Value]) -> Index | Guard:
    changes: dict[str, Any] = {}
    for name in ("tile", "offset", "value", "start"):
        old = getattr(entry, name, None)
        if isinstance(old, Value) and (new := value(old)) is not old:
            changes[name] = new
    return dataclasses.replace(entry, **changes) if changes else entry


def map_block(block: Block, rewrite: Callable[[Op], list[Op] | Op | None]) -> Block:
    """Rewrite every operation, inner ones first; a list replaces, ``None`` deletes."""
    ops: list[Op] = []
    for op in block.ops:
        inner = rebuild(op, lambda v: v, lambda b: map_block(b, rewrite))
        new = rewrite(inner)
        if isinstance(new, list):
            ops.extend(new)
        elif new is not None:
            ops.append(new)
    if len(ops) == len(block.ops) and all(a is b for a, b in zip(ops, block.ops, strict=True)):
        return block
    return Block(block.params, ops, block.yields)


def substitute(block: Block, values: Mapping[Value, Value]) -> Block:
    """Replace uses of values in the block, its regions and its yields (chains are followed)."""

    def resolve(value: Value) -> Value:
        while value in values:
            value = values[value]
        return value

    def region(inner: Block) -> Block:
        ops = [rebuild(op, resolve, region) for op in inner.ops]
        return Block(inner.params, ops, tuple(resolve(y) for y in inner.yields))

    return region(block) if values else block


def clone(block: Block, values: dict[Value, Value] | None = None) -> Block:
    """A copy with fresh values for everything defined inside.

    ``values`` maps values from outside (and receives the map of those inside).
    """
    env = {} if values is None else values

    def fresh(old: Value) -> Value:
        env[old] = Value(old.type, old.name)
        return env[old]

    def region(inner: Block) -> Block:
        params = tuple(fresh(p) for p in inner.params)
        ops: list[Op] = []
        for op in inner.ops:
            copy = dataclasses.replace(rebuild(op, lambda v: env.get(v, v), region))
            copy.results = tuple(fresh(r) for r in op.results)
            ops.append(copy)
        return Block(params, ops, tuple(env.get(y, y) for y in inner.yields))

    return region(block)


def map_phases(kernel: Kernel, rewrite: Callable[[Phase], Block]) -> Kernel:
    """The kernel with each phase's body replaced; the same object if nothing changed."""
    bodies = [rewrite(phase) for phase in kernel.phases]
    if all(b is p.body for b, p in zip(bodies, kernel.phases, strict=True)):
        return kernel
    phases = tuple(
        dataclasses.replace(phase, body=body)
        for phase, body in zip(kernel.phases, bodies, strict=True)
    )
    return dataclasses.replace(kernel, phases=phases)


# -- shapes of indexed accesses ----------------------------------------------------------------


def entry_axes(index: tuple[Index, ...]) -> tuple[tuple[int, ...], ...]:
    """For each index entry, the result axes it stands for.

    Index tiles say theirs; tiles and slices take the remaining axes in order.
    """
    taken = {d for entry in index if isinstance(entry, AtTensor) for d in entry.dims}
    axes: list[tuple[int, ...]] = []
    position = 0
    for entry in index:
        if isinstance(entry, AtTensor):
            axes.append(entry.dims)
        elif isinstance(entry, AtScalar):
            axes.append(())
        else:
            while position in taken:
                position += 1
            axes.append((position,))
            position += 1
    return tuple(axes)


def index_shape(index: tuple[Index, ...]) -> tuple[Size, ...]:
    """Shape of ``tensor[index]``; ValueError if the entries contradict each other."""
    shape: dict[int, Size] = {}
    for entry, axes in zip(index, entry_axes(index), strict=True):
        for axis, size in zip(axes, _entry_sizes(entry), strict=True):
            known = shape.get(axis)
            if known is None or known.as_int() == 1:
                shape[axis] = size
            elif size != known and size.as_int() != 1:
                raise ValueError(f"axis {axis} is both {known} and {size}")
    if sorted(shape) != list(range(len(shape))):
        raise ValueError(f"index tiles leave gaps: result axes are {sorted(shape)}")
    return tuple(shape[axis] for axis in range(len(shape)))


def _entry_sizes(entry: Index) -> tuple[Size, ...]:
    if isinstance(entry, AtTensor):
        if len(entry.dims) != len(entry.value.shape):
            raise ValueError(f"index tile of rank {len(entry.value.shape)} with dims {entry.dims}")
        return entry.value.shape
    if isinstance(entry, AtSlice):
        return (entry.length,)
    if isinstance(entry, AtTile):
        return (Size.of(entry.tile.type.block),)  # type: ignore[union-attr]
    return ()


def reshape_groups(
    old: Sequence[Size], new: Sequence[Size]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Splits a row-major reshape into independent ones: (old axes, new axes) of equal size.

    Axes of size 1 are in no group. A group of one axis on each side is that axis kept as it is.
    """
    old_axes = [a for a, size in enumerate(old) if size.as_int() != 1]
    new_axes = [a for a, size in enumerate(new) if size.as_int() != 1]
    new_ends: dict[Size, int] = {}
    total = Size.of(1)
    for count, axis in enumerate(new_axes, 1):
        total = total * new[axis]
        new_ends[total] = count
    groups = []
    begin_old = begin_new = 0
    total = Size.of(1)
    for count, axis in enumerate(old_axes, 1):
        total = total * old[axis]
        end_new = new_ends.get(total)
        if end_new is not None and end_new > begin_new:
            groups.append((tuple(old_axes[begin_old:count]), tuple(new_axes[begin_new:end_new])))
            begin_old, begin_new = count, end_new
    if begin_old < len(old_axes) or begin_new < len(new_axes):
        groups.append((tuple(old_axes[begin_old:]), tuple(new_axes[begin_new:])))
    return groups
