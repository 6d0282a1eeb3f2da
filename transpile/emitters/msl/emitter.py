"""The Metal emitter: kernels of one source file -> a .metal file and its host module."""

from __future__ import annotations

from dataclasses import replace

from transpile import __version__, resources
from transpile.emitters import EmitOptions, EmitResult, SourceInfo
from transpile.emitters.common.hostfunctions import HostVariant, host_functions, tags
from transpile.emitters.common.module import host_imports, joined, kernel_header, preludes
from transpile.emitters.common.templates import render_template
from transpile.emitters.msl import ops
from transpile.emitters.msl.comments import ascii_text
from transpile.emitters.msl.dtypes import NAMES
from transpile.emitters.msl.families import described, refused, requirements
from transpile.emitters.msl.helpers import TEXTS, in_order
from transpile.emitters.msl.host import Version, launched, launcher_texts
from transpile.emitters.msl.kernel import MetalKernel
from transpile.emitters.msl.lower import FOLLOWED, Variant, lower_kernel
from transpile.emitters.msl.names import Scope, legal
from transpile.emitters.msl.sharing import share
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError


def emit(source: SourceInfo, groups: list[list[ir.Kernel]], options: EmitOptions) -> EmitResult:
    """Both files for all kernels of the source; KtError with all that Metal cannot do."""
    problems: list[Diagnostic] = []
    variants: list[list[Variant]] = []
    for group in groups:
        lowered = []
        for kernel in group:
            try:
                lowered.append(lower_kernel(kernel, options.arch or "", source.text))
            except KtError as failed:
                problems += failed.diagnostics
                continue
            problems += _missing(lowered[-1], options.arch or "")
        variants.append(lowered)
    if problems:
        raise KtError(*problems)
    metal, launchers = _metal_file(source, variants)
    python = _python_file(source, variants, launchers, metal, options)
    return EmitResult({f"{source.stem}.metal": metal, f"{source.stem}_metal.py": python})


def _missing(variant: Variant, arch: str) -> list[Diagnostic]:
    """What the family of GPUs lacks that a kernel asks for."""
    needs = {f: s for codes in variant.phases for c in codes for f, s in c.needs.items()}
    return [d for problem in refused(needs, arch) for d in problem.diagnostics]


# -- names -----------------------------------------------------------------------------------------


class _Names:
    """Names of the functions and structs in one .metal file."""

    def __init__(self) -> None:
        self.scope = Scope(TEXTS)
        self.functions: dict[str, str] = {}  # by text
        self.instances: dict[str, int] = {}  # by text, where the template is in texts
        self.entries: dict[tuple[str, ...], str] = {}  # by text and arguments
        self.structs: dict[str, str] = {}  # by members
        self.texts: list[str] = []

    def function(self, name: str, code: MetalKernel, tag: str, family: str) -> str:
        """The name of the function with this code: one known, or a new one. A template is called
        ``family``, and ``name`` is what the host knows the instance by."""
        if not code.parameters:
            if code.text not in self.functions:
                self._write(name, code, tag)
            return self.functions[code.text]
        if code.text not in self.functions:
            self._write(family, code, tag)
            self.instances[code.text] = len(self.texts) - 1
        instance = code.text, *code.arguments
        if instance not in self.entries:
            self.entries[instance] = entry = self._declare(name)
            line = code.instance(self.functions[code.text], entry)
            at = self.instances[code.text]
            self.texts[at] += ("\n\n" if self.texts[at].endswith("}") else "\n") + line
        return self.entries[instance]

    def _write(self, name: str, code: MetalKernel, tag: str) -> None:
        self.functions[code.text] = function = self._declare(name)
        struct = self._struct(code, tag)
        self.texts.append(code.function(function, struct))

    def _declare(self, name: str) -> str:
        return self.scope.declare(name if legal(name) == name else f"{name}_kernel")

    def _struct(self, code: MetalKernel, tag: str) -> str:
        members = code.struct("Params")
        if members and members not in self.structs:
            name = _camel(code.source.name) + "Params"
            if self.scope.taken(name):
                name = _camel(code.source.name + tag) + "Params"
            self.structs[members] = name = self.scope.declare(name)
            self.texts.append(code.struct(name))
        return self.structs.get(members, "")


def _camel(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _metal_file(source: SourceInfo, groups: list[list[Variant]]) -> tuple[str, list[str]]:
    """The text of the .metal file, and for each source kernel its launchers."""
    names = _Names()
    launchers = []
    for group in groups:
        if group:
            share(group)
    for group in groups:
        texts = []
        for variant, tag in zip(group, tags([v.kernel for v in group]), strict=True):
            texts += _name_phases(variant, tag, names)
        launchers.append("\n".join(texts))
    codes = [c for group in groups for v in group for versions in v.phases for c in versions]
    wanted = {h for c in codes for h in c.helpers}
    helpers = [TEXTS[h] for h in in_order(wanted - {"UNROLL"})]
    helpers += dict.fromkeys(text for c in codes for _, text in sorted(c.made.items()))
    headers = [h for g in groups for v in g for h in kernel_header(v.kernel, v.schedule, FOLLOWED)]
    needs = {feature for c in codes for feature in c.needs}
    text = render_template(
        "msl", "module.metal.jinja",
        requirements=requirements(needs, [*names.texts, *helpers]),
        version=__version__,
        filename=ascii_text(source.filename),
        digest=source.digest,
        headers=[ascii_text(line) for line in headers],
        includes=sorted({i for c in codes for i in c.includes}),
        unroll="UNROLL" in wanted,
        helpers=helpers,
        kernels=names.texts,
    )  # fmt: skip
    return text, launchers


def _name_phases(variant: Variant, tag: str, names: _Names) -> list[str]:
    """Names for the kernels of a variant, and the text of their launchers."""
    texts = []
    for i, codes in enumerate(variant.phases):
        step = f"_{i + 1}" if len(variant.phases) > 1 else ""
        versions = []
        for code in codes:
            capacities = code.kernel.capacities
            row = f"_{capacities[0][1]}" if capacities else "_long" if len(codes) > 1 else ""
            name = f"{variant.kernel.name}{tag}{step}"
            family = f"{variant.kernel.name}{step}" + (row if not capacities else "")
            function = names.function(name + row, code, tag, family)
            versions.append(Version(code, function, f"_{name}{row}_launch"))
        launch = launched(versions)
        if launch.row:
            first = replace(versions[0], launcher=f"_{name}_launch")
            launch = replace(launch, versions=[first, *versions[1:]])
        variant.launches.append(launch)
        texts += launcher_texts(launch, "_METAL")
    return texts


# -- the host module -------------------------------------------------------------------------------


def _python_file(
    source: SourceInfo, groups: list[list[Variant]], launchers: list[str], metal: str,
    options: EmitOptions,
) -> str:  # fmt: skip
    functions = []
    for group in groups:
        names = tags([v.kernel for v in group])
        hosted = [
            HostVariant(v.kernel, v.schedule, v.launches, tag)
            for v, tag in zip(group, names, strict=True)
        ]
        functions.append(host_functions(hosted))
    variants = [v for group in groups for v in group]
    imported, definitions = preludes([v.kernel for v in variants])
    library = f'_METAL = kt.Library(__file__, "{source.stem}.metal")'
    if options.inline_shim:
        library = f'_METAL = kt.Library(__file__, "{source.stem}.metal", r"""\n{metal}""")'
    return render_template(
        "msl", "module.py.jinja",
        version=__version__,
        source=source,
        headers=[h for v in variants for h in kernel_header(v.kernel, v.schedule, FOLLOWED)],
        host_imports=host_imports(imported, [*functions, *definitions], ("import torch",)),
        future=any(line.startswith("from __future__") for line in imported),
        prelude=joined(definitions),
        inline_shim=resources.shim("metal").rstrip("\n") if options.inline_shim else "",
        library=library,
        launchers=launchers,
        functions=functions,
    )  # fmt: skip


def capabilities() -> dict[str, object]:
    """What `kt targets` prints, from the tables the emitter uses."""
    return {
        "ops": sorted(ops.ELEMENTWISE),
        "reductions": sorted(ops.REDUCTIONS),
        "dtypes": [d.name for d in NAMES],
        "features": list(ops.FEATURES),
        "families": described(),
    }
