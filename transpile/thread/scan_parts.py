"""What the steps of a scan share: the digits of its axis, and how results are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32, DType
from transpile.thread.context import Lowering, Tile
from transpile.thread.ir import Apply, Assign, Body, Const, Expr, LaneLoop, Var, add, integer, less
from transpile.thread.layout import Digit, Layout, thread_part
from transpile.thread.nests import Env, Held
from transpile.thread.reduce import Combine


@dataclass(eq=False)
class Scan:
    """A scan and the digits of its axis: those of a thread's vector, the thread's, and the register
    digits above. ``name`` is that of a scan of the op table."""

    low: Lowering
    op: ir.Scan
    layout: Layout
    combine: Combine
    name: str | None

    def __post_init__(self) -> None:
        digits = sorted(self.layout.axes[self.op.dim], key=lambda d: -d.weight)
        self.thread = next((d for d in digits if d.of_thread), None)
        own = [d for d in digits if not d.of_thread]
        least = self.thread.weight if self.thread else 0
        self.outer = [d for d in own if self.thread is None or d.weight > least]
        self.inner = [d for d in own if d not in self.outer]
        self.others = [d for d in self.layout.registers if d not in own]

    @property
    def rest(self) -> tuple[Digit, ...]:
        """All register digits but those of the vector."""
        return tuple(d for d in self.layout.registers if d not in self.inner)

    @property
    def lanes(self) -> tuple[int, int]:
        """Stride and count of the part of the thread digit within a SIMD group."""
        assert self.thread is not None
        simd = self.low.plan.simd
        inside = max(1, min(self.thread.count, simd // self.thread.stride))
        return self.thread.stride, inside

    @property
    def groups(self) -> int:
        """SIMD groups that share a row."""
        assert self.thread is not None
        return self.thread.count // self.lanes[1]

    @property
    def rounds(self) -> int:
        """Registers above the thread's."""
        return prod(d.count for d in self.outer)

    def part(self, stride: int, count: int) -> Expr:
        """A part of the thread's number."""
        return thread_part(stride, count, self.low.plan.threads, self.low.plan.simd)

    @property
    def lane(self) -> Expr:
        return self.part(*self.lanes)

    @property
    def group(self) -> Expr:
        stride, inside = self.lanes
        return self.part(stride * inside, self.groups)

    def turned(self, index: Expr, count: int) -> Expr:
        """The index from the other end, if the scan begins there."""
        if not self.op.reverse:
            return index
        return _less_from(count - 1, index)

    def is_prefix(self, dtype: DType) -> bool:
        """Whether the target's scan over the lanes of a SIMD group does it."""
        whole = self.lanes == (1, self.low.plan.simd)
        plain = self.name is not None and not self.op.reverse
        return plain and whole and dtype.bits <= 32

    def rounds_of(self, number: Expr) -> Env:
        """The outer digit, of which there is one at most, for a round counted from the start."""
        return {d.loop: self.turned(number, d.count) for d in self.outer}


def _less_from(last: int, index: Expr) -> Expr:
    if isinstance(index, Const):
        return integer(last - int(index.value))
    return Apply("sub", (integer(last), index), I32)


def later(spec: Scan, distance: Expr | None = None) -> Expr:
    """Whether there is a lane so far (one, if not said) before this one."""
    if spec.op.reverse:
        if distance is None:
            return less(spec.lane, integer(spec.lanes[1] - 1))
        return less(spec.lane, Apply("sub", (integer(spec.lanes[1]), distance), I32))
    if distance is None:
        return Apply("gt", (spec.lane, integer(0)), BOOL)
    return Apply("ge", (spec.lane, distance), BOOL)


def each(spec: Scan, env: Env, skipped: int = 0) -> tuple[Var, int, Env]:
    """A loop over the thread's vector, or in the scan's order over all but the first elements."""
    var = Var("j", I32)
    if not spec.inner:
        return var, 1, env
    (digit,) = spec.inner
    index: Expr = var
    if skipped and spec.op.reverse:
        index = Apply("sub", (integer(digit.count - 1 - skipped), var), I32)
    elif skipped:
        index = add(var, integer(skipped))
    return var, digit.count - skipped, {**env, digit.loop: index}


def looped(spec: Scan, var: Var, count: int, body: Body) -> Body:
    """The body in a loop over the thread's vector, if it has any."""
    return [LaneLoop(var, count, body)] if spec.inner else body


def joined(
    spec: Scan, env: Env, first: Sequence[Expr], own: list[Tile], results: list[Held]
) -> Body:
    """The results: what is before the thread combined with its own scans."""
    var, count, env = each(spec, env)
    body: Body = []
    values = spec.combine(body, first, [t.read(env) for t in own])
    body += [Assign(h.entry(env), v) for h, v in zip(results, values, strict=True)]
    return looped(spec, var, count, body)


def copied(spec: Scan, env: Env, own: list[Tile], results: list[Held]) -> Body:
    """The results where nothing comes before the thread."""
    var, count, env = each(spec, env)
    body: Body = [Assign(h.entry(env), t.read(env)) for h, t in zip(results, own, strict=True)]
    return looped(spec, var, count, body)
