"""The kernel's body: grid positions, what outputs held before, the operations."""

from __future__ import annotations

from transpile.emitters.common.tree import (
    BIT_AND,
    Eval,
    Expr,
    Function,
    Stmt,
    Var,
    binary,
    call,
    lit,
    ref,
)
from transpile.emitters.pallas.context import Context, Tile
from transpile.emitters.pallas.control import at_step, lower_block
from transpile.emitters.pallas.memory import subscript
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.promoted import lower_promoted
from transpile.emitters.pallas.windows import GridDim, Window, plus
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32
from transpile.ir.ir import TileVar
from transpile.ir.sizes import Size
from transpile.ir.walk import walk


def lower_body(ctx: Context, plan: Plan) -> None:
    """Lower the phase into ``ctx.body``."""
    for number, dim in enumerate(plan.grid):
        position = call("pl.program_id", lit(str(number)), dtype=I32)
        ctx.emit(_drop(dim.pid, position))
        _grid_position(ctx, plan, dim)
    for window in plan.windows.outputs:
        old = plan.windows.initial.get(window.tensor)
        if old is not None and window.space != "hbm":  # there, it is the same memory
            _copy_in(ctx, plan, window, old)
    ops = plan.phase.body.ops
    for loop, (form, _) in plan.windows.loops.items():
        for init in loop.inits if form == "pipeline" else ():
            if ctx.uses[init].count == 1:
                init.name = None  # the scratch buffer has it
    if plan.loop is None:
        lower_block(ctx, ops)
        return
    lower_promoted(ctx, plan, plan.loop)


def _drop(var: Var, value: Expr) -> Stmt:
    from transpile.emitters.common.tree import Assign

    return Assign((var,), value, "drop")


def _grid_position(ctx: Context, plan: Plan, dim: GridDim) -> None:
    """Values of a grid axis in the kernel: a tile, or a number."""
    pid = ref(dim.pid, I32)
    if not isinstance(dim.var.type, TileVar):
        step = pid if dim.step == 1 else binary("*", pid, lit(str(dim.step)), 11, I32)
        ctx.values[dim.var] = plus(ctx.size(dim.begin), step)
        return
    assert dim.block is not None
    start = binary("*", pid, ctx.block(dim.block), 11, I32)
    start = plus(ctx.size(dim.begin), start)
    ctx.tiles[dim.var] = Tile(
        start, ctx.size(dim.end), dim.block, dim.begin == Size(()), None, ctx.size(dim.begin), pid
    )


def _copy_in(ctx: Context, plan: Plan, window: Window, old: Window) -> None:
    """``out_ref[...] = out_in_ref[...]`` when an output's window is first visited."""
    if window.space == "smem":
        raise ctx.unsupported(
            f"`{window.tensor.name}`, which is modified element by element,", None,
            "scalars are written to memory of their own",
        )  # fmt: skip
    if _written_last(plan, window):
        loads = (op for op in walk(plan.phase.body) if isinstance(op, ir.Load))
        ctx.windows.of |= {op: old for op in loads if op.tensor is window.tensor}
        ctx.windows.direct[window.tensor] = old
        return
    target = subscript(ref(window.ref), [], None, ())
    source = subscript(ref(old.ref), [], None, ())
    copy = Eval(Expr("{0} = {1}", (target, source), (0, 0)))
    still = [d for d in plan.grid if d not in window.along]
    if not still:
        ctx.emit(copy)
        return
    ctx.emit(Function(Var("_"), (), [copy], call("pl.when", first_step(still))))


def _written_last(plan: Plan, window: Window) -> bool:
    """True if each grid step writes its own window once and whole, and reads it before that only:
    it can read the input."""
    ops = list(walk(plan.phase.body))
    mine = [op for op in ops if isinstance(op, ir.Load | ir.Store | ir.Atomic)
            and op.tensor is window.tensor]  # fmt: skip
    *reads, last = mine
    return (
        isinstance(last, ir.Store)
        and last in plan.phase.body.ops
        and all(isinstance(op, ir.Load) for op in reads)
        and all(d in window.along for d in plan.grid)
        and all(
            entry.offset is None if isinstance(entry, ir.AtTile) else _is_whole(entry)
            for entry in last.index
        )
        and not any(
            isinstance(e, ir.AtTile) and e.tile in plan.nested for op in mine for e in op.index
        )
    )


def _is_whole(entry: ir.Index) -> bool:
    return isinstance(entry, ir.AtSlice) and entry.start is None


def first_step(dims: list[GridDim]) -> Expr:
    """True at the first step along all of some grid axes."""
    tests = [at_step(d.pid, lit("0")) for d in dims]
    total = tests[0]
    for test in tests[1:]:
        total = Expr("{0} & {1}", (total, test), (BIT_AND + 1, BIT_AND + 1), BIT_AND, dtype=BOOL)
    return total
