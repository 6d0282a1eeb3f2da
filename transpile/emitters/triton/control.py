"""Loops and branches, and the walk over a block."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    COMPARE,
    Comment,
    Copy,
    Eval,
    Expr,
    For,
    If,
    Stmt,
    Var,
    While,
    binary,
    call,
    lit,
    ref,
)
from transpile.emitters.triton.arguments import axis_name, with_axis
from transpile.emitters.triton.context import Axis, Context, less
from transpile.emitters.triton.expr import PURE
from transpile.emitters.triton.memory import lower_atomic, lower_load, lower_store
from transpile.emitters.triton.special import SPECIAL
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.sizes import ONE, Size
from transpile.passes.peel import is_tail


def lower_block(ctx: Context, block: ir.Block) -> None:
    """Lower every operation of the block into ``ctx.body``."""
    for op in block.ops:
        ctx.comment(op.span)
        try:
            lower_op(ctx, op)
        except KtError as error:
            ctx.errors.append(error)
            for result in op.results:
                ctx.values[result] = lit("0")


def lower_op(ctx: Context, op: ir.Op) -> None:
    """Lower one operation: bind its result, or emit its statement."""
    if handler := PURE.get(type(op)):
        expr = handler(ctx, op)
        ctx.consume(op)
        ctx.define(op.result, expr, hint(ctx, op, expr))
        return
    match op:
        case ir.Load():
            expr = lower_load(ctx, op)
            ctx.consume(op)
            ctx.define(op.result, expr, hint(ctx, op, expr))
        case ir.Store():
            lower_store(ctx, op)
        case ir.Atomic():
            lower_atomic(ctx, op)
        case ir.ForTile() | ir.ForRange():
            lower_for(ctx, op)
        case ir.If():
            lower_if(ctx, op)
        case ir.While():
            lower_while(ctx, op)
        case ir.Barrier():
            ctx.settle()
            ctx.emit(Eval(call("tl.debug_barrier")))
        case _:
            lower_other(ctx, op)


def lower_other(ctx: Context, op: ir.Op) -> None:
    """An operation of special.py."""
    handler = SPECIAL.get(type(op))
    if handler is None:
        raise ctx.unsupported(
            f"`{type(op).__name__}`", op.span, "the Triton emitter has no lowering for it"
        )
    handler(ctx, op)


def hint(ctx: Context, op: ir.Op, expr: Expr) -> str:
    """A name for an unnamed value that needs a variable."""
    match op:
        case ir.Load(tensor=tensor):
            return f"{tensor.name}_tile" if op.result.shape else f"{tensor.name}_value"
        case ir.Reduce(name=name):
            return f"row_{name}" if name in ("max", "min", "sum") else name
        case ir.Elementwise(name=name) if len(op.args) == 1:
            return _derived(expr, name)
        case ir.Elementwise() if op.result.dtype.is_bool:
            return "cond"
        case ir.TileAttr(attr=attr):
            return attr
        case ir.Dot():
            return "product"
        case _:
            first = next(iter(expr.vars()), None)
            if first is None:
                return "t"
            if expr.loads and first.argument:
                return f"{first.name}_tile" if expr.shape else f"{first.name}_value"
            return (
                "index"
                if first.hint.startswith(("offs", "start", "pid"))
                else ("t" if first.argument else first.hint)
            )


def _derived(expr: Expr, name: str) -> str:
    """``x_exp`` for the exponential of ``x_tile``."""
    first = next(iter(expr.vars()), None)
    if first is None:
        return name
    base = (first.name or first.hint).removesuffix("_tile").removesuffix("_value")
    return f"{base}_{name}" if base not in ("", "t") else name


# -- loops -----------------------------------------------------------------------------------------


def _carried(
    ctx: Context, op: ir.ForTile | ir.ForRange | ir.While, params: tuple[ir.Value, ...]
) -> list[Var]:
    """Variables for the carried values, initialised before the loop."""
    pairs: list[tuple[Var, Expr]] = []
    yields = op.body.yields
    for init, param, out in zip(op.inits, params, yields, strict=True):
        var = Var(param.name or init.name or out.name or "t")
        pairs.append((var, ctx.exact(init)))
    ctx.consume(op)
    ctx.settle()
    if pairs:
        born = {var: ctx.order.get(init, 0) for (var, _), init in zip(pairs, op.inits, strict=True)}
        ctx.emit(Copy(sorted(pairs, key=lambda p: born[p[0]])))
    for (var, _), param, result in zip(pairs, params, op.results, strict=True):
        ctx.values[param] = ref(var, param.dtype, param.shape)
        ctx.values[result] = ref(var, result.dtype, result.shape)
    return [var for var, _ in pairs]


def _body(ctx: Context, block: ir.Block, carried: list[Var], lead: list[Stmt]) -> list[Stmt]:
    saved, ctx.body = ctx.body, lead
    outside, ctx.pending = ctx.pending, []
    lower_block(ctx, block)
    if carried:
        ctx.emit(Copy([(v, ctx.exact(y)) for v, y in zip(carried, block.yields, strict=True)]))
    body, ctx.body, ctx.pending = ctx.body, saved, outside
    return body


def lower_for(ctx: Context, op: ir.ForTile | ir.ForRange) -> None:
    """A loop over tiles or numbers; a peeled tail becomes a branch."""
    if isinstance(op, ir.ForTile) and is_tail(
        ctx.known_sizes.get(op.begin), ctx.known_sizes.get(op.end), op.block
    ):
        _lower_tail(ctx, op)
        return
    begin, end = ctx.expr(op.begin), ctx.expr(op.end)
    loop_var = op.body.params[0]
    lead: list[Stmt] = []
    if isinstance(op, ir.ForTile):
        step = ctx.block(op.block)
        end = _stable(ctx, end, with_axis("end", loop_var.name or "tile"))
        carried = _carried(ctx, op, op.body.params[1:])
        target = Var(with_axis("start", loop_var.name or "tile"))
        _loop_axis(ctx, op, loop_var, ref(target, I32), begin, end, lead)
    else:
        step = ctx.expr(op.step)
        carried = _carried(ctx, op, op.body.params[1:])
        target = Var(loop_var.name or "i")
        ctx.values[loop_var] = ref(target, I32)
    ctx.numbers.add(target)  # a Python number in the interpreter and in a static range
    iterator = range_call(ctx, begin, end, step, op.loop)
    body = _body(ctx, op.body, carried, lead)
    if ctx.described and begin.template == "0" and _turns_operand(op):
        # ptxas serialises the products of a loop that may not run; TMA takes no empty tensor
        ctx.emit(Eval(call("tl.assume", binary(">", end, begin, COMPARE))))
    ctx.emit(For(target, iterator, body, tuple(carried)))


def _turns_operand(op: ir.ForTile | ir.ForRange) -> bool:
    """True if the body multiplies by a matrix that it has just transposed."""
    makers = {r: o for o in op.body.ops for r in o.results}
    dots = [o for o in op.body.ops if isinstance(o, ir.Dot)]
    return len(dots) == 1 and (
        isinstance(makers.get(dots[0].rhs), ir.Permute) or _is_column_major(makers.get(dots[0].rhs))
    )


def _is_column_major(op: ir.Op | None) -> bool:
    return isinstance(op, ir.Load) and op.tensor.strides[-1] != ONE


def _lower_tail(ctx: Context, op: ir.ForTile) -> None:
    """A loop of no or one iteration: ``if begin < end``."""
    begin, end = ctx.expr(op.begin), ctx.expr(op.end)
    params = op.body.params[1:]
    before = [ctx.exact(init) for init in op.inits]
    ctx.consume(op)
    ctx.settle()
    for param, init in zip(params, before, strict=True):
        ctx.values[param] = init
    results = [Var(r.name or p.name or "t") for r, p in zip(op.results, params, strict=True)]
    lead: list[Stmt] = []
    _loop_axis(ctx, op, op.body.params[0], begin, begin, end, lead)
    then = _body(ctx, op.body, results, lead)
    name = axis_name(op.body.params[0].name or "tile")
    ctx.emit(Comment(f"Only the last block{f' along {name}' if name else ''} can be ragged."))
    orelse: list[Stmt] = [Copy(list(zip(results, before, strict=True)))]
    for var, result in zip(results, op.results, strict=True):
        ctx.values[result] = ref(var, result.dtype, result.shape)
    ctx.emit(If(less(begin, end), then, orelse, tuple(results)))


def _stable(ctx: Context, expr: Expr, name: str) -> Expr:
    """An expression that is read more than once, as a variable."""
    if expr.var is not None or expr.is_literal:
        return expr
    return ctx.let(name, expr, "inline")


def _loop_axis(
    ctx: Context,
    op: ir.ForTile,
    tile: ir.Value,
    start: Expr,
    begin: Expr,
    end: Expr,
    lead: list[Stmt],
) -> None:
    """Offsets and mask of the tile that begins at ``start``, in a loop from ``begin``."""
    saved, ctx.body = ctx.body, lead
    name = tile.name or "tile"
    shape = (Size.of(op.block),)
    offsets = binary("+", start, ctx.arange(Size.of(op.block)), ADD, I32, shape)
    offsets = ctx.offset_dtype(offsets)
    offsets = ctx.let(with_axis("offs", name), offsets)
    end_size = ctx.known_sizes.get(op.end)
    axis = Axis(offsets, end, begin=start, block=op.block, end_size=end_size)
    axis.mask = ctx.let(with_axis("mask", name), less(offsets, end), "inline").var
    axis.count = call("tl.cdiv", _minus(end, begin), ctx.block(op.block), dtype=I32)
    ctx.axes[tile] = axis
    ctx.body = saved


def _minus(a: Expr, b: Expr) -> Expr:
    if b.is_literal and b.template == "0":
        return a
    return binary("-", a, b, ADD, I32)


def range_call(ctx: Context, begin: Expr, end: Expr, step: Expr, loop: int) -> Expr:
    """``tl.range(begin, end, step)`` with the loop's knobs."""
    function, knobs = ctx.schedule.range_knobs(loop)
    if function == "tl.static_range" and not (begin.is_literal and end.is_literal):
        raise error(
            "KT0216",
            f"static_ranges[{loop}] is set for a loop whose bounds are not known at build time",
            ctx.kernel.span,
            remedy="state the size in the signature, or leave the entry out",
        )
    args = [begin, end]
    if not (step.is_literal and step.template == "1"):
        args.append(step)
    elif begin.is_literal and begin.template == "0":
        args = [end]
    slots = ", ".join([f"{{{i}}}" for i in range(len(args))] + knobs)
    return Expr(f"{function}({slots})", tuple(args), (0,) * len(args), ATOM)


def lower_if(ctx: Context, op: ir.If) -> None:
    """A branch; both sides bind the variables of its results."""
    cond = ctx.expr(op.cond)
    ctx.consume(op)
    ctx.settle()
    carried = [
        Var(r.name or t.name or "t") for r, t in zip(op.results, op.then.yields, strict=True)
    ]
    then = _body(ctx, op.then, carried, [])
    orelse = _body(ctx, op.orelse, carried, [])
    for var, result in zip(carried, op.results, strict=True):
        ctx.values[result] = ref(var, result.dtype, result.shape)
    ctx.emit(If(cond, then, orelse, tuple(carried)))


def lower_while(ctx: Context, op: ir.While) -> None:
    """A loop; a condition that takes statements of its own is computed before it and at the end of
    each turn, and carried as a variable."""
    carried = _carried(ctx, op, op.body.params)
    saved, ctx.body = ctx.body, []
    test = _condition(ctx, op, carried)
    statements, ctx.body = ctx.body, saved
    if not statements:
        ctx.emit(While(test, _body(ctx, op.body, carried, []), tuple(carried)))
        return
    ctx.body += statements
    flag = Var(op.cond.yields[0].name or "go_on")
    ctx.emit(Copy([(flag, ctx.coerce(test, ir.TileType(BOOL)))]))
    body = _body(ctx, op.body, carried, [])
    saved, ctx.body = ctx.body, body
    again = _condition(ctx, op, carried)
    ctx.emit(Copy([(flag, ctx.coerce(again, ir.TileType(BOOL)))]))
    ctx.body = saved
    ctx.emit(While(ref(flag, BOOL), body, (*carried, flag)))


def _condition(ctx: Context, op: ir.While, carried: list[Var]) -> Expr:
    """The condition of the current carried values; its statements go to ``ctx.body``."""
    for var, param in zip(carried, op.cond.params, strict=True):
        ctx.values[param] = ref(var, param.dtype, param.shape)
    lower_block(ctx, op.cond)
    return ctx.expr(op.cond.yields[0])
