"""The source's host program as text: signature, docstring and statements around the launches."""

from __future__ import annotations

import re
import textwrap

from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.passes.schedule import Schedule


def product(factors: list[str]) -> str:
    """``a * b`` with constant factors multiplied out."""
    number, rest = 1, []
    for f in factors:
        if f.isdigit():
            number *= int(f)
        else:
            rest.append(f if re.fullmatch(r"[\w.]+(\(.*\))?", f) else f"({f})")
    if number != 1 or not rest:
        rest.append(str(number))
    return " * ".join(rest)


def signature(kernel: ir.Kernel, name: str = "") -> str:
    """``def name(params) -> returns:`` as in the source, or under another name."""
    name = name or kernel.name
    params = []
    for p in kernel.params:
        text = p.name
        if p.annotation:
            text += f": {p.annotation}"
        if p.default is not None:
            text += f" = {p.default}" if p.annotation else f"={p.default}"
        params.append(text)
    returns = f" -> {kernel.returns}" if kernel.returns else ""
    one = f"def {name}({', '.join(params)}){returns}:"
    if len(one) <= 100:
        return one
    lines = "\n".join(f"    {p}," for p in params)
    return f"def {name}(\n{lines}\n){returns}:"


def body(
    kernel: ir.Kernel,
    schedule: Schedule,
    launches: dict[int, list[str]],
    guard: list[str],
) -> str:
    """The function's docstring, guard and statements, launches in their places."""
    lines: list[str] = []
    if kernel.docstring is not None:
        lines += docstring(kernel.docstring)
    lines += guard
    for item in needed(kernel, "\n".join(line for lines in launches.values() for line in lines)):
        if isinstance(item, ir.HostCode):
            text = substitute_blocks(item, schedule)
            lines += textwrap.indent(text, "    ").split("\n")
        else:
            lines += launches[item.phase]
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(line.rstrip() for line in lines) or "    pass"


def needed(kernel: ir.Kernel, launches: str) -> list[ir.HostCode | ir.Launch]:
    """The host program without sizes and numbers that nothing reads any more."""
    read = set(re.findall(r"[A-Za-z_]\w*", launches))
    kept: list[ir.HostCode | ir.Launch] = []
    for item in reversed(kernel.host):
        if isinstance(item, ir.HostCode):
            if item.pure and item.defines and not read & set(item.defines):
                continue
            read |= set(item.reads)
        kept.append(item)
    return kept[::-1]


def substitute_blocks(item: ir.HostCode, schedule: Schedule) -> str:
    """Host text with the values of registered block sizes, and the shim's device queries."""
    values = {s.name: v for s, v in schedule.blocks.items()}

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise error("KT0900", f"no block size {match[1]}", item.span)
        return str(values[match[1]])

    text = re.sub(r"__kt_block_(\w+?)__", value, item.text)
    return text.replace("__kt_num_sm__(", "kt.num_sms(")


def docstring(text: str) -> list[str]:
    """A docstring with its quotes, indented for a function body."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if escaped.endswith('"'):
        escaped = escaped[:-1] + '\\"'
    first, *rest = escaped.strip("\n").split("\n")
    lines = [f'    """{first}'.rstrip()]
    lines += [f"    {line}".rstrip() for line in rest]
    if rest:
        return [*lines, '    """']
    return [lines[0] + '"""']
