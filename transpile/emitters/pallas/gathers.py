"""Index tiles rewritten to what a TPU can address: slices, rows and one-hot selections.

- ``base + arange(n)`` is a slice;
- ``rows * width + x`` into a flat view is column ``x`` of the rows of a matrix;
- columns picked by an index are picked by comparing with every position, for want of a gather
  across lanes.

What is left are rows picked by an index: blocks of one row (see ``blocks``).
"""

from __future__ import annotations

import dataclasses
import re

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32, DType
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import definitions, index_shape, map_block, map_phases


def rewrite_gathers(kernel: ir.Kernel) -> ir.Kernel:
    """The kernel with fewer index tiles."""
    added: list[ir.Tensor] = []
    kernel = map_phases(kernel, lambda phase: _Gathers(kernel, phase.body, added).run())
    if not added:
        return kernel
    return dataclasses.replace(kernel, tensors=(*kernel.tensors, *added))


class _Gathers:
    def __init__(self, kernel: ir.Kernel, body: Block, added: list[ir.Tensor]) -> None:
        self.kernel = kernel
        self.body = body
        self.added = added
        self.makers = definitions(body)

    def run(self) -> Block:
        return map_block(self.body, self._op)

    def _op(self, op: Op) -> list[Op] | Op:
        if not isinstance(op, ir.Load | ir.Store | ir.Atomic):
            return op
        if not any(isinstance(e, ir.AtTensor) for e in op.index):
            return op
        before: list[Op] = []
        index = tuple(self._slice(e, before) for e in op.index)
        if index != op.index and index_shape(index) == index_shape(op.index):
            op = dataclasses.replace(op, index=index)
        else:
            before = []
        if not isinstance(op, ir.Load):
            return [*before, op]
        gathers = [d for d, e in enumerate(op.index) if isinstance(e, ir.AtTensor)]
        if len(gathers) != 1:
            return [*before, op]
        if len(op.index) == 1 and (made := self._flat(op)) is not None:
            return [*before, *made]
        if gathers == [len(op.index) - 1] and (made := self._columns(op)) is not None:
            return [*before, *made]
        return [*before, op]

    # -- slices --------------------------------------------------------------------------------

    def _slice(self, entry: ir.Index, before: list[Op]) -> ir.Index:
        """``start : start + n`` for an index tile that counts up from a scalar."""
        if not isinstance(entry, ir.AtTensor) or len(entry.dims) != 1:
            return entry
        found = self._counted(entry.value)
        if found is None:
            return entry
        start, length = found
        return ir.AtSlice(start, length)

    def _counted(self, value: Value) -> tuple[Value | None, Size] | None:
        match self.makers.get(value):
            case ir.Iota(start=0, step=1):
                return None, value.shape[0]
            case ir.Elementwise(name="add", args=(a, b)):
                for base, rest in ((a, b), (b, a)):
                    if base.shape == () and (found := self._counted(rest)) is not None:
                        start, length = found
                        return (base, length) if start is None else None
                return None
            case ir.Cast(value=inner) if inner.dtype.is_int:
                return self._counted(inner)
            case _:
                return None

    # -- flat views ----------------------------------------------------------------------------

    def _flat(self, op: ir.Load) -> list[Op] | None:
        """``flat[rows * width + x]`` as ``flat.reshape(-1, width)[rows, x]``."""
        (entry,) = op.index
        assert isinstance(entry, ir.AtTensor)
        match = self._row_and_rest(entry.value)
        if match is None:
            return None
        if op.mask is not None and op.mask.shape != entry.value.shape:
            return None
        tile, width, rest = match
        if len(entry.value.shape) != 1 or rest.shape != entry.value.shape:
            return None
        matrix = self._matrix(op.tensor, width)
        if matrix is None:
            return None
        ops: list[Op] = []
        rows = Value(TileType(op.result.dtype, (*entry.value.shape, width)))
        guards = tuple(g for g in op.guards if g.tile is tile)
        index = (ir.AtTile(tile), ir.AtSlice(None, width))
        ops.append(ir.Load(matrix, index, guards, results=(rows,), span=op.span))
        picked = op.result
        if op.mask is not None:
            picked = Value(op.result.type, op.result.name)
        _pick(ops, rows, rest, picked)
        if op.mask is not None:
            zero = Value(TileType(op.result.dtype))
            ops.append(ir.Const(0, results=(zero,)))
            ops.append(ir.Elementwise("where", (op.mask, picked, zero), results=(op.result,)))
        return ops

    def _row_and_rest(self, value: Value) -> tuple[Value, Size, Value] | None:
        match self.makers.get(value):
            case ir.Elementwise(name="add", args=(a, b)):
                for row, rest in ((a, b), (b, a)):
                    if (found := self._scaled_rows(row)) is not None:
                        return (*found, rest)
            case ir.Cast(value=inner) if inner.dtype.is_int:
                return self._row_and_rest(inner)
        return None

    def _scaled_rows(self, value: Value) -> tuple[Value, Size] | None:
        match self.makers.get(value):
            case ir.Elementwise(name="mul", args=(a, b)):
                for row, width in ((a, b), (b, a)):
                    tile, size = self._rows(row), self._size(width)
                    if tile is not None and size is not None:
                        return tile, size
            case ir.Cast(value=inner) if inner.dtype.is_int:
                return self._scaled_rows(inner)
        return None

    def _rows(self, value: Value) -> Value | None:
        match self.makers.get(value):
            case ir.TileIndex(tile=tile):
                return tile
            case ir.Cast(value=inner):
                return self._rows(inner)
            case _:
                return None

    def _size(self, value: Value) -> Size | None:
        match self.makers.get(value):
            case ir.SizeOf(size=size):
                return size
            case ir.Const(value=int() as number):
                return Size.of(number)
            case ir.Cast(value=inner):
                return self._size(inner)
            case _:
                return None

    def _matrix(self, tensor: ir.Tensor, width: Size) -> ir.Tensor | None:
        """A flat tensor as a matrix of rows of ``width``."""
        (length,) = tensor.shape
        rows = length // width
        if rows * width != length:
            return None
        base = self._viewed(tensor)
        names = [n for size, n in self.kernel.size_names if size == width]
        number = width.as_int()
        name = str(number) if number is not None else names[0] if names else None
        for known in (*self.kernel.tensors, *self.added):
            if known.shape == (rows, width) and known.host == base:
                return known
        if name is None:
            return None
        made = ir.Tensor(
            f"{tensor.name}_rows", tensor.dtype, (rows, width), (width, ONE),
            f"{tensor.host}.reshape(-1, {name})",
        )  # fmt: skip
        self.added.append(made)
        return made

    def _viewed(self, tensor: ir.Tensor) -> str | None:
        """What a flat tensor is a view of, as the host program says."""
        pattern = r"(\w+)\.(?:(?:view|reshape)\(-1\)|flatten\(\))"
        if match := re.fullmatch(pattern, tensor.host):
            return match[1]
        for item in self.kernel.host:
            if isinstance(item, ir.HostCode) and tensor.host in item.defines:
                match = re.fullmatch(rf"{re.escape(tensor.host)} = {pattern}", item.text.strip())
                if match:
                    return match[1]
        return None

    # -- columns -------------------------------------------------------------------------------

    def _columns(self, op: ir.Load) -> list[Op] | None:
        """``x[rows, index]`` with one column per row."""
        entry = op.index[-1]
        assert isinstance(entry, ir.AtTensor)
        width = op.tensor.shape[-1]
        index = (*op.index[:-1], ir.AtSlice(None, width))
        shape = index_shape(index)
        if entry.value.shape != shape[:-1] or op.result.shape != shape[:-1]:
            return None
        if op.mask is not None:
            return None
        rows = Value(TileType(op.result.dtype, shape))
        load = dataclasses.replace(op, index=index, results=(rows,))
        ops: list[Op] = [load]
        _pick(ops, rows, entry.value, op.result)
        return ops


def _pick(ops: list[Op], rows: Value, index: Value, result: Value) -> None:
    """``result[i] = rows[i, index[i]]``: the sum over a row of where its position is the index."""
    *lead, width = rows.shape
    lanes = Value(TileType(I32, (width,)))
    ops.append(ir.Iota(results=(lanes,)))
    line = Value(TileType(I32, (*(ONE,) * len(lead), width)))
    ops.append(ir.Reshape(lanes, results=(line,)))
    column = Value(TileType(index.dtype, (*lead, ONE)))
    ops.append(ir.Reshape(index, results=(column,)))
    here = Value(TileType(BOOL, rows.shape))
    ops.append(ir.Elementwise("eq", (line, column), results=(here,)))
    zero = Value(TileType(rows.dtype))
    ops.append(ir.Const(_zero(rows.dtype), results=(zero,)))
    kept = Value(rows.type)
    ops.append(ir.Elementwise("where", (here, rows, zero), results=(kept,)))
    ops.append(ir.Reduce("sum", kept, len(lead), results=(result,)))


def _zero(dtype: DType) -> bool | int | float:
    return False if dtype.is_bool else 0.0 if dtype.is_float else 0
