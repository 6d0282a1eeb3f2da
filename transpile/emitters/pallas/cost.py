"""What a kernel computes, for ``pl.CostEstimate``: as XLA counts, which schedules around it.

A product of (m, k) and (k, n) is 2 m n k operations, everything else one an element; functions
that the transcendental unit computes are counted apart. Where there are products, they are all that
counts, and of a sum only the terms of highest degree. Loops whose ends depend on data, or on the
grid position, have no closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.pallas.plan import Plan
from transpile.ir import ir
from transpile.ir.ir import Value
from transpile.ir.sizes import ONE, ZERO, Monomial, Opaque, Size, Sym
from transpile.ir.walk import regions, walk

#: those that jax's own estimate counts
TRANSCENDENTAL = frozenset({
    "acos", "asin", "atan", "atan2", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "log",
    "log10", "log1p", "log2", "pow", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
})  # fmt: skip

_UNCOUNTED = frozenset({"where", "eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf"})


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations of all grid steps together."""

    flops: Size
    transcendentals: Size


@dataclass(frozen=True, slots=True)
class _Loop:
    """A grid axis or a loop: ``extent`` positions, in blocks or one by one."""

    extent: Size
    block: Sym | None
    step: int = 1

    @property
    def count(self) -> Size:
        return self.extent.ceildiv(Size.of(self.block) if self.block else self.step)


def cost(plan: Plan) -> Cost | None:
    """The cost of a phase; None where it has no closed form."""
    return _Counter(plan).total()


class _Counter:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.makers = {r: op for op in walk(plan.phase.body) for r in op.results}
        self.tiles: dict[Value, Size] = {}  # tile -> what its loop walks
        self.products = ZERO
        self.simple = ZERO
        self.functions = ZERO

    def total(self) -> Cost | None:
        loops = []
        for axis in self.plan.phase.axes:
            loops.append(_Loop(axis.end - axis.begin, axis.block, axis.step))
            self.tiles[axis.var] = axis.end - axis.begin
        if not self._block(self.plan.phase.body, loops):
            return None
        flops = self.products if self.products.terms else self.simple
        return Cost(_leading(flops), _leading(self.functions))

    def _block(self, block: ir.Block, loops: list[_Loop]) -> bool:
        """False where something has no closed form."""
        for op in block.ops:
            match op:
                case ir.ForTile():
                    extent = self._extent(op)
                    if extent is None:
                        return False
                    inner = [x for x in loops if x.extent != extent or not self._nested(op)]
                    if not self._block(op.body, [*inner, _Loop(extent, op.block)]):
                        return False
                case ir.ForRange():
                    count = self._count(op)
                    if count is None or not self._block(op.body, [*loops, _Loop(count, None)]):
                        return False
                case ir.While() | ir.If():
                    return False
                case _:
                    if any(not isinstance(op, ir.Reduce | ir.Scan) for _ in regions(op)):
                        return False
                    self._operation(op, loops)
        return True

    # -- loops ---------------------------------------------------------------------------------

    def _nested(self, op: ir.ForTile) -> bool:
        """True for a loop over a tile of an outer one: together they walk the outer's extent."""
        return isinstance(self.makers.get(op.begin), ir.TileAttr)

    def _extent(self, op: ir.ForTile) -> Size | None:
        begin, end = self.makers.get(op.begin), self.makers.get(op.end)
        if isinstance(begin, ir.Const) and begin.value == 0 and isinstance(end, ir.SizeOf):
            return end.size if all(s.kind != "scalar" for s in end.size.syms) else None
        match begin, end:
            case ir.TileAttr(tile=tile, attr="begin"), ir.TileAttr(attr="end"):
                return self.tiles.get(tile) if tile is end.tile else None
            case _:
                return None

    def _count(self, op: ir.ForRange) -> Size | None:
        begin, end, step = (self.makers.get(v) for v in (op.begin, op.end, op.step))
        first = begin.value if isinstance(begin, ir.Const) else None
        stride = step.value if isinstance(step, ir.Const) else None
        if first is None or stride != 1:
            return None
        if isinstance(end, ir.Const):
            return Size.of(int(end.value) - int(first))
        if isinstance(end, ir.SizeOf) and all(s.kind != "scalar" for s in end.size.syms):
            return end.size - int(first)
        return None

    # -- operations ----------------------------------------------------------------------------

    def _operation(self, op: ir.Op, loops: list[_Loop]) -> None:
        match op:
            case ir.Dot(lhs=lhs, rhs=rhs):
                self.products += self._elements((*lhs.shape, rhs.shape[-1]), loops) * 2
            case ir.Elementwise(name=name) if name in TRANSCENDENTAL:
                self.functions += self._elements(op.result.shape, loops)
            case ir.Elementwise(name=name) if name not in _UNCOUNTED:
                if not op.result.dtype.is_bool:
                    self.simple += self._elements(op.result.shape, loops)
            case ir.Reduce(value=value):
                self.simple += self._elements(value.shape, loops)
            case ir.ReduceWith(values=values) | ir.Scan(values=values):
                self.simple += self._elements(values[0].shape, loops) * len(values)
            case ir.Atomic(value=value):
                self.simple += self._elements(value.shape, loops)
            case _:
                return

    def _elements(self, shape: tuple[Size, ...], loops: list[_Loop]) -> Size:
        """Elements of a shape in all iterations of the loops around it."""
        if all(s == ONE for s in shape):
            return ZERO
        left = list(shape)
        total = ONE
        for loop in loops:
            walked = next((s for s in left if loop.block and _multiple(s, loop.block)), None)
            if walked is None:
                count = loop.extent if loop.block is None and loop.step == 1 else None
                total = total * (self.plan.sizes.open(count) if count else loop.count)
            else:
                left.remove(walked)
                total = total * self.plan.sizes.open(loop.extent) * walked.terms[0][1]
        for size in left:
            total = total * self.plan.sizes.open(size.substitute(self.plan.schedule.blocks))
        return total


def _multiple(size: Size, block: Sym) -> bool:
    """True for a block, or a number of them."""
    return [mono for mono, _ in size.terms] == [(block,)]


def _leading(total: Size) -> Size:
    """Without terms whose factors are all in another term as well; a quotient is less than what it
    divides."""
    result = ZERO
    for mono, coeff in total.terms:
        if not any(_below(mono, other) for other, _ in total.terms if other != mono):
            result = result + Size(((mono, coeff),))
    return result


def _below(mono: Monomial, other: Monomial) -> bool:
    left = _degrees(other)
    for sym in _degrees(mono):
        if sym not in left:
            return False
        left.remove(sym)
    return bool(left) or any(isinstance(atom, Opaque) for atom in mono)


def _degrees(mono: Monomial) -> list[Sym]:
    """The symbols of a product; of a quotient those that are divided."""
    found: list[Sym] = []
    for atom in mono:
        found += [atom] if isinstance(atom, Sym) else sorted(atom.lhs.syms - atom.rhs.syms, key=str)
    return found
