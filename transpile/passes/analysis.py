"""The abstract interpretation that finds what out-of-range lanes hold (see ``facts``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transpile.ir import ir
from transpile.ir.ir import Block, Guard, Kernel, Op, Value
from transpile.ir.ops import Number
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import operands
from transpile.passes.facts import (
    FREE,
    NOTHING,
    Facts,
    Lanes,
    State,
    from_states,
    join,
    operand_state,
)
from transpile.passes.ranges import Ranges, kernel_ranges
from transpile.passes.transfer import TRANSFER


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
            transfer = TRANSFER.get(type(op))
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
                    operand_state(arg, f, key, result) for arg, f in zip(args, facts, strict=True)
                ]
                states[key] = combine(operands)
        return from_states(states)


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
