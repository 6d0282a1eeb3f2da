"""The Triton emitter: kernels of one source file -> one module."""

from __future__ import annotations

import re
import textwrap

from transpile import __version__, resources
from transpile.emitters import EmitOptions, EmitResult, SourceInfo
from transpile.emitters.common.hostfunctions import host_functions, tags
from transpile.emitters.common.layout import wrap
from transpile.emitters.common.module import (
    host_imports,
    is_new,
    joined,
    kernel_header,
    preludes,
    tensor_spec,
)
from transpile.emitters.common.templates import render_template
from transpile.emitters.common.tree import lit
from transpile.emitters.triton import ops
from transpile.emitters.triton.arguments import Argument
from transpile.emitters.triton.dtypes import NAMES
from transpile.emitters.triton.lower import LoweredPhase, lower
from transpile.emitters.triton.variants import Variant
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError, note
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import resolve


def emit(source: SourceInfo, groups: list[list[ir.Kernel]], options: EmitOptions) -> EmitResult:
    """One module for all kernels of the file; KtError with all that Triton cannot do."""
    problems: list[Diagnostic] = []
    variants: list[list[Variant]] = []
    for group in groups:
        lowered = []
        for kernel in group:
            try:
                lowered.append(_lower(kernel, options.arch or ""))
            except KtError as failed:
                problems += failed.diagnostics
        variants.append(lowered)
    if problems:
        raise KtError(*problems)
    text = _module(source, variants, options)
    notes = [n for group in variants for v in group for n in _notes(v)]
    return EmitResult({f"{source.stem}_triton.py": text}, tuple(dict.fromkeys(notes)))


#: why a key of the config cannot be followed, and what to do
_LEFT_OUT = {
    "range_warp_specializes": (
        "warp specialisation hangs on sm_90 with Triton 3.6",
        "build with `--arch sm_100` where the code is for Blackwell only",
    ),
    "indexing": (
        "Triton has no block pointers any more; pointers are written, as its compiler made of them",
        'say "pointer", or "tensor_descriptor" for TMA',
    ),
}


def _notes(variant: Variant) -> list[Diagnostic]:
    return [
        note(
            "KT0604",
            f"`{key}` of `{variant.kernel.name}` is left out",
            variant.kernel.span,
            why=_LEFT_OUT[key][0],
            remedy=_LEFT_OUT[key][1],
        )
        for key in sorted(variant.schedule.left_out)
    ]


def _lower(kernel: ir.Kernel, arch: str) -> Variant:
    schedule = resolve(kernel, "triton", arch)
    kernel = prepare(kernel, schedule)
    phases = [lower(kernel, phase, schedule) for phase in kernel.phases]
    return Variant(kernel, schedule, phases, [])


# -- the module ------------------------------------------------------------------------------------


def _module(source: SourceInfo, groups: list[list[Variant]], options: EmitOptions) -> str:
    functions: list[str] = []
    kernels: list[str] = []
    for group in groups:
        names = tags([v.kernel for v in group])
        kernels.append(_name_kernels(group, names))
        functions.append(host_functions([v.on_host(n) for v, n in zip(group, names, strict=True)]))
    variants = [v for group in groups for v in group]
    imports = {i for v in variants for p in v.phases for i in p.imports}
    helpers = {k: t for v in variants for p in v.phases for k, t in sorted(p.helpers.items())}
    imported, definitions = preludes([v.kernel for v in variants])
    headers = [line for v in variants for line in kernel_header(v.kernel, v.schedule)]
    return render_template(
        "triton", "module.py.jinja",
        version=__version__,
        source=source,
        headers=headers,
        host_imports=host_imports(imported, [*functions, *definitions], _OURS),
        imports=imports,
        prelude=joined(definitions),
        helpers=[text.strip("\n") for text in helpers.values()],
        kernels=[k for k in kernels if k],
        functions=functions,
        inline_shim=_shim() if options.inline_shim else "",
        future=any(line.startswith("from __future__") for line in imported),
    )  # fmt: skip


_OURS = ("import torch", "import triton", "import triton.language as tl")


def _shim() -> str:
    """The shim's text as part of the module: its names are reached through ``kt`` all the same.

    The repairs of Triton's interpreter stand where the shim would import them.
    """
    text = resources.shim("triton").rstrip("\n")
    head, last = text.rsplit("\n", 1)
    assert "importlib.import_module" in last
    repairs = resources.read("runtime_shims", "_kt_triton_interpret.py").rstrip("\n")
    return head + "\n" + textwrap.indent(repairs, "    ") + "\n"


def _name_kernels(group: list[Variant], tag_names: list[str]) -> str:
    """Jit functions and launchers of one source kernel; equal code of two signatures is shared."""
    by_text: dict[str, str] = {}
    parts: list[str] = []
    launchers: list[str] = []
    _share_code(group)
    for variant, tag in zip(group, tag_names, strict=True):
        for i, phase in enumerate(variant.phases):
            step = f"_{i + 1}" if len(variant.phases) > 1 else ""
            names = []
            for version, kind in ((phase, "_tma" if phase.fallback else ""), (phase.fallback, "")):
                if version is None:
                    continue
                kernel = _jit_name(variant.kernel.name, tag, kind, step, version, by_text)
                if kernel not in {p.split("(")[0].split()[-1] for p in parts}:
                    parts.append(_kernel_text(kernel, version).strip("\n"))
                names.append(f"_{variant.kernel.name}{tag}{kind}_launch{step}")
                launchers.append(_launcher_text(names[-1], kernel, variant, version))
            variant.launchers.append(names)
    return "\n\n\n".join(parts) + "\n\n\n" + "\n".join(launchers)


def _jit_name(
    name: str, tag: str, kind: str, step: str, phase: LoweredPhase, by_text: dict[str, str]
) -> str:
    """The jit function with this code: one known, or a new name."""
    if phase.text not in by_text:
        taken = set(by_text.values())
        candidate = f"_{name}{kind}_kernel{step}"
        if candidate in taken:
            candidate = f"_{name}{tag}{kind}_kernel{step}"
        while candidate in taken:
            candidate += "_"
        by_text[phase.text] = candidate
    return by_text[phase.text]


def _share_code(group: list[Variant]) -> None:
    """Let signatures use each other's code where all that differs is casts to f32, which do
    nothing to f32."""
    for number in range(len(group[0].phases)):
        for variant in group[1:]:
            for other in group[: group.index(variant)]:
                if _share(variant, other, number):
                    break


def _share(variant: Variant, other: Variant, number: int) -> bool:
    mine, theirs = variant.phases[number], other.phases[number]
    if mine.fallback or theirs.fallback or mine.text == theirs.text:
        return mine.text == theirs.text
    if _without_casts(mine) != _without_casts(theirs):
        named = mine.named_loads | theirs.named_loads
        if not named or mine.named_loads == theirs.named_loads:
            return False
        phases = [
            lower(v.kernel, v.kernel.phases[number], v.schedule, named) for v in (variant, other)
        ]
        if _without_casts(phases[0]) != _without_casts(phases[1]):
            return False
        mine, theirs = variant.phases[number], other.phases[number] = phases
    longer, shorter = sorted((mine, theirs), key=lambda p: -p.body.count(_WIDEN))
    shorter.body, shorter.imports, shorter.helpers = longer.body, longer.imports, longer.helpers
    return True


_WIDEN = ".to(tl.float32)"


def _without_casts(phase: LoweredPhase) -> str:
    return re.sub(r"\s+|,(?=\s*[)\]])", "", phase.text.replace(_WIDEN, ""))


def _kernel_text(name: str, phase: LoweredPhase) -> str:
    params = [a.var.name + (": tl.constexpr" if a.constexpr else "") for a in phase.parameters]
    head = "\n".join(_signature(f"def {name}", params))
    return render_template("triton", "kernel.py.jinja", head=head, body=phase.body)


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


def _launcher_text(launcher: str, kernel: str, variant: Variant, phase: LoweredPhase) -> str:
    specs = ", ".join(_spec(variant.kernel, a, t) for a, t in _tensors(phase))
    options = [f"{a.var.name}={_option(a)}" for a in phase.parameters if a.constexpr]
    launch = {k: repr(v) for k, v in variant.schedule.launch_options().items()}
    for argument in phase.parameters:
        if argument.lanes_of is not None and argument.lanes_of == variant.schedule.row:
            launch["num_warps"] = _WARPS_OF_ROW.format(argument.var.name)
    options += [f"{k}={v}" for k, v in launch.items()]
    if variant.kernel.index_dtype is not None and variant.kernel.index_dtype.bits == 64:
        options.append("index64=True")
    call = f"{launcher} = kt.Launcher({', '.join([kernel, '{' + specs + '}', *options])})"
    return "\n".join(wrap(call, 0))


#: sixteen elements a thread, as measured for rows of 1024 and more
_WARPS_OF_ROW = 'lambda args: min(32, max(2, args["{}"] // 512))'


def _option(argument: Argument) -> str:
    """A compile-time argument's value: a number, or how it follows from the launch's arguments."""
    if argument.per_launch is None:
        return argument.host
    value = argument.per_launch.replace_vars(lambda v: lit(f'args["{v.name}"]'))
    return f"lambda args: {value.text()}"


def _tensors(phase: LoweredPhase) -> list[tuple[Argument, ir.Tensor]]:
    return [(a, a.tensor) for a in phase.parameters if a.tensor is not None]


def _spec(kernel: ir.Kernel, argument: Argument, tensor: ir.Tensor) -> str:
    kind = ""
    if argument.host.startswith("kt.descriptor("):
        kind = "tma "
    elif is_new(kernel, tensor):
        kind = "new "
    return f'"{argument.var.name}": "{kind}{tensor_spec(kernel, tensor)}"'


def capabilities() -> dict[str, object]:
    """What `kt targets` prints, from the tables the emitter uses."""
    return {
        "ops": sorted(ops.ELEMENTWISE),
        "reductions": sorted(ops.REDUCTIONS),
        "dtypes": [d.name for d in NAMES],
        "features": list(ops.FEATURES),
    }
