"""Source text of the host program: verbatim, with helion calls replaced.

Replacement works on source spans, so comments and formatting survive.
"""

from __future__ import annotations

import textwrap

import libcst as cst

from transpile.frontend.source import ParsedSource
from transpile.ir.ir import Span


class HostText:
    """Cuts statements out of the source, applying recorded replacements."""

    def __init__(self, source: ParsedSource) -> None:
        self.source = source
        self.lines = source.source.text.splitlines(keepends=True)
        self.replacements: dict[Span, str] = {}
        self.dropped: set[Span] = set()

    def replace(self, node: cst.CSTNode, text: str) -> None:
        span = self.source.span(node)
        if span is not None:
            self.replacements[span] = text

    def drop(self, node: cst.CSTNode) -> None:
        """Leave this statement out."""
        span = self.source.span(node)
        if span is not None:
            self.dropped.add(span)

    def text(self, node: cst.CSTNode, after_line: int) -> str:
        """The statement's text with the comment lines above it, dedented.

        ``after_line`` is the last line of the statement before; only lines below it are taken.
        """
        span = self.source.span(node)
        assert span is not None
        if span in self.dropped:
            return ""
        first = span.line
        while first - 1 > after_line and self._is_comment(first - 1):
            first -= 1
        body = self._cut(span)
        lead = "".join(self.lines[first - 1 : span.line - 1])
        indent = " " * (span.col - 1)
        tail = self._trailing_comment(span)
        return textwrap.dedent(lead + indent + body + tail).rstrip()

    def _is_comment(self, line: int) -> bool:
        return self.lines[line - 1].lstrip().startswith("#")

    def _trailing_comment(self, span: Span) -> str:
        rest = self.lines[span.end_line - 1][span.end_col - 1 :].rstrip("\n")
        return rest if rest.lstrip().startswith("#") and "type: ignore" not in rest else ""

    def _cut(self, span: Span) -> str:
        """The span's text with the outermost replacements inside it applied."""
        inner = sorted(
            (s for s in self.replacements if _inside(s, span)), key=lambda s: (s.line, s.col)
        )
        out: list[str] = []
        line, col = span.line, span.col
        for one in inner:
            if (one.line, one.col) < (line, col):
                continue  # inside a replacement already applied
            out.append(self._between(line, col, one.line, one.col))
            out.append(self.replacements[one])
            line, col = one.end_line, one.end_col
        out.append(self._between(line, col, span.end_line, span.end_col))
        return "".join(out)

    def _between(self, line: int, col: int, end_line: int, end_col: int) -> str:
        if line == end_line:
            return self.lines[line - 1][col - 1 : end_col - 1]
        parts = [self.lines[line - 1][col - 1 :]]
        parts += self.lines[line : end_line - 1]
        parts.append(self.lines[end_line - 1][: end_col - 1])
        return "".join(parts)

    def code(self, node: cst.CSTNode) -> str:
        """An expression's text with replacements applied."""
        span = self.source.span(node)
        return self.source.code(node) if span is None else self._cut(span)


def _inside(inner: Span, outer: Span) -> bool:
    return (outer.line, outer.col) <= (inner.line, inner.col) and (
        inner.end_line,
        inner.end_col,
    ) <= (outer.end_line, outer.end_col)
