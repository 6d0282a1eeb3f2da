"""torch on the device: what each torch function and tensor method means in Tile IR.

A function is registered once under its torch name and usable as ``torch.f(x, ...)`` and
``x.f(...)`` alike. Composite functions (softmax, gelu, var, ...) are written out here from their
definitions in the torch documentation, so that every target sees the same few operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transpile.frontend.builder import Builder, describe, show_shape, unify_axis
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.values import HostTensor, Scalar, Tile
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, F64, I32, I64, DType
from transpile.ir.sizes import ONE, Size

Handler = Callable[..., Any]
FUNCTIONS: dict[str, Handler] = {}


def torch_op(*names: str) -> Callable[[Handler], Handler]:
    """Register ``f(ev, x, ...)`` under torch names."""

    def register(f: Handler) -> Handler:
        for name in names:
            FUNCTIONS[name] = f
        return f

    return register


# -- elementwise ------------------------------------------------------------------------------

_UNARY = (
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh erf erfc "
    "sigmoid abs neg floor ceil round trunc sign isnan isinf"
).split()
_BINARY = {
    "add": "add", "sub": "sub", "subtract": "sub", "mul": "mul", "multiply": "mul",
    "div": "div", "divide": "div", "true_divide": "div", "floor_divide": "floordiv",
    "remainder": "mod", "maximum": "maximum", "minimum": "minimum", "fmax": "fmax",
    "fmin": "fmin", "atan2": "atan2", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt",
    "ge": "ge", "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
    "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor",
    "bitwise_left_shift": "shl", "bitwise_right_shift": "shr",
}  # fmt: skip


def _register_elementwise() -> None:
    for name in _UNARY:
        FUNCTIONS[name] = lambda ev, x, _name=name: ev.b.arith(_name, x)
    for name, op in _BINARY.items():
        FUNCTIONS[name] = lambda ev, x, y, _op=op, **kw: _binary(ev, _op, x, y, **kw)
    FUNCTIONS["absolute"] = FUNCTIONS["abs"]
    FUNCTIONS["negative"] = FUNCTIONS["neg"]
    FUNCTIONS["special.expit"] = FUNCTIONS["sigmoid"]
    FUNCTIONS["nn.functional.sigmoid"] = FUNCTIONS["sigmoid"]
    FUNCTIONS["nn.functional.tanh"] = FUNCTIONS["tanh"]


def _binary(
    ev: Evaluator, op: str, x: Any, y: Any, alpha: Any = None, rounding_mode: str | None = None
) -> Any:
    if alpha is not None and op in ("add", "sub"):
        y = ev.b.arith("mul", y, alpha)
    if op == "div" and rounding_mode == "floor":
        return ev.b.arith("floordiv", x, y)
    if op == "div" and rounding_mode == "trunc":
        return ev.b.arith("trunc", ev.b.arith("div", x, y))
    return ev.b.arith(op, x, y)


_register_elementwise()


@torch_op("pow")
def _pow(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.power(x, y)


@torch_op("square")
def _square(ev: Evaluator, x: Any) -> Any:
    return ev.b.arith("mul", x, x)


@torch_op("reciprocal")
def _reciprocal(ev: Evaluator, x: Any) -> Any:
    return ev.b.arith("div", 1.0, x)


@torch_op("logical_not", "bitwise_not")
def _not(ev: Evaluator, x: Any) -> Any:
    return ev.b.arith("not", x)


def _as_bool(b: Builder, x: Any) -> Any:
    value = b.scalar(x)
    return value if value.dtype.is_bool else b.elementwise("ne", value, 0)


@torch_op("logical_and")
def _logical_and(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("and", _as_bool(ev.b, x), _as_bool(ev.b, y))


@torch_op("logical_or")
def _logical_or(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("or", _as_bool(ev.b, x), _as_bool(ev.b, y))


@torch_op("logical_xor")
def _logical_xor(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("xor", _as_bool(ev.b, x), _as_bool(ev.b, y))


@torch_op("where")
def _where(ev: Evaluator, cond: Any, x: Any, y: Any) -> Any:
    return ev.b.elementwise("where", _as_bool(ev.b, cond), x, y)


@torch_op("masked_fill")
def _masked_fill(ev: Evaluator, x: ir.Value, mask: ir.Value, value: Any) -> Any:
    return ev.b.cast(ev.b.elementwise("where", mask, value, x), x.dtype)


@torch_op("clamp", "clip")
def _clamp(ev: Evaluator, x: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        x = ev.b.arith("maximum", x, min)
    if max is not None:
        x = ev.b.arith("minimum", x, max)
    return x


@torch_op("clamp_min")
def _clamp_min(ev: Evaluator, x: Any, min: Any) -> Any:
    return ev.b.arith("maximum", x, min)


@torch_op("clamp_max")
def _clamp_max(ev: Evaluator, x: Any, max: Any) -> Any:
    return ev.b.arith("minimum", x, max)


@torch_op("relu", "nn.functional.relu")
def _relu(ev: Evaluator, x: Any) -> Any:
    return ev.b.arith("maximum", x, 0)


def _in_f32(ev: Evaluator, x: ir.Value, f: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Composite functions of 16-bit floats are computed in f32 and rounded once, as torch does."""
    wide = ev.b.cast(x, F32) if x.dtype.is_half else x
    return ev.b.cast(f(wide), x.dtype)


@torch_op("nn.functional.silu", "silu")
def _silu(ev: Evaluator, x: ir.Value) -> ir.Value:
    b = ev.b
    return _in_f32(ev, x, lambda v: b.elementwise("mul", v, b.elementwise("sigmoid", v)))


@torch_op("nn.functional.gelu")
def _gelu(ev: Evaluator, x: ir.Value, approximate: str = "none") -> ir.Value:
    b = ev.b

    def exact(v: ir.Value) -> ir.Value:
        tail = b.elementwise("erf", b.elementwise("mul", v, math.sqrt(0.5)))
        half = b.elementwise("mul", v, 0.5)
        return b.elementwise("mul", half, b.elementwise("add", tail, 1.0))

    def by_tanh(v: ir.Value) -> ir.Value:
        cube = b.elementwise("mul", b.elementwise("mul", v, v), v)
        inner = b.elementwise("add", v, b.elementwise("mul", cube, 0.044715))
        tail = b.elementwise("tanh", b.elementwise("mul", inner, math.sqrt(2.0 / math.pi)))
        half = b.elementwise("mul", v, 0.5)
        return b.elementwise("mul", half, b.elementwise("add", tail, 1.0))

    return _in_f32(ev, x, by_tanh if approximate == "tanh" else exact)


@torch_op("nn.functional.softplus")
def _softplus(ev: Evaluator, x: ir.Value, beta: Any = 1.0, threshold: Any = 20.0) -> ir.Value:
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        scaled = b.elementwise("mul", v, beta) if beta != 1.0 else v
        soft = b.elementwise("log1p", b.elementwise("exp", scaled))
        soft = b.elementwise("div", soft, beta) if beta != 1.0 else soft
        return b.elementwise("where", b.elementwise("gt", scaled, threshold), v, soft)

    return _in_f32(ev, x, f)


@torch_op("nn.functional.leaky_relu")
def _leaky_relu(ev: Evaluator, x: ir.Value, negative_slope: Any = 0.01) -> ir.Value:
    b = ev.b
    slope = b.elementwise("mul", x, negative_slope)
    return b.elementwise("where", b.elementwise("gt", x, 0), x, slope)


@torch_op("nn.functional.logsigmoid")
def _logsigmoid(ev: Evaluator, x: ir.Value) -> ir.Value:
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        tail = b.elementwise(
            "log1p", b.elementwise("exp", b.elementwise("neg", b.elementwise("abs", v)))
        )
        return b.elementwise("sub", b.elementwise("minimum", v, 0.0), tail)

    return _in_f32(ev, x, f)


@torch_op("lerp")
def _lerp(ev: Evaluator, x: Any, end: Any, weight: Any) -> Any:
    b = ev.b
    return b.elementwise("add", x, b.elementwise("mul", weight, b.elementwise("sub", end, x)))


@torch_op("addcmul")
def _addcmul(ev: Evaluator, x: Any, a: Any, c: Any, value: Any = 1) -> Any:
    product = ev.b.elementwise("mul", a, c)
    if value != 1:
        product = ev.b.elementwise("mul", product, value)
    return ev.b.elementwise("add", x, product)


# -- dtypes ------------------------------------------------------------------------------------


@torch_op("to", "type")
def _to(ev: Evaluator, x: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    for arg in (dtype, *args):
        if isinstance(arg, DType):
            return to_dtype(ev, x, arg)
        if isinstance(arg, (ir.Value, HostTensor)):
            return to_dtype(ev, x, arg.dtype)
    return x


def to_dtype(ev: Evaluator, x: Any, dtype: DType) -> Any:
    if isinstance(x, ir.Value):
        return ev.b.cast(x, dtype)
    return ev.b.cast(ev.b.scalar(x), dtype)


def _register_dtype_methods() -> None:
    by_method = {
        "float": F32, "double": F64, "int": I32, "long": I64, "bool": BOOL,
    }  # fmt: skip
    from transpile.ir.dtypes import BF16, F16

    by_method |= {"half": F16, "bfloat16": BF16}
    for name, dtype in by_method.items():
        FUNCTIONS[name] = lambda ev, x, _d=dtype: (
            _as_bool(ev.b, x) if _d is BOOL else to_dtype(ev, x, _d)
        )


_register_dtype_methods()


@torch_op("type_as")
def _type_as(ev: Evaluator, x: Any, other: Any) -> Any:
    return to_dtype(ev, x, other.dtype)


# -- creation ----------------------------------------------------------------------------------


def as_shape(ev: Evaluator, *args: Any) -> tuple[Size, ...]:
    """A shape from sizes, tiles (their block), or one list of them."""
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        args = tuple(args[0])
    out: list[Size] = []
    for arg in args:
        if isinstance(arg, Tile):
            out.append(arg.size)
        elif isinstance(arg, (int, Size)) and not isinstance(arg, bool):
            out.append(Size.of(arg))
        else:
            ev.fail(
                "KT0511",
                f"{describe(arg)} in a shape",
                why="a tile's shape must be known from block sizes and host sizes",
                remedy="use tiles, block sizes and host integers",
            )
    return tuple(out)


def _dtype_or(dtype: Any, default: DType) -> DType:
    return dtype if isinstance(dtype, DType) else default


@torch_op("full_like")
def _full_like(ev: Evaluator, x: ir.Value, value: Any, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, value, _dtype_or(dtype, x.dtype))


@torch_op("zeros_like")
def _zeros_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 0, _dtype_or(dtype, x.dtype))


@torch_op("ones_like")
def _ones_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 1, _dtype_or(dtype, x.dtype))


@torch_op("empty_like")
def _empty_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 0, _dtype_or(dtype, x.dtype))


def _new(value: int) -> Handler:
    def create(ev: Evaluator, x: Any, *shape: Any, dtype: Any = None, **_: Any) -> ir.Value:
        return ev.b.full(as_shape(ev, *shape), value, _dtype_or(dtype, x.dtype))

    return create


FUNCTIONS["new_zeros"] = FUNCTIONS["new_empty"] = _new(0)
FUNCTIONS["new_ones"] = _new(1)


@torch_op("new_full")
def _new_full(ev: Evaluator, x: Any, shape: Any, value: Any, dtype: Any = None, **_: Any) -> Any:
    return ev.b.full(as_shape(ev, shape), value, _dtype_or(dtype, x.dtype))


def _creation(value: int) -> Handler:
    def create(ev: Evaluator, *shape: Any, dtype: Any = None, **_: Any) -> ir.Value:
        return ev.b.full(as_shape(ev, *shape), value, _dtype_or(dtype, F32))

    return create


FUNCTIONS["zeros"] = FUNCTIONS["empty"] = _creation(0)
FUNCTIONS["ones"] = _creation(1)


@torch_op("full")
def _full(ev: Evaluator, shape: Any, value: Any, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(as_shape(ev, shape), value, _dtype_or(dtype, F32))


@torch_op("arange")
def _arange(ev: Evaluator, *args: Any, dtype: Any = None, **_: Any) -> ir.Value:
    start, stop, step = {1: (0, args[0], 1), 2: (*args, 1), 3: args}[len(args)]
    stop = stop.size if isinstance(stop, Tile) else stop
    base = start
    if isinstance(start, Scalar) or isinstance(stop, Scalar):
        length = ev.indexer._difference(start, stop)
        start = 0
    else:
        if isinstance(start, Size):
            length, start = Size.of(stop) - start, 0
        else:
            length = (Size.of(stop) - start).ceildiv(step)
            base = 0
    kind = _dtype_or(dtype, ev.b.index_dtype)
    iota: ir.Value = ev.b.emit(
        ir.Iota(results=(ev.b.new(kind, (length,)),), start=start, step=step)
    )
    if isinstance(base, (Scalar, Size)):
        return ev.b.elementwise("add", iota, base)
    return iota


# -- shape -------------------------------------------------------------------------------------


def _reshape_target(ev: Evaluator, x: ir.Value, shape: tuple[Any, ...]) -> tuple[Size, ...]:
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    holes = [i for i, s in enumerate(shape) if s == -1]
    sizes = list(as_shape(ev, *[1 if s == -1 else s for s in shape]))
    total = ONE
    for axis in x.shape:
        total = total * axis
    if holes:
        known = ONE
        for axis in sizes:
            known = known * axis
        sizes[holes[0]] = total // known
    else:
        wanted = ONE
        for axis in sizes:
            wanted = wanted * axis
        if wanted.substitute(ev.b.fixed_blocks) != total.substitute(ev.b.fixed_blocks):
            ev.fail(
                "KT0512",
                f"a tile of shape {show_shape(x.shape)} cannot become {show_shape(sizes)}",
                why="the number of elements differs",
            )
    return tuple(sizes)


@torch_op("reshape", "view")
def _reshape(ev: Evaluator, x: ir.Value, *shape: Any) -> ir.Value:
    if len(shape) == 1 and isinstance(shape[0], DType):
        return ev.b.emit(  # type: ignore[no-any-return]
            ir.Cast(results=(ev.b.new(shape[0], x.shape),), value=x, bitcast=True)
        )
    return ev.b.reshape(x, _reshape_target(ev, x, shape))


@torch_op("flatten")
def _flatten(ev: Evaluator, x: ir.Value) -> ir.Value:
    return ev.b.reshape(x, _reshape_target(ev, x, (-1,)))


@torch_op("unsqueeze")
def _unsqueeze(ev: Evaluator, x: ir.Value, dim: int) -> ir.Value:
    at = dim if dim >= 0 else dim + len(x.shape) + 1
    return ev.b.reshape(x, (*x.shape[:at], ONE, *x.shape[at:]))


@torch_op("squeeze")
def _squeeze(ev: Evaluator, x: ir.Value, dim: int | None = None) -> ir.Value:
    if dim is None:
        return ev.b.reshape(x, tuple(a for a in x.shape if a != ONE))
    at = ev.b.axis(x, dim)
    if x.shape[at] != ONE and x.shape[at].substitute(ev.b.fixed_blocks) != ONE:
        return x
    return ev.b.reshape(x, (*x.shape[:at], *x.shape[at + 1 :]))


@torch_op("expand", "broadcast_to")
def _expand(ev: Evaluator, x: ir.Value, *shape: Any) -> ir.Value:
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    pad = len(shape) - len(x.shape)
    full = tuple(x.shape[i - pad] if s == -1 else s for i, s in enumerate(shape))
    return ev.b.broadcast(x, as_shape(ev, *full))


@torch_op("expand_as", "view_as")
def _expand_as(ev: Evaluator, x: ir.Value, other: ir.Value) -> ir.Value:
    return ev.b.broadcast(x, other.shape)


@torch_op("permute")
def _permute(ev: Evaluator, x: ir.Value, *order: Any) -> ir.Value:
    if len(order) == 1 and isinstance(order[0], (list, tuple)):
        order = tuple(order[0])
    return ev.b.permute(x, [ev.b.axis(x, d) for d in order])


@torch_op("transpose", "swapaxes")
def _transpose(ev: Evaluator, x: ir.Value, dim0: int, dim1: int) -> ir.Value:
    order = list(range(len(x.shape)))
    i, j = ev.b.axis(x, dim0), ev.b.axis(x, dim1)
    order[i], order[j] = order[j], order[i]
    return ev.b.permute(x, order)


@torch_op("t", "T", "mT")
def _t(ev: Evaluator, x: ir.Value) -> ir.Value:
    rank = len(x.shape)
    return x if rank < 2 else _transpose(ev, x, rank - 2, rank - 1)


@torch_op("contiguous", "clone", "detach")
def _identity(ev: Evaluator, x: Any, **_: Any) -> Any:
    return x


@torch_op("stack")
def _stack(ev: Evaluator, tensors: Any, dim: int = 0) -> ir.Value:
    """A power-of-two number of tiles along a new axis, by pairwise joins."""
    parts = list(tensors)
    if len(parts) == 0 or len(parts) & (len(parts) - 1):
        ev.fail("KT0513", f"stack of {len(parts)} tiles", remedy="stack 1, 2, 4, 8... tiles")
    b = ev.b
    rank = len(parts[0].shape)
    at = dim if dim >= 0 else dim + rank + 1
    if len(parts) == 1:
        return _unsqueeze(ev, parts[0], at)
    while len(parts) > 1:
        # Join (i, i + half) so that the last join's axis is the most significant digit.
        half = len(parts) // 2
        parts = [join(ev, parts[i], parts[i + half]) for i in range(half)]
    joined = parts[0]
    digits = len(joined.shape) - rank
    order = list(range(rank)) + list(range(rank + digits - 1, rank - 1, -1))
    if digits > 1:
        joined = b.permute(joined, order)
        joined = b.reshape(joined, (*joined.shape[:rank], Size.of(1 << digits)))
    order = list(range(rank))
    order.insert(at, rank)
    return b.permute(joined, order)


def join(ev: Evaluator, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
    """New last axis of size 2."""
    b = ev.b
    dtype = b.result_dtype([lhs, rhs])
    shape = b.broadcast_shape([lhs.shape, rhs.shape])
    lhs, rhs = (b.broadcast(b.cast(v, dtype), shape) for v in (lhs, rhs))
    return b.emit(ir.Join(results=(b.new(dtype, (*shape, Size.of(2))),), lhs=lhs, rhs=rhs))  # type: ignore[no-any-return]


def split(ev: Evaluator, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The two halves of a last axis of size 2."""
    b = ev.b
    if not x.shape or x.shape[-1] != Size.of(2):
        ev.fail("KT0513", f"split of {describe(x)}", why="the last axis must have size 2")
    results = (b.new(x.dtype, x.shape[:-1]), b.new(x.dtype, x.shape[:-1]))
    b.emit(ir.Split(results=results, value=x))
    return results


@torch_op("unbind")
def _unbind(ev: Evaluator, x: ir.Value, dim: int = 0) -> tuple[ir.Value, ...]:
    at = ev.b.axis(x, dim)
    order = [i for i in range(len(x.shape)) if i != at] + [at]
    return split(ev, ev.b.permute(x, order))


# -- reductions --------------------------------------------------------------------------------


def _one_dim(ev: Evaluator, x: ir.Value, dim: Any) -> tuple[ir.Value, int]:
    """The reduced axis; a reduction over everything flattens first."""
    if isinstance(dim, (list, tuple)):
        if len(dim) != 1:
            ev.fail(
                "KT0514",
                "a reduction over several axes",
                remedy="reduce one axis after the other",
            )
        dim = dim[0]
    if dim is None:
        if len(x.shape) == 1:
            return x, 0
        ev.fail(
            "KT0514",
            f"a reduction over all axes of {describe(x)}",
            remedy="name one axis with dim=; reduce one axis after the other",
        )
    return x, ev.b.axis(x, dim)


def _reduction(name: str) -> Handler:
    def run(
        ev: Evaluator, x: ir.Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> ir.Value:
        if isinstance(dtype, DType):
            x = ev.b.cast(x, dtype)
        if not x.shape:
            return x
        if dim is None and len(x.shape) > 1 and name in ("sum", "max", "min"):
            for axis in reversed(range(len(x.shape))):
                x = ev.b.reduce(name, x, axis)
            return x
        x, axis = _one_dim(ev, x, dim)
        return ev.b.reduce(name, x, axis, keepdim)

    return run


for _torch_name, _op in {
    "sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "any": "any", "all": "all",
    "argmax": "argmax", "argmin": "argmin",
}.items():  # fmt: skip
    FUNCTIONS[_torch_name] = _reduction(_op)


def _max_or_min(name: str) -> Handler:
    def run(ev: Evaluator, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, (ir.Value, Scalar)):
            return ev.b.arith("maximum" if name == "max" else "minimum", x, dim)
        if dim is None:
            return FUNCTIONS["amax" if name == "max" else "amin"](ev, x)
        values = ev.b.reduce(name, x, dim, keepdim)
        return values, ev.b.reduce("arg" + name, x, dim, keepdim)

    return run


FUNCTIONS["max"] = _max_or_min("max")
FUNCTIONS["min"] = _max_or_min("min")


def _extent(ev: Evaluator, x: ir.Value, axis: int) -> Any:
    """Number of elements a mean divides by: the logical size of the axis."""
    size = x.shape[axis]
    tile = ev.b.active_tile(size)
    if tile is None:
        return size
    value = ev.b.emit(
        ir.TileAttr(results=(ev.b.new(ev.b.index_dtype),), tile=tile.value, attr="end")
    )
    begin = ev.b.emit(
        ir.TileAttr(results=(ev.b.new(ev.b.index_dtype),), tile=tile.value, attr="begin")
    )
    return Scalar(ev.b.elementwise("sub", value, begin))


@torch_op("mean")
def _mean(
    ev: Evaluator, x: ir.Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)
    if not x.dtype.is_float:
        ev.fail("KT0501", f"mean of {x.dtype}", remedy="convert to a float dtype first")
    x, axis = _one_dim(ev, x, dim)

    def f(v: ir.Value) -> ir.Value:
        total = ev.b.reduce("sum", v, axis, keepdim)
        return ev.b.elementwise("div", total, _extent(ev, x, axis))

    return _in_f32(ev, x, f)


@torch_op("var")
def _var(
    ev: Evaluator,
    x: ir.Value,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Any = None,
) -> ir.Value:
    """``sum((x - mean)^2) / (n - correction)``."""
    x, axis = _one_dim(ev, x, dim)
    delta = (1 if unbiased else 0) if correction is None else correction
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        extent = _extent(ev, x, axis)
        mean = b.elementwise("div", b.reduce("sum", v, axis, keepdim=True), extent)
        centered = b.elementwise("sub", v, mean)
        total = b.reduce("sum", b.elementwise("mul", centered, centered), axis, keepdim)
        count = extent - delta if isinstance(extent, Size) else b.arith("sub", extent, delta)
        return b.elementwise("div", total, count)

    return _in_f32(ev, x, f)


@torch_op("std")
def _std(ev: Evaluator, x: ir.Value, *args: Any, **kwargs: Any) -> ir.Value:
    return ev.b.elementwise("sqrt", _var(ev, x, *args, **kwargs))


@torch_op("var_mean")
def _var_mean(ev: Evaluator, x: ir.Value, dim: Any = None, **kwargs: Any) -> Any:
    keepdim = bool(kwargs.get("keepdim", False))
    return _var(ev, x, dim, **kwargs), _mean(ev, x, dim, keepdim)


def _softmax_parts(ev: Evaluator, x: ir.Value, dim: Any) -> tuple[ir.Value, ir.Value, int]:
    b = ev.b
    axis = b.axis(x, dim)
    shifted = b.elementwise("sub", x, b.reduce("max", x, axis, keepdim=True))
    return shifted, b.elementwise("exp", shifted), axis


@torch_op("softmax", "nn.functional.softmax")
def _softmax(ev: Evaluator, x: ir.Value, dim: Any = None, dtype: Any = None, **_: Any) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)

    def f(v: ir.Value) -> ir.Value:
        _, exps, axis = _softmax_parts(ev, v, dim)
        return ev.b.elementwise("div", exps, ev.b.reduce("sum", exps, axis, keepdim=True))

    return _in_f32(ev, x, f)


@torch_op("log_softmax", "nn.functional.log_softmax")
def _log_softmax(
    ev: Evaluator, x: ir.Value, dim: Any = None, dtype: Any = None, **_: Any
) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)

    def f(v: ir.Value) -> ir.Value:
        shifted, exps, axis = _softmax_parts(ev, v, dim)
        total = ev.b.reduce("sum", exps, axis, keepdim=True)
        return ev.b.elementwise("sub", shifted, ev.b.elementwise("log", total))

    return _in_f32(ev, x, f)


@torch_op("logsumexp")
def _logsumexp(ev: Evaluator, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        axis = b.axis(v, dim)
        peak = b.reduce("max", v, axis, keepdim=True)
        exps = b.elementwise("exp", b.elementwise("sub", v, peak))
        total = b.elementwise("log", b.reduce("sum", exps, axis, keepdim))
        if not keepdim:
            peak = b.reshape(peak, total.shape)
        return b.elementwise("add", total, peak)

    return _in_f32(ev, x, f)


# -- scans, sorting, gathering -------------------------------------------------------------------


def scan(
    ev: Evaluator, x: ir.Value, name: str, dim: Any, reverse: bool = False, dtype: Any = None
) -> ir.Value:
    """Inclusive sum or product along an axis; 16-bit floats are scanned in f32."""
    b = ev.b
    if isinstance(dtype, DType):
        x = b.cast(x, dtype)
    axis = b.axis(x, dim)
    wide = b.cast(x, F32) if x.dtype.is_half else b.cast(x, I64) if not x.dtype.is_float else x
    masked = b.mask_to(wide, axis, 0 if name == "sum" else 1)
    result = b.emit(
        ir.Scan(
            results=(b.new(masked.dtype, x.shape),),
            values=(masked,),
            dim=axis,
            name=name,
            reverse=reverse,
        )
    )
    return b.cast(result, x.dtype if x.dtype.is_half else result.dtype)


@torch_op("cumsum")
def _cumsum(ev: Evaluator, x: ir.Value, dim: Any, dtype: Any = None) -> ir.Value:
    return scan(ev, x, "sum", dim, dtype=dtype)


@torch_op("cumprod")
def _cumprod(ev: Evaluator, x: ir.Value, dim: Any, dtype: Any = None) -> ir.Value:
    return scan(ev, x, "prod", dim, dtype=dtype)


@torch_op("gather")
def _gather(ev: Evaluator, x: ir.Value, dim: Any, index: ir.Value) -> ir.Value:
    b = ev.b
    axis = b.axis(x, dim)
    return b.emit(  # type: ignore[no-any-return]
        ir.Gather(results=(b.new(x.dtype, index.shape),), value=x, index=index, dim=axis)
    )


@torch_op("sort")
def _sort(ev: Evaluator, x: ir.Value, dim: Any = -1, descending: bool = False) -> Any:
    return _sorted(ev, x, dim, descending, None)


@torch_op("topk")
def _topk(ev: Evaluator, x: ir.Value, k: Any, dim: Any = -1, largest: bool = True) -> Any:
    return _sorted(ev, x, dim, largest, k)


def _sorted(ev: Evaluator, x: ir.Value, dim: Any, descending: bool, k: Any) -> Any:
    b = ev.b
    if b.axis(x, dim) != len(x.shape) - 1:
        ev.fail("KT0515", "sort along an axis that is not the last", remedy="transpose first")
    from transpile.frontend.builder import extreme

    masked = b.mask_to(x, len(x.shape) - 1, extreme(x.dtype, "min" if descending else "max"))
    shape = x.shape if k is None else (*x.shape[:-1], Size.of(k))
    results = (b.new(x.dtype, shape), b.new(I64, shape))
    b.emit(ir.Sort(results=results, value=masked, descending=descending, k=k))
    return results


# -- products ------------------------------------------------------------------------------------


@torch_op("matmul", "mm", "bmm")
def _matmul(ev: Evaluator, x: ir.Value, y: ir.Value, out_dtype: Any = None) -> ir.Value:
    return ev.b.dot(x, y, out_dtype=_dtype_or(out_dtype, None))  # type: ignore[arg-type]


@torch_op("addmm", "baddbmm")
def _addmm(
    ev: Evaluator,
    acc: ir.Value,
    x: ir.Value,
    y: ir.Value,
    out_dtype: Any = None,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> ir.Value:
    if beta == 1 and alpha == 1:
        return ev.b.dot(x, y, acc, _dtype_or(out_dtype, None))  # type: ignore[arg-type]
    b = ev.b
    product = b.elementwise("mul", b.dot(x, y, out_dtype=acc.dtype), alpha)
    return b.elementwise("add", b.elementwise("mul", acc, beta), product)


def same_axis(ev: Evaluator, a: Size, b: Size) -> bool:
    return unify_axis(a, b, ev.b.fixed_blocks) is not None
