"""The loops of rolled reductions: how one is built for the operations that need it.

See :mod:`transpile.passes.roll` for which operations those are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, DType
from transpile.ir.ir import Block, Guard, Op, Span, TileType, TileVar, Value
from transpile.ir.ops import ELEMENTWISE, REDUCTIONS, Number
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import clone, entry_axes, operands, rebuild
from transpile.passes.fold import greatest, least

COMBINE = {
    "sum": "add", "prod": "mul", "max": "maximum", "min": "minimum", "any": "or", "all": "and",
    "xor_sum": "xor",
}  # fmt: skip
_EXTREME = {"argmax": ("max", "gt"), "argmin": ("min", "lt")}


class Refused(Exception):
    """The axis cannot be rolled."""

    def __init__(self, reason: str, op: Op | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.span = op.span if op is not None else None


@dataclass(frozen=True)
class Axis:
    """The rolled axis: its size, and the block symbol of its chunks."""

    size: Size
    block: Sym
    index_dtype: DType

    def of(self, value: Value) -> int | None:
        """Which axis of a value it is, or None; a value with two of it cannot be rolled."""
        if isinstance(value.type, TileVar):
            return None
        found = [dim for dim, size in enumerate(value.shape) if size == self.size]
        if len(found) > 1:
            raise Refused(f"a value has two axes of size {self.size}")
        return found[0] if found else None

    def is_wide(self, value: Value) -> bool:
        return self.of(value) is not None

    def finishes(self, op: Op) -> bool:
        """Whether the operation is a reduction over the rolled axis."""
        return isinstance(op, ir.Reduce) and self.of(op.value) == op.dim

    def type(self, value: Value) -> TileType:
        """The type of one chunk of a value."""
        chunk = Size.of(self.block)
        return TileType(value.dtype, tuple(chunk if s == self.size else s for s in value.shape))


@dataclass
class ChunkLoop:
    """Builds one loop over chunks; ``makers`` gives the maker of each value on whole rows."""

    axis: Axis
    makers: Mapping[Value, Op]
    env: dict[Value, Value] = field(default_factory=dict)
    body: list[Op] = field(default_factory=list)
    before: list[Op] = field(default_factory=list)
    after: list[Op] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    inits: list[Value] = field(default_factory=list)
    yields: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tile = Value(TileVar(self.axis.block), _tile_name(self.axis.size))
        self.span: Span | None = None

    def build(self, ops: Sequence[Op]) -> list[Op]:
        """The loop that does ``ops``, the operations before it and those after it."""
        for op in ops:
            self.span = op.span
            if isinstance(op, ir.Reduce) and self.axis.finishes(op):
                self._accumulate(op)
            elif isinstance(op, ir.Scan) and self.axis.of(op.values[0]) == op.dim:
                self._scan(op)
            else:
                self._copy(op)
        begin = self._scalar(ir.Const(0), self.axis.index_dtype)
        end = self._scalar(ir.SizeOf(self.axis.size), self.axis.index_dtype)
        block = Block((self.tile, *self.params), self.body, tuple(self.yields))
        loop = ir.ForTile(
            begin, end, self.axis.block, tuple(self.inits), block, loop=-1,
            results=tuple(self.results), span=self.span,
        )  # fmt: skip
        return [*self.before, loop, *self.after]

    def _scalar(self, op: Op, dtype: DType) -> Value:
        op.results = (Value(TileType(dtype)),)
        op.span = self.span
        self.before.append(op)
        return op.result

    def _emit(self, op: Op, into: list[Op] | None = None) -> Value:
        op.span = self.span
        (self.body if into is None else into).append(op)
        return op.result

    def _fresh(self, value: Value) -> Value:
        """The chunk of a wide value, now defined in the loop."""
        self.env[value] = Value(self.axis.type(value), value.name)
        return self.env[value]

    # -- operations on a chunk -----------------------------------------------------------------

    def _copy(self, op: Op) -> None:
        if isinstance(op, ir.Iota) and self.axis.is_wide(op.result):
            self._iota(op)
            return
        copy = dataclasses.replace(rebuild(op, lambda v: self.env.get(v, v), lambda b: b))
        if isinstance(copy, (ir.Load, ir.Store, ir.Atomic)):
            copy.index, copy.guards = self._access(copy)
        elif isinstance(copy, ir.Mask):
            copy.guards = tuple(self._guard(g, op.result.shape) for g in copy.guards)
        copy.results = tuple(self._fresh(r) for r in op.results)
        self.body.append(copy)

    def _guard(self, guard: Guard, shape: tuple[Size, ...]) -> Guard:
        if guard.tile is None and shape[guard.dim] == self.axis.size:
            return Guard(guard.dim, self.tile)
        return guard

    def _access(
        self, op: ir.Load | ir.Store | ir.Atomic
    ) -> tuple[tuple[ir.Index, ...], tuple[Guard, ...]]:
        """Slices of the axis become the tile; every axis of chunks gets the tile's guard."""
        index: list[ir.Index] = []
        rolled: set[int] = set()
        for entry, axes in zip(op.index, entry_axes(op.index), strict=True):
            if isinstance(entry, ir.AtSlice) and entry.length == self.axis.size:
                index.append(ir.AtTile(self.tile, entry.start))
                rolled.update(axes)
            else:
                index.append(entry)
                if isinstance(entry, ir.AtTensor):
                    chunk = Size.of(self.axis.block)
                    sizes = zip(axes, entry.value.shape, strict=True)
                    rolled.update(axis for axis, size in sizes if size == chunk)
        others = [g for g in op.guards if g.dim not in rolled or g.tile is not None]
        guards = [*others, *(Guard(dim, self.tile) for dim in sorted(rolled))]
        return tuple(index), tuple(sorted(guards, key=lambda g: g.dim))

    def _iota(self, op: ir.Iota) -> None:
        type_ = self.axis.type(op.result)
        value = self._emit(ir.TileIndex(self.tile, results=(Value(type_),)))
        for name, number, neutral in (("mul", op.step, 1), ("add", op.start, 0)):
            if number != neutral:
                constant = self._scalar(ir.Const(number), op.result.dtype)
                value = self._emit(ir.Elementwise(name, (value, constant), results=(Value(type_),)))
        value.name = op.result.name
        self.env[op.result] = value

    # -- reductions ----------------------------------------------------------------------------

    def _accumulate(self, op: ir.Reduce) -> None:
        """Combine chunks tile-wise in the loop; reduce the one tile that is left after it."""
        value = self._masked(op)
        dtype = _accumulator(op)
        if value.dtype != dtype:
            value = self._emit(ir.Cast(value, results=(Value(TileType(dtype, value.shape)),)))
        if op.name in _EXTREME:
            self._accumulate_place(op, value)
            return
        name = f"{op.result.name}_acc" if op.result.name else "acc"
        param, result = self._carry(value.tile, _identity(op.name, dtype), name)
        self.yields.append(self._pointwise(COMBINE[op.name], param, value, name=name))
        self._finish(op, result)

    def _carry(self, type_: TileType, start: Number, name: str) -> tuple[Value, Value]:
        """A new carried value filled with a number: the loop's parameter and its result."""
        scalar = self._scalar(ir.Const(start), type_.dtype)
        init = ir.Full(scalar, results=(Value(type_, name),))
        self.inits.append(self._emit(init, self.before))
        self.params.append(Value(type_, name))
        self.results.append(Value(type_, name))
        return self.params[-1], self.results[-1]

    def _pointwise(
        self, op: str, *args: Value, name: str | None = None, into: list[Op] | None = None
    ) -> Value:
        dtype = BOOL if ELEMENTWISE[op].rule == "bool" else args[-1].dtype
        shapes = [a.shape for a in args if a.shape]
        shape = tuple(
            max(sizes, key=lambda size: size != ONE) for sizes in zip(*shapes, strict=True)
        )
        result = Value(TileType(dtype, shape), name)
        return self._emit(ir.Elementwise(op, args, results=(result,)), into)

    def _accumulate_place(self, op: ir.Reduce, value: Value) -> None:
        """The extreme so far of each lane and its place; the first one of the best lanes wins."""
        extreme, better = _EXTREME[op.name]
        best, best_after = self._carry(value.tile, _identity(op.name, value.dtype), "best")
        place_type = TileType(self.axis.index_dtype, value.shape)
        place, place_after = self._carry(place_type, 0, "place")
        ahead = self._pointwise(better, value, best)
        if value.dtype.is_float:  # NaN wins
            first = self._pointwise(
                "and", self._nan(value), self._pointwise("not", self._nan(best))
            )
            ahead = self._pointwise("or", ahead, first)
        axes = tuple(s if d == op.dim else ONE for d, s in enumerate(value.shape))
        index = self._emit(ir.TileIndex(self.tile, results=(self._index_value((axes[op.dim],)),)))
        index = self._emit(ir.Reshape(index, results=(self._index_value(axes),)))
        index = self._emit(ir.Broadcast(index, results=(Value(place_type),)))
        self.yields.append(self._pointwise("where", ahead, value, best, name="best"))
        self.yields.append(self._pointwise("where", ahead, index, place, name="place"))
        self._finish_place(op, extreme, best_after, place_after)

    def _nan(self, value: Value, into: list[Op] | None = None) -> Value:
        return self._pointwise("isnan", value, into=into)

    def _index_value(self, shape: tuple[Size, ...]) -> Value:
        return Value(TileType(self.axis.index_dtype, shape))

    def _finish_place(self, op: ir.Reduce, extreme: str, best: Value, place: Value) -> None:
        row = tuple(ONE if d == op.dim else s for d, s in enumerate(best.shape))
        top = ir.Reduce(extreme, best, op.dim, True, results=(Value(TileType(best.dtype, row)),))
        found = self._pointwise("eq", best, self._emit(top, self.after), into=self.after)
        if best.dtype.is_float:
            nan = self._nan(best, self.after)
            found = self._pointwise("or", found, nan, into=self.after)
        last = ir.Const(int(greatest(place.dtype)), results=(Value(TileType(place.dtype)),))
        none = self._emit(last, self.after)
        places = self._pointwise("where", found, place, none, into=self.after)
        first = Value(TileType(place.dtype, op.result.shape))
        self._emit(ir.Reduce("min", places, op.dim, op.keepdim, results=(first,)), self.after)
        self._emit(ir.Cast(first, results=(op.result,)), self.after)

    # -- scans ---------------------------------------------------------------------------------

    def _scan(self, op: ir.Scan) -> None:
        """Scans a chunk, and combines what all chunks before have in total with it."""
        values = tuple(self.env.get(v, v) for v in op.values)
        scanned = tuple(Value(self.axis.type(r), r.name) for r in op.results)
        totals = tuple(
            Value(TileType(r.dtype, _at(s.shape, op.dim, ONE)))
            for r, s in zip(op.results, scanned, strict=True)
        )
        scan = ir.Scan(values, op.dim, op.name, op.combine and clone(op.combine), results=scanned)
        scan.span = self.span
        self.body.append(scan)
        if op.combine is None:
            name = op.name or "sum"
            neutral = _identity(name, op.result.dtype)
            self._emit(ir.Reduce(name, values[0], op.dim, True, results=totals))
        else:  # the function may not commute, so its last result it is
            neutral = 0
            self._last(op.dim, scanned, totals)
        carries = [self._carry(t.tile, neutral, f"{r.name or 'scan'}_carry")
                   for r, t in zip(op.results, totals, strict=True)]  # fmt: skip
        before = tuple(param for param, _ in carries)
        for result, value in zip(op.results, self._after(op, before, scanned), strict=True):
            value.name = result.name
            self.env[result] = value
        self.yields += self._after(op, before, totals)

    def _last(self, dim: int, scanned: Sequence[Value], results: Sequence[Value]) -> None:
        """The chunk's last elements: sums in which all others are 0."""
        shape = scanned[0].shape
        axes = tuple(size if d == dim else ONE for d, size in enumerate(shape))
        index = self._emit(ir.TileIndex(self.tile, results=(self._index_value((axes[dim],)),)))
        index = self._emit(ir.Reshape(index, results=(self._index_value(axes),)))
        index = self._emit(ir.Broadcast(index, results=(self._index_value(shape),)))
        end = self._emit(ir.TileAttr(self.tile, "end", results=(self._index_value(()),)))
        one = self._scalar(ir.Const(1), self.axis.index_dtype)
        last = self._pointwise("eq", index, self._pointwise("sub", end, one))
        for value, result in zip(scanned, results, strict=True):
            zero = self._scalar(ir.Const(False if value.dtype.is_bool else 0), value.dtype)
            alone = self._pointwise("where", last, value, zero)
            name = "any" if value.dtype.is_bool else "sum"
            self._emit(ir.Reduce(name, alone, dim, True, results=(result,)))

    def _after(self, op: ir.Scan, before: Sequence[Value], values: Sequence[Value]) -> list[Value]:
        """Tuples combined with that of the chunks before, if there are any."""
        if op.combine is None:
            return [self._pointwise(COMBINE[op.name or "sum"], before[0], values[0])]
        env: dict[Value, Value] = dict(zip(op.combine.params, (*before, *values), strict=True))

        def known(value: Value) -> Value:
            return env.get(value, value)

        for inner in op.combine.ops:
            copy = dataclasses.replace(rebuild(inner, known, lambda b: b))
            wide = [env[v] for v in operands(inner) if v in env and env[v].shape]
            shape = max((v.shape for v in wide), key=_elements, default=())
            copy.results = tuple(Value(TileType(r.dtype, shape), r.name) for r in inner.results)
            env |= dict(zip(inner.results, copy.results, strict=True))
            self.body.append(copy)
        begin = ir.TileAttr(self.tile, "begin", results=(self._index_value(()),))
        zero = self._scalar(ir.Const(0), self.axis.index_dtype)
        first = self._pointwise("eq", self._emit(begin), zero)
        combined = [env[y] for y in op.combine.yields]
        return [
            self._pointwise("where", first, v, c) for v, c in zip(values, combined, strict=True)
        ]

    def _masked(self, op: ir.Reduce) -> Value:
        """The chunk to accumulate, its lanes beyond the end neutral."""
        value = self.env.get(op.value, op.value)
        maker = self.makers[op.value]
        fill = _identity(op.name, value.dtype)
        if (
            isinstance(maker, ir.Mask)
            and maker.fill == fill
            and Guard(op.dim, None) in maker.guards
        ):
            return value
        guards = (Guard(op.dim, self.tile),)
        return self._emit(ir.Mask(value, guards, fill, results=(Value(value.type),)))

    def _finish(self, op: ir.Reduce, acc: Value) -> None:
        target = op.result
        if acc.dtype == target.dtype or op.name not in ("sum", "prod"):
            done = target
        else:
            done = Value(TileType(acc.dtype, target.shape))
        reduce = ir.Reduce(op.name, acc, op.dim, op.keepdim, results=(done,))
        self._emit(reduce, self.after)
        if done is not target:
            self._emit(ir.Cast(done, results=(target,)), self.after)


def _at(shape: tuple[Size, ...], dim: int, size: Size) -> tuple[Size, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _elements(shape: tuple[Size, ...]) -> int:
    """Orders shapes that are broadcast to each other."""
    return sum(size != ONE for size in shape)


def _tile_name(size: Size) -> str:
    sym = size.as_sym()
    return f"tile_{sym.name.lower()}" if sym is not None and sym.name.isidentifier() else "tile"


def _accumulator(op: ir.Reduce) -> DType:
    """The dtype in which chunks are combined."""
    source = op.value.dtype
    if op.name in ("any", "all"):
        return BOOL
    if op.name not in ("sum", "prod"):
        return source
    if not source.is_float:
        return op.result.dtype
    return F32 if source.bits < 32 else source


def _identity(name: str, dtype: DType) -> Number:
    identity = REDUCTIONS[name].identity
    if isinstance(identity, str):
        return least(dtype) if identity == "min" else greatest(dtype)
    if dtype.is_bool:
        return bool(identity)
    return float(identity) if dtype.is_float else int(identity)
