"""Moves a mask with -inf up to where the value is made, so that others become needless.

A softmax masks its row twice: with -inf before the maximum, with 0 before the sum. A person masks
once, in the load (``other=-inf``) or right after the product, since ``exp(-inf - max)`` is 0. That
holds unless the maximum is itself -inf or NaN, in which case every lane of the row, in range or
not, gives NaN, and so does the sum either way. The maximum must therefore be one over the very
lanes that are masked; that is what :func:`_dominates` asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from transpile.ir import ir
from transpile.ir.ir import Block, Op, TileType, Value
from transpile.ir.walk import (
    clone,
    definitions,
    map_phases,
    operands,
    rebuild,
    regions,
    substitute,
    use_counts,
    walk,
)


def lift_fills(kernel: ir.Kernel) -> ir.Kernel:
    """The kernel with each -inf mask lifted where that makes a zero mask needless."""
    return map_phases(kernel, lambda phase: _Lifter(_relaxed(_merged(clone(phase.body)))).run())


def _relaxed(body: Block) -> Block:
    """0 does as well as -inf before the maximum of values that are never negative, and is often
    what the lanes hold anyway."""
    makers = definitions(body)
    users: dict[Value, list[Op]] = {}
    for op in walk(body):
        for value in operands(op):
            users.setdefault(value, []).append(op)
    for op in walk(body):
        if isinstance(op, ir.Mask) and op.fill == -math.inf and _never_negative(op.value, makers):
            reduces = (
                isinstance(u, ir.Reduce) and u.name == "max" for u in users.get(op.result, [])
            )
            if all(reduces):
                op.fill = 0.0
    return body


_NEVER_NEGATIVE = ("abs", "exp", "exp2", "sqrt", "sigmoid")


def _never_negative(value: Value, makers: dict[Value, Op]) -> bool:
    match makers.get(value):
        case ir.Elementwise(name=name) if name in _NEVER_NEGATIVE:
            return True
        case ir.Elementwise(name="mul", args=(a, b)):
            return a is b
        case ir.Cast(value=inner, bitcast=False):
            return inner.dtype.is_float and _never_negative(inner, makers)
        case _:
            return False


def _merged(body: Block) -> Block:
    """Equal masks of one value become one; the only reader of a value takes over its name."""
    swap: dict[Value, Value] = {}
    for block in _blocks(body):
        seen: dict[tuple[Value, tuple[ir.Guard, ...], object], Value] = {}
        for op in block.ops:
            if isinstance(op, ir.Mask):
                key = (op.value, op.guards, (op.fill, type(op.fill)))
                if key in seen:
                    swap[op.result] = seen[key]
                seen.setdefault(key, op.result)
    if swap:
        body = _drop(body, {op for op in walk(body) if op.results and op.results[0] in swap})
        body = substitute(body, swap)
        counts = use_counts(body)
        for op in walk(body):
            if isinstance(op, ir.Mask) and counts.get(op.value) == 1 and op.result in swap.values():
                op.result.name = op.result.name or op.value.name
    return body


class _Lifter:
    """Works on one phase until nothing changes."""

    def __init__(self, body: Block) -> None:
        self.body = body

    def run(self) -> Block:
        while (found := self._find()) is not None:
            block, mask, needless = found
            self.body = _lift(self.body, block, mask, needless, self.makers)
        return self.body

    def _find(self) -> tuple[Block, ir.Mask, list[ir.Mask]] | None:
        self.makers = definitions(self.body)
        self.users: dict[Value, list[Op]] = {}
        for op in walk(self.body):
            for value in operands(op):
                self.users.setdefault(value, []).append(op)
        for block in _blocks(self.body):
            for op in block.ops:
                if isinstance(op, ir.Mask) and op.fill == -math.inf and len(op.guards) == 1:
                    needless = [m for m in self._zero_masks(op) if m is not op]
                    if needless and self.makers.get(op.value) in block.ops:
                        return block, op, needless
        return None

    def _zero_masks(self, mask: ir.Mask) -> Iterator[ir.Mask]:
        """Masks with 0 over exponentials of the masked value less its maximum."""
        guard = mask.guards[0]
        pending, seen = [mask.value, mask.result], {mask.value, mask.result}
        zeros: list[Value] = []
        while pending:
            value = pending.pop()
            for user in self.users.get(value, []):
                match user:
                    case ir.Elementwise(name="sub", args=(lhs, rhs)) if lhs is value:
                        follow = self._dominates(rhs, mask)
                    case ir.Elementwise(name="mul", args=args):
                        follow = any(self._positive(a) for a in args if a is not value)
                    case ir.Elementwise(name="exp" | "exp2", args=_):
                        zeros.append(user.result)
                        continue
                    case ir.Cast(bitcast=False):
                        follow = user.result.dtype.is_float and not user.result.dtype.is_fp8
                    case _:
                        follow = False
                if follow and user.result not in seen and _same_axis(value, user.result, guard.dim):
                    seen.add(user.result)
                    pending.append(user.result)
        yield from self._masks_of(zeros, guard)

    def _masks_of(self, zeros: list[Value], guard: ir.Guard) -> Iterator[ir.Mask]:
        pending = list(zeros)
        while pending:
            value = pending.pop()
            for user in self.users.get(value, []):
                if isinstance(user, ir.Mask) and user.fill == 0 and guard in user.guards:
                    yield user
                elif isinstance(user, ir.Cast) and not user.bitcast and user.result.dtype.is_float:
                    pending.append(user.result)

    def _dominates(self, value: Value, mask: ir.Mask) -> bool:
        """True if ``value`` is a maximum that the masked lanes took part in."""
        match self.makers.get(value):
            case ir.Reduce(name="max", value=reduced, dim=dim):
                return reduced is mask.result and dim == mask.guards[0].dim
            case ir.Elementwise(name="maximum" | "fmax", args=args):
                return any(self._dominates(a, mask) for a in args)
            case ir.Reshape(value=inner) | ir.Broadcast(value=inner):
                return self._dominates(inner, mask)
            case ir.Cast(value=inner, bitcast=False):
                return self._dominates(inner, mask)
            case _:
                return False

    def _positive(self, value: Value) -> bool:
        maker = self.makers.get(value)
        return isinstance(maker, ir.Const) and maker.value > 0


def _same_axis(a: Value, b: Value, dim: int) -> bool:
    return len(a.shape) == len(b.shape) and a.shape[dim] == b.shape[dim]


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for op in block.ops:
        for inner in regions(op):
            yield from _blocks(inner)


def _lift(
    body: Block, block: Block, mask: ir.Mask, needless: list[ir.Mask], makers: dict[Value, Op]
) -> Block:
    """``mask`` placed right behind its value (under a cast of a load: behind the load) and used
    in the value's stead; its guard taken from the needless masks."""
    source = mask.value
    cast = makers.get(source)
    load = makers.get(cast.value) if isinstance(cast, ir.Cast) and not cast.bitcast else None
    through = isinstance(load, ir.Load) and load in block.ops and not load.result.dtype.is_fp8
    made = load.result if through else source  # type: ignore[union-attr]
    lifted = Value(TileType(made.dtype, made.shape), made.name)
    made_by = makers[made]
    guards = mask.guards
    if isinstance(made_by, ir.Load) and _alone(body, set(made_by.guards) - set(guards)):
        guards = made_by.guards  # then the load itself can give the fill
    new_mask = ir.Mask(made, guards, mask.fill, results=(lifted,), span=mask.span)

    swap: dict[Value, Value] = {mask.result: source if through else lifted}
    ops: list[Op] = []
    for op in block.ops:
        if op is mask:
            continue
        ops.append(op)
        if op is made_by:
            ops.append(new_mask)
    block.ops[:] = ops
    for op in needless:
        rest = tuple(g for g in op.guards if g not in mask.guards)
        if rest:
            op.guards = rest
        else:
            swap[op.result] = op.value
    body = _drop(body, {op for op in needless if op.result in swap})
    body = substitute(body, {made: lifted, **swap})
    for op in walk(body):  # the new mask itself reads the unmasked value
        if isinstance(op, ir.Mask) and op.results == (lifted,):
            op.value = made
    return body


def _alone(body: Block, guards: set[ir.Guard]) -> bool:
    """True if no mask asks about the lanes of these guards."""
    tiles = {g.tile for g in guards}
    masks = (op for op in walk(body) if isinstance(op, ir.Mask))
    return None not in tiles and not any(g.tile in tiles for op in masks for g in op.guards)


def _drop(block: Block, gone: set[Op]) -> Block:
    def region(inner: Block) -> Block:
        kept = (op for op in inner.ops if op not in gone)
        ops = [rebuild(op, lambda v: v, region) if regions(op) else op for op in kept]
        return Block(inner.params, ops, inner.yields)

    return region(block)
