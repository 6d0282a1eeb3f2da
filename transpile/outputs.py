"""Writing what was built: all files or none, each atomically; and comparing with what is there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping

from transpile.ir.diagnostics import Diagnostic, error


def write_all(directory: str, files: Mapping[str, str]) -> list[str]:
    """Write ``files`` (name -> text) into ``directory``; returns the paths.

    Everything is written under temporary names first and renamed only when all of it is on disk,
    so that a failure or a kill leaves the old files whole. Raises KtError KT0008.
    """
    temporary: dict[str, str] = {}  # path -> its temporary name
    try:
        os.makedirs(directory, exist_ok=True)
        for name, text in files.items():
            path = _inside(directory, name)
            if os.path.isdir(path):
                raise error("KT0008", f"cannot write `{path}`: it is a directory")
            temporary[path] = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
            _write(temporary[path], text.encode())
        for path in list(temporary):
            os.replace(temporary[path], path)
            del temporary[path]
    except OSError as exc:
        place = exc.filename2 or exc.filename or directory
        raise error("KT0008", f"cannot write `{place}`: {exc.strerror}") from None
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                os.unlink(leftover)
    return [os.path.join(directory, name) for name in files]


def write_file(path: str, text: str) -> None:
    """Write one file atomically. Raises KtError KT0008."""
    directory, name = os.path.split(path)
    write_all(directory or ".", {name: text})


def _inside(directory: str, name: str) -> str:
    assert name and name == os.path.basename(name) and name not in (".", ".."), name
    return os.path.join(directory, name)


def _write(path: str, data: bytes) -> None:
    # not tempfile: its files are private to the user, generated sources are not
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb") as stream:
        stream.write(data)


def replaced_inputs(
    directory: str, names: Iterable[str], inputs: Iterable[str]
) -> list[Diagnostic]:
    """KT0007 for each output that would replace one of the input files."""
    real = {os.path.realpath(path): path for path in inputs}
    return [
        Diagnostic("KT0007", f"the output `{path}` would replace an input file", file=real[found])
        for path in (os.path.join(directory, name) for name in names)
        if (found := os.path.realpath(path)) in real
    ]


def differences(directory: str, files: Mapping[str, str]) -> dict[str, str]:
    """Unified diffs, by path, from what is in ``directory`` to ``files``; only where they differ.

    Raises KtError KT0003 for a file that is there but cannot be read.
    """
    found = {}
    for name, text in files.items():
        path = os.path.join(directory, name)
        old = _existing(path)
        if old != text.encode():
            found[path] = _diff(path, old, text)
    return found


def _existing(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise error("KT0003", f"cannot read `{path}`: {exc.strerror}") from None


def _diff(path: str, old: bytes | None, new: str) -> str:
    import difflib  # only where something differs

    before = [] if old is None else old.decode("utf-8", "replace").splitlines(keepends=True)
    lines = difflib.unified_diff(
        before,
        new.splitlines(keepends=True),
        "/dev/null" if old is None else path,
        f"{path} (as built)",
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def depfile(outputs: Iterable[str], inputs: Iterable[str]) -> str:
    """A Make and Ninja dependency file: one rule, all outputs on all inputs."""
    targets = " ".join(_make_escape(path) for path in outputs)
    sources = "".join(f" \\\n  {_make_escape(path)}" for path in inputs)
    return f"{targets}:{sources}\n"


def _make_escape(path: str) -> str:
    escaped = path.replace("$", "$$")
    for char in " #":
        escaped = escaped.replace(char, f"\\{char}")
    return escaped
