"""Tiles that change their distribution: through shared memory, and only there."""

from __future__ import annotations

from math import prod

from transpile.ir import ir
from transpile.ir.sizes import Size
from transpile.thread.context import Lowering, Tile
from transpile.thread.ir import (
    Barrier,
    Body,
    Const,
    Expr,
    SharedBuffer,
    SharedLoad,
    SharedStore,
    add,
    both,
    integer,
    less,
    mul,
)
from transpile.thread.layout import Digits, Layout, register_position, thread_position
from transpile.thread.nests import Control, Env


def exchange(
    low: Lowering, tile: Tile, layout: Layout, name: str | None = None,
    hint: str = "exchange", pad: int = 0,
) -> Tile:  # fmt: skip
    """The tile in another layout; ``pad`` elements are between the rows of the buffer, which is
    called ``hint`` if the tile has no name."""
    buffer = publish(low, tile, name or hint, pad)
    room = buffer.shape

    def compute(env: Env) -> Expr:
        index = coordinates(low, layout, env)
        index = index or (integer(0),)
        return SharedLoad(buffer, index, guard=beyond_room(index, layout, room))

    return low.define(
        layout, tile.dtype, compute, [], name=name, hint="x", pinned=True,
        reads=frozenset({key_of(buffer)}),
    )  # fmt: skip


def key_of(buffer: SharedBuffer) -> str:
    """What stands for a buffer among the names of tensors."""
    return f"shared:{buffer.name}"


def position(low: Lowering, digits: Digits, env: Env) -> Expr:
    """Position within the tile's axis, from 0."""
    base = thread_position(digits, low.plan.threads, low.plan.simd)
    return add(base, register_position(digits, env))


def coordinates(low: Lowering, layout: Layout, env: Env) -> tuple[Expr, ...]:
    """Positions along all axes."""
    return tuple(position(low, digits, env) for digits in layout.axes)


def barrier(low: Lowering, op: ir.Barrier) -> None:
    """The source's own barrier: stores before it are seen by loads after it."""
    low.before_any_write()
    stmt = Barrier("group", shared=True, device=True, span=op.span)
    low.scope.close()
    low.scope.add(Control(lambda: [stmt]))


def inline(low: Lowering, op: ir.Inline) -> None:
    """Target code of the source is for targets that compute on tiles."""
    raise low.unsupported(
        f"inline {'PTX' if op.kind == 'asm' else op.kind}",
        f"it is for {', '.join(op.targets)}",
        "write it with torch operations, which every target has",
    )


def publish(low: Lowering, tile: Tile, name: str, pad: int = 0) -> SharedBuffer:
    """A new shared buffer with the tile's elements, in the order of its axes."""
    layout = tile.layout
    buffer = low.buffer(f"{name}_shared", tile.dtype, layout.extents or (1,), pad)

    def emit(env: Env) -> Body:
        index = coordinates(low, layout, env) or (integer(0),)
        return [SharedStore(buffer, index, tile.read(env), low.owner(layout))]

    low.effect(layout, emit, [tile], writes=frozenset({key_of(buffer)}))
    return buffer


def beyond_room(index: tuple[Expr, ...], layout: Layout, room: tuple[int, ...]) -> Expr | None:
    """The condition that a position is in the buffer, None if it always is."""
    pairs = zip(index, layout.extents or (1,), room, strict=True)
    return both([less(at, Const(size)) for at, extent, size in pairs if extent > size])


def reshaped(low: Lowering, op: ir.Reshape, layout: Layout) -> Tile:
    """A row-major reshape that merges or splits axes: written in one shape, read in the other."""
    tile = low.tile(op.value)
    old, new = op.value.shape, op.result.shape
    room = prod(tile.layout.extents)
    buffer = low.buffer(f"{op.result.name or 'reshaped'}_shared", tile.dtype, (room,))

    def emit(env: Env) -> Body:
        at = linear(low, tile.layout, old, env)
        guard = both([low.owner(tile.layout), *within(low, tile.layout, old, env)])
        return [SharedStore(buffer, (at,), tile.read(env), guard)]

    low.effect(tile.layout, emit, [tile], writes=frozenset({key_of(buffer)}))

    def compute(env: Env) -> Expr:
        guard = both(within(low, layout, new, env))
        return SharedLoad(buffer, (linear(low, layout, new, env),), guard=guard)

    return low.define(
        layout, tile.dtype, compute, [], name=op.result.name, hint="x", pinned=True,
        reads=frozenset({key_of(buffer)}),
    )  # fmt: skip


def linear(low: Lowering, layout: Layout, shape: tuple[Size, ...], env: Env) -> Expr:
    """Row-major position of an element in the whole tile, without padding."""
    stride = Size.of(1)
    terms = []
    for digits, size in zip(reversed(layout.axes), reversed(shape), strict=True):
        terms.append(mul(low.indexed(position(low, digits, env)), low.size(stride)))
        stride = stride * size
    return add(*reversed(terms)) if terms else integer(0)


def within(low: Lowering, layout: Layout, shape: tuple[Size, ...], env: Env) -> list[Expr]:
    """Conditions that an element exists, for axes with room for more."""
    return [
        less(low.indexed(position(low, digits, env)), low.size(size))
        for digits, size in zip(layout.axes, shape, strict=True)
        if low.is_padded(size, digits)
    ]
