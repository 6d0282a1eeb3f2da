"""The host functions of a kernel: one per source kernel, launching the code of each signature."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transpile.emitters.common import hostprogram
from transpile.emitters.common.dispatch import conditions, negated
from transpile.emitters.common.layout import WIDTH, wrap
from transpile.ir import ir
from transpile.passes.schedule import Schedule


class Launch(Protocol):
    """The statements that launch one phase."""

    def lines(self, indent: int) -> list[str]: ...


@dataclass(eq=False, slots=True)
class HostVariant:
    """One kernel for one signature, as its host function sees it."""

    kernel: ir.Kernel
    schedule: Schedule
    launches: Sequence[Launch]  # one per phase
    tag: str = ""  # what tells its names from those of the kernel's other signatures


def tags(kernels: Sequence[ir.Kernel]) -> list[str]:
    """What tells each signature of a kernel from the others: its dtypes, or a number."""
    if len(kernels) == 1:
        return [""]
    found = [
        "_" + "_".join(dict.fromkeys(t.dtype.name for t in k.tensors if t.param)) for k in kernels
    ]
    return [t if found.count(t) == 1 else f"_{i + 1}" for i, t in enumerate(found)]


def mentions(word: str, texts: Sequence[str]) -> bool:
    """True if a text has the word as a whole."""
    return any(re.search(rf"\b{word}\b", text) for text in texts)


def host_functions(group: list[HostVariant]) -> str:
    """The function with the source's name; several signatures share it where their host code is
    the same but for the launches."""
    common, tests = conditions([v.kernel for v in group])
    if len(group) == 1:
        return _host_text(group[0], [group[0].launches], [[]], common)
    asked = [t for own in tests for t in own]
    if len({_host_code(v) for v in group}) == 1 and not _rebinds(group[0].kernel, asked):
        return _host_text(group[0], [v.launches for v in group], tests, common)
    return _dispatcher(group, tests, common)


def _host_code(variant: HostVariant) -> str:
    blanks: dict[int, list[str]] = {i: ["#"] for i in range(len(variant.launches))}
    return hostprogram.body(variant.kernel, variant.schedule, blanks, [])


def _rebinds(kernel: ir.Kernel, tests: list[str]) -> bool:
    """True if the host program gives a parameter that the tests ask about another value."""
    tested = {p.name for p in kernel.params if mentions(p.name, tests)}
    return any(isinstance(item, ir.HostCode) and tested & set(item.defines) for item in kernel.host)


def _host_text(
    variant: HostVariant,
    calls: list[Sequence[Launch]],
    tests: list[list[str]],
    common: list[str],
    name: str = "",
) -> str:
    """A host function whose launches are chosen by ``tests``; all calls must satisfy ``common``."""
    kernel = variant.kernel
    indents = {i.phase: 4 + 4 * i.indent for i in kernel.host if isinstance(i, ir.Launch)}
    launches = {
        i: _dispatch(kernel, [c[i] for c in calls], tests, indents.get(i, 4))
        for i in range(len(variant.launches))
    }
    guard = _guard(kernel, common) if common else []
    body = hostprogram.body(kernel, variant.schedule, launches, guard)
    return hostprogram.signature(kernel, name) + "\n" + body


def _dispatch(
    kernel: ir.Kernel, calls: list[Launch], tests: list[list[str]], indent: int
) -> list[str]:
    """The launch, or an if-chain of launches; lines for an indentation of ``indent``."""
    pad = " " * indent
    lines: list[str] = []
    for i, (call, own) in enumerate(zip(calls, tests, strict=True)):
        if not own:  # takes all that is left
            return [*lines, f"{pad}else:", *call.lines(indent + 4)] if i else call.lines(indent)
        if i and i == len(calls) - 1 and own == [negated(tests[i - 1])]:
            return [*lines, f"{pad}else:", *call.lines(indent + 4)]
        lines += _if("elif" if i else "if", own, indent) + call.lines(indent + 4)
    return [*lines, f"{pad}else:", *_no_match(kernel, indent + 4)]


def _if(keyword: str, tests: list[str], indent: int) -> list[str]:
    pad = " " * indent
    line = f"{pad}{keyword} {' and '.join(tests)}:"
    if len(line) <= WIDTH:
        return [line]
    rest = [f"{pad}    and {t}" for t in tests[1:]]
    return [f"{pad}{keyword} (", f"{pad}    {tests[0]}", *rest, f"{pad}):"]


def _guard(kernel: ir.Kernel, tests: list[str]) -> list[str]:
    """Refuse compile-time values other than those the code was built for."""
    return [*_if("if", [negated(tests)], 4), *_no_match(kernel, 8)]


def _no_match(kernel: ir.Kernel, indent: int) -> list[str]:
    params = ", ".join(f"{p.name}={p.name}" for p in kernel.params)
    return wrap(f'raise kt.no_signature("{kernel.name}", {params})', indent)


def _dispatcher(group: list[HostVariant], tests: list[list[str]], common: list[str]) -> str:
    """One host function per signature, and the one with the source's name in front of them."""
    first = group[0].kernel
    texts: list[str] = []
    lines = [hostprogram.signature(first)]
    if first.docstring is not None:
        lines += hostprogram.docstring(first.docstring)
    if common:
        lines += _guard(first, common)
    arguments = ", ".join(p.name for p in first.params)
    for variant, own in zip(group, tests, strict=True):
        name = f"_{first.name}{variant.tag}"
        bare = dataclasses.replace(
            variant, kernel=dataclasses.replace(variant.kernel, docstring=None)
        )
        texts.append(_host_text(bare, [variant.launches], [[]], [], name))
        if not own:
            lines.append(f"    return {name}({arguments})")
            break
        lines += [*_if("if", own, 4), f"        return {name}({arguments})"]
    else:
        lines += _no_match(first, 4)
    return "\n\n\n".join([*texts, "\n".join(lines)])
