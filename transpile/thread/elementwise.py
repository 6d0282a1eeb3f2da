"""Operations on one element at a time, and those that only rename axes."""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I64
from transpile.ir.sizes import Size
from transpile.ir.walk import reshape_groups
from transpile.thread.context import Lowering, Tile
from transpile.thread.exchange import reshaped
from transpile.thread.ir import (
    Apply,
    Const,
    Convert,
    Expr,
    Extent,
    HostScalar,
    Random,
    add,
    both,
    mul,
)
from transpile.thread.layout import Digits, Layout
from transpile.thread.memory import load
from transpile.thread.nests import Env
from transpile.thread.plan import Key, Plan, keys_of


def const(_: Lowering, op: ir.Const, layout: Layout) -> Tile:
    """A number."""
    value = Const(op.value, op.result.dtype)
    return Tile(layout, op.result.dtype, lambda env: value)


def size_of(low: Lowering, op: ir.SizeOf, layout: Layout) -> Tile:
    """A host-side integer, in as many bits as the source asks for."""
    value = _converted(low.size(op.size), op.result)
    return Tile(layout, op.result.dtype, lambda env: value)


def host_scalar(_: Lowering, op: ir.HostScalar, layout: Layout) -> Tile:
    """A scalar argument."""
    value = HostScalar(op.name, op.result.dtype)
    return Tile(layout, op.result.dtype, lambda env: value)


def _converted(expr: Expr, value: ir.Value) -> Expr:
    if expr.dtype == value.dtype:
        return expr
    if isinstance(expr, Const):
        return Const(expr.value, value.dtype)
    if isinstance(expr, Extent) and value.dtype == I64:
        return Extent(expr.size, I64)  # it may not fit in 32 bits
    return Convert(expr, value.dtype)


def tile_index(low: Lowering, op: ir.TileIndex, layout: Layout) -> Tile:
    """Positions along a tile."""
    run, digits = low.runs[op.tile], layout.axes[0]

    def read(env: Env) -> Expr:
        return _converted(low.position(run, digits, env), op.result)

    return Tile(layout, op.result.dtype, read)


def tile_attr(low: Lowering, op: ir.TileAttr, layout: Layout) -> Tile:
    """A scalar of a tile."""
    run = low.runs[op.tile]
    size = run.block
    match op.attr:
        case "begin":
            value = run.begin
        case "end":
            value = Apply("minimum", (add(run.begin, size), run.end), low.index_dtype)
        case "id":
            value = Apply("floordiv", (run.begin, size), low.index_dtype)
        case "count":
            value = run.count
    value = _converted(value, op.result)
    return Tile(layout, op.result.dtype, lambda env: value)


def iota(low: Lowering, op: ir.Iota, layout: Layout) -> Tile:
    """``start + step * arange``."""
    run, digits = low.slice_run(op.result.shape[0]), layout.axes[0]

    def read(env: Env) -> Expr:
        position = _converted(low.position(run, digits, env), op.result)
        return add(mul(position, op.step), Const(op.start, op.result.dtype))

    return Tile(layout, op.result.dtype, read)


def full(low: Lowering, op: ir.Full, layout: Layout) -> Tile:
    """A scalar everywhere."""
    scalar = low.tile(op.value)
    return Tile(layout, op.result.dtype, scalar.read, scalar.sources)


def broadcast(low: Lowering, op: ir.Broadcast, layout: Layout) -> Tile:
    """Axes of one element read as if they had more."""
    wanted = low.sub(layout, op.value.shape, op.result.shape)
    tile = low.tile(op.value, wanted)
    return Tile(layout, tile.dtype, tile.read, tile.sources)


def permute(low: Lowering, op: ir.Permute, layout: Layout) -> Tile:
    """Axes in another order."""
    axes: list[Digits] = [()] * len(op.order)
    for new, old in enumerate(op.order):
        axes[old] = layout.axes[new]
    return low.tile(op.value, Layout(tuple(axes))).moved(layout)


def elementwise(low: Lowering, op: ir.Elementwise, layout: Layout) -> Tile:
    """An operation of the op table."""
    layouts = [low.sub(layout, a.shape, op.result.shape) for a in op.args]
    args = [low.tile(a, where) for a, where in zip(op.args, layouts, strict=True)]
    dtype = op.result.dtype
    if op.name in ("floordiv", "mod") and dtype.is_int:
        args[1] = _divisor(low, op.args[1], args[1], layouts[1])

    def compute(env: Env) -> Expr:
        return Apply(op.name, tuple(a.read(env) for a in args), dtype)

    name, hint = op.result.name, low.hints[op.result]
    return low.define(layout, dtype, compute, args, name=name, hint=hint)


def _divisor(low: Lowering, value: ir.Value, tile: Tile, layout: Layout) -> Tile:
    """A divisor, 1 where it is 0: elements that do not exist are computed with too."""
    source = low.deferred.get(value, (None,))[0]
    if isinstance(source, ir.Load) and low.uses.get(value) == 1:
        return load(low, source, layout, other=1, name=value.name)
    if not tile.sources or not value.shape:
        return tile

    def read(env: Env) -> Expr:
        number = tile.read(env)
        zero = Apply("eq", (number, Const(0, tile.dtype)), BOOL)
        return Apply("where", (zero, Const(1, tile.dtype), number), tile.dtype)

    return Tile(layout, tile.dtype, read, tile.sources)


def cast(low: Lowering, op: ir.Cast, layout: Layout) -> Tile:
    """A conversion; of constants, here and now where that is exact."""
    tile = low.tile(op.value, layout)
    dtype = op.result.dtype
    if tile.dtype == dtype:
        return tile

    def compute(env: Env) -> Expr:
        return Convert(tile.read(env), dtype, op.bitcast)

    if isinstance(size := _constant(tile), Extent) and not op.bitcast:
        value = _converted(size, op.result)
        return Tile(layout, dtype, lambda env: value)
    if not tile.sources:
        return Tile(layout, dtype, compute)
    name, hint = op.result.name, low.hints[op.result]
    return low.define(layout, dtype, compute, [tile], name=name, hint=hint)


def _constant(tile: Tile) -> Expr | None:
    """What a tile without registers is that reads no variable."""
    return tile.read({}) if not tile.sources and not tile.layout.registers else None


def mask(low: Lowering, op: ir.Mask, layout: Layout) -> Tile:
    """``where(guards, value, fill)``; of a load that nothing else reads, the load's own fill."""
    source = low.deferred.get(op.value, (None,))[0]
    if isinstance(source, ir.Load) and _fills(low, source, op):
        return load(low, source, layout, other=op.fill, name=op.result.name)
    tile = low.tile(op.value, layout)
    fill = Const(op.fill, op.result.dtype)
    shape = op.value.shape
    guards = [g for g in op.guards if g.tile not in low.whole]
    runs = dict(low.runs)
    if not low.guard(guards, shape, layout, _zeros(layout)):
        return tile

    def compute(env: Env) -> Expr:
        condition = both(low.guard(guards, shape, layout, env, runs))
        assert condition is not None
        return Apply("where", (condition, tile.read(env), fill), fill.dtype)

    return low.define(layout, fill.dtype, compute, [tile], name=op.result.name)


def _fills(low: Lowering, source: ir.Load, op: ir.Mask) -> bool:
    """Whether a mask excludes just what its load does."""
    alone = low.uses.get(source.result) == 1 and source.mask is None
    return alone and set(source.guards) == set(op.guards) and not op.result.dtype.is_fp8


def _zeros(layout: Layout) -> Env:
    return {d: Const(0) for d in layout.registers}


def random(low: Lowering, op: ir.Random, layout: Layout) -> Tile:
    """Philox of seed and offset."""
    seed = low.tile(op.seed)
    offset = low.tile(op.offset, layout)

    def compute(env: Env) -> Expr:
        return Random(op.kind, seed.read(env), offset.read(env), op.result.dtype)

    return low.define(layout, op.result.dtype, compute, [seed, offset], name=op.result.name)


def join(low: Lowering, op: ir.Join, layout: Layout) -> Tile:
    """Two tiles along a new last axis: which of them, says that axis's digit."""
    (digit,) = layout.axes[-1]
    part = Layout(layout.axes[:-1])
    lhs, rhs = low.tile(op.lhs, part), low.tile(op.rhs, part)

    def compute(env: Env) -> Expr:
        at = env[digit.loop]
        if isinstance(at, Const):
            return (rhs if at.value else lhs).read(env)
        first = Apply("eq", (at, Const(0)), BOOL)
        return Apply("where", (first, lhs.read(env), rhs.read(env)), lhs.dtype)

    return low.define(layout, lhs.dtype, compute, [lhs, rhs], name=op.result.name)


def split(low: Lowering, op: ir.Split, layout: Layout, which: int) -> Tile:
    """One half of a last axis of size 2."""
    last = low.plan.layout(op.value.shape).axes[-1]
    tile = low.tile(op.value, Layout((*layout.axes, last)))
    half = {last[0].loop: Const(which)} if last else {}
    result = op.results[which]

    def compute(env: Env) -> Expr:
        return tile.read({**env, **half})

    return low.define(layout, tile.dtype, compute, [tile], name=result.name)


def same_threads(plan: Plan, old: tuple[Size, ...], new: tuple[Size, ...]) -> bool:
    """Whether a reshape leaves every element with its thread: it adds or drops axes of size 1, and
    takes apart or puts together axes that the plan has prepared for it."""
    before, after = keys_of(old), keys_of(new)
    for a, b in reshape_groups(old, new):
        if len(a) == len(b) == 1:
            if before[a[0]] != after[b[0]]:
                return False
        elif not (_is_split(plan, before, a, after, b) or _is_split(plan, after, b, before, a)):
            return False
    return True


def _is_split(
    plan: Plan, one: tuple[Key, ...], whole: tuple[int, ...], other: tuple[Key, ...],
    parts: tuple[int, ...],
) -> bool:  # fmt: skip
    if len(whole) != 1 or len(parts) != 2:
        return False
    split = plan.splits.get(one[whole[0]])
    return split is not None and (split.major, split.minor) == (other[parts[0]], other[parts[1]])


def reshape(low: Lowering, op: ir.Reshape, layout: Layout) -> Tile:
    """Elements that stay where they are under other axes; others go through shared memory."""
    old, new = op.value.shape, op.result.shape
    plan = low.plan
    if not same_threads(plan, old, new):
        return reshaped(low, op, layout)
    axes: list[Digits] = [()] * len(old)
    for a, b in reshape_groups(old, new):
        if len(a) == len(b) == 1:
            axes[a[0]] = layout.axes[b[0]]
            continue
        usual = plan.layout(new)
        if any(layout.axes[i] != usual.axes[i] for i in b):
            return reshaped(low, op, layout)
        for i in a:
            axes[i] = plan.layout(old).axes[i]
    return low.tile(op.value, Layout(tuple(axes))).moved(layout)
