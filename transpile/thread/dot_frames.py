"""Which values of a phase are distributed as the results of products are.

A product's result has a *slot* for each of its axes. Slots spread to whatever is computed element
by element with it, to its accumulator around loops, to reductions of it, and back to what is only
loaded or made for that; axes that meet share a slot. In the end each slot gets digits, and so each
value that has slots a layout. Values without are distributed by their axes (see ``plan``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transpile.ir import ir
from transpile.ir.ir import Op, TileType, Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import definitions, entry_axes, reshape_groups, use_counts, walk
from transpile.thread.layout import Digits

Kind = Literal["batch", "rows", "cols", "copy"]


@dataclass(eq=False, slots=True)
class Slot:
    """One axis of tiles that are distributed alike. ``whole``: no two SIMD groups share it, as it
    is the depth of another product. ``reduced``: elements along it are combined, so that there may
    be none but the tile's own. ``merged`` is the slot that it has become a part of."""

    kind: Kind
    size: Size
    digits: Digits = ()
    whole: bool = False
    reduced: bool = False
    merged: Slot | None = None

    def final(self) -> Slot:
        """The slot that stands for this one."""
        slot = self
        while slot.merged is not None:
            slot = slot.merged
        return slot


Slots = tuple[Slot | None, ...]
"""One for each axis of a tile; None for axes of one element."""

#: operations that can give their result in any layout, at the price of doing them again
_LEAVES = (ir.Load, ir.Full, ir.TileIndex, ir.Iota, ir.Random)
_POINTWISE = (ir.Elementwise, ir.Cast, ir.Mask, ir.Broadcast, ir.Permute, ir.Reshape)


@dataclass(eq=False)
class Frames:
    """The slots of a phase's values."""

    body: ir.Block
    slots: dict[Value, Slots] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.makers = definitions(self.body)
        self.uses = use_counts(self.body)
        self.ops = list(walk(self.body))

    def of(self, value: Value) -> Slots | None:
        """The value's slots, None if it has none."""
        found = self.slots.get(value)
        return None if found is None else tuple(s and s.final() for s in found)

    def frame(self, value: Value, slots: Slots) -> bool:
        """Gives the value slots, or merges them with those it has; whether anything changed."""
        old = self.slots.get(value)
        if old is None:
            self.slots[value] = slots
            return True
        merged = [_merge(a, b) for a, b in zip(old, slots, strict=True)]
        return any(merged)

    def close(self) -> None:
        """Spreads slots until nothing changes."""
        while sum(self._visit(op) for op in self.ops):
            pass

    # -- rules ---------------------------------------------------------------------------------

    def _visit(self, op: Op) -> bool:
        rule = _RULES.get(type(op))
        return rule(self, op) if rule is not None else False

    def demand(self, value: Value, slots: Slots) -> bool:
        """Asks that a value be made with these slots, if it can be."""
        if not value.shape or value in self.slots:
            return bool(value.shape) and self.frame(value, slots)
        maker = self.makers.get(value)
        if maker is None or not isinstance(maker, (*_LEAVES, *_POINTWISE)):
            return False
        alone = self.uses[value] == 1 or isinstance(maker, _LEAVES[1:])
        return alone and self.frame(value, slots)

    def _pointwise(self, args: Sequence[Value], result: Value) -> bool:
        if not result.shape:
            return False
        changed = False
        if (slots := _covering([(a, self.slots.get(a)) for a in args], result)) is not None:
            changed = self.frame(result, slots)
        own = self.slots.get(result)
        if own is None:
            return changed
        for arg in args:
            if arg.shape:
                pairs = zip(arg.shape, own, strict=True)
                changed |= self.demand(arg, tuple(None if s == ONE else d for s, d in pairs))
        return changed

    def _moved(self, value: Value, result: Value, axes: dict[int, int], *, exact: bool) -> bool:
        """Rule of an operation that moves axis ``a`` to ``axes[a]``; with ``exact`` the operand
        follows the result too."""
        changed = False
        if (old := self.slots.get(value)) is not None:
            new: list[Slot | None] = [None] * len(result.shape)
            for a, b in axes.items():
                new[b] = old[a]
            if all(s is not None or n == ONE for s, n in zip(new, result.shape, strict=True)):
                changed = self.frame(result, tuple(new))
        if exact and (own := self.slots.get(result)) is not None and value.shape:
            back: list[Slot | None] = [None] * len(value.shape)
            for a, b in axes.items():
                back[a] = own[b]
            if all(s is not None or n == ONE for s, n in zip(back, value.shape, strict=True)):
                changed |= self.demand(value, tuple(back))
        return changed

    def _load(self, op: ir.Load) -> bool:
        slots = self.slots.get(op.result)
        if slots is None:
            return False
        changed = False
        if op.mask is not None:
            changed |= self._operand_of(op.mask, op.result, slots)
        for entry, dims in zip(op.index, entry_axes(op.index), strict=True):
            if isinstance(entry, ir.AtTensor) and dims:
                pairs = zip(entry.value.shape, dims, strict=True)
                wanted = tuple(None if n == ONE else slots[d] for n, d in pairs)
                changed |= self.demand(entry.value, wanted)
        return changed

    def _operand_of(self, arg: Value, result: Value, slots: Slots) -> bool:
        shift = len(result.shape) - len(arg.shape)
        pairs = zip(arg.shape, slots[shift:], strict=True)
        return self.demand(arg, tuple(None if n == ONE else s for n, s in pairs))

    def _reduce(self, op: ir.Reduce) -> bool:
        rank = len(op.value.shape)
        slots = self.of(op.value)
        if slots is not None and (along := slots[op.dim]) is not None:
            along.reduced = True
        kept = {d: d if op.keepdim or d < op.dim else d - 1 for d in range(rank) if d != op.dim}
        return self._moved(op.value, op.result, kept, exact=False)

    def _dot(self, op: ir.Dot) -> bool:
        slots = self.slots.get(op.result)
        if slots is None or op.acc is None:
            return False
        return self.demand(op.acc, slots)

    def _same(self, values: Sequence[Value]) -> bool:
        """Rule for values that are one variable: what a loop carries, what branches give."""
        slots = next((self.slots[v] for v in values if v in self.slots), None)
        if slots is None or not all(isinstance(v.type, TileType) and v.shape for v in values):
            return False
        changed = False
        for value in values:
            maker = self.makers.get(value)
            own = maker is None or isinstance(maker, (ir.ForTile, ir.ForRange, ir.While, ir.If))
            changed |= self.frame(value, slots) if own else self.demand(value, slots)
        return changed

    def _loop(self, op: ir.ForTile | ir.ForRange | ir.While) -> bool:
        skip = 0 if isinstance(op, ir.While) else 1
        params = op.body.params[skip:]
        changed = False
        rows = zip(op.inits, params, op.body.yields, op.results, strict=True)
        for number, row in enumerate(rows):
            group = list(row)
            if isinstance(op, ir.While):
                group.insert(0, op.cond.params[number])
            changed |= self._same(group)
        return changed

    def _if(self, op: ir.If) -> bool:
        rows = zip(op.then.yields, op.orelse.yields, op.results, strict=True)
        return sum(self._same(row) for row in rows) > 0


def _merge(a: Slot | None, b: Slot | None) -> bool:
    """Makes two slots one, if they are of one kind; whether anything changed."""
    if a is None or b is None:
        return False
    a, b = a.final(), b.final()
    if a is b or a.kind != b.kind or a.size != b.size or a.kind == "copy":
        return False
    if a.digits and b.digits and a.digits != b.digits:
        return False
    b.merged = a
    a.whole = a.whole or b.whole
    a.reduced = a.reduced or b.reduced
    a.digits = a.digits or b.digits
    return True


def _covering(args: Sequence[tuple[Value, Slots | None]], result: Value) -> Slots | None:
    """A result's slots from those of its operands; None if an axis has none."""
    found: list[Slot | None] = []
    for dim, size in enumerate(result.shape):
        slot = None
        for arg, slots in args:
            if slots is not None and arg.shape and arg.shape[dim] == size:
                slot = slot or slots[dim]
        if slot is None and size != ONE:
            return None
        found.append(slot)
    return tuple(found) if any(found) else None


def _permute(frames: Frames, op: ir.Permute) -> bool:
    axes = {old: new for new, old in enumerate(op.order)}
    return frames._moved(op.value, op.result, axes, exact=True)


def _reshape(frames: Frames, op: ir.Reshape) -> bool:
    groups = reshape_groups(op.value.shape, op.result.shape)
    if not all(len(old) == len(new) == 1 for old, new in groups):
        return False
    axes = {old[0]: new[0] for old, new in groups}
    return frames._moved(op.value, op.result, axes, exact=True)


_RULES: dict[type[Op], Callable[..., bool]] = {
    ir.Elementwise: lambda f, op: f._pointwise(op.args, op.result),
    ir.Cast: lambda f, op: f._pointwise((op.value,), op.result),
    ir.Mask: lambda f, op: f._pointwise((op.value,), op.result),
    ir.Broadcast: lambda f, op: f._pointwise((op.value,) if op.value.shape else (), op.result),
    ir.Permute: _permute, ir.Reshape: _reshape, ir.Reduce: Frames._reduce, ir.Load: Frames._load,
    ir.Dot: Frames._dot, ir.ForTile: Frames._loop, ir.ForRange: Frames._loop,
    ir.While: Frames._loop, ir.If: Frames._if,
}  # fmt: skip
