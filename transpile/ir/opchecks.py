"""What the verifier demands of each operation: operand and result types, ranks, scopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, DType
from transpile.ir.ir import Block, Op, TileType, TileVar, Value
from transpile.ir.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir.printer import show_shape
from transpile.ir.sizes import Size
from transpile.ir.walk import index_shape

if TYPE_CHECKING:
    from transpile.ir.verifier import Verifier

# -- leaves ------------------------------------------------------------------------------------


def _const(v: Verifier, op: ir.Const) -> None:
    v.scalar(op.result, "a constant")
    dtype = op.result.dtype
    if isinstance(op.value, bool):
        v.check(dtype.is_bool, f"bool constant of dtype {dtype}")
    elif isinstance(op.value, float):
        v.check(dtype.is_float, f"float constant of dtype {dtype}")
    else:
        v.check(not dtype.is_bool, "int constant of dtype bool")


def _integer_scalar(v: Verifier, op: Op) -> None:
    v.scalar(op.result, "the result")
    v.integer(op.result, "the result")


def _host_scalar(v: Verifier, op: ir.HostScalar) -> None:
    if v.check(op.name in v.scalars, f"scalar {op.name} is not declared"):
        v.results(op, TileType(v.scalars[op.name].dtype))


def _tile_index(v: Verifier, op: ir.TileIndex) -> None:
    if v.check(isinstance(op.tile.type, TileVar), "index of something that is no tile"):
        block = op.tile.type.block  # type: ignore[union-attr]
        v.check(op.result.shape == (Size.of(block),), f"result shape is not [{block}]")
        v.integer(op.result, "the result")


def _tile_attr(v: Verifier, op: ir.TileAttr) -> None:
    v.check(isinstance(op.tile.type, TileVar), f"{op.attr} of something that is no tile")
    _integer_scalar(v, op)


def _iota(v: Verifier, op: ir.Iota) -> None:
    v.check(len(op.result.shape) == 1, "iota of a rank other than 1")
    v.integer(op.result, "the result")


# -- memory ------------------------------------------------------------------------------------


def _access_shape(v: Verifier, op: ir.Load | ir.Store | ir.Atomic) -> tuple[Size, ...] | None:
    """Check tensor, index and guards; the shape of the access, or None if it has none."""
    v.check(op.tensor in v.kernel.tensors, f"tensor {op.tensor.name} is not declared")
    ranks = len(op.index), len(op.tensor.shape)
    v.check(ranks[0] == ranks[1], f"{ranks[0]} index entries for a tensor of rank {ranks[1]}")
    for entry in op.index:
        _entry(v, entry)
    try:
        shape = index_shape(op.index)
    except (ValueError, AttributeError) as problem:
        v.fail(f"bad index: {problem}")
        return None
    v.guards(op.guards, shape)
    if op.mask is not None:
        v.check(op.mask.dtype == BOOL, f"mask of dtype {op.mask.dtype}")
        v.fits(op.mask, shape, "mask")
    return shape


def _entry(v: Verifier, entry: ir.Index) -> None:
    if isinstance(entry, ir.AtTile):
        v.check(isinstance(entry.tile.type, TileVar), "tile index of something that is no tile")
        v.scalar(entry.offset, "a tile's offset")
        v.integer(entry.offset, "a tile's offset")
    elif isinstance(entry, ir.AtSlice):
        v.scalar(entry.start, "a slice's start")
        v.integer(entry.start, "a slice's start")
    elif isinstance(entry, ir.AtScalar):
        v.scalar(entry.value, "a scalar index")
        v.integer(entry.value, "a scalar index")
    else:
        v.integer(entry.value, "an index tile")


def _load(v: Verifier, op: ir.Load) -> None:
    shape = _access_shape(v, op)
    if shape is not None:
        v.results(op, TileType(op.tensor.dtype, shape))


def _store(v: Verifier, op: ir.Store) -> None:
    shape = _access_shape(v, op)
    v.results(op)
    if shape is not None:
        v.fits(op.value, shape, "the stored value")
        same = op.value.dtype == op.tensor.dtype
        v.check(same, f"store of {op.value.dtype} to a tensor of {op.tensor.dtype}")


def _atomic(v: Verifier, op: ir.Atomic) -> None:
    shape = _access_shape(v, op)
    if shape is None:
        return
    for value in (op.value, op.expected):
        if value is not None:
            v.fits(value, shape, "an atomic's operand")
            same = value.dtype == op.tensor.dtype
            v.check(same, f"atomic of {value.dtype} on a tensor of {op.tensor.dtype}")
    v.check((op.expected is not None) == (op.kind == "cas"), "`expected` is for cas only")
    if op.results:
        v.results(op, TileType(op.tensor.dtype, shape))


# -- elementwise and shape ---------------------------------------------------------------------


def _elementwise(v: Verifier, op: ir.Elementwise) -> None:
    entry = ELEMENTWISE.get(op.name)
    if not v.check(entry is not None, f"{op.name} is not in the op table") or entry is None:
        return
    arity = len(op.args) == entry.arity
    if not v.check(arity, f"{op.name} takes {entry.arity} operands, not {len(op.args)}"):
        return
    for arg in op.args:
        _elementwise_operand(v, arg, op.result.shape)
    for axis, size in enumerate(op.result.shape):
        if size.as_int() != 1:
            found = any(a.shape and a.shape[axis : axis + 1] == (size,) for a in op.args)
            v.check(found, f"no operand has the result's axis {axis} of size {size}")
    args = op.args
    if op.name == "where":
        v.check(args[0].dtype == BOOL, f"condition of dtype {args[0].dtype}")
        args = args[1:]
    dtypes = {a.dtype for a in args}
    if v.check(len(dtypes) == 1, f"operands of {', '.join(sorted(d.name for d in dtypes))}"):
        dtype = args[0].dtype
        expected = _result_dtype(entry.rule, dtype)
        v.check(op.result.dtype == expected, f"result is {op.result.dtype}, not {expected}")
        v.check(not (entry.f32_math and dtype.is_half), f"{op.name} of {dtype} must be in f32")


def _elementwise_operand(v: Verifier, arg: Value, shape: Sequence[Size]) -> None:
    if not arg.shape:
        return
    v.check(len(arg.shape) == len(shape), f"operand of rank {len(arg.shape)}, not {len(shape)}")
    v.fits(arg, shape, "an operand")


def _result_dtype(rule: str, dtype: DType) -> DType:
    if rule == "bool":
        return BOOL
    if rule == "float" and not dtype.is_float:
        return F32
    return dtype


def _cast(v: Verifier, op: ir.Cast) -> None:
    v.check(op.result.shape == op.value.shape, "a cast changes the shape")
    if op.bitcast:
        widths = op.value.dtype.bits, op.result.dtype.bits
        v.check(widths[0] == widths[1], f"bitcast from {widths[0]} to {widths[1]} bits")


def _reshape(v: Verifier, op: ir.Reshape) -> None:
    v.check(op.result.dtype == op.value.dtype, "a reshape changes the dtype")
    old, new = _product(op.value.shape), _product(op.result.shape)
    v.check(old == new, f"reshape of {old} elements to {new}")


def _product(shape: Sequence[Size]) -> Size:
    total = Size.of(1)
    for size in shape:
        total = total * size
    return total


def _broadcast(v: Verifier, op: ir.Broadcast) -> None:
    v.check(op.result.dtype == op.value.dtype, "a broadcast changes the dtype")
    if op.value.shape:
        ranks = len(op.value.shape), len(op.result.shape)
        v.check(ranks[0] == ranks[1], f"broadcast from rank {ranks[0]} to {ranks[1]}")
    v.fits(op.value, op.result.shape, "the value")


def _permute(v: Verifier, op: ir.Permute) -> None:
    if v.check(sorted(op.order) == list(range(len(op.value.shape))), f"order {op.order}"):
        shape = tuple(op.value.shape[axis] for axis in op.order)
        v.results(op, TileType(op.value.dtype, shape))


def _join(v: Verifier, op: ir.Join) -> None:
    v.check(op.lhs.type == op.rhs.type, "the operands of a join differ")
    v.results(op, TileType(op.lhs.dtype, (*op.lhs.shape, Size.of(2))))


def _split(v: Verifier, op: ir.Split) -> None:
    shape = op.value.shape
    v.check(bool(shape) and shape[-1].as_int() == 2, "split of a last axis that is not 2")
    half = TileType(op.value.dtype, shape[:-1])
    v.results(op, half, half)


def _full(v: Verifier, op: ir.Full) -> None:
    v.scalar(op.value, "the value")
    v.check(op.result.dtype == op.value.dtype, "full changes the dtype")


def _mask(v: Verifier, op: ir.Mask) -> None:
    v.results(op, op.value.tile)
    v.check(bool(op.guards), "mask without guards")
    v.guards(op.guards, op.value.shape)


# -- across lanes ------------------------------------------------------------------------------


def _reduce(v: Verifier, op: ir.Reduce) -> None:
    if not v.check(op.name in REDUCTIONS, f"{op.name} is not in the op table"):
        return
    shape = v.reduced(op.value.shape, op.dim, op.keepdim)
    v.check(op.result.shape == shape, f"result shape is not {show_shape(shape)}")
    source, target = op.value.dtype, op.result.dtype
    if REDUCTIONS[op.name].index:
        v.check(target.is_int, f"{op.name} gives {target}")
    elif op.name in ("any", "all"):
        v.check(target == BOOL, f"{op.name} gives {target}")
    elif op.name in ("sum", "prod"):
        widened = target.is_int if not source.is_float else target.is_float
        v.check(widened, f"{op.name} of {source} gives {target}")
    else:
        v.check(target == source, f"{op.name} of {source} gives {target}")


def _combine(v: Verifier, values: Sequence[Value], combine: Block) -> None:
    types = tuple(TileType(value.dtype) for value in values)
    with v.scope():
        v.body(combine, (*types, *types))
        v.yields(combine, types)


def _reduce_with(v: Verifier, op: ir.ReduceWith) -> None:
    shapes = {value.shape for value in op.values}
    v.check(len(shapes) == 1, "the reduced values have different shapes")
    types = [TileType(val.dtype, v.reduced(val.shape, op.dim, op.keepdim)) for val in op.values]
    v.results(op, *types)
    _combine(v, op.values, op.combine)


def _scan(v: Verifier, op: ir.Scan) -> None:
    shapes = {value.shape for value in op.values}
    v.check(len(shapes) == 1, "the scanned values have different shapes")
    v.check(0 <= op.dim < len(op.values[0].shape), f"axis {op.dim}")
    v.check((op.name is None) != (op.combine is None), "a scan has a name or a combine")
    if op.combine is not None:
        v.results(op, *(value.type for value in op.values))
        _combine(v, op.values, op.combine)
    else:
        v.check(op.name in ("sum", "prod"), f"scan {op.name}")
        v.check(op.result.shape == op.values[0].shape, "a scan changes the shape")


def _dot(v: Verifier, op: ir.Dot) -> None:
    lhs, rhs = op.lhs.shape, op.rhs.shape
    ranks = len(lhs), len(rhs)
    if not v.check(ranks in ((2, 2), (3, 3)), f"dot of ranks {ranks[0]} and {ranks[1]}"):
        return
    v.check(lhs[-1] == rhs[-2], f"dot over {lhs[-1]} and {rhs[-2]}")
    v.check(lhs[:-2] == rhs[:-2], "dot of different batch axes")
    v.check(op.lhs.dtype == op.rhs.dtype, f"dot of {op.lhs.dtype} and {op.rhs.dtype}")
    shape = (*lhs[:-1], rhs[-1])
    dtype = op.acc.dtype if op.acc is not None else op.acc_dtype
    v.results(op, TileType(dtype, shape))
    if op.acc is not None:
        v.check(op.acc.shape == shape, f"accumulator of shape {show_shape(op.acc.shape)}")


def _gather(v: Verifier, op: ir.Gather) -> None:
    v.integer(op.index, "the index")
    v.check(len(op.index.shape) == len(op.value.shape), "gather with an index of another rank")
    v.check(0 <= op.dim < len(op.value.shape), f"axis {op.dim}")
    v.results(op, TileType(op.value.dtype, op.index.shape))


def _sort(v: Verifier, op: ir.Sort) -> None:
    shape = op.value.shape
    v.check(bool(shape), "sort of a scalar")
    kept = shape if op.k is None else (*shape[:-1], Size.of(op.k))
    v.check(len(op.results) in (1, 2), f"{len(op.results)} results")
    v.check(op.result.type == TileType(op.value.dtype, kept), "result type")
    for indices in op.results[1:]:
        v.check(indices.shape == kept, "shape of the indices")
        v.integer(indices, "the indices")


def _random(v: Verifier, op: ir.Random) -> None:
    v.scalar(op.seed, "the seed")
    v.integer(op.seed, "the seed")
    v.integer(op.offset, "the offset")
    v.check(op.result.shape == op.offset.shape, "shape of the offset and the result")
    expected = F32 if op.kind == "uniform" else None
    ok = op.result.dtype == expected if expected else op.result.dtype.is_int
    v.check(ok, f"random {op.kind} of dtype {op.result.dtype}")


def _anything(v: Verifier, op: Op) -> None:
    """Operations whose meaning only their target knows."""


# -- control flow ------------------------------------------------------------------------------


def _for_tile(v: Verifier, op: ir.ForTile) -> None:
    for bound, what in ((op.begin, "begin"), (op.end, "end")):
        v.scalar(bound, what)
        v.integer(bound, what)
    v.declared(op.block)
    v.loop(op, TileVar(op.block), op.inits, op.body)


def _for_range(v: Verifier, op: ir.ForRange) -> None:
    for bound, what in ((op.begin, "begin"), (op.end, "end"), (op.step, "step")):
        v.scalar(bound, what)
        v.integer(bound, what)
    var = op.body.params[0]
    v.scalar(var, "the loop variable")
    v.integer(var, "the loop variable")
    v.loop(op, var.type, op.inits, op.body)


def _if(v: Verifier, op: ir.If) -> None:
    v.scalar(op.cond, "the condition")
    v.check(op.cond.dtype == BOOL, f"condition of dtype {op.cond.dtype}")
    types = tuple(r.type for r in op.results)
    for block in (op.then, op.orelse):
        with v.scope():
            v.body(block, ())
            v.yields(block, types)


def _while(v: Verifier, op: ir.While) -> None:
    carried = tuple(value.type for value in op.inits)
    with v.scope():
        v.body(op.cond, carried)
        v.yields(op.cond, (TileType(BOOL),))
    with v.scope():
        v.body(op.body, carried)
        v.yields(op.body, carried)
    v.results(op, *carried)


CHECKS: dict[type[Op], Callable[..., None]] = {
    ir.Const: _const, ir.SizeOf: _integer_scalar, ir.HostScalar: _host_scalar,
    ir.TileIndex: _tile_index, ir.TileAttr: _tile_attr, ir.Iota: _iota,
    ir.Load: _load, ir.Store: _store, ir.Atomic: _atomic,
    ir.Elementwise: _elementwise, ir.Cast: _cast, ir.Reshape: _reshape,
    ir.Broadcast: _broadcast, ir.Permute: _permute, ir.Join: _join, ir.Split: _split,
    ir.Full: _full, ir.Mask: _mask, ir.Reduce: _reduce, ir.ReduceWith: _reduce_with,
    ir.Scan: _scan, ir.Dot: _dot, ir.Gather: _gather, ir.Sort: _sort, ir.Random: _random,
    ir.Barrier: _anything, ir.Inline: _anything,
    ir.ForTile: _for_tile, ir.ForRange: _for_range, ir.If: _if, ir.While: _while,
}  # fmt: skip
