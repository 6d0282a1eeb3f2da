"""The host functions of a kernel: one per source kernel, launching the code of each signature."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from transpile.emitters.triton import host
from transpile.emitters.triton.dispatch import conditions, fixed_values
from transpile.emitters.triton.layout import wrap
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
    return any(re.search(rf"\b{word}\b", text) for text in texts)


# -- host functions --------------------------------------------------------------------------------


def host_functions(group: list[Variant]) -> str:
    """The function with the source's name; several signatures share it where their host code is
    the same but for the launches."""
    first = group[0]
    if len(group) == 1:
        return _host_text(first, [_launches(first)], [fixed_values(first.kernel.signature)])
    tests = conditions([v.kernel.signature for v in group])
    calls = [_launches(v) for v in group]
    if len({_host_code(v) for v in group}) == 1 and not _rebinds(first.kernel, tests):
        return _host_text(first, calls, tests)
    return _dispatcher(group, tests)


def _host_code(variant: Variant) -> str:
    return host.body(
        variant.kernel, variant.schedule, dict.fromkeys(range(len(variant.phases)), ["#"])
    )


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
        test = " and ".join(f"kt.tma_ok({t.host})" for t in phase.described)
        plain = host.launch_call(names[1], phase.fallback.grid, phase.fallback.parameters)
        found.append(_Launch(call, test, plain))
    return found


def _rebinds(kernel: ir.Kernel, tests: list[str]) -> bool:
    """True if the host program gives a parameter that the tests ask about another value."""
    text = "\n".join(item.text for item in kernel.host if isinstance(item, ir.HostCode))
    tested = {p.name for p in kernel.params if mentions(p.name, tests)}
    targets = re.findall(r"^\s*([\w, ()*]+?)\s*(?::[^=]+)?=(?!=)", text, re.MULTILINE)
    return any(name in re.findall(r"\w+", target) for name in tested for target in targets)


def _host_text(
    variant: Variant, calls: list[list[_Launch]], tests: list[str], name: str = ""
) -> str:
    indents = {
        item.phase: 4 + 4 * item.indent
        for item in variant.kernel.host
        if isinstance(item, ir.Launch)
    }
    launches = {
        i: _dispatch(variant.kernel, [c[i] for c in calls], tests, indents.get(i, 4))
        for i in range(len(variant.phases))
    }
    body = host.body(variant.kernel, variant.schedule, launches)
    return host.signature(variant.kernel, name) + "\n" + body


def _dispatch(kernel: ir.Kernel, calls: list[_Launch], tests: list[str], indent: int) -> list[str]:
    """The launch, or an if-chain of launches; lines for an indentation of ``indent``."""
    if len(calls) == 1 and not tests[0]:
        return calls[0].lines(indent)
    pad = " " * indent
    if len(calls) == 1:
        return [*_guard(kernel, tests[0], indent), *calls[0].lines(indent)]
    lines: list[str] = []
    for i, (call, test) in enumerate(zip(calls, tests, strict=True)):
        if i and i == len(calls) - 1 and test == f"not {tests[i - 1]}":
            return [*lines, f"{pad}else:", *call.lines(indent + 4)]
        lines += wrap(f"{'elif' if i else 'if'} {test}:", indent) + call.lines(indent + 4)
    return [*lines, f"{pad}else:", *_no_match(kernel, indent + 4)]


def _guard(kernel: ir.Kernel, test: str, indent: int) -> list[str]:
    """Refuse compile-time values other than those the code was built for."""
    negated = test.removeprefix("not ") if re.fullmatch(r"(not )?\w+", test) else f"not ({test})"
    if test == negated:
        negated = f"not {test}"
    return [*wrap(f"if {negated}:", indent), *_no_match(kernel, indent + 4)]


def _no_match(kernel: ir.Kernel, indent: int) -> list[str]:
    params = ", ".join(f"{p.name}={p.name}" for p in kernel.params)
    return wrap(f'raise kt.no_signature("{kernel.name}", {params})', indent)


def _dispatcher(group: list[Variant], tests: list[str]) -> str:
    """One host function per signature, and the one with the source's name in front of them."""
    first = group[0].kernel
    texts: list[str] = []
    lines = [host.signature(first)]
    if first.docstring is not None:
        lines += host.docstring(first.docstring)
    arguments = ", ".join(p.name for p in first.params)
    for i, (variant, test) in enumerate(zip(group, tests, strict=True)):
        name = f"_{first.name}{tag_of(group, variant)}"
        bare = dataclasses.replace(variant.kernel, docstring=None)
        texts.append(
            _host_text(dataclasses.replace(variant, kernel=bare), [_launches(variant)], [""], name)
        )
        lines += wrap(f"if {test}:", 4) + [f"        return {name}({arguments})"]
        del i
    lines += _no_match(first, 4)
    return "\n\n\n".join([*texts, "\n".join(lines)])
