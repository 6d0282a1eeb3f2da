"""Elementwise functions, activations and dtype conversions."""

from __future__ import annotations

import math
from typing import Any

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.torch_device.registry import (
    FUNCTIONS,
    as_bool,
    in_f32,
    to_dtype,
    torch_op,
)
from transpile.frontend.values import HostTensor, Opaque
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, F64, I32, I64, DType

_UNARY = (
    "abs", "acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1",
    "floor", "isinf", "isnan", "log", "log10", "log1p", "log2", "neg", "round", "rsqrt", "sigmoid",
    "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
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


@torch_op("logical_and")
def _logical_and(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("and", as_bool(ev.b, x), as_bool(ev.b, y))


@torch_op("logical_or")
def _logical_or(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("or", as_bool(ev.b, x), as_bool(ev.b, y))


@torch_op("logical_xor")
def _logical_xor(ev: Evaluator, x: Any, y: Any) -> Any:
    return ev.b.elementwise("xor", as_bool(ev.b, x), as_bool(ev.b, y))


@torch_op("where")
def _where(ev: Evaluator, cond: Any, x: Any, y: Any) -> Any:
    return ev.b.elementwise("where", as_bool(ev.b, cond), x, y)


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


@torch_op("nn.functional.silu", "silu")
def _silu(ev: Evaluator, x: ir.Value) -> ir.Value:
    b = ev.b
    return in_f32(ev, x, lambda v: b.elementwise("mul", v, b.elementwise("sigmoid", v)))


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

    return in_f32(ev, x, by_tanh if approximate == "tanh" else exact)


@torch_op("nn.functional.softplus")
def _softplus(ev: Evaluator, x: ir.Value, beta: Any = 1.0, threshold: Any = 20.0) -> ir.Value:
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        scaled = b.elementwise("mul", v, beta) if beta != 1.0 else v
        soft = b.elementwise("log1p", b.elementwise("exp", scaled))
        soft = b.elementwise("div", soft, beta) if beta != 1.0 else soft
        return b.elementwise("where", b.elementwise("gt", scaled, threshold), v, soft)

    return in_f32(ev, x, f)


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

    return in_f32(ev, x, f)


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


@torch_op("to", "type")
def _to(ev: Evaluator, x: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    for arg in (dtype, *args):
        if isinstance(arg, DType):
            return to_dtype(ev, x, arg)
        if isinstance(arg, (ir.Value, HostTensor)):
            return to_dtype(ev, x, arg.dtype)
        if isinstance(arg, Opaque):
            ev.fail(
                "KT0401",
                f"conversion to {arg.what}",
                why="the dtype must be known when the kernel is built",
                remedy="name a torch dtype",
            )
    return x


def _register_dtype_methods() -> None:
    by_method = {
        "float": F32, "double": F64, "int": I32, "long": I64, "bool": BOOL,
    }  # fmt: skip
    from transpile.ir.dtypes import BF16, F16

    by_method |= {"half": F16, "bfloat16": BF16}
    for name, dtype in by_method.items():
        FUNCTIONS[name] = lambda ev, x, _d=dtype: (
            as_bool(ev.b, x) if _d is BOOL else to_dtype(ev, x, _d)
        )


_register_dtype_methods()


@torch_op("type_as")
def _type_as(ev: Evaluator, x: Any, other: Any) -> Any:
    return to_dtype(ev, x, other.dtype)
