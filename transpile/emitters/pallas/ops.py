"""The Pallas op table: how each elementwise operation and reduction of the IR is spelled.

A name that is absent is not supported on this target; ``kt targets`` prints this table.
``float32``: Mosaic has the operation for f32 only, so that bf16 is widened around it.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    BIT_AND,
    BIT_OR,
    BIT_XOR,
    COMPARE,
    MUL,
    SHIFT,
    TERNARY,
    UNARY,
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """``template`` over operands, with the precedence each needs and the result has.

    ``helper`` names a function of helpers.py that the module has to define.
    """

    template: str
    prec: int = ATOM
    needs: tuple[int, ...] = (TERNARY, TERNARY, TERNARY)
    float32: bool = False
    helper: str = ""


def _infix(symbol: str, prec: int, *, float32: bool = False) -> Spelling:
    left, right = (ADD, ADD) if prec == COMPARE else (prec, prec + 1)
    return Spelling(f"{{0}} {symbol} {{1}}", prec, (left, right), float32)


def _call(function: str, arity: int = 1, *, float32: bool = False) -> Spelling:
    slots = ", ".join(f"{{{i}}}" for i in range(arity))
    helper = function if function.startswith("_") else ""
    return Spelling(f"{function}({slots})", float32=float32, helper=helper)


ELEMENTWISE: dict[str, Spelling] = {
    "add": _infix("+", ADD),
    "sub": _infix("-", ADD),
    "mul": _infix("*", MUL),
    "div": _infix("/", MUL),
    "floordiv": Spelling("{0} // {1}", MUL, (UNARY, UNARY), float32=True),
    "mod": Spelling("{0} % {1}", MUL, (UNARY, UNARY), float32=True),
    "neg": Spelling("-{0}", UNARY, (UNARY,)),
    "abs": _call("jnp.abs"),
    "maximum": _call("jnp.maximum", 2),
    "minimum": _call("jnp.minimum", 2),
    "fmax": _call("_fmax", 2),
    "fmin": _call("_fmin", 2),
    "sign": _call("jnp.sign"),
    "pow": _call("jnp.power", 2, float32=True),
    "atan2": _call("jnp.arctan2", 2, float32=True),
    "exp": _call("jnp.exp"),
    "exp2": _call("jnp.exp2"),
    "expm1": _call("_expm1", float32=True),
    "log": _call("jnp.log"),
    "log2": _call("jnp.log2", float32=True),
    "log10": _call("jnp.log10", float32=True),
    "log1p": _call("jnp.log1p"),
    "sqrt": _call("jnp.sqrt"),
    "rsqrt": _call("lax.rsqrt"),
    "sin": _call("jnp.sin"),
    "cos": _call("jnp.cos"),
    "tan": _call("jnp.tan"),
    "asin": _call("_asin", float32=True),
    "acos": _call("_acos", float32=True),
    "atan": Spelling("jnp.arctan2({0}, 1.0)", float32=True),
    "sinh": _call("_sinh", float32=True),
    "cosh": _call("_cosh", float32=True),
    "tanh": _call("jnp.tanh"),
    "erf": _call("lax.erf"),
    "erfc": _call("_erfc", float32=True),
    "sigmoid": _call("jax.nn.sigmoid"),
    "floor": _call("jnp.floor"),
    "ceil": _call("jnp.ceil"),
    "round": _call("jnp.round"),
    "trunc": _call("jnp.trunc"),
    "eq": _infix("==", COMPARE),
    "ne": _infix("!=", COMPARE),
    "lt": _infix("<", COMPARE),
    "le": _infix("<=", COMPARE),
    "gt": _infix(">", COMPARE),
    "ge": _infix(">=", COMPARE),
    "isnan": _call("jnp.isnan"),
    "isinf": _call("jnp.isinf"),
    "and": _infix("&", BIT_AND),
    "or": _infix("|", BIT_OR),
    "xor": _infix("^", BIT_XOR),
    "not": Spelling("~{0}", UNARY, (UNARY,)),
    "shl": _infix("<<", SHIFT),
    "shr": _infix(">>", SHIFT),
    "where": _call("jnp.where", 3),
    "fma": Spelling("{0} * {1} + {2}", ADD, (MUL, MUL + 1, ADD + 1)),
}


@dataclass(frozen=True, slots=True)
class ReductionSpelling:
    """``function(value, axis)``; ``float32``: other floats are widened first; ``helper``: as in
    :class:`Spelling`."""

    function: str
    float32: bool = False
    helper: str = ""


REDUCTIONS: dict[str, ReductionSpelling] = {
    "sum": ReductionSpelling("jnp.sum", float32=True),
    "prod": ReductionSpelling("_prod", float32=True, helper="_prod"),
    "max": ReductionSpelling("jnp.max"),
    "min": ReductionSpelling("jnp.min"),
    "argmax": ReductionSpelling("jnp.argmax", float32=True),
    "argmin": ReductionSpelling("jnp.argmin", float32=True),
    "any": ReductionSpelling("jnp.any"),
    "all": ReductionSpelling("jnp.all"),
}

FEATURES = (
    "dynamic sizes",
    "several phases",
    "matrix products",
    "atomics as sequential accumulation",
    "gather",
    "scan",
    "random",
    "data-dependent loops",
)
