"""`kt verify` and `kt run`: builds into a temporary directory and hands it to the harnesses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from transpile import build as pipeline
from transpile import outputs, sources
from transpile.build import BuildOptions, Loaded
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError, error
from transpile.ir.dtypes import DType
from transpile.ir.walk import walk_kernel
from transpile.verify.harnesses import HARNESSES
from transpile.verify.jobs import Argument, Cell, FileJob, KernelJob, RunJob, RunResult, Status

if TYPE_CHECKING:
    from transpile.emitters import Target
    from transpile.frontend.project import KernelSettings, ProjectConfig
    from transpile.frontend.signatures import Spec


@dataclass(slots=True)
class Row:
    """One kernel for one signature on one target. ``cells`` are by column."""

    file: str
    target: str
    kernel: str
    signature: str
    shapes: int
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(slots=True)
class Verification:
    """The table, and the diagnostics of files that could not be built."""

    rows: list[Row] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True if any cell fails or is missing."""
        return any(_failures(row) for row in self.rows)


def columns(row: Row) -> list[str]:
    """The cells that a row must have, in order."""
    return [
        "generated",
        *HARNESSES[row.target].archs,
        *(f"shape {i + 1}" for i in range(row.shapes)),
    ]


def _failures(row: Row) -> dict[str, list[str]]:
    """Reason -> the columns that fail for it."""
    found: dict[str, list[str]] = {}
    for column in columns(row):
        cell = row.cells.get(column)
        if cell is None or cell.status == "fail":
            sizes = f" ({cell.sizes})" if cell and cell.sizes else ""
            found.setdefault(cell.detail if cell else "no result", []).append(column + sizes)
    return found


# -- verify ------------------------------------------------------------------------------------


def verify(
    paths: Sequence[str],
    options: BuildOptions,
    reference: tuple[str, str] | None,
    processes: int,
    progress: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Prove every kernel of the files for every target. ``reference`` overrides the project's."""
    from transpile.verify import pool

    result = Verification()
    jobs: list[FileJob] = []
    rows: list[list[Row]] = []  # for each job, the rows of its kernels
    with tempfile.TemporaryDirectory(prefix="kt-verify-") as folder:
        with pipeline.collecting(result.diagnostics):
            targets = pipeline.resolve_targets(options)
            pipeline.check_arguments(options)
            for path in paths:
                for target in targets:
                    with pipeline.collecting(result.diagnostics, path):
                        _prepare(path, target, options, reference, folder, result, jobs, rows)

        def done(index: int, answers: list[Any]) -> None:
            _record(jobs[index], rows[index], answers)
            progress(f"{jobs[index].mode} {rows[index][0].file}")

        pool.run_jobs(jobs, processes, done)
    return result


def _prepare(
    path: str,
    target: Target,
    options: BuildOptions,
    reference: tuple[str, str] | None,
    folder: str,
    result: Verification,
    jobs: list[FileJob],
    rows: list[list[Row]],
) -> None:
    """Generate one file for one target and append its rows and jobs."""
    loaded = pipeline.load(path, options)
    result.diagnostics += loaded.diagnostics
    kernels = [kernel_job(kernel, loaded.project, target, reference) for kernel in loaded.kernels]
    if not kernels:
        return
    made = [
        Row(path, target.name, job.kernel.name, job.kernel.signature, len(job.shapes) or 3)
        for job in kernels
    ]
    result.rows += made
    problems: list[Diagnostic] = []
    with pipeline.collecting(problems, path):
        module = _generate(loaded, target, options, os.path.join(folder, str(len(jobs))))
    status: Status = "fail" if problems else "ok"
    for i, row in enumerate(made):
        detail = "; ".join(f"{d.code}: {d.message}" for d in problems)
        row.cells["generated"] = Cell(i, "generated", status, detail)
    if problems:
        result.diagnostics += problems
        return
    archs = HARNESSES[target.name].archs
    jobs.append(FileJob("compile", target.name, module, tuple(kernels), archs))
    jobs.append(FileJob("numerics", target.name, module, tuple(kernels)))
    rows += [made, made]


def _generate(loaded: Loaded, target: Target, options: BuildOptions, folder: str) -> str:
    """Write the module and its shim into ``folder``; the module's path."""
    groups = pipeline.group_kernels(loaded.kernels)
    emitted = pipeline.emit_groups(loaded.source, groups, target, options)
    files = dict(emitted.files) | pipeline.shim_files(target, options)
    outputs.write_all(folder, files)
    name = next(name for name in emitted.files if name.endswith(".py"))
    return os.path.join(folder, name)


def kernel_job(
    kernel: ir.Kernel,
    project: ProjectConfig,
    target: Target,
    reference: tuple[str, str] | None = None,
) -> KernelJob:
    """What to prove of a kernel: its arguments, shapes, and reference from the project file."""
    settings = project.kernel(kernel.name)
    if reference is None and settings.reference is not None:
        reference = (settings.reference.file, settings.reference.function)
    arguments = tuple(_arguments(kernel, settings))
    plain = replace(kernel, params=tuple(_plain(param) for param in kernel.params))
    return KernelJob(plain, arguments, settings.shapes, _blocks(kernel, target), reference)


def _plain(param: ir.Param) -> ir.Param:
    """The parameter without a value that is a function of the source file: another process takes
    the default instead."""
    known = param.value is None or isinstance(param.value, bool | int | float | str | tuple | DType)
    return param if known else replace(param, value=None)


def _arguments(kernel: ir.Kernel, settings: KernelSettings) -> list[Argument]:
    from transpile.frontend.project import Range
    from transpile.frontend.signatures import LiteralSpec, Name, ScalarSpec, parse_signature

    specs: dict[str, Spec] = parse_signature(kernel.signature)
    found = []
    for param in kernel.params:
        spec = specs.get(param.name)
        stated = settings.values.get(param.name)
        fill = (stated.low, stated.high) if isinstance(stated, Range) else stated
        if spec is None or (isinstance(spec, LiteralSpec) and isinstance(spec.value, Name)):
            continue  # the default is what the kernel was built with
        if isinstance(spec, LiteralSpec):
            found.append(Argument(param.name, "value", value=spec.value))
        elif isinstance(spec, ScalarSpec):
            found.append(Argument(param.name, "scalar", spec.dtype, fill=fill))
        else:
            found.append(
                Argument(param.name, "tensor", spec.dtype, spec.dims, spec.order, fill=fill)
            )
    return found


def _blocks(kernel: ir.Kernel, target: Target) -> dict[Any, int]:
    """Block sizes for the interpreter: those that the target's schedule chooses."""
    from transpile.passes.schedule import resolve

    try:
        chosen = dict(resolve(kernel, target.name).blocks)
    except KtError:
        chosen = {}  # the generated cell says why
    for block in kernel.blocks:
        chosen.setdefault(block.sym, max(16, block.minimum))
    return chosen


def _record(job: FileJob, rows: list[Row], answers: list[Any]) -> None:
    """Put the answers of a job into its rows; a str among them explains all missing cells."""
    for answer in answers:
        if isinstance(answer, Cell):
            rows[answer.row].cells[answer.column] = answer
    reasons = [answer for answer in answers if isinstance(answer, str)]
    if not reasons:
        return
    for i, row in enumerate(rows):
        for column in columns(row):
            compiled = column in job.archs
            if column not in row.cells and compiled == (job.mode == "compile"):
                row.cells[column] = Cell(i, column, "fail", reasons[-1])


def table(result: Verification) -> str:
    """The table and, below it, the reasons of what fails."""
    if not result.rows:
        return ""
    widest = max(len(columns(row)) for row in result.rows)
    head = max((columns(row) for row in result.rows), key=len)
    lines = [["kernel", "signature", *head]]
    for row in result.rows:
        marks = [_mark(row, column) for column in columns(row)]
        marks += [""] * (widest - len(marks))
        lines.append([row.kernel, _shortened(row.signature, 44), *marks])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in lines]
    text = "".join("  ".join(line).rstrip() + "\n" for line in padded)
    cells = [mark for line in lines[1:] for mark in line[2:] if mark]
    for row in result.rows:
        for reason, where in _failures(row).items():
            place = f"{row.file}: {row.kernel}({row.signature})"
            text += f"\n{place}, {row.target} {', '.join(where)}:\n  {reason}\n"
    failed = sum(mark == "FAIL" for mark in cells)
    return f"{text}\n{len(cells)} cells, {failed} failed\n"


def counters(result: Verification) -> str:
    """What the launches of each shape did to memory, where that was counted."""
    from transpile.verify.msl.counters import table as counter_table

    parts = []
    for row in result.rows:
        for column, cell in row.cells.items():
            if cell.counters:
                place = f"{row.file}: {row.kernel}({row.signature}), {column} ({cell.sizes})"
                parts.append(f"\n{place}\n{counter_table(cell.counters)}")
    return "".join(parts)


def _mark(row: Row, column: str) -> str:
    cell = row.cells.get(column)
    return "FAIL" if cell is None or cell.status == "fail" else cell.status


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


# -- run ---------------------------------------------------------------------------------------


def run(
    file: str, kernel: str | None, options: BuildOptions, inputs: str, results: str, simulate: bool
) -> RunResult:
    """Run one kernel on the tensors of a file. Raises KtError."""
    from transpile.verify.pool import Worker

    (target,) = pipeline.resolve_targets(options)
    pipeline.check_arguments(options)
    tensors = _tensor_specs(inputs)
    loaded = _load_for(file, kernel, options, tensors)
    chosen = _choose(loaded, kernel)
    with tempfile.TemporaryDirectory(prefix="kt-run-") as folder:
        module = _generate(loaded, target, options, folder)
        job = _run_job(chosen, target.name, module, inputs, results, simulate, tensors)
        environments = HARNESSES[target.name].environments
        variables = environments.get("simulate" if simulate else "device", {})
        worker = Worker(variables, os.path.join(folder, "cache"))
        try:
            answer = worker.run(job)[-1]
        finally:
            worker.close()
    if isinstance(answer, str):
        device = any(text in answer for text in ("no CUDA device", "no TPU", "no MPS device"))
        raise error("KT0014" if device else "KT0015", answer.removeprefix("RunError: "))
    assert isinstance(answer, RunResult)
    return answer


def _tensor_specs(path: str) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """(dtype, shape) by name, from the header of a safetensors file. Raises KtError KT0012."""
    import json
    import struct

    data = sources.read_bytes(path)
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        names = {
            name: (_SAFETENSORS[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise error("KT0012", f"`{path}` is no safetensors file that kt can read") from None
    return names


_SAFETENSORS = {
    "BOOL": "bool", "I8": "i8", "U8": "u8", "I16": "i16", "U16": "u16", "I32": "i32", "U32": "u32",
    "I64": "i64", "U64": "u64", "F16": "f16", "BF16": "bf16", "F32": "f32", "F64": "f64",
    "F8_E4M3": "f8e4m3", "F8_E5M2": "f8e5m2", "F4": "f4e2m1x2",
}  # fmt: skip


def _load_for(
    file: str,
    kernel: str | None,
    options: BuildOptions,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
) -> Loaded:
    """Load with the stated signatures; where there are none, with those of the tensors."""
    options = replace(options, kernels=(kernel,) if kernel else options.kernels)
    loaded = pipeline.load(file, options)
    assumed = any(d.code == "KT0208" for d in loaded.diagnostics)
    if assumed or not loaded.kernels:
        given = {name: _spec_of(*tensor) for name, tensor in tensors.items()}
        loaded = pipeline.load(file, replace(options, args=given | dict(options.args)))
    errors = [d for d in loaded.diagnostics if d.severity == "error"]
    if errors:
        raise KtError(*errors)
    return loaded


def _spec_of(dtype: str, shape: tuple[int, ...]) -> str:
    """The static signature of a given tensor; a 0-d one stands for a scalar."""
    return f"{dtype}[{','.join(str(n) if n else '_' for n in shape)}]" if shape else dtype


def _choose(loaded: Loaded, kernel: str | None) -> ir.Kernel:
    names = dict.fromkeys(k.name for k in loaded.kernels)
    if kernel is None and len(names) > 1:
        raise error(
            "KT0011", f"the file has several kernels: {', '.join(names)}",
            remedy=f"name one: {loaded.source.path}::{next(iter(names))}",
        )  # fmt: skip
    found = [k for k in loaded.kernels if kernel in (None, k.name)]
    if not found:
        raise error("KT0011", f"no kernel `{kernel}` in {loaded.source.path}")
    return found[0]


def _run_job(
    kernel: ir.Kernel,
    target: str,
    module: str,
    inputs: str,
    results: str,
    simulate: bool,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
) -> RunJob:
    from transpile.frontend.signatures import (
        LiteralSpec,
        Name,
        ScalarSpec,
        TensorSpec,
        parse_signature,
    )

    specs: dict[str, Spec] = parse_signature(kernel.signature)
    names = [p.name for p in kernel.params]
    unknown = [name for name in tensors if name not in names]
    if unknown:
        raise error(
            "KT0012", f"`{kernel.name}` has no parameter `{unknown[0]}`",
            remedy=f"its parameters are {', '.join(names)}",
        )  # fmt: skip
    missing = [n for n, s in specs.items() if isinstance(s, TensorSpec) and n not in tensors]
    if missing:
        raise error("KT0012", f"`{inputs}` has no tensor `{missing[0]}`")
    scalars = [n for n in tensors if isinstance(specs.get(n), ScalarSpec) or not tensors[n][1]]
    layouts = {
        n: s.order for n, s in specs.items() if isinstance(s, TensorSpec) and s.order is not None
    }
    values = {
        n: s.value
        for n, s in specs.items()
        if isinstance(s, LiteralSpec) and n not in tensors and not isinstance(s.value, Name)
    }
    stored = {
        op.tensor.param
        for op in walk_kernel(kernel)
        if isinstance(op, ir.Store | ir.Atomic) and op.tensor.param
    }
    return RunJob(
        target, module, kernel.name, os.path.abspath(inputs), os.path.abspath(results), simulate,
        values, tuple(n for n in scalars if not isinstance(specs.get(n), TensorSpec)), layouts,
        tuple(n for n in names if n in stored),
    )  # fmt: skip
