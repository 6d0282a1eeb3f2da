"""Element types that the TPU's vector unit does not compute in, replaced by ones that it does.

64-bit integers become 32-bit ones and float16 float32 (the call function converts at the edge);
arithmetic on 8- and 16-bit integers is done in int32, operations that Mosaic has for float32 only
are done in float32, and a truth value that a loop carries is an int32.
"""

from __future__ import annotations

import dataclasses

from transpile.emitters.pallas.dtypes import NAMES, on_device
from transpile.emitters.pallas.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import BF16, F16, F32, F64, I32, DType
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.walk import clone, map_block, walk

#: bit operations that 8- and 16-bit integers have
_NATIVE_BITS = frozenset({"and", "or", "xor", "not", "shr"})

#: what Mosaic would fold back to narrow integers, which it cannot compare: exact in float32
_ORDERED = frozenset({"maximum", "minimum", "fmax", "fmin", "lt", "le", "gt", "ge"})


def legalise(kernel: ir.Kernel) -> ir.Kernel:
    """A copy of the kernel whose values have types of the device; KtError for what has none."""
    problems: list[KtError] = []
    problems += [
        _no_dtype(tensor.dtype, f"the tensor `{tensor.name}`", kernel.span)
        for tensor in kernel.tensors
        if on_device(tensor.dtype) not in NAMES
    ]
    phases = []
    for phase in kernel.phases:
        axes, body = _copied(phase)
        for op in walk(body):
            if isinstance(op, ir.Dot) and F16 in (op.lhs.dtype, op.rhs.dtype):
                op.precision = "ieee"  # one pass would round the float32 to bfloat16
        for op in walk(body):
            _retype(op, problems)
        rewritten = map_block(body, _rewrite)
        phases.append(dataclasses.replace(phase, axes=axes, body=rewritten))
    if problems:
        raise KtError(*dict.fromkeys(d for p in problems for d in p.diagnostics))
    return dataclasses.replace(kernel, phases=tuple(phases))


def _copied(phase: ir.Phase) -> tuple[tuple[ir.GridAxis, ...], Block]:
    """Axes and body with values of their own, so that other targets keep theirs."""
    env: dict[Value, Value] = {}
    axes = []
    for axis in phase.axes:
        kind = axis.var.type
        if isinstance(kind, TileType):
            kind = TileType(on_device(kind.dtype), kind.shape)
        env[axis.var] = Value(kind, axis.var.name)
        axes.append(dataclasses.replace(axis, var=env[axis.var]))
    return tuple(axes), clone(phase.body, env)


def _no_dtype(dtype: DType, what: str, span: ir.Span | None) -> KtError:
    why = "the TPU has no 64-bit floating point" if dtype == F64 else "Mosaic has no such type"
    return error(
        "KT0602", f"{dtype} ({what}) is not supported by the pallas target", span,
        why=why, remedy="use f32 or bf16",
    )  # fmt: skip


def _retype(op: Op, problems: list[KtError]) -> None:
    blocks = [getattr(op, name, None) for name in ("body", "cond", "then", "orelse", "combine")]
    params = [p for b in blocks if isinstance(b, Block) for p in b.params]
    for value in (*op.results, *params):
        if not isinstance(value.type, TileType):
            continue
        dtype = on_device(value.type.dtype)
        if dtype not in NAMES:
            problems.append(_no_dtype(dtype, "a value of the kernel", op.span))
        value.type = TileType(dtype, value.type.shape)
    if isinstance(op, ir.Dot):
        op.acc_dtype = on_device(op.acc_dtype)
    if isinstance(op, ir.Const) and op.result.dtype == I32 and abs(op.value) >= 2**32:
        problems.append(error(
            "KT0602", f"the 64-bit number {op.value} is not supported by the pallas target",
            op.span, why="integers of a TPU kernel have 32 bits",
        ))  # fmt: skip


def _rewrite(op: Op) -> list[Op] | Op:
    match op:
        case ir.Elementwise():
            return _elementwise(op)
        case ir.Reduce():
            return _reduce(op)
        case ir.Cast(bitcast=False):
            return _cast(op)
        case ir.ForTile() | ir.ForRange() | ir.While():
            return _carry_integers(op)
        case ir.Mask() if _is_small(op.value.dtype):
            return _computed_in(op, I32, ("value",))
        case ir.Scan(name=str()) if op.values[0].dtype == BF16 or _is_small(op.values[0].dtype):
            return _scan(op)
        case _:
            return op


def _is_small(dtype: DType) -> bool:
    return dtype.is_int and dtype.bits < 32


def _widened(value: Value, dtype: DType, ops: list[Op]) -> Value:
    if value.dtype == dtype:
        return value
    wide = Value(TileType(dtype, value.shape), value.name)
    ops.append(ir.Cast(value, results=(wide,)))
    return wide


def _narrowed(op: Op, dtype: DType, ops: list[Op]) -> list[Op]:
    """``op`` with a result of ``dtype``, converted back to the type it had."""
    (result,) = op.results
    if result.dtype == dtype or result.dtype.is_bool:
        return [*ops, op]
    wide = Value(TileType(dtype, result.shape), result.name)
    op.results = (wide,)
    return [*ops, op, ir.Cast(wide, results=(result,), span=op.span)]


def _computed_in(op: Op, dtype: DType, fields: tuple[str, ...]) -> list[Op]:
    ops: list[Op] = []
    changes = {name: _widened(getattr(op, name), dtype, ops) for name in fields}
    return _narrowed(dataclasses.replace(op, **changes), dtype, ops)  # type: ignore[arg-type]


def _elementwise(op: ir.Elementwise) -> list[Op] | Op:
    spelling = ELEMENTWISE.get(op.name)
    numbers = [a.dtype for a in op.args if not a.dtype.is_bool]
    if not numbers:
        return op
    dtype = numbers[0]
    wide: DType | None = None
    if _is_small(dtype) and op.name not in _NATIVE_BITS:
        wide = F32 if op.name in _ORDERED else I32
    elif dtype.is_fp8 or (dtype == BF16 and spelling is not None and spelling.float32):
        wide = F32
    if wide is None:
        return op
    ops: list[Op] = []
    args = tuple(a if a.dtype.is_bool else _widened(a, wide, ops) for a in op.args)
    return _narrowed(dataclasses.replace(op, args=args), wide, ops)


def _reduce(op: ir.Reduce) -> list[Op] | Op:
    spelling = REDUCTIONS.get(op.name)
    dtype = op.value.dtype
    if _is_small(dtype):
        wide = I32
    elif dtype.is_float and dtype != F32 and (dtype.is_fp8 or (spelling and spelling.float32)):
        wide = F32
    else:
        return op
    if op.name in ("argmax", "argmin"):
        ops: list[Op] = []
        value = _widened(op.value, wide, ops)
        return [*ops, dataclasses.replace(op, value=value)]
    return _computed_in(op, wide, ("value",))


def _scan(op: ir.Scan) -> list[Op]:
    wide = F32 if op.values[0].dtype == BF16 else I32
    ops: list[Op] = []
    values = tuple(_widened(v, wide, ops) for v in op.values)
    return _narrowed(dataclasses.replace(op, values=values), wide, ops)


def _cast(op: ir.Cast) -> list[Op] | Op:
    source, target = op.value.dtype, op.result.dtype
    if source.is_fp8 and target.is_fp8 and source != target:
        ops: list[Op] = []
        wide = _widened(op.value, F32, ops)
        return [*ops, dataclasses.replace(op, value=wide)]
    return op


def _carry_integers(op: ir.ForTile | ir.ForRange | ir.While) -> list[Op] | Op:
    """Truth values that the loop carries as int32."""
    flags = [i for i, init in enumerate(op.inits) if init.dtype.is_bool]
    if not flags:
        return op
    before: list[Op] = []
    after: list[Op] = []
    inits = list(op.inits)
    results = list(op.results)
    lead = 0 if isinstance(op, ir.While) else 1
    for i in flags:
        inits[i] = _widened(op.inits[i], I32, before)
        flag = op.results[i]
        results[i] = Value(TileType(I32, flag.shape), flag.name)
        after.append(ir.Cast(results[i], results=(flag,)))
    changes: dict[str, object] = {
        "inits": tuple(inits),
        "results": tuple(results),
        "body": _with_integers(op.body, flags, lead, yields=True),
    }
    if isinstance(op, ir.While):
        changes["cond"] = _with_integers(op.cond, flags, 0, yields=False)
    return [*before, dataclasses.replace(op, **changes), *after]  # type: ignore[arg-type]


def _with_integers(block: Block, flags: list[int], lead: int, *, yields: bool) -> Block:
    params, out = list(block.params), list(block.yields)
    head: list[Op] = []
    tail: list[Op] = []
    for i in flags:
        flag = params[lead + i]
        params[lead + i] = Value(TileType(I32, flag.shape), flag.name)
        head.append(ir.Cast(params[lead + i], results=(flag,)))
        if yields:
            out[i] = _widened(out[i], I32, tail)
    return Block(tuple(params), [*head, *block.ops, *tail], tuple(out))
