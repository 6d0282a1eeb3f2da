"""Program ids to tile positions: flat, xyz and persistent grids, orders and L2 grouping."""

from __future__ import annotations

from transpile.emitters.common.tree import ADD, MUL, Expr, For, Stmt, Var, binary, call, lit, ref
from transpile.emitters.triton.arguments import with_axis
from transpile.emitters.triton.context import Axis, Context, less
from transpile.emitters.triton.control import lower_block, range_call
from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.sizes import ZERO, Size


def lower_phase(ctx: Context) -> list[Stmt]:
    """The kernel body of the context's phase."""
    phase, schedule = ctx.phase, ctx.schedule.phase(ctx.phase)
    order = [phase.axes[i] for i in schedule.order]
    body: list[Stmt] = []
    ctx.body = body
    if schedule.pid_type == "xyz":
        pids = {axis: _program_id(ctx, axis, i) for i, axis in enumerate(order)}
        return _bodies(ctx, pids, body)
    if schedule.pid_type == "flat":
        if len(order) == 1:
            return _bodies(ctx, {order[0]: _program_id(ctx, order[0], 0)}, body)
        pid = ctx.let("pid", call("tl.program_id", lit("0"), dtype=I32))
        return _bodies(ctx, _split(ctx, pid, order, schedule.group), body)
    return _persistent(ctx, order, schedule.pid_type == "persistent_blocked", schedule.group)


def _name(axis: ir.GridAxis) -> str:
    return (axis.var.name or "tile").removeprefix("pid_")


def _program_id(ctx: Context, axis: ir.GridAxis, dim: int) -> Expr:
    return ctx.let(_pid_name(axis), call("tl.program_id", lit(str(dim)), dtype=I32))


def _pid_name(axis: ir.GridAxis) -> str:
    """A scalar grid index keeps the source's name; a tile's program number is ``pid_<axis>``."""
    if (
        axis.block is None
        and axis.begin == ZERO
        and axis.step == 1
        and isinstance(axis.var.type, ir.TileType)
    ):
        return axis.var.name or "pid"
    return with_axis("pid", _name(axis))


def count(ctx: Context, axis: ir.GridAxis) -> Expr:
    """Number of programs along an axis."""
    extent = axis.end - axis.begin
    if axis.block is None and axis.step == 1:
        return ctx.size(extent)
    step = ctx.block(axis.block) if axis.block is not None else lit(str(axis.step))
    return call("tl.cdiv", ctx.size(extent), step, dtype=I32)


def _split(
    ctx: Context,
    pid: Expr,
    order: list[ir.GridAxis],
    group: int,
    counts: dict[ir.GridAxis, Expr] | None = None,
    loop: list[Stmt] | None = None,
) -> dict[ir.GridAxis, Expr]:
    """One number to one per axis, the first axis varying fastest.

    ``loop`` is the body of a persistent loop: what depends on ``pid`` goes there.
    """
    if group > 1 and len(order) >= 2:
        return _grouped(ctx, pid, order, group, counts, loop)
    counts = counts or {axis: _bound_count(ctx, axis) for axis in order[:-1]}
    ctx.body = ctx.body if loop is None else loop
    pids: dict[ir.GridAxis, Expr] = {}
    rest = pid
    for axis in order[:-1]:
        pids[axis] = ctx.let(_pid_name(axis), binary("%", rest, counts[axis], MUL, I32))
        rest = binary("//", rest, counts[axis], MUL, I32)
        if len(order) > 3 and axis is not order[-2]:
            rest = ctx.let("rest", rest)
    pids[order[-1]] = ctx.let(_pid_name(order[-1]), rest)
    return pids


def _grouped(
    ctx: Context,
    pid: Expr,
    order: list[ir.GridAxis],
    group: int,
    counts: dict[ir.GridAxis, Expr] | None,
    loop: list[Stmt] | None,
) -> dict[ir.GridAxis, Expr]:
    """The order of Triton's matmul tutorial: walk down ``group`` rows before the next column."""
    first, second, *outer = order
    name_m = _name(first)
    counts = counts or {axis: _bound_count(ctx, axis) for axis in order}
    num_m, num_n = counts[first], counts[second]
    size = ctx.constexpr(with_axis("GROUP", name_m).upper(), str(group))
    in_group = ctx.let("num_pid_in_group", binary("*", size, num_n, MUL, I32))
    plane = binary("*", num_m, num_n, MUL, I32) if outer else None
    if plane is not None:
        plane = ctx.let("num_pid_in_plane", plane)
    ctx.body = ctx.body if loop is None else loop
    pids: dict[ir.GridAxis, Expr] = {}
    if plane is not None:
        rest = binary("//", pid, plane, MUL, I32)
        for axis in outer[:-1]:
            pids[axis] = ctx.let(_pid_name(axis), binary("%", rest, counts[axis], MUL, I32))
            rest = binary("//", rest, counts[axis], MUL, I32)
        pids[outer[-1]] = ctx.let(_pid_name(outer[-1]), rest)
        pid = ctx.let("pid_in_plane", binary("%", pid, plane, MUL, I32))
    first_pid = binary("*", binary("//", pid, in_group, MUL, I32), size, MUL, I32)
    first_pid = ctx.let(with_axis("first_pid", name_m), first_pid)
    rows = call("min", binary("-", num_m, first_pid, ADD, I32), size, dtype=I32)
    rows = ctx.let(with_axis("group_size", name_m), rows)
    within = binary("%", pid, in_group, MUL, I32)
    down = binary("+", first_pid, binary("%", within, rows, MUL, I32), ADD, I32)
    pids[first] = ctx.let(_pid_name(first), down)
    pids[second] = ctx.let(_pid_name(second), binary("//", within, rows, MUL, I32))
    return pids


def _persistent(ctx: Context, order: list[ir.GridAxis], blocked: bool, group: int) -> list[Stmt]:
    """Each program walks several tiles, a range of its own or every ``num_programs``-th."""
    body = ctx.body
    counts = {axis: _bound_count(ctx, axis) for axis in order}
    total = counts[order[0]]
    for axis in order[1:]:
        total = binary("*", total, counts[axis], MUL, I32)
    if len(order) > 1:
        total = ctx.let("num_tiles", total)
    programs = call("tl.num_programs", lit("0"), dtype=I32)
    start = call("tl.program_id", lit("0"), dtype=I32)
    if blocked:
        per = ctx.let("tiles_per_program", call("tl.cdiv", total, programs, dtype=I32))
        start = ctx.let("first_tile", binary("*", start, per, MUL, I32))
        stop = call("min", binary("+", start, per, ADD, I32), total, dtype=I32)
        iterator = range_call(ctx, start, stop, lit("1"), ctx.phase.loop)
    else:
        iterator = range_call(ctx, start, total, programs, ctx.phase.loop)
    inner: list[Stmt] = []
    if len(order) == 1:
        pid = Var(_pid_name(order[0]))
        pids = {order[0]: ref(pid, I32)}
        ctx.body = inner
    else:
        pid = Var("tile_id")
        pids = _split(ctx, ref(pid, I32), order, group, counts, inner)
    ctx.numbers.add(pid)  # a Python number in the interpreter
    _bodies(ctx, pids, inner, hoisted=False)
    body += ctx.top
    body.append(For(pid, iterator, inner))
    return body


def _bound_count(ctx: Context, axis: ir.GridAxis) -> Expr:
    number = count(ctx, axis)
    if number.var is not None or number.is_literal:
        return number
    return ctx.let(with_axis("num_pid", _name(axis)), number)


def _bodies(
    ctx: Context, pids: dict[ir.GridAxis, Expr], body: list[Stmt], hoisted: bool = True
) -> list[Stmt]:
    for axis in ctx.phase.axes:
        _bind_axis(ctx, axis, pids[axis])
    mark = len(body)
    lower_block(ctx, ctx.phase.body)
    if hoisted:
        body[mark:mark] = ctx.top
    return body


def _bind_axis(ctx: Context, axis: ir.GridAxis, pid: Expr) -> None:
    pid = ctx.offset_dtype(pid)
    if axis.block is None:
        position = pid
        if axis.step != 1:
            position = binary("*", pid, lit(str(axis.step)), MUL, I32)
        if axis.begin != ZERO:
            position = binary("+", ctx.size(axis.begin), position, ADD, I32)
        if position is not pid:
            position = ctx.let(axis.var.name or "i", position)
        ctx.values[axis.var] = position
        return
    start = binary("*", pid, ctx.block(axis.block), MUL, pid.dtype)
    if axis.begin != ZERO:
        start = binary("+", ctx.size(axis.begin), start, ADD, pid.dtype)
    name = _name(axis)
    if ctx.reads_begin(axis.var):
        start = ctx.let(with_axis("start", name), start)
    lanes = (Size.of(axis.block),)
    offsets = binary("+", start, ctx.arange(lanes[0]), ADD, pid.dtype, lanes)
    offsets = ctx.let(with_axis("offs", name), offsets)
    limit = ctx.size(axis.end)
    tile = Axis(offsets, limit, begin=start, block=axis.block, end_size=axis.end)
    tile.mask = ctx.let(with_axis("mask", name), less(offsets, limit), "inline").var
    tile.pid = pid if axis.begin == ZERO else None
    tile.count = count(ctx, axis)
    ctx.axes[axis.var] = tile
