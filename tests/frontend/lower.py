"""Kernels from snippets: lowering, and running through the reference interpreter."""

from __future__ import annotations

import textwrap
from typing import Any

from transpile.frontend import FrontendOptions, FrontendResult, SourceFile, load
from transpile.ir import ir

HEADER = """\
import math
import torch
import torch.nn.functional as F
import helion
import helion.language as hl
"""
FIRST_LINE = HEADER.count("\n") + 1


def lower(snippet: str, **options: Any) -> FrontendResult:
    """Lower a snippet below the usual imports; its first line is FIRST_LINE."""
    text = HEADER + textwrap.dedent(snippet).lstrip("\n")
    return load(SourceFile.of("kernel.py", text.encode()), FrontendOptions(**options))


def kernels(snippet: str, **options: Any) -> list[ir.Kernel]:
    """The kernels of a snippet that must lower."""
    result = lower(snippet, **options)
    errors = [d for d in result.diagnostics if d.severity == "error"]
    assert not errors, errors
    return result.kernels


def interpret(snippet: str, *args: Any, block: int = 4, **options: Any) -> Any:
    """Run the snippet's first kernel on positional arguments, every tunable block ``block``."""
    from transpile.ir.interpreter import run_kernel
    from transpile.ir.verifier import verify

    kernel = kernels(snippet, **options)[0]
    verify(kernel)
    blocks = {b.sym: (b.fixed.as_int() if b.fixed else None) or block for b in kernel.blocks}
    named = dict(zip((p.name for p in kernel.params), args, strict=False))
    return run_kernel(kernel, named, blocks)
