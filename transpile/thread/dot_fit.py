"""Smaller steps for products whose operands do not fit in shared memory.

A config that was tuned for another target may ask for tiles of which a target cannot hold one pair.
The depth of a product's steps changes nothing but that, so it is halved until they fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from transpile.ir import ir
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import walk
from transpile.thread.dot_plan import PAD, Operand, Product, Products, plan_products
from transpile.thread.limits import Limits

_LEAST = 8


def fitted_blocks(
    kernel: ir.Kernel, blocks: Mapping[Sym, int], groups: int | None, limits: Limits
) -> dict[Sym, int]:
    """``blocks`` with the tiles of loops around products made so small that all operands of a
    block's products fit in ``limits.shared_bytes``, as far as the source leaves their size open."""
    found = dict(blocks)
    open_ones = {b.sym for b in kernel.blocks if b.fixed is None}
    for phase in kernel.phases:
        while True:
            plan = _plan(phase, found, groups, limits)
            if staged_bytes(plan) <= limits.shared_bytes:
                break
            loops = _loop_blocks(phase, plan) & open_ones
            sizes = {s: found[s] for s in loops if found.get(s, 0) > _LEAST}
            if not sizes:
                break
            widest = max(sizes, key=lambda s: (sizes[s], s.name))
            found[widest] //= 2
    return found


def _plan(
    phase: ir.Phase, blocks: Mapping[Sym, int], groups: int | None, limits: Limits
) -> Products:
    def extent(size: Size) -> int:
        number = size.substitute(blocks).as_int()
        return limits.row if number is None else max(1, number)

    return plan_products(phase.body, extent, groups, limits)


def staged_bytes(plan: Products) -> int:
    """Shared memory for the operands of all products of one block, of the block with the most."""
    totals: dict[int, int] = {}
    seen: set[tuple[int, ir.Value]] = set()
    for product in plan.products.values():
        home = id(plan.homes[product.op.result])
        for operand in _staged(product):
            if (home, operand.value) not in seen:
                seen.add((home, operand.value))
                totals[home] = totals.get(home, 0) + _bytes(product, operand)
    return max(totals.values(), default=0)


def _staged(product: Product) -> Iterator[Operand]:
    return (o for o in (product.lhs, product.rhs) if o.staged)


def _bytes(product: Product, operand: Operand) -> int:
    rows, cols = (product.m, product.k) if operand.side == "lhs" else (product.k, product.n)
    if operand.transposed:
        rows, cols = cols, rows
    size = max(1, operand.dtype.bits // 8)
    return product.batch * rows * (cols * size + PAD)


def _loop_blocks(phase: ir.Phase, plan: Products) -> set[Sym]:
    """Block sizes of loops that the staged operands are tiles of."""
    loops = {op.block for op in walk(phase.body) if isinstance(op, ir.ForTile)}
    used = {
        sym
        for product in plan.products.values()
        for operand in _staged(product)
        for size in operand.value.shape
        for sym in size.syms
    }
    return loops & used
