"""State of the lowering of one phase: values, arguments, axes and the statements so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.emitters.triton.dtypes import NAMES
from transpile.emitters.triton.facts import Facts, Lanes, known_sizes, remasked_selects
from transpile.emitters.triton.hostsizes import host_size, source_names
from transpile.emitters.triton.names import mangle
from transpile.emitters.triton.tree import (
    ADD,
    ATOM,
    COMPARE,
    MUL,
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
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BOOL, I32, I64, DType
from transpile.ir.sizes import ONE, Size, Sym
from transpile.ir.walk import operands, regions, walk
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class Argument:
    """A kernel argument: its variable and what the launch passes. ``order`` sorts the groups
    tensors, scalars, sizes, strides, compile-time numbers."""

    var: Var
    host: str
    order: tuple[int, int]
    constexpr: bool = False
    tensor: ir.Tensor | None = None  # what it points to, or describes
    per_launch: Expr | None = None  # a compile-time number that follows from the arguments


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


class Context:
    """Lowering state of one phase of one kernel."""

    def __init__(
        self, kernel: ir.Kernel, phase: ir.Phase, schedule: Schedule, *, allow_blocks: bool = True
    ) -> None:
        self.allow_blocks = allow_blocks  # False: pointers only, whatever the config says
        self.described: list[ir.Tensor] = []
        self.kernel = kernel
        self.phase = phase
        self.schedule = schedule
        self.uses, self.home = find_uses(phase.body)
        self.values: dict[ir.Value, Expr] = {}
        self.order: dict[ir.Value, int] = {}  # in which values were defined
        self.axes: dict[ir.Value, Axis] = {}
        self.slices: dict[tuple[Size, str], Axis] = {}
        self.body: list[Stmt] = []
        self.top: list[Stmt] = []  # statements hoisted to the kernel's start
        self.arguments: dict[object, Argument] = {}
        self.numbers: set[Var] = set()  # arguments that are no tensors
        self.imports: set[str] = set()
        self.helpers: dict[str, str] = {}  # module-level functions the kernel calls
        self.constants = source_names(kernel)
        self.sizes_by_name = dict(reversed(kernel.size_names))
        self.pending: list[ir.Value] = []  # inlined expressions that read memory
        self.accesses = 0  # running number of loads and stores, for `indexing`
        self.loads = 0
        self.stores = 0
        self.atomics = 0
        self.index_dtype: DType = kernel.index_dtype or I32
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

    # -- sizes ---------------------------------------------------------------------------------

    def extent_int(self, size: Size) -> int | None:
        """Number of lanes of an axis if known at build time, padded to a power of two."""
        number = size.substitute(self.schedule.blocks).as_int()
        return None if number is None else next_power_of_2(number)

    def padded(self, size: Size) -> bool:
        """True if an axis of this size has lanes beyond its extent."""
        number = size.substitute(self.schedule.blocks).as_int()
        return number is None or number != next_power_of_2(number)

    def extent(self, size: Size) -> Expr:
        """The number of lanes of an axis: a literal or a compile-time argument."""
        sym = size.as_sym()
        if sym is not None and sym in self.schedule.dynamic_blocks:
            return self._dynamic_extent(sym)
        if sym is not None and sym.kind == "block":
            return self.block(sym)
        if size.syms and all(s.kind == "block" for s in size.syms):
            return self.size(size)
        number = size.as_int()
        if number is not None:
            return lit(str(next_power_of_2(number)))
        key = ("extent", size)
        if key not in self.arguments:
            var = Var("BLOCK_" + axis_name(self.size_hint(size)).upper())
            self._argument(key, var, "", 4, constexpr=True)
            self.arguments[key].per_launch = call("triton.next_power_of_2", self.size(size))
        return ref(self.arguments[key].var)

    def _dynamic_extent(self, sym: Sym) -> Expr:
        """A block size that the host computes, as a number of lanes: passed at compile time."""
        key = ("extent", Size.of(sym))
        if key not in self.arguments:
            self._argument(key, Var(block_name(sym.name)), "", 4, constexpr=True)
            self.arguments[key].per_launch = self.size(self.schedule.dynamic_blocks[sym])
        return ref(self.arguments[key].var)

    def block(self, sym: Sym) -> Expr:
        """A block size: a compile-time argument named after the source's variable."""
        if sym in self.schedule.dynamic_blocks:
            return self.size(self.schedule.dynamic_blocks[sym])
        key = ("block", sym)
        if key not in self.arguments:
            var = Var(block_name(sym.name))
            self._argument(key, var, str(self.schedule.blocks[sym]), 4, constexpr=True)
        return ref(self.arguments[key].var)

    def constexpr(self, name: str, host: str) -> Expr:
        """A compile-time argument that is no block size, e.g. GROUP_M."""
        key = ("constexpr", name)
        if key not in self.arguments:
            self._argument(key, Var(name), host, 5, constexpr=True)
        return ref(self.arguments[key].var)

    def size(self, size: Size, prec: int = 0) -> Expr:
        """A host integer in the kernel: literal, argument, or an expression of arguments."""
        number = size.as_int()
        if number is not None:
            return lit(str(number))
        sym = size.as_sym()
        if sym is not None and sym.kind == "block":
            return self.block(sym)
        name = self.sizes_by_name.get(size)
        if sym is not None or (name is not None and not _has_blocks(size)):
            return self._size_argument(size, name)
        return self._polynomial(size)

    def _size_argument(self, size: Size, name: str | None) -> Expr:
        key = ("size", size)
        if key not in self.arguments:
            sym = size.as_sym()
            stride = sym is not None and sym.kind == "stride"
            host = name or self.host_size(size)
            self._argument(key, Var(self.size_hint(size)), host, 3 if stride else 2)
        return ref(self.arguments[key].var, I32)

    def size_hint(self, size: Size) -> str:
        """The source's name for a size, else one made from its symbol or number."""
        name = self.sizes_by_name.get(size)
        if name is not None and name.isidentifier():
            return name
        if (tensor := self._stride_of(size)) is not None:
            return f"{tensor[0]}_stride_{tensor[1]}"
        sym = size.as_sym()
        if sym is not None:
            return sym.name.lower()
        number = size.as_int()
        if number is not None and number in self.constants:
            return self.constants[number]
        words = "".join(c if c.isalnum() else "_" for c in str(size)).strip("_").lower()
        while "__" in words:
            words = words.replace("__", "_")
        return words

    def _stride_of(self, size: Size) -> tuple[str, int] | None:
        sym = size.as_sym()
        if sym is None or sym.kind != "stride":
            return None
        for tensor in self.kernel.tensors:
            for dim, stride in enumerate(tensor.strides):
                if stride == size:
                    return tensor.name, dim
        return None

    def host_size(self, size: Size) -> str:
        """Host Python for a size, with block sizes as numbers."""
        return host_size(self.kernel, self.schedule, size)

    def _polynomial(self, size: Size) -> Expr:
        total: Expr | None = None
        for mono, coeff in size.terms:
            term: Expr | None = None
            for atom in mono:
                factor = self.size(Size.of(atom)) if isinstance(atom, Sym) else self._opaque(atom)
                if term is None and self.index_dtype == I64 and (len(mono) > 1 or abs(coeff) > 1):
                    factor = self.cast(factor, I64)
                term = factor if term is None else binary("*", term, factor, MUL, dtype=I32)
            if term is None:
                term = lit(str(abs(coeff)))
            elif abs(coeff) != 1:
                term = binary("*", term, lit(str(abs(coeff))), MUL, dtype=I32)
            if total is None:
                total = term if coeff > 0 else Expr("-{0}", (term,), (MUL,), ADD + 2, dtype=I32)
            else:
                total = binary("-" if coeff < 0 else "+", total, term, ADD, dtype=I32)
        assert total is not None
        return total

    def _opaque(self, atom: object) -> Expr:
        op, lhs, rhs = atom.op, self.size(atom.lhs), self.size(atom.rhs)  # type: ignore[attr-defined]
        if op in ("min", "max"):
            return call(op, lhs, rhs, dtype=I32)
        return binary(op, lhs, rhs, MUL, dtype=I32)

    # -- arguments -----------------------------------------------------------------------------

    def tensor(self, tensor: ir.Tensor) -> Expr:
        """The pointer argument of a tensor."""
        key = ("tensor", tensor)
        if key not in self.arguments:
            self._argument(key, Var(tensor.name), tensor.host, 0)
            self.arguments[key].tensor = tensor
        return ref(self.arguments[key].var)

    def descriptor(self, tensor: ir.Tensor, shape: tuple[Size, ...]) -> Expr:
        """The argument of a tensor's descriptor for blocks of a shape."""
        key = ("descriptor", tensor, shape)
        if key not in self.arguments:
            lanes = [self.extent_int(s) for s in shape]
            sizes = [
                f"triton.next_power_of_2({self.host_size(s)})" if n is None else str(n)
                for s, n in zip(shape, lanes, strict=True)
            ]
            block = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
            host = f"kt.descriptor({tensor.host}, {block})"
            self._argument(key, Var(f"{tensor.name}_desc"), host, 0)
            self.arguments[key].tensor = tensor
            self.described.append(tensor)
        return ref(self.arguments[key].var)

    def indexing(self) -> str:
        """How the next load or store is to be addressed."""
        kind = self.schedule.indexing(self.accesses) if self.allow_blocks else "pointer"
        self.accesses += 1
        return kind

    def scalar(self, name: str) -> Expr:
        """The argument of a run-time host scalar."""
        scalar = next(s for s in self.kernel.scalars if s.name == name)
        key = ("scalar", name)
        if key not in self.arguments:
            self._argument(key, Var(scalar.name), scalar.host, 1)
        return ref(self.arguments[key].var, scalar.dtype)

    def _argument(
        self, key: object, var: Var, host: str, group: int, *, constexpr: bool = False
    ) -> None:
        taken = [a.var.name for a in self.arguments.values()]
        var.name = mangle(var.hint, taken)
        var.argument = True
        position = len(self.arguments)
        if group == 0:
            position = self.kernel.tensors.index(key[1])  # type: ignore[index]
        if group > 0:
            self.numbers.add(var)
        self.arguments[key] = Argument(var, host, (group, position), constexpr)

    def used_arguments(self, used: set[Var]) -> list[Argument]:
        """Arguments that the kernel reads, or that a compile-time number is made from."""
        arguments = [a for a in self.arguments.values() if a.var in used]
        needed = {v for a in arguments if a.per_launch is not None for v in a.per_launch.vars()}
        arguments = [a for a in self.arguments.values() if a.var in used | needed]
        return sorted(arguments, key=lambda a: a.order)

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
        """True if padding to powers of two would scramble a reshape between the shapes."""
        return any(self.padded(s) for s in (*old, *new) if s.syms - _block_syms(s) or s.is_const)

    def reads_begin(self, tile: ir.Value) -> bool:
        """True if the device code asks where the tile starts or ends."""
        return any(
            isinstance(op, ir.TileAttr) and op.tile is tile and op.attr in ("begin", "end")
            for op in walk(self.phase.body)
        )

    def fill_of(self, op: ir.Load) -> bool | int | float | None:
        """What the load gives in lanes its mask excludes; None if nothing can see them."""
        return self.lanes.fill(op)

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


def _has_blocks(size: Size) -> bool:
    return any(s.kind == "block" for s in size.syms)


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


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def axis_name(name: str) -> str:
    """``m`` of ``tile_m``, ``m_tile``, ``block_m``, ``m``."""
    lowered = name.lower()
    for prefix in ("tile_", "block_size_", "block_"):
        if lowered.startswith(prefix) and len(lowered) > len(prefix):
            return name[len(prefix) :]
    for suffix in ("_tile", "_block"):
        if lowered.endswith(suffix) and len(lowered) > len(suffix):
            return name[: -len(suffix)]
    if lowered.startswith("tile") and lowered[4:].isdigit():
        return lowered[4:]
    return "" if lowered in ("tile", "block", "block_size") else name


def with_axis(prefix: str, name: str) -> str:
    """``offs`` and ``tile_m`` make ``offs_m``; ``offs`` and ``tile`` make ``offs``."""
    axis = axis_name(name)
    return f"{prefix}_{axis}" if axis else prefix


def block_name(name: str) -> str:
    """``BLOCK_M`` for a block-size symbol named ``tile_m``, ``block_m`` or ``m``."""
    if name.lower() in ("block_size", "tile", "block"):
        return "BLOCK_SIZE"
    return with_axis("BLOCK", name).upper()


def less(lhs: Expr, rhs: Expr) -> Expr:
    """``lhs < rhs``, the mask of an axis."""
    return binary("<", lhs, rhs, COMPARE, dtype=BOOL, shape=lhs.shape)
