"""Rolled reductions: a full-slice axis walked in chunks (``reduction_loops`` of the config).

A block of operations on whole rows becomes a sequence of loops over chunks of the row. Each loop
loads what it needs again. A reduction accumulates tile-wise in its loop and is finished after it,
so whatever depends on it comes in the next loop: a softmax takes three, for maximum, sum and
result. What does not have the rolled axis stays outside, between the loops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.ir import Block, Kernel, Op, Phase, Span, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import (
    operands,
    rebuild,
    regions,
    reshape_groups,
    walk,
    walk_kernel,
)
from transpile.passes.chunks import Axis, ChunkLoop, Refused

_POINTWISE = (
    ir.Load, ir.Store, ir.Atomic, ir.Elementwise, ir.Cast, ir.Reshape, ir.Broadcast, ir.Permute,
    ir.Join, ir.Split, ir.Iota, ir.Full, ir.Mask, ir.Reduce, ir.Random, ir.Scan,
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """Why the axis of this size cannot be walked in chunks."""

    size: Size
    reason: str
    span: Span | None


@dataclass(frozen=True)
class Rolled:
    """The rewritten kernel, and the axes that had to stay whole."""

    kernel: Kernel
    refusals: tuple[Refusal, ...]


def reduction_sizes(kernel: Kernel) -> tuple[Size, ...]:
    """The sizes that entries of ``reduction_loops`` stand for, in order.

    These are the lengths of slices over whose axis something is reduced, by first load, and then
    those over whose axis something is scanned only.
    """
    reduced = {op.value.shape[op.dim] for op in walk_kernel(kernel) if isinstance(op, ir.Reduce)}
    scanned = {op.values[0].shape[op.dim] for op in walk_kernel(kernel) if isinstance(op, ir.Scan)}
    slices = [
        entry.length
        for op in walk_kernel(kernel)
        if isinstance(op, ir.Load)
        for entry in op.index
        if isinstance(entry, ir.AtSlice)
    ]
    found = [size for sizes in (reduced, scanned) for size in slices if size in sizes]
    return tuple(dict.fromkeys(found))


def roll_reductions(
    kernel: Kernel, reduction_loops: Sequence[int | None], blocks: Mapping[Sym, int]
) -> Rolled:
    """Walk the axes of :func:`reduction_sizes` in chunks of the given sizes (None: whole).

    An axis that is known to fit in one chunk stays whole. Accumulators of 16-bit floats are f32.
    """
    refusals = []
    for size, chunk in zip(reduction_sizes(kernel), reduction_loops, strict=False):
        extent = size.substitute(blocks).as_int()
        if chunk is None or (extent is not None and extent <= chunk):
            continue
        try:
            kernel = _roll(kernel, size, chunk)
        except Refused as refused:
            refusals.append(Refusal(size, refused.reason, refused.span))
    return Rolled(kernel, tuple(refusals))


def _roll(kernel: Kernel, size: Size, chunk: int) -> Kernel:
    sym = _chunk_symbol(kernel, size)
    index_dtype = kernel.index_dtype or I32
    axis = Axis(size, sym, index_dtype)

    def phase(old: Phase) -> Phase:
        body = _roll_block(old.body, axis)
        return old if body is old.body else dataclasses.replace(old, body=body)

    block = ir.BlockSize(sym, fixed=Size.of(chunk), extents=(size,))
    phases = tuple(phase(p) for p in kernel.phases)
    return dataclasses.replace(kernel, phases=phases, blocks=(*kernel.blocks, block))


def _chunk_symbol(kernel: Kernel, size: Size) -> Sym:
    """``BLOCK_N`` for a dimension N, unless a source block size has that name."""
    taken = {b.sym.name for b in kernel.blocks}
    sym = size.as_sym()
    stem = f"BLOCK_{sym.name.upper()}" if sym is not None and sym.name.isidentifier() else "CHUNK"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return Sym(name, "block")


# -- the plan for one block ----------------------------------------------------------------------


def _roll_block(block: Block, axis: Axis) -> Block:
    """The block with its own wide operations in loops, nested blocks first."""
    ops = [rebuild(op, lambda v: v, lambda inner: _roll_block(inner, axis)) for op in block.ops]
    changed = any(a is not b for a, b in zip(ops, block.ops, strict=True))
    block = Block(block.params, ops, block.yields) if changed else block
    if not any(_is_wide_op(op, axis) for op in block.ops):
        return block
    plan = _Plan(block, axis)
    return Block(block.params, plan.emit(), block.yields)


def _is_wide_op(op: Op, axis: Axis) -> bool:
    """Whether the operation itself (not one in its regions) is on whole rows."""
    if any(axis.is_wide(r) for r in op.results) or any(axis.is_wide(v) for v in operands(op)):
        return True
    if isinstance(op, (ir.Load, ir.Store, ir.Atomic)):
        return any(isinstance(e, ir.AtSlice) and e.length == axis.size for e in op.index)
    return False


class _Plan:
    """Levels: an operation of level L runs in (wide) or before (narrow) loop L."""

    def __init__(self, block: Block, axis: Axis) -> None:
        self.block = block
        self.axis = axis
        self.makers = {result: op for op in block.ops for result in op.results}
        self.wide = {op for op in block.ops if _is_wide_op(op, axis)}
        self._check()
        self.levels = self._levels()

    def _levels(self) -> dict[Op, int]:
        """Operands come first; narrow effects keep their order; inputs are overwritten last."""
        self.levels = levels = {}
        highest = 0
        for op in self.block.ops:
            levels[op] = max((self._available(v) for v in self._uses(op)), default=0)
            if op not in self.wide and _has_effect(op):
                levels[op] = highest = max(highest, levels[op])
        loaded = {op.tensor.storage for op in self.wide if isinstance(op, ir.Load)}
        last = max((levels[op] for op in self.wide if self._is_target(op)), default=0)
        for op in self.wide:
            if isinstance(op, (ir.Store, ir.Atomic)) and op.tensor.storage in loaded:
                levels[op] = last
        return levels

    def _uses(self, op: Op) -> list[Value]:
        """Values from this block that the operation or its regions use."""
        used = list(operands(op))
        for region in regions(op):
            for inner in walk(region):
                used.extend(operands(inner))
                for nested in regions(inner):
                    used.extend(nested.yields)
            used.extend(region.yields)
        return [value for value in used if value in self.makers]

    def _available(self, value: Value) -> int:
        maker = self.makers[value]
        return self.levels[maker] + (1 if self.axis.finishes(maker) else 0)

    # -- what cannot be rolled -----------------------------------------------------------------

    def _check(self) -> None:
        for op in self.block.ops:
            if op in self.wide:
                self._check_wide(op)
            elif any(self.axis.is_wide(v) for v in self._uses(op)):
                raise Refused(f"values of size {self.axis.size} are used in an inner loop", op)
            if isinstance(op, ir.Barrier):
                raise Refused("the program waits for its own stores", op)
        if any(self.axis.is_wide(v) for v in (*self.block.yields, *self.block.params)):
            raise Refused(f"a value of size {self.axis.size} is kept across iterations of a loop")
        self._check_memory()

    def _check_wide(self, op: Op) -> None:
        if not isinstance(op, _POINTWISE):
            raise Refused(f"{_words(op)} needs all of the {self.axis.size} axis at once", op)
        for value in operands(op):
            if self.axis.is_wide(value) and value not in self.makers:
                raise Refused(f"values of size {self.axis.size} are used in an inner loop", op)
        if isinstance(op, ir.Reshape):
            self._check_reshape(op)
        if isinstance(op, ir.Scan) and op.reverse and self.axis.of(op.values[0]) == op.dim:
            raise Refused("a scan from the end begins with the last chunk", op)
        if isinstance(op, ir.Atomic) and any(self._is_used(r) for r in op.results):
            raise Refused("the result of an atomic is used", op)

    def _check_reshape(self, op: ir.Reshape) -> None:
        groups = reshape_groups(op.value.shape, op.result.shape)
        kept = {(old[0], new[0]) for old, new in groups if len(old) == len(new) == 1}
        if (self.axis.of(op.value), self.axis.of(op.result)) not in kept:
            raise Refused(f"a reshape splits or merges the {self.axis.size} axis", op)

    def _is_used(self, value: Value) -> bool:
        return value in self.block.yields or any(value in self._uses(op) for op in self.block.ops)

    def _check_memory(self) -> None:
        """Loads are repeated, so nothing stored in between may be what they read."""
        accesses: dict[str, list[tuple[Op, ir.Load | ir.Store | ir.Atomic]]] = {}
        for op in self.block.ops:
            for inner in (op, *(i for r in regions(op) for i in walk(r))):
                if isinstance(inner, (ir.Load, ir.Store, ir.Atomic)):
                    accesses.setdefault(inner.tensor.storage, []).append((op, inner))
        for name, found in accesses.items():
            kinds = [isinstance(inner, ir.Load) for _, inner in found]
            if all(kinds) or len(found) == 1 or not any(op in self.wide for op, _ in found):
                continue
            first = found[0][1]
            same = all(
                inner.tensor is first.tensor and inner.index == first.index for _, inner in found
            )
            loads_first = kinds == sorted(kinds, reverse=True) and kinds.count(False) == 1
            if not (same and loads_first and all(op in self.wide for op, _ in found)):
                raise Refused(f"{name} is written and accessed again", found[-1][0])

    def _is_target(self, op: Op) -> bool:
        """Whether a loop exists for this operation's sake."""
        return op in self.wide and (self.axis.finishes(op) or not op.results or _has_effect(op))

    # -- output --------------------------------------------------------------------------------

    def emit(self) -> list[Op]:
        ops: list[Op] = []
        for level in range(max(self.levels.values(), default=0) + 1):
            ops += [op for op in self.block.ops if op not in self.wide and self._at(op, level)]
            targets = [op for op in self.block.ops if self._is_target(op) and self._at(op, level)]
            if targets:
                ops += ChunkLoop(self.axis, self.makers).build(self.needed(targets))
        return ops

    def _at(self, op: Op, level: int) -> bool:
        return self.levels[op] == level

    def needed(self, targets: Sequence[Op]) -> list[Op]:
        """The wide operations that the targets need, in program order."""
        wanted: set[Op] = set(targets)
        for op in reversed(self.block.ops):
            if op in wanted:
                makers = (self.makers.get(v) for v in operands(op))
                wanted.update(m for m in makers if m in self.wide and not self.axis.finishes(m))
        return [op for op in self.block.ops if op in wanted]


def _has_effect(op: Op) -> bool:
    effects = (ir.Store, ir.Atomic, ir.Inline)
    return isinstance(op, effects) or any(_has_effect(i) for r in regions(op) for i in r.ops)


def _words(op: Op) -> str:
    names = {
        ir.Dot: "a dot", ir.Scan: "a scan", ir.ReduceWith: "a reduction with a function",
        ir.Sort: "a sort", ir.Gather: "a gather", ir.If: "a branch", ir.Inline: "target code",
    }  # fmt: skip
    return names.get(type(op), "a loop")
