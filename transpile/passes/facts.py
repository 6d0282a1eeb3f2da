"""What out-of-range lanes hold: an abstract interpretation of a kernel.

For each value, and each of its axes with a tile (``None``: the axis's own extent, where the target
pads it), the lanes of that axis beyond the tile's end are in one of three states:

- *known*: all of them hold one number, whatever the position along the other axes is;
- *junk*: their content comes from such lanes only and means nothing;
- otherwise they may carry data (an accumulator kept across iterations of the tile's loop).

A value all of whose lanes hold one number is *uniform*. Numbers are claimed only where every target
computes exactly them (see ``fold``). Dots are taken to have finite operands: a row of zeros gives
zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.ir import Block, Guard, Kernel, Op, Value
from transpile.ir.ops import Number
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import entry_axes, operands, reshape_groups
from transpile.passes.fold import absorb, as_number, convert, fold, reduce_constant
from transpile.passes.ranges import Ranges, kernel_ranges

Lanes = tuple[int, Value | None]
"""An axis, and the tile beyond whose end the lanes lie (None: beyond the axis's extent)."""

JUNK = "junk"
FREE = "free"  # the operand does not vary along the axis: it has no out-of-range lanes of its own
LIVE = "live"
State = Number | str
"""A number that the lanes hold, or one of the three words."""


@dataclass(frozen=True)
class Facts:
    """The state of one value's out-of-range lanes; lanes in neither set are live."""

    uniform: Number | None = None
    known: Mapping[Lanes, Number] = field(default_factory=dict)
    junk: frozenset[Lanes] = frozenset()
    index: Lanes | None = None  # the value along this axis is exactly the tile's index
    hidden: bool = False  # junk, or known infinities, may be in lanes that are no longer told apart

    def state(self, lanes: Lanes) -> State:
        if self.uniform is not None:
            return self.uniform
        if lanes in self.known:
            return self.known[lanes]
        return JUNK if lanes in self.junk else LIVE

    @property
    def lanes(self) -> set[Lanes]:
        return {*self.known, *self.junk}

    def moved(self, axes: Mapping[int, int]) -> Facts:
        """The facts after axis ``a`` became ``axes[a]``; axes not in the mapping are lost."""
        index = None
        if self.index is not None and self.index[0] in axes:
            index = (axes[self.index[0]], self.index[1])
        return Facts(
            self.uniform,
            {(axes[d], t): c for (d, t), c in self.known.items() if d in axes},
            frozenset((axes[d], t) for d, t in self.junk if d in axes),
            index,
            self.hidden or self._spoiled(key for key in self.lanes if key[0] not in axes),
        )

    def _spoiled(self, lanes: Iterable[Lanes]) -> bool:
        """Whether any of the lanes are junk or hold an infinity."""
        return any(key in self.junk or math.isinf(self.known[key]) for key in lanes)

    @property
    def clean(self) -> bool:
        """Whether all lanes hold data (taken to be finite) or finite known numbers."""
        return not (self.hidden or self._spoiled(self.lanes) or math.isinf(self.uniform or 0))

    def without(self, tiles: set[Value]) -> Facts:
        """The facts where the given tiles are out of scope."""
        known = {key: c for key, c in self.known.items() if key[1] not in tiles}
        junk = frozenset(key for key in self.junk if key[1] not in tiles)
        index = None if self.index is not None and self.index[1] in tiles else self.index
        hidden = self.hidden or self._spoiled(key for key in self.lanes if key[1] in tiles)
        return Facts(self.uniform, known, junk, index, hidden)


NOTHING = Facts()


def from_states(states: Mapping[Lanes, State], uniform: Number | None = None) -> Facts:
    """Facts of the given states; words other than junk mean live."""
    known = {key: state for key, state in states.items() if not isinstance(state, str)}
    return Facts(uniform, known, frozenset(key for key in states if states[key] == JUNK))


def join(first: Facts, second: Facts) -> Facts:
    """What holds whichever of the two a value has."""
    if first.uniform is not None and first.uniform == second.uniform:
        return first
    states: dict[Lanes, State] = {}
    for key in first.lanes | second.lanes:
        a, b = first.state(key), second.state(key)
        states[key] = LIVE if LIVE in (a, b) else a if a == b else JUNK
    joined = from_states(states)
    index = first.index if first.index == second.index else None
    return Facts(None, joined.known, joined.junk, index, first.hidden or second.hidden)


@dataclass
class Analysis:
    """Facts of all values of a kernel; answers the interpreter's questions (``Claims``)."""

    ranges: Ranges
    facts: dict[Value, Facts] = field(default_factory=dict)

    def uniform(self, value: Value) -> Number | None:
        return self.of(value).uniform

    def known(self, value: Value) -> Mapping[Lanes, Number]:
        return self.of(value).known

    def junk(self, value: Value) -> frozenset[Lanes]:
        """Junk lanes: those of the facts, and all padding of which nothing is known."""
        facts = self.of(value)
        padding = {
            (dim, None) for dim, size in enumerate(value.shape) if self.ranges.is_padded(size)
        }
        return facts.junk | (padding - facts.known.keys())

    def is_ragged(self, guard: Guard, shape: tuple[Size, ...]) -> bool:
        """Whether the guard can exclude a lane of an access or value of this shape."""
        return self.ranges.is_ragged(guard, shape)

    def holds(self, value: Value, guard: Guard, number: Number) -> bool:
        """Whether the lanes of ``value`` outside the guard are known to hold ``number``."""
        return self.of(value).state((guard.dim, guard.tile)) == number

    def of(self, value: Value) -> Facts:
        return self.facts.get(value, NOTHING)

    # -- traversal -------------------------------------------------------------------------

    def run(self, block: Block) -> set[Value]:
        """Analyse a region; the tiles defined in it, nested ones included."""
        tiles: set[Value] = set()
        for op in block.ops:
            loop = _LOOPS.get(type(op))
            if loop is not None:
                tiles |= loop(self, op)
                continue
            transfer = _TRANSFER.get(type(op))
            if transfer is not None and op.results:
                produced = transfer(self, op)
                results = produced if isinstance(produced, tuple) else (produced,)
                hidden = any(self.of(v).hidden for v in operands(op))
                for value, facts in zip(op.results, results, strict=True):
                    self.facts[value] = self._existing(value, facts, hidden)
        return tiles

    def _existing(self, value: Value, facts: Facts, hidden: bool) -> Facts:
        """Only lanes that can exist are worth a fact; hidden junk stays hidden."""
        if facts.uniform is not None:
            return Facts(uniform=facts.uniform)
        known = {k: c for k, c in facts.known.items() if self._exist(value, k)}
        junk = frozenset(k for k in facts.junk if self._exist(value, k))
        return Facts(None, known, junk, facts.index, hidden or facts.hidden)

    def _exist(self, value: Value, lanes: Lanes) -> bool:
        return self.ranges.lanes_exist(lanes[1], value.shape[lanes[0]])

    def fixpoint(self, op: ir.ForTile | ir.ForRange | ir.While) -> set[Value]:
        """Carried values: what holds on entry and after each iteration."""
        current = [self.of(init) for init in op.inits]
        while True:
            tiles = self._iterate(op, current)
            after = [self.of(value).without(tiles) for value in op.body.yields]
            joined = [join(a, b) for a, b in zip(current, after, strict=True)]
            if joined == current:
                break
            current = joined
        for result, facts in zip(op.results, current, strict=True):
            self.facts[result] = facts
        return tiles

    def _iterate(
        self, op: ir.ForTile | ir.ForRange | ir.While, carried: Sequence[Facts]
    ) -> set[Value]:
        """One pass over the loop with the given facts of its carried values; its tiles."""
        tiles: set[Value] = set()
        bodies = [op.cond, op.body] if isinstance(op, ir.While) else [op.body]
        for body in bodies:
            params = body.params if isinstance(op, ir.While) else body.params[1:]
            for param, facts in zip(params, carried, strict=True):
                self.facts[param] = facts
            tiles |= self.run(body)
        if isinstance(op, ir.ForTile):
            tiles.add(op.body.params[0])
        return tiles

    def branches(self, op: ir.If) -> set[Value]:
        tiles = self.run(op.then) | self.run(op.orelse)
        for result, a, b in zip(op.results, op.then.yields, op.orelse.yields, strict=True):
            self.facts[result] = join(self.of(a), self.of(b)).without(tiles)
        return tiles

    # -- helpers of the transfer functions -----------------------------------------------------

    def pointwise(
        self, args: Sequence[Value], result: Value, combine: Callable[[list[State]], State]
    ) -> Facts:
        """Facts of a lane-by-lane operation: ``combine`` maps the operands' states."""
        facts = [self.of(arg) for arg in args]
        uniforms: list[State] = [FREE if f.uniform is None else f.uniform for f in facts]
        uniform = combine(uniforms)
        if not isinstance(uniform, str):
            return Facts(uniform=uniform)
        states: dict[Lanes, State] = {}
        for key in {k for f in facts for k in f.lanes}:
            if key[0] < len(result.shape):
                operands = [
                    _operand_state(arg, f, key, result) for arg, f in zip(args, facts, strict=True)
                ]
                states[key] = combine(operands)
        return from_states(states)


def _operand_state(arg: Value, facts: Facts, key: Lanes, result: Value) -> State:
    if facts.uniform is not None:
        return facts.uniform
    if not arg.shape or arg.shape[key[0]] != result.shape[key[0]]:
        return FREE
    return facts.state(key)


def _spoil(states: Sequence[State]) -> State:
    """The state of lanes computed from lanes in these states, their number unknown."""
    if LIVE in states:
        return LIVE
    return FREE if all(state == FREE for state in states) else JUNK


# -- transfer functions ------------------------------------------------------------------------


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
        if isinstance(entry, ir.AtTensor):
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
    return _spoil(states) if value is None else value


def _select(states: list[State]) -> State:
    """``where``: of a known condition the branch taken, else what both branches agree on."""
    cond, then, orelse = states
    if not isinstance(cond, str):
        return then if cond else orelse
    if not isinstance(then, str) and then == orelse:
        return then
    return _spoil(states)


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
    return a.pointwise(values, values[0], _spoil)


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
    return _spoil(present) if present else LIVE


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


_TRANSFER: dict[type[Op], Callable[..., Facts | tuple[Facts, ...]]] = {
    ir.Const: _const, ir.SizeOf: _size, ir.TileIndex: _tile_index, ir.Load: _load,
    ir.Atomic: _atomic, ir.Elementwise: _elementwise, ir.Cast: _cast, ir.Reshape: _reshape,
    ir.Broadcast: _broadcast, ir.Permute: _permute, ir.Join: _join, ir.Split: _split,
    ir.Full: _full, ir.Mask: _mask, ir.Reduce: _reduce, ir.ReduceWith: _reduce_with,
    ir.Scan: _scan, ir.Dot: _dot, ir.Gather: _gather, ir.Sort: _sort, ir.Random: _random,
}  # fmt: skip

_LOOPS: dict[type[Op], Callable[..., set[Value]]] = {
    ir.ForTile: Analysis.fixpoint, ir.ForRange: Analysis.fixpoint, ir.While: Analysis.fixpoint,
    ir.If: Analysis.branches,
}  # fmt: skip


def analyse(kernel: Kernel, blocks: Mapping[Sym, int], pads_size_axes: bool) -> Analysis:
    """Facts of all values of the kernel for these block sizes."""
    analysis = Analysis(kernel_ranges(kernel, blocks, pads_size_axes))
    for phase in kernel.phases:
        analysis.run(phase.body)
    return analysis
