"""Drops the axes of tiles whose block size is one: what a person would write as a scalar.

A tile loop with block size 1 becomes a scalar loop, its axis leaves every shape, and a product
whose rows, columns or depth it was becomes a multiplication and a sum. A tile all of whose
remaining axes are of size 1 becomes a scalar too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.ir import Block, Op, TileType, TileVar, Value
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import entry_axes, index_shape, rebuild, walk_kernel
from transpile.passes.unit_shapes import Shape, UnitShapes


def squeeze(kernel: ir.Kernel, blocks: Mapping[Sym, int]) -> ir.Kernel:
    """The kernel without axes of one lane, for these block sizes."""
    units = {s: 1 for s, n in blocks.items() if n == 1}
    if not units and not _has_unit_shapes(kernel):
        return kernel
    phases = tuple(_Squeezer(kernel, units).phase(p) for p in kernel.phases)
    return dataclasses.replace(kernel, phases=phases)


def _has_unit_shapes(kernel: ir.Kernel) -> bool:
    return any(
        isinstance(r.type, TileType) and r.shape and all(s == ONE for s in r.shape)
        for op in walk_kernel(kernel)
        for r in op.results
    )


class _Squeezer(UnitShapes):
    """Rebuilds one phase."""

    # -- structure -----------------------------------------------------------------------------

    def phase(self, phase: ir.Phase) -> ir.Phase:
        axes = tuple(self.axis(axis) for axis in phase.axes)
        return dataclasses.replace(phase, axes=axes, body=self.block(phase.body))

    def axis(self, axis: ir.GridAxis) -> ir.GridAxis:
        """A grid axis of tiles of one lane is one of numbers."""
        if axis.block is None or axis.block not in self.units:
            return axis
        var = Value(TileType(self.index_dtype), _scalar_name("pid", axis.var.name))
        self.env[axis.var] = var
        self.counts[axis.var] = lambda: self.size_of(axis.end - axis.begin)
        return ir.GridAxis(var, axis.begin, axis.end, None, 1)

    def size_of(self, size: Size) -> Value:
        return self.emit(ir.SizeOf(size, results=(Value(TileType(self.index_dtype)),)))

    def block(self, block: Block) -> Block:
        saved, self.ops = self.ops, []
        params = tuple(p if isinstance(p.type, TileVar) else self.new(p) for p in block.params)
        params = tuple(self.at(p) for p in params)
        for op in block.ops:
            self.span = op.span
            self.op(op)
        yields = tuple(self.at(y) for y in block.yields)
        done = Block(params, self.ops, yields)
        self.ops = saved
        return done

    def op(self, op: Op) -> None:
        handler = _HANDLERS.get(type(op))
        if handler is not None:
            handler(self, op)
            return
        copy = dataclasses.replace(rebuild(op, self.at, self.block))
        copy.results = tuple(self.new(r) for r in op.results)
        self.ops.append(copy)
        for result in copy.results:
            self.makers[result] = copy

    # -- tiles ---------------------------------------------------------------------------------

    def tile_index(self, op: ir.TileIndex) -> None:
        if not self.is_unit_tile(op.tile):
            self.emit(ir.TileIndex(op.tile, results=(self.new(op.result),)))
            return
        self.env[op.result] = self.cast(self.at(op.tile), op.result.dtype)

    def cast(self, value: Value, dtype: DType) -> Value:
        if value.dtype == dtype:
            return value
        return self.emit(ir.Cast(value, results=(Value(TileType(dtype, value.shape)),)))

    def tile_attr(self, op: ir.TileAttr) -> None:
        if not self.is_unit_tile(op.tile):
            self.emit(ir.TileAttr(op.tile, op.attr, results=(self.new(op.result),)))
            return
        position = self.at(op.tile)
        if op.attr == "end":
            one = self.const(1, position.dtype)
            position = self.emit(
                ir.Elementwise("add", (position, one), results=(Value(position.type),))
            )
        elif op.attr == "count":
            position = self.counts[op.tile]()
        self.env[op.result] = self.cast(position, op.result.dtype)

    def size_value(self, op: ir.SizeOf) -> None:
        self.emit(ir.SizeOf(self.size(op.size), results=(self.new(op.result),)))

    def for_tile(self, op: ir.ForTile) -> None:
        inits = tuple(self.at(v) for v in op.inits)
        begin, end = self.at(op.begin), self.at(op.end)
        tile = op.body.params[0]
        if op.block not in self.units:
            body = self.block(op.body)
            results = tuple(self.new(r) for r in op.results)
            self.ops.append(
                ir.ForTile(
                    begin, end, op.block, inits, body, op.loop, results=results, span=op.span
                )
            )
            return
        step = self.const(1, begin.dtype)
        self.env[tile] = Value(TileType(begin.dtype), _scalar_name("i", tile.name))
        self.counts[tile] = lambda: self.emit(
            ir.Elementwise("sub", (end, begin), results=(Value(begin.type),))
        )
        body = self.block(op.body)
        body = Block((self.env[tile], *body.params[1:]), body.ops, body.yields)
        results = tuple(self.new(r) for r in op.results)
        self.ops.append(
            ir.ForRange(begin, end, step, inits, body, op.loop, results=results, span=op.span)
        )

    # -- memory --------------------------------------------------------------------------------

    def access(self, op: ir.Load | ir.Store | ir.Atomic) -> None:
        shape = index_shape(op.index)
        kept = self.kept(shape)
        place = {d: i for i, d in enumerate(kept)}
        changes: dict[str, object] = {
            "index": tuple(
                self.entry(e, dims, place, shape)
                for e, dims in zip(op.index, entry_axes(op.index), strict=True)
            ),
            "guards": self.guards(op.guards, place),
            "mask": None if op.mask is None else self.fit(op.mask, shape),
        }
        if not isinstance(op, ir.Load):
            changes["value"] = self.fit(op.value, shape)
        if isinstance(op, ir.Atomic) and op.expected is not None:
            changes["expected"] = self.fit(op.expected, shape)
        copy = dataclasses.replace(op, **changes)  # type: ignore[arg-type]
        copy.results = tuple(self.new(r) for r in op.results)
        self.ops.append(copy)
        for result in copy.results:
            self.makers[result] = copy

    def entry(
        self, entry: ir.Index, dims: tuple[int, ...], place: Mapping[int, int], shape: Shape
    ) -> ir.Index:
        """The index entry for axes ``dims`` of ``shape``, of which those in ``place`` stay."""
        match entry:
            case ir.AtTile(tile=tile, offset=offset) if self.is_unit_tile(tile):
                return ir.AtScalar(self.plus(self.at(tile), offset))
            case ir.AtTile(tile=tile, offset=offset):
                return ir.AtTile(tile, None if offset is None else self.at(offset))
            case ir.AtSlice(start=start, length=length) if dims[0] not in place:
                zero = start is None
                return ir.AtScalar(self.const(0, self.index_dtype) if zero else self.at(start))  # type: ignore[arg-type]
            case ir.AtSlice(start=start, length=length):
                return ir.AtSlice(None if start is None else self.at(start), self.size(length))
            case ir.AtTensor(value=value):
                # What another entry gives its lanes along an axis needs no axis of one here.
                own = {
                    place[d]: self.size(s)
                    for d, s in zip(dims, value.shape, strict=True)
                    if d in place and (self.size(s) != ONE or self.size(shape[d]) == ONE)
                }
                if not own:
                    return ir.AtScalar(self.reshaped(self.at(value), ()))
                return ir.AtTensor(self.tile(self.at(value), tuple(own.values())), tuple(own))
            case ir.AtScalar(value=value):
                return ir.AtScalar(self.at(value))

    def plus(self, position: Value, offset: Value | None) -> Value:
        if offset is None:
            return position
        offset = self.at(offset)
        dtype = max(position.dtype, offset.dtype, key=lambda d: d.bits)
        args = (self.cast(position, dtype), self.cast(offset, dtype))
        return self.emit(ir.Elementwise("add", args, results=(Value(TileType(dtype)),)))

    def guards(self, guards: Sequence[ir.Guard], place: Mapping[int, int]) -> tuple[ir.Guard, ...]:
        return tuple(
            ir.Guard(place[g.dim], g.tile)
            for g in guards
            if g.dim in place and not (g.tile is not None and self.is_unit_tile(g.tile))
        )

    # -- compute -------------------------------------------------------------------------------

    def elementwise(self, op: ir.Elementwise | ir.Broadcast | ir.Inline) -> None:
        target = op.result.shape
        if isinstance(op, ir.Broadcast):
            value = self.fit(op.value, target)
            if value.shape == self.shape(target):
                self.finish(op.result, value)
            else:
                self.emit(ir.Broadcast(value, results=(self.new(op.result),)))
            return
        args = tuple(self.fit(a, target) for a in op.args)
        copy = dataclasses.replace(op, args=args)
        copy.results = tuple(self.new(r) for r in op.results)
        self.emit(copy)

    def reshape(self, op: ir.Reshape) -> None:
        value, want = self.at(op.value), self.shape(op.result.shape)
        if value.shape in (want, ()):
            self.env[op.result] = value
            return
        made = self.reshaped(value, want)
        if op.result.name is not None and made.name is None:
            made.name = op.result.name
        self.env[op.result] = made

    def permute(self, op: ir.Permute) -> None:
        value = self.at(op.value)
        kept = self.kept(op.value.shape)
        order = tuple(kept.index(op.order[i]) for i in self.kept(op.result.shape))
        if order == tuple(range(len(order))):
            self.env[op.result] = value
        else:
            self.emit(ir.Permute(value, order, results=(self.new(op.result),)))

    def iota(self, op: ir.Iota) -> None:
        if self.shape(op.result.shape) == ():
            self.env[op.result] = self.const(op.start, op.result.dtype)
        else:
            self.emit(ir.Iota(op.start, op.step, results=(self.new(op.result),)))

    def full(self, op: ir.Full) -> None:
        want = self.shape(op.result.shape)
        if want == ():
            self.env[op.result] = self.at(op.value)
        else:
            self.emit(ir.Full(self.at(op.value), results=(self.new(op.result),)))

    def mask(self, op: ir.Mask) -> None:
        place = {d: i for i, d in enumerate(self.kept(op.result.shape))}
        guards = self.guards(op.guards, place)
        value = self.at(op.value)
        if not guards:
            self.env[op.result] = value
        else:
            self.emit(ir.Mask(value, guards, op.fill, results=(self.new(op.result),)))

    def reduce(self, op: ir.Reduce) -> None:
        kept, value = self.kept(op.value.shape), self.at(op.value)
        dtype = op.result.dtype
        if op.dim not in kept:  # a reduction over one lane
            if op.name in ("argmax", "argmin"):
                value = self.const(0, dtype)
            self.finish(op.result, self.cast(value, dtype))
            return
        dim, keepdim = kept.index(op.dim), op.keepdim
        want = self.shape(op.result.shape)
        if want == ():
            value, dim, keepdim = self.reshaped(value, (value.shape[dim],)), 0, False
        natural = (*value.shape[:dim], *((ONE,) if keepdim else ()), *value.shape[dim + 1 :])
        result = Value(TileType(dtype, natural), op.result.name)
        self.emit(ir.Reduce(op.name, value, dim, keepdim, results=(result,)))
        self.finish(op.result, result)

    def reduce_with(self, op: ir.ReduceWith) -> None:
        kept = self.kept(op.values[0].shape)
        values = tuple(self.at(v) for v in op.values)
        if op.dim not in kept:
            for result, value in zip(op.results, values, strict=True):
                self.finish(result, value)
            return
        dim, keepdim = kept.index(op.dim), op.keepdim
        if self.shape(op.result.shape) == ():
            values, dim, keepdim = (
                tuple(self.reshaped(v, (v.shape[dim],)) for v in values),
                0,
                False,
            )
        results = []
        for v in values:
            natural = (*v.shape[:dim], *((ONE,) if keepdim else ()), *v.shape[dim + 1 :])
            results.append(Value(TileType(v.dtype, natural)))
        combine = self.block(op.combine)
        self.emit(ir.ReduceWith(values, dim, combine, keepdim, results=tuple(results)))
        for old, value in zip(op.results, results, strict=True):
            self.finish(old, value)

    def scan(self, op: ir.Scan) -> None:
        kept = self.kept(op.values[0].shape)
        values = tuple(self.at(v) for v in op.values)
        if op.dim not in kept:
            for result, value in zip(op.results, values, strict=True):
                self.finish(result, self.cast(value, result.dtype))
            return
        combine = None if op.combine is None else self.block(op.combine)
        results = tuple(self.new(r) for r in op.results)
        self.emit(
            ir.Scan(values, kept.index(op.dim), op.name, combine, op.reverse, results=results)
        )

    def dot(self, op: ir.Dot) -> None:
        batch, m, n = op.result.shape[:-2], op.result.shape[-2], op.result.shape[-1]
        k = op.lhs.shape[-1]
        gone = [self.is_unit(s) for s in (m, n, k)]
        scalars = [self.at(v).shape == () for v in (op.lhs, op.rhs)]
        if any(gone) or any(scalars):
            self.product(op, batch, m, n, k)
            return
        lead = tuple(self.size(s) for s in batch if not self.is_unit(s))
        lhs = self.reshaped(self.at(op.lhs), (*lead, self.size(m), self.size(k)))
        rhs = self.reshaped(self.at(op.rhs), (*lead, self.size(k), self.size(n)))
        acc = None if op.acc is None else self.at(op.acc)
        natural = (*lead, self.size(m), self.size(n))
        result = Value(TileType(op.result.dtype, natural), op.result.name)
        self.emit(ir.Dot(lhs, rhs, acc, op.acc_dtype, op.precision, results=(result,)))
        self.finish(op.result, result)

    def product(self, op: ir.Dot, batch: Shape, m: Size, n: Size, k: Size) -> None:
        """``sum(lhs[:, :, None] * rhs[None, :, :], k)`` with the axes of one lane left out."""
        full = (*batch, m, k, n)
        here = [i for i, s in enumerate(full) if not self.is_unit(s)]
        rank = len(batch)

        def spread(old: Value, missing: int) -> Value:
            value = self.cast(self.at(old), op.acc_dtype)
            shape = tuple(ONE if i == missing else self.size(full[i]) for i in here)
            return self.reshaped(value, shape)

        lhs, rhs = spread(op.lhs, rank + 2), spread(op.rhs, rank)
        shape = tuple(self.size(full[i]) for i in here)
        value = self.emit(
            ir.Elementwise("mul", (lhs, rhs), results=(Value(TileType(op.acc_dtype, shape)),))
        )
        if rank + 1 in here:
            dim = here.index(rank + 1)
            natural = (*shape[:dim], *shape[dim + 1 :])
            value = self.emit(
                ir.Reduce("sum", value, dim, results=(Value(TileType(op.acc_dtype, natural)),))
            )
        value = self.reshaped(value, self.shape(op.result.shape))
        if op.acc is not None:
            acc = self.cast(self.at(op.acc), value.dtype)
            value = self.emit(
                ir.Elementwise(
                    "add", (acc, value), results=(Value(TileType(value.dtype, value.shape)),)
                )
            )
        value = self.cast(value, op.result.dtype)
        self.finish(op.result, value)

    def join(self, op: ir.Join) -> None:
        lhs, rhs = self.at(op.lhs), self.at(op.rhs)
        natural = (*lhs.shape, Size.of(2))
        result = Value(TileType(op.result.dtype, natural), op.result.name)
        self.emit(ir.Join(lhs, rhs, results=(result,)))
        self.finish(op.result, result)

    def sort(self, op: ir.Sort) -> None:
        kept = self.kept(op.value.shape)
        last = len(op.value.shape) - 1
        if last in kept:
            copy = dataclasses.replace(op, value=self.at(op.value))
            copy.results = tuple(self.new(r) for r in op.results)
            self.emit(copy)
            return
        self.finish(op.results[0], self.at(op.value))
        for indices in op.results[1:]:
            self.env[indices] = self.const(0, indices.dtype)

    def gather(self, op: ir.Gather) -> None:
        kept = self.kept(op.value.shape)
        index = self.fit(op.index, op.result.shape)
        if op.dim not in kept:
            value = self.at(op.value)
            self.emit(ir.Broadcast(value, results=(self.new(op.result),)))
            return
        copy = ir.Gather(self.at(op.value), index, kept.index(op.dim))
        copy.results = (self.new(op.result),)
        self.emit(copy)


def _scalar_name(prefix: str, tile: str | None) -> str:
    """``pid_m`` for a tile named ``tile_m``, ``pid`` for one named ``tile``."""
    name = tile or ""
    for affix in ("tile_", "_tile", "tile"):
        name = name.removeprefix(affix).removesuffix(affix)
    return f"{prefix}_{name}" if name else prefix


_HANDLERS: dict[type[Op], Callable[..., None]] = {
    ir.TileIndex: _Squeezer.tile_index,
    ir.TileAttr: _Squeezer.tile_attr,
    ir.SizeOf: _Squeezer.size_value,
    ir.ForTile: _Squeezer.for_tile,
    ir.Load: _Squeezer.access,
    ir.Store: _Squeezer.access,
    ir.Atomic: _Squeezer.access,
    ir.Elementwise: _Squeezer.elementwise,
    ir.Broadcast: _Squeezer.elementwise,
    ir.Inline: _Squeezer.elementwise,
    ir.Reshape: _Squeezer.reshape,
    ir.Permute: _Squeezer.permute,
    ir.Iota: _Squeezer.iota,
    ir.Full: _Squeezer.full,
    ir.Mask: _Squeezer.mask,
    ir.Reduce: _Squeezer.reduce,
    ir.ReduceWith: _Squeezer.reduce_with,
    ir.Scan: _Squeezer.scan,
    ir.Dot: _Squeezer.dot,
    ir.Join: _Squeezer.join,
    ir.Sort: _Squeezer.sort,
    ir.Gather: _Squeezer.gather,
}
