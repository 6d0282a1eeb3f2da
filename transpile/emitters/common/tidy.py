"""Clean-up of the statement list once all uses are known, before names are given."""

from __future__ import annotations

from collections import Counter

from transpile.emitters.common.layout import WIDTH
from transpile.emitters.common.tree import (
    COMPARE,
    Assign,
    Copy,
    Eval,
    Expr,
    For,
    Function,
    If,
    Return,
    Stmt,
    Var,
    While,
    binary,
    blocks,
    ref,
    retyped,
    uses,
)


def tidy(body: list[Stmt]) -> None:
    """Drop helper variables nobody reads and inline those read once."""
    while _drop(body, _count(body)):
        pass
    counts = _count(body)
    depth = _depths(body)
    single = _single_uses(body, counts, depth)
    if single:
        _inline(body, single)


def _count(body: list[Stmt]) -> Counter[Var]:
    counts: Counter[Var] = Counter()
    for stmt in body:
        counts.update(uses(stmt))
        for block in blocks(stmt):
            counts.update(_count(block))
    return counts


def _drop(body: list[Stmt], counts: Counter[Var]) -> bool:
    before = len(body)
    body[:] = [
        s for s in body
        if not (isinstance(s, Assign) and s.tidy and not any(counts[t] for t in s.targets))
    ]  # fmt: skip
    changed = len(body) != before
    for stmt in body:
        for block in blocks(stmt):
            changed |= _drop(block, counts)
    return changed


def _depths(
    body: list[Stmt], depth: int = 0, out: dict[Var, set[int]] | None = None
) -> dict[Var, set[int]]:
    """Loop depths at which each variable is read."""
    found: dict[Var, set[int]] = {} if out is None else out
    for stmt in body:
        for var in uses(stmt):
            found.setdefault(var, set()).add(depth)
        for block in blocks(stmt):
            _depths(block, depth + isinstance(stmt, For | While | Function), found)
    return found


def _single_uses(
    body: list[Stmt], counts: Counter[Var], depths: dict[Var, set[int]], depth: int = 0
) -> dict[Var, Expr]:
    """Helpers read once and not from a deeper loop: a loop invariant stays outside."""
    single: dict[Var, Expr] = {}
    for stmt in body:
        if isinstance(stmt, Assign) and stmt.tidy == "inline" and len(stmt.targets) == 1:
            var = stmt.targets[0]
            if stmt.value.var is not None or (counts[var] == 1 and depths[var] == {depth}):
                single[var] = stmt.value
        for block in blocks(stmt):
            inner = depth + isinstance(stmt, For | While | Function)
            single |= _single_uses(block, counts, depths, inner)
    return single


def _inline(body: list[Stmt], single: dict[Var, Expr]) -> None:
    def replace(expr: Expr) -> Expr:
        return _substitute(expr, single)

    kept: list[Stmt] = []
    for stmt in body:
        match stmt:
            case Assign(targets=targets) if len(targets) == 1 and targets[0] in single:
                continue
            case Assign() | Eval():
                stmt.value = replace(stmt.value)
            case Copy():
                stmt.pairs = [(t, replace(v)) for t, v in stmt.pairs]
            case For():
                stmt.iterator = replace(stmt.iterator)
            case While() | If():
                stmt.cond = replace(stmt.cond)
            case Return():
                stmt.values = tuple(replace(v) for v in stmt.values)
            case Function() if stmt.decorator is not None:
                stmt.decorator = replace(stmt.decorator)
            case _:
                pass
        for block in blocks(stmt):
            _inline(block, single)
        kept.append(stmt)
    body[:] = kept


def _substitute(expr: Expr, single: dict[Var, Expr]) -> Expr:
    """Replace variables; ``(offs < n)[:, None]`` is written ``offs[:, None] < n``."""
    if expr.var is not None:
        found = single.get(expr.var)
        return expr if found is None else _substitute(found, single)
    if not expr.args:
        return expr
    args = tuple(_substitute(a, single) for a in expr.args)
    if expr.template.startswith("{0}[") and args[0].prec == COMPARE:
        lhs, rhs = args[0].args
        if rhs.shape == ():
            symbol = args[0].template.split()[1]
            lhs = retyped(expr, args=(lhs,), dtype=lhs.dtype)
            return binary(symbol, lhs, rhs, COMPARE, args[0].dtype, expr.shape)
    return retyped(expr, args=args)


def _load_count(expr: Expr) -> int:
    return expr.is_load + sum(_load_count(a) for a in expr.args)


def used_variables(body: list[Stmt]) -> set[Var]:
    """Every variable that some statement reads."""
    return set(_count(body))


def name_loads(body: list[Stmt], forced: frozenset[int] = frozenset()) -> frozenset[int]:
    """Give loads inside a statement that is too long for one line a variable of their own.

    ``forced`` are loads, by ordinal, that get one anyway, and no others do; returns those that did.
    """
    namer = _LoadNamer(forced)
    namer.block(body, 4)
    return frozenset(namer.named)


class _LoadNamer:
    def __init__(self, forced: frozenset[int]) -> None:
        self.forced = forced
        self.named: list[int] = []

    def block(self, body: list[Stmt], indent: int) -> None:
        out: list[Stmt] = []
        for stmt in body:
            for block in blocks(stmt):
                self.block(block, indent + 4)
            match stmt:
                case Assign(targets=targets, value=value):
                    start = indent + sum(len(t.hint) + 2 for t in targets)
                    stmt.value = self.fitted(value, start, out)
                case Eval(value=value):
                    crowded = WIDTH if _load_count(value) > 1 else 0  # a store of two loads
                    stmt.value = self.fitted(value, indent + crowded, out)
                case Copy(pairs=pairs):
                    stmt.pairs = [
                        (t, self.fitted(v, indent + len(t.hint) + 3, out)) for t, v in pairs
                    ]
                case _:
                    pass
            out.append(stmt)
        body[:] = out

    def fitted(self, value: Expr, start: int, out: list[Stmt]) -> Expr:
        if not self.forced and start + len(value.text()) <= WIDTH:
            return value
        return self.hoist(value, out, top=True)

    def hoist(self, expr: Expr, out: list[Stmt], *, top: bool) -> Expr:
        if not expr.loads or not expr.args:
            return expr
        if expr.is_load and not top and (not self.forced or expr.ordinal in self.forced):
            tensor = next(expr.vars())
            name = (tensor.name or tensor.hint).removesuffix("_desc")
            var = Var(f"{name}_tile" if expr.shape else f"{name}_value")
            out.append(Assign((var,), expr))
            self.named.append(expr.ordinal)
            return ref(var, expr.dtype, expr.shape)
        root = top and (expr.is_load or expr.template.startswith(("{0}.", "{0}[")))
        return retyped(expr, args=tuple(self.hoist(a, out, top=root) for a in expr.args))
