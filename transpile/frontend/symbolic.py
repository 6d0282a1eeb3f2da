"""Symbolic integers on the host: shapes of unknown rank, comparisons, constants."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from transpile.frontend.values import (
    Gone,
    HostNumber,
    HostTensor,
    NeedFact,
    Opaque,
    Scalar,
)
from transpile.ir import ir
from transpile.ir.sizes import Size


class HostShape(tuple[Any, ...]):  # noqa: SLOT001
    """``x.size()`` of a tensor whose rank may not be known yet."""

    # tuple subclasses cannot have nonempty slots, and the tensor must come along.
    tensor: HostTensor

    @staticmethod
    def of(tensor: HostTensor) -> HostShape:
        dims = () if tensor.shape is None else tuple(simplified(d) for d in tensor.shape)
        shape = HostShape(dims)
        shape.tensor = tensor
        return shape

    def require(self, index: int | slice) -> None:
        """An entry is read: the rank must be known, and is a guess until something fixes it."""
        tensor = self.tensor
        name = tensor.origin or tensor.param or "?"
        if not isinstance(index, int):
            if tensor.shape is None:
                raise NeedFact(name)
            return
        least = index + 1 if index >= 0 else -index
        if tensor.shape is None or (tensor.guessed and least > len(self)):
            raise NeedFact(name, rank=least if least > 2 else None, at_least=True)

    def unpacked(self, count: int | None) -> tuple[Any, ...]:
        """The entries; ``count`` is the number of names, a fact about the rank."""
        if self.tensor.shape is None:
            raise NeedFact(self.tensor.origin or self.tensor.param or "?", rank=count)
        if self.tensor.guessed and count is not None and count != len(self):
            raise NeedFact(self.tensor.param or "?", rank=count)
        return tuple(self)


def simplified(x: Any) -> Any:
    """A constant Size as a plain int."""
    if isinstance(x, Size) and (number := x.as_int()) is not None:
        return number
    return x


def has_unknown(x: Any) -> bool:
    """True if ``x`` holds anything that only the run time knows."""
    if isinstance(x, (tuple, list)):
        return any(has_unknown(i) for i in x)
    return isinstance(x, (Opaque, HostNumber, Size, Scalar, ir.Value, HostTensor, Gone))


def compare_sizes(name: str, left: Size, right: Size) -> bool | None:
    """Compile-time comparison of symbolic integers, None when it is not decided."""
    difference = left - right
    number = difference.as_int()
    if number is not None:
        truth = COMPARE_INT[name](number, 0)
        return bool(truth)
    if name in ("lt", "ge") and difference.non_negative:
        return name == "ge"
    if name in ("gt", "le") and (-difference).non_negative:
        return name == "le"
    return None


COMPARE_INT: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
