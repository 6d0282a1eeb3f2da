"""The transfer functions of ``analysis``: what each operation makes of out-of-range lanes.

An operation without an entry gives values of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.ir import Op, Value
from transpile.ir.ops import Number
from transpile.ir.walk import entry_axes, reshape_groups
from transpile.passes.facts import JUNK, LIVE, Facts, Lanes, State, from_states, join, spoil
from transpile.passes.fold import absorb, as_number, convert, fold, reduce_constant

if TYPE_CHECKING:
    from transpile.passes.analysis import Analysis


def _const(_: Analysis, op: ir.Const) -> Facts:
    return Facts(uniform=as_number(op.value, op.result.dtype))


def _size(a: Analysis, op: ir.SizeOf) -> Facts:
    return Facts(uniform=op.size.substitute(a.ranges.blocks).as_int())


def _tile_index(_: Analysis, op: ir.TileIndex) -> Facts:
    lanes: Lanes = (0, op.tile)
    return Facts(junk=frozenset({lanes}), index=lanes)


def _load(a: Analysis, op: ir.Load) -> Facts:
    zero = convert(0, op.result.dtype)
    assert zero is not None
    states: dict[Lanes, State] = {(g.dim, g.tile): zero for g in op.guards}
    for entry, axes in zip(op.index, entry_axes(op.index), strict=True):
        if isinstance(entry, ir.AtTensor) and op.mask is None:  # a mask may give zeros there
            index = a.of(entry.value)
            for key in index.lanes:
                if entry.value.shape[key[0]] == op.result.shape[axes[key[0]]]:
                    states.setdefault((axes[key[0]], key[1]), JUNK)
    if op.mask is not None:
        shift = len(op.result.shape) - len(op.mask.shape)
        for (dim, tile), number in a.of(op.mask).known.items():
            if number is False and op.mask.shape[dim] == op.result.shape[dim + shift]:
                states[dim + shift, tile] = zero
    return from_states(states)


def _atomic(_: Analysis, op: ir.Atomic) -> Facts:
    return Facts(junk=frozenset((g.dim, g.tile) for g in op.guards))


def _elementwise(a: Analysis, op: ir.Elementwise) -> Facts:
    operand = op.args[-1].dtype
    if op.name == "where":
        return a.pointwise(op.args, op.result, _select)
    facts = a.pointwise(
        op.args, op.result, lambda states: _fold_states(op.name, states, operand, op.result.dtype)
    )
    bound = _bounded_index(a, op)
    if bound is not None and bound[0] not in facts.known:
        return Facts(None, {**facts.known, bound[0]: bound[1]}, facts.junk - {bound[0]})
    return facts


def _fold_states(name: str, states: list[State], operand: DType, result: DType) -> State:
    numbers = [s for s in states if not isinstance(s, str)]
    if len(numbers) == len(states):
        value = fold(name, numbers, operand, result)
    elif len(states) == 2 and numbers:
        value = absorb(name, numbers[0], operand)
    else:
        value = None
    return spoil(states) if value is None else value


def _select(states: list[State]) -> State:
    """``where``: of a known condition the branch taken, else what both branches agree on."""
    cond, then, orelse = states
    if not isinstance(cond, str):
        return then if cond else orelse
    if not isinstance(then, str) and then == orelse:
        return then
    return spoil(states)


def _bounded_index(a: Analysis, op: ir.Elementwise) -> tuple[Lanes, bool] | None:
    """``tile.index < n`` is False beyond the tile's end when the loop ends at n or later."""
    if op.name not in ("lt", "ge", "gt", "le"):
        return None
    index, bound = op.args if op.name in ("lt", "ge") else reversed(op.args)
    lanes = a.of(index).index
    limit = a.ranges.size_of(bound)
    if lanes is None or lanes[1] is None or limit is None or bound.shape:
        return None
    tile = a.ranges.tiles.get(lanes[1])
    if tile is None or not (tile.loop_end - limit.substitute(a.ranges.blocks)).non_negative:
        return None
    return lanes, op.name in ("ge", "le")


def _cast(a: Analysis, op: ir.Cast) -> Facts:
    def combine(states: list[State]) -> State:
        if isinstance(states[0], str):
            return states[0]
        value = None if op.bitcast else convert(states[0], op.result.dtype)
        return JUNK if value is None else value

    facts = a.pointwise((op.value,), op.result, combine)
    widened = op.result.dtype.is_int and op.result.dtype.bits >= op.value.dtype.bits
    index = a.of(op.value).index if widened and not op.bitcast else None
    return Facts(facts.uniform, facts.known, facts.junk, index)


def _reshape(a: Analysis, op: ir.Reshape) -> Facts:
    groups = reshape_groups(op.value.shape, op.result.shape)
    kept = {old[0]: new[0] for old, new in groups if len(old) == len(new) == 1}
    return a.of(op.value).moved(kept)


def _broadcast(a: Analysis, op: ir.Broadcast) -> Facts:
    old, new = op.value.shape, op.result.shape
    return a.of(op.value).moved({d: d for d in range(len(old)) if old[d] == new[d]})


def _permute(a: Analysis, op: ir.Permute) -> Facts:
    return a.of(op.value).moved({old: new for new, old in enumerate(op.order)})


def _join(a: Analysis, op: ir.Join) -> Facts:
    return join(a.of(op.lhs), a.of(op.rhs))


def _split(a: Analysis, op: ir.Split) -> tuple[Facts, Facts]:
    half = a.of(op.value).moved({d: d for d in range(len(op.value.shape) - 1)})
    return half, half


def _full(a: Analysis, op: ir.Full) -> Facts:
    return Facts(uniform=a.of(op.value).uniform)


def _mask(a: Analysis, op: ir.Mask) -> Facts:
    fill = as_number(op.fill, op.value.dtype)
    value = a.of(op.value)
    masked: set[Lanes] = {(g.dim, g.tile) for g in op.guards}
    if fill is None:
        return Facts(junk=value.junk | value.known.keys() | masked)
    states: dict[Lanes, State] = dict.fromkeys(masked, fill)
    for key in value.lanes - masked:
        state = value.state(key)
        states[key] = state if state in (fill, LIVE) else JUNK
    return from_states(states, fill if value.uniform == fill else None)


def _reduced_axes(rank: int, dim: int, keepdim: bool) -> dict[int, int]:
    return {d: d if keepdim or d < dim else d - 1 for d in range(rank) if d != dim}


def _reduce(a: Analysis, op: ir.Reduce) -> Facts:
    def fold_reduction(number: Number) -> Number | None:
        return reduce_constant(op.name, number, op.result.dtype)

    facts = a.of(op.value).moved(_reduced_axes(len(op.value.shape), op.dim, op.keepdim))
    return _map_numbers(facts, fold_reduction)


def _map_numbers(facts: Facts, function: Callable[[Number], Number | None]) -> Facts:
    """Facts with each number mapped; where that gives None the lanes are junk."""
    if facts.uniform is not None:
        return Facts(uniform=function(facts.uniform))
    states: dict[Lanes, State] = dict.fromkeys(facts.junk, JUNK)
    for key, number in facts.known.items():
        value = function(number)
        states[key] = JUNK if value is None else value
    return from_states(states)


def _unknown(_: Number) -> None:
    return None


def _reduce_with(a: Analysis, op: ir.ReduceWith) -> tuple[Facts, ...]:
    axes = _reduced_axes(len(op.values[0].shape), op.dim, op.keepdim)
    return tuple(_map_numbers(_mixed(a, op.values).moved(axes), _unknown) for _ in op.values)


def _mixed(a: Analysis, values: Sequence[Value]) -> Facts:
    """Junk wherever any of the values (of one shape) has a fact and none is live."""
    return a.pointwise(values, values[0], spoil)


def _scan(a: Analysis, op: ir.Scan) -> tuple[Facts, ...]:
    others = {d: d for d in range(len(op.values[0].shape)) if d != op.dim}
    if op.combine is not None:
        mixed = _map_numbers(_mixed(a, op.values).moved(others), _unknown)
        return (mixed,) * len(op.values)
    assert op.name is not None
    value, name = a.of(op.values[0]), op.name
    facts = _map_numbers(value.moved(others), lambda n: reduce_constant(name, n, op.result.dtype))
    along = {key for key in value.lanes if key[0] == op.dim}
    return (Facts(facts.uniform, facts.known, facts.junk | along),)


def _dot(a: Analysis, op: ir.Dot) -> Facts:
    lhs, rhs = a.of(op.lhs), a.of(op.rhs)
    rank = len(op.result.shape)
    rows = lhs.moved({d: d for d in range(rank - 1)})
    columns = rhs.moved({d: d for d in range(rank) if d != rank - 2})
    acc = None if op.acc is None else a.of(op.acc)
    states: dict[Lanes, State] = {}
    for key in rows.lanes | columns.lanes | (acc.lanes if acc else set()):
        sides = [(rows, columns, op.rhs), (columns, rows, op.lhs)]
        product = _product_state(a, key, sides)
        if acc is None:
            states[key] = product
        else:
            total = [acc.state(key), product]
            states[key] = _fold_states("add", total, op.result.dtype, op.result.dtype)
    return from_states(states)


def _product_state(a: Analysis, key: Lanes, sides: list[tuple[Facts, Facts, Value]]) -> State:
    """A row of zeros gives zeros, provided that the other operand has no junk to meet it."""
    states = [side.state(key) for side, _, _ in sides]
    for state, (_, _, other) in zip(states, sides, strict=True):
        zero = not isinstance(state, str) and state == 0
        if zero and a.of(other).clean and not a.junk(other):
            return 0
    present = [s for s, (side, _, _) in zip(states, sides, strict=True) if key in side.lanes]
    return spoil(present) if present else LIVE


def _gather(a: Analysis, op: ir.Gather) -> Facts:
    value, index = a.of(op.value), a.of(op.index)
    same = {d: d for d, s in enumerate(op.value.shape) if d != op.dim and s == op.index.shape[d]}
    facts = value.moved(same)
    if facts.uniform is not None:
        return facts
    states: dict[Lanes, State] = dict.fromkeys(index.lanes | facts.junk, JUNK)
    return from_states({**states, **facts.known})


def _sort(a: Analysis, op: ir.Sort) -> tuple[Facts, ...]:
    value = a.of(op.value)
    others = value.moved({d: d for d in range(len(op.value.shape) - 1)})
    indices = Facts(junk=frozenset(others.lanes))
    return (others, indices)[: len(op.results)]


def _random(a: Analysis, op: ir.Random) -> Facts:
    return Facts(junk=frozenset(a.of(op.offset).lanes))


TRANSFER: dict[type[Op], Callable[..., Facts | tuple[Facts, ...]]] = {
    ir.Const: _const, ir.SizeOf: _size, ir.TileIndex: _tile_index, ir.Load: _load,
    ir.Atomic: _atomic, ir.Elementwise: _elementwise, ir.Cast: _cast, ir.Reshape: _reshape,
    ir.Broadcast: _broadcast, ir.Permute: _permute, ir.Join: _join, ir.Split: _split,
    ir.Full: _full, ir.Mask: _mask, ir.Reduce: _reduce, ir.ReduceWith: _reduce_with,
    ir.Scan: _scan, ir.Dot: _dot, ir.Gather: _gather, ir.Sort: _sort, ir.Random: _random,
}  # fmt: skip
