"""Plans the matrix products of a phase: by which instruction, over how many SIMD groups, and how
their results and operands are distributed.

- *Results* are tiles of matrices. SIMD groups divide them as squarely as they can, so that each
  operand matrix is loaded rarely; where a result is an operand of another product (attention), each
  SIMD group has whole rows, so that it finds in its own registers what it multiplies next.
- *Left operands* that are such results, or that no loop changes, stay in registers. All others are
  staged in shared memory, from whatever distribution they have; what is only loaded for that is
  copied by all threads along contiguous memory.
- Products that the target's matrices do not take (integers, depths of 4) are computed by plain
  threads from the staged operands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, operands, regions
from transpile.thread.dot_frames import Frames, Slot, Slots
from transpile.thread.dot_layout import (
    MatrixUnit,
    SimdGrid,
    accumulator,
    choose_grid,
    register_operand,
    staging,
)
from transpile.thread.ir import Expr, SharedBuffer
from transpile.thread.layout import Axis, Digit, Digits, Layout
from transpile.thread.limits import Limits
from transpile.thread.named import bytes_of, named, whole_times

PAD = 16  # bytes by which the rows of a buffer are further apart than they are long
_GROUPS = 4  # SIMD groups that share a result, if nothing says otherwise
_MATRICES = 32  # of results that a SIMD group holds where there are more than that
_RESIDENT = 128  # bytes of a left operand's registers that a thread keeps around a loop
_FRESH = (
    ir.Load, ir.Full, ir.TileIndex, ir.Iota, ir.Random, ir.Const, ir.SizeOf, ir.HostScalar,
    ir.TileAttr, ir.Elementwise, ir.Cast, ir.Mask, ir.Broadcast, ir.Permute,
)  # fmt: skip


@dataclass(eq=False, slots=True)
class Operand:
    """One side of a product. ``dtype`` is what is multiplied. A staged one is copied to a shared
    buffer whose rows are the operand's rows, or with ``transposed`` its columns; ``room`` is what
    the buffer holds of an operand that is loaded for it, whole matrices."""

    value: Value
    dtype: DType
    side: Literal["lhs", "rhs"]
    staged: bool = True
    transposed: bool = False
    room: tuple[int, ...] | None = None


@dataclass(eq=False, slots=True)
class Product:
    """How one :class:`~transpile.ir.ir.Dot` is computed; ``grid`` None: by plain threads."""

    op: ir.Dot
    batch: int
    m: int
    n: int
    k: int
    lhs: Operand
    rhs: Operand
    grid: SimdGrid | None = None


@dataclass(frozen=True, eq=False)
class Staged:
    """An operand in shared memory, for products of the block ``home``; with ``transposed`` the
    buffer's rows are its columns."""

    name: str
    value: Value
    home: Block
    dtype: DType
    buffer: SharedBuffer
    transposed: bool
    stage: Expr | None = None  # the leading index of the buffer

    @property
    def index(self) -> tuple[Expr, ...]:
        """The leading index, if there is one."""
        return () if self.stage is None else (self.stage,)


@dataclass(eq=False)
class Products:
    """All products of a phase, and what lowering has staged. ``threads`` is what their SIMD groups
    need, 0 if there are none; ``layouts`` are those of values that are not distributed as their
    axes usually are; ``uses`` counts how often values are used, ``homes`` are the blocks that
    define them, ``makers`` the operations; ``stages`` is how many steps of a loop buffers hold,
    ``copies`` are the digits of axes in layouts made for copying."""

    unit: MatrixUnit | None = None
    threads: int = 0
    products: dict[ir.Dot, Product] = field(default_factory=dict)
    layouts: dict[Value, Layout] = field(default_factory=dict)
    uses: dict[Value, int] = field(default_factory=dict)
    homes: dict[Value, Block] = field(default_factory=dict)
    makers: dict[Value, Op] = field(default_factory=dict)
    staged: list[Staged] = field(default_factory=list)
    stages: int = 1
    copies: set[Digits] = field(default_factory=set)


def plan_products(
    body: Block, extent: Callable[[Size], int], groups: int | None, limits: Limits
) -> Products:
    """The products of a phase with ``body``, for at most ``groups`` SIMD groups (None: as many as
    are best); ``extent`` gives the room for an axis."""
    return _Planner(body, extent, groups, limits).run()


class _Planner:
    def __init__(
        self, body: Block, extent: Callable[[Size], int], groups: int | None, limits: Limits
    ) -> None:
        self.body, self.extent, self.asked, self.groups = body, extent, groups, groups or _GROUPS
        self.limits, self.unit, self.simd = limits, limits.matrices, limits.simd
        self.frames = Frames(body)
        self.depths = _depths(body)
        self.result = Products(
            self.unit, uses=self.frames.uses, homes=_homes(body), makers=self.frames.makers
        )

    def run(self) -> Products:
        dots = [op for op in self.frames.ops if isinstance(op, ir.Dot)]
        if not dots:
            return self.result
        for op in dots:
            self.result.products[op] = self._product(op)
        matrices = self._seeded([p for p in self.result.products.values() if self._fits(p)])
        self._chain(matrices)
        if self.asked is None:
            self.groups = self._few_groups(matrices)
        for family in self._families(matrices):
            self._divide(family)
        used = max((p.grid.groups for p in matrices if p.grid), default=self.groups)
        threads = used * self.simd
        self.result.threads = named(threads, "THREADS", threads)
        for product in self.result.products.values():
            self._operands(product)
        self.frames.close()
        for value in self.frames.slots:
            slots = self.frames.of(value) or ()
            self.result.copies |= {s.digits for s in slots if s and s.kind == "copy"}
            self.result.layouts[value] = Layout(tuple(s.digits if s else () for s in slots))
        return self.result

    # -- products ------------------------------------------------------------------------------

    def _product(self, op: ir.Dot) -> Product:
        *batch, m, k = (self.extent(size) for size in op.lhs.shape)
        n = self.extent(op.rhs.shape[-1])
        taken = self.unit.operand(op.lhs.dtype, op.acc_dtype) if self.unit else None
        dtype = taken or op.lhs.dtype
        sides = (Operand(op.lhs, dtype, "lhs"), Operand(op.rhs, dtype, "rhs"))
        return Product(op, batch[0] if batch else 1, m, n, k, *sides)

    def _seeded(self, products: list[Product]) -> list[Product]:
        """Those products whose results can be tiles of matrices: where a block does not fill them,
        nothing may be reduced along their empty rows or columns, which nothing masks (the rows
        that a whole dimension lacks are masked as those of any tile are)."""
        while True:
            self.frames = Frames(self.body)
            for product in products:
                self._seed(product)
            self.frames.close()
            kept = [p for p in products if not self._reduces_padding(p)]
            if len(kept) == len(products):
                return products
            products = kept

    def _reduces_padding(self, product: Product) -> bool:
        unit, slots = self.unit, self._sides(product.op.result)
        assert unit is not None
        assert slots is not None
        edges = ((product.m, unit.m), (product.n, unit.n))
        return any(
            extent % edge and slot is not None and slot.reduced and _of_block(slot.size)
            for slot, (extent, edge) in zip(slots, edges, strict=True)
        )

    def _fits(self, product: Product) -> bool:
        """Whether the target's matrices take the product, without too many empty rows."""
        unit, op = self.unit, product.op
        if unit is None or unit.operand(op.lhs.dtype, op.acc_dtype) is None:
            return False
        if min(product.m, product.n) == 1 or product.k % unit.k:
            return False
        return max(product.m, product.n) >= min(unit.m, unit.n)

    def _seed(self, product: Product) -> None:
        shape = product.op.result.shape
        kinds = ("batch", "rows", "cols")[-len(shape) :]
        slots: Slots = tuple(
            None if size == ONE else Slot(kind, size)  # type: ignore[arg-type]
            for kind, size in zip(kinds, shape, strict=True)
        )
        self.frames.frame(product.op.result, slots)

    def _chain(self, products: list[Product]) -> None:
        """Products whose left operand is another's result take it from registers."""
        for product in products:
            lhs, own = self._sides(product.op.lhs), self._sides(product.op.result)
            if lhs is None or own is None or None in (*lhs, own[0]):
                continue
            rows, depth = lhs
            assert rows is not None
            assert depth is not None
            assert own[0] is not None
            if (rows.kind, depth.kind) == ("rows", "cols"):
                self.frames.frame(product.op.result, self._with_rows(product.op.result, rows))
                if own[0].final() is rows.final():
                    depth.whole, product.lhs.staged = True, False

    def _with_rows(self, value: Value, rows: Slot) -> Slots:
        slots = self.frames.of(value)
        assert slots is not None
        return (*slots[:-2], rows, slots[-1])

    def _sides(self, value: Value) -> tuple[Slot | None, Slot | None] | None:
        slots = self.frames.of(value)
        return None if slots is None else (slots[-2], slots[-1])

    # -- the division among SIMD groups --------------------------------------------------------

    def _families(self, products: list[Product]) -> list[list[Product]]:
        """Products whose results share rows or columns."""
        families: list[list[Product]] = []
        for product in products:
            sides = set(self._sides(product.op.result) or ()) - {None}
            akin = [f for f in families if any(sides & set(self._family_sides(f)))]
            families = [f for f in families if f not in akin]
            families.append([*(p for f in akin for p in f), product])
        return families

    def _family_sides(self, family: list[Product]) -> set[Slot | None]:
        return {s for p in family for s in self._sides(p.op.result) or ()} - {None}

    def _divide(self, family: list[Product]) -> None:
        unit = self.unit
        assert unit is not None
        whole = any(s is not None and s.whole for s in self._family_sides(family))
        grids = [choose_grid(p.m, p.n, self.groups, unit, whole_rows=whole) for p in family]
        grid = min(grids, key=lambda g: g.groups)
        uniform = self.limits.uniform and not whole
        rows = named(grid.rows, "WM", is_open=uniform) if not whole else grid.rows
        grid = SimdGrid(rows, named(grid.cols, "WN", is_open=uniform) if not whole else grid.cols)
        for product in family:
            product.grid = grid
            slots = self.frames.of(product.op.result)
            assert slots is not None
            axes = self._axes(product.op.result)
            extents = (product.m, product.n)
            digits = accumulator((axes[-2], axes[-1]), extents, grid, unit, self.simd)
            for slot, found in zip(slots[-2:], digits, strict=True):
                if slot is not None and not slot.digits:
                    slot.digits = found
            if len(slots) == 3 and slots[0] is not None and not slots[0].digits:
                slots[0].digits = (Digit(axes[0], product.batch, 1),)

    def _few_groups(self, products: list[Product]) -> int:
        """As few SIMD groups as have registers for the results, up to 32 matrices each: the larger
        a group's part, the less often operands are read. Operands of 32 bits take the registers
        that this takes, and chained products divide rows only."""
        unit = self.unit
        wide = any(p.lhs.dtype.bits > 16 for p in products)
        chained = any(s and s.whole for p in products for s in self._sides(p.op.result) or ())
        if unit is None or wide or chained:
            return _GROUPS
        blocks: dict[int, int] = {}  # the ragged end of a loop has the accumulators of the loop
        for p in products:
            home = id(self.result.homes[p.op.result])
            matrices = p.batch * -(-p.m // unit.m) * -(-p.n // unit.n)
            blocks[home] = blocks.get(home, 0) + matrices
        held = max(blocks.values(), default=0)
        if held < 2 * _MATRICES:
            return _GROUPS
        return min(held // _MATRICES, self.limits.max_threads // self.simd)

    def _axes(self, value: Value) -> list[Axis]:
        """The axes of a tile, the last ones innermost in loops over registers."""
        rank = len(value.shape)
        return [
            Axis(size, value.shape[:dim].count(size), dim - rank)
            for dim, size in enumerate(value.shape)
        ]

    # -- operands ------------------------------------------------------------------------------

    def _operands(self, product: Product) -> None:
        if product.lhs.staged and product.grid is not None:
            product.lhs.staged = not self._resident(product)
        for operand in (product.lhs, product.rhs):
            if operand.staged:
                self._stage(operand)

    def _resident(self, product: Product) -> bool:
        """Whether the left operand can be loaded into registers once, before the loops around
        the product, by every SIMD group for its rows; asks for the layout that this takes."""
        op, unit, grid = product.op, self.unit, product.grid
        assert unit is not None
        assert grid is not None
        outside = self.depths.get(op.lhs, 0) < self.depths[op.result]
        width = product.lhs.dtype.bits // 8
        bytes_held = product.m * product.k * width // (self.simd * grid.rows)
        if not outside or grid.cols > 1 or bytes_held > _RESIDENT or self._fresh(op.lhs) is None:
            return False
        slots = self.frames.of(op.result)
        assert slots is not None
        axes = self._axes(op.lhs)
        rows = slots[-2].digits if slots[-2] else ()
        found = register_operand(rows, axes[-1], product.k, unit)
        if found is None:
            return False
        depth = Slot("cols", op.lhs.shape[-1], found[1], whole=True)
        return self.frames.demand(op.lhs, (*slots[:-1], depth))

    def _stage(self, operand: Operand) -> None:
        """Decides which way round the operand's buffer is; if the operand is only loaded for it,
        asks for the layout in which it is copied."""
        value, rank = operand.value, len(operand.value.shape)
        along = self._contiguous(value)
        operand.transposed = along == rank - 2
        if value in self.frames.slots or self._fresh(value) is None:
            return
        extents = self._room(operand)
        vector = self.limits.vector(value.dtype.bits)
        size = None
        if self._is_copy(value) and value.dtype == operand.dtype:
            vector = self.limits.vector_bytes * 8 // value.dtype.bits
            size = bytes_of(value.dtype) if self.limits.uniform else value.dtype.bits // 8
        dim = rank - 2 if operand.transposed else rank - 1
        axes = self._axes(value)
        threads, name = self.result.threads, self._name(operand)
        layout = staging(axes, extents, dim, threads, vector, name, size)
        slots = tuple(
            None if size == ONE else Slot("copy", size, digits)
            for size, digits in zip(value.shape, layout.axes, strict=True)
        )
        self.frames.demand(value, slots)
        operand.room = tuple(extents)

    def _name(self, operand: Operand) -> str:
        """What numbers of its copy are called: as the buffer, after the source's name or tensor."""
        value = operand.value
        maker = self.frames.makers.get(value)
        while value.name is None and isinstance(maker, ir.Permute | ir.Cast | ir.Mask):
            value = maker.value
            maker = self.frames.makers.get(value)
        loaded = maker.tensor.name if isinstance(maker, ir.Load) else operand.side
        return (value.name or loaded).upper()

    def _room(self, operand: Operand) -> list[int]:
        """Extents of the operand's buffer: whole matrices."""
        extents = [self.extent(size) for size in operand.value.shape]
        unit = self.unit
        if unit is not None:
            edges = (unit.m, unit.k) if operand.side == "lhs" else (unit.k, unit.n)
            for dim, edge in zip((-2, -1), edges, strict=True):
                extents[dim] = whole_times(extents[dim], edge)
        return extents

    def _is_copy(self, value: Value) -> bool:
        """Whether the value is what a load reads, unchanged."""
        maker = self.frames.makers.get(value)
        while isinstance(maker, ir.Permute):
            maker = self.frames.makers.get(maker.value)
        return isinstance(maker, ir.Load) and maker.mask is None

    def _fresh(self, value: Value) -> Op | None:
        """What makes the value, if that is only loads and arithmetic on them."""
        maker = self.frames.makers.get(value)
        if maker is None or not isinstance(maker, _FRESH):
            return None
        if isinstance(maker, ir.Load):
            return maker
        parts = [self._fresh(v) for v in operands(maker) if isinstance(v.type, TileType)]
        return None if None in parts else maker

    def _contiguous(self, value: Value) -> int:
        """The dimension along which the value's elements are neighbours in memory."""
        last = len(value.shape) - 1
        maker = self.frames.makers.get(value)
        match maker:
            case ir.Load():
                dims = entry_axes(maker.index)
                found = [d[-1] for d, s in zip(dims, maker.tensor.strides, strict=True)
                         if d and s == ONE]  # fmt: skip
                return found[-1] if found else last
            case ir.Permute():
                inner = self._contiguous(maker.value)
                return maker.order.index(inner)
            case ir.Cast() | ir.Mask():
                return self._contiguous(maker.value)
            case ir.Elementwise():
                like = [a for a in maker.args if a.shape == value.shape]
                return self._contiguous(like[0]) if like else last
        return last


def _of_block(size: Size) -> bool:
    """Whether an axis is one of blocks, not a whole dimension."""
    return any(sym.kind == "block" for sym in size.syms)


def _depths(body: Block) -> dict[Value, int]:
    """How many loops are around the definition of each value."""
    found: dict[Value, int] = {}

    def visit(block: Block, depth: int) -> None:
        found.update(dict.fromkeys(block.params, depth))
        for op in block.ops:
            found.update(dict.fromkeys(op.results, depth))
            looped = isinstance(op, ir.ForTile | ir.ForRange | ir.While)
            for region in regions(op):
                visit(region, depth + looped)

    visit(body, 0)
    return found


def _homes(body: Block) -> dict[Value, Block]:
    """The block in which each value is defined."""
    found: dict[Value, Block] = {}

    def visit(block: Block) -> None:
        found.update(dict.fromkeys(block.params, block))
        for op in block.ops:
            found.update(dict.fromkeys(op.results, block))
            for region in regions(op):
                visit(region)

    visit(body)
    return found
