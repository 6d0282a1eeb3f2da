"""Loops and branches, and the walk over a block."""

from __future__ import annotations

from collections.abc import Sequence

from transpile.emitters.common.tree import (
    ADD,
    BIT_AND,
    COMPARE,
    MUL,
    TERNARY,
    Assign,
    Copy,
    Eval,
    Expr,
    For,
    Function,
    Return,
    Stmt,
    Var,
    binary,
    call,
    lit,
    ref,
)
from transpile.emitters.pallas.context import Context, Tile
from transpile.emitters.pallas.copies import (
    define_copies,
    finish,
    is_positive,
    start_first,
    turn_over,
)
from transpile.emitters.pallas.expr import PURE
from transpile.emitters.pallas.loops import left_out
from transpile.emitters.pallas.memory import lower_atomic, lower_load, lower_store
from transpile.emitters.pallas.pipeline import lower_pipeline
from transpile.emitters.pallas.special import SPECIAL
from transpile.emitters.pallas.walked import LoopBlocks, floored, loop_blocks, stable, with_axis
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.ir import Value
from transpile.ir.walk import walk

_UNROLLED = 8  # turns of a loop that are written out at most


def lower_block(ctx: Context, ops: Sequence[ir.Op]) -> None:
    """Lower every operation of the block into ``ctx.body``."""
    for op in ops:
        ctx.comment(op.span)
        try:
            lower_op(ctx, op)
        except KtError as error:
            ctx.errors.append(error)
            for result in op.results:
                ctx.values[result] = lit("0")


def lower_op(ctx: Context, op: ir.Op) -> None:
    """Lower one operation: bind its result, or emit its statement."""
    if isinstance(op, ir.Permute) and _only_multiplied(ctx, op):
        ctx.values[op.result] = PURE[ir.Permute](ctx, op)
        ctx.consume(op)
        return
    if handler := PURE.get(type(op)):
        expr = handler(ctx, op)
        ctx.consume(op)
        ctx.define(op.result, expr, hint(op, expr))
        return
    match op:
        case ir.Load():
            expr = lower_load(ctx, op)
            ctx.consume(op)
            ctx.define(op.result, expr, hint(op, expr))
        case ir.Store():
            lower_store(ctx, op)
        case ir.Atomic():
            lower_atomic(ctx, op)
        case ir.ForTile():
            lower_for_tile(ctx, op)
        case ir.ForRange():
            lower_for_range(ctx, op)
        case ir.If():
            lower_if(ctx, op)
        case ir.While():
            lower_while(ctx, op)
        case ir.Barrier():
            ctx.settle()  # a grid step is one thread
        case _:
            SPECIAL[type(op)](ctx, op)


def _only_multiplied(ctx: Context, op: ir.Permute) -> bool:
    """True if only products read the transposed tile: they contract it where it stands."""
    rank = len(op.order)
    swap = (*range(rank - 2), rank - 1, rank - 2)
    users = ctx.users.get(op.result, [])
    source = ctx.makers.get(op.value)
    if isinstance(source, ir.Load) and ctx.windows.of[source].written:
        return False  # it has to be read in its place
    return rank >= 2 and op.order == swap and all(isinstance(u, ir.Dot) for u in users)


def hint(op: ir.Op, expr: Expr) -> str:
    """A name for an unnamed value that needs a variable."""
    match op:
        case ir.Load(tensor=tensor):
            return f"{tensor.name}_tile" if op.result.shape else f"{tensor.name}_value"
        case ir.Reduce(name=name):
            return f"row_{name}" if name in ("max", "min", "sum") else name
        case ir.Elementwise(name=name) if len(op.args) == 1:
            return _derived(expr, name)
        case ir.Elementwise() if op.result.dtype.is_bool:
            return "mask"
        case ir.TileAttr(attr=attr):
            return attr
        case ir.Dot():
            return "product"
        case ir.TileIndex():
            return "index"
        case _:
            first = next(iter(expr.vars()), None)
            if first is None:
                return "t"
            base = (first.name or first.hint).removesuffix("_ref")
            return f"{base}_tile" if expr.loads and first.argument else base


def _derived(expr: Expr, name: str) -> str:
    first = next(iter(expr.vars()), None)
    if first is None:
        return name
    base = (first.name or first.hint).removesuffix("_tile").removesuffix("_ref")
    return f"{base}_{name}" if base not in ("", "t") else name


# -- loops -----------------------------------------------------------------------------------------


def lower_for_tile(ctx: Context, op: ir.ForTile) -> None:
    """A loop over tiles, in the form that was chosen for it."""
    form, copies = ctx.windows.loops.get(op, ("whole", []))
    blocks = loop_blocks(ctx, op, whole=bool(copies))
    step = Var("j")
    lead: list[Stmt] = []
    saved, ctx.body = ctx.body, lead
    here = blocks.position(ref(step, I32), exact=not copies)
    bound = ctx.let(with_axis("start", blocks.tile.name), here, "inline")
    ctx.body = saved
    number = ref(step, I32) if blocks.first.text() == "0" else None
    ctx.tiles[blocks.tile] = _tile(ctx, blocks, step, bound, number)
    count = blocks.count()
    if form == "whole":
        if _is_written_out(ctx, blocks, count):
            start = Var(with_axis("start", blocks.tile.name))
            number = floored(ref(start, I32), blocks.block)
            ctx.tiles[blocks.tile] = _tile(ctx, blocks, step, ref(start, I32), number)
            positions = call("range", blocks.begin, blocks.end, blocks.block)
            _python_loop(ctx, op, start, positions)
            return
    elif form == "copies":
        positive = blocks.first.text() == "0" and is_positive(ctx, op.end)
        count = stable(ctx, count, with_axis("blocks", blocks.tile.name))
        define_copies(ctx, op, copies, blocks.position)
        start_first(ctx, copies, count, positive)
        lead += turn_over(ctx, op, copies, step, count)
        _fori(ctx, op, count, step, lead, op.body.params[1:])
        finish(ctx, copies, count)
        return
    else:

        def lower() -> None:
            ctx.body += lead
            lower_block(ctx, op.body.ops)

        lower_pipeline(ctx, op, copies, step, count, blocks.number(), lower)
        return
    _fori(ctx, op, count, step, lead, op.body.params[1:])


def _tile(ctx: Context, blocks: LoopBlocks, step: Var, start: Expr, number: Expr | None) -> Tile:
    """The tile of turn ``step``, which begins at ``start``."""
    static = blocks.end.is_literal or ctx.is_host_number(blocks.end)
    whole = blocks.lower is None and blocks.first.text() == "0" and static
    tile = Tile(start, blocks.end, blocks.op.block, whole, blocks.lower, blocks.begin, number)
    if (outer := ctx.windows.nested.get(blocks.tile)) is not None:
        tile.local = binary("*", ref(step, I32), blocks.block, MUL, I32)
        tile.stop, tile.whole = ctx.size(outer.end), True
    return tile


def _is_written_out(ctx: Context, blocks: LoopBlocks, count: Expr) -> bool:
    """True for a loop whose turns are few, or are to be written out, and known to Python."""
    static = all(e.is_literal or ctx.is_host_number(e) for e in (blocks.begin, blocks.end))
    asked = ctx.sizes.schedule.config.get("pallas_loop_type") == "unroll"
    turns = ctx.known(count)
    if asked and not static:
        ctx.sizes.schedule.notes.append(left_out(
            ctx.kernel, blocks.op, "unroll",
            "its bounds depend on data or on the grid position; a `fori_loop` over windows that "
            "span the dimension is written",
            'say "fori_loop", which copies the blocks between the bounds, or leave the key out',
        ))  # fmt: skip
    return static and (asked or (turns is not None and turns <= _UNROLLED))


def lower_for_range(ctx: Context, op: ir.ForRange) -> None:
    """A loop over numbers; a short one, or one whose number picks a lane, is written out."""
    begin, end, step = ctx.expr(op.begin), ctx.expr(op.end), ctx.expr(op.step)
    var = op.body.params[0]
    numbers = [ctx.known(e) for e in (begin, end, step)]
    count: Expr
    if None not in numbers:
        turns = len(range(*(n for n in numbers if n is not None)))
        count = lit(str(turns))
    else:
        extent = end if begin.text() == "0" else binary("-", end, begin, ADD, I32)
        one = step.text() == "1"
        count = extent if one else call("pl.cdiv", extent, step, dtype=I32)
    static = all(e.is_literal or ctx.is_host_number(e) for e in (begin, end, step))
    short = count.template.isdigit() and int(count.template) <= _UNROLLED
    if static and (short or ctx.picks_lanes(op)):
        _unrolled(ctx, op, begin, end, step)
        return
    j = Var((var.name or "i") if begin.text() == "0" and step.text() == "1" else "j")
    position = ref(j, I32)
    lead: list[Stmt] = []
    if step.text() != "1":
        position = binary("*", position, step, MUL, I32)
    if begin.text() != "0":
        position = binary("+", begin, position, ADD, I32)
    saved, ctx.body = ctx.body, lead
    ctx.values[var] = position if position.var else ctx.let(var.name or "i", position, "drop")
    ctx.body = saved
    _fori(ctx, op, count, j, lead, op.body.params[1:])


def _unrolled(ctx: Context, op: ir.ForRange, begin: Expr, end: Expr, step: Expr) -> None:
    """A Python loop over numbers."""
    target = Var(op.body.params[0].name or "i")
    ctx.values[op.body.params[0]] = ref(target, I32)
    args = [begin, end, step]
    if step.text() == "1":
        args = [end] if begin.text() == "0" else [begin, end]
    _python_loop(ctx, op, target, call("range", *args))


def _python_loop(ctx: Context, op: ir.ForTile | ir.ForRange, target: Var, positions: Expr) -> None:
    """``for target in positions``, run when jax traces the kernel."""
    params = op.body.params[1:]
    inits = zip(params, op.inits, strict=True)
    pairs = [(Var(p.name or "t"), ctx.carried(i, p)) for p, i in inits]
    ctx.consume(op)
    ctx.settle()
    if pairs:
        ctx.emit(Copy(pairs))
    for (var, _), param, result in zip(pairs, params, op.results, strict=True):
        ctx.values[param] = ref(var, param.dtype, ctx.held_shape(param))
        ctx.values[result] = ref(var, result.dtype, ctx.held_shape(result))
    ctx.python_numbers.add(target)
    saved, ctx.body, pending, ctx.pending = ctx.body, [], ctx.pending, []
    lower_block(ctx, op.body.ops)
    if pairs:
        outs = [ctx.carried(y, p) for y, p in zip(op.body.yields, params, strict=True)]
        ctx.emit(Copy([(v, y) for (v, _), y in zip(pairs, outs, strict=True)]))
    body, ctx.body, ctx.pending = ctx.body, saved, pending
    ctx.emit(For(target, positions, body, tuple(v for v, _ in pairs)))


def _fori(
    ctx: Context,
    op: ir.ForTile | ir.ForRange,
    count: Expr,
    step: Var,
    lead: list[Stmt],
    params: tuple[Value, ...],
) -> None:
    """``results = lax.fori_loop(0, count, body, inits)``."""
    inits = [ctx.carried(i, p) for i, p in zip(op.inits, params, strict=True)]
    ctx.consume(op)
    ctx.settle()
    function = Var("body")
    carry, body = _scope(ctx, op.body.ops, params, op.body.yields, lead)
    ctx.emit(Function(function, (step, *carry), body))
    loop = call("lax.fori_loop", lit("0"), count, ref(function), packed(inits))
    _results(ctx, op, loop)


def _scope(
    ctx: Context,
    ops: Sequence[ir.Op],
    params: tuple[Value, ...],
    yields: tuple[Value, ...],
    lead: list[Stmt],
) -> tuple[list[Var], list[Stmt]]:
    """A function body over carried values: its parameters, and its statements."""
    outs_of = yields if len(yields) == len(params) else params
    variables = [Var(p.name or y.name or "t") for p, y in zip(params, outs_of, strict=True)]
    for var, param in zip(variables, params, strict=True):
        ctx.values[param] = ref(var, param.dtype, ctx.held_shape(param))
    saved, ctx.body, pending, ctx.pending = ctx.body, list(lead), ctx.pending, []
    carry = variables
    if len(variables) > 1:
        carry = [Var("carry")]
        ctx.body.insert(0, Assign(tuple(variables), ref(carry[0])))
    elif not variables:
        carry = [Var("_")]
    lower_block(ctx, ops)
    if len(yields) == len(params):
        outs = [ctx.carried(y, p) for y, p in zip(yields, params, strict=True)]
    else:
        outs = [ctx.exact(y) for y in yields]
    if outs:
        ctx.emit(Return(tuple(outs)))
    body, ctx.body, ctx.pending = ctx.body, saved, pending
    return carry, body


def packed(values: list[Expr]) -> Expr:
    """One value itself, several as a tuple, none as None."""
    if len(values) == 1:
        return values[0]
    if not values:
        return lit("None")
    slots = ", ".join(f"{{{i}}}" for i in range(len(values)))
    return Expr(f"({slots})", tuple(values), (TERNARY,) * len(values))


def _results(ctx: Context, op: ir.Op, loop: Expr) -> None:
    """Bind an operation's results to a call."""
    if not any(ctx.uses.get(r) for r in op.results):
        ctx.emit(Eval(loop))
        return
    targets = tuple(Var(r.name or "t") for r in op.results)
    ctx.emit(Assign(targets, loop))
    for var, result in zip(targets, op.results, strict=True):
        ctx.values[result] = ref(var, result.dtype, ctx.held_shape(result))


def lower_while(ctx: Context, op: ir.While) -> None:
    """``lax.while_loop``."""
    inits = [ctx.exact(i) for i in op.inits]
    ctx.consume(op)
    ctx.settle()
    test, body = Var("proceed"), Var("body")
    carry, lines = _scope(ctx, op.cond.ops, op.cond.params, op.cond.yields, [])
    ctx.emit(Function(test, tuple(carry), lines))
    carry, lines = _scope(ctx, op.body.ops, op.body.params, op.body.yields, [])
    ctx.emit(Function(body, tuple(carry), lines))
    loop = call("lax.while_loop", ref(test), ref(body), packed(inits))
    _results(ctx, op, loop)


# -- branches --------------------------------------------------------------------------------------


def lower_if(ctx: Context, op: ir.If) -> None:
    """``pl.when`` for effects, ``lax.cond`` for values."""
    cond = ctx.expr(op.cond)
    ctx.consume(op)
    ctx.settle()
    if op.results and not any(isinstance(o, _HEAVY) for b in (op.then, op.orelse) for o in walk(b)):
        _both_branches(ctx, op, cond)
        return
    if op.results:
        functions = []
        for name, block in (("then", op.then), ("otherwise", op.orelse)):
            var = Var(name)
            _, lines = _scope(ctx, block.ops, (), block.yields, [])
            ctx.emit(Function(var, (), lines))
            functions.append(ref(var))
        _results(ctx, op, call("lax.cond", cond, *functions))
        return
    if op.then.ops:
        when(ctx, cond, op.then.ops)
    if op.orelse.ops:
        when(ctx, Expr("jnp.logical_not({0})", (cond,), (0,), dtype=BOOL), op.orelse.ops)


#: what is not computed in vain
_HEAVY = (ir.ForTile, ir.ForRange, ir.While, ir.Dot, ir.Scan, ir.ReduceWith, ir.Atomic, ir.Sort)


def _both_branches(ctx: Context, op: ir.If, cond: Expr) -> None:
    """Both sides computed and one selected; Mosaic has no layout for tiles that a branch gives.

    What the sides store, they store under their condition.
    """
    cond = stable(ctx, cond, "chosen")
    contrary = Expr("jnp.logical_not({0})", (cond,), (0,), dtype=BOOL)
    for test, block in ((cond, op.then), (contrary, op.orelse)):
        ctx.conditions.append(test)
        for inner in block.ops:
            if isinstance(inner, ir.Store):
                when(ctx, _all(ctx.conditions), [inner])
            else:
                lower_block(ctx, [inner])
        ctx.conditions.pop()
    for result, then, other in zip(op.results, op.then.yields, op.orelse.yields, strict=True):
        a, b = ctx.expr(then), ctx.expr(other)
        shape = ctx.broadcast(a, b)
        if a.is_literal and b.is_literal:
            a = ctx.full(a, ir.TileType(result.dtype, result.shape))
        select = Expr("jnp.where({0}, {1}, {2})", (cond, a, b), (0, 0, 0), dtype=result.dtype,
                      shape=shape)  # fmt: skip
        ctx.define(result, select, "selected")


def _all(tests: list[Expr]) -> Expr:
    total = tests[0]
    for test in tests[1:]:
        total = Expr("{0} & {1}", (total, test), (BIT_AND + 1, BIT_AND + 1), BIT_AND, dtype=BOOL)
    return total


def when(ctx: Context, cond: Expr, ops: Sequence[ir.Op], name: str = "_") -> None:
    """``@pl.when(cond) def _(): ...``."""
    saved, ctx.body, pending, ctx.pending = ctx.body, [], ctx.pending, []
    lower_block(ctx, ops)
    body, ctx.body, ctx.pending = ctx.body, saved, pending
    ctx.emit(Function(Var(name), (), body, call("pl.when", cond)))


def at_step(var: Var, number: Expr) -> Expr:
    """``pid == number``."""
    return binary("==", ref(var, I32), number, COMPARE, BOOL)
