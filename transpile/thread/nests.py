"""Loops over registers: which operations share one, and where their values live.

The operations of a block become *items*, each for one element of its tile. Items whose layouts have
the same register digits share a *nest* of lane loops, as far as their dependences allow. Inside the
nest, digits that count components of vectors (``Digit.inner``) have loops of their own around
groups of items; an item that handles whole vectors (a vector load) stands between them.

A value is written into the expression that reads it where it is read once and has no name of its
own; it is a scalar inside the loops where all its readers are in the same group, and otherwise a
register array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from transpile.ir.dtypes import I32, DType
from transpile.ir.ir import Span
from transpile.thread.ir import (
    Assign,
    Body,
    Const,
    Element,
    Expr,
    FragmentShape,
    LaneLoop,
    Let,
    Stmt,
    Var,
    add,
    mul,
)
from transpile.thread.layout import Digit, Digits, Layout, loop_order
from transpile.thread.walk import nodes

if TYPE_CHECKING:
    from transpile.thread.scope import Scope

Env = Mapping[Digit, Expr]
"""The lane loops' variables."""

_LOOP_NAMES = "ijklpqrs"
_VECTOR_BITS = 128
_LONG = 14  # nodes of an expression that is not written into another one


@dataclass(eq=False)
class Held:
    """A value that items define: where it is kept is decided when its nest is printed."""

    layout: Layout
    dtype: DType
    name: str | None = None
    hint: str = "value"
    item: Item | None = None  # None: a variable from outside, such as a carried value
    readers: list[Item] = field(default_factory=list)
    var: Var | None = None
    dims: Digits = ()
    fixed: bool = False  # the variable was needed before the nest is printed
    same_as: Held | None = None  # it takes over this one's variable
    fragment: FragmentShape | None = None  # its entries are matrices

    def read(self, env: Env) -> Expr:
        """One element of it."""
        if self.var is None:
            assert self.item is not None
            assert self.item.compute is not None
            return self.item.compute(env)
        return self.entry(env)

    def entry(self, env: Env) -> Var | Element:
        """The variable, or the entry of the array, that is this element."""
        assert self.var is not None
        index = tuple(env[d.loop] for d in self.dims if not self._counts(d))
        component: Expr | None = None
        for digit in self.dims:
            if self._counts(digit):
                part = env[digit.loop]
                component = part if component is None else add(mul(component, digit.count), part)
        if component is None and not index:
            return self.var
        return Element(self.var, index, component)

    def whole(self, env: Env) -> Expr:
        """The vector that a nest's body holds of it."""
        assert self.var is not None
        return Element(self.var, tuple(env[d.loop] for d in self.dims if not self._counts(d)))

    def _counts(self, digit: Digit) -> bool:
        """Whether a digit counts the components of vectors: those of 64-bit numbers that memory
        holds in fewer bits would be wider than any memory access, and are arrays."""
        if not digit.vector or self.fragment is not None:
            return digit.vector
        width = prod(d.count for d in self.layout.registers if d.vector)
        return self.dtype.bits <= 32 or width * self.dtype.bits <= _VECTOR_BITS

    def __post_init__(self) -> None:
        if self.name is not None and not self.name.strip("_"):
            self.name = None  # the source's word for what it does not need

    def take_over(self) -> None:
        """Use the variable of the value that it replaces, if that has one."""
        if self.same_as is not None and self.same_as.var is not None and self.var is None:
            self.var, self.dims = self.same_as.var, self.same_as.dims

    def keep(self, dims: Digits) -> Let:
        """Declare a variable of its own for it, an array over ``dims``."""
        ordered = tuple(sorted(dims, key=loop_order))
        shape = tuple(d.count for d in ordered if not self._counts(d))
        components = prod(d.count for d in ordered if self._counts(d))
        self.var = Var(
            self.name or self.hint, self.dtype, shape, components, self.fragment,
            of_source=self.name is not None,
        )  # fmt: skip
        self.dims = ordered
        return Let(self.var)


@dataclass(eq=False, kw_only=True)
class Item:
    """What is done for each element (or each vector, ``inner`` being empty then) of a tile.

    A pure item has ``compute``, an effect or a longer computation ``emit``. With ``reduced`` what
    it defines are accumulators, complete after the loops over those digits; they begin with
    ``starts``, if anything. ``clobbers`` is the variable that it overwrites.
    """

    key: frozenset[Digit]
    inner: Digits = ()
    uses: tuple[Held, ...] = ()
    defines: tuple[Held, ...] = ()
    compute: Callable[[Env], Expr] | None = None
    emit: Callable[[Env], Body] | None = None
    starts: tuple[Expr, ...] = ()
    reduced: Digits = ()
    reads: frozenset[str] = frozenset()  # tensors
    writes: frozenset[str] = frozenset()
    clobbers: Held | None = None
    pinned: bool = False  # must be evaluated where it stands, by all threads
    repeats: bool = False  # evaluates its operands more than once
    cell: object = None  # equal for accesses of the same elements in the same order
    span: Span | None = None
    order: int = 0
    nest: Nest | None = None
    scope: Scope | None = None

    @property
    def loops(self) -> Digits:
        """The inner digits that loops count; those of pairs are written out."""
        return tuple(d for d in self.inner if not d.pair)

    @property
    def pairs(self) -> Digits:
        """The inner digits that are written out."""
        return tuple(d for d in self.inner if d.pair)

    @property
    def accumulates(self) -> bool:
        return bool(self.reduced)

    @property
    def ends_with_nest(self) -> bool:
        """Whether what it defines is complete only after its nest."""
        return any(d.loop in self.key for d in self.reduced)


def split_digits(registers: Iterable[Digit]) -> tuple[frozenset[Digit], Digits]:
    """Register digits as the key of a nest and the inner digits."""
    found = tuple(d.loop for d in registers)
    return frozenset(d for d in found if not d.inner), tuple(d for d in found if d.inner)


@dataclass(eq=False)
class Nest:
    """Items under common lane loops."""

    key: frozenset[Digit]
    items: list[Item] = field(default_factory=list)

    def body(self) -> Body:
        """The loops with declarations of what is read after them."""
        return _Printer(self).run()


@dataclass(eq=False)
class Control:
    """A loop or a branch between nests; ``build`` prints it."""

    build: Callable[[], Body]
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


# -- printing one nest -------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """Items under common inner loops, in order."""

    inner: Digits
    items: list[Item]


class _Printer:
    def __init__(self, nest: Nest) -> None:
        self.nest = nest
        self.items = _live(sorted(nest.items, key=lambda i: i.order))
        self.members = set(self.items)
        self.after = _order_edges(self.items)
        self.group_of: dict[Item, _Group] = {}
        self.outside: Body = []  # declarations before the nest
        self.before: Body = []  # statements of the nest's body so far

    def run(self) -> Body:
        groups = self._groups()
        self._inline(groups)
        loops = sorted(self.nest.key, key=loop_order)
        env: dict[Digit, Expr] = {d: Var(n, I32) for d, n in zip(loops, _LOOP_NAMES, strict=False)}
        self.depth = len(loops)
        self._declare()
        for group in groups:
            self._group(group, env)
        body = self.before
        for digit in reversed(loops):
            var = env[digit]
            assert isinstance(var, Var)
            body = [LaneLoop(var, digit.count, body)] if body else []
        return self.outside + body

    # -- order ---------------------------------------------------------------------------------

    def _groups(self) -> list[_Group]:
        self.groups: list[_Group] = []
        self.done: set[Item] = set()
        self.claimed: set[Item] = set()  # in a group, which others are still to precede
        for item in self.items:
            if item.inner or item.compute is None:
                self._schedule(item)
        for item in self.items:
            self._schedule(item)
        return self.groups

    def _schedule(self, item: Item) -> None:
        """Puts an item into a group, with later ones that can share its loops."""
        if item in self.claimed:
            return
        members = self._with_same_loops(item)
        self.claimed.update(members)
        for member in members:
            for other in self._before(member):
                self._schedule(other)
        group = _Group(item.loops, sorted(members, key=self.items.index))
        self.groups.append(group)
        self.done.update(members)
        self.group_of.update(dict.fromkeys(members, group))

    def _before(self, item: Item) -> list[Item]:
        found = [h.item for h in item.uses if h.item is not None and h.item in self.members]
        found += self.after.get(item, [])
        return sorted(dict.fromkeys(found), key=lambda i: i.order)

    def _with_same_loops(self, first: Item) -> list[Item]:
        members = [first]
        if not first.loops:
            return members
        for item in self.items[self.items.index(first) + 1 :]:
            if item.loops == first.loops and item not in self.claimed and item not in members:
                more = self._joining(item, members)
                members += more if more is not None else []
        return members

    def _joining(self, item: Item, members: list[Item]) -> list[Item] | None:
        """The item with what has to join the group with it; None if it cannot join: something that
        must precede it has to follow a member of the group."""
        joining = [item]
        for other in self._before(item):
            if other in self.done or other in joining:
                continue
            if other in members:
                complete = other.accumulates and other.defines[0] in item.uses
                if complete or other.writes & item.reads:
                    return None
            elif other.loops == item.loops and other not in self.claimed:
                more = self._joining(other, members)
                if more is None or other.accumulates or other.writes & item.reads:
                    return None
                joining += [m for m in more if m not in joining]
            elif other.compute is None or not self._independent(other, members):
                return None
        return joining

    def _independent(self, item: Item, members: list[Item]) -> bool:
        """Whether an item, with all that must precede it, can precede the group."""
        if item in self.done:
            return True
        if item in members or item in self.claimed:
            return False
        return all(self._independent(other, members) for other in self._before(item))

    # -- storage -------------------------------------------------------------------------------

    def _inline(self, groups: list[_Group]) -> None:
        """Decides which values are written into their only reader."""
        flat = [item for group in groups for item in group.items]
        at = {item: number for number, item in enumerate(flat)}
        self.inlined: set[Item] = set()
        size: dict[Item, int] = {}
        for item in flat:
            size[item] = 3 + sum(
                size[h.item] for h in item.uses if h.item in self.inlined and h.item is not None
            )
            if self._writes_in(item, at, flat, size[item]):
                self.inlined.add(item)
                reader = item.defines[0].readers[0]
                reader.reads |= item.reads
        for item in reversed(flat):
            if item in self.inlined:
                reader = item.defines[0].readers[0]
                for held in item.uses:
                    held.readers = [reader if r is item else r for r in held.readers]

    def _writes_in(self, item: Item, at: dict[Item, int], flat: list[Item], size: int) -> bool:
        if item.compute is None or item.pinned or item.accumulates or len(item.defines) != 1:
            return False
        if item.clobbers is not None:
            return False
        held = item.defines[0]
        if held.name is not None or held.fixed or len(held.readers) != 1 or size > _LONG:
            return False
        reader = held.readers[0]
        if reader not in at or reader.repeats or reader.inner != item.inner:
            return False
        if split_digits(held.layout.registers) != (item.key, item.inner):
            return False  # a vector
        changed = self._reads(item)
        for other in flat[at[item] + 1 : at[reader]]:
            if (other.clobbers is not None and other.clobbers in changed) or (
                other.writes & item.reads
            ):
                return False
        return True

    def _reads(self, item: Item) -> set[Held]:
        found: set[Held] = set()
        for held in item.uses:
            found.add(held)
            if held.item in self.inlined and held.item is not None:
                found |= self._reads(held.item)
        return found

    def _declare(self) -> None:
        """Arrays for what is read outside of the nest's loops."""
        if not self.nest.key:
            return
        for item in self.items:
            for held in item.defines:
                held.take_over()
                here = all(r.nest is self.nest for r in held.readers)
                outside = not here or item.ends_with_nest
                if held.var is None and item not in self.inlined and outside:
                    self.outside.append(_kept(held, item, held.layout.registers))

    def _group(self, group: _Group, env: dict[Digit, Expr]) -> None:
        items = [item for item in group.items if item not in self.inlined]
        if not items:
            return
        self.scalars: set[Held] = set()
        self.paired: set[Held] = set()
        for item in items:
            for held in item.defines:
                if held.fixed and item.compute is not None:
                    self.scalars.add(held)
                elif held.fixed:
                    assert held.var is not None
                    self.before.append(Let(held.var))
                elif held.var is None:
                    held.take_over()
                    if held.var is None:
                        self._local(held, item, group)
        self._inner(group.inner, items, env, self.before)

    def _local(self, held: Held, item: Item, group: _Group) -> None:
        """Decides how a value that only this nest reads is kept: inside the group's loops where
        all readers are in them, else as an array before."""
        together = all(self.group_of.get(r) is group for r in held.readers)
        if item.compute is not None and not item.accumulates and (together or not item.inner):
            if not item.inner:
                self.scalars.add(held)
                held.keep(tuple(d for d in held.layout.registers if d.inner))
            elif item.pairs:
                self.paired.add(held)
            else:
                self.scalars.add(held)
            return
        dims = tuple(d for d in held.layout.registers if d.loop not in item.key)
        self.before.append(_kept(held, item, dims))

    def _inner(self, loops: Digits, items: list[Item], env: dict[Digit, Expr], out: Body) -> None:
        """The items inside the loops over inner digits."""
        if not loops:
            for item in items:
                self._pairs(item, item.pairs, env, out)
            return
        var = Var(_LOOP_NAMES[self.depth], I32)
        body: Body = []
        self._inner(loops[1:], items, {**env, loops[0]: var}, body)
        if body:
            out.append(LaneLoop(var, loops[0].count, body))

    def _pairs(self, item: Item, pairs: Digits, env: dict[Digit, Expr], out: Body) -> None:
        """One item's statements, for each value of its pairs."""
        for held in item.defines:
            if held in self.paired and pairs == item.pairs:
                out.append(held.keep(tuple(d for d in held.layout.registers if d.pair)))
        if not pairs:
            out.extend(_item(item, env, self.scalars))
            return
        for number in range(pairs[0].count):
            self._pairs(item, pairs[1:], {**env, pairs[0]: Const(number)}, out)


def _kept(held: Held, item: Item, dims: Digits) -> Let:
    let = held.keep(dims)
    let.span = item.span
    if item.starts:
        let.value = item.starts[item.defines.index(held)]
    return let


def _item(item: Item, env: Env, scalars: set[Held]) -> Body:
    """One item's statements for one element."""
    if item.emit is not None:
        body = item.emit(env)
    else:
        assert item.compute is not None
        held = item.defines[0]
        value = item.compute(env)
        if held in scalars:
            if item.inner and not held.fixed:
                held.keep(())
            assert held.var is not None
            body = [Let(held.var, value)]
        elif value.width > 1:
            target = held.whole(env)
            assert isinstance(target, Element)
            body = [Assign(target, value)]
        else:
            body = [Assign(held.entry(env), value)]
    for stmt in body:
        stmt.span = stmt.span or item.span
    return body


def _live(items: Sequence[Item]) -> list[Item]:
    """Without computations that nothing reads."""
    alive: list[Item] = []
    for item in reversed(items):
        if item.compute is None or item.clobbers or any(h.readers for h in item.defines):
            alive.append(item)
        else:
            for held in item.uses:
                held.readers = [r for r in held.readers if r is not item]
    return alive[::-1]


def _order_edges(items: Sequence[Item]) -> dict[Item, list[Item]]:
    """What must precede an item besides the values it uses: accesses of the same tensor of which
    one writes, readers of a variable that it overwrites."""
    edges: dict[Item, list[Item]] = {}
    for number, item in enumerate(items):
        for other in items[:number]:
            memory = other.writes & (item.reads | item.writes) or other.reads & item.writes
            overwritten = item.clobbers is not None and (
                item.clobbers in other.uses or item.clobbers is other.clobbers
            )
            read_after = other.clobbers is not None and other.clobbers in item.uses
            if memory or overwritten or read_after:
                edges.setdefault(item, []).append(other)
    return edges


def expression_size(expr: Expr) -> int:
    """Nodes of an expression."""
    return sum(1 for _ in nodes(expr))


__all__ = ["Control", "Env", "Held", "Item", "Nest", "Stmt", "split_digits"]
