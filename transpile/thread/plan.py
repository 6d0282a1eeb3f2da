"""Chooses the distribution of every axis of a phase, from block sizes and how memory is accessed.

Axes that occur together in some tile get threads of their own; axes that never meet share them.
The axis along which memory is contiguous gets the lowest part of the thread's number and vectors;
what is more than the threads can take becomes registers, so any block size is legal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import entry_axes, index_shape, reshape_groups, walk
from transpile.thread.dot_fit import staged_bytes
from transpile.thread.dot_plan import Products, plan_products
from transpile.thread.layout import Axis, Digit, Digits, Layout, spread
from transpile.thread.limits import Limits
from transpile.thread.named import named, rounded_up

_FEW = 16  # elements of the largest tile that a thread should hold at most, if threads are left
_GROUP = 256  # threads that are enough where each holds few elements

Key = tuple[Size, int]
"""A size, and the how-manyth axis of that size in a tile it is."""


@dataclass(frozen=True, slots=True)
class Split:
    """An axis that a reshape takes apart, or puts together: the major part, and the minor one of
    ``count`` elements, which one thread holds all of."""

    major: Key
    minor: Key
    count: int


@dataclass(eq=False)
class Plan:
    """The distributions of a phase. ``layouts`` are those of values that do not follow their
    axes' usual ones (fragments)."""

    threads: int
    simd: int
    extents: Mapping[Size, int]
    digits: Mapping[Key, Digits]
    capacities: tuple[tuple[Size, int], ...]
    layouts: dict[ir.Value, Layout] = field(default_factory=dict)
    products: Products = field(default_factory=Products)
    splits: Mapping[Key, Split] = field(default_factory=dict)

    def layout(self, shape: Iterable[Size]) -> Layout:
        """The usual layout of tiles of this shape."""
        return Layout(tuple(self.digits.get(key, ()) for key in keys_of(shape)))

    def of(self, value: ir.Value) -> Layout:
        """The layout that the value is computed in."""
        return self.layouts.get(value) or self.layout(value.shape)


def keys_of(shape: Iterable[Size]) -> tuple[Key, ...]:
    """The axes of a shape; equal sizes are told apart by how often they came before."""
    seen: dict[Size, int] = {}
    keys = []
    for size in shape:
        keys.append((size, seen.get(size, 0)))
        seen[size] = seen.get(size, 0) + 1
    return tuple(keys)


def make_plan(
    kernel: ir.Kernel,
    phase: ir.Phase,
    blocks: Mapping[Sym, int],
    config: Mapping[str, Any],
    limits: Limits,
    capacities: Mapping[Size, int],
) -> Plan:
    """Distribute the axes of one phase. Raises KtError KT0605 where a tile is too large."""
    planner = _Planner(kernel, phase, blocks, config, limits, capacities)
    plan = planner.plan()
    planner.check(plan)
    return plan


def crowded(
    kernel: ir.Kernel,
    phase: ir.Phase,
    blocks: Mapping[Sym, int],
    config: Mapping[str, Any],
    limits: Limits,
) -> tuple[Size, ...] | None:
    """The shape of a tile that does not fit in registers, if there is one."""
    planner = _Planner(kernel, phase, blocks, config, limits, {})
    found = planner.crowded(planner.plan())
    return None if found is None else found[0].shape


@dataclass(eq=False)
class _AxisUse:
    """What is known of an axis before it is distributed."""

    key: Key
    extent: int
    vector: int = 1  # widest access along it, 1 if memory is not contiguous along it
    traffic: int = 0  # elements that accesses contiguous along it touch
    scanned: bool = False
    paired: bool = False  # the axis of a join or split: two registers
    meets: set[Key] = field(default_factory=set)
    threads: int = 1
    whole: Key | None = None  # the axis of which it is the major part


class _Planner:
    def __init__(
        self,
        kernel: ir.Kernel,
        phase: ir.Phase,
        blocks: Mapping[Sym, int],
        config: Mapping[str, Any],
        limits: Limits,
        capacities: Mapping[Size, int],
    ) -> None:
        self.kernel, self.phase, self.blocks = kernel, phase, blocks
        self.config, self.limits, self.capacities = config, limits, capacities
        self.rows: dict[Size, int] = {}
        self.axes: dict[Key, _AxisUse] = {}
        self.shapes: dict[tuple[Size, ...], ir.Span | None] = {}
        self.splits: dict[Key, Split] = {}
        self.products = self._products()
        self._collect()

    # -- what the phase does with its axes -----------------------------------------------------

    def _collect(self) -> None:
        for op in walk(self.phase.body):
            if self._has_layout(op):
                continue
            for shape in _shapes(op):
                self._shape(shape, op.span)
            if isinstance(op, ir.Load | ir.Store | ir.Atomic):
                self._access(op)
            elif isinstance(op, ir.Scan):
                self._use(op.values[0].shape, op.dim).scanned = True
            elif isinstance(op, ir.Join):
                self._use(op.result.shape, -1).paired = True
            elif isinstance(op, ir.Split):
                self._use(op.value.shape, -1).paired = True
            elif isinstance(op, ir.Reshape):
                self._reshape(op)

    def _has_layout(self, op: ir.Op) -> bool:
        """Whether the distribution of what the operation handles follows from a product."""
        known = self.products.layouts
        if isinstance(op, ir.Store | ir.Atomic):
            return op.value in known and op.value.shape == index_shape(op.index)
        return bool(op.results) and all(r in known for r in op.results)

    def _reshape(self, op: ir.Reshape) -> None:
        """Notes axes that come apart into two, the last one small, or the reverse."""
        self._shape(op.value.shape, op.span)
        self._shape(op.result.shape, op.span)
        old, new = keys_of(op.value.shape), keys_of(op.result.shape)
        for mine, theirs in reshape_groups(op.value.shape, op.result.shape):
            pairs = ((old, mine, new, theirs), (new, theirs, old, mine))
            for one, (whole, *more), other, parts in pairs:
                if not more and len(parts) == 2:
                    self._split(one[whole], other[parts[0]], other[parts[1]])

    def _split(self, whole: Key, major: Key, minor: Key) -> None:
        count = minor[0].as_int() or 0
        known = self.splits.get(whole)
        uses = [self.axes[k] for k in (whole, major)]
        if known is not None or count not in (2, 4) or any(u.scanned for u in uses):
            return
        if any(major in (s.major, w) or whole == s.major for w, s in self.splits.items()):
            return
        self.splits[whole] = Split(major, minor, count)
        self.axes[major].whole = whole
        self.axes[minor].paired = True
        self.axes[whole].meets |= self.axes[major].meets - {minor}

    def _shape(self, shape: tuple[Size, ...], span: ir.Span | None) -> None:
        if shape in self.shapes:
            return
        self.shapes[shape] = span
        keys = [k for k in keys_of(shape) if k[0] != ONE]
        for key in keys:
            use = self.axes.setdefault(key, _AxisUse(key, self._extent(key[0])))
            use.meets.update(k for k in keys if k != key)

    def _extent(self, size: Size) -> int:
        number = size.substitute(self.blocks).as_int()
        if number is not None:
            return max(1, number)
        self.rows[size] = self.capacities.get(size, self.limits.row)
        return self.rows[size]

    def _use(self, shape: tuple[Size, ...], dim: int) -> _AxisUse:
        key = keys_of(shape)[dim]
        return self.axes.get(key) or _AxisUse(key, 1)

    def _access(self, op: ir.Load | ir.Store | ir.Atomic) -> None:
        keys = keys_of(index_shape(op.index))
        for entry, dims, stride in zip(
            op.index, entry_axes(op.index), op.tensor.strides, strict=True
        ):
            if stride != ONE or not dims or keys[dims[-1]] not in self.axes:
                continue
            use = self.axes[keys[dims[-1]]]
            width = 1
            if isinstance(entry, ir.AtTile | ir.AtSlice) and not op.tensor.dtype.is_bool:
                width = self.limits.vector_bytes * 8 // max(8, op.tensor.dtype.bits)
                width = min(width, self.limits.vector_elements)
            use.vector = max(1, min(width, use.vector if use.vector > 1 else width))
            use.traffic += self._elements(index_shape(op.index))

    # -- the distribution ----------------------------------------------------------------------

    def plan(self) -> Plan:
        self._vectors()
        products = self.products
        threads = products.threads or self._threads()
        strides = self._place(threads)
        ranks = self._ranks()
        digits = {}
        for key, use in self.axes.items():
            axis = Axis(key[0], key[1], ranks[key])
            digits[key] = self._digits(axis, use, strides.get(key, 1))
        for whole in self.splits:
            self._split_digits(whole, digits)
        capacities = tuple((size, self._room(size, digits)) for size in self.rows)
        used = max((d.stride * d.count for v in digits.values() for d in v), default=1)
        fixed = products.threads or self._asked()
        threads = max(self.limits.simd, threads if fixed else used)
        plan = Plan(
            threads,
            self.limits.simd,
            {u.key[0]: u.extent for u in self.axes.values()},
            digits,
            capacities,
            products.layouts,
            products,
            self.splits,
        )
        return plan

    def _room(self, size: Size, digits: Mapping[Key, Digits]) -> int:
        """The longest value of a run-time dimension that all its tiles have room for."""
        rooms = (prod(d.count for d in v) for k, v in digits.items() if k[0] == size)
        return min([self.rows[size], *rooms])

    def _products(self) -> Products:
        """The phase's products, whose results decide how many threads there are."""
        threads = self._asked()
        groups = None if threads is None else threads // self.limits.simd
        products = plan_products(self.phase.body, self._extent, groups, self.limits)
        asked = self.config.get("num_stages") or 1
        room = self.limits.shared_bytes // max(1, staged_bytes(products))
        products.stages = max(1, min(asked, room))
        return products

    def _vectors(self) -> None:
        """Vectors divide the axis's length, and a tile has them along one axis only."""
        for use in sorted(self.axes.values(), key=lambda u: -u.traffic):
            while use.extent % use.vector and use.key[0] not in self.rows:
                use.vector //= 2
            if use.vector > 1:
                for key in use.meets:
                    self.axes[key].vector = 1
        for whole, split in self.splits.items():
            use = self.axes[whole]
            use.vector = max(use.vector, split.count)
            self.axes[split.major].vector = use.vector // split.count

    def _split_digits(self, whole: Key, digits: dict[Key, Digits]) -> None:
        """The digits of an axis that is split, and of its parts: the same threads and loops."""
        split = self.splits[whole]
        found: list[Digit] = []
        major: list[Digit] = []
        axis = Axis(*split.major, rank=digits[whole][0].axis.rank)
        for digit in digits[whole]:
            if not digit.vector:
                found.append(digit)
                twin = None if digit.of_thread else digit
                weight = digit.weight // split.count
                major.append(Digit(axis, digit.count, weight, digit.stride, twin=twin))
                continue
            rest = Digit(digit.axis, digit.count // split.count, split.count, vector=True)
            last = Digit(digit.axis, split.count, 1, vector=True, pair=True)
            if rest.count > 1:
                found.append(rest)
                major.append(Digit(axis, rest.count, 1, vector=True, twin=rest))
            found.append(last)
            minor = Axis(*split.minor, rank=axis.rank)
            digits[split.minor] = (Digit(minor, split.count, 1, vector=True, pair=True, twin=last),)
        digits[whole], digits[split.major] = tuple(found), tuple(major)

    def _digits(self, axis: Axis, use: _AxisUse, stride: int) -> Digits:
        if use.paired and use.threads == 1:
            return (Digit(axis, use.extent, 1, vector=use.vector == use.extent, pair=True),)
        registers = rounded_up(use.extent, use.threads * use.vector)
        if use.key[0] in self.rows and self.limits.uniform:
            reads = named(registers * use.vector, self._reads(use.key), is_open=True)
            registers = reads // use.vector
        return spread(axis, use.threads, stride, registers, use.vector)

    def _reads(self, key: Key) -> str:
        """What the number of elements is called that a thread holds of a row."""
        rows = [k for k in self.axes if k[0] in self.rows]
        sym = key[0].as_sym()
        return "N_READS" if len(rows) == 1 or sym is None else f"{sym.name.upper()}_READS"

    def _asked(self) -> int | None:
        """Threads that the config asks for."""
        given = self.config.get("num_threads")
        if given is not None:
            return prod(given) if isinstance(given, list | tuple) else int(given)
        warps = self.config.get("num_warps")
        return None if warps is None else int(warps) * self.limits.simd

    def _threads(self) -> int:
        """Threads of a group: what the config says, else enough for the largest tile."""
        asked = self._asked()
        if asked is not None:
            return named(self._checked(asked), "THREADS")
        largest = max((self._elements(shape) for shape in self.shapes), default=1)
        vector = max((u.vector for u in self.axes.values()), default=1)
        threads = self.limits.simd
        while threads * 2 <= min(self.limits.max_threads, largest // vector) and (
            threads < _GROUP or largest // threads > _FEW
        ):
            threads *= 2
        return named(threads, "THREADS")

    def _checked(self, asked: int) -> int:
        low, high = self.limits.simd, self.limits.max_threads
        if low <= asked <= high and asked & (asked - 1) == 0:
            return asked
        raise error(
            "KT0211", f"{asked} threads: expected a power of two from {low} to {high}",
            self.kernel.span, why=f"that is the size of a group of the {self.limits.name} target",
            remedy="change `num_threads` or `num_warps`",
        )  # fmt: skip

    def _elements(self, shape: tuple[Size, ...]) -> int:
        return prod(self.axes[k].extent for k in keys_of(shape) if k in self.axes)

    def _place(self, threads: int) -> dict[Key, int]:
        """Gives each axis its threads; the strides of their numbers."""
        strides: dict[Key, int] = {}
        for key in self._priority():
            use = self.axes[key]
            if (use.paired and use.extent <= 4) or use.whole is not None:
                continue
            wanted = min(threads, _power(use.extent // use.vector))
            taken = [(strides[k], self.axes[k].threads) for k in use.meets if k in strides]
            stride, room = _free(taken, threads)
            use.threads = max(1, min(wanted, room))
            if use.threads > 1:
                strides[key] = stride
            if key in self.splits:
                self.axes[self.splits[key].major].threads = use.threads
                strides[self.splits[key].major] = stride
        return strides

    def _priority(self) -> list[Key]:
        """Axes in the order in which they take threads: those along contiguous memory, scanned
        ones, then by the size of the tiles they are in."""

        def weight(key: Key) -> tuple[bool, bool, int, int]:
            use = self.axes[key]
            tile = max(self._elements(s) for s in self.shapes if key in keys_of(s))
            return use.vector == 1, not use.scanned, -tile, -use.extent

        return sorted(self.axes, key=weight)

    def _ranks(self) -> dict[Key, int]:
        """Loop order: the axis along contiguous memory is innermost, else as in the shapes."""
        order = {key: number for number, key in enumerate(self.axes)}
        keys = sorted(self.axes, key=lambda k: (self.axes[k].vector > 1, order[k]))
        return {key: number for number, key in enumerate(keys)}

    def crowded(self, plan: Plan) -> tuple[ir.Value, ir.Span | None] | None:
        """A tile of which a thread would hold more elements than it may, and where it is."""
        for op in walk(self.phase.body):
            for value in op.results:
                tile = isinstance(value.type, ir.TileType)
                if tile and plan.of(value).elements > self.limits.registers:
                    return value, op.span
        return None

    def check(self, plan: Plan) -> None:
        """KT0605 for the first such tile."""
        found = self.crowded(plan)
        if found is None:
            return
        value, span = found
        held = plan.of(value).elements
        sizes = " x ".join(str(self._extent(size)) for size in value.shape)
        raise error(
            "KT0605", f"a tile of {sizes} elements does not fit in registers", span,
            why=f"each of {plan.threads} threads would hold {held} elements, more than "
            f"{self.limits.registers}",
            remedy="use smaller `block_sizes` or `reduction_loops`",
        )  # fmt: skip


def _shapes(op: ir.Op) -> Iterator[tuple[Size, ...]]:
    for result in op.results:
        if isinstance(result.type, ir.TileType):
            yield result.shape
    if isinstance(op, ir.Store | ir.Atomic):
        yield index_shape(op.index)
    if isinstance(op, ir.ForTile):
        yield (Size.of(op.block),)


def _power(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def _free(taken: list[tuple[int, int]], threads: int) -> tuple[int, int]:
    """The largest run of the thread's number that none of the ``(stride, count)`` use."""
    best = (threads, 1)
    at = 1
    for stride, count in sorted(set(taken)):
        if stride > at and stride // at > best[1]:
            best = (at, stride // at)
        at = max(at, stride * count)
    if at < threads and threads // at > best[1]:
        best = (at, threads // at)
    return best
