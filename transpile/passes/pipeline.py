"""The rewrites that stand between a frontend's IR and a tile emitter."""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.passes.fills import lift_fills
from transpile.passes.flatten import flatten_loops
from transpile.passes.masks import remove_masks
from transpile.passes.peel import peel_products
from transpile.passes.roll import roll_reductions
from transpile.passes.schedule import Schedule
from transpile.passes.simplify import simplify
from transpile.passes.squeeze import squeeze


def prepare(kernel: ir.Kernel, schedule: Schedule) -> ir.Kernel:
    """The kernel for its schedule: reductions rolled, axes of one lane dropped, and without the
    masks that change nothing. The schedule learns the block sizes of rolled axes."""
    kernel = flatten_loops(kernel, schedule.config.get("flatten_loops", ()))
    rolled = roll_reductions(kernel, schedule.reduction_loops, schedule.blocks)
    for refusal in rolled.refusals:
        raise error(
            "KT0215", f"the axis of size {refusal.size} cannot be walked in chunks",
            refusal.span or kernel.span, why=refusal.reason,
            remedy="put None in its place in `reduction_loops`",
        )  # fmt: skip
    kernel = rolled.kernel
    for block in kernel.blocks:
        number = None
        if block.fixed is not None:
            number = block.fixed.substitute(schedule.blocks).as_int()
        if number is not None:
            schedule.blocks.setdefault(block.sym, number)
    kernel = simplify(squeeze(kernel, schedule.blocks))
    if schedule.uses_pointers:
        kernel = peel_products(kernel, schedule.blocks)
    return simplify(remove_masks(lift_fills(kernel), schedule.blocks, True))
