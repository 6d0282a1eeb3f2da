"""Tile IR to thread IR, one phase at a time: the walk over its operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import operands
from transpile.thread import barriers, control, dot, elementwise, memory, reduce, reorder, scan
from transpile.thread.context import Lowering, Tile
from transpile.thread.exchange import barrier, exchange, inline
from transpile.thread.ir import Kernel
from transpile.thread.layout import Layout
from transpile.thread.limits import Limits
from transpile.thread.plan import make_plan
from transpile.thread.shared import plan_shared
from transpile.thread.tidy import reuse_variables

#: one element of the result from the same element of the operands: done where it is needed
POINTWISE: dict[type[ir.Op], Callable[..., Tile]] = {
    ir.Const: elementwise.const, ir.SizeOf: elementwise.size_of,
    ir.TileIndex: elementwise.tile_index, ir.TileAttr: elementwise.tile_attr,
    ir.Iota: elementwise.iota, ir.Full: elementwise.full, ir.Broadcast: elementwise.broadcast,
    ir.Permute: elementwise.permute, ir.Elementwise: elementwise.elementwise,
    ir.Cast: elementwise.cast, ir.Mask: elementwise.mask, ir.Random: elementwise.random,
    ir.Join: elementwise.join, ir.Reshape: elementwise.reshape, ir.Load: memory.load,
    ir.HostScalar: elementwise.host_scalar,
}  # fmt: skip

#: what happens at its place in the program
PLACED: dict[type[ir.Op], Callable[..., None]] = {
    ir.Store: memory.store, ir.Atomic: memory.atomic, ir.Reduce: reduce.reduce,
    ir.ReduceWith: reduce.reduce_with, ir.Scan: scan.scan, ir.Dot: dot.dot,
    ir.Gather: reorder.gather, ir.Sort: reorder.sort, ir.Barrier: barrier, ir.Inline: inline,
}  # fmt: skip

CONTROL: dict[type[ir.Op], Callable[..., None]] = {
    ir.ForTile: control.for_tile, ir.ForRange: control.for_range, ir.While: control.while_loop,
    ir.If: control.branch,
}  # fmt: skip


def lower(
    kernel: ir.Kernel,
    phase: ir.Phase,
    blocks: Mapping[Sym, int],
    limits: Limits,
    *,
    config: Mapping[str, Any] | None = None,
    order: tuple[int, ...] | None = None,
    swizzle: int = 1,
    capacities: Mapping[Size, int] | None = None,
) -> Kernel:
    """One phase of a kernel (after passes) as a grid of groups of threads.

    ``blocks`` gives all block sizes, ``config`` may hold num_threads or num_warps, ``order`` the
    grid's axes from the fastest, ``swizzle`` how many tiles of the first one are walked down before
    the next of the second, ``capacities`` the longest value of run-time dimensions that are
    kept in registers. Raises KtError with everything the target cannot do.
    """
    plan = make_plan(kernel, phase, blocks, config or {}, limits, capacities or {})
    low = Lowering(kernel, phase, blocks, plan, limits)
    low.instantiate = lambda op, value, layout: instantiate(low, op, value, layout)
    low.exchange = lambda tile, layout, value: exchange(low, tile, layout, value.name)
    errors: list[KtError] = []
    groups = control.grid(low, order or tuple(range(len(phase.axes))), swizzle)
    lower_block(low, phase.body, errors)
    if errors:
        raise KtError(*(d for e in errors for d in e.diagnostics))
    lowered = Kernel(
        kernel.name, kernel.tensors, kernel.scalars, groups, plan.threads, plan.simd,
        tuple(low.buffers), low.scope.build(), plan.capacities, dict(kernel.multiple_of),
        phase.span,
    )  # fmt: skip
    plan_shared(lowered, limits)
    barriers.place(lowered)
    reuse_variables(lowered.body)
    return lowered


def lower_block(low: Lowering, block: ir.Block, errors: list[KtError]) -> None:
    """All operations of a block; what cannot be lowered is noted and the rest looked at too."""
    for op in block.ops:
        low.order += 1
        low.span = op.span
        try:
            _lower_op(low, op, errors)
        except KtError as problem:
            errors.append(problem)
            for result in op.results:
                layout = low.plan.of(result)
                zero = 0.0 if result.dtype.is_float else 0
                low.bind(result, low.constant(zero, result.dtype, layout))


def _lower_op(low: Lowering, op: ir.Op, errors: list[KtError]) -> None:
    kind = type(op)
    if kind in PLACED:
        PLACED[kind](low, op)
    elif kind in CONTROL:
        CONTROL[kind](low, op, lambda block: lower_block(low, block, errors))
    elif kind in POINTWISE or kind is ir.Split:
        if not _moves(low, op) and all(_is_free(low, v) for v in operands(op)):
            low.defer(op)
            return
        for result in op.results:
            layout = result_layout(low, op, result)
            tile = instantiate(low, op, result, layout)
            low.place(tile)
            low.bind(result, tile)
    else:
        raise low.unsupported("this operation", f"{kind.__name__} has no lowering to threads")


def _moves(low: Lowering, op: ir.Op) -> bool:
    """Whether elements change threads."""
    return isinstance(op, ir.Reshape) and not elementwise.same_threads(
        low.plan, op.value.shape, op.result.shape
    )


def _is_free(low: Lowering, value: ir.Value) -> bool:
    """Whether a value comes from memory and indices alone, so that it can be had anywhere."""
    if isinstance(value.type, ir.TileVar) or value in low.deferred:
        return True
    return not low.tiles[value].sources


def result_layout(low: Lowering, op: ir.Op, result: ir.Value) -> Layout:
    """The layout that operands are in already, else the usual one."""
    usual = low.plan.of(result)
    if result in low.plan.layouts or not isinstance(op, ir.Elementwise | ir.Cast | ir.Mask):
        return usual
    for value in operands(op):
        if isinstance(value.type, ir.TileType) and value.shape == result.shape:
            known = low.tiles.get(value)
            if known is not None and known.sources and known.held is not None:
                have = known.layout
                full = all(bool(h) or not u for h, u in zip(have.axes, usual.axes, strict=True))
                if full:
                    return have
    return usual


def instantiate(low: Lowering, op: ir.Op, value: ir.Value, layout: Layout) -> Tile:
    """The result of a pointwise operation in a layout."""
    if isinstance(op, ir.Split):
        return elementwise.split(low, op, layout, op.results.index(value))
    return POINTWISE[type(op)](low, op, layout)
