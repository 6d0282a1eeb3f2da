"""Symbolic integers: sizes, strides and host-side index arithmetic.

A :class:`Size` is a polynomial with integer coefficients over atoms. An atom is a symbol (a
tensor dimension, a stride, a block size, a host scalar) or one of the four operations a
polynomial cannot hold: floor division, remainder, minimum, maximum. Two sizes are equal exactly
when their normal forms are; that is what axis identity is decided on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Literal

SymKind = Literal["dim", "stride", "block", "scalar"]


@dataclass(frozen=True, slots=True)
class Sym:
    """A named unknown integer.

    ``dim`` and ``block`` symbols are at least 1 where a program runs at all, ``stride`` and
    ``dim`` are never negative; a ``scalar`` (an integer argument) may be anything.
    """

    name: str
    kind: SymKind

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Opaque:
    """``op(lhs, rhs)`` for the operations that are no polynomial: ``//``, ``%``, min, max."""

    op: Literal["//", "%", "min", "max"]
    lhs: Size
    rhs: Size

    def __str__(self) -> str:
        if self.op in ("min", "max"):
            return f"{self.op}({self.lhs}, {self.rhs})"
        return f"{_paren(self.lhs)} {self.op} {_paren(self.rhs)}"


Atom = Sym | Opaque
Monomial = tuple[Atom, ...]


def _atom_key(atom: Atom) -> tuple[bool, str, str]:
    if isinstance(atom, Opaque):
        return (True, str(atom), "")
    return (False, atom.name, atom.kind)


@dataclass(frozen=True)
class Size:
    """``sum(coefficient * product(atoms))``, terms sorted, no zero coefficient."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def of(value: int | Sym | Size) -> Size:
        if isinstance(value, Size):
            return value
        if isinstance(value, Sym):
            return Size((((value,), 1),))
        return Size((((), value + 0),) if value else ())  # one that knows its formula still does

    @staticmethod
    def _collect(pairs: Iterable[tuple[Monomial, int]]) -> Size:
        total: dict[Monomial, int] = {}
        for mono, coeff in pairs:
            total[mono] = total.get(mono, 0) + coeff
        terms = [(mono, coeff) for mono, coeff in total.items() if coeff]
        terms.sort(key=lambda t: (-len(t[0]), [_atom_key(a) for a in t[0]]))
        return Size(tuple(terms))

    # -- queries ---------------------------------------------------------------------------

    @property
    def is_const(self) -> bool:
        return not self.terms or (len(self.terms) == 1 and not self.terms[0][0])

    def as_int(self) -> int | None:
        """The value if it is a constant, else None."""
        if not self.terms:
            return 0
        return self.terms[0][1] if self.is_const else None

    def as_sym(self) -> Sym | None:
        """The symbol if the size is exactly one symbol, else None."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            atom = self.terms[0][0][0]
            return atom if isinstance(atom, Sym) else None
        return None

    @cached_property
    def syms(self) -> frozenset[Sym]:
        """All symbols that occur, inside opaque atoms too."""
        return frozenset(self._walk())

    def _walk(self) -> Iterator[Sym]:
        for mono, _ in self.terms:
            for atom in mono:
                if isinstance(atom, Sym):
                    yield atom
                else:
                    yield from atom.lhs.syms
                    yield from atom.rhs.syms

    def divisible_by(self, n: int, multiple_of: Mapping[Sym, int] | None = None) -> bool:
        """True if provably a multiple of ``n``, given known divisors of symbols."""
        facts = multiple_of or {}
        for mono, coeff in self.terms:
            factor = abs(coeff)
            for atom in mono:
                if isinstance(atom, Sym):
                    factor *= facts.get(atom, 1)
            if factor % n:
                return False
        return True

    @property
    def non_negative(self) -> bool:
        """True if provably >= 0: only dims, strides and blocks, with positive coefficients."""
        return all(c > 0 and all(_atom_non_negative(a) for a in m) for m, c in self.terms)

    # -- arithmetic ------------------------------------------------------------------------

    def __add__(self, other: int | Size) -> Size:
        return Size._collect((*self.terms, *Size.of(other).terms))

    def __radd__(self, other: int) -> Size:
        return self + other

    def __neg__(self) -> Size:
        return Size(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: int | Size) -> Size:
        return self + -Size.of(other)

    def __rsub__(self, other: int) -> Size:
        return Size.of(other) - self

    def __mul__(self, other: int | Size) -> Size:
        return Size._collect(
            (tuple(sorted((*m1, *m2), key=_atom_key)), c1 * c2)
            for m1, c1 in self.terms
            for m2, c2 in Size.of(other).terms
        )

    def __rmul__(self, other: int) -> Size:
        return self * other

    def __floordiv__(self, other: int | Size) -> Size:
        rhs = Size.of(other)
        if (exact := _exact_div(self, rhs)) is not None:
            return exact
        lhs_int, rhs_int = self.as_int(), rhs.as_int()
        if lhs_int is not None and rhs_int:
            return Size.of(lhs_int // rhs_int)
        return _opaque("//", self, rhs)

    def __mod__(self, other: int | Size) -> Size:
        rhs = Size.of(other)
        if _exact_div(self, rhs) is not None:
            return ZERO
        lhs_int, rhs_int = self.as_int(), rhs.as_int()
        if lhs_int is not None and rhs_int:
            return Size.of(lhs_int % rhs_int)
        return _opaque("%", self, rhs)

    def ceildiv(self, other: int | Size) -> Size:
        """Quotient rounded up; the divisor must be positive."""
        rhs = Size.of(other)
        if (exact := _exact_div(self, rhs)) is not None:
            return exact
        return (self + rhs - 1) // rhs

    def min(self, other: int | Size) -> Size:
        return _extreme("min", self, Size.of(other))

    def max(self, other: int | Size) -> Size:
        return _extreme("max", self, Size.of(other))

    # -- evaluation ------------------------------------------------------------------------

    def substitute(self, env: Mapping[Sym, int | Size]) -> Size:
        """Replace symbols; the result is normalised again."""
        if not env or not (self.syms & env.keys()):
            return self
        total = ZERO
        for mono, coeff in self.terms:
            product = Size.of(coeff)
            for atom in mono:
                product = product * _substitute_atom(atom, env)
            total = total + product
        return total

    def evaluate(self, env: Mapping[Sym, int]) -> int:
        """The integer value; KeyError names the first symbol that ``env`` lacks."""
        value = self.substitute(env).as_int()
        if value is None:
            missing = sorted(s.name for s in self.syms if s not in env)
            raise KeyError(missing[0] if missing else str(self))
        return value

    def render(self, spell: Callable[[Sym], str]) -> str:
        """Python source for the size, symbols spelled by ``spell``."""
        return _render(self, spell)

    def __str__(self) -> str:
        return _render(self, lambda s: s.name)

    def __repr__(self) -> str:
        return f"Size({self})"


ZERO = Size(())
ONE = Size.of(1)


def _atom_non_negative(atom: Atom) -> bool:
    if isinstance(atom, Sym):
        return atom.kind != "scalar"
    if atom.op == "%":
        return atom.rhs.non_negative
    if atom.op == "max":
        return atom.lhs.non_negative or atom.rhs.non_negative
    return atom.lhs.non_negative and atom.rhs.non_negative


def _opaque(op: Literal["//", "%", "min", "max"], lhs: Size, rhs: Size) -> Size:
    return Size((((Opaque(op, lhs, rhs),), 1),))


def _extreme(op: Literal["min", "max"], lhs: Size, rhs: Size) -> Size:
    difference = lhs - rhs
    if difference.non_negative:
        return rhs if op == "min" else lhs
    if (-difference).non_negative:
        return lhs if op == "min" else rhs
    const = difference.as_int()
    if const is not None:
        return lhs if (const < 0) == (op == "min") else rhs
    first, second = sorted((lhs, rhs), key=str)
    return _opaque(op, first, second)


def _exact_div(lhs: Size, rhs: Size) -> Size | None:
    """``lhs / rhs`` when rhs is a single term that divides every term of lhs, else None."""
    if not lhs.terms and rhs.terms:
        return ZERO
    if lhs == rhs and rhs.terms:
        return ONE
    if len(rhs.terms) != 1:
        return None
    mono, coeff = rhs.terms[0]
    result: list[tuple[Monomial, int]] = []
    for m, c in lhs.terms:
        if c % coeff:
            return None
        rest = list(m)
        for atom in mono:
            if atom not in rest:
                return None
            rest.remove(atom)
        result.append((tuple(rest), c // coeff))
    return Size._collect(result)


def _substitute_atom(atom: Atom, env: Mapping[Sym, int | Size]) -> Size:
    if isinstance(atom, Sym):
        return Size.of(env.get(atom, atom))
    lhs, rhs = atom.lhs.substitute(env), atom.rhs.substitute(env)
    if atom.op == "//":
        return lhs // rhs
    if atom.op == "%":
        return lhs % rhs
    return _extreme(atom.op, lhs, rhs)


def _paren(size: Size) -> str:
    text = str(size)
    return f"({text})" if " " in text else text


def _render(size: Size, spell: Callable[[Sym], str]) -> str:
    if not size.terms:
        return "0"
    out = ""
    for mono, coeff in size.terms:
        alone = len(mono) == 1 and (coeff == 1 or (coeff == -1 and bool(out)))
        factors = [_render_atom(a, spell, alone) for a in mono]
        if abs(coeff) != 1 or not factors:
            factors.append(str(abs(coeff)))
        text = " * ".join(factors)
        if not out:
            out = f"-{text}" if coeff < 0 else text
        else:
            out += f" - {text}" if coeff < 0 else f" + {text}"
    return out


def _render_atom(atom: Atom, spell: Callable[[Sym], str], alone: bool) -> str:
    if isinstance(atom, Sym):
        return spell(atom)
    lhs, rhs = _render(atom.lhs, spell), _render(atom.rhs, spell)
    if atom.op in ("min", "max"):
        return f"{atom.op}({lhs}, {rhs})"
    lhs = f"({lhs})" if " " in lhs else lhs
    rhs = f"({rhs})" if " " in rhs else rhs
    return f"{lhs} {atom.op} {rhs}" if alone else f"({lhs} {atom.op} {rhs})"


def common_divisor(values: Iterable[int]) -> int:
    """Greatest common divisor, 0 for no values."""
    result = 0
    for value in values:
        result = gcd(result, value)
    return result
