"""The host functions of a kernel: one per source kernel, launching the code of each signature."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.triton import host
from transpile.emitters.triton.dispatch import conditions, negated
from transpile.emitters.triton.lower import LoweredPhase
from transpile.ir import ir
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class Variant:
    """One kernel for one signature, lowered."""

    kernel: ir.Kernel
    schedule: Schedule
    phases: list[LoweredPhase]
    launchers: list[list[str]]  # per phase: the launcher, and that of its pointer version

    def header(self) -> str:
        config = self.schedule.describe()
        return f"{self.kernel.name}: {self.kernel.signature}" + (f"; {config}" if config else "")


def tag_of(group: list[Variant], variant: Variant) -> str:
    """What tells this signature from the others of the kernel: its dtypes, or a number."""
    if len(group) == 1:
        return ""
    tags = [
        "_" + "_".join(dict.fromkeys(t.dtype.name for t in v.kernel.tensors if t.param))
        for v in group
    ]
    mine = tags[group.index(variant)]
    return mine if tags.count(mine) == 1 else f"_{group.index(variant) + 1}"


def mentions(word: str, texts: list[str]) -> bool:
    """True if a text has the word as a whole."""
    return any(re.search(rf"\b{word}\b", text) for text in texts)


# -- host functions --------------------------------------------------------------------------------


def host_functions(group: list[Variant]) -> str:
    """The function with the source's name; several signatures share it where their host code is
    the same but for the launches."""
    common, tests = conditions([v.kernel for v in group])
    if len(group) == 1:
        return _host_text(group[0], [_launches(group[0])], [[]], common)
    asked = [t for own in tests for t in own]
    if len({_host_code(v) for v in group}) == 1 and not _rebinds(group[0].kernel, asked):
        return _host_text(group[0], [_launches(v) for v in group], tests, common)
    return _dispatcher(group, tests, common)


def _host_code(variant: Variant) -> str:
    blanks: dict[int, list[str]] = {i: ["#"] for i in range(len(variant.phases))}
    return host.body(variant.kernel, variant.schedule, blanks, [])


@dataclass(frozen=True, slots=True)
class _Launch:
    """One launch of a phase, and its pointer version where tensors may be unfit for TMA."""

    call: str
    test: str = ""
    otherwise: str = ""

    def lines(self, indent: int) -> list[str]:
        if not self.test:
            return wrap(self.call, indent)
        return [
            *wrap(f"if {self.test}:", indent), *wrap(self.call, indent + 4),
            " " * indent + "else:", *wrap(self.otherwise, indent + 4),
        ]  # fmt: skip


def _launches(variant: Variant) -> list[_Launch]:
    found = []
    for names, phase in zip(variant.launchers, variant.phases, strict=True):
        call = host.launch_call(names[0], phase.grid, phase.parameters)
        if phase.fallback is None:
            found.append(_Launch(call))
            continue
        test = f"kt.tma_ok({', '.join(phase.described)})"
        plain = host.launch_call(names[1], phase.fallback.grid, phase.fallback.parameters)
        found.append(_Launch(call, test, plain))
    return found


def _rebinds(kernel: ir.Kernel, tests: list[str]) -> bool:
    """True if the host program gives a parameter that the tests ask about another value."""
    tested = {p.name for p in kernel.params if mentions(p.name, tests)}
    return any(isinstance(item, ir.HostCode) and tested & set(item.defines) for item in kernel.host)


def _host_text(
    variant: Variant,
    calls: list[list[_Launch]],
    tests: list[list[str]],
    common: list[str],
    name: str = "",
) -> str:
    """A host function whose launches are chosen by ``tests``; all calls must satisfy ``common``."""
    kernel = variant.kernel
    indents = {i.phase: 4 + 4 * i.indent for i in kernel.host if isinstance(i, ir.Launch)}
    launches = {
        i: _dispatch(kernel, [c[i] for c in calls], tests, indents.get(i, 4))
        for i in range(len(variant.phases))
    }
    guard = _guard(kernel, common) if common else []
    body = host.body(kernel, variant.schedule, launches, guard)
    return host.signature(kernel, name) + "\n" + body


def _dispatch(
    kernel: ir.Kernel, calls: list[_Launch], tests: list[list[str]], indent: int
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


def _dispatcher(group: list[Variant], tests: list[list[str]], common: list[str]) -> str:
    """One host function per signature, and the one with the source's name in front of them."""
    first = group[0].kernel
    texts: list[str] = []
    lines = [host.signature(first)]
    if first.docstring is not None:
        lines += host.docstring(first.docstring)
    if common:
        lines += _guard(first, common)
    arguments = ", ".join(p.name for p in first.params)
    for variant, own in zip(group, tests, strict=True):
        name = f"_{first.name}{tag_of(group, variant)}"
        bare = dataclasses.replace(
            variant, kernel=dataclasses.replace(variant.kernel, docstring=None)
        )
        texts.append(_host_text(bare, [_launches(variant)], [[]], [], name))
        if not own:
            lines.append(f"    return {name}({arguments})")
            break
        lines += [*_if("if", own, 4), f"        return {name}({arguments})"]
    else:
        lines += _no_match(first, 4)
    return "\n\n\n".join([*texts, "\n".join(lines)])
