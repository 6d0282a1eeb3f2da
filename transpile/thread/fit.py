"""Block sizes whose tiles the threads of a target can hold.

A config that was tuned for another target, or a default that knows nothing of what a tile meets,
may ask for more registers than there are. The widest block of such a tile is halved until it fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transpile.ir import ir
from transpile.ir.sizes import Sym
from transpile.ir.walk import walk
from transpile.thread.limits import Limits
from transpile.thread.plan import crowded

_COMFORTABLE = 4  # a tile of a config of our own takes no more than this part of the registers
_ROW = 1024  # run-time rows are assumed to be no longer: others have code of their own


def held_blocks(
    kernel: ir.Kernel, blocks: Mapping[Sym, int], config: Mapping[str, Any], limits: Limits
) -> dict[Sym, int]:
    """``blocks`` with those that the source leaves open made so small that no thread holds more
    elements of a tile than the target has registers for, as far as that is possible."""
    found = dict(blocks)
    open_ones = {b.sym for b in kernel.blocks if b.fixed is None}
    room = whole = limits.registers
    if "block_sizes" not in config:
        room //= _COMFORTABLE
    limits = dataclasses.replace(limits, row=min(limits.row, _ROW))
    for phase in kernel.phases:
        products = any(isinstance(op, ir.Dot) for op in walk(phase.body))  # as measured
        limits = dataclasses.replace(limits, registers=whole if products else room)
        while (shape := crowded(kernel, phase, found, config, limits)) is not None:
            sizes = {s: found[s] for size in shape for s in size.syms if s in open_ones}
            widest = max(sizes, key=lambda s: (sizes[s], s.name), default=None)
            if widest is None or sizes[widest] == 1:
                break
            found[widest] //= 2
    return found
