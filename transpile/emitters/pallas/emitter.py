"""The Pallas emitter: kernels of one source file -> one module of jax functions."""

from __future__ import annotations

import re

from transpile import __version__, resources
from transpile.emitters import EmitOptions, EmitResult, SourceInfo
from transpile.emitters.common.hostfunctions import mentions
from transpile.emitters.common.layout import WIDTH, wrap
from transpile.emitters.common.module import host_imports, joined, kernel_header
from transpile.emitters.common.templates import render_template
from transpile.emitters.pallas import hostjax, ops
from transpile.emitters.pallas.dtypes import NAMES, ON_DEVICE
from transpile.emitters.pallas.helpers import HELPERS, with_uses
from transpile.emitters.pallas.hostjax_text import host_calls
from transpile.emitters.pallas.hostjax_variants import host_functions, suffixes
from transpile.emitters.pallas.merge import Signature, lowered
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.ir.dtypes import F16


def emit(source: SourceInfo, groups: list[list[ir.Kernel]], options: EmitOptions) -> EmitResult:
    """One module for all kernels of the file; KtError with all that a TPU cannot do."""
    problems: list[Diagnostic] = []
    variants: list[list[Signature]] = []
    for group in groups:
        try:
            variants.append(lowered(group, options.arch or ""))
        except KtError as failed:
            problems += failed.diagnostics
    if problems:
        raise KtError(*dict.fromkeys(problems))
    text = _module(source, variants, options)
    notes = [n for group in variants for v in group for n in v.schedule.notes]
    return EmitResult({f"{source.stem}_pallas.py": text}, tuple(dict.fromkeys(notes)))


def _module(source: SourceInfo, groups: list[list[Signature]], options: EmitOptions) -> str:
    kernels = [_name_phases(group) for group in groups]
    functions = [_host_functions(group) for group in groups]
    variants = [v for group in groups for v in group]
    imported, definitions = hostjax.preludes([v.kernel for v in variants])
    helpers = with_uses({h for v in variants for p in v.phases for h in p.helpers})
    texts = [*kernels, *functions, *definitions, *(HELPERS[h] for h in helpers)]
    return render_template(
        "pallas", "module.py.jinja",
        version=__version__,
        source=source,
        headers=_headers(variants),
        host_imports=_host_imports([*imported, "import functools"], texts),
        jnp=mentions("jnp", texts),
        lax=mentions("lax", texts),
        prelude=joined(definitions),
        helpers=[HELPERS[h].strip("\n") for h in helpers],
        kernels=kernels,
        functions=functions,
        inline_shim=resources.shim("pallas").rstrip("\n") if options.inline_shim else "",
    )  # fmt: skip


#: keys of a config that mean something here; the header names no others
FOLLOWED = frozenset({"block_sizes", "reduction_loops", "pallas_loop_type"})

_OURS = ("import jax", "import jax.numpy as jnp", "from jax import lax")


def _headers(variants: list[Signature]) -> list[str]:
    """What the kernels were built for."""
    lines = [h for v in variants for h in kernel_header(v.kernel, v.schedule, FOLLOWED)]
    if any(t.dtype == F16 for v in variants for t in v.kernel.tensors):
        lines.append("float16 arrays go through kernels as float32: Mosaic has no float16.")
    return lines


def _host_imports(imported: list[str], texts: list[str]) -> list[str]:
    """What the host programs import; torch is mentioned in docstrings only."""
    lines = [line for line in host_imports(imported, texts, _OURS) if line != "import torch"]
    return lines[:-1] if lines[-1:] == [""] else lines


def _host_functions(group: list[Signature]) -> str:
    return host_functions([hostjax.Variant(v.kernel, v.schedule, v.phases) for v in group])


def _name_phases(group: list[Signature]) -> str:
    """Kernels and call functions of one source kernel, each text once."""
    name = group[0].kernel.name
    several = len(group[0].phases) > 1
    parts: list[str] = []
    for number in range(len(group[0].phases)):
        step = f"_{number + 1}" if several else ""
        texts = list(dict.fromkeys(s.phases[number].text for s in group))
        alike = [[s.kernel for s in group if s.phases[number].text == text] for text in texts]
        for i, (text, suffix) in enumerate(zip(texts, suffixes(alike), strict=True)):
            stem = f"_{name}{suffix if i else ''}{step}"  # the first keeps the source's name
            sharing = [s.phases[number] for s in group if s.phases[number].text == text]
            for phase in sharing:
                phase.name = f"{stem}_call"
            parts += [_named(sharing[0].kernel_text, stem), _named(sharing[0].call_text, stem)]
    return "\n\n\n".join(parts)


def _named(text: str, stem: str) -> str:
    """The text with the functions' names, which may make a line too long."""
    lines = re.sub(r"\{(kernel|call)\}", lambda m: f"{stem}_{m[1]}", text).split("\n")
    return "\n".join(line for long in lines for line in _fitted(long))


def _fitted(line: str) -> list[str]:
    if len(line) <= WIDTH or not line.lstrip().startswith(("def ", "functools.partial(")):
        return [line]
    after = "," if line.endswith(",") else ""
    *lines, last = wrap(line.strip().removesuffix(","), len(line) - len(line.lstrip()))
    return [*lines, last + after]


def capabilities() -> dict[str, object]:
    """What `kt targets` prints, from the tables the emitter uses."""
    return {
        "ops": sorted(ops.ELEMENTWISE),
        "reductions": sorted(ops.REDUCTIONS),
        "dtypes": [d.name for d in (*NAMES, *ON_DEVICE)],
        "features": list(ops.FEATURES),
        "host calls": host_calls(),
    }
