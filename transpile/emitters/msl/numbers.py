"""Numbers with formulas in Metal: named constants, and expressions of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from transpile.emitters.msl.dtypes import spelled
from transpile.emitters.msl.names import Scope
from transpile.emitters.msl.ops import ADD, ATOM, MUL
from transpile.ir.ir import Span
from transpile.ir.sizes import Opaque, Size
from transpile.thread import ir
from transpile.thread.merge import NumberParam
from transpile.thread.named import (
    BytesOf,
    Constant,
    Formula,
    Named,
    Number,
    Operation,
    constants,
    evaluate,
    formula_of,
)
from transpile.thread.walk import walk

Text = tuple[str, int]
"""Source text and the precedence of its outermost operator."""


def enclosed(text: Text, need: int) -> str:
    """The text, in parentheses if it binds looser than ``need``."""
    return text[0] if text[1] >= need else f"({text[0]})"


class Numbers:
    """Spells the numbers of one kernel; remembers the constants that it has spelled.

    Their names are taken before any other is given, so that none hides them.
    """

    def __init__(self, kernel: ir.Kernel, scope: Scope) -> None:
        self.names: dict[Constant, str] = {}
        self.used: list[Constant] = []
        for number in _numbers(kernel):
            for constant in constants(number.formula):
                self._name(constant, scope)

    def _name(self, constant: Constant, scope: Scope) -> None:
        if constant not in self.names:
            if constant.definition is not None:
                for part in constants(constant.definition):
                    self._name(part, scope)
            self.names[constant] = scope.declare(constant.name)

    def of(self, number: int) -> Text:
        """The number as an expression."""
        return self._formula(formula_of(number))

    def text(self, number: int) -> str:
        """The number where nothing binds tighter than what is around it."""
        return self.of(number)[0]

    def enclosed(self, number: int, need: int) -> str:
        """The number as a part of an expression."""
        return enclosed(self.of(number), need)

    def declarations(self) -> list[str]:
        """The constants that have been used and are no parameters, each after those it needs."""
        lines = []
        own = [c for c in self.names if c in self.used and c.definition is None]
        for constant in [*own, *(c for c in self.used if c.definition is not None)]:
            if isinstance(constant, NumberParam):
                continue
            value = str(constant.value)
            if constant.definition is not None:
                value = self._formula(constant.definition)[0]
            kind = "short" if constant.value < 1 << 15 else "int"
            lines.append(f"constexpr {kind} {self.names[constant]} = {value};")
        return lines

    def of_parameters(self, number: int) -> str:
        """The number by the template's parameters alone, for what stands before the body."""
        formula = formula_of(number)
        if not any(isinstance(c, NumberParam) for c in _all_constants(formula)):
            return str(int(number))
        return self._formula(_with_values(formula))[0]

    def _formula(self, formula: Formula) -> Text:
        match formula:
            case Number(value=value):
                return str(value), ATOM
            case Constant():
                return self._use(formula), ATOM
            case BytesOf(dtype=dtype):
                return f"sizeof({spelled(dtype)})", ATOM
            case Operation(symbol=symbol, lhs=lhs, rhs=rhs):
                prec = ADD if symbol in "+-" else MUL
                left = enclosed(self._formula(lhs), prec)
                right = enclosed(self._formula(rhs), prec + 1)
                return f"{left} {symbol} {right}", prec
        raise TypeError(type(formula).__name__)

    def _use(self, constant: Constant) -> str:
        if constant not in self.used:
            if constant.definition is not None:
                self._formula(constant.definition)
            self.used.append(constant)
        return self.names[constant]


def _with_values(formula: Formula) -> Formula:
    """The formula with the values of constants that are no parameters."""
    if isinstance(formula, Operation):
        lhs, rhs = _with_values(formula.lhs), _with_values(formula.rhs)
        made = Operation(formula.symbol, lhs, rhs)
        both = isinstance(lhs, Number) and isinstance(rhs, Number)
        return Number(evaluate(made)) if both else made
    if isinstance(formula, Constant) and not isinstance(formula, NumberParam):
        return (
            Number(formula.value)
            if formula.definition is None
            else _with_values(formula.definition)
        )
    return formula


def _all_constants(formula: Formula) -> Iterator[Constant]:
    for constant in constants(formula):
        yield constant
        if constant.definition is not None:
            yield from _all_constants(constant.definition)


def _numbers(kernel: ir.Kernel) -> Iterator[Named]:
    """All numbers with formulas in a kernel."""
    for stmt in walk(kernel.body):
        yield from _in_fields(stmt)
    yield from _in(kernel.shared)
    yield from _in(kernel.threads)


def _in(item: Any) -> Iterator[Named]:
    if isinstance(item, Named):
        yield item
    elif isinstance(item, tuple):
        for part in item:
            yield from _in(part)
    elif isinstance(item, Size | Opaque):
        yield from _in(item.terms if isinstance(item, Size) else (item.lhs, item.rhs))
    elif isinstance(item, ir.Expr | ir.SharedBuffer):
        yield from _in_fields(item)


def _in_fields(item: Any) -> Iterator[Named]:
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if not isinstance(value, list | str | Span):
            yield from _in(value)
