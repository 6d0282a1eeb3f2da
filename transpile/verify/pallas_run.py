"""One call of a generated Pallas function on the tensors of a safetensors file."""

from __future__ import annotations

from typing import Any

from transpile.verify import compare, inputs, pallas
from transpile.verify.jobs import RunJob, RunResult
from transpile.verify.numerics import load_module
from transpile.verify.simulate import RunError, arguments_of, write


def run(job: RunJob) -> RunResult:
    """Call the function and write what it returns as out0, out1, ...

    A function that returns nothing in the source returns its changed parameters here.
    """
    import jax

    if not job.simulate and jax.default_backend() != "tpu":
        raise RunError("there is no TPU here; --simulate runs on the CPU")
    arguments: dict[str, Any] = arguments_of(job)
    for name, value in job.values.items():
        arguments[name] = inputs.runtime_value(value)
    module = load_module(job.module)
    returned = pallas.to_torch(getattr(module, job.kernel)(**arguments))
    found = [value for _, value in compare.flatten(returned)]
    if not found:
        raise RunError("the kernel returns nothing and modifies nothing")
    return write(job, found)
