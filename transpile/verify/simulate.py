"""One call of a generated function on the tensors of a safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from transpile.verify import compare, inputs
from transpile.verify.jobs import RunJob, RunResult
from transpile.verify.numerics import filled_allocations, load_module


class RunError(Exception):
    """The tensors do not fit the kernel, or there is no device."""


def run(job: RunJob) -> RunResult:
    """Call a function on a CUDA device or in Triton's interpreter."""
    import torch

    if not job.simulate and not torch.cuda.is_available():
        raise RunError("torch finds no CUDA device; --simulate runs on the CPU")
    if job.simulate:
        return call(job, load_module(job.module), "cpu")
    return call(job, load_module(job.module), "cuda", torch.cuda.synchronize)


def call(
    job: RunJob, module: ModuleType, device: str, synchronize: Callable[[], None] = lambda: None
) -> RunResult:
    """Call the function and write what it computed as out0, out1, ...

    A function that returns nothing gives its modified parameters, in parameter order.
    """
    import torch

    arguments = arguments_of(job, device)
    for name, value in job.values.items():
        arguments[name] = inputs.runtime_value(value)
    tensors = {n: v.cpu() for n, v in arguments.items() if isinstance(v, torch.Tensor)}
    before = inputs.clone(tensors)
    with filled_allocations():
        returned = getattr(module, job.kernel)(**arguments)
    synchronize()
    found = [value for _, value in compare.flatten(returned)]
    if returned is None:
        found = [
            arguments[name]
            for name in arguments
            if name in before and (name in job.stored or _changed(before[name], arguments[name]))
        ]
    if not found:
        raise RunError("the kernel returns nothing and modifies nothing")
    return write(job, found)


def arguments_of(job: RunJob, device: str = "cpu") -> dict[str, Any]:
    """The tensors and scalars of the input file, by parameter name."""
    from safetensors.torch import load_file

    arguments: dict[str, Any] = {}
    for name, tensor in load_file(job.inputs).items():
        if name in job.scalars:
            arguments[name] = tensor.item()
        else:
            arguments[name] = inputs.relayout(tensor, job.layouts.get(name)).to(device)
    return arguments


def write(job: RunJob, found: Sequence[Any]) -> RunResult:
    """Write results as out0, out1, ..."""
    from safetensors.torch import save_file

    results = {f"out{i}": _plain(value) for i, value in enumerate(found)}
    save_file(results, job.outputs)
    return RunResult(tuple(results))


def _plain(value: Any) -> Any:
    """A row-major CPU tensor of its own memory, as safetensors wants it."""
    import torch

    return torch.as_tensor(value).detach().cpu().contiguous().clone()


def _changed(before: Any, after: Any) -> bool:
    from transpile.verify.numerics import same_bits

    return not same_bits(before, after.cpu())
