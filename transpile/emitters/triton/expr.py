"""Lowering of the operations without side effects to Triton expressions."""

from __future__ import annotations

from collections.abc import Callable

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    BIT_AND,
    MUL,
    Expr,
    binary,
    call,
    lit,
    postfix,
)
from transpile.emitters.triton.arguments import with_axis
from transpile.emitters.triton.context import Context
from transpile.emitters.triton.dtypes import NAMES, promote, spell_number
from transpile.emitters.triton.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I32, I64, DType
from transpile.ir.sizes import ONE, Size

_INDEX = {0: "", 1: ""}


def lower_const(ctx: Context, op: ir.Const) -> Expr:
    return spell_number(op.value, op.result.dtype)


def lower_size(ctx: Context, op: ir.SizeOf) -> Expr:
    return ctx.size(op.size)


def lower_host_scalar(ctx: Context, op: ir.HostScalar) -> Expr:
    return ctx.scalar(op.name)


def lower_tile_index(ctx: Context, op: ir.TileIndex) -> Expr:
    offsets = ctx.axes[op.tile].offsets
    assert offsets is not None
    return offsets


def lower_tile_attr(ctx: Context, op: ir.TileAttr) -> Expr:
    axis = ctx.axes[op.tile]
    assert axis.begin is not None and axis.block is not None
    match op.attr:
        case "begin":
            return axis.begin
        case "id":
            if axis.pid is not None:
                return axis.pid
            return binary("//", axis.begin, ctx.block(axis.block), MUL, dtype=I32)
        case "end":
            stop = binary("+", axis.begin, ctx.block(axis.block), ADD, dtype=I32)
            return stop if axis.limit is None else call("min", stop, axis.limit, dtype=I32)
        case "count":
            assert axis.count is not None
            return axis.count


# -- elementwise -----------------------------------------------------------------------------------


def lower_elementwise(ctx: Context, op: ir.Elementwise) -> Expr:
    spelling = ELEMENTWISE.get(op.name)
    if spelling is None:
        raise ctx.unsupported(f"`{op.name}`", op.span, "Triton has no such operation")
    args = [ctx.expr(a) for a in op.args]
    args = _without_casts(op, args)
    dtype = op.args[-1].dtype
    if not dtype.is_float and op.name in ("maximum", "minimum"):
        spelling = ELEMENTWISE["fmax" if op.name == "maximum" else "fmin"]  # no NaN to propagate
    if op.name == "add" and (fused := _accumulated(ctx, op, args)) is not None:
        return fused
    if op.name in ("floordiv", "mod"):
        return _floor_division(ctx, op, args)
    if op.name == "sign":
        return _sign(ctx, op, args[0])
    if spelling.uses:
        ctx.imports.add(spelling.uses)
    if all(a.is_literal for a in args):  # Triton's functions want a tensor
        args[0] = ctx.full(args[0], ir.TileType(dtype))
    shape = ctx.broadcast(*args)
    result = _result_dtype(op, args, spelling.result)
    expr = Expr(
        spelling.template,
        tuple(args),
        spelling.needs[: len(args)],
        spelling.prec,
        dtype=result,
        shape=shape,
    )
    return ctx.cast(expr, op.result.dtype)


def _accumulated(ctx: Context, op: ir.Elementwise, args: list[Expr]) -> Expr | None:
    """``tl.dot(a, b, acc)`` for ``acc + tl.dot(a, b)``."""
    acc, product = args
    fresh = product.template.startswith("tl.dot({0}, {1}") and len(product.args) == 2
    if not fresh or acc.var is None or not acc.dtype == product.dtype == op.result.dtype:
        return None
    if not ctx.same_shape(acc.shape, product.shape):
        return None
    template = product.template.replace("{1}", "{1}, {2}", 1)
    args = [*product.args, acc]
    return Expr(template, tuple(args), (0, 0, 0), dtype=acc.dtype, shape=acc.shape)


_PROMOTING = frozenset({"add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq", "ne"})


def _without_casts(op: ir.Elementwise, args: list[Expr]) -> list[Expr]:
    """``row / n`` for ``row / n.to(tl.float32)``: with an f32 operand Triton converts by itself."""
    want = op.args[0].dtype
    if op.name not in _PROMOTING or want not in (F32, I64):
        return args
    bare = [_uncast(a, want) for a in args]
    anchored = any(b is None and not a.is_literal for a, b in zip(args, bare, strict=True))
    return [a if b is None else b for a, b in zip(args, bare, strict=True)] if anchored else args


def _uncast(expr: Expr, want: DType) -> Expr | None:
    """The integer under a cast that Triton's promotion does as well: of a number to f32, of any
    narrower integer to i64."""
    number = expr.template.startswith("tl.cast(")
    if expr.dtype != want or not (number or (want == I64 and expr.template == _TO_I64)):
        return None
    inner = expr.args[0]
    return inner if inner.dtype is not None and inner.dtype.is_int and inner.dtype.signed else None


_TO_I64 = "{0}.to(tl.int64)"


def _result_dtype(op: ir.Elementwise, args: list[Expr], rule: str) -> DType | None:
    if rule == "bool":
        return BOOL
    if rule == "select":
        args = args[1:]
        if all(a.is_literal for a in args):
            return I32 if op.result.dtype.is_int else F32 if op.result.dtype.is_float else BOOL
    dtype = args[0].dtype
    for a in args[1:]:
        dtype = promote(dtype, a.dtype)
    if rule == "divide" and dtype is not None and dtype.is_half:
        return F32
    return dtype


def _floor_division(ctx: Context, op: ir.Elementwise, args: list[Expr]) -> Expr:
    """Python's floor semantics; Triton truncates, so only provably non-negative ones are plain."""
    lhs, rhs = args
    shape = ctx.broadcast(lhs, rhs)
    dtype = op.result.dtype
    symbol = "//" if op.name == "floordiv" else "%"
    if dtype.is_float:
        quotient = call("tl.floor", binary("/", lhs, rhs, MUL, F32, shape), dtype=F32, shape=shape)
        if op.name == "floordiv":
            return ctx.cast(quotient, dtype)
        product = binary("*", quotient, rhs, MUL, F32, shape)
        return ctx.cast(binary("-", lhs, product, ADD, F32, shape), dtype)
    plain = binary(symbol, lhs, rhs, MUL, dtype, shape)
    if not dtype.signed or all(ctx.facts.non_negative(v) for v in op.args):
        return plain
    helper = "_floor_div" if op.name == "floordiv" else "_floor_mod"
    ctx.helpers[helper] = FLOOR_HELPERS[helper]
    return call(helper, lhs, rhs, dtype=dtype, shape=shape)


FLOOR_HELPERS = {
    "_floor_div": '''@triton.jit
def _floor_div(a, b):
    """Python's ``a // b``: Triton's truncates."""
    quotient = a // b
    return tl.where((a % b != 0) & ((a < 0) != (b < 0)), quotient - 1, quotient)
''',
    "_floor_mod": '''@triton.jit
def _floor_mod(a, b):
    """Python's ``a % b``: Triton's has the sign of ``a``."""
    remainder = a % b
    return tl.where((remainder != 0) & ((a < 0) != (b < 0)), remainder + b, remainder)
''',
}


def _sign(ctx: Context, op: ir.Elementwise, arg: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN as comparisons with it are false, so it is added back."""
    dtype = op.result.dtype
    ctx.helpers["_sign"] = SIGN_HELPER
    return call("_sign", arg, dtype=dtype, shape=arg.shape)


SIGN_HELPER = '''@triton.jit
def _sign(x):
    """-1, 0 or 1 in the dtype of ``x``; 0 for NaN, as in torch."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
'''


def lower_cast(ctx: Context, op: ir.Cast) -> Expr:
    value = ctx.expr(op.value)
    dtype = op.result.dtype
    if op.bitcast:
        return postfix(
            ctx.exact(op.value), f".to({NAMES[dtype]}, bitcast=True)", dtype, value.shape
        )
    if value.is_literal:
        return value
    return ctx.cast(value, dtype)


# -- shapes ----------------------------------------------------------------------------------------


def lower_reshape(ctx: Context, op: ir.Reshape) -> Expr:
    value = ctx.expr(op.value)
    target = op.result.shape
    if value.is_literal or value.shape == ():
        return value
    value = ctx.coerce(value, ir.TileType(value.dtype or op.value.dtype, op.value.shape))
    subscript = _newaxis(op.value.shape, target)
    if subscript is not None:
        return expand(value, subscript, target)
    if ctx.extents_differ(op.value.shape, target):
        raise ctx.unsupported(
            "this reshape",
            op.span,
            "an axis that is padded to a power of two cannot be split or merged",
            "make the size a compile-time power of two",
        )
    shape = ctx.shape(target)
    return call("tl.reshape", value, shape, dtype=value.dtype, shape=target)


def expand(value: Expr, subscript: str, shape: tuple[Size, ...]) -> Expr:
    """``value[:, None]``; a transposed or twice expanded one stays one subscript."""
    return postfix(value, subscript, value.dtype, shape)


def _newaxis(old: tuple[Size, ...], new: tuple[Size, ...]) -> str | None:
    """The subscript that inserts axes of size 1 and changes nothing else."""
    items: list[str] = []
    i = 0
    for size in new:
        if (
            i < len(old)
            and old[i] == size
            and not (size == ONE and len(new) - len(items) > len(old) - i)
        ):
            items.append(":")
            i += 1
        elif size == ONE:
            items.append("None")
        else:
            return None
    if i != len(old):
        return None
    return "[" + ", ".join(items) + "]"


def lower_broadcast(ctx: Context, op: ir.Broadcast) -> Expr:
    return ctx.expr(op.value)  # Triton broadcasts; ctx.exact() does where it would not


def lower_permute(ctx: Context, op: ir.Permute) -> Expr:
    value = ctx.exact(op.value)
    shape = op.result.shape
    if value.shape == ():
        return value
    if op.order == (1, 0):
        return call("tl.trans", value, dtype=value.dtype, shape=shape)
    order = lit("(" + ", ".join(map(str, op.order)) + ")")
    return call("tl.permute", value, order, dtype=value.dtype, shape=shape)


def lower_join(ctx: Context, op: ir.Join) -> Expr:
    return call(
        "tl.join",
        ctx.exact(op.lhs),
        ctx.exact(op.rhs),
        dtype=op.result.dtype,
        shape=op.result.shape,
    )


def lower_iota(ctx: Context, op: ir.Iota) -> Expr:
    size = op.result.shape[0]
    expr = ctx.arange(size)
    if op.step != 1:
        expr = binary("*", expr, lit(str(op.step)), MUL, expr.dtype, expr.shape)
    if op.start:
        expr = binary("+", expr, lit(str(op.start)), ADD, expr.dtype, expr.shape)
    return ctx.cast(expr, op.result.dtype)


def lower_full(ctx: Context, op: ir.Full) -> Expr:
    scalar = ctx.expr(op.value)
    if op.result.name is not None:
        return ctx.full(scalar, op.result.tile)
    return scalar


_SELECT = "tl.where({0}, {1}, {2})"


def lower_mask(ctx: Context, op: ir.Mask) -> Expr:
    from transpile.emitters.triton.memory import guard_mask

    value = ctx.expr(op.value)
    if ctx.lanes.folded(op):  # the load's `other` is the fill
        return value
    mask = guard_mask(ctx, op.guards, op.result.shape)
    if mask is None:
        return value
    fill = spell_number(op.fill, op.result.dtype)
    shape = ctx.broadcast(mask, value)
    if value.template == _SELECT and value.args[2].text() == fill.text():
        both = binary("&", value.args[0], mask, BIT_AND, BOOL, ctx.broadcast(value.args[0], mask))
        return Expr(_SELECT, (both, value.args[1], fill), (0, 0, 0), dtype=value.dtype, shape=shape)
    return Expr(
        _SELECT, (mask, value, fill), (0, 0, 0), ATOM,
        dtype=value.dtype or op.result.dtype, shape=shape,
    )  # fmt: skip


# -- reductions, scans, products -------------------------------------------------------------------


def lower_reduce(ctx: Context, op: ir.Reduce) -> Expr:
    spelling = REDUCTIONS.get(op.name)
    if spelling is None:
        raise ctx.unsupported(f"the reduction `{op.name}`", op.span, "Triton has no such reduction")
    value = ctx.exact(op.value)
    shape = op.result.shape
    if op.name in ("any", "all"):
        value = ctx.cast(value, I32)
        dtype = I32
    elif op.name in ("argmax", "argmin"):
        dtype = I32
    elif spelling.widen and value.dtype is not None and value.dtype.is_half:
        value = ctx.cast(value, F32)
        dtype = F32
    else:
        dtype = value.dtype or op.value.dtype
        if dtype.is_half:
            dtype = F32
        elif dtype.is_int and dtype.bits < 32:
            dtype = I32
        if op.name in ("sum", "prod") and op.result.dtype == I64:
            value = ctx.cast(value, I64)
            dtype = I64
    keep = ", keep_dims=True" if op.keepdim else ""
    if op.name == "prod":
        ctx.helpers["_mul"] = MUL_HELPER
        template = f"tl.reduce({{0}}, {op.dim}, _mul{keep})"
    else:
        template = f"{spelling.function}({{0}}, axis={op.dim}{keep})"
    expr = Expr(template, (value,), (0,), ATOM, dtype=dtype, shape=shape)
    return ctx.cast(expr, op.result.dtype)


MUL_HELPER = """@triton.jit
def _mul(a, b):
    return a * b
"""


def lower_dot(ctx: Context, op: ir.Dot) -> Expr:
    lhs, rhs = ctx.exact(op.lhs), ctx.exact(op.rhs)
    shape = op.result.shape
    keywords = ""
    if op.lhs.dtype == F32 and op.precision != "tf32":
        keywords = f', input_precision="{op.precision}"'
    if op.acc is None:
        out = "" if op.acc_dtype in (F32, I32) else f", out_dtype={NAMES[op.acc_dtype]}"
        expr = Expr(f"tl.dot({{0}}, {{1}}{out}{keywords})", (lhs, rhs), (0, 0), ATOM,
                    dtype=op.acc_dtype, shape=shape)  # fmt: skip
        return ctx.cast(expr, op.result.dtype)
    acc = ctx.expr(op.acc)
    if acc.is_literal and acc.template in ("0", "0.0"):
        return Expr(f"tl.dot({{0}}, {{1}}{keywords})", (lhs, rhs), (0, 0), ATOM,
                    dtype=op.acc_dtype, shape=shape)  # fmt: skip
    acc = ctx.exact(op.acc)
    if op.acc.dtype == op.acc_dtype:
        return Expr(f"tl.dot({{0}}, {{1}}, {{2}}{keywords})", (lhs, rhs, acc), (0, 0, 0), ATOM,
                    dtype=op.acc_dtype, shape=shape)  # fmt: skip
    product = Expr(f"tl.dot({{0}}, {{1}}{keywords})", (lhs, rhs), (0, 0), ATOM,
                   dtype=op.acc_dtype, shape=shape)  # fmt: skip
    return ctx.cast(
        binary("+", acc, product, ADD, promote(acc.dtype, product.dtype), shape), op.result.dtype
    )


def lower_gather(ctx: Context, op: ir.Gather) -> Expr:
    value, index = ctx.exact(op.value), ctx.exact(op.index)
    return call(
        "tl.gather", value, index, lit(str(op.dim)), dtype=value.dtype, shape=op.result.shape
    )


def lower_random(ctx: Context, op: ir.Random) -> Expr:
    function = "tl.rand" if op.kind == "uniform" else "tl.randint"
    seed, offset = ctx.expr(op.seed), ctx.expr(op.offset)
    return call(function, seed, offset, dtype=op.result.dtype, shape=op.result.shape)


PURE: dict[type[ir.Op], Callable[..., Expr]] = {
    ir.Const: lower_const,
    ir.SizeOf: lower_size,
    ir.HostScalar: lower_host_scalar,
    ir.TileIndex: lower_tile_index,
    ir.TileAttr: lower_tile_attr,
    ir.Elementwise: lower_elementwise,
    ir.Cast: lower_cast,
    ir.Reshape: lower_reshape,
    ir.Broadcast: lower_broadcast,
    ir.Permute: lower_permute,
    ir.Join: lower_join,
    ir.Iota: lower_iota,
    ir.Full: lower_full,
    ir.Mask: lower_mask,
    ir.Reduce: lower_reduce,
    ir.Dot: lower_dot,
    ir.Gather: lower_gather,
    ir.Random: lower_random,
}

__all__ = ["PURE", "expand", "with_axis"]
