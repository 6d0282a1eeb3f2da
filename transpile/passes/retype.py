"""Signatures that differ in an element type only: the kernel of one made from that of the other.

A kernel for f32 tensors lacks the casts that one for f16 has. Made from the f16 kernel it has them,
from and to a type that stands in for f16 (:class:`~transpile.ir.dtypes.StandIn`), so that a target
can write both as one text. That the two are the same program is not assumed: with the casts taken
away, the f16 kernel has to be the f32 kernel, operation by operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transpile.ir import ir
from transpile.ir.dtypes import F32, I32, I64, DType, StandIn
from transpile.ir.printer import format_kernel
from transpile.passes.simplify import simplify


def like(kernel: ir.Kernel, narrow: ir.Kernel) -> ir.Kernel | None:
    """``kernel`` as it is written for the narrower element types of ``narrow``, another signature
    of the same source; None where they are different programs."""
    types = _types(kernel, narrow)
    if not types or _text(retyped(narrow, types)) != _text(kernel):
        return None
    standing = {old: _standing_in(new, old) for old, new in types.items()}
    made = retyped(narrow, standing)
    return dataclasses.replace(
        kernel, phases=made.phases, tensors=made.tensors, scalars=made.scalars, blocks=made.blocks
    )


def _types(kernel: ir.Kernel, narrow: ir.Kernel) -> dict[DType, DType] | None:
    """The f32 in ``kernel`` for each narrower type, and the other type of indices; None where that
    is not what differs."""
    if len(kernel.tensors) != len(narrow.tensors):
        return None
    found: dict[DType, DType] = {}
    for mine, theirs in zip(kernel.tensors, narrow.tensors, strict=True):
        if mine.dtype != theirs.dtype:
            floats = mine.dtype == F32 and theirs.dtype.is_half
            if not floats and {mine.dtype, theirs.dtype} != {I32, I64}:
                return None
            found[theirs.dtype] = mine.dtype
    return found


def _standing_in(dtype: DType, of: DType) -> StandIn:
    return StandIn(dtype.name, dtype.torch, dtype.category, dtype.bits, dtype.signed, of)


def _text(kernel: ir.Kernel) -> str:
    plain = dataclasses.replace(simplify(kernel), signature="", relations=())
    return f"{format_kernel(plain)}{sorted(map(str, kernel.multiple_of.items()))}"


def retyped(kernel: ir.Kernel, types: Mapping[DType, DType]) -> ir.Kernel:
    """The kernel with other element types."""
    made: ir.Kernel = _Retyper(types).of(kernel)
    return made


class _Retyper:
    def __init__(self, types: Mapping[DType, DType]) -> None:
        self.types = types
        self.known: dict[int, tuple[Any, Any]] = {}  # by identity: values, tensors, blocks

    def of(self, item: Any) -> Any:
        """Anything in a kernel, with other element types in it."""
        if isinstance(item, DType):
            return self.types.get(item, item)
        if isinstance(item, list | tuple):
            return self._sequence(item)
        if isinstance(item, dict):
            return {self.of(key): self.of(value) for key, value in item.items()}
        if not dataclasses.is_dataclass(item) or not _is_of_ir(item):
            return item
        if id(item) not in self.known:
            self.known[id(item)] = item, self._node(item)
        return self.known[id(item)][1]

    def _sequence(self, items: Any) -> Any:
        parts = [self.of(i) for i in items]
        if all(a is b for a, b in zip(parts, items, strict=True)):
            return items
        return type(items)(parts)

    def _node(self, item: Any) -> Any:
        fields = [f for f in dataclasses.fields(item) if f.init]
        changes = {f.name: self.of(getattr(item, f.name)) for f in fields}
        if all(new is getattr(item, name) for name, new in changes.items()):
            return item
        return dataclasses.replace(item, **changes)


def _is_of_ir(item: object) -> bool:
    return type(item).__module__ == ir.__name__ and not isinstance(item, ir.Span)
