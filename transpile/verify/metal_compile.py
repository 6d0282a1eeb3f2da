"""Generated Metal sources: the strict check, and compiled for the executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from transpile.verify.jobs import Cell, FileJob
from transpile.verify.msl import strict
from transpile.verify.msl.executor import Module
from transpile.verify.numerics import describe


def check_file(job: FileJob) -> Iterator[Cell]:
    """Two cells per kernel; the kernels of a file share its source."""
    with open(source_path(job.module), encoding="utf-8") as stream:
        source = stream.read()
    checks: dict[str, Callable[[str], str]] = {"strict": _strict, "host": _compiled}
    found = {column: checks[column](source) for column in job.archs}
    for row in range(job.first, len(job.kernels)):
        for column, problem in found.items():
            yield Cell(row, column, "fail" if problem else "ok", problem)


def source_path(module: str) -> str:
    """The .metal file beside a generated module."""
    return module.removesuffix("_metal.py") + ".metal"


def _strict(source: str) -> str:
    return "; ".join(f"line {p.line}: {p.message}" for p in strict.check(source)[:5])


def _compiled(source: str) -> str:
    try:
        Module(source)
    except SyntaxError as exc:
        return describe(exc)
    return ""
