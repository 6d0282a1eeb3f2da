"""Removes masks that change nothing and guards that are always true."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from transpile.ir import ir
from transpile.ir.ir import Block, Guard, Kernel, Op, Value
from transpile.ir.sizes import Sym
from transpile.ir.walk import index_shape, map_block, map_phases, substitute
from transpile.passes.analysis import Analysis, analyse


def remove_masks(kernel: Kernel, blocks: Mapping[Sym, int], pads_size_axes: bool) -> Kernel:
    """The kernel without needless masks and guards, for these block sizes.

    A guard of a :class:`~transpile.ir.ir.Mask` goes where the lanes it excludes are known to hold
    the fill value or cannot exist; one of a load, store or atomic only where its lanes cannot
    exist. ``pads_size_axes``: the target pads axes of other sizes to the next power of two.
    """
    analysis = analyse(kernel, blocks, pads_size_axes)
    return map_phases(kernel, lambda phase: _without_masks(phase.body, analysis))


def _without_masks(body: Block, analysis: Analysis) -> Block:
    replaced: dict[Value, Value] = {}

    def rewrite(op: Op) -> Op | None:
        if isinstance(op, ir.Mask):
            guards = tuple(g for g in op.guards if _mask_needs(analysis, op, g))
            if not guards:
                replaced[op.result] = op.value
                return None
            return _with_guards(op, guards)
        if isinstance(op, (ir.Load, ir.Store, ir.Atomic)):
            shape = index_shape(op.index)
            return _with_guards(op, tuple(g for g in op.guards if analysis.is_ragged(g, shape)))
        return op

    return substitute(map_block(body, rewrite), replaced)


def _mask_needs(analysis: Analysis, op: ir.Mask, guard: Guard) -> bool:
    if not analysis.is_ragged(guard, op.value.shape):
        return False
    return not analysis.holds(op.value, guard, op.fill)


def _with_guards(op: ir.Mask | ir.Load | ir.Store | ir.Atomic, guards: tuple[Guard, ...]) -> Op:
    return op if guards == op.guards else dataclasses.replace(op, guards=guards)
