"""Block sizes and loops of a kernel, in the order Helion's configs count them."""

from __future__ import annotations

import re
from dataclasses import replace

import libcst as cst

from transpile.ir.ir import BlockSize
from transpile.ir.sizes import Size, Sym


class BlockTable:
    """Allocates block-size symbols.

    Lowering may visit a loop more than once (carried types are found by iteration), so
    allocation is keyed by the syntax node: the second visit gets the first one's symbols.
    """

    def __init__(self) -> None:
        self._by_node: dict[tuple[int, int], Sym] = {}
        self._blocks: dict[Sym, BlockSize] = {}
        self._loops: dict[int, int] = {}
        self._keep: list[cst.CSTNode] = []  # keeps ids valid

    def register(
        self,
        node: cst.CSTNode,
        hint: str,
        minimum: int = 1,
        maximum: Size | None = None,
        fixed: Size | None = None,
        position: int = 0,
    ) -> BlockSize:
        """The block of ``node`` (its ``position``-th axis), created on first use."""
        key = (id(node), position)
        if key not in self._by_node:
            self._keep.append(node)
            sym = Sym(self._unique(block_name(hint)), "block")
            self._by_node[key] = sym
            self._blocks[sym] = BlockSize(sym, fixed, minimum, maximum)
        return self._blocks[self._by_node[key]]

    def tiles(self, sym: Sym, extent: Size) -> None:
        """Record that a loop of this extent is tiled by the block."""
        block = self._blocks[sym]
        if extent not in block.extents:
            self._blocks[sym] = replace(block, extents=(*block.extents, extent))

    def loop(self, node: cst.CSTNode) -> int:
        """Index of a loop in source order, for the per-loop config keys."""
        self._keep.append(node)
        return self._loops.setdefault(id(node), len(self._loops))

    @property
    def all(self) -> tuple[BlockSize, ...]:
        return tuple(self._blocks.values())

    def fixed(self) -> dict[Sym, Size]:
        return {s: b.fixed for s, b in self._blocks.items() if b.fixed is not None}

    def _unique(self, name: str) -> str:
        taken = {s.name for s in self._blocks}
        if name not in taken:
            return name
        number = 2
        while f"{name}_{number}" in taken:
            number += 1
        return f"{name}_{number}"


def block_name(hint: str) -> str:
    """``tile_m``, ``block_size_m`` and ``m_block`` give BLOCK_M, ``tile`` gives BLOCK."""
    stem = re.sub(r"^(tile|block_size|block|blk)_?|_?(tile|block_size|block|blk)$", "", hint)
    stem = re.sub(r"[^0-9A-Za-z]+", "_", stem).strip("_").upper()
    return f"BLOCK_{stem}" if stem else "BLOCK"
