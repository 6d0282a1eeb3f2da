"""Comments of generated Metal code: what the source says where a reader needs it."""

from __future__ import annotations

from transpile.ir import ir

_WIDTH = 90


def ascii_text(text: str) -> str:
    """The text in ASCII on one line, as a comment that ends where the line does."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return plain.replace("\n", " ").rstrip().rstrip("\\")


def worth_saying(text: str, kernel: ir.Kernel) -> dict[int, str]:
    """For lines of the source that begin a statement: that statement, on one line, without its
    own comment. A comment of the source above it comes in its place."""
    lines = text.split("\n")
    found: dict[int, str] = {}
    number = 1
    while number <= len(lines):
        statement, last = _statement(lines, number)
        if statement:
            found[number] = ascii_text(statement)
        number = last + 1
    for line, said in kernel.comments.items():
        found[line] = "\n".join(ascii_text(part.lstrip("# ")) for part in said.split("\n"))
    return found


def _statement(lines: list[str], first: int) -> tuple[str, int]:
    """The statement that begins in a line, joined and cut to fit, and its last line."""
    depth, parts, number = 0, [], first
    while number <= len(lines):
        line = _without_comment(lines[number - 1]).strip()
        parts.append(line)
        depth += sum(c in "([{" for c in line) - sum(c in ")]}" for c in line)
        if depth <= 0 and not line.endswith("\\"):
            break
        number += 1
    joined = " ".join(p.rstrip("\\").strip() for p in parts if p)
    for spaced, tight in (("( ", "("), (" )", ")"), ("[ ", "["), (" ]", "]"), (",)", ")")):
        joined = joined.replace(spaced, tight)
    if len(joined) > _WIDTH:
        joined = joined[: _WIDTH - 4].rstrip() + " ..."
    return joined, number


def _without_comment(line: str) -> str:
    quote = ""
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c == "#":
            return line[:i]
    return line
