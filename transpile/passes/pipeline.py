"""The rewrites that stand between a frontend's IR and a tile emitter."""

from __future__ import annotations

from transpile.ir import ir
from transpile.passes.fills import lift_fills
from transpile.passes.masks import remove_masks
from transpile.passes.schedule import Schedule
from transpile.passes.squeeze import squeeze


def prepare(kernel: ir.Kernel, schedule: Schedule) -> ir.Kernel:
    """The kernel for its block sizes: axes of one lane dropped, masks that change nothing too."""
    kernel = squeeze(kernel, schedule.blocks)
    kernel = lift_fills(kernel)
    return remove_masks(kernel, schedule.blocks, True)
