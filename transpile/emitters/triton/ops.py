"""The Triton op table: how each elementwise operation and reduction of the IR is spelled.

A name that is absent is not supported on this target; ``kt targets`` prints this table.
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
    """``template`` over ``{0}``.. with result precedence ``prec`` and operand ``needs``.

    ``dtypes``: "as operands" (Triton's promotion), "bool", "f32" (16-bit operands come out as
    f32), "same" (the template returns the operand's dtype). ``floats``: operands must be f32 or
    f64. ``uses`` names the import it wants.
    """

    template: str
    prec: int = ATOM
    needs: tuple[int, ...] = (TERNARY, TERNARY, TERNARY)
    result: str = "promote"
    floats: bool = False
    uses: str = ""


def _infix(symbol: str, prec: int, result: str = "promote") -> Spelling:
    left, right = (ADD, ADD) if prec == COMPARE else (prec, prec + 1)
    return Spelling(f"{{0}} {symbol} {{1}}", prec, (left, right), result)


def _call(
    function: str, arity: int = 1, *, floats: bool = True, result: str = "promote"
) -> Spelling:
    slots = ", ".join(f"{{{i}}}" for i in range(arity))
    uses = "libdevice" if function.startswith("libdevice.") else ""
    return Spelling(f"{function}({slots})", floats=floats, uses=uses, result=result)


_NAN = "propagate_nan=tl.PropagateNan.ALL"

ELEMENTWISE: dict[str, Spelling] = {
    "add": _infix("+", ADD),
    "sub": _infix("-", ADD),
    "mul": _infix("*", MUL),
    "div": _infix("/", MUL, "divide"),
    "neg": Spelling("-{0}", UNARY, (UNARY,)),
    "abs": _call("tl.abs", floats=False),
    "maximum": Spelling(f"tl.maximum({{0}}, {{1}}, {_NAN})"),
    "minimum": Spelling(f"tl.minimum({{0}}, {{1}}, {_NAN})"),
    "fmax": _call("tl.maximum", 2, floats=False),
    "fmin": _call("tl.minimum", 2, floats=False),
    "atan2": _call("libdevice.atan2", 2),
    "pow": _call("libdevice.pow", 2),
    "exp": _call("tl.exp"),
    "exp2": _call("tl.exp2"),
    "expm1": _call("libdevice.expm1"),
    "log": _call("tl.log"),
    "log2": _call("tl.log2"),
    "log10": _call("libdevice.log10"),
    "log1p": _call("libdevice.log1p"),
    "sqrt": _call("tl.sqrt"),
    "rsqrt": _call("tl.rsqrt"),
    "sin": _call("tl.sin"),
    "cos": _call("tl.cos"),
    "tan": _call("libdevice.tan"),
    "asin": _call("libdevice.asin"),
    "acos": _call("libdevice.acos"),
    "atan": _call("libdevice.atan"),
    "sinh": _call("libdevice.sinh"),
    "cosh": _call("libdevice.cosh"),
    "tanh": _call("libdevice.tanh"),
    "erf": _call("tl.erf"),
    "erfc": _call("libdevice.erfc"),
    "sigmoid": _call("tl.sigmoid"),
    "floor": _call("tl.floor"),
    "ceil": _call("tl.ceil"),
    "round": _call("libdevice.rint"),
    "trunc": _call("libdevice.trunc"),
    "eq": _infix("==", COMPARE, "bool"),
    "ne": _infix("!=", COMPARE, "bool"),
    "lt": _infix("<", COMPARE, "bool"),
    "le": _infix("<=", COMPARE, "bool"),
    "gt": _infix(">", COMPARE, "bool"),
    "ge": _infix(">=", COMPARE, "bool"),
    "isnan": Spelling("{0} != {0}", COMPARE, (COMPARE + 1,), "bool"),
    "isinf": Spelling('tl.abs({0}) == float("inf")', COMPARE, (TERNARY,), "bool"),
    "and": _infix("&", BIT_AND),
    "or": _infix("|", BIT_OR),
    "xor": _infix("^", BIT_XOR),
    "not": Spelling("~{0}", UNARY, (UNARY,)),
    "shl": _infix("<<", SHIFT),
    "shr": _infix(">>", SHIFT),
    "where": Spelling("tl.where({0}, {1}, {2})", result="select"),
    "fma": _call("tl.fma", 3, floats=False),
    # floordiv, mod and sign depend on dtype and sign; expr.py spells them
    "floordiv": Spelling(""),
    "mod": Spelling(""),
    "sign": Spelling(""),
}


@dataclass(frozen=True, slots=True)
class ReductionSpelling:
    """``function(value, axis)``; ``widen`` takes 16-bit floats to f32 first."""

    function: str
    widen: bool = False


REDUCTIONS: dict[str, ReductionSpelling] = {
    "sum": ReductionSpelling("tl.sum", widen=True),
    "prod": ReductionSpelling("kt_prod", widen=True),
    "max": ReductionSpelling("tl.max"),
    "min": ReductionSpelling("tl.min"),
    "argmax": ReductionSpelling("tl.argmax"),
    "argmin": ReductionSpelling("tl.argmin"),
    "any": ReductionSpelling("tl.max"),
    "all": ReductionSpelling("tl.min"),
    "xor_sum": ReductionSpelling("tl.xor_sum"),
}

#: eviction policy of the IR -> tl.load's
EVICTION = {"first": "evict_first", "last": "evict_last"}

FEATURES = (
    "dynamic sizes",
    "several phases",
    "tl.dot",
    "tl.dot fp8",
    "tensor descriptors",
    "block pointers",
    "persistent programs",
    "atomics",
    "scan",
    "gather",
    "sort",
    "random",
    "inline asm",
    "inline triton",
    "64-bit types",
)
