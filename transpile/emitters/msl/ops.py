"""The Metal op table: how each elementwise operation and reduction of the IR is spelled.

A name that is absent is not supported on this target; ``kt targets`` prints this table.
"""

from __future__ import annotations

from dataclasses import dataclass

# Precedences of C++, loosest first.
TERNARY, LOR, LAND, BIT_OR, BIT_XOR, BIT_AND, EQUAL, LESS, SHIFT, ADD, MUL, UNARY, POSTFIX, ATOM = (
    range(14)
)


@dataclass(frozen=True, slots=True)
class Spelling:
    """``template`` over ``{0}``.. with result precedence ``prec`` and operand ``needs``.

    ``native``: halves compute it as they are; else they go through f32. ``helper`` is a function
    of :mod:`transpile.emitters.msl.helpers`.
    """

    template: str
    prec: int = ATOM
    needs: tuple[int, ...] = (TERNARY, TERNARY, TERNARY)
    native: bool = True
    helper: str = ""


def _infix(symbol: str, prec: int) -> Spelling:
    # Bits and shifts mixed with anything else are put in parentheses, as compilers ask for.
    if prec in (BIT_OR, BIT_XOR, BIT_AND, SHIFT):
        return Spelling(f"{{0}} {symbol} {{1}}", prec, (UNARY, UNARY))
    if prec in (EQUAL, LESS):
        return Spelling(f"{{0}} {symbol} {{1}}", prec, (ADD, ADD))
    return Spelling(f"{{0}} {symbol} {{1}}", prec, (prec, prec + 1))


def _call(function: str, arity: int = 1, *, native: bool = True, helper: str = "") -> Spelling:
    slots = ", ".join(f"{{{i}}}" for i in range(arity))
    return Spelling(f"{function}({slots})", native=native, helper=helper)


def _precise(function: str, arity: int = 1) -> Spelling:
    return _call(f"precise::{function}", arity, native=False)


def _own(function: str, arity: int = 1, *, native: bool = False) -> Spelling:
    return _call(function, arity, native=native, helper=function)


#: on floats
FLOATS: dict[str, Spelling] = {
    "add": _infix("+", ADD),
    "sub": _infix("-", ADD),
    "mul": _infix("*", MUL),
    "div": _infix("/", MUL),
    "floordiv": Spelling("floor({0} / {1})", needs=(MUL, UNARY)),
    "mod": _own("floor_mod", 2),
    "neg": Spelling("-{0}", UNARY, (UNARY,)),
    "abs": _call("abs"),
    "maximum": _own("nan_max", 2, native=True),
    "minimum": _own("nan_min", 2, native=True),
    "fmax": _call("max", 2),
    "fmin": _call("min", 2),
    "sign": _call("sign"),
    "pow": _precise("pow", 2),
    "atan2": _precise("atan2", 2),
    "exp": _precise("exp"),
    "exp2": _precise("exp2"),
    "expm1": _own("kt_expm1"),
    "log": _precise("log"),
    "log2": _precise("log2"),
    "log10": _precise("log10"),
    "log1p": _own("kt_log1p"),
    "sqrt": _precise("sqrt"),
    "rsqrt": _precise("rsqrt"),
    "sin": _precise("sin"),
    "cos": _precise("cos"),
    "tan": _precise("tan"),
    "asin": _precise("asin"),
    "acos": _precise("acos"),
    "atan": _precise("atan"),
    "sinh": _precise("sinh"),
    "cosh": _precise("cosh"),
    "tanh": _precise("tanh"),
    "erf": _own("kt_erf"),
    "erfc": _own("kt_erfc"),
    "sigmoid": Spelling("1.0f / (1.0f + precise::exp(-{0}))", MUL, (UNARY,), native=False),
    "floor": _call("floor"),
    "ceil": _call("ceil"),
    "round": _call("rint"),
    "trunc": _call("trunc"),
    "isnan": _call("isnan"),
    "isinf": _call("isinf"),
    "nan_gt": _own("nan_greater", 2, native=True),
    "nan_lt": _own("nan_less", 2, native=True),
    "eq": _infix("==", EQUAL),
    "ne": _infix("!=", EQUAL),
    "lt": _infix("<", LESS),
    "le": _infix("<=", LESS),
    "gt": _infix(">", LESS),
    "ge": _infix(">=", LESS),
    "where": Spelling("{0} ? {1} : {2}", TERNARY, (LOR, LOR, TERNARY)),
    "fma": _call("fma", 3),
}

#: on integers
INTEGERS: dict[str, Spelling] = {
    **{
        name: FLOATS[name]
        for name in ("add", "sub", "mul", "neg", "eq", "ne", "lt", "le", "gt", "ge", "where")
    },
    "floordiv": _own("floor_div", 2),
    "mod": _own("floor_mod", 2),
    "abs": _call("abs"),
    "maximum": _call("max", 2),
    "minimum": _call("min", 2),
    "fmax": _call("max", 2),
    "fmin": _call("min", 2),
    "sign": Spelling("int({0} > 0) - int({0} < 0)", ADD, (ADD,)),
    "pow": _own("int_pow", 2),
    "and": _infix("&", BIT_AND),
    "or": _infix("|", BIT_OR),
    "xor": _infix("^", BIT_XOR),
    "not": Spelling("~{0}", UNARY, (UNARY,)),
    "shl": _infix("<<", SHIFT),
    "shr": _infix(">>", SHIFT),
    "floor": Spelling("{0}", TERNARY, (TERNARY,)),
    "ceil": Spelling("{0}", TERNARY, (TERNARY,)),
    "round": Spelling("{0}", TERNARY, (TERNARY,)),
    "trunc": Spelling("{0}", TERNARY, (TERNARY,)),
    "fma": Spelling("{0} * {1} + {2}", ADD, (MUL, UNARY, MUL)),
}

#: on conditions
BOOLS: dict[str, Spelling] = {
    "and": Spelling("{0} && {1}", LAND, (LAND, EQUAL)),
    "or": Spelling("{0} || {1}", LOR, (LOR, EQUAL)),
    "xor": _infix("!=", EQUAL),
    "not": Spelling("!{0}", UNARY, (UNARY,)),
    "eq": _infix("==", EQUAL),
    "ne": _infix("!=", EQUAL),
    "lt": Spelling("!{0} && {1}", LAND, (UNARY, EQUAL)),
    "le": Spelling("!{0} || {1}", LOR, (UNARY, EQUAL)),
    "gt": Spelling("{0} && !{1}", LAND, (EQUAL, UNARY)),
    "ge": Spelling("{0} || !{1}", LOR, (EQUAL, UNARY)),
    "maximum": Spelling("{0} || {1}", LOR, (LOR, EQUAL)),
    "minimum": Spelling("{0} && {1}", LAND, (LAND, EQUAL)),
    "mul": Spelling("{0} && {1}", LAND, (LAND, EQUAL)),
    "add": Spelling("{0} || {1}", LOR, (LOR, EQUAL)),
    "where": FLOATS["where"],
    "land": Spelling("{0} && {1}", LAND, (LAND, EQUAL)),
    "lor": Spelling("{0} || {1}", LOR, (LOR, EQUAL)),
    "lnot": Spelling("!{0}", UNARY, (UNARY,)),
}

#: non-negative integers need no care for signs
PLAIN_DIVISION = {"floordiv": _infix("/", MUL), "mod": _infix("%", MUL)}

#: what only thread IR has
_THREAD_ONLY = frozenset({"land", "lor", "lnot", "nan_gt", "nan_lt"})

ELEMENTWISE = (frozenset(FLOATS) | frozenset(INTEGERS) | frozenset(BOOLS)) - _THREAD_ONLY

#: over a whole SIMD group; "" where there is no function of that name for floats and integers
SIMD_REDUCTIONS: dict[str, str] = {
    "sum": "simd_sum",
    "prod": "simd_product",
    "max": "simd_max",
    "min": "simd_min",
    "xor_sum": "simd_xor",
    "any": "simd_any",
    "all": "simd_all",
}

REDUCTIONS = frozenset(SIMD_REDUCTIONS) | {"argmax", "argmin"}

#: atomic operations on 32-bit words; floats add natively, 16-bit floats by compare and exchange
ATOMICS: dict[str, str] = {
    "add": "atomic_fetch_add_explicit",
    "and": "atomic_fetch_and_explicit",
    "or": "atomic_fetch_or_explicit",
    "xor": "atomic_fetch_xor_explicit",
    "max": "atomic_fetch_max_explicit",
    "min": "atomic_fetch_min_explicit",
    "xchg": "atomic_exchange_explicit",
}

FEATURES = (
    "dynamic sizes",
    "several phases",
    "simdgroup matrices",
    "atomics",
    "scan",
    "gather",
    "sort",
    "random",
    "64-bit integers",
    "fp8 and int4 storage",
)
