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
)
from transpile.thread.layout import Digit, Digits, Layout, loop_order
from transpile.thread.walk import nodes

if TYPE_CHECKING:
    from transpile.thread.scope import Scope

Env = Mapping[Digit, Expr]
"""The lane loops' variables."""

_LONG = 14  # nodes of an expression that is not written into another one


@dataclass(eq=False)
class Held:
    """A value that items define: where it is kept is decided when its nest is printed."""

    layout: Layout
    dtype: DType
    name: str | None = None
    hint: str = "t"
    item: Item | None = None  # None: a variable from outside, such as a carried value
    readers: list[Item] = field(default_factory=list)
    var: Var | None = None
    dims: Digits = ()
    fixed: bool = False  # the variable was needed before the nest is printed
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
        index = tuple(env[d] for d in self.dims if not d.vector)
        last = self.dims[-1] if self.dims and self.dims[-1].vector else None
        if last is None and not index:
            return self.var
        return Element(self.var, index, None if last is None else env[last])

    def whole(self, env: Env) -> Expr:
        """The vector that a nest's body holds of it."""
        assert self.var is not None
        index = tuple(env[d] for d in self.dims if not d.vector)
        return Element(self.var, index)

    def keep(self, dims: Digits) -> Let:
        """Declare a variable of its own for it, an array over ``dims``."""
        ordered = tuple(sorted(dims, key=loop_order))
        shape = tuple(d.count for d in ordered if not d.vector)
        components = ordered[-1].count if ordered and ordered[-1].vector else 1
        self.var = Var(self.name or self.hint, self.dtype, shape, components, self.fragment)
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
    def accumulates(self) -> bool:
        return bool(self.reduced)

    @property
    def ends_with_nest(self) -> bool:
        """Whether what it defines is complete only after its nest."""
        return any(d in self.key for d in self.reduced)


def split_digits(registers: Iterable[Digit]) -> tuple[frozenset[Digit], Digits]:
    """Register digits as the key of a nest and the inner digits."""
    found = tuple(registers)
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
        names = "ijklpq"
        env: dict[Digit, Expr] = {d: Var(n, I32) for d, n in zip(loops, names, strict=False)}
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
        groups: list[_Group] = []
        done: set[Item] = set()

        def need(item: Item) -> None:
            for other in self._before(item):
                if other not in done:
                    schedule(other)

        def schedule(item: Item) -> None:
            if item in done:
                return
            members = self._with_same_loops(item, done)
            for member in members:
                for other in self._before(member):
                    if other not in done and other not in members:
                        need(other)
                        schedule(other)
            group = _Group(item.inner, members)
            groups.append(group)
            for member in members:
                done.add(member)
                self.group_of[member] = group

        for item in self.items:
            if item.inner or item.compute is None:
                schedule(item)
        for item in self.items:
            schedule(item)
        return groups

    def _before(self, item: Item) -> list[Item]:
        found = [h.item for h in item.uses if h.item is not None and h.item in self.members]
        found += self.after.get(item, [])
        return sorted(dict.fromkeys(found), key=lambda i: i.order)

    def _with_same_loops(self, first: Item, done: set[Item]) -> list[Item]:
        """The item and later ones that can stand in the same inner loops."""
        members = [first]
        if not first.inner:
            return members
        for item in self.items:
            later = item.order > first.order and item not in done
            if later and item.inner == first.inner and self._joins(item, members, done, {}):
                members.append(item)
        return members

    def _joins(
        self, item: Item, members: list[Item], done: set[Item], seen: dict[Item, bool]
    ) -> bool:
        """Whether all that must precede the item can precede the group, or is in it."""
        for other in self._before(item):
            if other in done:
                continue
            if other in members:
                if other.accumulates and other.defines[0] in item.uses:
                    return False
                if other.writes & item.reads:
                    return False
                continue
            if other not in seen:
                free = other.compute is not None and not other.accumulates
                seen[other] = free and self._independent(other, members, done)
            if not seen[other]:
                return False
        return True

    def _independent(self, item: Item, members: list[Item], done: set[Item]) -> bool:
        if item in members:
            return False
        return all(o in done or self._independent(o, members, done) for o in self._before(item))

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
                here = all(r.nest is self.nest for r in held.readers)
                outside = not here or item.ends_with_nest
                if held.var is None and item not in self.inlined and outside:
                    self.outside.append(_kept(held, item, held.layout.registers))

    def _group(self, group: _Group, env: dict[Digit, Expr]) -> None:
        items = [item for item in group.items if item not in self.inlined]
        if not items:
            return
        scalars: set[Held] = set()
        for item in items:
            for held in item.defines:
                if held.fixed and item.compute is not None:
                    scalars.add(held)
                elif held.fixed:
                    assert held.var is not None
                    self.before.append(Let(held.var))
                elif held.var is None:
                    self._local(held, item, group, scalars)
        self._inner(group.inner, items, env, self.before, scalars)

    def _local(self, held: Held, item: Item, group: _Group, scalars: set[Held]) -> None:
        vector = split_digits(held.layout.registers)[1] if not item.inner else ()
        together = all(self.group_of.get(r) is group for r in held.readers)
        if item.compute is not None and not item.accumulates and (not item.inner or together):
            scalars.add(held)
            if vector:
                held.keep(vector)
                return
            return
        dims = tuple(d for d in held.layout.registers if d not in item.key)
        self.before.append(_kept(held, item, dims))

    def _inner(
        self, inner: Digits, items: list[Item], env: dict[Digit, Expr], out: Body,
        scalars: set[Held],
    ) -> None:  # fmt: skip
        """The items inside the loops over ``inner``."""
        if not inner:
            for item in items:
                out.extend(_item(item, env, scalars))
            return
        digit, rest = inner[0], inner[1:]
        if digit.pair:
            for number in range(digit.count):
                self._inner(rest, items, {**env, digit: Const(number)}, out, scalars)
            return
        var = Var("v", I32)
        body: Body = []
        self._inner(rest, items, {**env, digit: var}, body, scalars)
        if body:
            out.append(LaneLoop(var, digit.count, body))


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
            if not held.fixed and not (held.dims and held.dims[-1].vector):
                held.var, held.dims = Var(held.name or held.hint, held.dtype), ()
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
        if item.compute is None or any(h.readers for h in item.defines):
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
