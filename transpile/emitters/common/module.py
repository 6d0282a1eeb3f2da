"""Parts of a generated Python module: what its host functions import, headers, signatures."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Sequence

from transpile.emitters.common.hostfunctions import mentions
from transpile.ir import ir
from transpile.passes.schedule import Schedule


def preludes(kernels: Sequence[ir.Kernel]) -> tuple[list[str], list[str]]:
    """The host programs' module-level needs, each once: import statements, and definitions."""
    imports: dict[str, None] = {}
    rest: dict[str, None] = {}
    for text in dict.fromkeys(k.prelude for k in kernels):
        for statement, is_import in _statements(text):
            (imports if is_import else rest)[statement] = None
    return list(imports), list(rest)


def joined(statements: list[str]) -> str:
    """Definitions with two blank lines around functions and classes, none between constants."""
    text = ""
    for statement in statements:
        big = "\n" in statement
        text += (
            ("\n\n\n" if text and (big or "\n    " in text.rsplit("\n\n\n", 1)[-1]) else "\n")
            if text
            else ""
        )
        text += statement
    return text


def _statements(text: str) -> list[tuple[str, bool]]:
    """Top-level statements with the comments right above them."""
    lines = text.split("\n")
    found: list[tuple[str, bool]] = []
    for node in ast.parse(text).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and lines[first - 1].startswith("#"):
            first -= 1
        code = "\n".join(line.rstrip() for line in lines[first : node.end_lineno])
        found.append((code, isinstance(node, ast.Import | ast.ImportFrom)))
    return found


def host_imports(imports: Sequence[str], texts: Sequence[str], ours: Collection[str]) -> list[str]:
    """Imports that the texts mention, in isort's order: standard library first, plain before from.

    ``ours`` are those that the module's template has already.
    """
    wanted = {
        line
        for line in imports
        if not line.startswith("from __future__") and mentions(_bound_name(line), texts)
    } - set(ours)
    standard = sorted((line for line in wanted if _is_standard(line)), key=_isort_key)
    others = sorted((line for line in wanted if not _is_standard(line)), key=_isort_key)
    if mentions("torch", texts):
        others = sorted([*others, "import torch"], key=_isort_key)
    return [*standard, *([""] if standard and others else []), *others]


def _bound_name(line: str) -> str:
    """The name that an import of one thing binds."""
    return line.rsplit(maxsplit=1)[-1].partition(".")[0]


def _isort_key(line: str) -> tuple[bool, str]:
    return line.startswith("from "), line


def _is_standard(line: str) -> bool:
    return line.split()[1].split(".", maxsplit=1)[0] in sys.stdlib_module_names


def kernel_header(
    kernel: ir.Kernel, schedule: Schedule, keys: Collection[str] | None = None
) -> list[str]:
    """What one signature of a kernel was built for, as lines of the file's head. ``keys`` are
    those of the config that the target follows, None for all."""
    config = schedule.describe(keys)
    return _folded(f"{kernel.name}: {kernel.signature}" + (f"; {config}" if config else ""))


def _folded(text: str) -> list[str]:
    """A header line; a long one continues indented."""
    lines, line = [], ""
    for part in re.split(r"(?<=[,;]) (?![^\[]*\])", text):
        if line and len(line) + len(part) + 1 > 98:
            lines.append(line)
            line = "  "
        line += part if not line.strip() else f" {part}"
    return [*lines, line]


def is_new(kernel: ir.Kernel, tensor: ir.Tensor) -> bool:
    """True if the host program allocates it with a shape of its own: no need to check that."""
    bound = [c for c in kernel.host if isinstance(c, ir.HostCode) and tensor.host in c.defines]
    allocation = rf"{re.escape(tensor.host)} = (torch\.(empty|zeros)|\w+\.new_(empty|zeros))\("
    return len(bound) == 1 and any(re.match(allocation, line) for line in bound[0].text.split("\n"))


def tensor_spec(kernel: ir.Kernel, tensor: ir.Tensor) -> str:
    """``f16[M,K]``: what the launcher checks; anonymous sizes are ``_``."""
    dims = []
    for size in tensor.shape:
        sym, number = size.as_sym(), size.as_int()
        if number is not None:
            dims.append(str(number))
        elif sym is not None and sym.kind == "dim" and sym.name.isidentifier():
            dims.append(sym.name)
        else:
            dims.append("_")
    ones = [i for i, s in enumerate(tensor.strides) if s.as_int() == 1]
    order = ""
    if tensor.shape and not ones:
        order = "{*}"
    elif ones and ones[-1] != len(dims) - 1:
        rest = [i for i in range(len(dims)) if i != ones[-1]]
        order = "{" + ",".join(map(str, [ones[-1], *reversed(rest)])) + "}"
    return f"{tensor.dtype}[{','.join(dims)}]{order}"
