"""One call of a generated Metal function on the tensors of a safetensors file."""

from __future__ import annotations

from typing import Any

from transpile.verify import simulate
from transpile.verify.jobs import RunJob, RunResult
from transpile.verify.msl.backend import Executor, executing
from transpile.verify.numerics import load_module


def run(job: RunJob) -> RunResult:
    """Call the function, on the device or in the executor, and write what it computed."""
    import torch

    if not job.simulate:
        if not torch.backends.mps.is_available():
            raise simulate.RunError("torch finds no MPS device; --simulate runs on the CPU")
        return simulate.call(job, load_module(job.module), "mps", torch.mps.synchronize)
    executor = Executor(checked=True)
    module: Any = load_module(job.module)
    with executing(module, executor):
        result = simulate.call(job, module, "cpu")
    return result.counted(executor.launches)
