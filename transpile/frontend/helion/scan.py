"""Looking at syntax before running it: assigned names, suites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import libcst as cst

from transpile.frontend.syntax import children


def assigned_names(statements: Iterable[cst.CSTNode]) -> list[str]:
    """Names a block assigns, in order, nested blocks included, nested functions not."""
    found: dict[str, None] = {}

    def target(node: cst.CSTNode) -> None:
        if isinstance(node, cst.Name):
            found.setdefault(node.value)
        elif isinstance(node, (cst.Tuple, cst.List)):
            for element in node.elements:
                target(element.value)

    def visit(node: cst.CSTNode) -> None:
        if isinstance(node, (cst.FunctionDef, cst.Lambda, cst.ClassDef)):
            if isinstance(node, cst.FunctionDef):
                target(node.name)
            return
        if isinstance(node, cst.Assign):
            for one in node.targets:
                target(one.target)
        elif isinstance(node, (cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.For)):
            target(node.target)
        for child in children(node):
            visit(child)

    for statement in statements:
        visit(statement)
    return list(found)


def body_of(node: Any) -> Sequence[cst.CSTNode]:
    """The statements of a suite."""
    body = node.body if hasattr(node, "body") else node
    if isinstance(body, (cst.IndentedBlock, cst.SimpleStatementSuite)):
        body = body.body
    return list(body)
