"""The Triton emitter: kernels of one source file -> one module."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transpile import __version__
from transpile.emitters import EmitOptions, EmitResult, SourceInfo
from transpile.emitters.triton import host, ops
from transpile.emitters.triton.context import Argument
from transpile.emitters.triton.dtypes import NAMES
from transpile.emitters.triton.layout import wrap
from transpile.emitters.triton.lower import LoweredPhase, lower
from transpile.emitters.triton.tree import lit
from transpile.emitters.triton.templates import render_template
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import Schedule, resolve


@dataclass(eq=False, slots=True)
class _Variant:
    """One kernel for one signature, lowered."""

    kernel: ir.Kernel
    schedule: Schedule
    phases: list[LoweredPhase]
    names: list[str]  # of the jit functions
    launchers: list[str]

    def header(self) -> str:
        config = self.schedule.describe()
        return f"{self.kernel.name}: {self.kernel.signature}" + (f"; {config}" if config else "")


def emit(source: SourceInfo, groups: list[list[ir.Kernel]], options: EmitOptions) -> EmitResult:
    """One module for all kernels of the file; KtError with all that Triton cannot do."""
    problems: list[Diagnostic] = []
    variants: list[list[_Variant]] = []
    for group in groups:
        lowered = []
        for kernel in group:
            try:
                lowered.append(_lower(kernel))
            except KtError as failed:
                problems += failed.diagnostics
        variants.append(lowered)
    if problems:
        raise KtError(*problems)
    text = _module(source, variants, options)
    return EmitResult({f"{source.stem}_triton.py": text})


def _lower(kernel: ir.Kernel) -> _Variant:
    schedule = resolve(kernel, "triton")
    kernel = prepare(kernel, schedule)
    phases = [lower(kernel, phase, schedule) for phase in kernel.phases]
    return _Variant(kernel, schedule, phases, [], [])


# -- the module ------------------------------------------------------------------------------------


def _module(source: SourceInfo, groups: list[list[_Variant]], options: EmitOptions) -> str:
    functions: list[str] = []
    kernels: list[str] = []
    for group in groups:
        kernels.append(_name_kernels(group))
        functions.append(_host_functions(group))
    variants = [v for group in groups for v in group]
    imports = {i for v in variants for p in v.phases for i in p.imports}
    helpers = {k: t for v in variants for p in v.phases for k, t in sorted(p.helpers.items())}
    preludes = list(dict.fromkeys(v.kernel.prelude.strip("\n") for v in variants if v.kernel.prelude.strip()))
    headers = [line for v in variants for line in _comment(v.header())]
    return render_template(
        "module.py.jinja",
        version=__version__,
        source=source,
        headers=headers,
        needs_torch=_mentions("torch", [*functions, *preludes]),
        imports=imports,
        prelude="\n".join(preludes),
        helpers=[text.strip("\n") for text in helpers.values()],
        kernels=[k for k in kernels if k],
        functions=functions,
        inline_shim=options.inline_shim,
    )


def _mentions(word: str, texts: list[str]) -> bool:
    return any(re.search(rf"\b{word}\b", text) for text in texts)


def _comment(text: str) -> list[str]:
    """A header line; a long one continues indented."""
    if len(text) <= 98:
        return [text]
    cut = text.rfind(", ", 0, 98)
    return [text] if cut < 40 else [text[: cut + 1], *("  " + t for t in _comment(text[cut + 2 :]))]


def _name_kernels(group: list[_Variant]) -> str:
    """Jit functions and launchers of one source kernel; equal code of two signatures is shared."""
    by_text: dict[str, str] = {}
    parts: list[str] = []
    launchers: list[str] = []
    for number, variant in enumerate(group):
        tag = _tag(group, variant)
        for i, phase in enumerate(variant.phases):
            step = f"_{i + 1}" if len(variant.phases) > 1 else ""
            text = phase.text
            if text not in by_text:
                taken = set(by_text.values())
                name = f"_{variant.kernel.name}_kernel{step}"
                if name in taken:
                    name = f"_{variant.kernel.name}{tag}_kernel{step}"
                while name in taken:
                    name += "_"
                by_text[text] = name
                parts.append(_kernel_text(name, phase).strip("\n"))
            variant.names.append(by_text[text])
            launcher = f"_{variant.kernel.name}{tag}_launch{step}"
            variant.launchers.append(launcher)
            launchers.append(_launcher_text(launcher, by_text[text], variant, phase))
        del number
    return "\n\n\n".join(parts) + "\n\n\n" + "\n".join(launchers)


def _tag(group: list[_Variant], variant: _Variant) -> str:
    """What tells this signature from the others of the kernel: its dtypes, or a number."""
    if len(group) == 1:
        return ""
    tags = ["_" + "_".join(dict.fromkeys(t.dtype.name for t in v.kernel.tensors if t.param)) for v in group]
    mine = tags[group.index(variant)]
    return mine if tags.count(mine) == 1 else f"_{group.index(variant) + 1}"


def _kernel_text(name: str, phase: LoweredPhase) -> str:
    params = [a.var.name + (": tl.constexpr" if a.constexpr else "") for a in phase.parameters]
    head = "\n".join(_signature(f"def {name}", params))
    return render_template("kernel.py.jinja", head=head, body=phase.body)


def _signature(head: str, params: list[str]) -> list[str]:
    one = f"{head}({', '.join(params)}):"
    if len(one) <= 100:
        return [one]
    run_time = [p for p in params if ":" not in p]
    constexprs = [p for p in params if ":" in p]
    lines = [f"{head}("]
    for group in (run_time, constexprs):
        line = ""
        for p in group:
            if line and len(line) + len(p) + 7 > 100:
                lines.append(line)
                line = ""
            line = f"{line} {p}," if line else f"    {p},"
        if line:
            lines.append(line)
    return [*lines, "):"]


def _launcher_text(launcher: str, kernel: str, variant: _Variant, phase: LoweredPhase) -> str:
    specs = ", ".join(f'"{a.var.name}": "{tensor_spec(variant.kernel, t)}"' for a, t in _tensors(phase))
    options = [f"{a.var.name}={_option(a)}" for a in phase.parameters if a.constexpr]
    options += [f"{k}={v!r}" for k, v in variant.schedule.launch_options().items()]
    if variant.kernel.index_dtype is not None and variant.kernel.index_dtype.bits == 64:
        options.append("index64=True")
    call = f"{launcher} = kt.Launcher({', '.join([kernel, '{' + specs + '}', *options])})"
    return "\n".join(wrap(call, 0))


def _option(argument: Argument) -> str:
    """A compile-time argument's value: a number, or how it follows from the launch's arguments."""
    if argument.per_launch is None:
        return argument.host
    value = argument.per_launch.replace_vars(lambda v: lit(f'args["{v.name}"]'))
    return f"lambda args: {value.text()}"


def _tensors(phase: LoweredPhase) -> list[tuple[Argument, ir.Tensor]]:
    arguments = [a for a in phase.parameters if a.order[0] == 0]
    return list(zip(arguments, phase.tensors, strict=True))


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


# -- host functions --------------------------------------------------------------------------------


def _host_functions(group: list[_Variant]) -> str:
    first = group[0]
    texts = [_host_text(v) for v in group]
    if len(group) == 1:
        return texts[0]
    raise NotImplementedError(f"several signatures of {first.kernel.name}")


def _host_text(variant: _Variant) -> str:
    launches = {
        i: host.launch_call(variant.launchers[i], phase.grid, phase.parameters)
        for i, phase in enumerate(variant.phases)
    }
    body = host.body(variant.kernel, variant.schedule, launches)
    return host.signature(variant.kernel) + "\n" + body


def capabilities() -> dict[str, object]:
    """What `kt targets` prints, from the tables the emitter uses."""
    return {
        "ops": sorted(ops.ELEMENTWISE),
        "reductions": sorted(ops.REDUCTIONS),
        "dtypes": [d.name for d in NAMES],
        "features": list(ops.FEATURES),
    }
