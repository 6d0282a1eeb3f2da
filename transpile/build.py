"""The one pipeline: source files -> Tile IR -> target sources, in memory.

``build`` never writes; ``transpile.outputs`` does. Problems are collected, not raised, so that all
of them are known in one run; whatever escapes a stage as another exception is a bug of kt and
becomes a KT0900 diagnostic.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from transpile import resources, sources
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError, error, in_file

if TYPE_CHECKING:
    from transpile.emitters import EmitResult, Target
    from transpile.frontend import FrontendResult
    from transpile.frontend.project import ProjectConfig

#: targets of the design whose emitters this version does not have
PLANNED = ("cute",)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the command line says; ``args`` and ``sets`` are texts by parameter name."""

    targets: tuple[str, ...] = ("triton",)
    kernels: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    config_file: str | None = None
    arch: str | None = None
    inline_shim: bool = False
    keep_going: bool = False


@dataclass(slots=True)
class BuiltKernel:
    """One kernel for one signature, as the report names it."""

    name: str
    signature: str


@dataclass(slots=True)
class BuiltFile:
    """What became of one source file. ``outputs`` maps names to texts."""

    path: str
    text: str = ""
    kernels: list[BuiltKernel] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self.diagnostics)


@dataclass(slots=True)
class BuildResult:
    """All files of one call. ``diagnostics`` are those that belong to no single file."""

    files: list[BuiltFile] = field(default_factory=list)
    shims: dict[str, str] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def all_diagnostics(self) -> list[Diagnostic]:
        """Every diagnostic, in the order of the files; what several files say alike, once."""
        found = [d for file in self.files for d in file.diagnostics]
        return list(dict.fromkeys([*self.diagnostics, *found]))

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self.all_diagnostics())

    def outputs(self) -> dict[str, str]:
        """Generated files and shims, by name."""
        files = {name: text for file in self.files for name, text in file.outputs.items()}
        return files | (self.shims if files else {})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A parsed file: its kernels (one per signature) and what was said about them."""

    source: sources.Source
    project: ProjectConfig
    kernels: list[ir.Kernel]
    diagnostics: list[Diagnostic]


def build(paths: Sequence[str], options: BuildOptions) -> BuildResult:
    """Build every file for every target. Never raises for anything that is wrong with them."""
    result = BuildResult()
    with collecting(result.diagnostics):
        targets = resolve_targets(options)
        check_arguments(options)
        result.diagnostics += sources.check_names(paths)
        if result.failed:
            return result
        projects: dict[str, ProjectConfig] = {}
        for path in paths:
            result.files.append(_build_file(path, options, targets, projects))
        if not result.failed:
            check_kernels_known(options, (k.name for f in result.files for k in f.kernels))
        for target in targets:
            result.shims |= shim_files(target, options)
    return result


def _build_file(
    path: str,
    options: BuildOptions,
    targets: Sequence[Target],
    projects: dict[str, ProjectConfig],
) -> BuiltFile:
    built = BuiltFile(path)
    with collecting(built.diagnostics, path):
        loaded = load(path, options, projects)
        built.text = loaded.source.text
        built.diagnostics += loaded.diagnostics
        built.kernels = [BuiltKernel(k.name, k.signature) for k in loaded.kernels]
        more = (loaded.project.path, options.config_file)
        built.inputs = [path, *(os.path.relpath(p) for p in more if p)]
        for target in targets:
            built.outputs |= _emit(loaded, target, options, built.diagnostics)
    if built.failed and not options.keep_going:
        built.outputs = {}
    return built


# -- stages ------------------------------------------------------------------------------------


def load(
    path: str, options: BuildOptions, projects: dict[str, ProjectConfig] | None = None
) -> Loaded:
    """Read and parse one file. Raises KtError; other problems are in the result."""
    from transpile.frontend import FrontendOptions, SourceFile
    from transpile.frontend import load as parse
    from transpile.frontend.project import find_project

    source = sources.read(path)
    projects = {} if projects is None else projects
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in projects:
        projects[folder] = find_project(path)
    frontend_options = FrontendOptions(
        kernels=options.kernels,
        args=dict(options.args),
        sets=dict(options.sets),
        config=None if options.config is None else dict(options.config),
        project=projects[folder],
    )
    parsed: FrontendResult = parse(SourceFile(path, source.text, source.digest), frontend_options)
    found = in_file(parsed.diagnostics, path)
    if not parsed.kernels and not options.kernels and not any(d.severity == "error" for d in found):
        raise error(
            "KT0102", "the file defines no kernel", ir.Span(1, 1),
            remedy="decorate a function with `@helion.kernel`",
        )  # fmt: skip
    found += in_file(_repeated_names(parsed.kernels), path)
    return Loaded(source, projects[folder], list(parsed.kernels), found)


def _repeated_names(kernels: Iterable[ir.Kernel]) -> list[Diagnostic]:
    """KT0105 for each kernel whose name an earlier one of the file has."""
    first: dict[str, ir.Span | None] = {}
    found: dict[ir.Span | None, Diagnostic] = {}
    for kernel in kernels:
        span = first.setdefault(kernel.name, kernel.span)
        if span != kernel.span:
            line = f" in line {span.line}" if span else ""
            found[kernel.span] = Diagnostic(
                "KT0105", f"there is another kernel `{kernel.name}`{line}", kernel.span,
                why="each becomes one function of the generated module",
                remedy="rename one of them",
            )  # fmt: skip
    return list(found.values())


def _emit(
    loaded: Loaded, target: Target, options: BuildOptions, found: list[Diagnostic]
) -> dict[str, str]:
    """The files of one target. Problems go to ``found``; with --keep-going the kernels that
    have none are still built."""
    groups = group_kernels(loaded.kernels)
    if not groups:
        return {}
    problems: list[Diagnostic] = []
    files = _emit_collecting(loaded.source, groups, target, options, problems)
    found += problems
    if options.keep_going and any(d.severity == "error" for d in problems):
        fine = [g for g in groups if _emits(loaded.source, g, target, options)]
        files = _emit_collecting(loaded.source, fine, target, options, []) if fine else {}
    return files


def _emit_collecting(
    source: sources.Source,
    groups: list[list[ir.Kernel]],
    target: Target,
    options: BuildOptions,
    found: list[Diagnostic],
) -> dict[str, str]:
    files: dict[str, str] = {}
    with collecting(found, source.path):
        result = emit_groups(source, groups, target, options)
        found += in_file(result.diagnostics, source.path)
        files = dict(result.files)
    return files


def _emits(
    source: sources.Source, group: list[ir.Kernel], target: Target, options: BuildOptions
) -> bool:
    problems: list[Diagnostic] = []
    _emit_collecting(source, [group], target, options, problems)
    return not any(d.severity == "error" for d in problems)


def emit_groups(
    source: sources.Source,
    groups: list[list[ir.Kernel]],
    target: Target,
    options: BuildOptions,
) -> EmitResult:
    """Print kernels for a target; ``groups`` has one list per source kernel."""
    from transpile.emitters import EmitOptions, SourceInfo

    emitter = importlib.import_module(target.module)
    info = SourceInfo(source.stem, source.filename, source.digest, source.text)
    emit: Callable[..., EmitResult] = emitter.emit
    return emit(info, groups, EmitOptions(arch=options.arch, inline_shim=options.inline_shim))


def shim_files(target: Target, options: BuildOptions) -> dict[str, str]:
    """The shims to write beside the target's modules, by name; none where they are inlined."""
    names = () if options.inline_shim else target.shims
    return {name: resources.read("runtime_shims", name) for name in names}


def group_kernels(kernels: Iterable[ir.Kernel]) -> list[list[ir.Kernel]]:
    """The signatures of each kernel together; the frontend hands them over adjacent."""
    return [list(group) for _, group in groupby(kernels, key=lambda k: k.name)]


# -- targets and arguments ---------------------------------------------------------------------


def resolve_targets(options: BuildOptions) -> list[Target]:
    """The registry's entries for the chosen targets. Raises KtError KT0601, KT0010."""
    from transpile.emitters import TARGETS

    names = dict.fromkeys(options.targets)
    if "all" in names:
        names = dict.fromkeys(TARGETS)
    for name in names:
        if name not in TARGETS:
            available = ", ".join(TARGETS)
            raise error(
                "KT0601", f"target `{name}` is not available yet",
                why=f"this version of kt writes: {available}",
                remedy=f"build with `-t {available.split(', ', maxsplit=1)[0]}`; "
                "`kt targets` lists what each target supports",
            )  # fmt: skip
    chosen = [TARGETS[name] for name in names]
    if options.arch is not None and not any(options.arch in t.archs for t in chosen):
        known = ", ".join(a for t in chosen for a in t.archs)
        raise error("KT0010", f"unknown architecture `{options.arch}`", remedy=f"one of {known}")
    return chosen


def check_arguments(options: BuildOptions) -> None:
    """Every --arg and --set text can be read, whether or not a kernel has the parameter."""
    from transpile.frontend.signatures import parse_literal, parse_spec

    found: list[Diagnostic] = []
    for name, text in options.args.items():
        with collecting(found):
            parse_spec(text, f"--arg {name}")
    for name, text in options.sets.items():
        with collecting(found):
            parse_literal(text, f"--set {name}")
    if found:
        raise KtError(*found)


def check_kernels_known(options: BuildOptions, names: Iterable[str]) -> None:
    """KtError KT0011 for each --kernel that is not among the names that the files define."""
    known = set(names)
    found = [
        Diagnostic("KT0011", f"no kernel `{name}`", remedy=_closest(name, known))
        for name in options.kernels
        if name not in known
    ]
    if found:
        raise KtError(*found)


def _closest(name: str, known: set[str]) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, known, 1) or sorted(known)
    return f"there is {', '.join(f'`{n}`' for n in near)}" if near else ""


# -- looking at --------------------------------------------------------------------------------


def print_ir(kernel: ir.Kernel, stage: str) -> str:
    """The kernel's IR as text: as the frontend made it (``tile``), for the default schedule
    without needless masks (``masked``), or what one thread does on Metal (``thread``)."""
    from transpile.ir.printer import format_kernel

    if stage == "thread":
        from transpile.emitters.msl.lower import thread_kernels
        from transpile.thread.printer import format_kernel as format_thread

        return "\n".join(format_thread(k) for k in thread_kernels(kernel))
    if stage == "masked":
        from transpile.passes.masks import remove_masks
        from transpile.passes.schedule import resolve

        kernel = remove_masks(kernel, resolve(kernel, "triton").blocks, pads_size_axes=True)
    return format_kernel(kernel)


def capabilities() -> dict[str, dict[str, list[str]]]:
    """What each target supports, from the tables its emitter uses."""
    from transpile.emitters import TARGETS

    return {
        name: importlib.import_module(target.module).capabilities()
        for name, target in TARGETS.items()
    }


def texts_of(paths: Iterable[str]) -> dict[str, str]:
    """The texts of files that can be read, for printing diagnostics."""
    found = {}
    for path in paths:
        with suppress(OSError, ValueError), open(path, encoding="utf-8-sig") as stream:
            found[path] = stream.read(sources.MAX_BYTES)
    return found


# -- errors ------------------------------------------------------------------------------------


@contextmanager
def collecting(found: list[Diagnostic], file: str = "") -> Iterator[None]:
    """Put what goes wrong inside into ``found``: diagnostics, and bugs of kt as KT0900."""
    try:
        yield
    except KtError as exc:
        found += in_file(exc.diagnostics, file)
    except Exception as exc:  # noqa: BLE001 - a traceback is never the user's business
        if os.environ.get("KT_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        found.append(internal_error(exc, file))


def internal_error(exc: Exception, file: str = "") -> Diagnostic:
    """KT0900 for an exception that no stage meant to raise, with the innermost place in kt."""
    if isinstance(exc, RecursionError):
        return Diagnostic("KT0104", "the source is nested too deeply", ir.Span(1, 1), file=file)
    import traceback  # only on the way to an error

    frames = traceback.extract_tb(exc.__traceback__)
    ours = [f for f in frames if f"{os.sep}transpile{os.sep}" in f.filename] or list(frames)
    place = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else "unknown"
    summary = str(exc).split("\n", 1)[0][:200]
    message = f"internal error: {type(exc).__name__}: {summary}" if summary else ""
    return Diagnostic(
        "KT0900", message or f"internal error: {type(exc).__name__}", file=file,
        why=f"a bug in kt, at {place}",
        remedy="report it with the source; KT_DEBUG=1 prints the traceback",
    )  # fmt: skip
