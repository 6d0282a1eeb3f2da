"""Which values threads have in common: all of a group, those of a SIMD group, or none."""

from __future__ import annotations

from collections.abc import Mapping

from transpile.thread import ir
from transpile.thread.ir import Body, Element, Expr, Stmt, Var
from transpile.thread.walk import bodies, children, walk

GROUP, SIMD, THREAD = 0, 1, 2
"""The same in the whole group, in each SIMD group, or different in each thread."""


class Levels:
    """How far values are shared. ``values`` has scalars that keep what they are declared with."""

    def __init__(self, body: Body, simd: int) -> None:
        self.simd = simd
        self.vars: dict[Var, int] = {}
        self.values = single_values(body)
        changed = True
        while changed:
            changed = self._body(body, GROUP)

    def of(self, expr: Expr) -> int:
        """How far the expression's value is shared."""
        match expr:
            case ir.Id(kind=kind):
                return {"thread": THREAD, "lane": THREAD, "simdgroup": SIMD}.get(kind, GROUP)
            case Var():
                return self.vars.get(expr, GROUP)
            case ir.LaneReduce(value=value, xors=xors):
                whole = len(xors) == self.simd.bit_length() - 1
                return min(self.of(value), SIMD) if whole else self.of(value)
            case ir.LaneScan():
                return THREAD
            case ir.Shuffle(kind=kind, value=value, by=by):
                one = kind == "index" and self.of(by) <= SIMD
                return min(self.of(value), SIMD) if one else self.of(value)
            case ir.SharedLoad(index=index, guard=guard):
                return max([self.of(i) for i in index] + [self.of(g) for g in [guard] if g])
        return max((self.of(child) for child in children(expr)), default=GROUP)

    def _body(self, body: Body, level: int) -> bool:
        """Raise the levels of what is assigned; whether any changed."""
        changed = False
        for stmt in body:
            inner = max([level, *(self.of(e) for e in _conditions(stmt))])
            for target, value in _assignments(stmt):
                found = max([inner, *(self.of(v) for v in value)])
                if found > self.vars.get(target, GROUP):
                    self.vars[target] = found
                    changed = True
            for part in bodies(stmt):
                changed |= self._body(part, inner)
        return changed


def _conditions(stmt: Stmt) -> tuple[Expr, ...]:
    match stmt:
        case ir.If(cond=cond) | ir.While(cond=cond):
            return (cond,)
        case ir.For(begin=begin, end=end, step=step):
            return (begin, end, step)
    return ()


def _assignments(stmt: Stmt) -> list[tuple[Var, tuple[Expr, ...]]]:
    """Variables that a statement assigns, and what their values are made from."""
    match stmt:
        case ir.Let(var=var, value=value):
            return [(var, () if value is None else (value,))]
        case ir.Assign(target=target, value=value):
            return [(_array(target), (value,))]
        case ir.Atomic(result=result) if result is not None:
            return [(_array(result), (ir.Id("thread"),))]
        case ir.FragmentLoad(target=target) | ir.Mma(target=target):
            return [(_array(target), (ir.Id("thread"),))]
        case ir.Inline(results=results):
            return [(_array(r), (ir.Id("thread"),)) for r in results]
        case ir.For(var=var, begin=begin, step=step):
            return [(var, (begin, step))]
    return []


def _array(target: Expr) -> Var:
    found = target.array if isinstance(target, Element) else target
    assert isinstance(found, Var)
    return found


def single_values(body: Body) -> Mapping[Var, Expr]:
    """Scalars that are given a value where they are declared and never another one."""
    values: dict[Var, Expr] = {}
    changed: set[Var] = set()
    for stmt in walk(body):
        if isinstance(stmt, ir.Let):
            if stmt.value is not None and not stmt.var.shape and stmt.var.components == 1:
                values[stmt.var] = stmt.value
        else:
            changed.update(var for var, _ in _assignments(stmt))
    return {var: value for var, value in values.items() if var not in changed}
