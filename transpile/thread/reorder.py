"""Elements looked up by number: gathers, and sorts that count what comes before an element."""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.thread.context import Lowering, Tile
from transpile.thread.exchange import coordinates, key_of, publish, within
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Convert,
    Expr,
    Extent,
    For,
    Let,
    SharedBuffer,
    SharedLoad,
    SharedStore,
    Var,
    both,
    integer,
    less,
)
from transpile.thread.nests import Env


def gather(low: Lowering, op: ir.Gather) -> None:
    """``torch.gather`` on tiles: the tile in shared memory, indexed; 0 for indices out of range."""
    buffer = publish(low, low.tile(op.value), op.value.name or "gathered")
    layout = low.plan.of(op.index)
    index = low.tile(op.index, layout)
    room = buffer.shape[op.dim]

    def compute(env: Env) -> Expr:
        at = list(coordinates(low, layout, env))
        place = index.read(env)
        at[op.dim] = place if place.dtype == I32 else Convert(place, I32)
        inside = both(
            [Apply("ge", (at[op.dim], integer(0)), BOOL), less(at[op.dim], integer(room))]
        )
        return SharedLoad(buffer, tuple(at), guard=inside)

    tile = low.define_here(
        layout, op.result.dtype, compute, [index], name=op.result.name, hint="gathered",
        pinned=True, repeats=True, reads=frozenset({key_of(buffer)}),
    )  # fmt: skip
    low.bind(op.result, tile)


def sort(low: Lowering, op: ir.Sort) -> None:
    """A stable sort along the last axis, or its first k.

    Each thread counts, for its elements, those that come before: as many comparisons as pairs,
    but no exchange beside the one through shared memory, and rows of a tile are short.
    """
    tile = low.tile(op.value)
    layout = tile.layout
    source = publish(low, tile, op.value.name or "sorted")
    places = [low.buffer("sorted_shared", tile.dtype, source.shape)]
    if len(op.results) > 1:
        places.append(low.buffer("order_shared", I32, source.shape))
    keys = frozenset(key_of(b) for b in places)
    size = op.value.shape[-1].substitute(low.blocks)
    kept = source.shape[-1] if op.k is None else op.k

    def emit(env: Env) -> Body:
        at = coordinates(low, layout, env)
        value = tile.read(env)
        rank, other = Var("rank", I32), Var("other", tile.dtype)
        number = Var("i", I32)
        first = _before(other, number, value, at[-1], descending=op.descending)
        count = Apply("add", (rank, Convert(first, I32)), I32)
        end: Expr = Const(size.as_int() or 0) if size.is_const else Extent(size, I32)
        loop: Body = [
            Let(other, SharedLoad(source, (*at[:-1], number))),
            Assign(rank, count),
        ]
        guard = both(
            [
                low.owner(layout),
                *within(low, layout, op.value.shape, env),
                less(rank, integer(kept)),
            ]
        )
        stored: list[Expr] = [value, at[-1]]
        return [
            Let(rank, integer(0)),
            For(number, integer(0), end, integer(1), loop),
            *(
                SharedStore(buffer, (*at[:-1], rank), what, guard)
                for buffer, what in zip(places, stored, strict=False)
            ),
        ]

    low.effect(
        layout, emit, [tile], reads=frozenset({key_of(source)}), writes=keys, pinned=True,
        repeats=True,
    )  # fmt: skip
    for result, buffer in zip(op.results, places, strict=True):
        low.bind(result, _read_back(low, result, buffer))


def _read_back(low: Lowering, result: ir.Value, buffer: SharedBuffer) -> Tile:
    layout = low.plan.of(result)

    def compute(env: Env) -> Expr:
        guard = both(within(low, layout, result.shape, env))
        value: Expr = SharedLoad(buffer, coordinates(low, layout, env), guard=guard)
        return value if value.dtype == result.dtype else Convert(value, result.dtype)

    return low.define_here(
        layout, result.dtype, compute, [], name=result.name, hint="sorted", pinned=True,
        reads=frozenset({key_of(buffer)}),
    )  # fmt: skip


def _before(other: Expr, number: Expr, value: Expr, place: Expr, *, descending: bool) -> Expr:
    """Whether ``other`` at ``number`` comes before ``value`` at ``place``; NaN is the greatest."""
    smaller, greater = _less(other, value), _less(value, other)
    if descending:
        smaller, greater = greater, smaller
    tie = Apply("land", (Apply("lnot", (greater,), BOOL), less(number, place)), BOOL)
    return Apply("lor", (smaller, tie), BOOL)


def _less(a: Expr, b: Expr) -> Expr:
    if not a.dtype.is_float:
        return less(a, b)
    return Apply("nan_gt", (b, a), BOOL)
