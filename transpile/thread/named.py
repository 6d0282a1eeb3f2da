"""Integers that know where they come from.

Lowering computes with numbers: block sizes, threads, elements of a vector. A :class:`Named` is such
a number with the formula that gave it (``BM // 8``), and a target may print the formula in its
place. To all code that computes with it, it is the number; sums, products, quotients and remainders
of named numbers have formulas again, anything else makes plain numbers of them.

A number is *open* where kernels that differ in it shall have one text: code that reads it must be
right for any value, so that even a single step of a loop is a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transpile.ir.dtypes import DType


class Formula:
    """How a number is computed. All numbers are positive, quotients and remainders those of C."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Number(Formula):
    """A number without a name."""

    value: int


@dataclass(frozen=True, slots=True)
class Constant(Formula):
    """A number with a name, and how it follows from others, if it does."""

    name: str
    value: int
    definition: Formula | None = None


@dataclass(frozen=True, slots=True)
class BytesOf(Formula):
    """The size of an element."""

    dtype: DType


@dataclass(frozen=True, slots=True)
class Operation(Formula):
    """``lhs symbol rhs``, the symbol one of ``+ - * / %``; an ``exact`` quotient has no rest."""

    symbol: str
    lhs: Formula
    rhs: Formula
    exact: bool = False


class Named(int):
    """A number with its formula."""

    formula: Formula
    open: bool

    def __new__(cls, value: int, formula: Formula, *, is_open: bool = False) -> Named:
        made = super().__new__(cls, value)
        made.formula = formula
        made.open = is_open
        return made

    def __add__(self, other: int) -> int:
        return _computed("+", self, other)

    def __radd__(self, other: int) -> int:
        return _computed("+", other, self)

    def __sub__(self, other: int) -> int:
        return _computed("-", self, other)

    def __mul__(self, other: int) -> int:
        return _computed("*", self, other)

    def __rmul__(self, other: int) -> int:
        return _computed("*", other, self)

    def __floordiv__(self, other: int) -> int:
        return _computed("/", self, other)

    def __rfloordiv__(self, other: int) -> int:
        return _computed("/", other, self)

    def __mod__(self, other: int) -> int:
        return _computed("%", self, other)

    def __rmod__(self, other: int) -> int:
        return _computed("%", other, self)


def named(value: int, name: str, definition: int | None = None, *, is_open: bool = False) -> Named:
    """The number under a name; ``definition`` is the same number, computed from others."""
    how = formula_of(definition) if isinstance(definition, Named) else None
    return Named(int(value), Constant(name, int(value), how), is_open=is_open)


def bytes_of(dtype: DType) -> Named:
    """The size of an element of at least eight bits."""
    return Named(dtype.bits // 8, BytesOf(dtype), is_open=True)


def is_open(number: int) -> bool:
    """Whether code must not depend on the number's value."""
    return isinstance(number, Named) and number.open


def several(count: int) -> bool:
    """Whether there may be more than one: whether a loop over so many is a loop."""
    return count > 1 or is_open(count)


def formula_of(number: int) -> Formula:
    """The number's formula, or the number."""
    return number.formula if isinstance(number, Named) else Number(number)


def same(a: int, b: int) -> bool:
    """Whether the numbers are equal whatever the values of open ones."""
    return a == b and formula_of(a) == formula_of(b)


def rounded_up(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return a // b if a % b == 0 else -(-int(a) // int(b))


def whole_times(a: int, b: int) -> int:
    """The least multiple of ``b`` that is not below ``a``."""
    return a if a % b == 0 else rounded_up(a, b) * b


def evaluate(formula: Formula) -> int:
    """What the formula gives."""
    match formula:
        case Number(value=value) | Constant(value=value):
            return value
        case BytesOf(dtype=dtype):
            return dtype.bits // 8
        case Operation(symbol=symbol, lhs=lhs, rhs=rhs):
            return int(_VALUES[symbol](evaluate(lhs), evaluate(rhs)))
    raise TypeError(type(formula).__name__)


def constants(formula: Formula) -> Iterator[Constant]:
    """The names in a formula; not those in their definitions."""
    if isinstance(formula, Constant):
        yield formula
    elif isinstance(formula, Operation):
        yield from constants(formula.lhs)
        yield from constants(formula.rhs)


_VALUES: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a // b, "%": lambda a, b: a % b,
}  # fmt: skip


def _computed(symbol: str, a: int, b: int) -> int:
    if not isinstance(a, int) or not isinstance(b, int):
        return NotImplemented
    value = _VALUES[symbol](int(a), int(b))
    exact = symbol == "/" and int(a) % int(b) == 0
    formula = _simplified(symbol, formula_of(a), formula_of(b), exact)
    opened = is_open(a) or is_open(b)
    if value < 0 or isinstance(formula, Number):
        return int(value)
    return Named(value, formula, is_open=opened)


def _simplified(symbol: str, a: Formula, b: Formula, exact: bool = False) -> Formula:
    x = a.value if isinstance(a, Number) else None
    y = b.value if isinstance(b, Number) else None
    if x is not None and y is not None:
        return Number(_VALUES[symbol](x, y))
    if symbol in "+-" and y == 0:
        return a
    if symbol == "+" and x == 0:
        return b
    if symbol == "*":
        return _product(a, b, x, y)
    if symbol == "/":
        return _quotient(a, b, y, exact)
    if symbol == "%" and (y == 1 or a == b):
        return Number(0)
    return Operation(symbol, a, b)


def _product(a: Formula, b: Formula, x: int | None, y: int | None) -> Formula:
    if 0 in (x, y):
        return Number(0)
    if x == 1 or y == 1:
        return b if x == 1 else a
    if x is not None:
        a, b, y = b, a, x  # numbers last
    for part, factor in ((a, b), (b, a)):
        quotient = part.definition if isinstance(part, Constant) else part
        if isinstance(quotient, Operation) and quotient.exact and quotient.rhs == factor:
            return quotient.lhs
    if isinstance(a, Operation) and a.symbol == "*" and isinstance(a.rhs, Number):
        factor = _simplified("*", a.rhs, b)
        return _simplified("*", a.lhs, factor)
    return Operation("*", a, b)


def _quotient(a: Formula, b: Formula, y: int | None, exact: bool) -> Formula:
    if y == 1:
        return a
    if a == b or (isinstance(b, Constant) and a == b.definition):
        return Number(1)
    if isinstance(a, Constant) and a.definition is not None and exact:
        reduced = _quotient(a.definition, b, y, exact)
        if not isinstance(reduced, Operation) or reduced.symbol != "/":
            return reduced
    if isinstance(a, Operation) and a.symbol == "*":
        if a.rhs == b:
            return a.lhs
        if a.lhs == b:
            return a.rhs
        if isinstance(a.rhs, Number) and y is not None and a.rhs.value % y == 0:
            return _simplified("*", a.lhs, Number(a.rhs.value // y))
    return Operation("/", a, b, exact)
