"""State of the lowering of one phase: the tiles so far, and the block being filled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BOOL, I32, DType
from transpile.ir.sizes import ONE, ZERO, Size, Sym
from transpile.ir.walk import use_counts, walk
from transpile.passes.ranges import kernel_ranges
from transpile.thread.ir import (
    Apply,
    Body,
    Const,
    Convert,
    Expr,
    Extent,
    Let,
    SharedBuffer,
    Var,
    add,
    integer,
    less,
)
from transpile.thread.layout import (
    Digits,
    Layout,
    register_position,
    thread_part,
    thread_position,
)
from transpile.thread.limits import Limits
from transpile.thread.nests import Env, Held, Item, split_digits
from transpile.thread.plan import Plan
from transpile.thread.scope import Scope


@dataclass(frozen=True, eq=False)
class Tile:
    """A lowered tile: its layout and how to get one element of it. ``sources`` are the values that
    reading it reads; ``held`` is the one that it is, unchanged."""

    layout: Layout
    dtype: DType
    read: Callable[[Env], Expr]
    sources: tuple[Held, ...] = ()
    held: Held | None = None

    def moved(self, layout: Layout) -> Tile:
        """The same elements as a tile of other axes."""
        return Tile(layout, self.dtype, self.read, self.sources, self.held)


@dataclass(eq=False)
class Run:
    """A tile variable: positions ``begin + ...`` below ``end``."""

    name: str
    size: Size
    begin: Expr
    end: Expr
    end_size: Size | None  # the end, where the host knows it
    begin_size: Size | None  # the begin, over unknowns that count iterations
    block: Expr
    count: Expr
    scope: Scope
    bases: dict[Digits, Expr] = field(default_factory=dict)
    named: dict[Expr, Var] = field(default_factory=dict)  # variables for what bases are
    start: Expr | None = None  # where its loop begins


_KEPT = 64  # registers of a value that is kept around a loop, at most


class Lowering:
    """Lowers one phase; the operations' own functions are in the modules beside."""

    def __init__(
        self,
        kernel: ir.Kernel,
        phase: ir.Phase,
        blocks: Mapping[Sym, int],
        plan: Plan,
        limits: Limits,
    ) -> None:
        self.kernel, self.phase, self.blocks = kernel, phase, blocks
        self.fixed = {b.sym: b.fixed for b in kernel.blocks if b.fixed is not None}
        self.plan, self.limits = plan, limits
        self.index_dtype = kernel.index_dtype or I32
        self.top = self.scope = Scope()
        self.tiles: dict[ir.Value, Tile] = {}
        self.copies: dict[tuple[ir.Value, Layout], Tile] = {}
        self.deferred: dict[ir.Value, tuple[ir.Op, Scope, int]] = {}
        self.runs: dict[ir.Value, Run] = {}
        self.slices: dict[Size, Run] = {}
        self.order = 0
        self.span: ir.Span | None = None
        self.buffers: list[SharedBuffer] = []
        self.names: dict[str, int] = {}
        self.ranges = kernel_ranges(kernel, blocks, True)
        self.uses = use_counts(phase.body)
        self.hints = _hints(phase.body)
        self.instantiate: Callable[[ir.Op, ir.Value, Layout], Tile]
        self.exchange: Callable[[Tile, Layout, ir.Value], Tile]
        self.whole: frozenset[ir.Value] = frozenset()  # tiles known to end within their loops

    # -- values --------------------------------------------------------------------------------

    def tile(self, value: ir.Value, layout: Layout | None = None) -> Tile:
        """The value in a layout (None: the one it is in, or would be)."""
        if value in self.deferred:
            return self._demanded(value, layout or self.plan.of(value))
        if (known := self.tiles.get(value)) is None:
            raise KeyError(f"{value.name} is not lowered")
        if layout is None or not known.sources or self.fits(known.layout, layout):
            return known if layout is None else known.moved(layout)
        if (value, layout) not in self.copies:
            self.copies[value, layout] = self._exchanged(known, layout, value)
        return self.copies[value, layout]

    def _exchanged(self, tile: Tile, layout: Layout, value: ir.Value) -> Tile:
        """The tile in another layout, before the loops around that do not change it."""
        homes = [held.item.scope for held in tile.sources if held.item is not None]
        saved = self.scope, self.whole
        if len(homes) == len(tile.sources) and layout.elements <= _KEPT:
            around = self.scope.around()
            if homes and all(home in around for home in homes):
                self.scope = min((h for h in homes if h is not None), key=around.index)
                self.whole = frozenset()
        found = self.exchange(tile, layout, value)
        self.scope, self.whole = saved
        return found

    @staticmethod
    def fits(have: Layout, want: Layout) -> bool:
        """Whether elements in one layout can be read by threads that have the other."""
        return len(have.axes) == len(want.axes) and all(
            h in (w, ()) for h, w in zip(have.axes, want.axes, strict=True)
        )

    def _demanded(self, value: ir.Value, layout: Layout) -> Tile:
        """A computation from memory and indices only, done where and how it is first needed."""
        if (value, layout) not in self.copies:
            op, scope, order = self.deferred[value]
            saved = self.scope, self.order, self.span, self.whole
            if scope is not self.scope:
                self.whole = frozenset()  # what is known here need not be so there
            self.scope, self.order, self.span = scope, order, op.span
            tile = self.instantiate(op, value, layout)
            self.scope, self.order, self.span, self.whole = saved
            self.copies[value, layout] = tile
        return self.copies[value, layout]

    def scalar(self, value: ir.Value) -> Expr:
        """A scalar's expression, for use outside of items: it is placed at once."""
        tile = self.tile(value)
        self.settle(tile)
        return tile.read({})

    def indexed_value(self, value: ir.Value) -> Expr:
        """A scalar in the dtype of indices."""
        return self.indexed(self.scalar(value))

    def place(self, tile: Tile) -> None:
        """Give what the tile is read from its place, if it has none."""
        for held in tile.sources:
            if held.item is not None and held.item.nest is None:
                (held.item.scope or self.scope).place(held.item)

    def settle(self, tile: Tile) -> None:
        """Make sure that what the tile is read from has its place, and a variable of its own."""
        self.place(tile)
        reader = Item(key=frozenset(), uses=tile.sources, emit=lambda _: [])
        for held in tile.sources:
            held.readers.append(reader)
            if held.item is not None and held.var is None and not held.layout.registers:
                held.fixed = True
                held.keep(())

    def bind(self, value: ir.Value, tile: Tile) -> None:
        """Make the tile the value, as computed at this point of the program."""
        self.tiles[value] = tile

    def defer(self, op: ir.Op) -> None:
        """Leave the operation to its readers."""
        for result in op.results:
            self.deferred[result] = (op, self.scope, self.order)

    def before_write(self, storage: str) -> None:
        """Reads of a storage's tensors that are still to be made, and come before, are made now."""
        for value, (op, _, _) in list(self.deferred.items()):
            if isinstance(op, ir.Load) and op.tensor.storage == storage:
                self._anchor(value)

    def before_any_write(self) -> None:
        """The same for all tensors."""
        for value, (op, _, _) in list(self.deferred.items()):
            if isinstance(op, ir.Load):
                self._anchor(value)

    def _anchor(self, value: ir.Value) -> None:
        """The value as it is now, from here on."""
        known = [tile for (v, _), tile in self.copies.items() if v is value]
        tile = known[0] if known else self.tile(value)
        self.place(tile)
        del self.deferred[value]
        self.tiles[value] = tile

    def define(
        self,
        layout: Layout,
        dtype: DType,
        compute: Callable[[Env], Expr],
        uses: Iterable[Tile],
        *,
        name: str | None = None,
        hint: str = "value",
        same_as: Held | None = None,
        **more: Any,
    ) -> Tile:
        """A value computed element by element; it has its place when something reads it.
        ``more`` are fields of :class:`Item`."""
        key, inner = split_digits(layout.registers)
        held = Held(layout, dtype, name, hint, same_as=same_as)
        sources = tuple(s for t in uses for s in t.sources)
        settings: dict[str, Any] = {"inner": inner, "span": self.span, "order": self.order} | more
        held.item = Item(
            key=key, uses=sources, defines=(held,), compute=compute, scope=self.scope, **settings
        )
        return Tile(layout, dtype, held.read, (held,), held)

    def define_here(self, *args: Any, **more: Any) -> Tile:
        """The same for a value that is computed at this point of the program."""
        tile = self.define(*args, **more)
        assert tile.held is not None
        assert tile.held.item is not None
        self.scope.place(tile.held.item)
        return tile

    def effect(
        self,
        layout: Layout,
        emit: Callable[[Env], Body],
        uses: Iterable[Tile],
        **more: Any,
    ) -> Item:
        """Statements done for each element. ``more`` are fields of :class:`Item`."""
        key, inner = split_digits(layout.registers)
        sources = tuple(s for t in uses for s in t.sources)
        settings: dict[str, Any] = {"inner": inner, "span": self.span, "order": self.order} | more
        item = Item(key=key, uses=sources, emit=emit, scope=self.scope, **settings)
        for held in item.defines:
            held.item = item
        self.scope.place(item)
        return item

    def constant(self, number: bool | int | float, dtype: DType, layout: Layout) -> Tile:
        """A tile of one number."""
        value = Const(number, dtype)
        return Tile(layout, dtype, lambda _: value)

    # -- positions -----------------------------------------------------------------------------

    def size(self, size: Size) -> Expr:
        """A size of the host's, numbers known put in."""
        known = size.substitute(self.blocks).substitute(self.fixed).substitute(self.blocks)
        number = known.as_int()
        if number is not None:
            return Const(number, self.index_dtype)
        return Extent(known, self.index_dtype)

    def known_size(self, value: ir.Value) -> Size | None:
        """The symbolic value of an integer scalar."""
        return self.ranges.size_of(value)

    def begins_at(self, run: Run, multiple: int) -> bool:
        """Whether a tile begins at a multiple of a number."""
        begin = run.begin_size
        return begin is not None and begin.divisible_by(multiple, self.kernel.multiple_of)

    def slice_run(self, size: Size) -> Run:
        """The positions of a whole dimension."""
        if size not in self.slices:
            sym = size.as_sym()
            name = sym.name.lower() if sym is not None and sym.name.isidentifier() else "d"
            extent = self.size(size)
            one = Const(1, self.index_dtype)
            zero = Const(0, self.index_dtype)
            self.slices[size] = Run(name, size, zero, extent, size, ZERO, extent, one, self.top)
        return self.slices[size]

    def position(self, run: Run, digits: Digits, env: Env) -> Expr:
        """The index of an element of a tile, given the digits of its axis."""
        if digits not in run.bases:
            run.bases[digits] = self._base(run, digits)
        offset = register_position(digits, env)
        return add(run.bases[digits], self.indexed(offset))

    def _base(self, run: Run, digits: Digits) -> Expr:
        part = self.indexed(thread_position(digits, self.plan.threads, self.plan.simd))
        base = add(run.begin, part)
        if isinstance(base, Const | Var | Extent):
            return base
        if base not in run.named:
            copied = digits in self.plan.products.copies
            name = f"load_{run.name}" if copied else run.name
            run.named[base] = Var(name, self.index_dtype)
            run.scope.prologue.append(Let(run.named[base], base))
        return run.named[base]

    def indexed(self, expr: Expr) -> Expr:
        """A 32-bit integer in the dtype of indices."""
        if expr.dtype == self.index_dtype:
            return expr
        if isinstance(expr, Const):
            return Const(expr.value, self.index_dtype)
        return Convert(expr, self.index_dtype)

    def is_padded(self, size: Size, digits: Digits) -> bool:
        """Whether an axis of a whole dimension has room for more elements than there are."""
        room = 1
        for digit in digits:
            room *= digit.count
        return size.substitute(self.blocks).as_int() != room

    def guard(
        self,
        guards: Iterable[ir.Guard],
        shape: tuple[Size, ...],
        layout: Layout,
        env: Env,
        runs: Mapping[ir.Value, Run] | None = None,
    ) -> list[Expr]:
        """Conditions that all guards admit the element; ``runs`` are those of the tiles."""
        runs = self.runs if runs is None else runs
        found = []
        for guard in guards:
            digits = layout.axes[guard.dim]
            if guard.tile is None:
                size = shape[guard.dim]
                if not self.is_padded(size, digits):
                    continue
                run = self.slice_run(size)
            else:
                run = runs[guard.tile]
            found.append(less(self.position(run, digits, env), run.end))
        return found

    def owner(self, layout: Layout) -> Expr | None:
        """The condition that this thread's copy of the elements is the one to be stored."""
        return self.first(layout.replicas(self.plan.threads))

    def first(self, parts: Iterable[tuple[int, int]]) -> Expr | None:
        """The condition that all parts ``(stride, count)`` of the thread's number are 0."""
        total: Expr | None = None
        for stride, count in _joined(parts):
            part = thread_part(stride, count, self.plan.threads, self.plan.simd)
            test = Apply("eq", (part, integer(0)), BOOL)
            total = test if total is None else Apply("land", (total, test), BOOL)
        return total

    def buffer(self, hint: str, dtype: DType, shape: tuple[int, ...], pad: int = 0) -> SharedBuffer:
        """A new shared buffer."""
        buffer = SharedBuffer(self.fresh(hint), dtype, shape, pad)
        self.buffers.append(buffer)
        return buffer

    def fresh(self, hint: str) -> str:
        """A name for a buffer that no other has."""
        number = self.names.get(hint, 0)
        self.names[hint] = number + 1
        return f"{hint}_{number}" if number else hint

    # -- layouts -------------------------------------------------------------------------------

    def sub(self, layout: Layout, shape: tuple[Size, ...], whole: tuple[Size, ...]) -> Layout:
        """The layout of an operand that is broadcast to ``whole``."""
        if not shape:
            return Layout()
        return Layout(
            tuple(
                () if mine == ONE and theirs != ONE else digits
                for mine, theirs, digits in zip(shape, whole, layout.axes, strict=True)
            )
        )

    def unsupported(self, what: str, why: str, remedy: str = "") -> KtError:
        """KT0602 for the operation at hand."""
        return error(
            "KT0602", f"{what} is not supported by the {self.limits.name} target", self.span,
            why=why, remedy=remedy,
        )  # fmt: skip


#: what to call values that the source gives no name
_WORDS = {
    "add": "total", "sub": "difference", "mul": "product", "div": "quotient", "fma": "total",
    "where": "chosen", "eq": "condition", "ne": "condition", "lt": "condition",
    "le": "condition", "gt": "condition", "ge": "condition", "and": "both", "or": "either",
    "floordiv": "quotient", "mod": "remainder", "maximum": "larger", "minimum": "smaller",
}  # fmt: skip


def _hints(body: ir.Block) -> dict[ir.Value, str]:
    """Names for values without one: the tensor they are stored to, or what computes them."""
    found: dict[ir.Value, str] = {}
    for op in walk(body):
        if isinstance(op, ir.Elementwise):
            found[op.result] = _WORDS.get(op.name, op.name)
        elif isinstance(op, ir.Cast):
            source = op.value.name or found.get(op.value, "value")
            found[op.result] = f"{source}_{op.result.dtype}"
        elif isinstance(op, ir.Store):
            found[op.value] = op.tensor.name
        elif isinstance(op, ir.Load):
            found.setdefault(op.result, op.tensor.name)
    return found


def _joined(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Parts that touch made one."""
    merged: list[tuple[int, int]] = []
    for stride, count in parts:
        if count <= 1:
            continue
        if merged and merged[-1][0] * merged[-1][1] == stride:
            merged[-1] = (merged[-1][0], merged[-1][1] * count)
        else:
            merged.append((stride, count))
    return merged
