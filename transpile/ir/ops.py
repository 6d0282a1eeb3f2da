"""The op table: every elementwise operation and reduction of the IR, in one place.

Each entry gives the dtype rule, how out-of-range lanes behave, and the torch function that
defines the meaning. Emitters have their own table from these names to spellings; a name absent
there is what makes an operation unsupported on that target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DTypeRule = Literal["same", "bool", "float", "int"]
Number = bool | int | float


@dataclass(frozen=True, slots=True)
class ElementwiseOp:
    """One elementwise operation.

    ``rule``: result dtype. "same" is the operands' promoted dtype, "bool" a predicate, "float"
    lifts integers to f32 (torch's true division and transcendentals). ``f32_math``: 16-bit floats
    are widened to f32 around it. ``fold`` computes the value on Python numbers (constants and
    known masked lanes), or is None. ``torch`` is the defining function in torch.
    """

    name: str
    arity: int
    rule: DTypeRule
    torch: str
    fold: Callable[..., Number] | None
    f32_math: bool = False


def _unary(name: str, fold: Callable[..., Number] | None) -> ElementwiseOp:
    return ElementwiseOp(name, 1, "float", name, fold, f32_math=True)


def _not(a: Number) -> Number:
    return (not a) if isinstance(a, bool) else ~int(a)


def _floordiv(a: Number, b: Number) -> Number:
    return a // b


_TABLE = [
    # arithmetic, in the operands' dtype
    ElementwiseOp("add", 2, "same", "add", lambda a, b: a + b),
    ElementwiseOp("sub", 2, "same", "sub", lambda a, b: a - b),
    ElementwiseOp("mul", 2, "same", "mul", lambda a, b: a * b),
    ElementwiseOp("div", 2, "float", "true_divide", lambda a, b: a / b),
    ElementwiseOp("floordiv", 2, "same", "floor_divide", _floordiv),
    ElementwiseOp("mod", 2, "same", "remainder", lambda a, b: a % b),
    ElementwiseOp("neg", 1, "same", "neg", lambda a: -a),
    ElementwiseOp("abs", 1, "same", "abs", abs),
    ElementwiseOp("maximum", 2, "same", "maximum", max),  # NaN wins, as in torch
    ElementwiseOp("minimum", 2, "same", "minimum", min),
    ElementwiseOp("fmax", 2, "same", "fmax", max),  # NaN loses
    ElementwiseOp("fmin", 2, "same", "fmin", min),
    ElementwiseOp("sign", 1, "same", "sign", lambda a: (a > 0) - (a < 0)),
    ElementwiseOp("pow", 2, "same", "pow", lambda a, b: a**b, f32_math=True),
    ElementwiseOp("atan2", 2, "float", "atan2", math.atan2, f32_math=True),
    # transcendentals, in f32 for 16-bit floats
    _unary("exp", math.exp),
    _unary("exp2", lambda a: 2.0**a),
    _unary("expm1", math.expm1),
    _unary("log", math.log),
    _unary("log2", math.log2),
    _unary("log10", math.log10),
    _unary("log1p", math.log1p),
    _unary("sqrt", math.sqrt),
    _unary("rsqrt", lambda a: 1.0 / math.sqrt(a)),
    _unary("sin", math.sin),
    _unary("cos", math.cos),
    _unary("tan", math.tan),
    _unary("asin", math.asin),
    _unary("acos", math.acos),
    _unary("atan", math.atan),
    _unary("sinh", math.sinh),
    _unary("cosh", math.cosh),
    _unary("tanh", math.tanh),
    _unary("erf", math.erf),
    _unary("erfc", math.erfc),
    _unary("sigmoid", lambda a: 1.0 / (1.0 + math.exp(-a))),
    ElementwiseOp("floor", 1, "same", "floor", math.floor),
    ElementwiseOp("ceil", 1, "same", "ceil", math.ceil),
    ElementwiseOp("round", 1, "same", "round", round),  # half to even
    ElementwiseOp("trunc", 1, "same", "trunc", math.trunc),
    # predicates
    ElementwiseOp("eq", 2, "bool", "eq", lambda a, b: a == b),
    ElementwiseOp("ne", 2, "bool", "ne", lambda a, b: a != b),
    ElementwiseOp("lt", 2, "bool", "lt", lambda a, b: a < b),
    ElementwiseOp("le", 2, "bool", "le", lambda a, b: a <= b),
    ElementwiseOp("gt", 2, "bool", "gt", lambda a, b: a > b),
    ElementwiseOp("ge", 2, "bool", "ge", lambda a, b: a >= b),
    ElementwiseOp("isnan", 1, "bool", "isnan", lambda a: a != a),
    ElementwiseOp("isinf", 1, "bool", "isinf", lambda a: abs(a) == math.inf),
    # bits; on bool the logical operation
    ElementwiseOp("and", 2, "same", "bitwise_and", lambda a, b: a & b),
    ElementwiseOp("or", 2, "same", "bitwise_or", lambda a, b: a | b),
    ElementwiseOp("xor", 2, "same", "bitwise_xor", lambda a, b: a ^ b),
    ElementwiseOp("not", 1, "same", "bitwise_not", _not),
    ElementwiseOp("shl", 2, "same", "bitwise_left_shift", lambda a, b: a << b),
    ElementwiseOp("shr", 2, "same", "bitwise_right_shift", lambda a, b: a >> b),
    # selection: (condition, if true, if false)
    ElementwiseOp("where", 3, "same", "where", lambda c, a, b: a if c else b),
    # a * b + c with one rounding where the target has it
    ElementwiseOp("fma", 3, "same", "addcmul", lambda a, b, c: a * b + c),
]

ELEMENTWISE: dict[str, ElementwiseOp] = {op.name: op for op in _TABLE}


@dataclass(frozen=True, slots=True)
class ReductionOp:
    """One reduction. ``identity`` is its neutral element ("min"/"max": the dtype's extreme,
    infinities for floats). ``index``: the result is the i64 position of the extreme (first one;
    NaN wins)."""

    name: str
    torch: str
    identity: Number | Literal["min", "max"]
    index: bool = False


REDUCTIONS: dict[str, ReductionOp] = {
    r.name: r
    for r in (
        ReductionOp("sum", "sum", 0),
        ReductionOp("prod", "prod", 1),
        ReductionOp("max", "amax", "min"),
        ReductionOp("min", "amin", "max"),
        ReductionOp("argmax", "argmax", "min", index=True),
        ReductionOp("argmin", "argmin", "max", index=True),
        ReductionOp("any", "any", False),
        ReductionOp("all", "all", True),
        ReductionOp("xor_sum", "", 0),
    )
}
