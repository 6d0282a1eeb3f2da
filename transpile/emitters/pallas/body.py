"""The kernel's body: grid positions, what outputs held before, the loop that joined the grid."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    BIT_AND,
    Eval,
    Expr,
    Function,
    Stmt,
    Var,
    binary,
    call,
    lit,
    ref,
)
from transpile.emitters.pallas.context import Context, Tile
from transpile.emitters.pallas.control import at_step, lower_block
from transpile.emitters.pallas.dtypes import NAMES
from transpile.emitters.pallas.lanes import replicated_columns
from transpile.emitters.pallas.memory import emit_store, subscript
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.windows import GridDim, Window, plus
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.ir import TileVar
from transpile.ir.sizes import Size
from transpile.ir.walk import operands, walk


def lower_body(ctx: Context, plan: Plan) -> None:
    """Lower the phase into ``ctx.body``."""
    for number, dim in enumerate(plan.grid):
        position = call("pl.program_id", lit(str(number)), dtype=I32)
        ctx.emit(_drop(dim.pid, position))
        _grid_position(ctx, plan, dim)
    for window in plan.windows.outputs:
        if (old := plan.windows.initial.get(window.tensor)) is not None:
            _copy_in(ctx, plan, window, old)
    ops = plan.phase.body.ops
    if plan.loop is None:
        lower_block(ctx, ops)
        return
    ctx.replicated = replicated_columns(plan.loop, plan.phase.body)
    at = ops.index(plan.loop)
    starts = _only_start(ops[:at], plan.loop, plan.phase.body)
    _promoted_loop(ctx, plan, plan.loop, starts, ops[:at], ops[at + 1 :])


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


def _drop(var: Var, value: Expr) -> Stmt:
    from transpile.emitters.common.tree import Assign

    return Assign((var,), value, "drop")


def _grid_position(ctx: Context, plan: Plan, dim: GridDim) -> None:
    """Values of a grid axis in the kernel: a tile, or a number."""
    pid = ref(dim.pid, I32)
    if not isinstance(dim.var.type, TileVar):
        step = pid if dim.step == 1 else binary("*", pid, lit(str(dim.step)), 11, I32)
        ctx.values[dim.var] = plus(ctx.size(dim.begin), step)
        return
    assert dim.block is not None
    start = binary("*", pid, ctx.block(dim.block), 11, I32)
    start = plus(ctx.size(dim.begin), start)
    ctx.tiles[dim.var] = Tile(
        start, ctx.size(dim.end), dim.block, dim.begin == Size(()), None, ctx.size(dim.begin), pid
    )


def _copy_in(ctx: Context, plan: Plan, window: Window, old: Window) -> None:
    """``out_ref[...] = out_in_ref[...]`` when an output's window is first visited."""
    rank = len(window.dims) or len(window.tensor.shape)
    if window.space == "smem":
        raise ctx.unsupported(
            f"`{window.tensor.name}`, which is modified element by element,", None,
            "scalars are written to memory of their own",
        )  # fmt: skip
    del rank
    target = subscript(ref(window.ref), [], None, ())
    source = subscript(ref(old.ref), [], None, ())
    copy = Eval(Expr("{0} = {1}", (target, source), (0, 0)))
    still = [d for d in plan.grid if d not in window.along]
    if not still:
        ctx.emit(copy)
        return
    ctx.emit(Function(Var("_"), (), [copy], call("pl.when", first_step(still))))


def first_step(dims: list[GridDim]) -> Expr:
    """True at the first step along all of some grid axes."""
    tests = [at_step(d.pid, lit("0")) for d in dims]
    total = tests[0]
    for test in tests[1:]:
        total = Expr("{0} & {1}", (total, test), (BIT_AND + 1, BIT_AND + 1), BIT_AND, dtype=BOOL)
    return total


# -- a loop as the innermost grid axis -------------------------------------------------------------


def _promoted_loop(
    ctx: Context, plan: Plan, loop: ir.ForTile, starts: set[ir.Op], before: list[ir.Op],
    rest: list[ir.Op],
) -> None:  # fmt: skip
    """Carried values live in scratch: set at the first step, used after the last.

    What the first step needs comes before it, the rest after: registers do not survive a branch.
    """
    dim = next(d for d in plan.grid if d.loop is loop)
    refs = [_scratch(ctx, p) for p in loop.body.params[1:]]
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
    _inline_carried(ctx, loop)
    for param, r in zip(loop.body.params[1:], refs, strict=True):
        ctx.define(param, _typed(r, ctx, param))
    lower_block(ctx, loop.body.ops)
    _update(ctx, loop, refs)
    ctx.pending = []
    for result, r in zip(loop.results, refs, strict=True):
        ctx.values[result] = _typed(r, ctx, result)
    if rest:
        last = call("pl.num_programs", lit(str(plan.grid.index(dim))))
        last = binary("-", last, lit("1"), 9, I32)
        saved, ctx.body = ctx.body, []
        for result in loop.results:
            use = ctx.uses.get(result)
            if use is not None and use.count > 1:
                ctx.assign(result, ctx.values[result])
        lower_block(ctx, rest)
        body, ctx.body = ctx.body, saved
        ctx.emit(Function(Var("_"), (), body, call("pl.when", at_step(dim.pid, last))))


def _needed(before: list[ir.Op], starts: set[ir.Op]) -> set[ir.Op]:
    """Operations whose results those of ``starts`` read, of which they are none."""
    wanted = {v for op in starts for v in operands(op)}
    found: set[ir.Op] = set()
    for op in reversed(before):
        if op not in starts and wanted & set(op.results):
            found.add(op)
            wanted |= set(operands(op))
    return found


def _inline_carried(ctx: Context, loop: ir.ForTile) -> None:
    """No names for what is read from scratch once, or only written back."""
    names = {p.name for p in loop.body.params[1:]}
    carried = {*loop.body.params[1:], *loop.body.yields}
    for op in loop.body.ops:
        carried |= {r for r in op.results if r.name in names and not isinstance(op, ir.Load)}
    for value in carried:
        if (use := ctx.uses.get(value)) is not None and use.count == 1:
            value.name = None


def _typed(r: Expr, ctx: Context, value: ir.Value) -> Expr:
    shape = ctx.held_shape(value)
    return Expr(r.template, r.args, r.needs, dtype=value.dtype, shape=shape, is_load=True)


def _scratch(ctx: Context, value: ir.Value) -> Expr:
    """A scratch buffer for a carried value; the expression reads all of it."""
    var = Var(f"{value.name or 'carry'}_ref")
    dtype = NAMES[value.dtype]
    shape = ctx.shape(ctx.held_shape(value)) if value.shape else lit("(1,)")
    space = "VMEM" if value.shape else "SMEM"
    ctx.scratch.append((var, Expr(f"pltpu.{space}({{0}}, {dtype})", (shape,), (0,))))
    ctx.scratch_values[var] = value
    return subscript(
        ref(var), [] if value.shape else [lit("0")], value.dtype, ctx.held_shape(value)
    )


def _update(ctx: Context, loop: ir.ForTile, refs: list[Expr]) -> None:
    """Write the carried values back, after all of the old ones are read."""
    params = loop.body.params[1:]
    values = [ctx.carried(y, p) for y, p in zip(loop.body.yields, params, strict=True)]
    written: set[Var] = set()
    for i, r in enumerate(refs):
        if written & set(values[i].vars()):
            hint = params[i].name or "t"
            values[i] = ctx.let(f"new_{hint}", values[i], "")
        written |= {r.args[0].var} if r.args[0].var is not None else set()
    order = sorted(range(len(refs)), key=lambda i: values[i].var is not None)
    for r, value in ((refs[i], values[i]) for i in order):
        if value.template == "{0} + {1}" and value.args[0].text() == r.text():
            ctx.emit(Eval(Expr("{0} += {1}", (r, value.args[1]), (0, 0))))
        else:
            emit_store(ctx, r, value)
