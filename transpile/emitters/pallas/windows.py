"""Windows: the part of a tensor that a grid step sees, from how the kernel indexes it.

A dimension indexed by a grid tile becomes a block, one indexed by a number that follows from the
grid position is squeezed, and every other one is there whole: the kernel indexes it by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from transpile.emitters.common.tree import ADD, MUL, Expr, Var, binary, lit, ref
from transpile.emitters.pallas.dtypes import bytes_of
from transpile.emitters.pallas.sizes import Sizes
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import I32
from transpile.ir.ir import TileVar, Value
from transpile.ir.sizes import ZERO, Size, Sym
from transpile.ir.walk import operands, walk

if TYPE_CHECKING:
    from transpile.emitters.pallas.loops import Copied, Form

Access = ir.Load | ir.Store | ir.Atomic


@dataclass(eq=False, slots=True)
class GridDim:
    """One axis of the Pallas grid: a grid axis of the phase, or a tile loop made one.

    ``letter`` is its name in index maps, ``pid`` in the kernel. ``turns``: how many blocks one step
    walks, if it walks several.
    """

    var: Value
    begin: Size
    end: Size
    block: Sym | None
    step: int
    letter: Var
    pid: Var
    loop: ir.ForTile | None = None
    arbitrary: bool = False
    turns: Sym | None = None

    @property
    def window(self) -> Size:
        """Positions that one step covers."""
        assert self.block is not None
        size = Size.of(self.block)
        return size if self.turns is None else Size.of(self.turns) * size

    def count(self, sizes: Sizes) -> Expr:
        """Number of steps."""
        extent = sizes.expr(self.end - self.begin)
        if self.block is None and self.step == 1:
            return extent
        step = lit(str(self.step)) if self.block is None else sizes.expr(self.window)
        number, by = extent.text(), step.text()
        if number.isdigit() and by.isdigit():
            return lit(str(-(-int(number) // int(by))))
        return Expr("pl.cdiv({0}, {1})", (extent, step), (0, 0), dtype=I32)


Kind = Literal["block", "squeezed", "whole"]


@dataclass(frozen=True, slots=True)
class WindowDim:
    """One dimension of a window: ``size`` elements at block ``index`` of the tensor's.

    ``steps`` are blocks in whose steps the kernel walks a whole dimension: its window is rounded up
    to a multiple of them.
    """

    kind: Kind
    size: Size
    index: Expr
    along: frozenset[GridDim]
    steps: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[str, Size, str]:
        return self.kind, self.size, self.index.text()


@dataclass(eq=False, slots=True)
class Window:
    """What a BlockSpec says. ``unit``: the tensor is viewed with an axis of 1 before its last."""

    tensor: ir.Tensor
    dims: list[WindowDim]
    ref: Var
    space: Literal["vmem", "smem", "prefetch", "hbm", "buffer"] = "vmem"
    unit: bool = False
    written: bool = False
    view: Literal["", "rows", "lanes"] = ""  # of a tensor in HBM that index tiles access
    parts: Size | None = None  # the width of the parts of rows that are copied

    @property
    def along(self) -> set[GridDim]:
        """Grid axes that move the window."""
        return {g for d in self.dims for g in d.along}


class Scalars:
    """Scalars of the kernel that follow from the grid position alone."""

    def __init__(self, grid: list[GridDim], sizes: Sizes, body: ir.Block) -> None:
        self.sizes = sizes
        self.grid = {g.var: g for g in grid}
        self.makers = {r: op for op in walk(body) for r in op.results}
        self.prefetched: dict[ir.Tensor, Var] = {}

    def expr(self, value: Value) -> Expr | None:
        """The scalar in terms of index-map letters; None if it depends on more."""
        if value in self.grid:
            dim = self.grid[value]
            return plus(self.sizes.expr(dim.begin), times(ref(dim.letter, I32), dim.step))
        match self.makers.get(value):
            case ir.Const(value=int() as number):
                size = Size.of(int(number))
                return self.sizes.expr(size) if size in self.sizes.general else lit(str(size))
            case ir.SizeOf(size=size) if all(s.kind != "scalar" for s in size.syms):
                return self.sizes.expr(size)
            case ir.TileAttr(tile=tile, attr="begin") if tile in self.grid:
                return self.begin(self.grid[tile])
            case ir.TileAttr(tile=tile, attr="id") if tile in self.grid:
                return ref(self.grid[tile].letter, I32)
            case ir.Cast(value=inner) if inner.dtype.is_int and value.dtype.is_int:
                return self.expr(inner)
            case ir.Elementwise(name=name, args=(a, b)) if name in _ARITHMETIC:
                return self._arithmetic(name, a, b)
            case ir.Load() as op if op.mask is None and not op.result.shape:
                return self._element(op)
            case _:
                return None

    def begin(self, dim: GridDim) -> Expr:
        """Where a grid tile begins."""
        assert dim.block is not None
        start = binary("*", ref(dim.letter, I32), self.sizes.expr(Size.of(dim.block)), MUL, I32)
        return plus(self.sizes.expr(dim.begin), start)

    def _arithmetic(self, name: str, a: Value, b: Value) -> Expr | None:
        lhs, rhs = self.expr(a), self.expr(b)
        if lhs is None or rhs is None:
            return None
        if name == "add":
            return plus(lhs, rhs)
        if name == "mul":
            times(lhs, int(rhs.text())) if rhs.text().isdigit() else binary("*", lhs, rhs, MUL, I32)
        symbol, prec = {"sub": ("-", ADD), "floordiv": ("//", MUL), "mod": ("%", MUL)}[name]
        if name == "sub" and rhs.text() == "0":
            return lhs
        return binary(symbol, lhs, rhs, prec, I32)

    def _element(self, op: ir.Load) -> Expr | None:
        """An element of a tensor of numbers: a scalar-prefetch argument has it in index maps."""
        if not op.tensor.dtype.is_int:
            return None
        index = []
        for entry in op.index:
            assert isinstance(entry, ir.AtScalar)
            part = self.expr(entry.value)
            if part is None:
                return None
            index.append(part)
        var = self.prefetch(op.tensor)
        slots = ", ".join(f"{{{i + 1}}}" for i in range(len(index)))
        return Expr(
            f"{{0}}[{slots}]", (ref(var), *index), (0,) * (len(index) + 1), dtype=I32, is_load=True
        )

    def prefetch(self, tensor: ir.Tensor) -> Var:
        """The ref of a tensor of numbers that is a scalar-prefetch argument."""
        var = self.prefetched.setdefault(tensor, Var(f"{tensor.name}_ref", argument=True))
        var.name = var.hint
        return var


_ARITHMETIC = frozenset({"add", "sub", "mul", "floordiv", "mod"})


def plus(a: Expr, b: Expr) -> Expr:
    """``a + b`` without zeros."""
    if a.text() == "0":
        return b
    if b.text() == "0":
        return a
    return binary("+", a, b, ADD, I32)


def times(a: Expr, number: int) -> Expr:
    """``a * number``."""
    return a if number == 1 else binary("*", a, lit(str(number)), MUL, I32)


@dataclass(eq=False, slots=True)
class Windows:
    """The windows of a phase, and which of them each access goes through."""

    sizes: Sizes
    scalars: Scalars
    inputs: list[Window] = field(default_factory=list)
    outputs: list[Window] = field(default_factory=list)
    of: dict[Access, Window] = field(default_factory=dict)
    initial: dict[ir.Tensor, Window] = field(default_factory=dict)  # what an output held before
    direct: dict[ir.Tensor, Window] = field(default_factory=dict)  # outputs that start undefined
    nested: dict[Value, GridDim] = field(default_factory=dict)  # tiles inside a grid tile
    loose: set[Value] = field(default_factory=set)  # tiles that begin anywhere
    loops: dict[ir.ForTile, tuple[Form, list[Copied]]] = field(default_factory=dict)
    hbm: dict[ir.Tensor, Window] = field(default_factory=dict)  # what loops copy from

    def build(self, body: ir.Block, modified: set[ir.Tensor]) -> None:
        """Windows for all accesses. ``modified``: written tensors whose old content counts."""
        accesses: dict[ir.Tensor, list[Access]] = {}
        self._prefetch_bounds()
        copied = {op: c for _, copies in self.loops.values() for c in copies for op in c.accesses}
        for op in walk(body):
            if isinstance(op, ir.Load | ir.Store | ir.Atomic):
                others = accesses.setdefault(op.tensor, [])
                if op not in copied:
                    others.append(op)
        for tensor, ops in accesses.items():
            if ops:
                self._dims(tensor, ops)  # finds the numbers that index maps read
        self.of |= {op: c.window for op, c in copied.items()}
        tensors = {c.tensor for c in copied.values()}
        stored = {c.tensor for c in copied.values() if c.stored}
        for tensor, ops in accesses.items():
            if tensor in tensors:
                self.hbm[tensor] = Window(tensor, [], Var(f"{tensor.name}_hbm_ref"), "hbm")
                outside = self.outputs if tensor in stored else self.inputs
                outside.append(self.hbm[tensor])
            if not ops:
                continue
            if all(isinstance(op, ir.Load) for op in ops):
                self._read(tensor, ops)
            else:
                self._written(tensor, ops, tensor in modified)

    def _prefetch_bounds(self) -> None:
        """Numbers that bound loops with copies are there before the kernel starts."""
        makers = self.scalars.makers
        seen: set[Value] = set()
        found = [v for loop in self.loops for v in (loop.begin, loop.end)]
        while found:
            value = found.pop()
            maker = makers.get(value)
            if maker is None or value in seen:
                continue
            seen.add(value)
            if isinstance(maker, ir.Load) and maker.tensor.dtype.is_int and not maker.result.shape:
                self.scalars.prefetch(maker.tensor)
            else:
                found += operands(maker)

    def _read(self, tensor: ir.Tensor, ops: list[Access]) -> None:
        if tensor in self.scalars.prefetched:
            window = Window(tensor, [], self.scalars.prefetched[tensor], "prefetch")
            scalar = [op for op in ops if not ir_rank(op)]
            self.inputs.append(window)
            self.of |= dict.fromkeys(scalar, window)
            ops = [op for op in ops if op not in scalar]
        groups: dict[object, list[Access]] = {}
        for op in ops:
            key: object = "scalar"
            if picks_rows(op):
                key = ("hbm", by_elements(op))
            elif ir_rank(op):
                key = tuple(d.key for d in self._dims(tensor, [op]))
            groups.setdefault(key, []).append(op)
        for key, group in groups.items():
            if picks_rows(group[0]):
                window = self._rows(tensor, group)
            else:
                window = self._window(tensor, group, "smem" if key == "scalar" else "vmem")
            self.inputs.append(window)

    def _written(self, tensor: ir.Tensor, ops: list[Access], modified: bool) -> None:
        scalar = all(not ir_rank(op) for op in ops)
        if any(picks_rows(op) for op in ops):
            window = self._rows(tensor, ops)
        else:
            window = self._window(tensor, ops, "smem" if scalar else "vmem")
        window.written = True
        self.outputs.append(window)
        if modified:
            old = Window(
                tensor, window.dims, Var(f"{tensor.name}_in_ref"), window.space, window.unit,
                view=window.view, parts=window.parts,
            )  # fmt: skip
            self.inputs.append(old)
            self.initial[tensor] = old

    def _rows(self, tensor: ir.Tensor, ops: list[Access]) -> Window:
        """A tensor in HBM, as a matrix of rows or of 128 lanes each."""
        elements = {by_elements(op) for op in ops}
        if len(elements) > 1 or not all(picks_rows(op) for op in ops):
            raise error(
                "KT0602",
                f"`{tensor.name}` accessed both through index tiles and otherwise is not "
                "supported by the pallas target",
                ops[0].span,
                why="a tensor is in HBM as rows, or comes in blocks",
                remedy="write to a tensor of its own, or in a kernel of its own",
            )
        parts = {
            Size.of(e.tile.type.block)  # type: ignore[union-attr]
            for op in ops
            if not by_elements(op)
            for e in op.index[-1:]
            if isinstance(e, ir.AtTile)
        }
        if len(parts) > 1:
            raise error(
                "KT0602", f"parts of several widths of the rows of `{tensor.name}` are not "
                "supported by the pallas target", ops[0].span, why="rows are cut in one way",
            )  # fmt: skip
        window = Window(
            tensor, [], Var(f"{tensor.name}_ref"), "hbm", bytes_of(tensor.dtype) < 4,
            view="lanes" if elements == {True} else "rows", parts=next(iter(parts), None),
        )  # fmt: skip
        self.of |= dict.fromkeys(ops, window)
        return window

    def _window(
        self, tensor: ir.Tensor, ops: list[Access], space: Literal["vmem", "smem"]
    ) -> Window:
        var = Var(f"{tensor.name}_ref")
        if space == "smem":
            window = Window(tensor, [], var, "smem")
        else:
            dims = self._dims(tensor, ops)
            window = Window(tensor, dims, var, unit=self._needs_unit(tensor, ops, dims))
        self.of |= dict.fromkeys(ops, window)
        return window

    def _dims(self, tensor: ir.Tensor, ops: list[Access]) -> list[WindowDim]:
        rank = len(tensor.shape)
        written = not all(isinstance(op, ir.Load) for op in ops)
        return [
            self._dim(tensor.shape[d], [op.index[d] for op in ops], d == rank - 1, written)
            for d in range(rank)
        ]

    def whole_dims(self, tensor: ir.Tensor, body: ir.Block) -> list[WindowDim]:
        """The tensor as one window that stays."""
        accesses = (op for op in walk(body) if isinstance(op, ir.Load | ir.Store | ir.Atomic))
        ops: list[Access] = [op for op in accesses if op.tensor is tensor]
        return [
            WindowDim("whole", extent, lit("0"), frozenset(), self._all_steps(ops, d, extent))
            for d, extent in enumerate(tensor.shape)
        ]

    def _all_steps(self, ops: list[Access], d: int, extent: Size) -> tuple[int, ...]:
        return tuple(sorted({s for op in ops for s in self._steps(op.index[d], extent)}))

    def _dim(self, extent: Size, entries: list[ir.Index], last: bool, written: bool) -> WindowDim:
        found = [self._moved(entry, last, written) for entry in entries]
        first = found[0]
        if first is not None and all(f is not None and f.key == first.key for f in found):
            return first
        steps = tuple(sorted({s for e in entries for s in self._steps(e, extent)}))
        return WindowDim("whole", extent, lit("0"), frozenset(), steps)

    def _moved(self, entry: ir.Index, last: bool, written: bool) -> WindowDim | None:
        """The block or the single position that the grid moves along the dimension."""
        grid = self.scalars.grid
        match entry:
            case ir.AtTile(tile=tile, offset=offset) if tile in grid:
                dim = grid[tile]
                shift = ZERO if offset is None else self.scalars_size(offset)
                assert dim.block is not None
                blocks = None if shift is None else self.whole_blocks(dim.begin + shift, dim.block)
                if blocks is None:
                    return None
                index = plus(ref(dim.letter, I32), lit(str(blocks)))
                return WindowDim("block", dim.window, index, frozenset({dim}))
            case ir.AtTile(tile=tile, offset=None) if tile in self.nested:
                outer = self.nested[tile]
                assert outer.block is not None
                size = Size.of(outer.block)
                return WindowDim("block", size, ref(outer.letter, I32), frozenset({outer}))
            case ir.AtSlice(start=start, length=length) if start is not None:
                return self._strided(start, length)
            case ir.AtScalar(value=value) if not last:
                place = self.scalars.expr(value)
                if place is None or (written and place.loads):
                    return None  # an output's block must not come twice
                return WindowDim("squeezed", Size.of(1), place, self.along(place))
            case _:
                return None

    def _strided(self, start: Value, length: Size) -> WindowDim | None:
        """A slice that begins at its length times a grid tile's number."""
        found = self._multiple(start)
        if found is None:
            return None
        dim, factor = found
        assert dim.block is not None
        if length != Size.of(dim.block) * factor or dim.begin != ZERO:
            return None
        return WindowDim("block", length, ref(dim.letter, I32), frozenset({dim}))

    def _multiple(self, value: Value) -> tuple[GridDim, int] | None:
        """The grid tile whose begin, times a number, the scalar is."""
        grid = self.scalars.grid
        match self.scalars.makers.get(value):
            case ir.TileAttr(tile=tile, attr="begin") if tile in grid:
                return grid[tile], 1
            case ir.Elementwise(name="mul", args=(a, b)):
                for base, by in ((a, b), (b, a)):
                    found, size = self._multiple(base), self.scalars_size(by)
                    number = None if size is None else size.as_int()
                    if found is not None and number is not None:
                        return found[0], found[1] * number
            case ir.Cast(value=inner) if inner.dtype.is_int:
                return self._multiple(inner)
        return None

    def whole_blocks(self, start: Size, block: Sym) -> int | None:
        """``start`` in blocks, if it is a known multiple of them."""
        number = start.as_int()
        size = self.sizes.schedule.blocks.get(block)
        if number == 0:
            return 0
        if number is None or size is None or number % size:
            return None
        if self.sizes.clamps(block) or block in self.sizes.rows:
            return None
        return number // size

    def scalars_size(self, value: Value) -> Size | None:
        """A scalar that is a host-side number."""
        match self.scalars.makers.get(value):
            case ir.Const(value=int() as number):
                return Size.of(number)
            case ir.SizeOf(size=size):
                return size
            case ir.Elementwise(name="neg", args=(inner,)):
                known = self.scalars_size(inner)
                return None if known is None else -known
            case ir.Elementwise(name="add" | "sub" | "mul" as name, args=(a, b)):
                x, y = self.scalars_size(a), self.scalars_size(b)
                if x is None or y is None:
                    return None
                return x + y if name == "add" else x - y if name == "sub" else x * y
            case ir.Cast(value=inner) if inner.dtype.is_int:
                return self.scalars_size(inner)
            case _:
                return None

    def along(self, expr: Expr) -> frozenset[GridDim]:
        """Grid axes that an index-map expression mentions."""
        letters = set(expr.vars())
        return frozenset(g for g in self.scalars.grid.values() if g.letter in letters)

    def _steps(self, entry: ir.Index, extent: Size) -> Iterable[int]:
        if isinstance(entry, ir.AtTile) and isinstance(entry.tile.type, TileVar):
            block = entry.tile.type.block
            size = self.sizes.schedule.blocks.get(block)
            if size is None:
                return
            if entry.tile in self.loose:
                yield -size  # blocks may start anywhere: one more has to fit
            elif not extent.divisible_by(size, self.sizes.kernel.multiple_of):
                yield size

    def _needs_unit(self, tensor: ir.Tensor, ops: list[Access], dims: list[WindowDim]) -> bool:
        """True where the last but one dimension is indexed by position: then it must not be one of
        the two that memory is tiled along."""
        if len(dims) < 2:
            return False
        at = len(dims) - 2
        if dims[at].kind == "squeezed":
            return True
        by_number = any(
            isinstance(op.index[at], ir.AtScalar) and self.scalars_size(op.index[at].value) is None  # type: ignore[union-attr]
            for op in ops
        )
        return by_number and bytes_of(tensor.dtype) < 4 and dims[at].kind == "whole"


def picks_rows(op: Access) -> bool:
    """True if an index tile picks what the access reads or writes."""
    return any(isinstance(e, ir.AtTensor) for e in op.index)


def by_elements(op: Access) -> bool:
    """True if it picks elements rather than rows."""
    return isinstance(op.index[-1], ir.AtTensor | ir.AtScalar)


def ir_rank(op: Access) -> int:
    """Rank of the tile that an access reads or writes."""
    return sum(
        len(e.dims) if isinstance(e, ir.AtTensor) else not isinstance(e, ir.AtScalar)
        for e in op.index
    )
