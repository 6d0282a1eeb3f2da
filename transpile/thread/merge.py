"""Kernels that are equal up to element types and numbers, as one kernel with parameters.

Kernels are walked in step. Where all agree, the merged kernel has what they have. Where they
differ in an element type it has a :class:`TypeParam`; where they differ in a number whose formula
is the same in all (:mod:`transpile.thread.named`), the constants in the formula are its
parameters. Kernels that differ in anything else are :class:`Different`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transpile.ir.dtypes import BF16, BY_NAME, F16, F32, I32, I64, DType
from transpile.ir.ir import Span, Tensor
from transpile.thread import ir
from transpile.thread.named import (
    BytesOf,
    Constant,
    Formula,
    Named,
    Number,
    Operation,
    evaluate,
    formula_of,
    is_open,
)


class Different(Exception):
    """The kernels are not one; the message says in what they differ."""


@dataclass(frozen=True, slots=True)
class TypeParam(DType):
    """An element type that differs from kernel to kernel: a float with literals, or a type of
    indices. As an element type it is like one of them."""

    values: tuple[DType, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberParam(Constant):
    """A number that differs from kernel to kernel."""

    values: tuple[int, ...] = ()


@dataclass(eq=False)
class Merged:
    """A kernel that stands for several, and what is a parameter in it, in order of appearance.

    ``kernel`` is like the kernel number ``like`` wherever that has to be one of them.
    """

    kernel: ir.Kernel
    types: list[TypeParam]
    numbers: list[NumberParam]
    like: int = 0


def merge(kernels: Sequence[ir.Kernel], like: int = 0) -> Merged:
    """One kernel for all of them. Raises Different."""
    merger = _Merger(like)
    merged = merger.kernel(kernels)
    return Merged(merged, list(merger.types.values()), list(merger.numbers.values()), like)


#: what may differ without a trace in the code: names and places of the source, what the host knows
_APART: dict[type[Any], frozenset[str]] = {
    ir.Var: frozenset({"name", "of_source"}),
    ir.SharedBuffer: frozenset({"name", "offset"}),
    Tensor: frozenset({"name", "shape", "strides", "host", "param"}),
    ir.Kernel: frozenset({"name", "grid", "capacities", "multiple_of", "span"}),
}
_FLOATS = {F16, BF16, F32}
_INDICES = {I32, I64}


@dataclass(eq=False)
class _Merger:
    like: int
    types: dict[tuple[DType, ...], TypeParam] = field(default_factory=dict)
    names: dict[tuple[DType, ...], str] = field(default_factory=dict)
    numbers: dict[tuple[object, ...], NumberParam] = field(default_factory=dict)
    known: dict[tuple[int, ...], Any] = field(default_factory=dict)
    partners: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def kernel(self, kernels: Sequence[ir.Kernel]) -> ir.Kernel:
        if any(k.capacities and not kernels[0].capacities for k in kernels):
            raise Different("one holds a row of limited length")
        self._name_types(kernels)
        merged = self._node(kernels, "kernel")
        assert isinstance(merged, ir.Kernel)
        return merged

    def _name_types(self, kernels: Sequence[ir.Kernel]) -> None:
        """The first type of floats that differs is called T, others after their first tensor."""
        places = list(zip(*(k.tensors for k in kernels), strict=False))
        for tensors in sorted(places, key=lambda found: not found[0].dtype.is_float):
            key = tuple(t.dtype for t in tensors)
            if any(d != key[0] for d in key) and key not in self.names:
                words = tensors[0].name.split("_")
                camel = "".join(w[:1].upper() + w[1:] for w in words)
                self.names[key] = f"T{camel}" if self.names else "T"

    def _any(self, items: Sequence[Any], where: str) -> Any:
        first = items[self.like]
        if _is_number(first) and all(map(_is_number, items)):
            return self._number(items, where)
        kinds = {type(i) for i in items}
        if isinstance(first, DType):
            return self._dtype(items, where)
        if len(kinds) > 1:
            raise Different(f"{where}: {', '.join(sorted(k.__name__ for k in kinds))}")
        if isinstance(first, list | tuple):
            if len({len(i) for i in items}) > 1:
                raise Different(f"{where}: {len(items[0])} and {len(items[-1])} of them")
            return type(first)(self._any(each, where) for each in zip(*items, strict=True))
        if isinstance(first, ir.Var | Tensor | ir.SharedBuffer):
            return self._thing(items, where)
        if isinstance(first, ir.Expr | ir.Stmt):
            return self._node(items, where)
        if isinstance(first, Span):
            return items[0]
        if any(i != first for i in items):
            raise Different(f"{where}: {items[0]} and {items[-1]}")
        return first

    def _node(self, items: Sequence[Any], where: str) -> Any:
        """A node with its fields."""
        first = items[self.like]
        kind = type(first)
        apart = _APART.get(kind, frozenset())
        changes = {}
        for f in dataclasses.fields(first):
            if f.name not in apart:
                values = [getattr(i, f.name) for i in items]
                changes[f.name] = self._any(values, f"{where[-80:]}/{kind.__name__}.{f.name}")
        if "name" in apart:
            changes["name"] = items[0].name
        return dataclasses.replace(first, **changes)

    def _thing(self, items: Sequence[Any], where: str) -> Any:
        """A variable, tensor or buffer, which is one and the same wherever it stands."""
        key = tuple(map(id, items))
        if key not in self.known:
            for each in key:
                if self.partners.setdefault(each, key) != key:
                    raise Different(f"{where}: {items[0].name} is two in another")
            self.known[key] = self._node(items, where)
        return self.known[key]

    # -- what becomes a parameter --------------------------------------------------------------

    def _dtype(self, items: Sequence[DType], where: str) -> DType:
        if all(i == items[0] for i in items):
            return items[0]
        plain = {BY_NAME[i.name] for i in items}
        if not (plain <= _FLOATS or plain <= _INDICES):
            raise Different(f"{where}: {items[0]} and {items[-1]}")
        key = tuple(items)
        like = items[self.like]
        if key not in self.types:
            name = self.names.get(key, f"T{len(self.types)}" if self.types else "T")
            self.types[key] = TypeParam(
                name, like.torch, like.category, like.bits, like.signed, values=key
            )
        return self.types[key]

    def _number(self, items: Sequence[int], where: str) -> int:
        if not any(isinstance(i, Named) for i in items):
            if any(i != items[0] for i in items):
                raise Different(f"{where}: {items[0]} and {items[-1]}")
            return items[0]
        like = items[self.like]
        try:
            formula = self._formula([formula_of(i) for i in items], where)
        except Different:
            if any(i != items[0] for i in items):
                raise
            return int(like)
        assert evaluate(formula) == like
        if isinstance(formula, Number):
            return int(like)
        return Named(int(like), formula, is_open=any(map(is_open, items)))

    def _formula(self, items: Sequence[Formula], where: str) -> Formula:
        first = items[self.like]
        if any(type(i) is not type(first) for i in items):
            raise Different(f"{where}: numbers come about in different ways")
        match first:
            case Number():
                if any(i != first for i in items):
                    raise Different(f"{where}: {items[0]} and {items[-1]}")
                return first
            case BytesOf():
                return BytesOf(self._dtype([i.dtype for i in items], where))  # type: ignore[attr-defined]
            case Operation(symbol=symbol, exact=exact):
                if any((i.symbol, i.exact) != (symbol, exact) for i in items):  # type: ignore[attr-defined]
                    raise Different(f"{where}: numbers come about in different ways")
                lhs = self._formula([i.lhs for i in items], where)  # type: ignore[attr-defined]
                rhs = self._formula([i.rhs for i in items], where)  # type: ignore[attr-defined]
                return Operation(symbol, lhs, rhs, exact)
            case Constant():
                return self._constant(items, where)  # type: ignore[arg-type]
        raise TypeError(type(first).__name__)

    def _constant(self, items: Sequence[Constant], where: str) -> Constant:
        like = items[self.like]
        if any(i.name != like.name for i in items):
            raise Different(f"{where}: {items[0].name} and {items[-1].name}")
        definition = None
        if all(i.definition is not None for i in items):
            try:
                definition = self._formula([i.definition for i in items if i.definition], where)
            except Different:
                definition = None
        if definition is not None or all(i.value == like.value for i in items):
            return Constant(like.name, like.value, definition)
        key = tuple(items)
        if key not in self.numbers:
            values = tuple(i.value for i in items)
            self.numbers[key] = NumberParam(like.name, like.value, values=values)
        return self.numbers[key]


def _is_number(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)
