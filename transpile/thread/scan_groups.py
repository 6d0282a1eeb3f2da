"""Scans across SIMD groups: their totals go through shared memory, and every thread combines those
that come before its own."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from transpile.ir.dtypes import BOOL, I32
from transpile.thread.context import Tile
from transpile.thread.exchange import key_of, position
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Expr,
    If,
    LaneLoop,
    Let,
    SharedLoad,
    SharedStore,
    Var,
    add,
    both,
    integer,
    less,
    mul,
)  # fmt: skip
from transpile.thread.layout import Layout
from transpile.thread.nests import Env, Held
from transpile.thread.reduce import assigned, identity
from transpile.thread.scan_parts import Scan, copied, joined, later


class Totals:
    """Shared memory for the totals of all SIMD groups in all rounds, in the order of the scan."""

    def __init__(self, spec: Scan, tiles: Sequence[Tile]) -> None:
        self.spec = spec
        self.axes = [d for i, d in enumerate(spec.layout.axes) if d and i != spec.op.dim]
        shape = tuple(prod(d.count for d in digits) for digits in self.axes)
        count = spec.rounds * spec.groups
        self.buffers = [spec.low.buffer("total_shared", t.dtype, (*shape, count)) for t in tiles]
        self.keys = frozenset(key_of(b) for b in self.buffers)

    def cell(self, env: Env, number: Expr) -> tuple[Expr, ...]:
        """The place of a total."""
        return (*(position(self.spec.low, digits, env) for digits in self.axes), number)

    def publish(self, env: Env, totals: Sequence[Expr]) -> Body:
        """Stores those of a round; the SIMD group's last lane has them."""
        spec = self.spec
        number: Expr = integer(0)
        for digit in spec.outer:
            number = spec.turned(env[digit.loop], digit.count)
        place = add(mul(number, spec.groups), spec.turned(spec.group, spec.groups))
        end = 0 if spec.op.reverse else spec.lanes[1] - 1
        last = Apply("eq", (spec.lane, integer(end)), BOOL)
        owner = spec.low.owner(spec.layout)
        guard = both([last, owner] if owner is not None else [last])
        index = self.cell(env, place)
        pairs = zip(self.buffers, totals, strict=True)
        if len(totals) == 1 or guard is None:
            return [SharedStore(b, index, t, guard) for b, t in pairs]
        return [If(guard, [SharedStore(b, index, t) for b, t in pairs])]


def along_groups(
    spec: Scan, own: list[Tile], before: list[Tile], totals: Totals, results: list[Held]
) -> None:
    """The results, with the totals of all SIMD groups and rounds that come before."""

    def emit(env: Env) -> Body:
        var = Var("i", I32)
        number = var if spec.rounds > 1 else integer(0)
        groups = _Groups(totals, env, number)
        here = {**env, **spec.rounds_of(number)}
        body = groups.round(here, own, before, results)
        return [*groups.starts, *([LaneLoop(var, spec.rounds, body)] if spec.rounds > 1 else body)]

    spec.low.effect(
        Layout((tuple(spec.others),)), emit, [*own, *before], defines=tuple(results),
        reads=totals.keys, pinned=True, repeats=True,
    )  # fmt: skip


class _Groups:
    """Reads back the totals of all rounds before one, and of SIMD groups before the thread's."""

    def __init__(self, totals: Totals, env: Env, number: Expr) -> None:
        self.spec, self.number = totals.spec, number
        spec, buffers = totals.spec, totals.buffers
        self.buffers = buffers
        self.totals, self.env = totals, env
        self.group = spec.turned(spec.group, spec.groups)
        self.carried = [Var("carry", b.dtype) for b in buffers]
        self.start = [Var("start", b.dtype) for b in buffers]
        self.neutral: Expr | None = None
        if spec.name is not None:
            self.neutral = Const(identity(spec.name, buffers[0].dtype), buffers[0].dtype)
        self.several = spec.rounds > 1 or self.neutral is None

    def cell(self, at: Expr) -> tuple[Expr, ...]:
        """The place of a total."""
        return self.totals.cell(self.env, at)

    @property
    def starts(self) -> Body:
        """What the first round begins with."""
        if not self.several:
            return []
        firsts: list[Expr] = [SharedLoad(b, self.cell(integer(0))) for b in self.buffers]
        if self.neutral is not None:
            firsts = [self.neutral]
        return [Let(c, f) for c, f in zip(self.carried, firsts, strict=True)]

    def round(self, env: Env, own: list[Tile], before: list[Tile], results: list[Held]) -> Body:
        """The results of one round."""
        spec = self.spec
        begins: list[Expr] = list(self.carried) if self.several else [self.neutral or integer(0)]
        body: Body = [Let(v, b) for v, b in zip(self.start, begins, strict=True)]
        var = Var("s", I32)
        count = spec.groups if self.several else spec.groups - 1
        body.append(LaneLoop(var, count, self._group_step(var)))
        lanes = [b.read(env) for b in before]
        step: Body = []
        step += assigned(self.start, spec.combine(step, self.start, lanes))
        whole = joined(spec, env, self.start, own, results)
        if self.neutral is not None:
            return body + (step if self._always() else [If(later(spec), step)]) + whole
        alone: Body = [Assign(v, e) for v, e in zip(self.start, lanes, strict=True)]
        earlier = self._earlier(self.group)
        body.append(If(later(spec), [If(earlier, step, alone)]))
        some = Apply("lor", (earlier, later(spec)), BOOL)
        return [*body, If(some, whole, copied(spec, env, own, results))]

    def _always(self) -> bool:
        return self.spec.is_prefix(self.buffers[0].dtype)

    def _earlier(self, group: Expr) -> Expr:
        """Whether anything comes before a SIMD group of this round."""
        zero = integer(0)
        beyond = Apply("gt", (group, zero), BOOL)
        if self.spec.rounds == 1:
            return beyond
        return Apply("lor", (Apply("gt", (self.number, zero), BOOL), beyond), BOOL)

    def _group_step(self, var: Var) -> Body:
        spec = self.spec
        at = add(mul(self.number, spec.groups), var)
        partial: list[Expr] = [SharedLoad(b, self.cell(at)) for b in self.buffers]
        body: Body = []
        if self.neutral is not None:
            if self.several:
                body = [Let(kept := Var("group_total", partial[0].dtype), partial[0])]
                partial = [kept]
            into = spec.combine([], self.start, partial)
            body.append(If(less(var, self.group), [Assign(self.start[0], into[0])]))
            if self.several:
                total = spec.combine([], self.carried, partial)
                body.append(Assign(self.carried[0], total[0]))
            return body
        mine = Apply("eq", (var, self.group), BOOL)
        values = zip(self.start, self.carried, strict=True)
        body.append(If(mine, [Assign(v, c) for v, c in values]))
        step: Body = [Let(Var("group_total", p.dtype), p) for p in partial]
        totals = [let.var for let in step if isinstance(let, Let)]
        step += assigned(self.carried, spec.combine(step, self.carried, totals))
        return [*body, If(self._earlier(var), step)]
