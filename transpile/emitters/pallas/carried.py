"""Values that a loop carries in scratch buffers, because its body is a step of a grid."""

from __future__ import annotations

from transpile.emitters.common.tree import Eval, Expr, Var, lit, ref
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.dtypes import NAMES
from transpile.emitters.pallas.memory import emit_store, subscript
from transpile.ir import ir


def inline_carried(ctx: Context, loop: ir.ForTile) -> None:
    """No names for what is read from scratch once, or only written back."""
    names = {p.name for p in loop.body.params[1:]}
    carried = {*loop.body.params[1:], *loop.body.yields}
    for op in loop.body.ops:
        carried |= {r for r in op.results if r.name in names and not isinstance(op, ir.Load)}
    for value in carried:
        if (use := ctx.uses.get(value)) is not None and use.count == 1:
            value.name = None


def typed(r: Expr, ctx: Context, value: ir.Value) -> Expr:
    """The expression that reads a value from its scratch buffer."""
    if r.var is not None:
        return r
    shape = ctx.held_shape(value)
    return Expr(r.template, r.args, r.needs, dtype=value.dtype, shape=shape, is_load=True)


def scratch(ctx: Context, value: ir.Value) -> Expr:
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


def update(ctx: Context, loop: ir.ForTile, refs: list[Expr]) -> None:
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
