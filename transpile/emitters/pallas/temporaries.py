"""Values that are alive at once in a kernel: what the compiler may have to keep in vector memory.

Mosaic unrolls every operation over whole blocks; what of a value is still to be used when the
registers are full is spilled. In the order of the program that is, at its worst point, the sum of
all values that something later reads, so that is the estimate. What is read from a window or made
of positions is read or made again, and the values that a grid axis carries are in scratch.
"""

from __future__ import annotations

from collections.abc import Callable

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.ir import Value
from transpile.ir.sizes import Size
from transpile.ir.walk import operands, regions, walk

Tiles = dict[tuple[tuple[Size, ...], int], int]  # (shape, bytes of an element) -> how many

_LOOPS = ir.ForTile | ir.ForRange | ir.While


class Temporaries:
    """The worst point of a phase's body.

    ``size`` gives the bytes of a block of a shape; ``carried`` is the loop that is a grid axis.
    """

    def __init__(
        self,
        body: ir.Block,
        carried: ir.ForTile | None,
        size: Callable[[tuple[Size, ...], int], int],
    ) -> None:
        self.size = size
        self.carried = carried
        self.makers = {r: op for op in walk(body) for r in op.results}
        self.stored = set() if carried is None else {*carried.body.params, *carried.results}
        self.worst = self.most_words = 0
        self.tiles: Tiles = {}
        self.words: Tiles = {}  # at the point that is worst if every element is a word
        self._block(body, frozenset())

    # -- liveness ------------------------------------------------------------------------------

    def _block(self, block: ir.Block, after: frozenset[Value]) -> set[Value]:
        """What is alive at the block's begin, if ``after`` is at its end."""
        live = set(after) | self._held(block.yields)
        self._note(live, [])
        for op in reversed(block.ops):
            self._note(live | self._held(op.results), _scratch(op))
            live -= set(op.results)
            for region in regions(op):
                around = live | self._held(_free(region)) if isinstance(op, _LOOPS) else live
                live |= self._block(region, frozenset(around)) - set(region.params)
            live |= self._held(tuple(operands(op)))
        return live

    def _held(self, values: tuple[Value, ...]) -> set[Value]:
        """The values that have to be kept for these to be used."""
        found: set[Value] = set()
        for value in values:
            if not isinstance(value.type, ir.TileType) or not value.shape or value in self.stored:
                continue
            match self.makers.get(value):
                case ir.Load(guards=(), mask=None) | ir.TileIndex() | ir.Iota() | ir.Full():
                    continue  # read or made again
                case ir.Broadcast(value=inner):
                    found |= self._held((inner,))
                case ir.Cast(value=inner) if not self._held((inner,)):
                    continue
                case _:
                    found.add(value)
        return found

    def _note(self, live: set[Value], scratch: list[Value]) -> None:
        tiles: Tiles = {}
        for value in [*live, *scratch]:
            key = (value.shape, width(value.dtype))
            tiles[key] = tiles.get(key, 0) + 1
        total = sum(n * self.size(*key) for key, n in tiles.items())
        if total > self.worst:
            self.worst, self.tiles = total, tiles
        words = sum(n * self.size(shape, 4) for (shape, _), n in tiles.items())
        if words > self.most_words:
            self.most_words, self.words = words, tiles


def width(dtype: DType) -> int:
    """Bytes of an element in registers: masks are words there."""
    return 4 if dtype.is_bool else max(1, dtype.bits // 8)


def _scratch(op: ir.Op) -> list[Value]:
    """Copies that an operation makes beside its result."""
    match op:
        case ir.Scan(values=values):
            return [*values]
        case ir.Gather() | ir.Reshape() | ir.Dot():
            return [op.result]
        case _:
            return []


def _free(block: ir.Block) -> tuple[Value, ...]:
    """Values that a block reads from around it."""
    inside = {*block.params, *(r for op in walk(block) for r in op.results)}
    inside |= {p for op in walk(block) for region in regions(op) for p in region.params}
    used = [v for op in walk(block) for v in operands(op)]
    return tuple(dict.fromkeys(v for v in [*used, *block.yields] if v not in inside))
