"""Products without matrices: each thread adds up its own elements of the result.

What a thread needs of one row of the right operand serves all its rows of the left one, so both are
read from shared memory once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from transpile.ir.dtypes import I32, DType
from transpile.thread.context import Lowering
from transpile.thread.dot_plan import Product, Staged
from transpile.thread.exchange import position
from transpile.thread.ir import (
    Apply,
    Assign,
    Body,
    Const,
    Convert,
    Element,
    Expr,
    For,
    LaneLoop,
    Let,
    SharedLoad,
    Var,
    integer,
    less,
)
from transpile.thread.layout import Digits, Layout
from transpile.thread.named import several
from transpile.thread.nests import Env, Held


def summed(low: Lowering, product: Product, acc: Held, buffers: dict[str, Staged]) -> Body:
    """The loop over the depth: a row of the right operand's elements, multiplied by each of the
    left one's."""
    dtype, layout = acc.dtype, acc.layout
    *lead, rows, cols = layout.axes
    k = Var("k", I32)
    rhs = _columns(buffers["rhs"], cols)

    def batch(env: Env) -> Body:
        at = tuple(position(low, digits, env) for digits in lead)
        body = _read(low, buffers["rhs"], rhs, cols, env, lambda col: (*at, k, col))
        return body + _elements(rows, env, lambda env: row(env, at))

    def row(env: Env, at: tuple[Expr, ...]) -> Body:
        staged = buffers["lhs"]
        lhs = Var(f"{staged.name}_k", staged.dtype)
        place = (*at, position(low, rows, env), k)
        value = _cell(staged, "lhs", place, _room(rows))
        return [Let(lhs, value), *_elements(cols, env, lambda env: element(env, lhs))]

    def element(env: Env, lhs: Var) -> Body:
        entry = acc.entry(env)
        other = _entry(rhs, cols, env)
        term = Apply("mul", (_cast(lhs, dtype), _cast(other, dtype)), dtype)
        total = Apply("add", (entry, term), dtype)
        return [Assign(entry, total, span=product.op.span)]

    digits = [d for axis in lead for d in axis]
    step = _elements(tuple(digits), {}, batch)
    return [For(k, integer(0), integer(product.k), integer(1), step)]


def _columns(staged: Staged, cols: Digits) -> Var:
    """A variable for the elements of a row of the right operand that a thread needs."""
    shape = tuple(d.count for d in cols if not d.of_thread and not d.vector)
    width = prod(d.count for d in cols if d.vector)
    return Var(f"{staged.name}_k", staged.dtype, shape, width)


def _entry(array: Var, digits: Digits, env: Env) -> Element | Var:
    """Its element."""
    held = Held(Layout((digits,)), array.dtype, var=array)
    held.dims = tuple(d for d in digits if not d.of_thread)
    return held.entry(env)


def _read(
    low: Lowering, staged: Staged, into: Var, cols: Digits, env: Env,
    place: Callable[[Expr], tuple[Expr, ...]],
) -> Body:  # fmt: skip
    """Declares and reads these elements, in vectors where they are neighbours."""
    vector = tuple(d for d in cols if d.vector)
    wide = bool(vector) and not staged.transposed
    loops = tuple(d for d in cols if not (wide and d.vector))

    def one(env: Env) -> Body:
        first = {**env, **{d.loop: Const(0) for d in vector}} if wide else env
        width = into.components if wide else 1
        value = _cell(staged, "rhs", place(position(low, cols, first)), _room(cols), width)
        target = _entry(into, cols, first)
        if wide and isinstance(target, Element):
            target = Element(target.array, target.index)
        return [Assign(target, value)]

    body = _elements(loops, env, one)
    match body:
        case [Assign(target=Var() | Element(index=(), component=None), value=value)]:
            return [Let(into, value)]
    return [Let(into), *body]


def _room(digits: Digits) -> int:
    return prod(d.count for d in digits)


def _cell(
    staged: Staged, side: str, place: tuple[Expr, ...], room: int, width: int = 1
) -> SharedLoad:
    """An element of an operand; 0 where threads stand for more rows or columns than there are."""
    *lead, row, col = place
    index = (*staged.index, *lead, *((col, row) if staged.transposed else (row, col)))
    along = -1 if (side == "rhs") != staged.transposed else -2
    extent = staged.buffer.shape[along]
    guard = less(index[along], integer(extent)) if extent < room else None
    return SharedLoad(staged.buffer, index, width, guard)


def _elements(digits: Digits, env: Env, inner: Callable[[Env], Body]) -> Body:
    """``inner`` for all register digits among these."""
    registers = [d for d in digits if not d.of_thread]
    if not registers:
        return inner(env)
    first, *rest = registers
    name = "ijklpqrs"[len(env)]
    return looped(
        name, first.count, lambda at: _elements(tuple(rest), {**env, first.loop: at}, inner)
    )


def looped(name: str, count: int, inner: Callable[[Expr], Body]) -> Body:
    """``inner`` for 0 .. count - 1; no loop where that is one."""
    if not several(count):
        return inner(integer(0))
    var = Var(name, I32)
    return [LaneLoop(var, count, inner(var))]


def _cast(value: Expr, dtype: DType) -> Expr:
    return value if value.dtype == dtype else Convert(value, dtype)
