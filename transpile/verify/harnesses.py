"""The harness of each target: what proves it, and in what environment the workers run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from transpile.verify.jobs import Cell, FileJob, Mode, RunJob, RunResult

#: variables that only a harness sets: the user's own must not change what is proved
OWN_VARIABLES = ("KT_INTERPRET", "TRITON_INTERPRET")


@dataclass(frozen=True, slots=True)
class Harness:
    """How a target is proved.

    ``packages`` are what must be installed, by import name. ``archs`` are the columns of the
    compile mode. ``checks`` are modules with ``check_file(job) -> cells`` by mode, ``run`` one with
    ``run(job) -> result``. ``environments`` are by mode; "simulate" is that of ``kt run
    --simulate``, "device" that of ``kt run``.
    """

    packages: tuple[str, ...]
    archs: tuple[str, ...]
    checks: Mapping[Mode, str]
    run: str
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def check(self, job: FileJob) -> Iterator[Cell]:
        """The cells of a job."""
        module = importlib.import_module(f"transpile.verify.{self.checks[job.mode]}")
        check_file: Callable[[FileJob], Iterator[Cell]] = module.check_file
        return check_file(job)

    def call(self, job: RunJob) -> RunResult:
        """Run one function."""
        module = importlib.import_module(f"transpile.verify.{self.run}")
        run: Callable[[RunJob], RunResult] = module.run
        return run(job)


_SIMULATED = {"KT_INTERPRET": "1", "TRITON_INTERPRET": "1"}  # torch may import triton first
_JAX_ON_CPU = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
# each compiled function runs once: optimising it takes longer than it saves
_UNOPTIMISED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# libtpu compiles for chips that are not there. It asks a metadata server of the cloud for its
# topology unless told not to, and wants to be the only one of its kind on the host.
_TPU_COMPILER = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}

HARNESSES: dict[str, Harness] = {
    "triton": Harness(
        packages=("torch", "triton", "numpy"),
        archs=("sm_80", "sm_90", "sm_100"),
        checks={"compile": "triton", "numerics": "numerics"},
        run="simulate",
        environments={"numerics": _SIMULATED, "simulate": _SIMULATED},
    ),
    "pallas": Harness(
        packages=("torch", "jax", "numpy"),
        archs=("lower", "v5e", "v6e", "7x"),
        checks={"compile": "pallas_compile", "numerics": "pallas"},
        run="pallas_run",
        environments={
            "compile": _JAX_ON_CPU | _TPU_COMPILER,
            "numerics": _JAX_ON_CPU | _UNOPTIMISED | {"KT_INTERPRET": "1"},
            "simulate": _JAX_ON_CPU | {"KT_INTERPRET": "1"},
        },
    ),
    "metal": Harness(
        packages=("torch", "numpy", "clang", "ziglang"),
        archs=("strict", "host"),
        checks={"compile": "metal_compile", "numerics": "metal"},
        run="metal_run",
    ),
}
