"""The command line (described in README.md). Exit codes: 0 good, 1 stale or failed
verification, 2 wrong usage, 3 the source is wrong or unsupported."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from transpile import __version__

if TYPE_CHECKING:
    from transpile.build import BuildOptions, BuildResult
    from transpile.ir.diagnostics import Diagnostic

STALE, USAGE, UNSUPPORTED = 1, 2, 3
TARGET_NAMES = ("triton", "cute", "pallas", "metal", "all")

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Entry point of the ``kt`` script."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # source lines may hold what the terminal's encoding cannot
            reconfigure(errors="backslashreplace")
    # A build makes many small trees and few cycles; looking for those takes a tenth of its time.
    gc.set_threshold(100_000, 20, 50)
    cli(prog_name="kt")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kt")
def cli() -> None:
    """Write the source a specialist would have written, from tile-language kernels."""


# -- shared options ----------------------------------------------------------------------------


class Targets(click.ParamType[tuple[str, ...]]):
    """``triton,cute``: a comma-separated list of target names."""

    name = "TARGET[,TARGET]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The names, checked."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        for name in names:
            if name not in TARGET_NAMES:
                self.fail(f"KT0005: unknown target {name!r}; choose from {', '.join(TARGET_NAMES)}")
        return names


class Pair(click.ParamType[tuple[str, str]]):
    """``NAME=TEXT``."""

    def __init__(self, text: str) -> None:
        self.name = f"NAME={text}"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """The name and the text."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip().isidentifier():
            self.fail(f"KT0005: {value!r} is not {self.name}")
        return name.strip(), text


def _merged(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    merged: dict[str, str] = {}
    for name, text in pairs:
        if name in merged:
            raise click.BadParameter(f"KT0006: {name!r} is given twice")
        merged[name] = text
    return merged


def _config(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    """``--config`` as (settings, file): a JSON object, or ``@FILE`` with one."""
    if text is None:
        return None, None
    import json

    file = None
    if text.startswith("@"):
        file = text[1:]
        try:
            with open(file, encoding="utf-8") as stream:
                text = stream.read()
        except (OSError, UnicodeDecodeError) as exc:
            raise click.BadParameter(f"KT0009: cannot read {file!r}: {exc}") from None
    try:
        settings = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"KT0009: not JSON: {exc}") from None
    if not isinstance(settings, dict):
        raise click.BadParameter("KT0009: not a JSON object")
    return settings, file


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    settings = dict(pairs)
    if len(settings) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return settings


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


target_option = click.option(
    "-t", "--target", "targets", type=Targets(), required=True, help="Targets, or `all`."
)
kernel_option = click.option(
    "--kernel", "kernels", multiple=True, metavar="NAME", help="Only this kernel (repeatable)."
)
source_options = _options(
    click.option(
        "--arg", "args", type=Pair("SPEC"), multiple=True, callback=_merged,
        help="Signature of a parameter: x=f16[M,K], eps=f32 (repeatable).",
    ),
    click.option(
        "--set", "sets", type=Pair("VALUE"), multiple=True, callback=_merged,
        help="Compile-time value of a parameter (repeatable).",
    ),
    click.option(
        "--config", metavar="JSON|@FILE", callback=_config,
        help="Schedule for this build, keys as in helion.Config.",
    ),
    click.option("--arch", metavar="ARCH", help="Architecture, such as sm_90a."),
)  # fmt: skip

counters_option = click.option(
    "--counters", is_flag=True, help="What each launch did to memory (Metal, simulated)."
)


# -- build -------------------------------------------------------------------------------------


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@target_option
@click.option("-o", "--output", "directory", default="generated", show_default=True, metavar="DIR")
@kernel_option
@source_options
@click.option("--check", is_flag=True, help="Write nothing; exit 1 with a diff if DIR is stale.")
@click.option("--diff", is_flag=True, help="Write nothing; show the diff.")
@click.option("--depfile", metavar="FILE", help="Write a Make/Ninja dependency file.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable report on stdout.")
@click.option("--keep-going", is_flag=True, help="Write the kernels that are fine.")
@click.option("--inline-shim", is_flag=True, help="One file per module: no shim beside it.")
def build(
    files: tuple[str, ...], directory: str, check: bool, diff: bool, depfile: str | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Write generated sources."""
    from transpile import build as pipeline
    from transpile import outputs

    if check and diff:
        raise click.UsageError("--check and --diff exclude each other")
    paths = _expand(files)
    build_options = _build_options(options)
    result = pipeline.build(paths, build_options)
    with pipeline.collecting(result.diagnostics):
        result.diagnostics += outputs.replaced_inputs(directory, result.outputs(), paths)
    writable = not result.failed or build_options.keep_going
    generated = result.outputs() if writable else {}
    stale: dict[str, str] = {}
    written: list[str] = []
    with pipeline.collecting(result.diagnostics):
        if check or diff:
            stale = outputs.differences(directory, generated)
        elif generated:
            written = outputs.write_all(directory, generated)
        if depfile and writable and not (check or diff):
            _write_depfile(depfile, directory, result)
    _report(result)
    if as_json:
        click.echo(_json_report(result, directory, written, stale))
    else:
        click.echo("".join(stale.values()) or "".join(f"{p}\n" for p in written), nl=False)
    if result.failed:
        raise SystemExit(_exit_code(result.all_diagnostics()))
    raise SystemExit(STALE if check and stale else 0)


def _expand(patterns: Sequence[str]) -> list[str]:
    from transpile import sources
    from transpile.ir.diagnostics import KtError

    try:
        return sources.expand(patterns)
    except KtError as exc:
        _print_diagnostics(exc.diagnostics, {})
        raise SystemExit(USAGE) from None


def _build_options(options: dict[str, Any]) -> BuildOptions:
    from transpile.build import BuildOptions

    config, config_file = options.pop("config")
    return BuildOptions(config=config, config_file=config_file, **options)


def _write_depfile(path: str, directory: str, result: BuildResult) -> None:
    from transpile import outputs

    built = [file for file in result.files if file.outputs]
    targets = [os.path.join(directory, name) for file in built for name in file.outputs]
    inputs = dict.fromkeys(name for file in built for name in file.inputs)
    outputs.write_file(path, outputs.depfile(targets, inputs))


def _json_report(
    result: BuildResult, directory: str, written: list[str], stale: dict[str, str]
) -> str:
    import json

    files = [
        {
            "source": file.path,
            "kernels": [{"name": k.name, "signature": k.signature} for k in file.kernels],
            "outputs": [os.path.join(directory, name) for name in file.outputs],
            "failed": file.failed,
        }
        for file in result.files
    ]
    report = {
        "version": __version__,
        "files": files,
        "written": written,
        "stale": list(stale),
        "diagnostics": [d.to_json() for d in result.all_diagnostics()],
    }
    return json.dumps(report, indent=2)


def _report(result: BuildResult) -> None:
    from transpile.build import texts_of

    diagnostics = result.all_diagnostics()
    if diagnostics:
        texts = {file.path: file.text for file in result.files if file.text}
        unread = {d.file for d in diagnostics if d.file and d.span and d.file not in texts}
        _print_diagnostics(diagnostics, texts | texts_of(unread))


def _print_diagnostics(diagnostics: Iterable[Diagnostic], texts: dict[str, str]) -> None:
    """All diagnostics on stderr, each file's in the order of its lines."""
    from transpile.ir.diagnostics import render, sort_key

    ordered = list(diagnostics)
    first_seen = {file: i for i, file in reversed(list(enumerate(d.file for d in ordered)))}
    for diag in sorted(ordered, key=lambda d: (first_seen[d.file], sort_key(d))):
        click.echo(render(diag, texts.get(diag.file, "")), err=True)


def _exit_code(diagnostics: Iterable[Diagnostic]) -> int:
    """3 if anything is wrong with a source, 2 if only with the command line."""
    from transpile.ir.codes import is_usage

    errors = [d for d in diagnostics if d.severity == "error"]
    return USAGE if all(is_usage(d.code) for d in errors) else UNSUPPORTED


# -- ir, targets -------------------------------------------------------------------------------


@cli.command("ir")
@click.argument("file")
@kernel_option
@source_options
@click.option(
    "--stage", type=click.Choice(["tile", "masked", "thread"]), default="tile", show_default=True
)
def show_ir(file: str, stage: str, **options: Any) -> None:
    """Print the IR of a file's kernels."""
    from transpile import build as pipeline

    build_options = _build_options(options)
    found: list[Diagnostic] = []
    texts: list[str] = []
    source = ""
    with pipeline.collecting(found, file):
        loaded = pipeline.load(file, build_options)
        source = loaded.source.text
        found += loaded.diagnostics
        pipeline.check_kernels_known(build_options, (k.name for k in loaded.kernels))
        texts = [pipeline.print_ir(kernel, stage) for kernel in loaded.kernels]
    _print_diagnostics(found, {file: source} if source else pipeline.texts_of([file]))
    click.echo("\n".join(texts), nl=False)
    raise SystemExit(_exit_code(found) if any(d.severity == "error" for d in found) else 0)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def targets(as_json: bool) -> None:
    """What each target supports: ops, dtypes, features."""
    from transpile import build as pipeline

    table = pipeline.capabilities()
    if as_json:
        import json

        click.echo(json.dumps(table, indent=2))
        return
    for name, supported in table.items():
        click.echo(name)
        for key, values in supported.items():
            click.echo(_wrapped(key, values))


def _wrapped(key: str, values: Sequence[str]) -> str:
    import textwrap

    text = " ".join(values)
    return textwrap.fill(text, 98, initial_indent=f"  {key:<12} ", subsequent_indent=" " * 15)


# -- verify, run -------------------------------------------------------------------------------


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-t", "--target", "targets", type=Targets(), default="all", show_default=True)
@kernel_option
@source_options
@click.option("--reference", metavar="FILE:FUNCTION", help="The torch function to compare with.")
@click.option("-j", "--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Say what is done as it is done.")
@counters_option
def verify(
    files: tuple[str, ...], reference: str | None, jobs: int, verbose: bool, counters: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Prove kernels: generated, compiled, numerics against the references."""
    from transpile import build as pipeline
    from transpile import proofs

    build_options = _build_options(options)
    _require(build_options)
    paths = _expand(files)
    progress: Callable[[str], None] = _progress if verbose else lambda text: None
    result = proofs.verify(paths, build_options, _reference(reference), jobs, progress)
    texts = pipeline.texts_of({d.file for d in result.diagnostics if d.span})
    _print_diagnostics(result.diagnostics, texts)
    click.echo(proofs.table(result), nl=False)
    if counters:
        click.echo(proofs.counters(result), nl=False)
    if any(d.severity == "error" for d in result.diagnostics):
        raise SystemExit(_exit_code(result.diagnostics))
    raise SystemExit(STALE if result.failed else 0)


def _progress(text: str) -> None:
    click.echo(text, err=True)


def _reference(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    file, _, function = text.rpartition(":")
    if not file or not function.isidentifier():
        raise click.BadParameter(f"KT0005: {text!r} is not FILE:FUNCTION", param_hint="--reference")
    return os.path.abspath(file), function


def _require(options: BuildOptions, *more: str) -> None:
    """Stop with KT0013 where a package of a target's extra is missing."""
    from importlib.util import find_spec

    from transpile.emitters import TARGETS
    from transpile.ir.diagnostics import Diagnostic
    from transpile.verify.harnesses import HARNESSES

    names = TARGETS if "all" in options.targets else options.targets
    found = []
    for name in names:
        packages = (*HARNESSES[name].packages, *more) if name in HARNESSES else ()
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            remedy = f"pip install 'kt[{name}]'"
            found.append(Diagnostic("KT0013", f"this needs {', '.join(missing)}", remedy=remedy))
    if found:
        _print_diagnostics(found, {})
        raise SystemExit(USAGE)


@cli.command()
@click.argument("file", metavar="FILE[::KERNEL]")
@target_option
@click.option("--in", "inputs", required=True, metavar="FILE", help="Tensors by parameter name.")
@click.option("--out", "results", required=True, metavar="FILE", help="Gets out0, out1, ...")
@click.option("--simulate", is_flag=True, help="On the CPU.")
@counters_option
@source_options
def run(
    file: str, inputs: str, results: str, simulate: bool, counters: bool, **options: Any
) -> None:
    """Run one kernel on given tensors."""
    from transpile import build as pipeline
    from transpile import proofs
    from transpile.verify.msl.counters import table

    path, _, kernel = file.partition("::")
    build_options = _build_options(options)
    _require(build_options, "safetensors")
    if len(build_options.targets) != 1 or "all" in build_options.targets:
        raise click.UsageError("kt run takes one target")
    found: list[Diagnostic] = []
    with pipeline.collecting(found, path):
        done = proofs.run(path, kernel or None, build_options, inputs, results, simulate)
        click.echo(f"{results}: {', '.join(done.names)}")
        if counters and done.counters:
            click.echo(table(done.counters), nl=False)
    _print_diagnostics(found, pipeline.texts_of([path]) if found else {})
    raise SystemExit(_exit_code(found) if found else 0)
