"""Reading kernel files: from what stands on the command line to text that can be parsed.

Everything that keeps a file from being parsed at all is found here (KT000x, KT002x, KT0101,
KT0104), so that the parser only ever sees text that is Python and not absurdly nested.
"""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from transpile.ir.diagnostics import Diagnostic, KtError, error
from transpile.ir.ir import Span

MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel file: its path as given, its text, and the first 12 hex digits of its sha256."""

    path: str
    text: str
    digest: str

    @property
    def filename(self) -> str:
        return os.path.basename(self.path)

    @property
    def stem(self) -> str:
        return os.path.splitext(self.filename)[0]


def expand(patterns: Iterable[str]) -> list[str]:
    """Paths of the command line with glob patterns expanded, in order, each file once.

    A pattern's matches are sorted. Raises KtError KT0004 for patterns that match nothing.
    """
    paths: dict[str, str] = {}  # real path -> path as given
    unmatched = []
    for pattern in patterns:
        matches = [pattern]
        if glob.has_magic(pattern) and not os.path.lexists(pattern):
            matches = sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
            if not matches:
                unmatched.append(Diagnostic("KT0004", f"`{pattern}` matches no file"))
        for path in matches:
            paths.setdefault(os.path.realpath(path), path)
    if unmatched:
        raise KtError(*unmatched)
    return list(paths.values())


def check_names(paths: Iterable[str]) -> list[Diagnostic]:
    """KT0007 for each two files that would write the same output, KT0024 for odd names.

    Stems are compared without case, so that a build does not depend on the file system.
    """
    found = []
    seen: dict[str, str] = {}
    for path in paths:
        name = os.path.basename(path)
        stem = os.path.splitext(name)[0]
        if not name.isprintable() or not stem or any(c in "\"'\\" for c in name):
            shown = name.encode("unicode_escape").decode()
            found.append(
                Diagnostic(
                    "KT0024", f"`{shown}` cannot name a generated file", file=path,
                    why="the name stands in comments of the generated source",
                    remedy="use printable characters without quotes and backslashes",
                )
            )  # fmt: skip
        first = seen.setdefault(stem.casefold(), path)
        if first != path:
            found.append(
                Diagnostic(
                    "KT0007", f"`{path}` and `{first}` would write the same files", file=path,
                    remedy="build them into different directories with -o",
                )
            )  # fmt: skip
        if stem == "_kt":
            found.append(
                Diagnostic("KT0007", f"the output of `{path}` would replace the shim", file=path)
            )
    return found


def read(path: str) -> Source:
    """The file's text, known to be Python. Raises KtError (KT0001-3, KT002x, KT0101, KT0104)."""
    data = read_bytes(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        size = os.path.getsize(path)
        raise error(
            "KT0020", f"the file has {size} bytes; the limit is {MAX_BYTES}", Span(1, 1),
            why="kernel files are small; a larger one is most likely not meant",
            remedy="split it, or give the files that hold the kernels",
        )  # fmt: skip
    if b"\0" in data:
        raise error(
            "KT0022", "the file contains a null byte", _place(data, data.index(b"\0")),
            why="it is binary data, not Python source",
        )  # fmt: skip
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        message = f"byte 0x{data[exc.start]:02x} is not UTF-8"
        raise error(
            "KT0021", message, _place(data, exc.start), remedy="save the file as UTF-8"
        ) from None
    if not text.strip():
        raise error("KT0023", "the file is empty", Span(1, 1))
    _check_syntax(text)
    return Source(path, text, hashlib.sha256(data).hexdigest()[:12])


def read_bytes(path: str, limit: int = -1) -> bytes:
    """The file's first ``limit`` bytes, with the operating system's refusals as KT0001-3."""
    try:
        with open(path, "rb") as stream:
            return stream.read(limit)
    except FileNotFoundError:
        raise error("KT0001", f"no such file: {path}") from None
    except IsADirectoryError:
        raise error(
            "KT0002", f"`{path}` is a directory", remedy=f"give the files: `{path}/*.py`"
        ) from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise error("KT0003", f"cannot read `{path}`: {reason}") from None


def _place(data: bytes, offset: int) -> Span:
    start = data.rfind(b"\n", 0, offset) + 1
    column = len(data[start:offset].decode("utf-8", "replace"))
    return Span(data.count(b"\n", 0, offset) + 1, column + 1)


_NESTING = ("too many nested", "too many levels of indentation", "too many statically nested")


def _check_syntax(text: str) -> None:
    """Let Python's own parser look first: its messages are the ones users know, and unlike
    libcst's native parser it refuses deep nesting instead of overflowing the stack."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" is the author's business
            compile(text, "source", "exec", flags=0x400 | 0x200, dont_inherit=True)  # AST only
    except SyntaxError as exc:
        span = _syntax_span(exc)
        message = exc.msg or "invalid syntax"
        if message.startswith(_NESTING):
            raise _too_deep(span) from None
        raise error("KT0101", f"syntax error: {message}", span) from None
    except (RecursionError, MemoryError):
        raise _too_deep(Span(1, 1)) from None
    except ValueError as exc:  # lone surrogates, integers of too many digits
        raise error("KT0101", f"syntax error: {exc}", Span(1, 1)) from None


def _too_deep(span: Span) -> KtError:
    return error(
        "KT0104", "the source is nested too deeply", span, remedy="split the expression or block"
    )


def _syntax_span(exc: SyntaxError) -> Span:
    line, col = exc.lineno or 1, max(exc.offset or 1, 1)
    end_line, end_col = exc.end_lineno or line, exc.end_offset or 0
    if end_line < line or (end_line == line and end_col <= col):
        return Span(line, col)
    return Span(line, col, end_line, end_col)
