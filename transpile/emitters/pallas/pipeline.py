"""Loops over blocks in HBM that ``pltpu.emit_pipeline`` copies: an inner grid with its own windows.

The body is called once per block with the windows' refs; what it carries stays in scratch.
"""

from __future__ import annotations

from collections.abc import Callable

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    TERNARY,
    Assign,
    Eval,
    Expr,
    Function,
    Var,
    binary,
    call,
    lit,
    ref,
    sequence,
)
from transpile.emitters.pallas.carried import inline_carried, scratch, typed, update
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.loops import Copied
from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.sizes import Size


def lower_pipeline(
    ctx: Context, loop: ir.ForTile, copies: list[Copied], step: Var, count: Expr, first: Expr,
    lower: Callable[[], None],
) -> None:  # fmt: skip
    """``pltpu.emit_pipeline(body, grid=(count,), in_specs=[...])(x_hbm_ref, ...)``.

    ``first`` is the number of the loop's first block; ``lower`` lowers the loop's operations.
    """
    params = loop.body.params[1:]
    refs = [scratch(ctx, p) for p in params]
    for r, init, param in zip(refs, loop.inits, params, strict=True):
        ctx.emit(Eval(Expr("{0} = {1}", (r, ctx.carried(init, param)), (0, 0))))
    ctx.consume(loop)
    ctx.settle()
    saved, ctx.body, pending, ctx.pending = ctx.body, [], ctx.pending, []
    ctx.emit(Assign((step,), call("pl.program_id", lit("0"), dtype=I32), "drop"))
    inline_carried(ctx, loop)
    for param, r in zip(params, refs, strict=True):
        ctx.define(param, typed(r, ctx, param))
    for copied in copies:
        copied.window.ref.hint = f"{copied.tensor.name}_ref"
        ctx.slots[copied.window] = lit("...")
    lower()
    update(ctx, loop, refs)
    body, ctx.body, ctx.pending = ctx.body, saved, pending
    name = Var("body")
    ctx.emit(Function(name, tuple(c.window.ref for c in copies), body))
    specs = [
        (f"{kind}_specs", sequence([_spec(ctx, loop, c, first) for c in copies if c.stored == out]))
        for kind, out in (("in", False), ("out", True))
        if any(c.stored == out for c in copies)
    ]
    texts = ", ".join(f"{key}={{{2 + i}}}" for i, (key, _) in enumerate(specs))
    pipeline = Expr(
        f"pltpu.emit_pipeline({{0}}, grid=({{1}},), {texts})",
        (ref(name), count, *(spec for _, spec in specs)), (TERNARY,) * (2 + len(specs)),
    )  # fmt: skip
    sources = [ref(ctx.windows.hbm[c.tensor].ref) for c in copies]
    slots = ", ".join(f"{{{i + 1}}}" for i in range(len(sources)))
    ctx.emit(
        Eval(Expr(f"{{0}}({slots})", (pipeline, *sources), (ATOM, *(TERNARY,) * len(sources))))
    )
    for result, r in zip(loop.results, refs, strict=True):
        use = ctx.uses.get(result)
        ctx.values[result] = typed(r, ctx, result)
        if use is not None and use.count > 1:
            ctx.assign(result, ctx.values[result])


def _spec(ctx: Context, loop: ir.ForTile, copied: Copied, first: Expr) -> Expr:
    """The BlockSpec of a window that the inner grid moves."""
    j = Var("j", name="j")
    shape: list[Expr] = []
    index: list[Expr] = []
    for entry, extent in zip(copied.index, copied.tensor.shape, strict=True):
        match entry:
            case ir.AtScalar(value=value):
                shape.append(lit("None"))
                index.append(ctx.expr(value))
            case ir.AtTile(tile=tile):
                shape.append(ctx.size(Size.of(tile.type.block)))  # type: ignore[union-attr]
                index.append(_number(ctx, loop, tile, ref(j, I32), first))
            case _:
                shape.append(ctx.size(extent))
                index.append(lit("0"))
    every = (*shape, *index)
    a = ", ".join(f"{{{i}}}" for i in range(len(shape)))
    b = ", ".join(f"{{{len(shape) + i}}}" for i in range(len(index)))
    return Expr(f"pl.BlockSpec(({a}), lambda j: ({b}))", every, (TERNARY,) * len(every))


def _number(ctx: Context, loop: ir.ForTile, tile: ir.Value, j: Expr, first: Expr) -> Expr:
    """The number of a block in its dimension."""
    if tile is not loop.body.params[0]:
        number = ctx.tiles[tile].id
        assert number is not None
        return number
    return j if first.text() == "0" else binary("+", first, j, ADD, I32)
