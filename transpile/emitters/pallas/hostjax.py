"""The host function of a kernel in JAX: with the source's name, parameters and statements.

The device side hands in one :class:`Launch` per phase. It prints the ``pl.pallas_call``; the
:class:`LaunchPlan` tells it how the host spells sizes, operands and outputs at that place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.pallas.hostjax_program import HostProgram, Output, tensors_of
from transpile.emitters.pallas.hostjax_text import Translator, torch_imports
from transpile.emitters.triton.host import docstring
from transpile.emitters.triton.hostsizes import host_size
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.sizes import Size, Sym
from transpile.passes.schedule import Schedule


@dataclass(frozen=True)
class LaunchPlan:
    """How the host program spells what one launch needs."""

    program: HostProgram
    schedule: Schedule
    phase: int

    def size(self, size: Size) -> str:
        """Host Python for a size, block sizes as numbers: ``m``, ``pl.cdiv(n, 128)``."""
        text = host_size(self.program.kernel, self.schedule, size)
        return self.program.translator.expression(text.replace("triton.cdiv", "pl.cdiv"))

    def operand(self, tensor: ir.Tensor) -> str:
        """The array to pass, in the kernel's element type: ``x``, ``x.astype(jnp.float32)``."""
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


def host_function(variant: Variant, name: str = "", decorator: Sequence[str] = ()) -> str:
    """The text of the host function. Raises KtError for what JAX cannot do."""
    kernel = variant.kernel
    overwritten = frozenset(t for launch in variant.launches for t in launch.overwritten)
    program = HostProgram(kernel, variant.schedule.blocks, overwritten)
    launches: dict[int, list[str]] = {}
    for phase, launch in enumerate(variant.launches):
        plan = LaunchPlan(program, variant.schedule, phase)
        launches[phase] = launch.lines(plan, program.indent_of(phase))
    body = program.body(launches)
    lines = [*decorator, *_head(kernel, program, name)]
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
        at_end = bool(returns) and returns[-1] == len(body) - 1 and body[-1].startswith("    return")
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


def prelude(text: str) -> str:
    """Module-level definitions that the host program needs, in JAX; imports of torch go away."""
    translator = Translator(torch_imports(text))
    kept = [
        line
        for line in text.split("\n")
        if not line.startswith(("import torch", "from torch"))
    ]
    source = "\n".join(kept).strip("\n")
    return translator.statement(source) if source else ""


def signature_keywords(signature: Mapping[str, object], static: Sequence[str] = ()) -> str:
    """``x="f16[M,K]", y="f16[K,N]"``: what the shim's decorator checks."""
    texts = []
    for name, spec in signature.items():
        prefix = "static " if name in static else ""
        quote = "'" if '"' in str(spec) else '"'
        texts.append(f"{name}={quote}{prefix}{spec}{quote}")
    return ", ".join(texts)


def decorator(signatures: Sequence[Mapping[str, object]], static: Sequence[str] = ()) -> list[str]:
    """``@kt.kernel(x="f16[M,K]", y="f16[K,N]")``; several signatures are alternatives."""
    if len(signatures) == 1:
        return wrap(f"@kt.kernel({signature_keywords(signatures[0], static)})", 0)
    inner = ", ".join(f"dict({signature_keywords(s, static)})" for s in signatures)
    return wrap(f"@kt.kernel({inner})", 0)


def static_scalars(kernel: ir.Kernel, program: HostProgram) -> list[str]:
    """Scalar parameters whose values the host program needs while it is traced: those that sizes
    are made of, and those that its statements branch on or compute with in Python."""
    scalars = [p.name for p in kernel.params if p.kind == "scalar"]
    sizes = {s for s in _sizes(kernel) for s in s.syms}
    names = {s.name for s in sizes if isinstance(s, Sym)}
    texts = [s.text for s in program.statements if s.text]
    asked = {name for name in scalars for text in texts if _branches_on(text, name)}
    return [name for name in scalars if name in names or name in asked]


def _sizes(kernel: ir.Kernel) -> list[Size]:
    found = [s for t in kernel.tensors for s in t.shape]
    for phase in kernel.phases:
        found += [s for axis in phase.axes for s in (axis.begin, axis.end)]
    return found


def _branches_on(text: str, name: str) -> bool:
    import re

    tests = re.findall(r"(?:^|\s)(?:if|elif|assert|while|for)\b([^\n]*)", text)
    return any(re.search(rf"\b{name}\b", test) for test in tests) or bool(
        re.search(rf"\b(?:int|float|bool|range|math\.\w+|round|min|max)\([^)]*\b{name}\b", text)
    )
