"""Block sizes for the TPU: legal ones, and our defaults where the config gives none.

A block's last two axes must be multiples of (8, 128) elements, times the packing of narrow types,
or span their dimension; a one-dimensional one is a multiple of 128 and its packing. A config made
for another target is widened to the next legal size, which changes no result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from transpile.emitters.pallas.dtypes import bytes_of
from transpile.ir import ir
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import operands, walk, walk_kernel
from transpile.passes.schedule import Schedule, resolve

_LANES = 128
_SUBLANES = 8
_ROW_BLOCK = 1 << 18  # elements of a block of whole rows: 1 MiB of f32, as the simulator prefers


def tpu_schedule(kernel: ir.Kernel, arch: str) -> Schedule:
    """The checked config with block sizes that Mosaic takes. Raises KtError for bad keys."""
    schedule = resolve(kernel, "pallas", arch)
    if "reduction_loops" not in schedule.config:
        schedule.reduction_loops = ()
    least = minimums(kernel)
    given = schedule.config.get("block_sizes")
    entries = given if isinstance(given, (list, tuple)) else [given]
    chosen = _defaults(kernel)
    picked = _index_blocks(kernel)
    for sym, most in picked.items():
        chosen[sym] = most if chosen.get(sym, 1) == 1 else min(chosen[sym], most)
    outer = _outer_blocks(kernel)
    for i, sym in enumerate(schedule.tunable):
        stated = i < len(entries) and entries[i] is not None
        size = schedule.blocks[sym] if stated else _limited(kernel, sym, chosen.get(sym, 1))
        if sym in outer and not stated:
            size = min(size, schedule.blocks.get(outer[sym], size))
        batch = size == 1 and (sym in picked or sym in _batches(kernel))
        schedule.blocks[sym] = size if batch else max(size, least.get(sym, 1))
    return schedule


def _outer_blocks(kernel: ir.Kernel) -> dict[Sym, Sym]:
    """For each block that walks a tile of a larger one, the larger one."""
    makers = {r: op for op in walk_kernel(kernel) for r in op.results}
    found = {}
    for op in walk_kernel(kernel):
        begin = makers.get(op.begin) if isinstance(op, ir.ForTile) else None
        if isinstance(begin, ir.TileAttr) and isinstance(begin.tile.type, ir.TileVar):
            found[op.block] = begin.tile.type.block  # type: ignore[attr-defined]
    return found


def _batches(kernel: ir.Kernel) -> set[Sym]:
    """Blocks that somewhere walk a dimension in front of the last two, one of which fits better."""
    return {sym for _, position, _, sym in _tiled(kernel) if position > 1}


def minimums(kernel: ir.Kernel) -> dict[Sym, int]:
    """The least legal size of each block, from where it stands in its tensors."""
    least: dict[Sym, int] = {}
    for op, position, rank, sym in _tiled(kernel):
        packing = 4 // min(4, bytes_of(op.tensor.dtype))
        if position == 0:
            need = _LANES * (packing if rank == 1 else 1)
        else:
            need = _SUBLANES * packing if position == 1 else 1
        least[sym] = max(least.get(sym, 1), need)
    return least


def _tiled(kernel: ir.Kernel) -> Iterator[tuple[ir.Load | ir.Store | ir.Atomic, int, int, Sym]]:
    """Accesses through tiles: the operation, the dimension from the last, the rank, the block."""
    for op in walk_kernel(kernel):
        if not isinstance(op, ir.Load | ir.Store | ir.Atomic):
            continue
        rank = len(op.index)
        for dim, entry in enumerate(op.index):
            if isinstance(entry, ir.AtTile) and isinstance(entry.tile.type, ir.TileVar):
                yield op, rank - 1 - dim, rank, entry.tile.type.block


def _limited(kernel: ir.Kernel, sym: Sym, size: int) -> int:
    """A default no larger than what the block tiles, or may be."""
    block = next(b for b in kernel.blocks if b.sym == sym)
    known = [e.as_int() for e in block.extents]
    limits = [block.maximum.as_int() if block.maximum is not None else None]
    if known and None not in known:
        limits.append(max(k for k in known if k is not None))
    for limit in limits:
        if limit is not None:
            size = min(size, 1 << max(0, limit - 1).bit_length())
    return max(size, block.minimum)


def _defaults(kernel: ir.Kernel) -> dict[Sym, int]:
    sizes: dict[Sym, int] = {}
    for phase in sorted(kernel.phases, key=lambda p: not _dots(p)):
        alone = dataclasses.replace(kernel, phases=(phase,))
        sizes = _phase_defaults(alone, phase) | sizes
    for inner, outer in _outer_blocks(kernel).items():
        sizes.setdefault(outer, sizes.get(inner, 1024))  # in one step, if the grid moves it
    return sizes


def _dots(phase: ir.Phase) -> list[ir.Dot]:
    return [op for op in walk(phase.body) if isinstance(op, ir.Dot)]


def _phase_defaults(kernel: ir.Kernel, phase: ir.Phase) -> dict[Sym, int]:
    positions: dict[Sym, set[int]] = {}
    for _, position, _, sym in _tiled(kernel):
        positions.setdefault(sym, set()).add(position)
    sizes: dict[Sym, int] = {}
    whole = _whole_axes(kernel)
    for sym, places in positions.items():
        if max(places) > 1:
            sizes[sym] = 1  # a batch: one at a time
        elif 0 in places:
            sizes[sym] = 1024
        else:
            sizes[sym] = 256
    one_dimensional = {s for s, p in positions.items() if p == {0}}
    if len(phase.axes) == 1 and phase.axes[0].block in one_dimensional and not whole:
        sizes[phase.axes[0].block] = 1 << 16
    if whole:
        for sym, places in positions.items():
            if min(places) <= 1 and sizes[sym] > 1:
                sizes[sym] = _rows(whole)
    if dots := _dots(phase):
        sizes |= _product_defaults(dots, _walked(phase))
    return sizes


def _rows(whole: set[Size]) -> int:
    """Rows of a block that holds whole dimensions."""
    widths = [s.as_int() for s in whole]
    known = max((w for w in widths if w is not None), default=1024)
    return max(8, min(256, 1 << max(0, (_ROW_BLOCK // max(known, 128)).bit_length() - 1)))


def _whole_axes(kernel: ir.Kernel) -> set[Size]:
    return {
        entry.length
        for op in walk_kernel(kernel)
        if isinstance(op, ir.Load)
        for entry in op.index
        if isinstance(entry, ir.AtSlice) and entry.length.as_int() != 1
    }


def _index_blocks(kernel: ir.Kernel) -> dict[Sym, int]:
    """Blocks of index tiles that come from memory, and their sizes by default: a copy is started
    for each of their elements, and all of the rows have to fit."""
    makers = {r: op for op in walk_kernel(kernel) for r in op.results}
    found: dict[Sym, int] = {}
    for op in walk_kernel(kernel):
        if not isinstance(op, ir.Load | ir.Store | ir.Atomic):
            continue
        for entry in op.index:
            if not isinstance(entry, ir.AtTensor) or not _loaded(entry.value, makers):
                continue
            for axis, size in enumerate(entry.value.shape):
                most = _LANES if axis == len(entry.value.shape) - 1 else _SUBLANES
                if entry is op.index[-1] and len(entry.value.shape) == 1:
                    most = 8 * _LANES  # of single elements
                found |= {sym: most for sym in size.syms if sym.kind == "block"}
    return found


def _loaded(value: ir.Value, makers: dict[ir.Value, ir.Op]) -> bool:
    """True if an index comes from memory."""
    maker = makers.get(value)
    if isinstance(maker, ir.Load):
        return True
    return maker is not None and any(_loaded(v, makers) for v in operands(maker))


def _walked(phase: ir.Phase) -> set[Sym]:
    """Blocks of loops that stay in the kernel: over a part of a dimension, or inside another."""
    makers = {r: op for op in walk(phase.body) for r in op.results}
    found = set()
    for op in walk(phase.body):
        if isinstance(op, ir.ForTile):
            begin = makers.get(op.begin)
            whole = isinstance(begin, ir.Const) and isinstance(makers.get(op.end), ir.SizeOf)
            if op not in phase.body.ops or not whole:
                found.add(op.block)
    return found


def _product_defaults(dots: list[ir.Dot], walked: set[Sym]) -> dict[Sym, int]:
    """Operands of a product stay in VMEM for as many rows and columns as there is room for."""
    sizes: dict[Sym, int] = {}
    side, deep = (1024, 4096) if len(dots) == 1 else (1024, 1024)
    for op in dots:
        *batch, m, k = op.lhs.shape
        n = op.rhs.shape[-1]
        depth = deep * 2 // max(2, bytes_of(op.lhs.dtype), bytes_of(op.rhs.dtype))
        for group, size in ((batch, 1), ([k], depth), ([n], side), ([m], side)):
            for sym in (s for axis in group for s in axis.syms if s.kind == "block"):
                room = min(size, 512) if sym in walked else size
                sizes[sym] = max(sizes.get(sym, 1), room)
    return sizes
