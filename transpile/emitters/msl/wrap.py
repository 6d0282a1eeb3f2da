"""Statements of C++ as lines of at most 100 columns."""

from __future__ import annotations

import re

WIDTH = 100
_ARGUMENTS = re.compile(r"\b(?:Pack|vec|simdgroup_matrix)<[^<>]*>")
#: where to break, the outermost operators first
_BREAKS = {
    symbol: rank
    for rank, group in enumerate(
        (
            (" ? ", " : "), (" || ",), (" && ",), (" | ", " ^ ", " & "),
            (" == ", " != ", " < ", " > ", " <= ", " >= "), (" << ", " >> "), (" + ", " - "),
            (" * ", " / ", " % "),
        ),
        1,
    )
    for symbol in group
}  # fmt: skip


def wrap(text: str, indent: int) -> list[str]:
    """The statement, broken at the outermost commas and operators where it is too long."""
    lines: list[str] = []
    pad = indent
    rest = text
    while pad + len(rest) > WIDTH:
        at = _break(rest, WIDTH - pad, WIDTH - indent - 4)
        if at is None:
            break
        lines.append(" " * pad + rest[:at].rstrip())
        rest = rest[at:].lstrip()
        pad = indent + 4
    return [*lines, " " * pad + rest]


def _break(text: str, room: int, next_room: int) -> int | None:
    """Where to break: after the ``=`` if the value then fits in a line, else at the least depth of
    brackets, rather at a comma than at an operator, as far right as there is room."""
    best: tuple[int, int, int] | None = None
    depth = 0
    arguments = [m.span() for m in _ARGUMENTS.finditer(text)]
    for i, c in enumerate(text[: room + 1]):
        if any(start < i < end for start, end in arguments):
            continue
        depth += (c in "([{") - (c in ")]}")
        if depth == 0 and text.startswith(" = ", i) and len(text) - i - 3 <= next_room:
            return i + 2
        kind: int | None = None
        if c == "," and i < room:
            place, kind = i + 1, 0
        elif c == " ":
            place, kind = i, next((r for b, r in _BREAKS.items() if text.startswith(b, i)), None)
        if kind is not None and place > 12 and (best is None or (depth, kind) <= best[:2]):
            best = depth, kind, place
    return best[2] if best is not None else None
