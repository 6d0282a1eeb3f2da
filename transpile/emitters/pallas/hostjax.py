"""The host function of a kernel in JAX: with the source's name, parameters and statements.

The device side hands in one :class:`Launch` per phase. It prints the ``pl.pallas_call``; the
:class:`LaunchPlan` tells it how the host spells sizes, operands and outputs at that place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from transpile.emitters.common import module
from transpile.emitters.common.hostprogram import docstring
from transpile.emitters.common.hostsizes import HostSizes, HostSpelling
from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.pallas.hostjax_fold import without_aliases
from transpile.emitters.pallas.hostjax_program import HostProgram, Output, tensors_of
from transpile.emitters.pallas.hostjax_text import Translator, one_line, torch_imports
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size
from transpile.passes.schedule import Schedule

_SPELLING = HostSpelling(cdiv="pl.cdiv", size="{tensor}.shape[{dim}]", stride="1")


@dataclass(frozen=True)
class LaunchPlan:
    """How the host program spells what one launch needs."""

    program: HostProgram
    schedule: Schedule
    phase: int

    def size(self, size: Size) -> str:
        """Host Python for a size, block sizes as numbers: ``m``, ``pl.cdiv(n, 128)``."""
        return self.program.translator.expression(self._sizes.text(size))

    @cached_property
    def _sizes(self) -> HostSizes:
        """Sizes are not asked of tensors that exist only once the kernel has run."""
        gone = {n for n, f in self.program.fresh.items() if not f.kept}
        gone |= {f.host for f in self.program.fresh.values()}
        kernel = self.program.kernel
        names = [(s, n) for s, n in kernel.size_names if n.partition(".")[0] not in gone]
        tensors = [t for t in kernel.tensors if t.host not in gone]
        known = replace(kernel, size_names=tuple(names), tensors=tuple(tensors))
        return HostSizes(known, self.schedule, _SPELLING)

    def operand(self, tensor: ir.Tensor) -> str:
        """The array to pass."""
        return self.program.operand(tensor)

    def output(self, tensor: ir.Tensor) -> Output:
        """What the launch binds for a tensor it writes."""
        return self.program.output(tensor, [self.size(s) for s in tensor.shape])

    def scalar(self, name: str) -> str:
        """The host expression of a run-time scalar."""
        scalars = {s.name: s.host for s in self.program.kernel.scalars}
        return self.program.translator.expression(scalars[name])

    @cached_property
    def tensors(self) -> list[ir.Tensor]:
        """The tensors of the phase, in order of first use."""
        return tensors_of(self.program.kernel.phases[self.phase])


class Launch(Protocol):
    """A phase as the device side prints it.

    ``overwritten`` are tensors of which the kernel writes every element.
    """

    @property
    def overwritten(self) -> frozenset[ir.Tensor]: ...

    def lines(self, plan: LaunchPlan, indent: int) -> list[str]:
        """The statement that calls the kernel and binds the names of its outputs."""
        ...


@dataclass
class Variant:
    """One kernel for one signature with its launches, one per phase."""

    kernel: ir.Kernel
    schedule: Schedule
    launches: Sequence[Launch]


def program_of(variant: Variant, folded: bool = False) -> HostProgram:
    """The host program of a signature; ``folded``: without branches that its compile-time values
    rule out."""
    overwritten = frozenset(t for launch in variant.launches for t in launch.overwritten)
    constants = {p.name: p.value for p in variant.kernel.params if p.kind == "constexpr"}
    return HostProgram(
        without_aliases(variant.kernel), variant.schedule.blocks, overwritten,
        constants if folded else {},
    )  # fmt: skip


def host_function(variant: Variant) -> str:
    """The text of one signature's host function. Raises KtError."""
    return "\n".join([*host_head(variant), *host_body(variant)])


def host_body(variant: Variant, folded: bool = False) -> list[str]:
    """Its statements."""
    program = program_of(variant, folded)
    launches: dict[int, list[str]] = {}
    for phase, launch in enumerate(variant.launches):
        plan = LaunchPlan(program, variant.schedule, phase)
        launches[phase] = launch.lines(plan, program.indent_of(phase))
    body = returning(program.body(launches), program.changed)
    return direct(body) or ["    pass"]


def host_head(variant: Variant) -> list[str]:
    """Its first lines: name, parameters, docstring."""
    lines = _head(variant.kernel, program_of(variant))
    if variant.kernel.docstring is not None:
        lines += docstring(variant.kernel.docstring)
    return lines


def direct(body: list[str]) -> list[str]:
    """``return f(x)`` for ``out = f(x)`` and ``return out``; in branches too."""
    if not body or not (match := re.fullmatch(r"    return (\w+(?:, \w+)*)", body[-1])):
        return body
    bind = f"{match[1]} = "
    at = max((i for i, line in enumerate(body) if line[:1] == " " and line[4:5] not in (" ", ")")
              and i < len(body) - 1), default=-1)  # fmt: skip
    if at < 0:
        return body
    if body[at].startswith(f"    {bind}"):
        text = one_line("\n".join(line[4:] for line in body[at:-1]))
        return [*body[:at], *wrap(f"return {text.removeprefix(bind)}", 4)]
    if body[at] != "    else:":
        return body
    first = max(i for i in range(at) if body[i].startswith("    if "))
    return [*body[:first], *_returning_branches(body[first:-1], bind)] if _binds_all(
        body[first:-1], bind) else body  # fmt: skip


def _binds_all(lines: list[str], bind: str) -> bool:
    """True if each branch of a chain binds the names, and does nothing else."""
    own = [
        line[8:] for line in lines if line.startswith("        ") and line[8:9] not in (" ", ")")
    ]
    heads = [line for line in lines if line[4:5] not in (" ", ")")]
    return len(own) == len(heads) and all(line.startswith(bind) for line in own)


def _returning_branches(lines: list[str], bind: str) -> list[str]:
    found: list[str] = []
    statement: list[str] = []
    last = False
    for line in [*lines, "    "]:
        if line.startswith("        "):
            statement.append(line[8:])
            continue
        if statement:
            text = one_line("\n".join(statement)).removeprefix(bind)
            found += wrap(f"return {text}", 4 if last else 8)
            statement = []
        last = line == "    else:"
        if not last and line.strip():
            found.append(line.replace("    elif ", "    if ", 1))
    return found


def returning(body: list[str], changed: Sequence[str]) -> list[str]:
    """The statements with the changed parameters among what is returned.

    A function without results returns them, one with results behind its own.
    """
    if not changed:
        return body
    names = ", ".join(changed)
    returns = [i for i, line in enumerate(body) if line.lstrip().startswith("return")]
    if not any(body[i].strip() != "return" for i in returns):
        body = [f"{line} {names}" if line.strip() == "return" else line for line in body]
        at_end = (
            bool(returns) and returns[-1] == len(body) - 1 and body[-1].startswith("    return")
        )
        return body if at_end else [*body, f"    return {names}"]
    return [_with(line, changed) if i in returns else line for i, line in enumerate(body)]


def _with(line: str, changed: Sequence[str]) -> str:
    head, _, value = line.partition("return ")
    parts = [p.strip() for p in value.split(",")]
    missing = [name for name in changed if name not in parts]
    return f"{head}return {', '.join([value, *missing])}" if missing else line


def _head(kernel: ir.Kernel, program: HostProgram) -> list[str]:
    """``def name(x: jax.Array, ...) -> jax.Array:``."""
    t = program.translator
    params = []
    for p in kernel.params:
        text = p.name
        if p.annotation:
            text += f": {t.annotation(p.annotation)}"
        if p.default is not None:
            default = _default(t, p)
            text += f" = {default}" if p.annotation else f"={default}"
        params.append(text)
    returns = _returns(kernel, program)
    arrow = f" -> {returns}" if returns else ""
    one = f"def {kernel.name}({', '.join(params)}){arrow}:"
    if len(one) <= WIDTH:
        return [one]
    lines = [line for p in params for line in _parameter(p)]
    return [f"def {kernel.name}(", *lines, f"){arrow}:"]


def _parameter(text: str) -> list[str]:
    """A parameter on lines of its own; a long default in parentheses."""
    if len(text) + 5 <= WIDTH:
        return [f"    {text},"]
    head, _, default = text.partition(" = ")
    return [f"    {head} = (", *(f"    {line}" for line in wrap(default, 4)), "    ),"]


def _default(translator: Translator, param: ir.Param) -> str:
    assert param.default is not None
    try:
        return translator.expression(param.default)
    except KtError:
        if param.kind == "function":
            return "None"  # the device code has it inside; another one cannot be passed anyway
        raise


def _returns(kernel: ir.Kernel, program: HostProgram) -> str:
    """The return annotation; a function of changed parameters returns these."""
    count = len(program.changed)
    texts = [i.text for i in kernel.host if isinstance(i, ir.HostCode)]
    results = any("return " in text for text in texts)
    if not count or results:
        return program.translator.annotation(kernel.returns) if kernel.returns else ""
    if not kernel.returns:
        return ""
    return "jax.Array" if count == 1 else f"tuple[{', '.join(['jax.Array'] * count)}]"


# -- the module ------------------------------------------------------------------------------------


def preludes(kernels: Sequence[ir.Kernel]) -> tuple[list[str], list[str]]:
    """Import statements and definitions that the host programs need, in JAX; torch is gone."""
    imports, definitions = module.preludes(kernels)
    translator = Translator(torch_imports("\n".join(imports)))
    kept = [line for line in imports if not re.match(r"(import|from) torch\b", line)]
    return kept, [translator.statement(text) for text in definitions]


def distinct(kernels: Sequence[ir.Kernel]) -> list[ir.Kernel]:
    """The kernels of one source kernel without those whose arguments are, as jax.Arrays, the same
    as an earlier one's."""
    found: dict[str, ir.Kernel] = {}
    for kernel in kernels:
        found.setdefault(as_arrays(kernel.signature), kernel)
    return list(found.values())


def as_arrays(signature: str) -> str:
    """A signature as jax.Arrays can tell it: without layouts and 64-bit integers."""
    text = re.sub(r"(?<=\])\{[\d, ]*\}", "", signature)
    return re.sub(r"\b([iu])64(?=\[)", r"\g<1>32", text)


def _checked(variant: Variant) -> dict[str, str]:
    """What the shim's decorator checks of each parameter, in the words of kt's signatures."""
    kernel = variant.kernel
    specs = dict(parse_items(kernel.signature))
    static = static_scalars(kernel, program_of(variant))
    dtypes = {s.host: s.dtype.name for s in kernel.scalars} | dict.fromkeys(static, "i32")
    for param in kernel.params:
        if param.name in specs:
            continue
        if param.kind == "constexpr":
            specs[param.name] = _literal(param.value)
        elif param.name in dtypes:  # a number with a default
            specs[param.name] = dtypes[param.name]
    for name in static:
        specs[name] = f"static {specs[name]}"
    return specs


def _literal(value: object) -> str:
    return value.torch if isinstance(value, DType) else repr(value)


def parse_items(signature: str) -> list[tuple[str, str]]:
    """``name=spec`` pairs of a printed signature; commas inside brackets do not separate."""
    found, depth, start = [], 0, 0
    quote = ""
    for i, c in enumerate(signature + ","):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        depth += (c in "([{") - (c in ")]}") if not quote else 0
        if c == "," and depth == 0 and not quote:
            name, _, spec = signature[start:i].partition("=")
            if name.strip():
                found.append((name.strip(), spec.strip()))
            start = i + 1
    return found


def decorator(group: Sequence[Variant]) -> list[str]:
    """``@kt.kernel(x="f16[M,K]", y="f16[K,N]")``; several signatures are alternatives."""
    signatures = [_checked(v) for v in group]
    different = list({tuple(one.items()): None for one in signatures})
    if len(different) == 1:
        inner = ", ".join(f"{name}={_quoted(spec)}" for name, spec in different[0])
    else:
        entries = [", ".join(f'"{n}": {_quoted(s)}' for n, s in one) for one in different]
        inner = ", ".join(f"{{{text}}}" for text in entries)
    return wrap(f"@kt.kernel({inner})", 0)


def _quoted(text: str) -> str:
    quote = "'" if '"' in text else '"'
    return repr(text) if "\\" in text or quote in text else f"{quote}{text}{quote}"


def static_scalars(kernel: ir.Kernel, program: HostProgram) -> list[str]:
    """Scalar parameters whose values the host program needs while it is traced: those that sizes
    are made of, and those that its statements branch on or compute with in Python."""
    scalars = [p.name for p in kernel.params if p.kind == "scalar"]
    names = {sym.name for size in _sizes(kernel) for sym in size.syms}
    texts = [s.text for s in program.statements if s.text]
    asked = {name for name in scalars for text in texts if _branches_on(text, name)}
    return [name for name in scalars if name in names or name in asked]


def _sizes(kernel: ir.Kernel) -> list[Size]:
    found = [s for t in kernel.tensors for s in t.shape]
    for phase in kernel.phases:
        found += [s for axis in phase.axes for s in (axis.begin, axis.end)]
    return found


def _branches_on(text: str, name: str) -> bool:
    tests = re.findall(r"(?:^|\s)(?:if|elif|assert|while|for)\b([^\n]*)", text)
    return any(re.search(rf"\b{name}\b", test) for test in tests) or bool(
        re.search(rf"\b(?:int|float|bool|range|math\.\w+|round|min|max)\([^)]*\b{name}\b", text)
    )
