"""A kernel file: parsed with libcst, never imported."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from transpile.ir.diagnostics import error
from transpile.ir.ir import Span


@dataclass(frozen=True)
class SourceFile:
    """Path as the user gave it, text, and the first 12 hex digits of the bytes' SHA-256."""

    path: str
    text: str
    digest: str

    @staticmethod
    def of(path: str, data: bytes) -> SourceFile:
        """From the file's bytes; UnicodeDecodeError if they are not UTF-8."""
        return SourceFile(path, data.decode("utf-8-sig"), hashlib.sha256(data).hexdigest()[:12])


class ParsedSource:
    """The syntax tree with positions.

    Positions are computed for one top-level statement at a time, on first use: a file is mostly
    code around its kernels, and libcst's position pass costs more than its parser.
    """

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        try:
            self.tree = cst.parse_module(source.text)
        except cst.ParserSyntaxError as exc:
            raise error(
                "KT0101",
                "the file is not valid Python",
                Span(exc.raw_line, exc.raw_column + 1),
                why=re.sub(r"^parser error: error at \d+:\d+: ", "", exc.message.split("\n", 1)[0]),
                remedy="correct the syntax error",
            ) from None
        except RecursionError:
            raise error(
                "KT0104",
                "the file nests too deeply to be parsed",
                remedy="split the expression",
            ) from None
        self._starts: dict[int, int] | None = None
        self.definitions: Any = None  # the dialect's cache of module-level definitions
        self._positions: dict[int, Span] = {}
        self._located: set[int] = set()
        self._owner: dict[int, cst.CSTNode] = {}

    @property
    def statements(self) -> Iterator[cst.CSTNode]:
        """Top-level statements, those under top-level ``if``/``try``/``with`` included."""
        yield from _flatten(self.tree.body)

    def code(self, node: cst.CSTNode) -> str:
        """Source text of a node."""
        return self.tree.code_for_node(node)

    def locate(self, statement: cst.CSTNode) -> None:
        """Make the nodes of a top-level statement known to :meth:`span`."""
        if id(statement) in self._located:
            return
        self._located.add(id(statement))
        start = self._start_line(statement)
        wrapper = MetadataWrapper(
            cst.Module(body=[statement]),  # type: ignore[list-item]
            unsafe_skip_copy=True,
        )
        for node, where in wrapper.resolve(PositionProvider).items():
            self._positions[id(node)] = _span(where, start)
        self._owner[id(statement)] = statement  # keeps ids valid

    def span(self, node: cst.CSTNode) -> Span | None:
        """Where ``node`` stands; None for nodes never located."""
        return self._positions.get(id(node))

    def _start_line(self, statement: cst.CSTNode) -> int:
        if self._starts is None:
            self._starts = {}
            line = len(self.tree.header)
            for top in self.tree.body:
                self._starts[id(top)] = line
                line += self.tree.code_for_node(top).count("\n")
        if id(statement) in self._starts:
            return self._starts[id(statement)]
        for top in self.tree.body:  # inside a top-level compound statement
            if any(child is statement for child in _flatten([top])):
                self.locate(top)
                self._located.add(id(statement))
                return self._starts[id(top)]
        return 0


def _flatten(body: object) -> Iterator[cst.CSTNode]:
    for statement in body:  # type: ignore[attr-defined]
        yield statement
        for attr in ("body", "orelse", "finalbody"):
            inner = getattr(statement, attr, None)
            if isinstance(statement, (cst.If, cst.Try, cst.With, cst.Else)) and inner is not None:
                nested = inner.body if isinstance(inner, (cst.IndentedBlock, cst.Else)) else None
                if isinstance(nested, cst.IndentedBlock):
                    nested = nested.body
                if nested:
                    yield from _flatten(nested)


def _span(where: CodeRange, start: int) -> Span:
    return Span(
        start + where.start.line,
        where.start.column + 1,
        start + where.end.line,
        where.end.column + 1,
    )
