"""Shapes without the axes of tiles of one lane: what ``squeeze`` builds with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transpile.ir import ir
from transpile.ir.dtypes import I32, DType
from transpile.ir.ir import Op, TileType, TileVar, Value
from transpile.ir.sizes import ONE, Size, Sym

Shape = tuple[Size, ...]


class UnitShapes:
    """Shapes without axes of one lane, and the building of values that have them.

    ``env`` maps old values to new ones, ``makers`` new ones to their operations.
    """

    def __init__(self, kernel: ir.Kernel, units: Mapping[Sym, int]) -> None:
        self.units: dict[Sym, int | Size] = dict(units)
        self.index_dtype: DType = kernel.index_dtype or I32
        self.env: dict[Value, Value] = {}
        self.makers: dict[Value, Op] = {}
        self.counts: dict[Value, Callable[[], Value]] = {}  # trip counts of unit tiles
        self.ops: list[Op] = []
        self.span: ir.Span | None = None

    # -- shapes --------------------------------------------------------------------------------

    def is_unit(self, size: Size) -> bool:
        sym = size.as_sym()
        return sym is not None and sym in self.units

    def kept(self, shape: Shape) -> list[int]:
        """Axes that stay."""
        dims = [i for i, s in enumerate(shape) if not self.is_unit(s)]
        return [] if all(self.size(shape[i]) == ONE for i in dims) else dims

    def size(self, size: Size) -> Size:
        return size.substitute(self.units)

    def shape(self, shape: Shape) -> Shape:
        return tuple(self.size(shape[i]) for i in self.kept(shape))

    def is_unit_tile(self, tile: Value) -> bool:
        return isinstance(tile.type, TileVar) and tile.type.block in self.units

    # -- building ------------------------------------------------------------------------------

    def emit(self, op: Op) -> Value:
        op.span = op.span or self.span
        self.ops.append(op)
        for result in op.results:
            self.makers[result] = op
        return op.results[0]

    def new(self, old: Value) -> Value:
        """A fresh value for an old result."""
        value = Value(TileType(old.dtype, self.shape(old.shape)), old.name)
        self.env[old] = value
        return value

    def at(self, value: Value) -> Value:
        return self.env.get(value, value)

    def const(self, number: int, dtype: DType) -> Value:
        return self.emit(ir.Const(number, results=(Value(TileType(dtype)),)))

    def reshaped(self, value: Value, shape: Shape) -> Value:
        """The value in another shape of as many elements; a reshape undone is not redone."""
        while value.shape != shape:
            maker = self.makers.get(value)
            if not isinstance(maker, ir.Reshape):
                break
            value = maker.value
        if value.shape in (shape, ()):
            return value
        maker = self.makers.get(value)
        if isinstance(maker, ir.Elementwise | ir.Cast) and (dims := _kept_dims(value.shape, shape)):
            return self.rebuilt(maker, dims, shape)
        return self.emit(ir.Reshape(value, results=(Value(TileType(value.dtype, shape)),)))

    def tile(self, value: Value, shape: Shape) -> Value:
        """As ``reshaped``; a scalar becomes a tile of one element."""
        value = self.reshaped(value, shape)
        if value.shape == shape:
            return value
        return self.emit(ir.Reshape(value, results=(Value(TileType(value.dtype, shape)),)))

    def rebuilt(self, maker: ir.Elementwise | ir.Cast, dims: list[int], shape: Shape) -> Value:
        """A lane-by-lane operation once more, without the axes of size 1 that its result drops."""
        result = Value(TileType(maker.result.dtype, shape), maker.result.name)
        if isinstance(maker, ir.Cast):
            value = self.reshaped(maker.value, shape)
            return self.emit(ir.Cast(value, maker.bitcast, results=(result,), span=maker.span))
        args = []
        for arg in maker.args:
            want = tuple(arg.shape[d] for d in dims) if arg.shape else ()
            args.append(self.reshaped(arg, want) if want else arg)
        return self.emit(
            ir.Elementwise(maker.name, tuple(args), results=(result,), span=maker.span)
        )

    def fit(self, old: Value, target: Shape) -> Value:
        """An operand of something of old shape ``target``, with just the axes that this keeps."""
        value = self.at(old)
        if value.shape == ():
            return value
        lead = len(target) - len(old.shape)
        dims = [i - lead for i in self.kept(target) if i >= lead]
        return self.reshaped(value, tuple(self.size(old.shape[i]) for i in dims))

    def finish(self, old: Value, value: Value) -> None:
        """Bind an old result to a value that may still have axes too many."""
        want = self.shape(old.shape)
        if value.shape != want:
            value = self.reshaped(value, want)
        if old.name is not None and value.name is None and value in self.makers:
            value.name = old.name
        self.env[old] = value


def _kept_dims(old: Shape, new: Shape) -> list[int]:
    """The axes of ``old`` that are left in ``new`` when the others, of size 1, are dropped; none if
    that is not what happens."""
    dims: list[int] = []
    for dim, size in enumerate(old):
        if (
            len(dims) < len(new)
            and size == new[len(dims)]
            and (size != ONE or len(old) - dim == len(new) - len(dims))
        ):
            dims.append(dim)
        elif size != ONE:
            return []
    return dims if len(dims) == len(new) else []
