"""State of the lowering of one phase to a Pallas kernel: values, tiles, statements so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.emitters.common.tree import (
    ADD,
    BIT_AND,
    COMPARE,
    TERNARY,
    Assign,
    Comment,
    Expr,
    Stmt,
    Var,
    binary,
    call,
    lit,
    postfix,
    ref,
)
from transpile.emitters.pallas.dtypes import NAMES, bytes_of, spell_number
from transpile.emitters.pallas.lanes import LANES
from transpile.emitters.pallas.sizes import Sizes
from transpile.emitters.pallas.unseen import Unseen
from transpile.emitters.pallas.windows import Window, Windows
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BOOL, I32, DType
from transpile.ir.ir import Value
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import definitions, index_values, operands, regions, walk


@dataclass(eq=False, slots=True)
class Tile:
    """A tile variable in the kernel: where it begins and the loop's end.

    ``whole``: it begins at a multiple of its block, and ``stop`` is a number when jax traces.
    ``lower``: the first position of the loop, where blocks start before it.
    """

    begin: Expr
    stop: Expr
    block: Sym
    whole: bool = True
    lower: Expr | None = None
    first: Expr | None = None  # the loop's begin
    id: Expr | None = None
    local: Expr | None = None  # where it begins in the window of the grid tile it is part of


@dataclass(eq=False, slots=True)
class Uses:
    """How a value is used: how often, and in which blocks."""

    count: int = 0
    blocks: set[int] = field(default_factory=set)


class Context:
    """Lowering state of one phase of one kernel."""

    def __init__(self, kernel: ir.Kernel, phase: ir.Phase, sizes: Sizes, windows: Windows) -> None:
        self.kernel = kernel
        self.phase = phase
        self.sizes = sizes
        self.windows = windows
        self.makers = definitions(phase.body)
        self.unseen = Unseen(phase.body)
        self.replicated: set[Value] = set()  # columns held in every lane
        self.uses, self.home = find_uses(phase.body)
        self.values: dict[Value, Expr] = {}
        self.tiles: dict[Value, Tile] = {}
        self.body: list[Stmt] = []
        self.helpers: set[str] = set()
        self.pending: list[Value] = []  # inlined expressions that read refs
        self.slots: dict[Window, Expr] = {}  # of buffers: the one that this turn reads
        self.writes: dict[Window, tuple[list[Stmt], list[Stmt]]] = {}  # around a store to a buffer
        self.waits: dict[Window, Stmt] = {}  # for copies that nothing has read yet
        self.comments = dict(kernel.comments)
        self.errors: list[KtError] = []
        self.combines: dict[str, str] = {}
        self.scratch: list[tuple[Var, Expr]] = []  # variable and what allocates it
        self.scratch_values: dict[Var, Value] = {}
        self.scalars: dict[str, Var] = {}  # host scalars -> their refs
        self.numbers: dict[Size, Var] = {}  # sizes made of run-time numbers -> their refs
        self.conditions: list[Expr] = []  # of the branches that are being lowered in one
        self.python_numbers: set[Var] = set()  # counters of loops that Python runs
        self.users: dict[Value, list[ir.Op]] = {}
        for op in walk(phase.body):
            for value in operands(op):
                self.users.setdefault(value, []).append(op)

    # -- values --------------------------------------------------------------------------------

    def expr(self, value: Value) -> Expr:
        """The expression that stands for a value where it is used."""
        expr = self.values[value]
        if value in self.replicated and expr.shape[-1:] == (LANES,):
            return postfix(expr, f"[{_colons(value)}:1]", expr.dtype, value.shape)
        return expr

    def held(self, value: Value) -> Expr:
        """A value as it is held: a replicated column in all its lanes."""
        return self.values[value]

    def held_shape(self, value: Value) -> tuple[Size, ...]:
        """The shape in which a value is held."""
        return (*value.shape[:-1], LANES) if value in self.replicated else value.shape

    def carried(self, value: Value, param: Value) -> Expr:
        """The value with precisely the shape and dtype in which a loop carries ``param``."""
        if param not in self.replicated:
            return self.exact(value)
        return self.coerce(self.held(value), ir.TileType(param.dtype, self.held_shape(param)))

    def first_lane(self, value: Value) -> Expr:
        """A replicated column without its last axis."""
        expr = self.held(value)
        return postfix(expr, f"[{_colons(value)}0]", expr.dtype, value.shape[:-1])

    def across(self, value: Value, length: Size) -> Expr:
        """The value to meet rows of a length: a replicated column once for each of their lanes."""
        expr = self.held(value)
        general = length in self.sizes.general
        if value not in self.replicated or expr.shape[-1:] != (LANES,):
            return expr
        if length == LANES and not general:
            return expr
        number = length.as_int()
        shape = (*expr.shape[:-1], length)
        if number is not None and number < 128 and not general:
            return postfix(expr, f"[{_colons(value)}:{number}]", expr.dtype, shape)
        self.helpers.add("_across")
        return call("_across", expr, self.size(length), dtype=expr.dtype, shape=shape)

    def define(self, value: Value, expr: Expr, hint: str = "") -> None:
        """Bind a result: to a variable, or to the expression itself where it is used once."""
        if self._inlines(value, expr):
            self.values[value] = expr
            if expr.loads:
                self.pending.append(value)
            return
        self.assign(value, expr, hint)

    def assign(self, value: Value, expr: Expr, hint: str = "") -> None:
        """Bind a result to a variable of its own."""
        var = Var(value.name or hint or "t")
        self.body.append(Assign((var,), expr, "drop"))
        self.values[value] = ref(var, expr.dtype or value.dtype, expr.shape)

    def _inlines(self, value: Value, expr: Expr) -> bool:
        use = self.uses.get(value)
        if use is None or is_trivial(expr):
            return True
        if value.name is not None or use.count > 1:
            return False
        return use.blocks == {self.home.get(value)}

    def settle(self) -> None:
        """Bind pending expressions that read refs to variables: one is about to be written."""
        for value in self.pending:
            expr = self.values.get(value)
            if expr is not None and expr.loads and self.uses[value].count > 0:
                self.assign(value, expr, hint_of(expr))
        self.pending = []

    def consume(self, op: ir.Op) -> None:
        """Note that the operands of ``op`` are part of an expression now."""
        for value in operands(op):
            if value in self.pending:
                self.pending.remove(value)

    def exact(self, value: Value) -> Expr:
        """The value with precisely its IR shape and dtype, where jax would not broadcast it."""
        return self.coerce(self.expr(value), value.tile)

    def coerce(self, expr: Expr, want: ir.TileType) -> Expr:
        """``expr`` with precisely a shape and dtype."""
        if expr.is_literal or (expr.shape == () and want.shape != ()):
            return self.full(expr, want)
        if expr.shape != want.shape:
            shape = self.shape(want.shape)
            expr = call("jnp.broadcast_to", expr, shape, dtype=expr.dtype, shape=want.shape)
        return self.cast(expr, want.dtype)

    def full(self, scalar: Expr, want: ir.TileType) -> Expr:
        """A tile of one number; a scalar is the number itself."""
        name = NAMES[want.dtype]
        if want.shape == ():
            if not scalar.is_literal:
                return self.cast(scalar, want.dtype)
            if want.dtype.name in ("i32", "f32", "bool"):
                return scalar  # what jax makes of a Python number
            return call("jnp.full", lit("()"), scalar, lit(name), dtype=want.dtype)
        shape = self.shape(want.shape)
        if scalar.is_literal and scalar.template in ("0", "0.0", "False"):
            return call("jnp.zeros", shape, lit(name), dtype=want.dtype, shape=want.shape)
        return call("jnp.full", shape, scalar, lit(name), dtype=want.dtype, shape=want.shape)

    def cast(self, expr: Expr, dtype: DType) -> Expr:
        """``expr.astype(dtype)`` unless it is of that dtype already; a literal is left alone."""
        if expr.dtype == dtype or expr.is_literal:
            return expr
        if self.is_host_number(expr):
            return call("jnp.asarray", expr, lit(NAMES[dtype]), dtype=dtype)
        return postfix(expr, f".astype({NAMES[dtype]})", dtype, expr.shape)

    def is_host_number(self, expr: Expr) -> bool:
        """True for arithmetic on sizes: Python numbers when jax traces the kernel."""
        known = {*self.sizes.variables.values(), *self.python_numbers}
        leaves = list(expr.vars())
        return bool(leaves) and not expr.loads and all(v in known for v in leaves)

    def broadcast(self, *exprs: Expr) -> tuple[Size, ...]:
        """The shape jax gives an elementwise operation of the operands."""
        rank = max((len(e.shape) for e in exprs), default=0)
        out = [ONE] * rank
        for e in exprs:
            for i, size in enumerate(e.shape):
                at = rank - len(e.shape) + i
                if out[at] == ONE:
                    out[at] = size
        return tuple(out)

    # -- sizes ---------------------------------------------------------------------------------

    def size(self, size: Size) -> Expr:
        """A size in the kernel: a number or a keyword argument."""
        return self.sizes.expr(size)

    def block(self, sym: Sym) -> Expr:
        """A block size."""
        return self.sizes.expr(Size.of(sym))

    def shape(self, shape: tuple[Size, ...]) -> Expr:
        """``(block_m, n)``."""
        items = tuple(self.size(s) for s in shape)
        text = ", ".join(f"{{{i}}}" for i in range(len(items)))
        comma = "," if len(items) == 1 else ""
        return Expr(f"({text}{comma})", items, (TERNARY,) * len(items))

    def known(self, expr: Expr) -> int | None:
        """The number that an expression is, if it is one."""
        text = expr.template if expr.is_literal else ""
        return int(text) if text.lstrip("-").isdigit() else None

    def alignment(self, tile: Value, op: ir.ForTile) -> int:
        """What the tile's positions must be multiples of, from where it indexes tensors."""
        need = 1
        for access in walk(op.body):
            if not isinstance(access, ir.Load | ir.Store | ir.Atomic):
                continue
            rank = len(access.index)
            for d, entry in enumerate(access.index):
                if isinstance(entry, ir.AtTile) and entry.tile is tile:
                    packing = 4 // min(4, bytes_of(access.tensor.dtype))
                    need = max(need, {0: 128, 1: 8 * packing}.get(rank - 1 - d, 1))
        return need

    def is_multiple(self, value: Value, number: int) -> bool:
        """True if a scalar is a known multiple of a number."""
        size = self.windows.scalars_size(value)
        if size is not None:
            return size.divisible_by(number, self.kernel.multiple_of)
        match self.makers.get(value):
            case ir.TileAttr(attr="begin", tile=tile) if isinstance(tile.type, ir.TileVar):
                block = self.sizes.schedule.blocks.get(tile.type.block)
                return block is not None and block % number == 0
            case ir.Cast(value=inner):
                return self.is_multiple(inner, number)
            case _:
                return False

    def picks_lanes(self, op: ir.ForRange) -> bool:
        """True if the loop's number is an index along memory's last axis."""
        var = op.body.params[0]
        return any(
            isinstance(access, ir.Load | ir.Store | ir.Atomic)
            and self.windows.of[access].space == "vmem"
            and len(access.index) > 1
            and isinstance(access.index[-1], ir.AtScalar)
            and var in index_values(access.index[-1])
            for access in walk(op.body)
        )

    def scalar(self, name: str) -> Expr:
        """The ref of a run-time host scalar."""
        if name not in self.scalars:
            self.scalars[name] = Var(f"{name}_ref", argument=True)
        return ref(self.scalars[name])

    def number(self, size: Size) -> Expr:
        """The ref of a size that is a number passed at run time."""
        if size not in self.numbers:
            self.numbers[size] = Var(f"{self.sizes.hint(size)}_ref", argument=True)
        return ref(self.numbers[size])

    # -- masks ---------------------------------------------------------------------------------

    def positions(self, tile: Tile, shape: tuple[Size, ...], dim: int) -> Expr:
        """Positions of a tile's lanes along axis ``dim`` of a shape whose other axes are 1."""
        line = tuple(s if d == dim else ONE for d, s in enumerate(shape))
        lanes = self.lanes(line, dim)
        if tile.begin.text() == "0":
            return lanes
        return binary("+", tile.begin, lanes, ADD, I32, line)

    def lanes(self, shape: tuple[Size, ...], dim: int) -> Expr:
        """0, 1, 2... along axis ``dim``."""
        if len(shape) == 1:
            extent = self.size(shape[0])
            return Expr("jnp.arange({0})", (extent,), (0,), dtype=I32, shape=shape)
        return call(
            "lax.broadcasted_iota", lit("jnp.int32"), self.shape(shape), lit(str(dim)),
            dtype=I32, shape=shape,
        )  # fmt: skip

    def masked(
        self, expr: Expr, guards: tuple[ir.Guard, ...], shape: tuple[Size, ...], fill: object,
        dtype: DType,
    ) -> Expr:  # fmt: skip
        """``expr`` with ``fill`` in the lanes that a guard excludes."""
        number = spell_number(fill, dtype)  # type: ignore[arg-type]
        conditions: list[Expr] = []
        for guard in guards:
            if guard.tile is None:
                continue
            tile = self.tiles[guard.tile]
            if expr.shape != shape:
                conditions.append(self.in_range(tile, shape, guard.dim))
                continue
            ends: tuple[Expr, ...] = (tile.begin, tile.stop)
            traced = not (tile.stop.is_literal or self.is_host_number(tile.stop))
            if tile.whole or (tile.lower is None and traced):
                helper = "_mask_tail"
            else:
                helper = "_mask_outside"
                ends = (tile.begin, tile.lower or tile.begin, tile.stop)
            self.helpers.add(helper)
            slots = ", ".join(f"{{{i + 1}}}" for i in range(len(ends) + 1))
            expr = Expr(
                f"{helper}({{0}}, {guard.dim}, {slots})", (expr, *ends, number),
                (0,) * (len(ends) + 2), dtype=dtype, shape=shape,
            )  # fmt: skip
        if not conditions:
            return expr
        return self.select(self.conjunction(conditions), expr, number, dtype)

    def select(
        self, cond: Expr, expr: Expr, other: Expr, dtype: DType, *, held: bool = False
    ) -> Expr:
        """``jnp.where``; Mosaic has no mask of one row for a few rows of packed elements.

        ``held``: as a tensor holds them, so that another signature's may be packed.
        """
        function = "jnp.where"
        if dtype.is_float and (held or dtype.bits < 32) and is_row(cond.shape):
            function = "_select"
            self.helpers.add(function)
            if expr.is_literal:
                expr = self.full(expr, ir.TileType(dtype))
        return call(
            function, cond, expr, other, dtype=dtype, shape=self.broadcast(cond, expr, other)
        )

    def holds(self, value: Value) -> bool:
        """True for elements of a tensor as they are, selected or masked at most."""
        match self.makers.get(value):
            case ir.Load():
                return True
            case ir.Mask(value=inner):
                return self.holds(inner)
            case ir.Elementwise(name="where", args=(_, *args)):
                return any(map(self.holds, args))
            case _:
                return False

    def in_range(self, tile: Tile, shape: tuple[Size, ...], dim: int) -> Expr:
        """Which lanes of axis ``dim`` are within the tile's loop."""
        at = self.positions(tile, shape, dim)
        inside = less(at, tile.stop)
        if tile.lower is None:
            return inside
        after = binary(">=", at, tile.lower, COMPARE, BOOL, at.shape)
        return self.conjunction([after, inside])

    def conjunction(self, masks: list[Expr]) -> Expr:
        """All masks at once, each of them once."""
        first, *rest = {_key(mask): mask for mask in masks}.values()
        total = first
        for mask in rest:
            total = Expr(
                "{0} & {1}", (total, mask), (BIT_AND, BIT_AND + 1), BIT_AND,
                dtype=BOOL, shape=self.broadcast(total, mask),
            )  # fmt: skip
        return total

    # -- helpers -------------------------------------------------------------------------------

    def comment(self, span: ir.Span | None) -> None:
        """Print the source's comment above a statement, once, where its code begins."""
        if span is not None and span.line in self.comments:
            for line in self.comments.pop(span.line).split("\n"):
                self.emit(Comment(line.removeprefix("#").strip()))

    def emit(self, stmt: Stmt) -> None:
        self.body.append(stmt)

    def let(self, hint: str, value: Expr, tidy: str = "drop") -> Expr:
        """Bind a helper variable; ``tidy`` allows it to vanish when it is not worth its line."""
        var = Var(hint)
        self.body.append(Assign((var,), value, tidy))
        return ref(var, value.dtype, value.shape)

    def unsupported(self, what: str, span: ir.Span | None, why: str, remedy: str = "") -> KtError:
        """A KT0602 diagnostic."""
        return error(
            "KT0602", f"{what} is not supported by the pallas target", span, why=why, remedy=remedy
        )


def _colons(value: Value) -> str:
    """Subscripts of all axes but the last."""
    return ":, " * (len(value.shape) - 1)


def find_uses(body: ir.Block) -> tuple[dict[Value, Uses], dict[Value, int]]:
    """Uses of every value, and the block that defines it."""
    found: dict[Value, Uses] = {}
    home: dict[Value, int] = {}

    def note(value: Value, block: ir.Block) -> None:
        use = found.setdefault(value, Uses())
        use.count += 1
        use.blocks.add(id(block))

    def visit(block: ir.Block) -> None:
        for value in block.params:
            home[value] = id(block)
        for op in block.ops:
            for value in operands(op):
                note(value, block)
            for value in op.results:
                home[value] = id(block)
            for inner in regions(op):
                visit(inner)
        for value in block.yields:
            note(value, block)

    visit(body)
    return found, home


def _key(expr: Expr) -> object:
    """Equal for expressions of the same text and variables."""
    return expr.var or (expr.template, *map(_key, expr.args))


def is_trivial(expr: Expr) -> bool:
    """Free to repeat: a literal, a variable, or a variable with new axes."""
    if expr.loads:
        return False
    if expr.var is not None or not expr.args:
        return True
    return expr.template.startswith("{0}[") and is_trivial(expr.args[0])


def hint_of(expr: Expr) -> str:
    """A name for an unnamed expression: after the first variable in it."""
    for var in expr.vars():
        return (var.name or var.hint).removesuffix("_ref") + "_tile"
    return "t"


def is_row(shape: tuple[Size, ...]) -> bool:
    """True for the shape of positions along memory's last axis that all rows share."""
    return shape[-1:] not in ((), (ONE,)) and shape[-2:-1] in ((), (ONE,))


def less(lhs: Expr, rhs: Expr) -> Expr:
    """``lhs < rhs``."""
    return binary("<", lhs, rhs, COMPARE, dtype=BOOL, shape=lhs.shape)
