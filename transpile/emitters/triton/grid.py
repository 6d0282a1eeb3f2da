"""Program ids to tile positions: flat, xyz and persistent grids, orders and L2 grouping."""

from __future__ import annotations

from transpile.emitters.triton.context import Axis, Context, less, with_axis
from transpile.emitters.triton.control import lower_block, range_call
from transpile.emitters.triton.tree import ADD, MUL, Expr, For, Stmt, Var, binary, call, lit, ref
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
        pid = ctx.let("pid", call("tl.program_id", lit("0"), dtype=I32), "drop")
        return _bodies(ctx, _split(ctx, pid, order, schedule.group), body)
    return _persistent(ctx, order, schedule.pid_type == "persistent_blocked", schedule.group)


def _name(axis: ir.GridAxis) -> str:
    return axis.var.name or "tile"


def _program_id(ctx: Context, axis: ir.GridAxis, dim: int) -> Expr:
    return ctx.let(_pid_name(axis), call("tl.program_id", lit(str(dim)), dtype=I32), "drop")


def _pid_name(axis: ir.GridAxis) -> str:
    """A scalar grid index keeps the source's name; a tile's program number is ``pid_<axis>``."""
    if axis.block is None and axis.begin == ZERO and axis.step == 1 and isinstance(axis.var.type, ir.TileType):
        return axis.var.name or "pid"
    return with_axis("pid", _name(axis))


def count(ctx: Context, axis: ir.GridAxis) -> Expr:
    """Number of programs along an axis."""
    extent = axis.end - axis.begin
    if axis.block is None and axis.step == 1:
        return ctx.size(extent)
    step = ctx.block(axis.block) if axis.block is not None else lit(str(axis.step))
    return call("tl.cdiv", ctx.size(extent), step, dtype=I32)


def _split(ctx: Context, pid: Expr, order: list[ir.GridAxis], group: int) -> dict[ir.GridAxis, Expr]:
    """One number to one per axis, the first axis varying fastest."""
    if group > 1 and len(order) >= 2:
        return _grouped(ctx, pid, order, group)
    pids: dict[ir.GridAxis, Expr] = {}
    rest = pid
    for i, axis in enumerate(order):
        if i == len(order) - 1:
            pids[axis] = ctx.let(_pid_name(axis), rest, "drop")
            break
        number = count(ctx, axis)
        if number.var is None and not number.is_literal:
            number = ctx.let(with_axis("num_pid", _name(axis)), number, "drop")
        position = binary("%", rest, number, MUL, I32)
        pids[axis] = ctx.let(_pid_name(axis), position, "drop")
        rest = binary("//", rest, number, MUL, I32)
    return pids


def _grouped(ctx: Context, pid: Expr, order: list[ir.GridAxis], group: int) -> dict[ir.GridAxis, Expr]:
    """The order of Triton's matmul tutorial: walk down ``group`` rows before the next column."""
    *outer, first, second = _inner_last(order)
    name_m, name_n = _name(first), _name(second)
    size = ctx.constexpr(with_axis("GROUP", name_m).upper(), str(group))
    num_m = ctx.let(with_axis("num_pid", name_m), count(ctx, first), "drop")
    num_n = ctx.let(with_axis("num_pid", name_n), count(ctx, second), "drop")
    pids: dict[ir.GridAxis, Expr] = {}
    if outer:
        plane = ctx.let("plane", binary("*", num_m, num_n, MUL, I32), "drop")
        rest = binary("//", pid, plane, MUL, I32)
        for i, axis in enumerate(outer):
            if i == len(outer) - 1:
                pids[axis] = ctx.let(_pid_name(axis), rest, "drop")
                break
            number = count(ctx, axis)
            pids[axis] = ctx.let(_pid_name(axis), binary("%", rest, number, MUL, I32), "drop")
            rest = binary("//", rest, number, MUL, I32)
        pid = ctx.let("pid_in_plane", binary("%", pid, plane, MUL, I32), "drop")
    in_group = ctx.let("num_pid_in_group", binary("*", size, num_n, MUL, I32), "drop")
    first_pid = binary("*", binary("//", pid, in_group, MUL, I32), size, MUL, I32)
    first_pid = ctx.let(with_axis("first_pid", name_m), first_pid, "drop")
    rows = call("min", binary("-", num_m, first_pid, ADD, I32), size, dtype=I32)
    rows = ctx.let(with_axis("group_size", name_m), rows, "drop")
    within = binary("%", pid, in_group, MUL, I32)
    down = binary("+", first_pid, binary("%", within, rows, MUL, I32), ADD, I32)
    pids[first] = ctx.let(_pid_name(first), down, "drop")
    pids[second] = ctx.let(_pid_name(second), binary("//", within, rows, MUL, I32), "drop")
    return pids


def _inner_last(order: list[ir.GridAxis]) -> list[ir.GridAxis]:
    """Outer axes first (slowest), the two fastest-varying ones last in source order."""
    return [*order[2:], *order[:2]]


def _persistent(ctx: Context, order: list[ir.GridAxis], blocked: bool, group: int) -> list[Stmt]:
    body = ctx.body
    total: Expr | None = None
    for axis in order:
        number = count(ctx, axis)
        total = number if total is None else binary("*", total, number, MUL, I32)
    assert total is not None
    total = ctx.let("num_tiles", total, "drop")
    programs = call("tl.num_programs", lit("0"), dtype=I32)
    start = call("tl.program_id", lit("0"), dtype=I32)
    if blocked:
        per = ctx.let("tiles_per_program", call("tl.cdiv", total, programs, dtype=I32), "drop")
        start = ctx.let("first_tile", binary("*", start, per, MUL, I32), "drop")
        stop = call("min", binary("+", start, per, ADD, I32), total, dtype=I32)
        iterator = range_call(ctx, start, stop, lit("1"), ctx.phase.loop)
    else:
        iterator = range_call(ctx, start, total, programs, ctx.phase.loop)
    pid = Var("tile_id")
    inner: list[Stmt] = []
    ctx.body = inner
    pids = (
        {order[0]: ctx.let(_pid_name(order[0]), ref(pid, I32), "inline")}
        if len(order) == 1
        else _split(ctx, ref(pid, I32), order, group)
    )
    inner = _bodies(ctx, pids, inner, hoisted=False)
    body += ctx.top
    body.append(For(pid, iterator, inner))
    return body


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
            position = ctx.let(axis.var.name or "i", position, "drop")
        ctx.values[axis.var] = position
        return
    start = binary("*", pid, ctx.block(axis.block), MUL, pid.dtype)
    if axis.begin != ZERO:
        start = binary("+", ctx.size(axis.begin), start, ADD, pid.dtype)
    name = _name(axis)
    if ctx.reads_begin(axis.var):
        start = ctx.let(with_axis("start", name), start, "drop")
    lanes = (Size.of(axis.block),)
    offsets = binary("+", start, ctx.arange(lanes[0]), ADD, pid.dtype, lanes)
    offsets = ctx.let(with_axis("offs", name), offsets)
    limit = ctx.size(axis.end)
    tile = Axis(offsets, limit, begin=start, block=axis.block)
    tile.mask = ctx.let(with_axis("mask", name), less(offsets, limit), "inline").var
    tile.pid = pid if axis.begin == ZERO else None
    tile.count = count(ctx, axis)
    ctx.axes[axis.var] = tile
