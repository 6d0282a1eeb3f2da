"""Distributions: which thread holds which element of a tile, and in which of its registers.

The position along an axis is a sum of digits, ``position = sum(weight * digit)``. A digit is either
a register digit, which a lane loop counts, or a thread digit, a part of the thread's number:
``(thread // stride) % count``. Everything else follows: broadcasting is not to look at an axis's
digits; a reduction over an axis is a loop over its register digits, a lane reduction over its
thread digits within a SIMD group, and shared memory over those beyond; the parts of the thread's
number that no digit uses are replicas.

The usual distribution of an axis over T threads with E elements each, vectors of V::

    position = (T * V) * r + V * t + v        r < E / V, t < T, v < V

so neighbouring threads hold neighbouring vectors. A matrix fragment is no different: Metal's 8x8
one gives lane l row ``4 * (l // 16) + (l // 2) % 4`` and columns ``4 * (l // 8 % 2) + 2 * (l % 2)``
and the next, which are two thread digits per axis and a register digit of count 2 (the component).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from transpile.ir.sizes import Size
from transpile.thread.ir import Apply, Expr, Id, Var, add, integer, mul
from transpile.thread.named import is_open, same, several


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of tiles. Equal sizes are one axis; a tile with two axes of one size has both
    ``occurrence`` 0 and 1 of it. Loops over registers nest by ``rank``, the lowest outermost."""

    size: Size
    occurrence: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Digit:
    """A part of the position along ``axis``: 0 .. count - 1, each step worth ``weight``.

    A register digit has ``stride`` 0; ``vector`` marks the one that counts the components of
    vectors (or of fragments), ``pair`` one of which code is written out for each value (the halves
    of a split). A thread digit is ``(thread // stride) % count``. ``twin`` is the digit of another
    axis that the same lane loop counts: an axis that a reshape splits, and its parts.
    """

    axis: Axis
    count: int
    weight: int
    stride: int = 0
    vector: bool = False
    pair: bool = False
    twin: Digit | None = None

    @property
    def loop(self) -> Digit:
        """The digit under which lane loops know it."""
        return self.twin or self

    @property
    def of_thread(self) -> bool:
        return self.stride > 0

    @property
    def inner(self) -> bool:
        """Whether loops over it are within those over other digits, around single statements."""
        return self.vector or self.pair


Digits = tuple[Digit, ...]
"""The digits of one axis of a tile, the most significant first; () for an axis of one element."""


def loop_order(digit: Digit) -> tuple[int, int, int]:
    """Sorts register digits from the outermost lane loop to the innermost."""
    return digit.pair + 2 * digit.vector, digit.axis.rank, -digit.weight


@dataclass(frozen=True)
class Layout:
    """The distribution of a tile: digits for each of its axes."""

    axes: tuple[Digits, ...] = ()

    @cached_property
    def registers(self) -> Digits:
        """The register digits in the order in which lane loops nest; the vector's comes last."""
        found = (d for digits in self.axes for d in digits if not d.of_thread)
        return tuple(sorted(dict.fromkeys(found), key=loop_order))

    @cached_property
    def threads(self) -> Digits:
        """The thread digits of all axes."""
        return tuple(d for digits in self.axes for d in digits if d.of_thread)

    @property
    def extents(self) -> tuple[int, ...]:
        """Elements that each axis has room for."""
        return tuple(prod(d.count for d in digits) for digits in self.axes)

    @property
    def elements(self) -> int:
        """Registers that a thread needs."""
        return prod(d.count for d in self.registers)

    def without(self, dim: int) -> Layout:
        """The layout of the tile without one axis."""
        return Layout(self.axes[:dim] + self.axes[dim + 1 :])

    def dropped(self, dim: int) -> Layout:
        """The layout with one axis reduced to a single element."""
        return Layout((*self.axes[:dim], (), *self.axes[dim + 1 :]))

    def replicas(self, threads: int) -> tuple[tuple[int, int], ...]:
        """Parts ``(stride, count)`` of the thread's number that hold copies of the same elements.

        Those threads whose parts are all 0 are the elements' owners.
        """
        return uncovered(self.threads, threads)


def uncovered(digits: Iterable[Digit], threads: int) -> tuple[tuple[int, int], ...]:
    """Parts ``(stride, count)`` of the thread's number that none of the digits uses, low first."""
    gaps = []
    at = 1
    for digit in sorted(set(digits), key=lambda d: d.stride):
        if digit.stride > at:
            gaps.append((at, digit.stride // at))
        at = max(at, digit.stride * digit.count)  # open digits may count to one only
    if at < threads:
        gaps.append((at, threads // at))
    return tuple(gaps)


def thread_part(stride: int, count: int, threads: int, simd: int) -> Expr:
    """``(thread // stride) % count``, from the lane or the SIMD group where that is shorter."""
    if (is_open(stride) or is_open(count)) and stride < simd:
        base, span = Id("thread"), threads
    elif stride < simd and stride * count <= simd and threads > simd:
        base, span = Id("lane"), simd
    elif stride >= simd:
        base, span, stride = Id("simdgroup"), threads // simd, stride // simd
    else:
        base, span = Id("thread"), threads
    part: Expr = base
    if several(stride):
        part = Apply("floordiv", (part, integer(stride)), part.dtype)
    if stride * count < span or (is_open(count) and not same(count * stride, span)):
        part = Apply("mod", (part, integer(count)), part.dtype)
    return part


def thread_position(digits: Digits, threads: int, simd: int) -> Expr:
    """What the thread digits contribute to the position."""
    parts = [
        mul(thread_part(d.stride, d.count, threads, simd), d.weight)
        for d in digits
        if d.of_thread and several(d.count)
    ]
    return add(*parts) if parts else integer(0)


def register_position(digits: Digits, registers: Mapping[Digit, Expr]) -> Expr:
    """What the register digits contribute, for the lane loops' variables ``registers``."""
    parts = [mul(registers[d.loop], d.weight) for d in digits if not d.of_thread]
    return add(*parts) if parts else integer(0)


def spread(axis: Axis, threads: int, stride: int, registers: int, vector: int = 1) -> Digits:
    """The usual distribution: ``registers`` vectors of ``vector`` on each of ``threads`` threads,
    whose numbers are ``stride`` apart."""
    digits = (
        Digit(axis, registers, threads * vector),
        Digit(axis, threads, vector, stride),
        Digit(axis, vector, 1, vector=vector > 1),
    )
    return tuple(d for d in digits if several(d.count))


def lanes_of(digits: Iterable[Digit], simd: int) -> tuple[int, ...]:
    """Bits of the lane number that the thread digits use within a SIMD group."""
    bits = []
    for digit in digits:
        if digit.of_thread:
            bit = digit.stride
            while bit < digit.stride * digit.count and bit < simd:
                bits.append(bit)
                bit *= 2
    return tuple(sorted(bits))


def array_of(layout: Layout, name: str, dtype: object) -> Var:
    """A variable that holds a thread's registers of a tile with this layout."""
    digits = layout.registers
    components = prod(d.count for d in digits if d.vector)
    shape = tuple(d.count for d in digits if not d.vector)
    return Var(name, dtype, shape, components)  # type: ignore[arg-type]
