"""The rewrites between a frontend's IR and the Pallas emitter."""

from __future__ import annotations

from transpile.emitters.pallas.blocks import tpu_schedule
from transpile.emitters.pallas.columns import keep_columns
from transpile.emitters.pallas.gathers import rewrite_gathers
from transpile.emitters.pallas.legal import legalise
from transpile.emitters.pallas.once import run_once
from transpile.emitters.pallas.predicates import sink_new_axes
from transpile.ir import ir
from transpile.passes.fills import lift_fills
from transpile.passes.masks import remove_masks
from transpile.passes.roll import roll_reductions
from transpile.passes.schedule import Schedule
from transpile.passes.simplify import simplify
from transpile.passes.squeeze import squeeze


def prepared(kernel: ir.Kernel, arch: str) -> tuple[ir.Kernel, Schedule]:
    """The kernel for its schedule, in types and shapes of the device, with the masks it needs."""
    schedule = tpu_schedule(kernel, arch)
    kernel = roll_reductions(kernel, schedule.reduction_loops, schedule.blocks).kernel
    for block in kernel.blocks:
        number = None
        if block.fixed is not None:
            number = block.fixed.substitute(schedule.blocks).as_int()
        if number is not None:
            schedule.blocks.setdefault(block.sym, number)
    kernel = run_once(rewrite_gathers(legalise(kernel)), schedule.blocks)
    kernel = simplify(squeeze(kernel, schedule.blocks))
    kernel = simplify(remove_masks(lift_fills(kernel), schedule.blocks, False))
    return simplify(keep_columns(sink_new_axes(kernel))), schedule
