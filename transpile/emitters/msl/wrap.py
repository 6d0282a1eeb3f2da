"""Statements of C++ as lines of at most 100 columns."""

from __future__ import annotations

WIDTH = 100
_BREAKS = (" && ", " || ", " ? ", " : ", " + ", " - ", " * ", " / ", " % ", " == ", " != ", " < ",
           " > ", " <= ", " >= ", " & ", " | ", " ^ ", " << ", " >> ")  # fmt: skip


def wrap(text: str, indent: int) -> list[str]:
    """The statement, broken at the outermost operators and commas where it is too long."""
    lines: list[str] = []
    pad = indent
    rest = text
    while pad + len(rest) > WIDTH:
        at = _break(rest, WIDTH - pad)
        if at is None:
            break
        lines.append(" " * pad + rest[:at].rstrip())
        rest = rest[at:].lstrip()
        pad = indent + 4
    return [*lines, " " * pad + rest]


def _break(text: str, room: int) -> int | None:
    """Where to break: at the least depth of brackets, as far right as there is room."""
    best: tuple[int, int] | None = None
    depth = 0
    for i, c in enumerate(text[:room]):
        depth += (c in "([{") - (c in ")]}")
        place = None
        if c == "," or text.startswith(" = ", i - 2):
            place = i + 1
        elif c == " " and any(text.startswith(b, i) for b in _BREAKS):
            place = i
        if place is not None and 12 < place <= room and (best is None or depth <= best[0]):
            best = depth, place
    return best[1] if best is not None else None
