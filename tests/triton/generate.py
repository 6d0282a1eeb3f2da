"""Generated Triton text for tests: of hand-made kernels and of snippets in the Helion dialect."""

from __future__ import annotations

import re
from typing import Any

from tests.frontend.lower import kernels
from transpile.emitters import EmitOptions, SourceInfo
from transpile.emitters.triton.emitter import emit
from transpile.ir import ir

SOURCE = SourceInfo("kernel", "kernel.py", "0123456789ab")


def module(*group: ir.Kernel, **options: Any) -> str:
    """The module for the signatures of one kernel."""
    result = emit(SOURCE, [list(group)], EmitOptions(**options))
    return result.files["kernel_triton.py"]


def build(snippet: str, *, args: dict[str, str] | None = None, **config: Any) -> str:
    """The module for a snippet's first kernel."""
    found = kernels(snippet, args=args or {}, config=config or None)
    first = [k for k in found if k.name == found[0].name]
    return module(*first)


def functions(text: str) -> dict[str, str]:
    """The top-level functions of a module by name, without decorators."""
    parts = re.split(r"\n\n\n", text)
    found = {}
    for part in parts:
        match = re.match(r"(?:@triton\.jit\n)?(def (\w+)\(.*)", part, re.DOTALL)
        if match:
            found[match[2]] = match[1].rstrip("\n")
    return found


def body(text: str, name: str) -> str:
    """The statements of a function of the module, its docstring and parameters left out."""
    lines = functions(text)[name].split("\n")
    start = next(i for i, line in enumerate(lines) if line.rstrip().endswith(":")) + 1
    return "\n".join(line[4:] for line in lines[start:])
