"""Loops over blocks that stay in HBM: two buffers each, filled by asynchronous copies.

While the loop works on one buffer, the next block is copied into the other; a semaphore per buffer
says when it is there. Arrays are padded to whole blocks by the call function, so that every copy
has the size of a block and begins at a multiple of it.
"""

from __future__ import annotations

from collections.abc import Callable

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    COMPARE,
    TERNARY,
    Assign,
    Eval,
    Expr,
    Function,
    Return,
    Stmt,
    Var,
    binary,
    call,
    lit,
    postfix,
    ref,
)
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.loops import Copied
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.ir import TileType, Value
from transpile.ir.sizes import Size

Start = Callable[[Expr], Expr]


def define_copies(ctx: Context, loop: ir.ForTile, copies: list[Copied], start: Start) -> None:
    """Buffers, semaphores, and for each operand a function that makes the copy of a block.

    ``start`` gives the position of the loop's block number j.
    """
    for copied in copies:
        _allocate(ctx, copied)
        j, slot = Var("j"), Var("slot")
        hbm = ctx.windows.hbm[copied.tensor].ref
        source = _at(ref(hbm), [_place(ctx, loop, e, start(ref(j, I32))) for e in copied.index])
        target = _at(ref(copied.window.ref), [ref(slot, I32)])
        done = _at(ref(copied.semaphores), [ref(slot, I32)])
        ends = (target, source) if copied.stored else (source, target)
        made = call("pltpu.make_async_copy", *ends, done)
        ctx.emit(Function(copied.copy, (j, slot), [Return((made,))]))


def _allocate(ctx: Context, copied: Copied) -> None:
    if copied.window.ref in ctx.scratch_values:
        return  # an earlier loop's, too
    shape = tuple(size for size in copied.blocks if size is not None)
    both = TileType(copied.tensor.dtype, (Size.of(2), *shape))
    space = Expr(
        f"pltpu.VMEM({{0}}, {copied.tensor.name}.dtype)", (ctx.shape(both.shape),), (TERNARY,)
    )
    ctx.scratch.append((copied.window.ref, space))
    ctx.scratch_values[copied.window.ref] = Value(both, copied.window.ref.hint)
    ctx.scratch.append((copied.semaphores, lit("pltpu.SemaphoreType.DMA((2,))")))


def _place(ctx: Context, loop: ir.ForTile, entry: ir.Index, start: Expr) -> Expr:
    """One subscript of the block in HBM."""
    match entry:
        case ir.AtScalar(value=value):
            return ctx.expr(value)
        case ir.AtTile(tile=tile):
            block = ctx.block(tile.type.block)  # type: ignore[union-attr]
            own = tile is loop.body.params[0]
            return call("pl.ds", start if own else ctx.tiles[tile].begin, block)
        case _:
            return lit(":")


def _at(base: Expr, items: list[Expr]) -> Expr:
    while items and items[-1].template == ":":
        items = items[:-1]
    slots = ", ".join(f"{{{i + 1}}}" for i in range(len(items)))
    return Expr(f"{{0}}.at[{slots}]", (base, *items), (ATOM, *(TERNARY,) * len(items)))


def _step(copied: Copied, j: Expr, slot: Expr, action: str) -> Stmt:
    """``copy_x(j, slot).start()``."""
    made = Expr("{0}({1}, {2})", (ref(copied.copy), j, slot), (ATOM, TERNARY, TERNARY))
    return Eval(postfix(made, f".{action}()"))


def start_first(ctx: Context, copies: list[Copied], count: Expr, positive: bool) -> None:
    """Start the copies of the first block, if there is one."""
    steps = [_step(c, lit("0"), lit("0"), "start") for c in copies if not c.stored]
    if positive:
        for step in steps:
            ctx.emit(step)
        return
    some = binary(">", count, lit("0"), COMPARE, BOOL)
    ctx.emit(Function(Var("_"), (), steps, call("pl.when", some)))


def turn_over(
    ctx: Context, loop: ir.ForTile, copies: list[Copied], j: Var, count: Expr
) -> list[Stmt]:
    """The head of the loop's body: the next block is started; this one is waited for where it is
    first read, or here if that is in a branch or an inner loop."""
    slot = Var("slot")
    current = call("lax.rem", ref(j, I32), lit("2"), dtype=I32)
    following = binary("+", ref(j, I32), lit("1"), ADD, I32)
    other = binary("-", lit("1"), ref(slot, I32), ADD, I32)
    more = binary("<", following, count, COMPARE, BOOL)
    lines: list[Stmt] = [Assign((slot,), current)]
    ahead = [_step(c, following, other, "start") for c in copies if not c.stored]
    lines.append(Function(Var("_"), (), ahead, call("pl.when", more)))
    for copied in copies:
        ctx.slots[copied.window] = ref(slot, I32)
        if copied.stored:
            ctx.writes[copied.window] = _around_store(copied, ref(j, I32), ref(slot, I32))
            continue
        wait = _step(copied, ref(j, I32), ref(slot, I32), "wait")
        if all(op in loop.body.ops for op in copied.accesses):
            ctx.waits[copied.window] = wait
        else:
            lines.append(wait)
    return lines


def _around_store(copied: Copied, j: Expr, slot: Expr) -> tuple[list[Stmt], list[Stmt]]:
    earlier = _step(copied, binary("-", j, lit("2"), ADD, I32), slot, "wait")
    used = binary(">=", j, lit("2"), COMPARE, BOOL)
    before = Function(Var("_"), (), [earlier], call("pl.when", used))
    return [before], [_step(copied, j, slot, "start")]


def finish(ctx: Context, copies: list[Copied], count: Expr) -> None:
    """Wait for the last two copies of each result; a loop over a dimension has a turn at least."""
    for copied in copies:
        if not copied.stored:
            continue
        for back in ("2", "1"):
            j = binary("-", count, lit(back), ADD, I32)
            wait = _step(copied, j, call("lax.rem", j, lit("2"), dtype=I32), "wait")
            if back == "1":
                ctx.emit(wait)
                continue
            several = binary(">", count, lit("1"), COMPARE, BOOL)
            ctx.emit(Function(Var("_"), (), [wait], call("pl.when", several)))


def is_positive(ctx: Context, value: Value) -> bool:
    """True if a scalar is known to be above zero. Kernels do not run on arrays without elements."""
    size = ctx.windows.scalars_size(value)
    if size is not None:
        number = size.as_int()
        return number > 0 if number is not None else size.as_sym() is not None
    match ctx.makers.get(value):
        case ir.TileAttr(attr="end" | "count"):
            return True
        case ir.Elementwise(name="minimum", args=(a, b)):
            return is_positive(ctx, a) and is_positive(ctx, b)
        case ir.Elementwise(name="maximum", args=(a, b)):
            return is_positive(ctx, a) or is_positive(ctx, b)
        case ir.Elementwise(name="add", args=(a, b)):
            return any(is_positive(ctx, x) and _is_natural(ctx, y) for x, y in ((a, b), (b, a)))
        case ir.Cast(value=inner):
            return is_positive(ctx, inner)
        case _:
            return False


def _is_natural(ctx: Context, value: Value) -> bool:
    maker = ctx.makers.get(value)
    if isinstance(maker, ir.TileAttr) and maker.attr in ("begin", "id"):
        return True
    return is_positive(ctx, value)
