"""Subscripts: loads, stores and atomics on host tensors, newaxis and ``:`` on device tiles.

Index lists follow Helion's rule: a tile or a slice keeps its dimension, a scalar drops it, 1-D
index tensors each keep their own axis (a Cartesian product, unlike torch's paired indexing), and
index tensors of two or more dimensions broadcast together at the first one's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transpile.frontend.builder import Builder, describe
from transpile.frontend.values import HostNumber, HostTensor, NeedFact, Scalar, Tile, TileOffset
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import I64, DType
from transpile.ir.sizes import ONE, Size


@dataclass
class Access:
    """A resolved index: entries per tensor dimension, the shape they give, its guards.

    ``shape`` is the shape before newaxis, ``view`` with the newaxis ones; ``ones`` are the axes of
    ``shape`` that a tile over a dimension of static size 1 gives (read once, then broadcast to
    the tile's block).
    """

    index: tuple[ir.Index, ...]
    shape: tuple[Size, ...]
    guards: tuple[ir.Guard, ...]
    view: tuple[Size, ...]


class Indexer:
    """Turns evaluated subscripts into IR indices."""

    def __init__(self, builder: Builder) -> None:
        self.b = builder
        self.origins: dict[ir.Tensor, str] = {}  # the parameter a tensor comes from

    def resolve(self, tensor: HostTensor, entries: Sequence[Any], masked: bool = False) -> Access:
        """Resolve an index; ``masked`` if an extra mask bounds it, whatever the loop does."""
        self._masked = masked
        entries = self._expand_ellipsis(tensor, list(entries))
        used = [e for e in entries if e is not None]
        if tensor.shape is None:
            raise NeedFact(tensor.origin or tensor.param or "?", rank=len(used))
        if len(used) != tensor.rank and tensor.guessed:
            raise NeedFact(tensor.param or "?", rank=len(used))
        if len(used) != tensor.rank and tensor.follows is not None:
            raise NeedFact(tensor.follows, more=len(used) - tensor.rank)
        if len(used) != tensor.rank:
            raise error(
                "KT0506",
                f"{len(used)} indices for '{tensor.host or 'tensor'}' of rank {tensor.rank}",
                self.b.span,
                why="every dimension of a tensor needs an index on the device",
                remedy="index the other dimensions too, with ':' for all of one",
            )
        index: list[ir.Index] = []
        shape: list[Size] = []
        view: list[Size] = []
        guards: list[ir.Guard] = []
        group = self._broadcast_group(used)
        dim = 0
        for entry in entries:
            if entry is None:
                view.append(ONE)
                continue
            at = self._entry(entry, tensor.dims[dim], shape, guards, group)
            index.append(at)
            dim += 1
            view.extend(shape[len(shape) - self._added :])
        return Access(tuple(index), tuple(shape), tuple(guards), tuple(view))

    _added = 0
    _masked = False

    def _expand_ellipsis(self, tensor: HostTensor, entries: list[Any]) -> list[Any]:
        if Ellipsis not in entries:
            return entries
        at = entries.index(Ellipsis)
        given = sum(e is not None and e is not Ellipsis for e in entries)
        return entries[:at] + [slice(None)] * (tensor.rank - given) + entries[at + 1 :]

    def _broadcast_group(self, used: Sequence[Any]) -> list[ir.Value]:
        tiles = [e for e in used if isinstance(e, ir.Value) and e.shape]
        return tiles if any(len(t.shape) > 1 for t in tiles) else []

    def _entry(
        self,
        entry: Any,
        extent: Size,
        shape: list[Size],
        guards: list[ir.Guard],
        group: list[ir.Value],
    ) -> ir.Index:
        """One index entry; appends its axes to ``shape`` and its guards."""
        before = len(shape)
        at = self._dispatch(entry, extent, shape, guards, group)
        self._added = len(shape) - before
        return at

    def _dispatch(
        self,
        entry: Any,
        extent: Size,
        shape: list[Size],
        guards: list[ir.Guard],
        group: list[ir.Value],
    ) -> ir.Index:
        if isinstance(entry, tuple) and len(entry) == 1:
            entry = entry[0]
        if isinstance(entry, ir.Value) and entry.shape:
            affine = self._as_tile_offset(entry)
            if affine is not None and not group:
                entry = affine
        if isinstance(entry, Tile):
            entry = TileOffset(entry, None)
        if isinstance(entry, TileOffset):
            return self._tile(entry, extent, shape, guards)
        if isinstance(entry, slice):
            return self._slice(entry, extent, shape, guards)
        if isinstance(entry, ir.Value) and entry.shape:
            return self._tensor(entry, shape, guards, group)
        if isinstance(entry, bool) or not isinstance(
            entry, (int, Size, Scalar, HostNumber, ir.Value)
        ):
            raise error(
                "KT0507",
                f"{describe(entry)} is no index",
                self.b.span,
                remedy="index with tiles, integers, slices, None or integer tiles",
            )
        if isinstance(entry, int):
            size = extent.as_int()
            if size is not None and not -size <= entry < size:
                raise error(
                    "KT0516", f"index {entry} of a dimension with {size} elements", self.b.span
                )
            entry = extent + entry if entry < 0 else entry
        value = self.b.scalar(entry)
        self._require_int(value)
        return ir.AtScalar(value)

    def _tile(
        self, entry: TileOffset, extent: Size, shape: list[Size], guards: list[ir.Guard]
    ) -> ir.Index:
        tile = entry.tile
        over_one = isinstance(tile.end, (int, Size)) and Size.of(tile.end) == ONE
        if extent == ONE and entry.offset is None and not over_one:
            shape.append(ONE)
            return ir.AtSlice(None, ONE)
        if entry.offset is None:
            self._check_extent(tile, extent)
        shape.append(tile.size)
        guards.append(ir.Guard(len(shape) - 1, tile.value))
        offset = None if entry.offset is None else self.b.scalar(entry.offset)
        return ir.AtTile(tile.value, offset)

    def _check_extent(self, tile: Tile, extent: Size) -> None:
        """A static dimension must be as long as the loop over it."""
        end = Size.of(tile.end).as_int() if isinstance(tile.end, (int, Size)) else None
        size = extent.as_int()
        if end is not None and size is not None and end > size and not self._masked:
            raise error(
                "KT0516",
                f"the loop runs to {end}, the dimension has {size} elements",
                self.b.span,
                why="lanes are bounded by the loop, not by the tensor",
                remedy="loop over this tensor's size, or mask the access with extra_mask",
            )

    def _slice(
        self, entry: slice, extent: Size, shape: list[Size], guards: list[ir.Guard]
    ) -> ir.Index:
        if entry.step not in (None, 1):
            raise error(
                "KT0508",
                "slice with a step",
                self.b.span,
                remedy="index with an explicit hl.arange(...) * step",
            )
        if entry.start is None and entry.stop is None:
            shape.append(extent)
            if extent != ONE:
                guards.append(ir.Guard(len(shape) - 1, None))
            return ir.AtSlice(None, extent)
        start = _wrap(0 if entry.start is None else entry.start, extent)
        stop = _wrap(extent if entry.stop is None else entry.stop, extent)
        length = self._difference(start, stop)
        shape.append(length)
        guards.append(ir.Guard(len(shape) - 1, None))
        if isinstance(start, (int, Size)) and Size.of(start) == Size.of(0):
            return ir.AtSlice(None, length)
        return ir.AtSlice(self.b.scalar(start), length)

    def _difference(self, start: Any, stop: Any) -> Size:
        """``stop - start`` when it does not depend on the device, e.g. ``a`` and ``a + 16``."""
        if isinstance(start, (int, Size)) and isinstance(stop, (int, Size)):
            return Size.of(stop) - Size.of(start)
        length = self._affine(stop)[1] - self._affine(start)[1]
        if self._affine(stop)[0] != self._affine(start)[0]:
            raise error(
                "KT0509",
                "the length of this slice depends on data",
                self.b.span,
                why="a tile's size must be known from block sizes and host sizes",
                remedy="write the end as start + length",
            )
        return length

    def _affine(self, x: Any) -> tuple[frozenset[tuple[int, int]], Size]:
        """A device integer as (device terms with coefficients, symbolic part)."""
        if isinstance(x, (int, Size)):
            return frozenset(), Size.of(x)
        terms: dict[int, int] = {}
        const = self._accumulate(self.b.scalar(x), 1, terms)
        return frozenset((k, v) for k, v in terms.items() if v), const

    def _accumulate(self, value: ir.Value, sign: int, terms: dict[int, int]) -> Size:
        op = self.b.producer.get(value)
        if isinstance(op, ir.Const):
            return Size.of(int(op.value) * sign)
        if isinstance(op, ir.SizeOf):
            return op.size * sign
        if isinstance(op, ir.Elementwise) and op.name in ("add", "sub"):
            left = self._accumulate(op.args[0], sign, terms)
            right_sign = sign if op.name == "add" else -sign
            return left + self._accumulate(op.args[1], right_sign, terms)
        if isinstance(op, ir.Elementwise) and op.name == "mul":
            for a, b in (op.args, op.args[::-1]):
                factor = self.b.producer.get(b)
                if isinstance(factor, ir.Const):
                    return self._accumulate(a, sign * int(factor.value), terms)
        key = id(op) if isinstance(op, ir.TileAttr) else id(value)
        if isinstance(op, ir.TileAttr):
            key = hash((id(op.tile), op.attr))
        terms[key] = terms.get(key, 0) + sign
        return Size.of(0)

    def _tensor(
        self, value: ir.Value, shape: list[Size], guards: list[ir.Guard], group: list[ir.Value]
    ) -> ir.Index:
        self._require_int(value)
        if group:
            full = self.b.broadcast_shape([g.shape for g in group])
            if value is group[0]:
                first = len(shape)
                shape.extend(full)
                self._group_start = first
                for i, axis in enumerate(full):
                    guards.extend(self._tensor_guard(axis, first + i))
            first = self._group_start
            if len(value.shape) < len(full):
                value = self.b.reshape(value, (ONE,) * (len(full) - len(value.shape)) + value.shape)
            return ir.AtTensor(value, tuple(range(first, first + len(full))))
        shape.append(value.shape[0])
        dim = len(shape) - 1
        guards.extend(self._tensor_guard(value.shape[0], dim))
        return ir.AtTensor(value, (dim,))

    _group_start = 0

    def _tensor_guard(self, axis: Size, dim: int) -> tuple[ir.Guard, ...]:
        return self.b.guard(axis, dim)

    def _as_tile_offset(self, value: ir.Value) -> TileOffset | None:
        """``tile.index`` or ``tile.index +- scalar`` as a tile with an offset."""
        op = self.b.producer.get(value)
        if isinstance(op, ir.TileIndex):
            return self._owner(op.tile, None)
        if isinstance(op, ir.Elementwise) and op.name in ("add", "sub"):
            base, offset = op.args
            if offset.shape and op.name == "add":
                base, offset = offset, base
            inner = self.b.producer.get(base)
            if offset.shape or not isinstance(inner, ir.TileIndex):
                return None
            if op.name == "sub":
                offset = self.b.elementwise("neg", offset)
            return self._owner(inner.tile, offset)
        return None

    def _owner(self, tile: ir.Value, offset: ir.Value | None) -> TileOffset | None:
        for known in self.b.tiles:
            if known.value is tile:
                return TileOffset(known, offset)
        return None

    def require_index(self, value: ir.Value, dtype: DType = I64) -> None:
        """Learn that the parameter behind a float index, bound or bit pattern holds integers."""
        origin = self._float_origin(value)
        if origin is not None:
            raise NeedFact(origin, dtype=dtype)

    def require_position(self, value: ir.Value) -> None:
        """Like :meth:`require_index`, for elements of a parameter used as they are loaded."""
        op = self.b.producer.get(value)
        while isinstance(op, (ir.Reshape, ir.Broadcast)):
            op = self.b.producer.get(op.value)
        if isinstance(op, ir.Load):
            self.require_index(op.result)

    def _float_origin(self, value: ir.Value) -> str | None:
        """The parameter of assumed f32 whose elements end up in this index: it holds integers."""
        if not value.dtype.is_float:
            return None
        op = self.b.producer.get(value)
        if isinstance(op, ir.Load):
            return self.origins.get(op.tensor)
        found = (self._float_origin(v) for v in _operands(op))
        return next((origin for origin in found if origin is not None), None)

    def _require_int(self, value: ir.Value) -> None:
        if not value.dtype.is_int:
            self.require_index(value)
            raise error(
                "KT0507",
                f"an index must be an integer, found {describe(value)}",
                self.b.span,
                remedy="convert it with .to(torch.int32)",
            )


def _operands(op: ir.Op | None) -> tuple[ir.Value, ...]:
    if isinstance(op, (ir.Cast, ir.Reshape, ir.Broadcast)):
        return (op.value,)
    if isinstance(op, (ir.Reduce, ir.Mask)):
        return (op.value,)
    return op.args if isinstance(op, ir.Elementwise) else ()


def _wrap(bound: Any, extent: Size) -> Any:
    if isinstance(bound, int) and bound < 0:
        return extent + bound
    return bound


def device_view(b: Builder, value: ir.Value, entries: Sequence[Any]) -> ir.Value:
    """``tile[:, None]``: only newaxis, full slices and ``...`` are possible on a device value."""
    entries = list(entries)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        given = sum(e is not None and e is not Ellipsis for e in entries)
        entries[at : at + 1] = [slice(None)] * (len(value.shape) - given)
    shape: list[Size] = []
    rest = list(value.shape)
    for entry in entries:
        if entry is None:
            shape.append(ONE)
        elif isinstance(entry, slice) and entry == slice(None) and rest:
            shape.append(rest.pop(0))
        elif isinstance(entry, int) and rest and rest[0] == ONE and entry in (0, -1):
            rest.pop(0)
        else:
            raise error(
                "KT0510",
                f"index {describe(entry)} on {describe(value)}",
                b.span,
                why="a tile in registers has no addressable elements; only None and ':' reshape it",
                remedy="reduce or gather along the axis instead",
            )
    shape.extend(rest)
    return b.reshape(value, shape)
