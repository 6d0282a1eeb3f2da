"""Frontends: a kernel file to Tile IR. One package per dialect, the shared parts beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from transpile.frontend.options import FrontendOptions
from transpile.frontend.source import ParsedSource, SourceFile
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.ir.ir import Kernel

__all__ = ["FrontendOptions", "FrontendResult", "SourceFile", "load"]


@dataclass
class FrontendResult:
    """Kernels in source order (one per signature), and every diagnostic of the file."""

    kernels: list[Kernel] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)


def load(source: SourceFile, options: FrontendOptions) -> FrontendResult:
    """Lower a file's kernels. Never raises for what the source does wrong."""
    from transpile.frontend.helion import lower_file

    result = FrontendResult()
    try:
        result.kernels, result.diagnostics = lower_file(ParsedSource(source), options)
    except KtError as exc:
        result.diagnostics = list(exc.diagnostics)
    result.diagnostics = [d if d.file else replace(d, file=source.path) for d in result.diagnostics]
    return result
