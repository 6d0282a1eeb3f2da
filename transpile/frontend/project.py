"""The project file: signatures, references and shapes per kernel, from kt.toml or pyproject.toml.

Tables are named ``[tool.kt.kernels.NAME]``; in kt.toml also shorter, ``[kernels.NAME]``::

    [kernels.matmul]
    signatures = [{ x = "f16[M,K]", y = "f16[K,N]" }, { x = "f32[M,K]", y = "f32[K,N]" }]
    reference = "matmul.py:reference"        # FILE:FUNCTION, FILE relative to the project file
    shapes = [{ M = 64, K = 32, N = 48 }]    # what `kt verify` runs
    values = { labels = "0:V", eps = 1e-5 }  # what it fills parameters with
    config = { num_warps = 8 }               # keys as in helion.Config
    set = { causal = true }                  # compile-time values
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from transpile.frontend.signatures import (
    Literal,
    LiteralSpec,
    Name,
    Spec,
    check_dispatch,
    parse_literal,
    parse_spec,
)
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.ir.ir import Span

Bound = int | float | str  # a str is the name of a dimension


@dataclass(frozen=True, slots=True)
class Range:
    """Values drawn uniformly from ``[low, high)``: written ``"low:high"``."""

    low: Bound
    high: Bound


ValueSpec = Range | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Reference:
    """The torch function that defines a kernel's result; ``file`` is an absolute path."""

    file: str
    function: str


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """What a project file says of one kernel."""

    signatures: tuple[dict[str, Spec], ...] = ()
    reference: Reference | None = None
    shapes: tuple[dict[str, int], ...] = ()
    values: dict[str, ValueSpec] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    sets: dict[str, Literal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """A project file; ``path`` is None where a source file has none above it.

    A kernel's settings are read and checked when they are asked for: a mistake in them concerns
    no other kernel, and a build of one file does not pay for all.
    """

    path: str | None = None
    kernels: Mapping[str, KernelSettings] = field(default_factory=dict)

    def kernel(self, name: str) -> KernelSettings:
        """The settings of a kernel, empty ones if the file has none. Raises KtError with all that
        is wrong with them (KT003x, KT02xx)."""
        return self.kernels.get(name, _NO_SETTINGS)


_NO_SETTINGS = KernelSettings()


def find_project(path: str | os.PathLike[str]) -> ProjectConfig:
    """The nearest project file above the source file ``path``.

    In one directory kt.toml wins; a pyproject.toml without ``[tool.kt]`` does not count. Raises
    KtError for a file that cannot be read (KT0030) or whose tables are wrong.
    """
    directory = os.path.dirname(os.path.abspath(path))
    while True:
        for name in ("kt.toml", "pyproject.toml"):
            file = os.path.join(directory, name)
            if (text := _read(file)) is not None and (name == "kt.toml" or "tool.kt" in text):
                return parse_project(text, file)
        parent = os.path.dirname(directory)
        if parent == directory:
            return ProjectConfig()
        directory = parent


def _read(file: str) -> str | None:
    try:
        with open(file, encoding="utf-8") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as exc:
        reason = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else exc.strerror
        raise KtError(
            Diagnostic("KT0030", f"cannot read the project file: {reason}", file=_shown(file))
        ) from None


def parse_project(text: str, file: str) -> ProjectConfig:
    """The project configuration in ``text``, the contents of ``file``."""
    import tomllib  # only where there is a project file

    try:
        table: Any = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise KtError(_malformed(str(exc) or "nested too deeply", text, file)) from None
    if "tool" in table or os.path.basename(file) == "pyproject.toml":
        table = table.get("tool", {}).get("kt", {})
    return ProjectConfig(file, _Kernels(text, file, _kernel_tables(table, text, file)))


def _kernel_tables(table: object, text: str, file: str) -> dict[str, object]:
    reader = _Reader(text, file)
    kernels: object = {}
    if not isinstance(table, dict):
        reader.report("KT0032", "kt's settings are a table", "kt")
    else:
        for key in table:
            if key != "kernels":
                reader.report("KT0031", f"unknown key `{key}`", key, "kt reads `kernels.NAME`")
        kernels = table.get("kernels", {})
    if not isinstance(kernels, dict):
        reader.report("KT0032", "`kernels` is a table with one table per kernel", "kernels")
    if reader.found:
        raise KtError(*reader.found)
    assert isinstance(kernels, dict)
    return kernels


class _Kernels(Mapping[str, KernelSettings]):
    """Settings by kernel name, each read on first use."""

    def __init__(self, text: str, file: str, tables: dict[str, object]) -> None:
        self._text, self._file, self._tables = text, file, tables
        self._read: dict[str, KernelSettings] = {}

    def __getitem__(self, name: str) -> KernelSettings:
        if name not in self._read:
            reader = _Reader(self._text, self._file, name)
            settings = reader.kernel(self._tables[name])
            if reader.found:
                raise KtError(*reader.found)
            self._read[name] = settings
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def _malformed(message: str, text: str, file: str) -> Diagnostic:
    place = re.search(r"\s*\(at line (\d+), column (\d+)\)", message)
    if place is not None:
        span = Span(int(place[1]), int(place[2]))
        message = message.replace(place[0], "")
    else:
        span = Span(text.count("\n") + 1, 1)
        message = message.replace(" (at end of document)", " at the end of the file")
    lines = text.split("\n")
    line = lines[span.line - 1] if span.line <= len(lines) else ""
    return Diagnostic("KT0030", message, span, file=_shown(file), line_text=line)


def _shown(file: str) -> str:
    """The path as a diagnostic names it: relative to the working directory where it is below."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


class _Reader:
    """Checks one kernel's part of a project file, collecting diagnostics in ``found``."""

    def __init__(self, text: str, file: str, name: str = "") -> None:
        self.text = text
        self.file = file
        self.name = name
        self.found: list[Diagnostic] = []

    # -- reporting ---------------------------------------------------------------------------

    @cached_property
    def _section(self) -> int:
        """Offset of the kernel's section in the text."""
        name = re.escape(self.name)
        header = re.search(rf"\bkernels\.[\"']?{name}[\"']?\s*[\]=.]", self.text)
        return header.start() if header and self.name else 0

    def report(self, code: str, message: str, needle: str, remedy: str = "") -> None:
        """A diagnostic at the key ``needle`` of the kernel's section, or where the word stands."""
        key = re.compile(rf"(?<![\w.])[\"']?{re.escape(needle)}[\"']?\s*=")
        found = key.search(self.text, self._section)
        pos = found.start() if found else self.text.find(needle, self._section)
        pos = max(pos, self._section)
        span, line = self._place(pos)
        self.found.append(
            Diagnostic(code, message, span, "", remedy, file=_shown(self.file), line_text=line)
        )

    def _place(self, pos: int) -> tuple[Span, str]:
        start = self.text.rfind("\n", 0, pos) + 1
        end = self.text.find("\n", pos)
        line = self.text[start : end if end >= 0 else len(self.text)]
        return Span(self.text.count("\n", 0, pos) + 1, pos - start + 1), line

    def relocated(self, exc: KtError, text: str) -> None:
        """Diagnostics about ``text`` itself, moved to where it stands in the file."""
        for diag in exc.diagnostics:
            pos = self.text.find(text, self._section) if text else -1
            span, line = self._place(max(pos, self._section))
            if pos >= 0 and diag.span is not None:
                shift = span.col - 1
                span = Span(span.line, diag.span.col + shift, span.line, diag.span.end_col + shift)
            self.found.append(replace(diag, span=span, file=_shown(self.file), line_text=line))

    # -- reading -----------------------------------------------------------------------------

    def kernel(self, table: object) -> KernelSettings:
        if not isinstance(table, dict):
            self.report("KT0032", f"`kernels.{self.name}` is a table", self.name)
            return _NO_SETTINGS
        readers: dict[str, Callable[[object], Any]] = {
            "signatures": self.signatures, "reference": self.reference, "shapes": self.shapes,
            "values": self.values, "config": self.config, "set": self.sets,
        }  # fmt: skip
        fields: dict[str, Any] = {}
        for key, value in table.items():
            if key not in readers:
                known = ", ".join(readers)
                self.report("KT0031", f"unknown key `{key}`", key, f"the keys are {known}")
            elif (read := readers[key](value)) is not None:
                fields["sets" if key == "set" else key] = read
        return KernelSettings(**fields)

    def _tables(self, key: str, value: object) -> list[dict[str, object]]:
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        self.report("KT0032", f"`{key}` is a list of tables", key, f"write `{key} = [{{ ... }}]`")
        return []

    def signatures(self, value: object) -> tuple[dict[str, Spec], ...]:
        before = len(self.found)
        result = []
        for table in self._tables("signatures", value):
            specs = {param: self.spec(param, text) for param, text in table.items()}
            result.append({param: spec for param, spec in specs.items() if spec is not None})
        if len(self.found) == before:
            for diag in check_dispatch(result, self.file):
                self.report(diag.code, diag.message, "signatures", diag.remedy)
        return tuple(result)

    def spec(self, param: str, value: object) -> Spec | None:
        if isinstance(value, bool | int | float):
            return LiteralSpec(value)
        if isinstance(value, str):
            try:
                return parse_spec(value)
            except KtError as exc:
                self.relocated(exc, value)
                return None
        self.report(
            "KT0032", f"the signature of `{param}` is a string, a number or a boolean", param,
            f'write `{param} = "f16[M,K]"`',
        )  # fmt: skip
        return None

    def reference(self, value: object) -> Reference | None:
        file, _, function = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not file or not function.isidentifier():
            self.report("KT0033", "`reference` is not `FILE:FUNCTION`", "reference")
            return None
        return Reference(os.path.join(os.path.dirname(self.file), file), function)

    def shapes(self, value: object) -> tuple[dict[str, int], ...]:
        result = []
        for table in self._tables("shapes", value):
            for dim, size in table.items():
                if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                    self.report("KT0032", f"the size of `{dim}` is an integer of at least 0", dim)
            result.append({dim: size for dim, size in table.items() if isinstance(size, int)})
        return tuple(result)

    def values(self, value: object) -> dict[str, ValueSpec] | None:
        if not isinstance(value, dict):
            self.report("KT0032", "`values` is a table", "values")
            return None
        specs = {param: self.value(param, item) for param, item in value.items()}
        return {param: spec for param, spec in specs.items() if spec is not None}

    def value(self, param: str, item: object) -> ValueSpec | None:
        if isinstance(item, bool | int | float):
            return item
        if isinstance(item, str):
            low, colon, high = item.partition(":")
            if not colon:
                return item
            bounds = [_bound(low), _bound(high)]
            if bounds[0] is not None and bounds[1] is not None:
                return Range(bounds[0], bounds[1])
        self.report(
            "KT0032", f"the value of `{param}` is a number, a word or `low:high`", param,
            f'write `{param} = "0:16"`, bounds may name dimensions',
        )  # fmt: skip
        return None

    def config(self, value: object) -> dict[str, Any] | None:
        if isinstance(value, dict):
            return value
        self.report("KT0032", "`config` is a table with the keys of helion.Config", "config")
        return None

    def sets(self, value: object) -> dict[str, Literal] | None:
        if not isinstance(value, dict):
            self.report("KT0032", "`set` is a table", "set")
            return None
        return {param: self.set_value(param, item) for param, item in value.items()}

    def set_value(self, param: str, item: object) -> Literal:
        if isinstance(item, list):
            return tuple(self.set_value(param, entry) for entry in item)
        if isinstance(item, bool | int | float):
            return item
        if isinstance(item, str):
            try:
                return parse_literal(item)
            except KtError as exc:
                self.relocated(exc, item)
                return None
        self.report("KT0032", f"`{param}` cannot be set to a {type(item).__name__}", param)
        return Name(param)


def _bound(text: str) -> Bound | None:
    text = text.strip()
    if text.isidentifier():
        return text
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return None
