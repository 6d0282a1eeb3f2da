"""Diagnostics: what kt says about a source it cannot take, and how that is printed.

Every diagnostic has a code of :data:`~transpile.ir.codes.CODES`. A stage reports one problem by
raising (``raise error("KT0402", ...)``) and several by raising one :class:`KtError` of them all;
``build`` collects what all stages found, so that a user sees all of a file's problems in one run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from transpile.ir.codes import CODES, CodeInfo, markdown
from transpile.ir.ir import Span

__all__ = [
    "CODES", "CodeInfo", "Diagnostic", "KtError", "Severity", "error", "in_file", "note", "render",
    "sort_key",
]  # fmt: skip

Severity = Literal["error", "note"]

_MAX_COLUMNS = 120  # a longer source line is shown as a window around the caret


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``why`` says what rule stands behind it, ``remedy`` what to do about it.

    ``file`` is the path as the user gave it, filled in by ``build`` for source files. ``line_text``
    is the text that ``span`` points into where that is no line of the file (a ``--arg`` value).
    """

    code: str
    message: str
    span: Span | None = None
    why: str = ""
    remedy: str = ""
    file: str = ""
    severity: Severity = "error"
    line_text: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, f"diagnostic code {self.code} is not in transpile/ir/codes.py"

    @property
    def location(self) -> str:
        """``file:line:col``, as far as known."""
        if self.span is None:
            return self.file
        return f"{self.file or '<source>'}:{self.span.line}:{self.span.col}"

    def to_json(self) -> dict[str, object]:
        """The machine-readable form of ``--json``."""
        span = self.span
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "file": self.file,
            "line": span.line if span else None,
            "col": span.col if span else None,
            "why": self.why,
            "help": self.remedy,
        }


class KtError(Exception):
    """The source (or the command line) is wrong; carries at least one diagnostic."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        assert diagnostics, "KtError without a diagnostic"
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in diagnostics))
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics


def error(
    code: str, message: str, span: Span | None = None, *, why: str = "", remedy: str = ""
) -> KtError:
    """A :class:`KtError` of one diagnostic: ``raise error("KT0402", ...)``."""
    return KtError(Diagnostic(code, message, span, why=why, remedy=remedy))


def note(
    code: str, message: str, span: Span | None = None, *, why: str = "", remedy: str = ""
) -> Diagnostic:
    """A diagnostic that does not fail the build (an assumption that was made)."""
    return Diagnostic(code, message, span, why=why, remedy=remedy, severity="note")


def in_file(diagnostics: Iterable[Diagnostic], file: str) -> list[Diagnostic]:
    """The diagnostics with ``file`` filled in where they name none."""
    return [d if d.file else replace(d, file=file) for d in diagnostics]


def sort_key(diag: Diagnostic) -> tuple[str, int, int, str, str]:
    """Order of printing: by place, then code."""
    line, col = (diag.span.line, diag.span.col) if diag.span else (0, 0)
    return (diag.file, line, col, diag.code, diag.message)


def render(diag: Diagnostic, source_text: str = "") -> str:
    """The printed form, without a final newline::

    kernel.py:4:9: error KT0402: `torch.foo` is not supported in device code
        y = torch.foo(x)
            ^^^^^^^^^
      why: ...
      help: ...
    """
    place = diag.location
    lines = [f"{_printable(place)}: " if place else ""]
    lines[0] += f"{diag.severity} {diag.code}: {_printable(diag.message)}"
    if diag.span is not None:
        lines += _snippet(diag.span, diag.line_text or _line_of(source_text, diag.span.line))
    if diag.why:
        lines.append(f"  why: {_printable(diag.why)}")
    if diag.remedy:
        lines.append(f"  help: {_printable(diag.remedy)}")
    return "\n".join(lines)


def _line_of(source_text: str, number: int) -> str:
    # Python's own line ends only: str.splitlines also splits at form feeds and U+2028
    lines = source_text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[number - 1] if 0 < number <= len(lines) else ""


def _snippet(span: Span, line: str) -> list[str]:
    """The source line and a caret line, cut to a window where the line is long."""
    if not line.strip():
        return []
    start = min(max(span.col - 1, 0), len(line))
    same_line = span.end_line in (0, span.line)
    end = span.end_col - 1 if same_line and span.end_col > span.col else 0
    if not same_line:
        end = len(line.rstrip())
    end = min(max(end, start + 1), max(len(line), start + 1))

    left = 0
    if len(line) > _MAX_COLUMNS:
        left = max(0, start - _MAX_COLUMNS // 3)
    else:
        left = len(line) - len(line.lstrip())
        left = min(left, start)
    shown = line[left : left + _MAX_COLUMNS].rstrip()
    prefix = "..." if left and len(line) > _MAX_COLUMNS else ""
    suffix = "..." if len(line.rstrip()) > left + _MAX_COLUMNS else ""
    pad = "".join("\t" if c == "\t" else " " for c in prefix + line[left:start])
    width = max(1, min(end, left + _MAX_COLUMNS) - start)
    return [f"    {prefix}{_printable(shown)}{suffix}", f"    {pad}{'^' * width}"]


def _printable(text: str) -> str:
    """The text with control characters (terminal escapes among them) made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


if __name__ == "__main__":
    sys.stdout.write(markdown())
