"""Traversal of thread IR, generic over the nodes of ``ir.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from transpile.ir.sizes import Size
from transpile.thread import ir
from transpile.thread.ir import Body, Expr, Extent, Kernel, Stmt, Var

_EXPR_FIELDS: dict[type[Any], tuple[str, ...]] = {}


def _names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _EXPR_FIELDS:
        _EXPR_FIELDS[kind] = tuple(f.name for f in dataclasses.fields(kind) if f.name != "span")
    return _EXPR_FIELDS[kind]


def children(expr: Expr) -> Iterator[Expr]:
    """The expressions directly in an expression; an element's array is one."""
    if not isinstance(expr, Var):
        for name in _names(type(expr)):
            yield from _expressions(getattr(expr, name))


def nodes(expr: Expr) -> Iterator[Expr]:
    """The expression and all in it."""
    yield expr
    for child in children(expr):
        yield from nodes(child)


def expressions(stmt: Stmt) -> Iterator[Expr]:
    """The expressions directly in a statement, targets and declared variables among them."""
    for name in _names(type(stmt)):
        yield from _expressions(getattr(stmt, name))


def bodies(stmt: Stmt) -> tuple[Body, ...]:
    """The statement's own bodies, in order."""
    match stmt:
        case ir.LaneLoop() | ir.For():
            return (stmt.body,)
        case ir.If():
            return (stmt.then, stmt.orelse)
        case ir.While():
            return (stmt.before, stmt.body)
    return ()


def walk(body: Body) -> Iterator[Stmt]:
    """All statements, one before those of its bodies."""
    for stmt in body:
        yield stmt
        for inner in bodies(stmt):
            yield from walk(inner)


def all_nodes(body: Body) -> Iterator[Expr]:
    """All expressions of all statements."""
    for stmt in walk(body):
        for expr in expressions(stmt):
            yield from nodes(expr)


def sizes_of(kernel: Kernel) -> tuple[Size, ...]:
    """The sizes that the kernel's code asks for, in order of appearance; numbers left out."""
    found = (e.size for e in all_nodes(kernel.body) if isinstance(e, Extent))
    return tuple(dict.fromkeys(s for s in found if not s.is_const))


def _expressions(item: Any) -> Iterator[Expr]:
    if isinstance(item, Expr):
        yield item
    elif isinstance(item, tuple):
        for part in item:
            yield from _expressions(part)
