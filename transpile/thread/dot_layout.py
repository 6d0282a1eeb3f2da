"""Distributions of matrix products: accumulators and operands of a target's matrix instructions,
and the copies that stage operands in shared memory.

A target describes its instruction by a :class:`MatrixUnit`: for each of the three matrices, which
lane holds which element in which component. Tiles are grids of such matrices. Along one side of a
tile, SIMD groups take turns matrix by matrix, and what is left are registers::

    position = (edge * groups) * t + edge * g + (position within the matrix)

so a fragment is a :class:`~transpile.thread.layout.Layout` like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from transpile.ir.dtypes import BY_NAME, DType, StandIn
from transpile.thread.ir import FragmentShape, Part
from transpile.thread.layout import Axis, Digit, Digits, Layout
from transpile.thread.named import Named, is_open, named, rounded_up, several

VECTOR_BYTES = 16  # that are copied together


@dataclass(frozen=True, slots=True)
class MatrixMap:
    """Which lane holds which element of a matrix of ``rows`` x ``cols``; most significant first."""

    rows: tuple[Part, ...]
    cols: tuple[Part, ...]

    @property
    def shape(self) -> FragmentShape:
        """Rows, columns and components of a lane."""
        own = prod(p.count for p in (*self.rows, *self.cols) if p.stride == 0)
        return FragmentShape(_extent(self.rows), _extent(self.cols), own, self.rows, self.cols)


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """A target's product of small matrices, ``acc[m, n] += lhs[m, k] @ rhs[k, n]``, by the lanes of
    a SIMD group. ``types`` are the (operand, accumulator) dtypes that it takes; an operand of a
    dtype in ``widened`` is converted, exactly, to the one given there."""

    lhs: MatrixMap
    rhs: MatrixMap
    acc: MatrixMap
    types: frozenset[tuple[DType, DType]]
    widened: tuple[tuple[DType, DType], ...] = ()

    @property
    def m(self) -> int:
        return _extent(self.acc.rows)

    @property
    def n(self) -> int:
        return _extent(self.acc.cols)

    @property
    def k(self) -> int:
        return _extent(self.lhs.cols)

    def operand(self, dtype: DType, acc: DType) -> DType | None:
        """The dtype in which operands are multiplied, None if the unit has no such product."""
        taken = dict(self.widened).get(dtype, dtype)
        plain = BY_NAME[taken.name] if isinstance(taken, StandIn) else taken
        return taken if (plain, acc) in self.types else None


def _extent(parts: Sequence[Part]) -> int:
    return prod(p.count for p in parts)


def side(
    axis: Axis, extent: int, parts: Sequence[Part], groups: int = 1, stride: int = 0,
    name: str = "",
) -> Digits:  # fmt: skip
    """Digits of one side of a tile of matrices: ``groups`` SIMD groups share it, whose threads'
    numbers are ``stride`` apart. It has room for ``extent`` elements or a little more. ``name`` is
    what the number of matrices of one group is called."""
    edge = _extent(parts)
    registers = rounded_up(extent, edge * groups)
    if name and isinstance(registers, Named):
        registers = named(registers, name, registers, is_open=registers.open)
    digits = [Digit(axis, registers, edge * groups), Digit(axis, groups, edge, stride)]
    digits += [Digit(axis, p.count, p.weight, p.stride, vector=p.stride == 0) for p in parts]
    return tuple(d for d in digits if several(d.count))


@dataclass(frozen=True, slots=True)
class SimdGrid:
    """How the SIMD groups of a group divide a product's result: ``rows`` x ``cols`` of them,
    neighbours along the columns first."""

    rows: int
    cols: int

    @property
    def groups(self) -> int:
        return self.rows * self.cols


def choose_grid(
    m: int, n: int, groups: int, unit: MatrixUnit, *, whole_rows: bool = False
) -> SimdGrid:
    """The grid of at most ``groups`` SIMD groups for a result of ``m`` x ``n``.

    Every group gets matrices of its own; of those the one whose groups load the fewest operand
    matrices per product, the squarest. With ``whole_rows`` none shares a row with another.
    """
    rows, cols = -(-m // unit.m), -(-n // unit.n)
    best = SimdGrid(1, 1)
    for count in _powers(groups):
        fits = [
            SimdGrid(r, count // r)
            for r in _powers(count)
            if rows % r == 0 and cols % (count // r) == 0 and (r == count or not whole_rows)
        ]
        if fits:
            best = min(fits, key=lambda g: (rows // g.rows + cols // g.cols, -g.rows))
    return best


def _powers(limit: int) -> list[int]:
    return [1 << i for i in range(max(1, limit).bit_length())]


def accumulator(
    axes: tuple[Axis, Axis], extents: tuple[int, int], grid: SimdGrid, unit: MatrixUnit, simd: int
) -> tuple[Digits, Digits]:
    """Rows and columns of a product's result."""
    return (
        side(axes[0], extents[0], unit.acc.rows, grid.rows, simd * grid.cols, _tiles(axes[0])),
        side(axes[1], extents[1], unit.acc.cols, grid.cols, simd, _tiles(axes[1])),
    )


def _tiles(axis: Axis) -> str:
    """What the number of matrices along an axis is called, after its block."""
    sym = axis.size.as_sym()
    return f"T{sym.name.removeprefix('BLOCK_')}" if sym is not None else ""


def register_operand(
    rows: Digits, axis: Axis, extent: int, unit: MatrixUnit
) -> tuple[Digits, Digits] | None:
    """The layout of a left operand in registers: ``rows`` as in the result, all of ``axis`` in
    every SIMD group. None where the target holds its rows otherwise than those of results."""
    parts = [Part(d.count, d.weight, d.stride) for d in rows[-len(unit.acc.rows) :]]
    if unit.lhs.rows != unit.acc.rows or tuple(parts) != unit.acc.rows:
        return None
    return rows, side(axis, extent, unit.lhs.cols)


def staging(
    axes: Sequence[Axis], extents: Sequence[int], along: int, threads: int, vector: int,
    name: str = "TILE", size: int | None = None,
) -> Layout:  # fmt: skip
    """The layout in which a tile is copied to shared memory: vectors along dimension ``along``,
    which is contiguous in memory, neighbouring threads on neighbouring vectors, all threads busy
    if the tile has work for them. Where that leaves most of them idle because the vectors of a row
    are no multiple of a power of two, there is room for more of them than there are. Numbers are
    called after ``name``; ``size`` is that of an element in bytes where it is copied as it is."""
    total = prod(extents)
    width = min(vector, _power_in(extents[along]))
    while width > 1 and total // width < threads:
        width //= 2
    if size is not None and width * size == VECTOR_BYTES:
        width = named(width, "V", VECTOR_BYTES // size, is_open=is_open(size))
    steps = [extent // (width if dim == along else 1) for dim, extent in enumerate(extents)]
    order = sorted(range(len(axes)), key=lambda d: (d != along, -d))
    shares = _shares(steps, order, threads, name)
    if 4 * prod(shares) <= threads:
        padded = list(steps)
        padded[along] = 1 << (steps[along] - 1).bit_length()
        if prod(more := _shares(padded, order, threads, name)) > prod(shares):
            steps, shares = padded, more
    digits: list[Digits] = [()] * len(axes)
    stride = 1
    for dim in order:
        vectors = width if dim == along else 1
        digits[dim] = _spread(axes[dim], steps[dim] // shares[dim], shares[dim], stride, vectors)
        stride *= shares[dim]
    return Layout(tuple(digits))


def _shares(steps: Sequence[int], order: Sequence[int], threads: int, name: str) -> list[int]:
    """How many threads divide the steps of each dimension, without rest; ``order`` by turns. The
    numbers are called after ``name``."""
    shares = [1] * len(steps)
    for dim in order:
        own = min(threads // prod(shares), _power_in(steps[dim]))
        if isinstance(own, Named):
            own = named(
                own, f"{name}_{'COLS' if dim == order[0] else 'ROWS'}", own, is_open=own.open
            )
        shares[dim] = own
    return shares


def _spread(axis: Axis, registers: int, threads: int, stride: int, vector: int) -> Digits:
    parts = (
        Digit(axis, registers, threads * vector),
        Digit(axis, threads, vector, stride),
        Digit(axis, vector, 1, vector=True),
    )
    return tuple(d for d in parts if several(d.count))


def _power_in(number: int) -> int:
    """The largest power of two that divides ``number``."""
    power = number & -number
    return number if number == power else power
