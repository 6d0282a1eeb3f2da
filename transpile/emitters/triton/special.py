"""Operations with several results or a function of their own: reduce, scan, split, sort, inline."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from transpile.emitters.common.tree import ATOM, TERNARY, Assign, Eval, Expr, Var, ref
from transpile.emitters.triton.context import Context
from transpile.emitters.triton.dtypes import NAMES
from transpile.ir import ir
from transpile.ir.dtypes import F32, I32, I64, DType


def bind(ctx: Context, op: ir.Op, call: Expr, shapes: Sequence[ir.TileType], hint: str) -> None:
    """Bind the results of a call; ``shapes`` are what Triton gives before casts back."""
    if len(op.results) == 1:
        only = ir.TileType(shapes[0].dtype, shapes[0].shape)
        expr = Expr(call.template, call.args, call.needs, ATOM, dtype=only.dtype, shape=only.shape)
        ctx.consume(op)
        ctx.define(op.result, ctx.cast(expr, op.result.dtype), hint)
        return
    targets = tuple(Var(r.name or f"{hint}_{i}") for i, r in enumerate(op.results))
    ctx.consume(op)
    ctx.emit(Assign(targets, call))
    for result, var, got in zip(op.results, targets, shapes, strict=True):
        ctx.values[result] = ctx.cast(ref(var, got.dtype, got.shape), result.dtype)


def _tuple(args: Sequence[Expr]) -> Expr:
    if len(args) == 1:
        return args[0]
    slots = ", ".join(f"{{{i}}}" for i in range(len(args)))
    return Expr(f"({slots})", tuple(args), (TERNARY,) * len(args))


def lower_split(ctx: Context, op: ir.Split) -> None:
    """``lo, hi = tl.split(x)``."""
    value = ctx.exact(op.value)
    call = Expr("tl.split({0})", (value,), (TERNARY,), ATOM)
    bind(ctx, op, call, [r.tile for r in op.results], "half")


def lower_reduce_with(ctx: Context, op: ir.ReduceWith) -> None:
    """``tl.reduce`` with a combine function of its own."""
    values = [ctx.exact(v) for v in op.values]
    combine = combine_function(ctx, op.combine)
    keep = ", keep_dims=True" if op.keepdim else ""
    call = Expr(f"tl.reduce({{0}}, {op.dim}, {combine}{keep})", (_tuple(values),), (TERNARY,), ATOM)
    bind(ctx, op, call, [r.tile for r in op.results], "reduced")


def lower_scan(ctx: Context, op: ir.Scan) -> None:
    """``tl.cumsum``, ``tl.cumprod`` or ``tl.associative_scan``."""
    reverse = ", reverse=True" if op.reverse else ""
    if op.combine is not None:
        values = [ctx.exact(v) for v in op.values]
        combine = combine_function(ctx, op.combine)
        template = f"tl.associative_scan({{0}}, {op.dim}, {combine}{reverse})"
        bind(
            ctx,
            op,
            Expr(template, (_tuple(values),), (TERNARY,)),
            [r.tile for r in op.results],
            "scan",
        )
        return
    value = ctx.exact(op.values[0])
    dtype = _accumulator(op.values[0].dtype, op.result.dtype)
    value = ctx.cast(value, dtype)
    function = {"sum": "tl.cumsum", "prod": "tl.cumprod"}[op.name or "sum"]
    call = Expr(f"{function}({{0}}, axis={op.dim}{reverse})", (value,), (TERNARY,))
    bind(ctx, op, call, [ir.TileType(dtype, op.result.shape)], function[3:])


def _accumulator(operand: DType, result: DType) -> DType:
    """Sixteen-bit floats are summed in f32, small integers in i32, i64 results in i64."""
    if operand.is_half or operand.is_fp8:
        return F32
    if result == I64:
        return I64
    return I32 if operand.bits < 32 else operand


def combine_function(ctx: Context, block: ir.Block) -> str:
    """Name of a jit function that computes a user's combine; equal code is one function."""
    from transpile.emitters.triton.lower import function_body

    params, body = function_body(ctx, block)
    text = f"({', '.join(params)}):\n{body}\n"
    for name, known in ctx.helpers.items():
        if known == f"@triton.jit\ndef {name}{text}":
            return name
    taken = [n for n in ctx.helpers if n.startswith("_combine")]
    name = f"_{ctx.kernel.name}_combine" + (f"_{len(taken)}" if taken else "")
    ctx.helpers[name] = f"@triton.jit\ndef {name}{text}"
    return name


def lower_sort(ctx: Context, op: ir.Sort) -> None:
    """``tl.sort`` or ``tl.topk`` along the last axis; Triton gives no positions."""
    if len(op.results) > 1 and ctx.uses.get(op.results[1]) is not None:
        raise ctx.unsupported(
            "the position that `sort` or `topk` gives",
            op.span,
            "tl.sort and tl.topk give values only",
        )
    value = ctx.exact(op.value)
    if op.k is None:
        order = ", descending=True" if op.descending else ""
        template = f"tl.sort({{0}}{order})"
    elif op.descending:
        template = f"tl.topk({{0}}, {op.k})"
    else:
        template = f"-tl.topk(-{{0}}, {op.k})"
    expr = Expr(template, (value,), (TERNARY,), dtype=value.dtype, shape=op.results[0].shape)
    ctx.consume(op)
    ctx.define(op.results[0], expr, "sorted")


def lower_inline(ctx: Context, op: ir.Inline) -> None:
    """Code of the source's own: PTX, or Triton statements."""
    if "triton" not in op.targets:
        raise ctx.unsupported("this inline code", op.span, f"it is for {', '.join(op.targets)}")
    args = [ctx.coerce(ctx.expr(a), a.tile) for a in op.args]
    if op.kind == "asm":
        _inline_asm(ctx, op, args)
    else:
        _inline_triton(ctx, op, args)


def _inline_asm(ctx: Context, op: ir.Inline, args: list[Expr]) -> None:
    dtypes = [NAMES[r.dtype] for r in op.results]
    dtype = dtypes[0] if len(dtypes) == 1 else f"({', '.join(dtypes)})"
    slots = ", ".join(f"{{{i}}}" for i in range(len(args)))
    asm, constraints = (_quoted(t) for t in (op.code, op.attrs["constraints"]))
    template = (
        f"tl.inline_asm_elementwise({asm}, {constraints}, [{slots}], dtype={dtype}, "
        f"is_pure={op.attrs['is_pure']}, pack={op.attrs['pack']})"
    )
    call = Expr(template, tuple(args), (TERNARY,) * len(args))
    bind(ctx, op, call, [r.tile for r in op.results], "asm")


def _quoted(text: str) -> str:
    return repr(text).replace("{", "{{").replace("}", "}}")


def _inline_triton(ctx: Context, op: ir.Inline, args: list[Expr]) -> None:
    """Statements of the source's Triton code with the arguments in place; the last is the value."""
    names = op.attrs.get("names") or [str(i) for i in range(len(args))]
    slots = {str(n): i for i, n in enumerate(names)}

    def numbered(text: str) -> str:
        text = re.sub(r"\{(\w*)\}", lambda m: f"\0{slots[m[1]]}\1" if m[1] in slots else m[0], text)
        text = text.replace("{", "{{").replace("}", "}}")
        return text.replace("\0", "{").replace("\1", "}")

    lines = [line.strip() for line in op.code.strip().split("\n") if line.strip()]
    for line in lines[:-1] if op.results else lines:
        name, equals, value = line.partition(" = ")
        template = numbered(value if equals else line)
        expr = Expr(template, tuple(args), (ATOM,) * len(args))
        ctx.emit(Assign((Var(name, name=name),), expr) if equals else Eval(expr))
    if op.results:
        call = Expr(numbered(lines[-1]), tuple(args), (ATOM,) * len(args), TERNARY)
        bind(ctx, op, call, [r.tile for r in op.results], "value")


SPECIAL: dict[type[ir.Op], Callable[..., None]] = {
    ir.Split: lower_split,
    ir.ReduceWith: lower_reduce_with,
    ir.Scan: lower_scan,
    ir.Sort: lower_sort,
    ir.Inline: lower_inline,
}
