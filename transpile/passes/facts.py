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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transpile.ir.ir import Value
from transpile.ir.ops import Number

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


def operand_state(arg: Value, facts: Facts, key: Lanes, result: Value) -> State:
    """The state of an operand's lanes, for a lane-by-lane operation with this result."""
    if facts.uniform is not None:
        return facts.uniform
    if not arg.shape or arg.shape[key[0]] != result.shape[key[0]]:
        return FREE
    return facts.state(key)


def spoil(states: Sequence[State]) -> State:
    """The state of lanes computed from lanes in these states, their number unknown."""
    if LIVE in states:
        return LIVE
    return FREE if all(state == FREE for state in states) else JUNK
