"""Staging of operands in shared memory.

Rows of a buffer are 16 bytes further apart than they are long, so that the rows of a matrix lie in
different banks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, DType
from transpile.ir.walk import operands as operands_of
from transpile.thread.context import Lowering, Run, Tile
from transpile.thread.dot_pipeline import can_run_ahead, run_ahead
from transpile.thread.dot_plan import PAD, Operand, Product, Staged
from transpile.thread.exchange import beyond_room, coordinates, key_of
from transpile.thread.ir import (
    Apply,
    Body,
    Const,
    Convert,
    Expr,
    If,
    Let,
    SharedBuffer,
    SharedStore,
    Var,
    add,
    both,
)
from transpile.thread.layout import Layout
from transpile.thread.named import bytes_of, named, whole_times
from transpile.thread.nests import Control, Env
from transpile.thread.scope import Scope


def stage(low: Lowering, product: Product) -> dict[str, Staged]:
    """Copies the operands that need it, by side.

    Where tiles may end beyond their loops, whole tiles are told apart once for all threads, so that
    their copies test nothing.
    """
    staged: dict[str, Staged] = {}
    fresh: list[tuple[Operand, Staged]] = []
    for operand in (product.lhs, product.rhs):
        if operand.staged:
            known = _known(low, product, operand)
            staged[operand.side] = known or _buffer(low, product, operand)
            if known is None:
                fresh.append((operand, staged[operand.side]))

    fresh = [pair for pair in fresh if not _copied_before(low, *pair)]

    def plain(lead: tuple[Expr, ...]) -> None:
        for operand, place in fresh:
            _store(low, _source(low, operand), place.buffer, operand, lead)

    def copy(lead: tuple[Expr, ...]) -> None:
        ragged = _ragged(low, product, [operand for operand, _ in fresh])
        if not ragged:
            plain(lead)
            return
        condition = _all_whole(low, [low.runs[t] for t in ragged])
        then = _apart(low, frozenset(ragged), lambda: plain(lead))
        orelse = _apart(low, frozenset(), lambda: plain(lead))
        low.scope.add(Control(lambda: [If(condition, then.build(), orelse.build())]))

    deep = [o.side for o, place in fresh if len(place.buffer.shape) > _rank(product)]
    if not deep:
        copy(())
        return staged
    stage_at: Expr = Const(0)
    tile = _loop_tile(low, product)
    operands = [operand for operand, _ in fresh]
    if tile is not None and can_run_ahead(low, tile, operands):
        stages = low.plan.products.stages
        apart = partial(_apart, low, frozenset())
        stage_at = run_ahead(low, tile, stages, plain, copy, apart)
    else:
        copy((stage_at,))
    for side in deep:
        known = staged[side]
        staged[side] = dataclasses.replace(known, stage=stage_at)
        low.plan.products.staged.remove(known)
        low.plan.products.staged.append(staged[side])
    return staged


def _rank(product: Product) -> int:
    return len(product.op.lhs.shape)


def _loop_tile(low: Lowering, product: Product) -> ir.Value | None:
    """The tile of the loop that repeats the product, unless that is what another has left over."""
    block = low.plan.products.homes[product.op.result]
    tiles = [p for p in block.params if isinstance(p.type, ir.TileVar)]
    return tiles[0] if tiles and not _is_last(low, low.runs[tiles[0]]) else None


def _copied_before(low: Lowering, operand: Operand, place: Staged) -> bool:
    """Copies an operand that the loops around the product do not change, before them."""
    if operand.value not in low.deferred:
        return False
    _, scope, order = low.deferred[operand.value]
    if scope is low.scope:
        return False
    saved = low.scope, low.order
    low.scope, low.order = scope, order
    _store(low, _source(low, operand), place.buffer, operand, ())
    low.scope, low.order = saved
    return True


def _known(low: Lowering, product: Product, operand: Operand) -> Staged | None:
    """The operand where an earlier product of the block has it already."""
    products = low.plan.products
    home = products.homes[product.op.result]
    for other in products.staged:
        if other.home is home and other.value is operand.value and other.dtype == operand.dtype:
            return other
    return None


def _apart(low: Lowering, whole: frozenset[ir.Value], fill: Callable[[], None]) -> Scope:
    """A block of its own, in which the loads of this one are done again."""
    here, outer = low.scope, low.whole
    copies, deferred = low.copies, low.deferred
    again = {value for value, (_, scope, _) in deferred.items() if scope is here}
    low.scope, low.whole = Scope(here), outer | whole
    low.copies = {key: tile for key, tile in copies.items() if key[0] not in again}
    low.deferred = {
        value: (op, low.scope if value in again else scope, order)
        for value, (op, scope, order) in deferred.items()
    }
    fill()
    copies |= {key: tile for key, tile in low.copies.items() if key[0] not in again}
    filled = low.scope
    low.scope, low.whole, low.copies, low.deferred = here, outer, copies, deferred
    return filled


def _ragged(low: Lowering, product: Product, operands: list[Operand]) -> list[ir.Value]:
    """Tiles that the operands' loads must not exceed, for a product that a loop repeats."""
    found: list[ir.Value] = []
    for operand in operands:
        found += _guards(low, operand.value)
    if _loop_tile(low, product) is None:
        return []
    return list(dict.fromkeys(found))


def _is_last(low: Lowering, run: Run) -> bool:
    """Whether the loop over a tile does what another one has left over, once at most."""
    if run.begin_size is None or run.end_size is None:
        return False
    block = run.size
    steps = run.begin_size - run.end_size // block * block
    return len(steps.substitute(low.blocks).terms) == 1


def _guards(low: Lowering, value: ir.Value) -> list[ir.Value]:
    """Tiles in the guards of what a value is computed from in this block."""
    found: list[ir.Value] = []
    if value not in low.deferred or low.deferred[value][1] is not low.scope:
        return found
    maker = low.plan.products.makers.get(value)
    if isinstance(maker, ir.Load | ir.Mask):
        found += [g.tile for g in maker.guards if g.tile is not None]
    for arg in operands_of(maker) if maker is not None else ():
        if isinstance(arg.type, ir.TileType):
            found += _guards(low, arg)
    return found


def _all_whole(low: Lowering, runs: list[Run]) -> Expr:
    """The condition that no tile ends beyond its loop, its parts computed where they are known."""
    parts = []
    for scope in dict.fromkeys(run.scope for run in runs):
        tests = [
            Apply("le", (add(r.begin, low.size(r.size)), r.end), BOOL)
            for r in runs
            if r.scope is scope
        ]
        test = both(tests)
        assert test is not None
        if scope is not low.scope:
            var = Var("interior", BOOL)
            scope.prologue.append(Let(var, test))
            test = var
        parts.append(test)
    condition = both(parts)
    assert condition is not None
    return condition


def _buffer(low: Lowering, product: Product, operand: Operand) -> Staged:
    """The operand's buffer: that of the same operand in another block, if there is one."""
    products = low.plan.products
    value, home = operand.value, products.homes[product.op.result]
    layout = low.plan.of(value) if value in low.deferred else low.tile(value).layout
    name = _name(low, operand)
    extents = _room(low, product, operand, layout)
    if operand.transposed:
        extents = (*extents[:-2], extents[-1], extents[-2])
    inside = operand.value in low.deferred and low.deferred[operand.value][1] is low.scope
    if products.stages > 1 and inside and any(isinstance(p.type, ir.TileVar) for p in home.params):
        extents = (products.stages, *extents)
    here = {s.buffer for s in products.staged if s.home is home}
    for other in products.staged:
        same = (other.name, other.dtype, other.buffer.shape) == (name, operand.dtype, extents)
        if same and other.buffer not in here:
            buffer = other.buffer
            break
    else:
        pad = PAD * 8 // max(8, operand.dtype.bits)
        size = bytes_of(operand.dtype) if low.limits.uniform else None
        pad = named(pad, "PAD", None if size is None else PAD // size)
        buffer = low.buffer(f"{name}_shared", operand.dtype, extents, pad)
    staged = Staged(name, value, home, operand.dtype, buffer, operand.transposed)
    products.staged.append(staged)
    return staged


def _source(low: Lowering, operand: Operand) -> Tile:
    """The operand as it is to be copied: in the layout made for that, or the one that it has."""
    value = operand.value
    if value in low.deferred:
        return low.tile(value, low.plan.of(value))
    return low.tile(value)


def _name(low: Lowering, operand: Operand) -> str:
    """What the operand is called in the source, or the tensor it is loaded from."""
    value = operand.value
    maker = low.plan.products.makers.get(value)
    while value.name is None and isinstance(maker, ir.Permute | ir.Cast | ir.Mask):
        value = maker.value
        maker = low.plan.products.makers.get(value)
    if value.name is None and isinstance(maker, ir.Load):
        return maker.tensor.name
    return value.name or operand.side


def _room(low: Lowering, product: Product, operand: Operand, layout: Layout) -> tuple[int, ...]:
    """Extents of the buffer: whole matrices, and all that the copy writes."""
    unit = low.plan.products.unit
    assert unit is not None
    if operand.room is not None and operand.value in low.deferred:
        return operand.room
    *lead, rows, cols = layout.extents
    if product.grid is not None:
        edges = (unit.m, unit.k) if operand.side == "lhs" else (unit.k, unit.n)
        rows, cols = (whole_times(n, e) for n, e in zip((rows, cols), edges, strict=True))
    return (*lead, rows, cols)


def _store(
    low: Lowering, tile: Tile, buffer: SharedBuffer, operand: Operand, lead: tuple[Expr, ...]
) -> None:
    """Copies a tile, behind leading indices ``lead``."""
    layout = tile.layout
    if vector := _is_vector(layout, operand):
        tile = _vectors(low, tile, operand.dtype, _name(low, operand))

    def emit(env: Env) -> Body:
        if vector:
            env = {**env, layout.registers[-1]: Const(0)}
        index = coordinates(low, layout, env)
        inside = None
        if operand.room is not None and len(operand.room) == len(index):
            inside = beyond_room(index, layout, operand.room)
        if operand.transposed:
            index = (*index[:-2], index[-1], index[-2])
        value = _cast(tile.read(env), operand.dtype)
        if vector:
            assert tile.held is not None
            value = tile.held.whole(env)
        return [SharedStore(buffer, (*lead, *index), value, both([low.owner(layout), inside]))]

    inner = tuple(d for d in layout.registers if d.inner and not (vector and d.vector))
    low.effect(layout, emit, [tile], writes=frozenset({key_of(buffer)}), inner=inner)


def _cast(value: Expr, dtype: DType) -> Expr:
    return value if value.dtype == dtype else Convert(value, dtype)


def _is_vector(layout: Layout, operand: Operand) -> bool:
    """Whether a thread holds neighbours of a row of the buffer."""
    digits = layout.registers
    along = layout.axes[-2 if operand.transposed else -1]
    return bool(digits) and digits[-1].vector and digits[-1] in along and digits[-1].weight == 1


def _vectors(low: Lowering, tile: Tile, dtype: DType, hint: str) -> Tile:
    """The tile as a value of its own whose registers are vectors."""
    held = tile.held
    if held is not None and held.layout.registers == tile.layout.registers and tile.dtype == dtype:
        return tile
    read = tile.read
    return low.define(tile.layout, dtype, lambda env: _cast(read(env), dtype), [tile], hint=hint)
