"""Builds Tile IR under torch's rules: promotion with weak scalars, broadcasting, f32 math.

A :class:`Builder` holds the insertion point. Its methods take device values, device scalars
and compile-time numbers alike, insert the casts and reshapes torch would do implicitly, and
return a :class:`~transpile.ir.ir.Value`, or a :class:`~transpile.frontend.values.Scalar` where
all operands were number-like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transpile.frontend.values import HostNumber, Scalar, Tile
from transpile.ir import dtypes, ir
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import BOOL, F32, F64, I32, I64, Category, DType
from transpile.ir.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir.sizes import ONE, Size, Sym

Operand = Any  # ir.Value | Scalar | Size | HostNumber | bool | int | float


def unify_axis(a: Size, b: Size, blocks: dict[Sym, Size]) -> Size | None:
    """The axis two broadcast-compatible axes have together, None if they clash.

    Equal symbols are one axis. A block axis also meets an axis of the same number when the
    block's size is fixed by the source (``hl.tile(n, block_size=16)`` against ``hl.arange(16)``).
    """
    if a == b or b == ONE:
        return a
    if a == ONE:
        return b
    if a.substitute(blocks) == b.substitute(blocks):
        return a if a.as_sym() is not None else b
    return None


class Builder:
    """Insertion point and typing rules for device code."""

    def __init__(self, index_dtype: DType = I32) -> None:
        self.ops: list[ir.Op] = []
        self.span: ir.Span | None = None
        self.index_dtype = index_dtype
        self.tiles: list[Tile] = []  # tile loops around the insertion point, innermost last
        self.fixed_blocks: dict[Sym, Size] = {}  # block sizes the source fixes
        self.numbers: dict[str, ir.Scalar] = {}  # host scalars used so far
        self.producer: dict[ir.Value, ir.Op] = {}
        self.require_int: Callable[[ir.Value], None] = lambda v: None  # learns an integer dtype
        self.reconcile: Callable[[Size, Size], None] = lambda a, b: None  # learns a == b, or not

    # -- insertion -------------------------------------------------------------------------

    def emit(self, op: ir.Op) -> Any:
        """Append ``op``; returns its result(s)."""
        if op.span is None:
            op.span = self.span
        self.ops.append(op)
        for value in op.results:
            self.producer[value] = op
        return op.results[0] if len(op.results) == 1 else op.results

    @contextmanager
    def region(self) -> Iterator[list[ir.Op]]:
        """Divert emission into a fresh list."""
        saved, self.ops = self.ops, []
        try:
            yield self.ops
        finally:
            self.ops = saved

    def new(self, dtype: DType, shape: Sequence[Size] = (), name: str | None = None) -> ir.Value:
        return ir.Value(ir.TileType(dtype, tuple(shape)), name)

    # -- scalars ---------------------------------------------------------------------------

    def const(self, value: bool | int | float, dtype: DType) -> ir.Value:
        if dtype.is_float:
            value = float(value)
        elif dtype.is_bool:
            value = bool(value)
        elif isinstance(value, float):
            value = int(value)
        return self.emit(ir.Const(results=(self.new(dtype),), value=value))  # type: ignore[no-any-return]

    def size(self, size: Size) -> ir.Value:
        """A host-side integer as an index scalar."""
        if (number := size.as_int()) is not None:
            return self.const(number, self.index_dtype)
        return self.emit(ir.SizeOf(results=(self.new(self.index_dtype),), size=size))  # type: ignore[no-any-return]

    def host_number(self, number: HostNumber) -> ir.Value:
        if number.host is None:
            raise error(
                "KT0304",
                "a host expression is used on the device before it is bound to a variable",
                self.span,
                remedy="assign it to a variable before the loop",
            )
        name = number.host if number.host.isidentifier() else f"scalar_{len(self.numbers)}"
        for known in self.numbers.values():
            if known.host == number.host:
                name = known.name
        self.numbers.setdefault(name, ir.Scalar(name, number.dtype, number.host))
        value = self.new(number.dtype, name=None)
        return self.emit(ir.HostScalar(results=(value,), name=name))  # type: ignore[no-any-return]

    def scalar(self, x: Operand) -> ir.Value:
        """Any number-like operand as a device scalar of its natural dtype."""
        if isinstance(x, ir.Value):
            return x
        if isinstance(x, Scalar):
            return x.value
        if isinstance(x, HostNumber):
            return self.host_number(x)
        if isinstance(x, bool):
            return self.const(x, BOOL)
        if isinstance(x, int):
            return self.const(x, self.index_dtype)
        if isinstance(x, float):
            return self.const(x, F32)
        if isinstance(x, Size):
            return self.size(x)
        raise error("KT0401", f"expected a number or a tile, found {describe(x)}", self.span)

    # -- dtype and shape rules -------------------------------------------------------------

    def result_dtype(self, args: Sequence[Operand]) -> DType:
        """``torch.result_type``: tiles beat 0-d tensors beat Python numbers within a category."""
        tiles: DType | None = None
        points: DType | None = None
        weak: Category | None = None
        for x in args:
            if isinstance(x, ir.Value):
                if x.shape:
                    tiles = self._promote(tiles, x.dtype)
                else:
                    points = self._promote(points, x.dtype)
            else:
                category = number_category(x)
                weak = category if weak is None else max(weak, category)
        result = tiles
        if points is not None and (result is None or points.category > result.category):
            result = points
        if weak is None:
            assert result is not None
            return result
        if result is None:
            kinds = [x.dtype for x in args if isinstance(x, (Scalar, HostNumber))]
            if weak is Category.FLOAT:
                return F64 if F64 in kinds else F32
            if weak is Category.BOOL:
                return BOOL
            return I64 if I64 in kinds else self.index_dtype
        if result.is_fp8 and weak is Category.FLOAT:
            return result
        return dtypes.promote_weak(result, weak)

    def _promote(self, a: DType | None, b: DType) -> DType:
        if a is None:
            return b
        result = dtypes.promote(a, b)
        if result is None:
            raise error(
                "KT0501",
                f"no promotion between {a} and {b}",
                self.span,
                why="torch defines none for this pair of dtypes",
                remedy="convert one operand with .to(...)",
            )
        return result

    def broadcast_shape(self, shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...]:
        rank = max((len(s) for s in shapes), default=0)
        out: list[Size] = [ONE] * rank
        for shape in shapes:
            for i, axis in enumerate(shape):
                at = rank - len(shape) + i
                joined = unify_axis(out[at], axis, self.fixed_blocks)
                if joined is None:
                    self.reconcile(out[at], axis)
                    raise error(
                        "KT0502",
                        "shapes do not broadcast: " + " and ".join(map(show_shape, shapes)),
                        self.span,
                        why=f"axis {at} is {out[at]} in one operand and {axis} in another",
                        remedy="tile both over the same loop, or add the axis with [:, None]",
                    )
                out[at] = joined
        return tuple(out)

    # -- basic operations ------------------------------------------------------------------

    def cast(self, x: ir.Value, dtype: DType) -> ir.Value:
        if x.dtype == dtype:
            return x
        op = self.producer.get(x)
        if isinstance(op, ir.Const) and not x.shape:
            return self.const(op.value, dtype)
        return self.emit(ir.Cast(results=(self.new(dtype, x.shape),), value=x))  # type: ignore[no-any-return]

    def bitcast(self, x: ir.Value, dtype: DType) -> ir.Value:
        """The same bits as another dtype of the same width; there and back is no operation."""
        if x.dtype == dtype:
            return x
        op = self.producer.get(x)
        if isinstance(op, ir.Cast) and op.bitcast and op.value.dtype == dtype:
            return op.value
        cast = ir.Cast(results=(self.new(dtype, x.shape),), value=x, bitcast=True)
        return self.emit(cast)  # type: ignore[no-any-return]

    def reshape(self, x: ir.Value, shape: Sequence[Size]) -> ir.Value:
        if x.shape == tuple(shape):
            return x
        return self.emit(ir.Reshape(results=(self.new(x.dtype, shape),), value=x))  # type: ignore[no-any-return]

    def broadcast(self, x: ir.Value, shape: Sequence[Size]) -> ir.Value:
        """Expand to ``shape``, torch style (right-aligned)."""
        if x.shape == tuple(shape):
            return x
        if x.shape and len(x.shape) < len(shape):
            x = self.reshape(x, (ONE,) * (len(shape) - len(x.shape)) + x.shape)
            if x.shape == tuple(shape):
                return x
        return self.emit(ir.Broadcast(results=(self.new(x.dtype, shape),), value=x))  # type: ignore[no-any-return]

    def permute(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        if list(order) == list(range(len(x.shape))):
            return x
        shape = tuple(x.shape[i] for i in order)
        return self.emit(  # type: ignore[no-any-return]
            ir.Permute(results=(self.new(x.dtype, shape),), value=x, order=tuple(order))
        )

    def full(self, shape: Sequence[Size], value: Operand, dtype: DType) -> ir.Value:
        scalar = self.cast(self.scalar(value), dtype)
        if not shape:
            return scalar
        return self.emit(ir.Full(results=(self.new(dtype, shape),), value=scalar))  # type: ignore[no-any-return]

    def elementwise(self, name: str, *args: Operand) -> ir.Value:
        """Operation ``name`` with torch's promotion; always a Value."""
        op = ELEMENTWISE[name]
        if name in ("and", "or", "xor", "not", "shl", "shr"):
            self._require_bits(name, args)
        if name == "where":
            dtype = self.result_dtype(args[1:])
            if not isinstance(args[1], ir.Value) and not isinstance(args[2], ir.Value):
                dtype = _where_of_numbers(dtype, self.index_dtype, args[1:])
            return self._apply(
                name, dtype, dtype, [(args[0], BOOL), (args[1], dtype), (args[2], dtype)]
            )
        common = self.result_dtype(args)
        if op.rule == "float" and not common.is_float:
            common = F32
        if name == "sub" and common.is_bool:
            common = I32
        compute = F32 if op.f32_math and (common.is_half or common.is_fp8) else common
        result = BOOL if op.rule == "bool" else compute
        value = self._apply(name, compute, result, [(a, compute) for a in args])
        return value if op.rule == "bool" else self.cast(value, common)

    def _require_bits(self, name: str, args: Sequence[Operand]) -> None:
        for x in args:
            category = x.dtype.category if isinstance(x, ir.Value) else number_category(x)
            if category is Category.FLOAT:
                if isinstance(x, ir.Value):
                    self.require_int(x)
                raise error(
                    "KT0501",
                    f"bit operation '{name}' on {describe(x)}",
                    self.span,
                    why="torch defines bit operations on integers and bools",
                    remedy="convert the operand with .to(torch.int32)",
                )

    def _apply(
        self, name: str, compute: DType, result: DType, args: Sequence[tuple[Operand, DType]]
    ) -> ir.Value:
        values = [self._operand(x, dtype) for x, dtype in args]
        shape = self.broadcast_shape([v.shape for v in values])
        aligned = tuple(self._align(v, len(shape)) for v in values)
        return self.emit(  # type: ignore[no-any-return]
            ir.Elementwise(results=(self.new(result, shape),), name=name, args=aligned)
        )

    def _operand(self, x: Operand, dtype: DType) -> ir.Value:
        if isinstance(x, (bool, int, float)):
            return self.const(x, dtype)
        return self.cast(self.scalar(x), dtype)

    def _align(self, x: ir.Value, rank: int) -> ir.Value:
        if not x.shape or len(x.shape) == rank:
            return x
        return self.reshape(x, (ONE,) * (rank - len(x.shape)) + x.shape)

    def arith(self, name: str, *args: Operand) -> ir.Value | Scalar:
        """Like :meth:`elementwise`; the result is weak when every operand is a number."""
        value = self.elementwise(name, *args)
        if any(isinstance(a, ir.Value) for a in args):
            return value
        return Scalar(value)

    # -- guards, reductions, products --------------------------------------------------------

    def active_tile(self, axis: Size) -> Tile | None:
        """The innermost enclosing tile loop whose block is this axis."""
        sym = axis.as_sym()
        if sym is None or sym.kind != "block":
            return None
        for tile in reversed(self.tiles):
            if tile.block == sym:
                return tile
        return None

    def guard(self, axis: Size, dim: int) -> tuple[ir.Guard, ...]:
        """Guard of an axis of a value here: its tile's, its own extent's, or none for a block
        axis outside its loop (an accumulator, all of whose lanes count)."""
        tile = self.active_tile(axis)
        if tile is not None:
            return (ir.Guard(dim, tile.value),)
        if any(sym.kind == "block" for sym in axis.syms) or axis == ONE:
            return ()
        return (ir.Guard(dim, None),)

    def mask_to(self, x: ir.Value, dim: int, fill: bool | int | float) -> ir.Value:
        tile = self.active_tile(x.shape[dim])
        if tile is not None and tile.lengths is not None:
            return self._mask_jagged(tile, x, fill)
        guards = self.guard(x.shape[dim], dim)
        if not guards:
            return x
        mask = ir.Mask(results=(self.new(x.dtype, x.shape),), value=x, guards=guards, fill=fill)
        return self.emit(mask)  # type: ignore[no-any-return]

    def _mask_jagged(self, tile: Tile, x: ir.Value, fill: bool | int | float) -> ir.Value:
        inside = self.jagged_mask(tile, x.shape)
        if inside is None or self._held(x) == fill:
            return x
        return self.elementwise("where", inside, x, self.const(fill, x.dtype))

    def jagged_mask(self, tile: Tile, shape: tuple[Size, ...]) -> ir.Value | None:
        """``index < lengths`` of a jagged tile, aligned to ``shape``; None if the shape lacks the
        tile's axis or one of its parents'."""
        lengths = tile.lengths
        assert lengths is not None
        if tile.size not in shape or not all(axis in shape for axis in lengths.shape):
            return None
        index = self.emit(
            ir.TileIndex(results=(self.new(self.index_dtype, (tile.size,)),), tile=tile.value)
        )
        lane = self.reshape(index, tuple(a if a == tile.size else ONE for a in shape))
        limit = self.reshape(lengths, tuple(a if a in lengths.shape else ONE for a in shape))
        return self.elementwise("lt", lane, limit)

    def _held(self, x: ir.Value) -> float | int | bool | None:
        """What lanes beyond a jagged row hold, where that is plain to see."""
        op = self.producer.get(x)
        if isinstance(op, ir.Load):
            return 0
        if isinstance(op, (ir.Cast, ir.Reshape, ir.Broadcast, ir.Permute)):
            return self._held(op.value)
        if isinstance(op, ir.Elementwise) and op.name == "mul":
            return 0 if all(self._held(a) == 0 for a in op.args if a.shape) else None
        return None

    def reduce(self, name: str, x: ir.Value, dim: int, keepdim: bool = False) -> ir.Value:
        """One reduction over axis ``dim``; dtype rules are torch's (integer sums are i64)."""
        dim = self.axis(x, dim)
        rule = REDUCTIONS[name]
        identity = rule.identity
        wide = x
        if name in ("sum", "prod"):
            if x.dtype.is_bool or x.dtype.is_int:
                wide = self.cast(x, I64)
            elif x.dtype.is_half or x.dtype.is_fp8:
                wide = self.cast(x, F32)
        elif name in ("any", "all"):
            wide = x if x.dtype.is_bool else self.elementwise("ne", x, 0)
        fill = extreme(wide.dtype, identity) if isinstance(identity, str) else identity
        masked = self.mask_to(wide, dim, fill)
        shape = list(x.shape)
        if keepdim:
            shape[dim] = ONE
        else:
            del shape[dim]
        dtype = I64 if rule.index else masked.dtype
        result = self.emit(
            ir.Reduce(
                results=(self.new(dtype, shape),), name=name, value=masked, dim=dim, keepdim=keepdim
            )
        )
        if name in ("sum", "prod") and (x.dtype.is_half or x.dtype.is_fp8):
            return self.cast(result, x.dtype)
        return result  # type: ignore[no-any-return]

    def axis(self, x: ir.Value, dim: Any) -> int:
        rank = len(x.shape)
        if not isinstance(dim, int) or not -rank <= dim < rank:
            raise error(
                "KT0503",
                f"axis {dim} does not exist in a tile of shape {show_shape(x.shape)}",
                self.span,
                remedy=f"use an axis from {-rank} to {rank - 1}" if rank else "",
            )
        return dim % rank

    def dot(
        self,
        lhs: ir.Value,
        rhs: ir.Value,
        acc: ir.Value | None = None,
        out_dtype: DType | None = None,
        precision: str = "tf32",
    ) -> ir.Value:
        """``acc + lhs @ rhs``. Without ``out_dtype`` the result has the operands' dtype, as torch's
        matmul; the product always accumulates in f32 (i32 for 8-bit integers)."""
        lhs, rhs = self._batched(lhs, rhs), self._batched(rhs, lhs)
        rank = len(lhs.shape)
        if rank not in (2, 3) or len(rhs.shape) != rank:
            raise error(
                "KT0504",
                f"product of {show_shape(lhs.shape)} and {show_shape(rhs.shape)}",
                self.span,
                why="a product takes 2-D tiles, or 3-D ones with a batch axis in front",
                remedy="index the operands to these ranks",
            )
        if lhs.dtype != rhs.dtype and not (lhs.dtype.is_fp8 and rhs.dtype.is_fp8):
            common = self._promote(lhs.dtype, rhs.dtype)
            lhs, rhs = self.cast(lhs, common), self.cast(rhs, common)
        inner = unify_axis(lhs.shape[-1], rhs.shape[-2], self.fixed_blocks)
        batch = self.broadcast_shape([lhs.shape[:-2], rhs.shape[:-2]])
        if inner is None:
            self.reconcile(lhs.shape[-1], rhs.shape[-2])
        if inner is None or (inner not in (lhs.shape[-1], rhs.shape[-2])):
            raise error(
                "KT0505",
                f"inner axes differ in the product of {show_shape(lhs.shape)} and "
                f"{show_shape(rhs.shape)}",
                self.span,
                remedy="tile both operands over the same inner loop",
            )
        lhs = self.mask_to(lhs, rank - 1, 0)
        rhs = self.mask_to(rhs, rank - 2, 0)
        accumulate = I32 if lhs.dtype.is_int else F64 if lhs.dtype == F64 else F32
        shape = (*batch, lhs.shape[-2], rhs.shape[-1])
        fused = acc if acc is not None and acc.dtype == accumulate else None
        if fused is not None:
            self.broadcast_shape([fused.shape, shape])
        product: ir.Value = self.emit(
            ir.Dot(
                results=(self.new(accumulate, shape),),
                lhs=lhs,
                rhs=rhs,
                acc=fused,
                acc_dtype=accumulate,
                precision=precision,
            )
        )
        natural = lhs.dtype if not lhs.dtype.is_fp8 else F32
        if acc is not None and fused is None:
            summed = self.elementwise("add", self.cast(acc, accumulate), product)
            return self.cast(summed, out_dtype or acc.dtype)
        if acc is not None:
            return self.cast(product, out_dtype or acc.dtype)
        return self.cast(product, out_dtype or natural)

    def _batched(self, x: ir.Value, other: ir.Value) -> ir.Value:
        """A matrix beside a batch of them is the same one for the whole batch."""
        if len(x.shape) == 2 and len(other.shape) == 3:
            return self.broadcast(x, (other.shape[0], *x.shape))
        return x


def number_category(x: Operand) -> Category:
    """Promotion category of a weak number."""
    if isinstance(x, bool):
        return Category.BOOL
    if isinstance(x, (int, Size)):
        return Category.INT
    if isinstance(x, float):
        return Category.FLOAT
    if isinstance(x, (Scalar, HostNumber)):
        return x.dtype.category
    raise error("KT0401", f"expected a number or a tile, found {describe(x)}")


def extreme(dtype: DType, which: str) -> float | int | bool:
    """The smallest or largest value: infinities for floats."""
    if dtype.is_float:
        return float("-inf") if which == "min" else float("inf")
    if dtype.is_bool:
        return which == "max"
    if which == "min":
        return -(1 << (dtype.bits - 1)) if dtype.signed else 0
    return (1 << (dtype.bits - (1 if dtype.signed else 0))) - 1


def _where_of_numbers(dtype: DType, index: DType, args: Sequence[Operand]) -> DType:
    plain = all(isinstance(a, (bool, int)) for a in args)
    return I64 if plain and dtype == index else dtype


def show_shape(shape: Sequence[Size]) -> str:
    """``[BLOCK_M, N]``."""
    return "[" + ", ".join(map(str, shape)) + "]"


def describe(x: Any) -> str:
    """A short noun phrase for a frontend value, for diagnostics."""
    if isinstance(x, ir.Value):
        return (
            f"a {x.dtype} tile of shape {show_shape(x.shape)}" if x.shape else f"a {x.dtype} scalar"
        )
    if isinstance(x, str):
        return f"the string {x!r}"
    if isinstance(x, (bool, int, float)) or x is None:
        return repr(x)
    if isinstance(x, Size):
        return f"the size {x}"
    if isinstance(x, DType):
        return f"the dtype {x}"
    if type(x).__name__ == "Opaque":
        return f"a host object ({x.what})"
    words = {
        "HostTensor": "a host tensor",
        "HostNumber": "a host number",
        "ModuleRef": "a module",
        "Function": "a function",
        "Known": "a library function",
        "Tile": "a tile",
        "TileOffset": "a tile with an offset",
        "Scalar": "a device scalar",
        "Device": "a device",
        "Gone": "a name that has no value here",
    }
    return words.get(type(x).__name__, f"a {type(x).__name__}")
