"""State of the lowering of one phase: values, axes and the statements so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.emitters.common.tree import (
    ATOM,
    COMPARE,
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
    sequence,
)
from transpile.emitters.triton.arguments import Arguments
from transpile.emitters.triton.dtypes import NAMES
from transpile.emitters.triton.facts import Facts, Lanes, known_sizes, remasked_selects
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BOOL, I32, I64, DType
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import operands, regions, reshape_groups, walk
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class Axis:
    """What masks and offsets of a tile loop, or of a full slice, are made from."""

    offsets: Expr | None  # vector of positions; None for an axis of one lane
    limit: Expr | None  # positions below it are in range
    mask: Var | None = None  # bound to ``offsets < limit``
    begin: Expr | None = None
    pid: Expr | None = None
    end_size: Size | None = None  # the limit, where it is a host-side size
    count: Expr | None = None
    block: Sym | None = None


@dataclass(eq=False, slots=True)
class Uses:
    """How a value is used: how often, and whether only in the block that defines it."""

    count: int = 0
    blocks: set[int] = field(default_factory=set)


def find_uses(body: ir.Block) -> tuple[dict[ir.Value, Uses], dict[ir.Value, int]]:
    """Uses of every value, and the block that defines it."""
    found: dict[ir.Value, Uses] = {}
    home: dict[ir.Value, int] = {}

    def note(value: ir.Value, block: ir.Block) -> None:
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


class Context(Arguments):
    """Lowering state of one phase of one kernel."""

    def __init__(
        self, kernel: ir.Kernel, phase: ir.Phase, schedule: Schedule, *, allow_blocks: bool = True
    ) -> None:
        super().__init__(kernel, schedule)
        self.phase = phase
        self.allow_blocks = allow_blocks  # False: pointers only, whatever the config says
        self.uses, self.home = find_uses(phase.body)
        self.values: dict[ir.Value, Expr] = {}
        self.order: dict[ir.Value, int] = {}  # in which values were defined
        self.axes: dict[ir.Value, Axis] = {}
        self.slices: dict[tuple[Size, str], Axis] = {}
        self.body: list[Stmt] = []
        self.top: list[Stmt] = []  # statements hoisted to the kernel's start
        self.imports: set[str] = set()
        self.helpers: dict[str, str] = {}  # module-level functions the kernel calls
        self.pending: list[ir.Value] = []  # inlined expressions that read memory
        self.accesses = 0  # running number of loads and stores, for `indexing`
        self.loads = 0
        self.stores = 0
        self.comments = dict(kernel.comments)
        self.errors: list[KtError] = []
        self.facts = Facts(phase)
        self.known_sizes = known_sizes(phase.body)
        self.remasked = remasked_selects(phase.body)
        self.lanes = Lanes(phase)

    # -- values --------------------------------------------------------------------------------

    def expr(self, value: ir.Value) -> Expr:
        """The expression that stands for a value where it is used."""
        return self.values[value]

    def define(self, value: ir.Value, expr: Expr, hint: str = "") -> None:
        """Bind a result: to a variable, or to the expression itself where it is used once."""
        self.order[value] = len(self.order)
        if self._inlines(value, expr):
            self.values[value] = expr
            if expr.loads:
                self.pending.append(value)
            return
        self.assign(value, expr, hint)

    def assign(self, value: ir.Value, expr: Expr, hint: str = "") -> None:
        """Bind a result to a variable of its own."""
        var = Var(value.name or hint or "t")
        self.body.append(Assign((var,), expr))
        self.values[value] = ref(var, expr.dtype or value.dtype, expr.shape)

    def _inlines(self, value: ir.Value, expr: Expr) -> bool:
        use = self.uses.get(value)
        if value in self.remasked:
            return True
        if use is None or is_trivial(expr):
            return True
        if value.name is not None or use.count > 1:
            return False
        return use.blocks == {self.home.get(value)}

    def settle(self) -> None:
        """Bind pending expressions that read memory to variables: a store is about to happen."""
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

    def exact(self, value: ir.Value) -> Expr:
        """The value with precisely its IR shape and dtype, for where Triton would not adapt it."""
        return self.coerce(self.expr(value), value.tile)

    def coerce(self, expr: Expr, want: ir.TileType) -> Expr:
        if expr.is_literal:
            return self.full(expr, want)
        if not self.same_shape(expr.shape, want.shape):
            if expr.shape == ():
                return self.full(expr, want)
            expr = call(
                "tl.broadcast_to", expr, self.shape(want.shape), dtype=expr.dtype, shape=want.shape
            )
        return self.cast(expr, want.dtype)

    def full(self, scalar: Expr, want: ir.TileType) -> Expr:
        """A tile of one number; a scalar of i32, f32 or bool is the literal itself."""
        if want.shape == () and scalar.is_literal and want.dtype.name in ("i32", "f32", "bool"):
            return scalar
        name = NAMES[want.dtype]
        if scalar.template.startswith("tl.cast("):
            scalar = scalar.args[0]  # tl.full converts
        shape = self.shape(want.shape)
        if scalar.is_literal and scalar.template in ("0", "0.0", "False"):
            return _typed(f"tl.zeros({{0}}, dtype={name})", (shape,), want)
        return _typed(f"tl.full({{0}}, {{1}}, dtype={name})", (shape, scalar), want)

    def cast(self, expr: Expr, dtype: DType) -> Expr:
        """``expr.to(dtype)`` unless it is of that dtype already; a literal is left alone."""
        if expr.dtype == dtype or expr.is_literal:
            return expr
        if expr.template.startswith("{0}.to(") and _widens(expr.args[0].dtype, expr.dtype, dtype):
            return self.cast(expr.args[0], dtype)
        if expr.dtype is None or self.is_host_number(expr):  # may be a Python number in Triton
            name = lit(NAMES[dtype])
            return call("tl.cast", expr, name, dtype=dtype, shape=expr.shape)
        return postfix(expr, f".to({NAMES[dtype]})", dtype, expr.shape)

    def is_host_number(self, expr: Expr) -> bool:
        """Made of arguments and literals only; an argument of 1 is a compile-time number, which has
        no methods."""
        leaves = list(expr.vars())
        return (
            not expr.loads
            and expr.shape == ()
            and all(v in self.numbers for v in leaves)
            and ("program_id" not in expr.template)
        )

    def broadcast(self, *exprs: Expr) -> tuple[Size, ...]:
        """The shape Triton gives an elementwise operation of the operands."""
        rank = max((len(e.shape) for e in exprs), default=0)
        out = [ONE] * rank
        for e in exprs:
            for i, size in enumerate(e.shape):
                at = rank - len(e.shape) + i
                if out[at] == ONE:
                    out[at] = size
        return tuple(out)

    def same_shape(self, a: tuple[Size, ...], b: tuple[Size, ...]) -> bool:
        return len(a) == len(b) and all(
            x == y or self.extent_int(x) == self.extent_int(y) is not None
            for x, y in zip(a, b, strict=True)
        )

    def by_descriptor(self) -> bool:
        """True if the next load or store is to go through a tensor descriptor."""
        self.accesses += 1
        return self.allow_blocks and self.schedule.by_descriptor(self.accesses - 1)

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

    def shape(self, shape: tuple[Size, ...]) -> Expr:
        return sequence([self.extent(s) for s in shape])

    def arange(self, size: Size) -> Expr:
        """``tl.arange(0, BLOCK)`` along an axis."""
        return call("tl.arange", lit("0"), self.extent(size), dtype=I32, shape=(size,))

    def extents_differ(self, old: tuple[Size, ...], new: tuple[Size, ...]) -> bool:
        """True if padding to powers of two would scramble a reshape between the shapes: where an
        axis is split or merged; one kept as it is may be padded."""
        changed = [
            size
            for axes, made in reshape_groups(old, new)
            if len(axes) > 1 or len(made) > 1
            for size in (*(old[a] for a in axes), *(new[a] for a in made))
        ]
        return any(self.padded(s) for s in changed if s.syms - _block_syms(s) or s.is_const)

    def reads_begin(self, tile: ir.Value) -> bool:
        """True if the device code asks where the tile starts or ends."""
        return any(
            isinstance(op, ir.TileAttr) and op.tile is tile and op.attr in ("begin", "end")
            for op in walk(self.phase.body)
        )

    def fill_of(self, op: ir.Load) -> bool | int | float | None:
        """What the load gives in lanes its mask excludes; None if nothing can see them."""
        fill = self.lanes.fill(op)
        if fill is None and any(
            self.reaches_beyond(entry, extent)
            for entry, extent in zip(op.index, op.tensor.shape, strict=True)
        ):
            return 0
        return fill

    def reaches_beyond(self, entry: ir.Index, extent: Size) -> bool:
        """True for a slice that may end after the tensor's dimension does."""
        if not isinstance(entry, ir.AtSlice) or entry.start is None:
            return False
        return not self.inside(entry.start, entry.length, extent)

    def inside(self, start: ir.Value, length: Size, extent: Size) -> bool:
        """True if ``start + length`` provably stays within a dimension of size ``extent``."""
        begin = self.known_sizes.get(start)
        if begin is None:
            return False
        slack = (extent - begin - length).substitute(self.schedule.blocks)
        return slack.non_negative or (slack.as_int() or 0) > 0

    def offset_dtype(self, expr: Expr) -> Expr:
        """A program offset in the index dtype."""
        return self.cast(expr, I64) if self.index_dtype == I64 else expr

    def unsupported(self, what: str, span: ir.Span | None, why: str, remedy: str = "") -> KtError:
        return error(
            "KT0602", f"{what} is not supported by the triton target", span, why=why, remedy=remedy
        )


def _typed(template: str, args: tuple[Expr, ...], want: ir.TileType) -> Expr:
    return Expr(template, args, (0,) * len(args), ATOM, dtype=want.dtype, shape=want.shape)


def _block_syms(size: Size) -> set[Sym]:
    return {s for s in size.syms if s.kind == "block"}


def _widens(source: DType | None, middle: DType | None, target: DType) -> bool:
    """True if an integer's way through a wider type to another makes no difference."""
    if source is None or middle is None:
        return False
    return (
        source.is_int
        and middle.is_int
        and target.is_int
        and middle.bits >= source.bits
        and (source.signed == middle.signed)
    )


def is_trivial(expr: Expr) -> bool:
    """Free to repeat: a literal, a variable, or a variable with new axes."""
    if expr.var is not None or not expr.args:
        return not expr.loads
    return expr.template.startswith("{0}[") and is_trivial(expr.args[0])


def hint_of(expr: Expr) -> str:
    """A name for an unnamed expression: after the first variable in it."""
    for var in expr.vars():
        return (var.name or var.hint) + "_tile"
    return "t"


def less(lhs: Expr, rhs: Expr) -> Expr:
    """``lhs < rhs``, the mask of an axis."""
    return binary("<", lhs, rhs, COMPARE, dtype=BOOL, shape=lhs.shape)
