"""Out of single assignment: a source variable that is given new values stays one variable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transpile.thread.ir import (
    Assign,
    Body,
    Expr,
    LaneLoop,
    Let,
    Load,
    SharedLoad,
    Stmt,
    Var,
)
from transpile.thread.walk import bodies, expressions, nodes


def reuse_variables(body: Body) -> None:
    """Assign to the variable of the same source name instead of declaring another, where nothing
    reads the old value later. Only floats: what memory is addressed by keeps its value."""
    for stmt in body:
        for inner in bodies(stmt):
            if not (isinstance(stmt, LaneLoop) and _is_arithmetic(inner)):
                reuse_variables(inner)
    at = 0
    while at < len(body):
        stmt = body[at]
        if isinstance(stmt, Let) and _may_be_reused(stmt.var):
            old = _replaced(body, at, stmt.var)
            if old is not None:
                at = _merge(body, at, stmt, old)
                continue
        at += 1


def _is_arithmetic(body: Body) -> bool:
    """Whether a lane loop only computes: a target may write it as operations on vectors, for which
    values have to stay values."""
    return all(
        isinstance(stmt, Let | Assign)
        and not any(isinstance(n, Load | SharedLoad) for e in expressions(stmt) for n in nodes(e))
        for stmt in body
    )


def _may_be_reused(var: Var) -> bool:
    return var.of_source and var.dtype.is_float and var.fragment is None


def _replaced(body: Body, at: int, new: Var) -> Var | None:
    """The last variable like the new one that is declared before it and not read after."""
    for stmt in reversed(body[:at]):
        if isinstance(stmt, Let) and _alike(stmt.var, new):
            used = any(_uses(later, stmt.var) for later in body[at + 1 :])
            return None if used or new.shape or new.components > 1 else stmt.var
    return None


def _alike(a: Var, b: Var) -> bool:
    shape = (a.name, a.dtype, a.shape, a.components)
    return a.of_source and shape == (b.name, b.dtype, b.shape, b.components)


def _uses(stmt: Stmt, var: Var) -> bool:
    own = any(node is var for expr in expressions(stmt) for node in nodes(expr))
    return own or any(_uses(s, var) for part in bodies(stmt) for s in part)


def _merge(body: Body, at: int, let: Let, old: Var) -> int:
    """Replaces the declaration and the new variable; where to go on."""
    if let.value is None:
        del body[at]
    else:
        body[at] = Assign(old, let.value, span=let.span)
    for stmt in body[at:]:
        substitute(stmt, {let.var: old})
    return at


# -- substitution --------------------------------------------------------------------------------


def substitute(stmt: Stmt, variables: Mapping[Var, Var]) -> None:
    """Replace variables in a statement and its bodies."""
    for field in dataclasses.fields(stmt):
        value = getattr(stmt, field.name)
        if isinstance(value, list):
            for inner in value:
                substitute(inner, variables)
        elif (new := _substituted(value, variables)) is not value:
            setattr(stmt, field.name, new)


def _substituted(item: Any, variables: Mapping[Var, Var]) -> Any:
    if isinstance(item, Var):
        return variables.get(item, item)
    if isinstance(item, tuple):
        parts = tuple(_substituted(part, variables) for part in item)
        return item if all(a is b for a, b in zip(parts, item, strict=True)) else parts
    if isinstance(item, Expr) and not isinstance(item, Var):
        return _rebuilt(item, variables)
    return item


def _rebuilt(expr: Expr, variables: Mapping[Var, Var]) -> Expr:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(expr):  # type: ignore[arg-type]
        old = getattr(expr, field.name)
        new = _substituted(old, variables)
        if new is not old:
            changes[field.name] = new
    return dataclasses.replace(expr, **changes) if changes else expr  # type: ignore[type-var]
