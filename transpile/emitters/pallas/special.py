"""Operations that Mosaic lacks and that are written as functions: scans, user combines, splits."""

from __future__ import annotations

from collections.abc import Callable

from transpile.emitters.common.tree import (
    ATOM,
    TERNARY,
    Assign,
    Expr,
    Function,
    Return,
    Stmt,
    Var,
    postfix,
    ref,
)
from transpile.emitters.pallas.context import Context
from transpile.ir import ir
from transpile.ir.dtypes import I32, U32


def _bind(ctx: Context, op: ir.Op, call: Expr, hint: str) -> None:
    """Bind the results to a call that gives a tuple."""
    ctx.consume(op)
    used = [r for r in op.results if ctx.uses.get(r)]
    targets = tuple(Var((r.name or hint) if r in used else "_") for r in op.results)
    if len(targets) == 1:
        call = postfix(call, "[0]")
    ctx.emit(Assign(targets, call))
    for result, var in zip(op.results, targets, strict=True):
        ctx.values[result] = ref(var, result.dtype, result.shape)


def lower_split(ctx: Context, op: ir.Split) -> None:
    """The two halves of a last axis of 2."""
    value = ctx.exact(op.value)
    if value.var is None:
        value = ctx.let("pairs", value)
    ctx.consume(op)
    for i, result in enumerate(op.results):
        half = postfix(value, f"[..., {i}]", result.dtype, result.shape)
        ctx.assign(result, half, ("low", "high")[i])


def lower_scan(ctx: Context, op: ir.Scan) -> None:
    """An inclusive scan in log2(n) steps."""
    ctx.helpers.add("_scan")
    values = [ctx.coerce(ctx.expr(v), ir.TileType(r.dtype, v.shape))
              for v, r in zip(op.values, op.results, strict=True)]  # fmt: skip
    combine = _named_combine(op.name) if op.combine is None else _combine(ctx, op.combine)
    reverse = ", reverse=True" if op.reverse else ""
    _bind(ctx, op, _call("_scan", combine, values, f"axis={op.dim}{reverse}"), "scanned")


def _named_combine(name: str | None) -> Expr:
    symbol = {"sum": "+", "prod": "*"}[name or "sum"]
    return Expr(f"lambda a, b: (a {symbol} b,)")


def _call(function: str, combine: Expr, values: list[Expr], rest: str) -> Expr:
    slots = ", ".join(f"{{{i + 1}}}" for i in range(len(values)))
    comma = "," if len(values) == 1 else ""
    return Expr(
        f"{function}({{0}}, ({slots}{comma}), {rest})", (combine, *values),
        (TERNARY,) * (len(values) + 1), ATOM,
    )  # fmt: skip


def lower_reduce_with(ctx: Context, op: ir.ReduceWith) -> None:
    """A reduction with the source's own function: the last position of a scan."""
    ctx.helpers |= {"_scan", "_reduce"}
    values = [ctx.exact(v) for v in op.values]
    keep = ", keepdims=True" if op.keepdim else ""
    combine = _combine(ctx, op.combine)
    _bind(ctx, op, _call("_reduce", combine, values, f"axis={op.dim}{keep}"), "reduced")


def _combine(ctx: Context, block: ir.Block) -> Expr:
    """The source's combine as a function of tiles instead of numbers."""
    from transpile.emitters.pallas.control import lower_block

    names = "abcdefgh"
    params = [Var(p.name or names[i % 8]) for i, p in enumerate(block.params)]
    for var, param in zip(params, block.params, strict=True):
        ctx.values[param] = ref(var, param.dtype, param.shape)
    saved, ctx.body, pending, ctx.pending = ctx.body, [], ctx.pending, []
    lower_block(ctx, block.ops)
    outs = tuple(ctx.expr(y) for y in block.yields)
    slots = ", ".join(f"{{{i}}}" for i in range(len(outs)))
    comma = "," if len(outs) == 1 else ""
    ctx.emit(Return((Expr(f"({slots}{comma})" if comma else slots, outs, (TERNARY,) * len(outs)),)))
    body: list[Stmt] = ctx.body
    ctx.body, ctx.pending = saved, pending
    function = Var("combine")
    ctx.emit(Function(function, tuple(params), body))
    return ref(function)


def lower_sort(ctx: Context, op: ir.Sort) -> None:
    """Values and positions from a sorting network; Mosaic has no sort."""
    if op.value.dtype == U32 or len(op.value.shape) < 2:
        what = "unsigned 32-bit integers" if op.value.dtype == U32 else "a tile of one axis"
        raise ctx.unsupported(
            f"`sort` of {what}", op.span, "Mosaic has no sort, and the network takes rows of "
            "signed integers or floats", "sort outside the kernel with jnp.sort",
        )  # fmt: skip
    ctx.helpers.add("_sort")
    options = ", descending=True" if op.descending else ""
    options += f", k={op.k}" if op.k is not None else ""
    value = ctx.exact(op.value)
    sort = Expr(f"_sort({{0}}{options})", (value,), (TERNARY,), ATOM)
    ctx.consume(op)
    targets = tuple(Var((r.name or "t") if ctx.uses.get(r) else "_") for r in op.results)
    ctx.emit(Assign(targets, sort))
    for result, var, dtype in zip(op.results, targets, (op.value.dtype, I32), strict=True):
        ctx.values[result] = ref(var, dtype, result.shape)


def lower_inline(ctx: Context, op: ir.Inline) -> None:
    """Code for another target."""
    raise ctx.unsupported("this inline code", op.span, f"it is for {', '.join(op.targets)}")


SPECIAL: dict[type[ir.Op], Callable[..., None]] = {
    ir.Split: lower_split,
    ir.Scan: lower_scan,
    ir.ReduceWith: lower_reduce_with,
    ir.Sort: lower_sort,
    ir.Inline: lower_inline,
}
