"""Loads, stores and atomics of the reference interpreter, with bounds checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from transpile.ir.reference.numerics import elementwise


class AccessError(Exception):
    """A lane that is in range for its guards addresses memory outside the tensor."""


@dataclass
class Place:
    """Where an access goes: one int64 index tile per dimension, and the lanes that take part.

    Index tiles and ``lanes`` broadcast to ``shape``.
    """

    tensor: Tensor
    index: list[Tensor]
    lanes: Tensor
    shape: tuple[int, ...]

    def check(self) -> None:
        """Raise :class:`AccessError` if a lane that takes part is out of bounds."""
        for dim, index in enumerate(self.index):
            size = self.tensor.shape[dim]
            if index.numel() and int(index.min()) >= 0 and int(index.max()) < size:
                continue
            wrong = ((index < 0) | (index >= size)) & self.lanes
            if wrong.any():
                value = int(torch.broadcast_to(index, wrong.shape)[wrong][0])
                raise AccessError(f"index {value} in dimension {dim} of size {size}")

    def _selected(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The flat list of lanes that take part: a mask over ``shape``, an index per dimension."""
        lanes = torch.broadcast_to(self.lanes, self.shape)
        return lanes, tuple(torch.broadcast_to(i, self.shape)[lanes] for i in self.index)

    def load(self) -> Tensor:
        if self.shape and bool(self.lanes.all()):
            whole = _bits(self.tensor)[tuple(self.index)].view(self.tensor.dtype)
            return torch.broadcast_to(whole, self.shape)
        result = torch.zeros(self.shape, dtype=self.tensor.dtype)
        if not self.shape:
            if bool(self.lanes):
                result = self.tensor[tuple(int(i) for i in self.index)].clone()
            return result
        lanes, index = self._selected()
        _bits(result)[lanes] = _bits(self.tensor)[index]
        return result

    def store(self, value: Tensor) -> None:
        lanes, index = self._selected()
        if not index:  # a tensor of rank 0
            index = (lanes,)
        _bits(self.tensor)[index] = torch.broadcast_to(_bits(value), self.shape)[lanes]

    def atomic(self, update: Callable[[Tensor, Tensor], Tensor], *operands: Tensor) -> Tensor:
        """Apply ``update(old, operands...)`` lane by lane; the result is the old values."""
        old = torch.zeros(self.shape, dtype=self.tensor.dtype)
        lanes, index = self._selected()
        index = index or (lanes,)
        picked = [torch.broadcast_to(o, self.shape)[lanes] for o in operands]
        if self._distinct(index):
            before = self.tensor[index]
            self.tensor[index] = update(before, *picked)
            old[lanes] = before
            return old
        befores = []
        for lane in range(int(lanes.sum())):
            at = tuple(i[lane] for i in index)
            befores.append(self.tensor[at].clone())
            self.tensor[at] = update(befores[-1], *(p[lane] for p in picked))
        old[lanes] = torch.stack(befores)
        return old

    def _distinct(self, index: tuple[Tensor, ...]) -> bool:
        """Whether no element is addressed twice."""
        if index[0].dtype is torch.bool:  # the one element of a tensor of rank 0
            return True
        flat = torch.zeros_like(index[0])
        for dim, entry in enumerate(index):
            flat = flat * self.tensor.shape[dim] + entry
        return bool(flat.unique().numel() == flat.numel())


def _bits(tensor: Tensor) -> Tensor:
    """8-bit floats and wide unsigned integers as integers that torch can index."""
    stand_in = _STAND_INS.get(tensor.dtype)
    return tensor if stand_in is None else tensor.view(stand_in)


_STAND_INS = {
    torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8, torch.uint16: torch.int16,
    torch.uint32: torch.int32, torch.uint64: torch.int64,
}  # fmt: skip


_NAMES = {"add": "add", "and": "and", "or": "or", "xor": "xor", "max": "maximum", "min": "minimum"}


def atomic_update(kind: str) -> Callable[..., Tensor]:
    """The function ``new = update(old, value[, expected])`` of an atomic."""
    if kind == "xchg":
        return lambda _, value: value
    if kind == "cas":
        return lambda old, value, expected: torch.where(old == expected, value, old)
    return lambda old, value: elementwise(_NAMES[kind], (old, value))
