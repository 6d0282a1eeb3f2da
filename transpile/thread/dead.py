"""Takes away what computes values that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator

from transpile.thread.ir import Assign, Body, Element, Expr, For, If, LaneLoop, Let, Stmt, Var
from transpile.thread.walk import bodies, expressions, nodes, walk


def remove_dead(body: Body) -> None:
    """Drop declarations of and assignments to variables that nothing else reads, and the loops and
    branches that are empty then. Expressions have no effects, so nothing is lost with them."""
    while True:
        read = {e for stmt in walk(body) for e in _read(stmt)}
        if not _drop(body, read):
            return


def _read(stmt: Stmt) -> Iterator[Var]:
    """Variables whose value the statement needs, not those it only sets."""
    match stmt:
        case Let(value=value):
            found: Iterator[Expr] = iter(()) if value is None else nodes(value)
        case Assign(target=Element(index=index), value=value):
            found = (e for part in (*index, value) for e in nodes(part))
        case Assign(value=value):
            found = nodes(value)
        case _:
            found = (e for part in expressions(stmt) for e in nodes(part))
    yield from (e for e in found if isinstance(e, Var))


def _drop(body: Body, read: set[Var]) -> bool:
    """Drop what is dead in a body; True if something was."""
    before = len(body)
    changed = False
    for stmt in body:
        for inner in bodies(stmt):
            changed |= _drop(inner, read)
    body[:] = [stmt for stmt in body if not _is_dead(stmt, read)]
    return changed or len(body) < before


def _is_dead(stmt: Stmt, read: set[Var]) -> bool:
    match stmt:
        case Let(var=var):
            return var not in read
        case Assign(target=target):
            return (target.array if isinstance(target, Element) else target) not in read
        case LaneLoop(body=inner) | For(body=inner):
            return not inner
        case If(then=then, orelse=orelse):
            return not then and not orelse
    return False
