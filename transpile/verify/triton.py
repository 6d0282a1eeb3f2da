"""Generated Triton modules through Triton's compiler, to cubins, without a GPU.

The generated functions are called on CPU tensors. The shim is made to believe that this is fine,
so that it checks the arguments and then launches by Triton's own call, which here only notes them.
Triton then compiles each noted launch exactly as it would for these arguments (``warmup``), for a
driver that only claims to be there.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from transpile.verify import inputs
from transpile.verify.jobs import Cell, FileJob, KernelJob
from transpile.verify.numerics import describe, filled_allocations, load_module

_MULTIPROCESSORS = 132


class _Driver:
    """What Triton asks of a driver in order to compile: the target. ``device`` is its number."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        return 0


def check_file(job: FileJob) -> Iterator[Cell]:
    """One cell per kernel and architecture."""
    module = load_module(job.module)
    _pretend_device(module)
    for row, kernel in list(enumerate(job.kernels))[job.first :]:
        launches: list[_Launch] = []
        try:
            with _noting(launches):
                _call(module, kernel)
        except Exception as exc:  # noqa: BLE001 - whatever generated code raises is the result
            for arch in job.archs:
                yield Cell(row, arch, "fail", describe(exc))
            continue
        for arch in job.archs:
            yield _compile_all(row, arch, kernel, launches)


class _Launch(NamedTuple):
    """``kernel[grid](*args, **options)``."""

    kernel: Any
    grid: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


def _pretend_device(module: Any) -> None:
    shim: Any = getattr(module, "kt", module)
    shim.INTERPRETING = True  # no complaints that tensors are on the CPU, or cannot have TMA
    shim.num_sms = lambda *_: _MULTIPROCESSORS


@contextlib.contextmanager
def _noting(launches: list[_Launch]) -> Iterator[None]:
    """Inside, launching a jit function only appends to ``launches``."""
    from triton.runtime.jit import JITFunction

    def note(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        assert not warmup
        launches.append(_Launch(kernel, grid, args, options))

    original = JITFunction.run
    JITFunction.run = note
    try:
        yield
    finally:
        JITFunction.run = original


def _call(module: Any, job: KernelJob) -> None:
    """Run the host side once, on the first shape."""
    arguments = inputs.make_arguments(job, 0)
    with filled_allocations():
        getattr(module, job.kernel.name)(**arguments)


def _compile_all(row: int, arch: str, job: KernelJob, launches: list[_Launch]) -> Cell:
    if reason := unsupported(arch, job):
        return Cell(row, arch, "n/a", reason)
    try:
        usage = [_resources(_compile(arch, launch)) for launch in launches]
    except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the result
        return Cell(row, arch, "fail", describe(_root(exc)))
    if not usage:
        return Cell(row, arch, "fail", "no kernel was launched")
    return Cell(row, arch, "ok", ", ".join(filter(None, usage)))


def unsupported(arch: str, job: KernelJob) -> str:
    """Why the architecture cannot have this kernel, or "" if it can."""
    dtypes = {t.dtype.name for t in job.kernel.tensors}
    if int(arch[3:].rstrip("a")) < 89 and "f8e4m3" in dtypes:
        return "f8e4m3 needs sm_89 or newer"
    return ""


def _compile(arch: str, launch: _Launch) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    driver.set_active(_Driver(GPUTarget("cuda", int(arch[3:].rstrip("a")), 32)))
    kernel = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
    if len(kernel.asm["cubin"]) == 0:
        raise RuntimeError("the compiler gave no cubin")
    return kernel


def _root(exc: BaseException) -> BaseException:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


def _resources(kernel: Any) -> str:
    """``62 registers, 32768 B shared``, and spills if any; from the cubin's own tables."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    shared = f"{kernel.metadata.shared} B shared"
    if not os.path.exists(tool):
        return shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as stream:
        stream.write(kernel.asm["cubin"])
        stream.flush()
        command = [tool, "--dump-resource-usage", stream.name]
        text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    if "REG" not in found:
        return shared
    spilled = found.get("STACK", 0) + found.get("LOCAL", 0)
    stack = f", {spilled} B stack" if spilled else ""
    return f"{found['REG']} registers, {shared}{stack}"
