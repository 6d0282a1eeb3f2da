"""Which tiles can have a ragged end: symbolic bounds of tile loops.

Scalar integer values of a phase are given as :class:`Size` over dims, host scalars and iteration
numbers; a tile's begin is ``loop begin + iteration * block``. A tile has no lanes beyond its end if
the loop's extent is provably a multiple of the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from transpile.ir import ir
from transpile.ir.ir import Block, Guard, Kernel, Op, Phase, Value
from transpile.ir.sizes import ONE, Opaque, Size, Sym
from transpile.ir.walk import regions


@dataclass(frozen=True)
class TileRange:
    """A tile variable: its begin, the end of its loop, its block size, and whether it is ragged.

    ``begin`` contains a symbol of its own for the iteration number.
    """

    begin: Size
    loop_end: Size
    block: Size
    ragged: bool

    @property
    def end(self) -> Size:
        """The tile's own end."""
        full = self.begin + self.block
        return full.min(self.loop_end) if self.ragged else full


@dataclass
class Ranges:
    """Bounds of all tiles and symbolic values of scalars in the phases analysed so far."""

    blocks: Mapping[Sym, int]
    multiple_of: Mapping[Sym, int]
    pads_size_axes: bool
    tiles: dict[Value, TileRange] = field(default_factory=dict)
    scalars: dict[Value, Size] = field(default_factory=dict)
    _fresh: int = 0

    # -- questions -------------------------------------------------------------------------

    def is_ragged(self, guard: Guard, shape: tuple[Size, ...]) -> bool:
        """Whether lanes outside the guard can exist, for an access or value of this shape."""
        return self.lanes_exist(guard.tile, shape[guard.dim])

    def lanes_exist(self, tile: Value | None, size: Size) -> bool:
        """Whether an axis of this size can have lanes beyond the tile's end (or its extent)."""
        if tile is None:
            return self.is_padded(size)
        return self.tiles[tile].ragged if tile in self.tiles else True

    def is_padded(self, size: Size) -> bool:
        """Whether the target may pad an axis of this size."""
        if not self.pads_size_axes:
            return False
        number = size.substitute(self.blocks).as_int()
        return number is None or number & (number - 1) != 0

    def size_of(self, value: Value) -> Size | None:
        """The symbolic value of an integer scalar, if known."""
        return self.scalars.get(value)

    # -- collection ------------------------------------------------------------------------

    def add_phase(self, phase: Phase) -> None:
        for axis in phase.axes:
            if axis.block is not None:
                self._add_tile(axis.var, self._known(axis.begin), self._known(axis.end), axis.block)
            else:
                self.scalars[axis.var] = axis.begin + self._unknown() * axis.step
        self._block(phase.body)

    def _block(self, block: Block) -> None:
        for op in block.ops:
            self._op(op)
            for region in regions(op):
                self._block(region)

    def _op(self, op: Op) -> None:
        if isinstance(op, ir.ForTile):
            begin, end = self._scalar(op.begin), self._scalar(op.end)
            self._add_tile(op.body.params[0], begin, end, op.block)
        elif isinstance(op, ir.ForRange):
            step = self._scalar(op.step)
            self.scalars[op.body.params[0]] = self._scalar(op.begin) + self._unknown() * step
        elif len(op.results) == 1 and isinstance(op.result.type, ir.TileType):
            if op.result.shape or not op.result.dtype.is_int:
                return
            size = self._symbolic(op)
            if size is not None:
                self.scalars[op.result] = self._known(size)

    def _add_tile(self, var: Value, begin: Size, end: Size, block: Sym) -> None:
        size = self._known(Size.of(block))
        exact = size == ONE or self._multiple(end, begin, size)
        at = begin + self._unknown() * size
        self.tiles[var] = TileRange(at, end, size, ragged=not exact)

    def _multiple(self, end: Size, begin: Size, block: Size) -> bool:
        """Whether ``end - begin`` is provably a multiple of ``block``."""
        number = block.as_int()
        extent = end - begin
        if number is None:
            return (extent % block).as_int() == 0
        if extent.divisible_by(number, self.multiple_of):
            return True
        parts = _minimum_of(end)
        return parts is not None and all(self._multiple(p, begin, block) for p in parts)

    # -- symbolic values -------------------------------------------------------------------

    def _known(self, size: Size) -> Size:
        return size.substitute(self.blocks)

    def _unknown(self) -> Size:
        """A symbol for a number that is not negative and otherwise unknown."""
        self._fresh += 1
        return Size.of(Sym(f"#{self._fresh}", "stride"))

    def _scalar(self, value: Value) -> Size:
        if value not in self.scalars:
            self._fresh += 1
            self.scalars[value] = Size.of(Sym(f"?{self._fresh}", "scalar"))
        return self.scalars[value]

    def _symbolic(self, op: Op) -> Size | None:
        match op:
            case ir.Const():
                return Size.of(int(op.value))
            case ir.SizeOf():
                return op.size
            case ir.HostScalar():
                return Size.of(Sym(op.name, "scalar"))
            case ir.Cast() if op.value.dtype.is_int and not op.bitcast:
                return self._scalar(op.value)
            case ir.TileAttr():
                return self._attribute(op)
            case ir.Elementwise():
                return self._arithmetic(op)
        return None

    def _attribute(self, op: ir.TileAttr) -> Size | None:
        tile = self.tiles.get(op.tile)
        if tile is None or op.attr == "count":
            return None
        if op.attr == "id":
            return tile.begin // tile.block
        return tile.begin if op.attr == "begin" else tile.end

    def _arithmetic(self, op: ir.Elementwise) -> Size | None:
        if not all(a.dtype.is_int for a in op.args):
            return None
        sizes = [self._scalar(a) for a in op.args]
        match op.name:
            case "add":
                return sizes[0] + sizes[1]
            case "sub":
                return sizes[0] - sizes[1]
            case "mul":
                return sizes[0] * sizes[1]
            case "neg":
                return -sizes[0]
            case "minimum":
                return sizes[0].min(sizes[1])
            case "maximum":
                return sizes[0].max(sizes[1])
            case "floordiv" if sizes[1].as_int() != 0:
                return sizes[0] // sizes[1]
            case "mod" if sizes[1].as_int() != 0:
                return sizes[0] % sizes[1]
        return None


def _minimum_of(size: Size) -> tuple[Size, Size] | None:
    """The operands if the size is exactly ``min(a, b)``."""
    if len(size.terms) == 1 and size.terms[0][1] == 1 and len(size.terms[0][0]) == 1:
        atom = size.terms[0][0][0]
        if isinstance(atom, Opaque) and atom.op == "min":
            return atom.lhs, atom.rhs
    return None


def kernel_ranges(kernel: Kernel, blocks: Mapping[Sym, int], pads_size_axes: bool) -> Ranges:
    """The ranges of all phases. Block sizes fixed to a number in the IR may be absent."""
    known = {
        b.sym: number for b in kernel.blocks
        if b.fixed is not None and (number := b.fixed.as_int()) is not None
    }  # fmt: skip
    result = Ranges({**known, **blocks}, kernel.multiple_of, pads_size_axes)
    for phase in kernel.phases:
        result.add_phase(phase)
    return result
