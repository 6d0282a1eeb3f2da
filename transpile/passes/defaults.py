"""Our own default configuration, by the shape of the kernel.

Products get the tiles of Triton's tutorials, kernels that hold whole rows get one row per
program, elementwise kernels a long block along the fastest axis.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from transpile.ir import ir
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import walk, walk_kernel


@dataclass(eq=False, slots=True)
class Defaults:
    """Block sizes and launch parameters where the config gives none."""

    blocks: dict[Sym, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int | None = None
    indexing: str = "pointer"
    row: Size | None = None  # the launch chooses num_warps by this run-time width
    group: int = 1
    last_fastest: bool = False  # neighbouring programs work on neighbouring memory
    inner: set[Sym] = field(default_factory=set)  # axes to vary fastest: the others share nothing
    orders: dict[int, tuple[int, ...]] = field(default_factory=dict)  # per phase, by source loop
    groups: dict[int, int] = field(default_factory=dict)  # the same for l2_groupings

    def order(self, axes: tuple[ir.GridAxis, ...]) -> tuple[int, ...]:
        """Grid axes, the fastest-varying one first."""
        indices = range(len(axes))
        if self.last_fastest:
            return tuple(reversed(indices))
        return tuple(
            sorted(indices, key=lambda i: bool(self.inner) and axes[i].block not in self.inner)
        )


@dataclass(eq=False, slots=True)
class _Roles:
    """What each block symbol does in the kernel's products."""

    batch: set[Sym] = field(default_factory=set)
    m: set[Sym] = field(default_factory=set)
    n: set[Sym] = field(default_factory=set)
    k: set[Sym] = field(default_factory=set)
    dots: int = 0
    bits: int = 16
    depth: int = 0  # largest static extent of an operand, elements

    def all(self) -> set[Sym]:
        return self.m | self.n | self.k


def choose(kernel: ir.Kernel, config: dict[str, Any], target: str = "triton") -> Defaults:
    """Defaults for what ``config`` leaves open, phase by phase: an earlier one's choice stands."""
    defaults: Defaults | None = None
    for phase in sorted(kernel.phases, key=lambda p: not _has_dot(p)):
        alone = dataclasses.replace(kernel, phases=(phase,))
        roles = _roles(alone)
        if roles.dots:
            found = _product(alone, roles, target)
        elif _row_sizes(alone):
            found = _rows(alone)
            if target == "metal":
                _neighbours_together(alone, found)
        else:
            found = _elementwise(alone)
        found.orders[phase.loop] = found.order(phase.axes)
        found.groups[phase.loop] = found.group
        if defaults is None:
            defaults = found
        else:
            defaults.blocks = found.blocks | defaults.blocks
            defaults.orders |= found.orders
            defaults.groups |= found.groups
    assert defaults is not None
    for block in kernel.blocks:
        if block.fixed is None:
            defaults.blocks[block.sym] = _clamp(block, defaults.blocks.get(block.sym, 1))
    return defaults


def _has_dot(phase: ir.Phase) -> bool:
    return any(isinstance(op, ir.Dot) for op in walk(phase.body))


def _blocks_of(kernel: ir.Kernel) -> set[Sym]:
    """Block symbols of the kernel's grid axes and tile loops."""
    found = {a.block for p in kernel.phases for a in p.axes if a.block is not None}
    return found | {op.block for op in walk_kernel(kernel) if isinstance(op, ir.ForTile)}


def _clamp(block: ir.BlockSize, size: int) -> int:
    limit = block.maximum.as_int() if block.maximum is not None else None
    known = [e.as_int() for e in block.extents]
    if known and all(k is not None for k in known):
        longest = max(k for k in known if k is not None)
        limit = longest if limit is None else min(limit, longest)
    if limit is not None:
        size = min(size, 1 << max(0, limit - 1).bit_length())
    return max(size, block.minimum)


def _roles(kernel: ir.Kernel) -> _Roles:
    roles = _Roles()
    for op in walk_kernel(kernel):
        if not isinstance(op, ir.Dot):
            continue
        roles.dots += 1
        roles.bits = min(32, max(roles.bits if roles.dots > 1 else 8, op.lhs.dtype.bits))
        *batch, m, k = op.lhs.shape
        n = op.rhs.shape[-1]
        roles.depth = max(roles.depth, *(size.as_int() or 0 for size in (m, k, n)))
        for group, sizes in ((roles.batch, batch), (roles.m, [m]), (roles.n, [n]), (roles.k, [k])):
            group.update(s for size in sizes for s in size.syms if s.kind == "block")
    roles.batch -= roles.all()
    return roles


def _product(kernel: ir.Kernel, roles: _Roles, target: str) -> Defaults:
    """Matrix products."""
    if target == "metal":
        defaults = _simdgroup_products(roles)
    else:
        defaults = _chained(roles) if roles.dots > 1 else _lone(kernel, roles)
    dense = _contiguous_axes(kernel)
    for sym in _blocks_of(kernel) - roles.all():
        defaults.blocks[sym] = 16 if sym in dense and sym not in roles.batch else 1
    defaults.inner = roles.m | roles.n
    if target == "metal":
        _fit_in_registers(kernel, defaults.blocks, roles)
    return defaults


_MOST_ELEMENTS = 128 * 128  # of a tile: 128 registers of each of 128 threads
_ROW = 1024  # the length that results with rows of a run-time length have room for, at the least


def _fit_in_registers(kernel: ir.Kernel, blocks: dict[Sym, int], roles: _Roles) -> None:
    """Smaller blocks where tiles of several axes are large, those of no product first."""
    shapes = {r.shape for op in walk_kernel(kernel) for r in op.results if _is_tile(r)}
    results = {op.result.shape for op in walk_kernel(kernel) if isinstance(op, ir.Dot)}

    def elements(shape: tuple[Size, ...]) -> int:
        unknown = _ROW if shape in results else 1
        sizes = (size.substitute(blocks).as_int() for size in shape)
        return math.prod(unknown if n is None else n for n in sizes)

    for shape in sorted(shapes, key=str):
        while elements(shape) > _MOST_ELEMENTS:
            syms = {s for size in shape for s in size.syms if blocks.get(s, 0) > 4}
            if not syms:
                break
            widest = max(syms, key=lambda s: (s not in roles.all(), blocks[s], s.name))
            blocks[widest] //= 2


def _is_tile(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TileType)


def _simdgroup_products(roles: _Roles) -> Defaults:
    """Products on 8x8 matrices of a SIMD group, as MLX has found best on most Apple GPUs: 64x64x16
    for one product, 32 rows and 32 keys (16 for long heads) for attention, four SIMD groups."""
    defaults = Defaults(num_warps=4)
    if roles.dots == 1:
        for group, size in ((roles.k, 16), (roles.n, 64), (roles.m, 64)):
            defaults.blocks |= dict.fromkeys(group, size)
        return defaults
    for sym in roles.all():
        rows = sym in roles.m and sym not in roles.k
        defaults.blocks[sym] = 32 if rows or roles.depth < 128 else 16
    return defaults


def _lone(kernel: ir.Kernel, roles: _Roles) -> Defaults:
    """One product: large tiles, whose operands are used often. As measured on an H200 for 16-bit
    operands (docs/performance.md)."""
    extents = {b.sym: [e.as_int() for e in b.extents] for b in kernel.blocks}
    sides = [e for sym in roles.m | roles.n for e in extents.get(sym, [None])]
    small = bool(sides) and all(e is not None and e <= 1024 for e in sides)
    m, n, k, warps, stages = (64, 128, 64, 4, 4) if small else (128, 256, 64, 8, 3)
    if roles.bits == 32:
        m, n, k, warps, stages = 128, 128, 32, 8, 3
    elif roles.bits == 8:
        k *= 2
    defaults = Defaults(num_warps=warps, num_stages=stages)
    for group, size in ((roles.k, k), (roles.n, n), (roles.m, m)):
        defaults.blocks |= dict.fromkeys(group, size)
    if len(kernel.phases[0].axes) >= 2:
        defaults.group = 8
    return defaults


def _chained(roles: _Roles) -> Defaults:
    """Attention and its kin: several products in registers, so that two programs fit on a
    multiprocessor. Long heads leave no registers for pointers, so they use descriptors."""
    long = roles.depth >= 128 and roles.bits == 16
    defaults = Defaults(num_warps=4, num_stages=2 if long else 3)
    defaults.indexing = "tensor_descriptor" if long else "pointer"
    for sym in roles.all():
        deep = sym in roles.k and sym not in roles.m
        defaults.blocks[sym] = 32 if deep and roles.bits == 32 else 64
        if long and sym in roles.m and sym not in roles.k:
            defaults.blocks[sym] = 128
    return defaults


def _row_sizes(kernel: ir.Kernel) -> set[Size]:
    """Sizes of whole dimensions that tiles span."""
    sizes: set[Size] = set()
    for op in walk_kernel(kernel):
        if isinstance(op, ir.Load):
            sizes.update(
                i.length for i in op.index if isinstance(i, ir.AtSlice) and i.length.as_int() != 1
            )
    return sizes


def _rows(kernel: ir.Kernel) -> Defaults:
    widths = [s.as_int() for s in _row_sizes(kernel)]
    width = max((w for w in widths if w is not None), default=None)
    rows = 1
    if width is not None and None not in widths and width < 1024:
        rows = max(1, 2048 // (1 << max(0, width - 1).bit_length()))
    defaults = Defaults(num_warps=4 if width is None else _warps(rows * width))
    if width is None or None in widths:
        defaults.row = max((s for s in _row_sizes(kernel) if s.as_int() is None), key=str)
    outer = [a.block for p in kernel.phases for a in p.axes if a.block is not None]
    for sym in _blocks_of(kernel):
        defaults.blocks[sym] = rows if sym not in outer or sym == outer[-1] else 1
    for sym in _subdivided(kernel):
        defaults.blocks[sym] = max(defaults.blocks[sym], 32)
    return defaults


_NEIGHBOURS = 16  # elements in a row: 64 bytes of f32


def _neighbours_together(kernel: ir.Kernel, defaults: Defaults) -> None:
    """Several of the grid's axis where the rows that tiles span lie across memory (columns), so
    that neighbouring threads access neighbouring elements."""
    grid = {a.block for p in kernel.phases for a in p.axes}
    for op in walk_kernel(kernel):
        if not isinstance(op, ir.Load | ir.Store) or op.mask is not None:
            continue
        if not any(isinstance(entry, ir.AtSlice) for entry in op.index):
            continue
        for entry, stride in zip(op.index, op.tensor.strides, strict=True):
            if stride == ONE and isinstance(entry, ir.AtTile):
                assert isinstance(entry.tile.type, ir.TileVar)
                sym = entry.tile.type.block
                if sym in grid:
                    defaults.blocks[sym] = max(defaults.blocks[sym], _NEIGHBOURS)


def _subdivided(kernel: ir.Kernel) -> set[Sym]:
    """Grid axes whose tiles an inner loop walks in smaller ones: each program keeps partial sums,
    so it should have some rows to sum."""
    begins = {
        op.result: op.tile.type.block
        for op in walk_kernel(kernel)
        if isinstance(op, ir.TileAttr)
        and op.attr == "begin"
        and isinstance(op.tile.type, ir.TileVar)
    }
    loops = (op for op in walk_kernel(kernel) if isinstance(op, ir.ForTile))
    return {begins[op.begin] for op in loops if op.begin in begins}


def _warps(elements: int) -> int:
    return min(32, max(1, 1 << max(0, elements // 512 - 1).bit_length()))


def _elementwise(kernel: ir.Kernel) -> Defaults:
    """A long block along the axis that is contiguous in memory; several rows of it where a loop
    reduces along another one; a square where tensors disagree (a transposition)."""
    defaults = Defaults(last_fastest=True)
    dense = _contiguous_axes(kernel)
    loops = {op.block for op in walk_kernel(kernel) if isinstance(op, ir.ForTile)}
    for phase in kernel.phases:
        grid = [a.block for a in phase.axes if a.block is not None]
        here = [sym for sym in grid if sym in dense] or grid[-1:]
        for sym in grid:
            defaults.blocks.setdefault(sym, 1)
        if loops & dense:
            continue
        size = {1: 128 if loops else 1024}.get(len(here), 32)
        defaults.blocks |= dict.fromkeys(here, size)
    for sym in loops:
        defaults.blocks[sym] = 1024 if sym in dense or not dense else 32
    return defaults


def _contiguous_axes(kernel: ir.Kernel) -> set[Sym]:
    """Block symbols of tiles that index a dimension of stride 1."""
    found: set[Sym] = set()
    for op in walk_kernel(kernel):
        if isinstance(op, ir.Load | ir.Store | ir.Atomic):
            for entry, stride in zip(op.index, op.tensor.strides, strict=True):
                if stride == ONE and isinstance(entry, ir.AtTile):
                    assert isinstance(entry.tile.type, ir.TileVar)
                    found.add(entry.tile.type.block)
                elif stride == ONE and isinstance(entry, ir.AtTensor):
                    found |= {
                        s for size in entry.value.shape for s in size.syms if s.kind == "block"
                    }
    return found
