"""Tokens of MSL source, with places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | //[^\n]* | /\*.*?\*/ )
  | (?P<directive> ^[ \t]*\#(?:[^\n\\]|\\.|\\\n)* )
  | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
  | (?P<number> \.?\d(?:[eEpP][+-]|[\w.'])* )
  | (?P<name> [A-Za-z_]\w* )
  | (?P<mark> \[\[ | \]\] | :: | -> | << | \+\+ | -- | && | \|\|
      | [=!<>+*/%&|^-]= | [-+*/%&|^~!<>=?:;,.(){}\[\]@\\] )
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">", "[[": "]]"}


class MslSyntaxError(SyntaxError):
    """The text cannot be read. ``lineno`` is set."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.lineno = line


@dataclass(frozen=True, slots=True)
class Token:
    """A name, number, string or mark; ``start`` and ``end`` are offsets into the source."""

    kind: str
    text: str
    start: int
    line: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def tokens(source: str) -> list[Token]:
    """All tokens but blanks, comments and preprocessor lines. Raises MslSyntaxError."""
    found, at, line = [], 0, 1
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise MslSyntaxError(f"cannot read {source[at : at + 20]!r}", line)
        text, kind = match.group(), match.lastgroup or ""
        if kind not in ("blank", "directive"):
            found.append(Token(kind, text, at, line))
        line += text.count("\n")
        at = match.end()
    return found


def closing(found: Sequence[Token], at: int) -> int:
    """The index of the bracket that closes the one at ``at``. ``]]`` also closes two ``[``."""
    opening, depth = found[at].text, 0
    close = _CLOSING[opening]
    for index in range(at, len(found)):
        text = found[index].text
        if text == opening or (opening == "[" and text == "[["):
            depth += len(text)  # "[[" may be two subscripts
        elif text == close or (opening == "[" and text == "]]"):
            depth -= len(text)
            if depth <= 0:
                return index
    raise MslSyntaxError(f"`{opening}` is never closed", found[at].line)


def split(found: Sequence[Token], separator: str = ",") -> Iterator[Sequence[Token]]:
    """Parts between the separators that stand outside of all brackets."""
    start, depth = 0, 0
    for index, token in enumerate(found):
        if token.text in _CLOSING:
            depth += len(token.text) if token.text == "[[" else 1
        elif token.text in _CLOSING.values():
            depth -= len(token.text) if token.text == "]]" else 1
        elif token.text == separator and depth == 0:
            yield found[start:index]
            start = index + 1
    if start < len(found):
        yield found[start:]
