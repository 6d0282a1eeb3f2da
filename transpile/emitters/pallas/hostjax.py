"""The host function of a kernel in JAX: with the source's name, parameters and statements.

The device side hands in one :class:`Launch` per phase. It prints the ``pl.pallas_call``; the
:class:`LaunchPlan` tells it how the host spells sizes, operands and outputs at that place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from transpile.emitters.common import module
from transpile.emitters.common.dispatch import conditions
from transpile.emitters.common.hostfunctions import tags
from transpile.emitters.common.hostprogram import docstring
from transpile.emitters.common.hostsizes import HostSizes, HostSpelling
from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.pallas.hostjax_program import HostProgram, Output, tensors_of
from transpile.emitters.pallas.hostjax_text import Translator, torch_imports
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


def host_function(variant: Variant, name: str = "") -> str:
    """The text of one signature's host function, under its own name or another. Raises KtError."""
    kernel = variant.kernel
    overwritten = frozenset(t for launch in variant.launches for t in launch.overwritten)
    program = HostProgram(kernel, variant.schedule.blocks, overwritten)
    launches: dict[int, list[str]] = {}
    for phase, launch in enumerate(variant.launches):
        plan = LaunchPlan(program, variant.schedule, phase)
        launches[phase] = launch.lines(plan, program.indent_of(phase))
    body = program.body(launches)
    lines = _head(kernel, program, name)
    if kernel.docstring is not None:
        lines += docstring(kernel.docstring)
    body = returning(body, program.changed)
    return "\n".join([*lines, *(body or ["    pass"])])


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


def _head(kernel: ir.Kernel, program: HostProgram, name: str) -> list[str]:
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
    one = f"def {name or kernel.name}({', '.join(params)}){arrow}:"
    if len(one) <= WIDTH:
        return [one]
    return [f"def {name or kernel.name}(", *(f"    {p}," for p in params), f"){arrow}:"]


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


def host_functions(group: Sequence[Variant]) -> str:
    """The function with the source's name for all signatures of a kernel.

    Signatures with the same code share it; else each code has a function of its own, and the one
    with the source's name chooses. Raises KtError for what JAX cannot do.
    """
    checks = _decorator([_checked(v) for v in group])
    plain = [host_function(v) for v in group]
    if len(set(plain)) == 1:
        return "\n".join([*checks, plain[0]])
    first = group[0].kernel
    bare = [replace(v, kernel=replace(v.kernel, docstring=None)) for v in group]
    found = tags([v.kernel for v in group])
    shared = {
        text: "".join(t for t, p in zip(found, plain, strict=True) if p == text) for text in plain
    }
    names = [f"_{first.name}{shared[text]}" for text in plain]
    texts = [host_function(v, name) for v, name in zip(bare, names, strict=True)]
    program = HostProgram(first, group[0].schedule.blocks)
    lines = [*checks, *_head(first, program, "")]
    if first.docstring is not None:
        lines += docstring(first.docstring)
    lines += _choice(group, names, program.translator)
    return "\n\n\n".join([*dict.fromkeys(texts), "\n".join(lines)])


def distinct(kernels: Sequence[ir.Kernel]) -> list[ir.Kernel]:
    """The kernels of one source kernel without those whose arguments are, as jax.Arrays, the same
    as an earlier one's."""
    found: dict[str, ir.Kernel] = {}
    for kernel in kernels:
        found.setdefault(_as_arrays(kernel.signature), kernel)
    return list(found.values())


def _as_arrays(signature: str) -> str:
    """A signature as jax.Arrays can tell it: without layouts and 64-bit integers."""
    text = re.sub(r"(?<=\])\{[\d, ]*\}", "", signature)
    return re.sub(r"\b([iu])64(?=\[)", r"\g<1>32", text)


def _choice(group: Sequence[Variant], names: Sequence[str], translator: Translator) -> list[str]:
    """``if x.dtype == jnp.float16: return _f_f16(x)``; the decorator has seen that one fits."""
    kernels = [replace(v.kernel, signature=_as_arrays(v.kernel.signature)) for v in group]
    _, tests = conditions(kernels, unknown=frozenset({"layout"}))
    arguments = ", ".join(p.name for p in group[0].kernel.params)
    last = len(names) - 1
    while last and names[last - 1] == names[-1]:
        last -= 1
    lines = []
    for own, name in zip(tests[:last], names[:last], strict=True):
        if not own:
            continue  # no test tells it from the others: it is what remains
        asked = " and ".join(translator.expression(t) for t in own)
        lines += [*wrap(f"if {asked}:", 4), *wrap(f"return {name}({arguments})", 8)]
    return [*lines, *wrap(f"return {names[-1]}({arguments})", 4)]


def _checked(variant: Variant) -> dict[str, str]:
    """What the shim's decorator checks of each parameter, in the words of kt's signatures."""
    kernel = variant.kernel
    specs = dict(parse_items(kernel.signature))
    static = static_scalars(kernel, HostProgram(kernel, variant.schedule.blocks))
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


def _decorator(signatures: Sequence[Mapping[str, str]]) -> list[str]:
    """``@kt.kernel(x="f16[M,K]", y="f16[K,N]")``; several signatures are alternatives."""
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
