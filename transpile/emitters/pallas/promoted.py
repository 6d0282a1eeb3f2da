"""A loop over tiles as the innermost axis of the grid: what it carries is in scratch memory."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    ADD,
    MUL,
    Copy,
    Eval,
    Expr,
    For,
    Function,
    Var,
    binary,
    call,
    lit,
    ref,
)
from transpile.emitters.pallas.carried import inline_carried, scratch, typed, update
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.control import at_step, lower_block
from transpile.emitters.pallas.dtypes import spell_number
from transpile.emitters.pallas.lanes import replicated_columns
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.walked import with_axis
from transpile.emitters.pallas.windows import GridDim
from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.walk import operands, walk


def lower_promoted(ctx: Context, plan: Plan, loop: ir.ForTile) -> None:
    """Lower the phase's body, whose only loop is an axis of the grid."""
    ctx.replicated = replicated_columns(loop, plan.phase.body)
    ops = plan.phase.body.ops
    before, rest = ops[: ops.index(loop)], ops[ops.index(loop) + 1 :]
    starts = _only_start(before, loop, plan.phase.body)
    dim = next(d for d in plan.grid if d.loop is loop)
    axis = plan.grid.index(dim)
    refs = [scratch(ctx, p) for p in loop.body.params[1:]]
    numbers = [_number(ctx, init) for init in loop.inits]
    if dim.turns is None or None in numbers:
        numbers = [None] * len(refs)
        _first_step(ctx, dim, loop, refs, before, starts)
    else:
        lower_block(ctx, [op for op in before if op not in starts])
    if dim.turns is None:
        _one_block(ctx, loop, refs)
        outs = refs
    else:
        pairs = zip(refs, numbers, strict=True)
        outs = _turns(ctx, dim, loop, refs, [_resumed(ctx, r, axis, n) for r, n in pairs])
    ctx.pending = []
    for result, out in zip(loop.results, outs, strict=True):
        ctx.values[result] = typed(out, ctx, result)
    if rest:
        _last_step(ctx, dim, axis, loop, rest)


def _number(ctx: Context, init: ir.Value) -> Expr | None:
    """The literal that a tile is filled with, if it is."""
    full = ctx.makers.get(init)
    const = ctx.makers.get(full.value) if isinstance(full, ir.Full) else full
    return spell_number(const.value, init.dtype) if isinstance(const, ir.Const) else None


def _only_start(before: list[ir.Op], loop: ir.ForTile, body: ir.Block) -> set[ir.Op]:
    """Operations that nothing but the loop's initial values needs."""
    users: dict[ir.Value, set[object]] = {}
    for op in walk(body):
        for value in operands(op):
            users.setdefault(value, set()).add(op)
    for value in [v for b in [body, loop.body] for v in b.yields]:
        users.setdefault(value, set()).add(None)
    carried = set(loop.inits) - {loop.begin, loop.end}
    found: set[ir.Op] = set()
    for op in reversed(before):
        if isinstance(op, ir.Store | ir.Atomic) or not op.results:
            continue
        needs = set().union(*(users.get(r, set()) for r in op.results))
        mine = {u for u in needs if u is loop and set(op.results) <= carried}
        if needs and needs <= found | mine:
            found.add(op)
    return found


def _first_step(
    ctx: Context, dim: GridDim, loop: ir.ForTile, refs: list[Expr], before: list[ir.Op],
    starts: set[ir.Op],
) -> None:  # fmt: skip
    """Set what the loop carries. What that needs comes before it, the rest after: registers do not
    survive a branch."""
    early = _needed(before, starts)
    lower_block(ctx, [op for op in before if op in early])
    saved, ctx.body = ctx.body, []
    for op in starts:
        for result in op.results:
            result.name = None  # the scratch buffer has it
    lower_block(ctx, [op for op in before if op in starts])
    for r, init, param in zip(refs, loop.inits, loop.body.params[1:], strict=True):
        ctx.emit(Eval(Expr("{0} = {1}", (r, ctx.carried(init, param)), (0, 0))))
    ctx.consume(loop)
    start, ctx.body = ctx.body, saved
    ctx.emit(Function(Var("_"), (), start, call("pl.when", at_step(dim.pid, lit("0")))))
    lower_block(ctx, [op for op in before if op not in starts | early])


def _needed(before: list[ir.Op], starts: set[ir.Op]) -> set[ir.Op]:
    """Operations whose results those of ``starts`` read, of which they are none."""
    wanted = {v for op in starts for v in operands(op)}
    found: set[ir.Op] = set()
    for op in reversed(before):
        if op not in starts and wanted & set(op.results):
            found.add(op)
            wanted |= set(operands(op))
    return found


def _one_block(ctx: Context, loop: ir.ForTile, refs: list[Expr]) -> None:
    """One block of the loop, on what the scratch buffers hold."""
    inline_carried(ctx, loop)
    for param, r in zip(loop.body.params[1:], refs, strict=True):
        ctx.define(param, typed(r, ctx, param))
    lower_block(ctx, loop.body.ops)
    update(ctx, loop, refs)


def _turns(
    ctx: Context, dim: GridDim, loop: ir.ForTile, refs: list[Expr], inits: list[Expr]
) -> list[Expr]:
    """Several blocks of the loop, written out when jax traces the kernel: what they leave."""
    assert dim.turns is not None and dim.block is not None
    params = loop.body.params[1:]
    variables = [Var(p.name or "t") for p in params]
    ctx.settle()
    ctx.emit(Copy(list(zip(variables, inits, strict=True))))
    for var, param in zip(variables, params, strict=True):
        ctx.values[param] = ref(var, param.dtype, ctx.held_shape(param))
    turn = Var("turn")
    block, turns = ctx.block(dim.block), ctx.block(dim.turns)
    number = binary("+", binary("*", ref(dim.pid, I32), turns, MUL, I32), ref(turn), ADD, I32)
    saved, ctx.body, pending, ctx.pending = ctx.body, [], ctx.pending, []
    tile = ctx.tiles[dim.var]
    start = with_axis("start", dim.var.name)
    tile.begin = ctx.let(start, binary("*", number, block, MUL, I32), "inline")
    tile.local = binary("*", ref(turn, I32), block, MUL, I32)
    lower_block(ctx, loop.body.ops)
    outs = [ctx.carried(y, p) for y, p in zip(loop.body.yields, params, strict=True)]
    ctx.emit(Copy(list(zip(variables, outs, strict=True))))
    body, ctx.body, ctx.pending = ctx.body, saved, pending
    ctx.emit(For(turn, call("range", turns), body, tuple(variables)))
    outs = [ref(var, p.dtype, ctx.held_shape(p)) for var, p in zip(variables, params, strict=True)]
    for r, out in zip(refs, outs, strict=True):
        ctx.emit(Eval(Expr("{0} = {1}", (r, out), (0, 0))))
    return outs


def _resumed(ctx: Context, r: Expr, axis: int, number: Expr | None) -> Expr:
    """What the step before has left in a scratch buffer."""
    if number is None:
        return r
    ctx.helpers.add("_resumed")
    return Expr(
        f"_resumed({{0}}, {axis}, {{1}})", (r.args[0], number), (0, 0), dtype=r.dtype,
        shape=r.shape, is_load=True,
    )  # fmt: skip


def _last_step(ctx: Context, dim: GridDim, axis: int, loop: ir.ForTile, rest: list[ir.Op]) -> None:
    """What follows the loop."""
    last = binary("-", call("pl.num_programs", lit(str(axis))), lit("1"), ADD, I32)
    saved, ctx.body = ctx.body, []
    for result in loop.results:
        use = ctx.uses.get(result)
        if use is not None and use.count > 1 and ctx.values[result].loads:
            ctx.assign(result, ctx.values[result])
    lower_block(ctx, rest)
    body, ctx.body = ctx.body, saved
    ctx.emit(Function(Var("_"), (), body, call("pl.when", at_step(dim.pid, last))))
