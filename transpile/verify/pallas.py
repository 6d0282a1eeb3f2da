"""Runs generated Pallas functions on the CPU and compares them with both references.

Each shape runs in the plain interpreter, which is compared tightly; where products of f32 would
be rounded on a TPU, once more with that rounding, against references that round as well; and in the
TPU simulator, which must find no race, no read of uninitialised memory, no access out of bounds.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from transpile.ir import ir
from transpile.ir.walk import walk_kernel
from transpile.verify import compare, inputs, numerics
from transpile.verify import pallas_modes as modes
from transpile.verify.jobs import Cell, FileJob, KernelJob


def check_file(job: FileJob) -> Iterator[Cell]:
    """One cell per kernel and shape."""
    modes.prepare()
    return numerics.check_cells(job, check_shape)


def check_shape(module: ModuleType, job: KernelJob, index: int) -> list[str]:
    """What is wrong with the kernel's results for one shape; nothing if all agree."""
    arguments = inputs.make_arguments(job, index)
    function = getattr(module, job.kernel.name)
    interpret = _interpreter(job)
    want = numerics.results(interpret, arguments)
    with modes.running(module, True):
        got, products = modes.count_products(lambda: results(job, function, arguments, want))
    problems = numerics.compare_results(job, got, want, arguments, "interpreter")
    reference = _reference(job, arguments)
    if reference is not None:
        problems += numerics.compare_results(job, got, reference, arguments, _name(job))
    if problems:
        return problems  # the simulator would only repeat them
    if products:
        problems += _check_rounded(module, job, arguments)
    for mode in simulations(index, copies_by_itself(module)):
        problems += _check_simulated(module, job, arguments, want, mode)
    return problems


def simulations(index: int, copies: bool = False) -> list[Any]:
    """The simulator's settings for a shape: two cores for the first, one for the others.

    Copies are executed as late as they may be, when they are waited for; those of kernels that make
    their own also as early, so that one that nothing waits for is noticed.
    """
    found = [modes.simulator(cores=2 if index == 0 else 1)]
    return [*found, modes.simulator(dma_execution_mode="eager")] if copies else found


def copies_by_itself(module: ModuleType) -> bool:
    """True if a module's kernels copy between HBM and VMEM in their code."""
    return "make_async_copy" in Path(str(module.__file__)).read_text(encoding="utf-8")


def _check_rounded(module: ModuleType, job: KernelJob, arguments: Mapping[str, Any]) -> list[str]:
    """With the operands of products rounded as a TPU does by default, on both sides."""
    import torch

    from transpile.ir.reference.numerics import rounded_operands

    function = getattr(module, job.kernel.name)
    with rounded_operands(torch.bfloat16):
        want = numerics.results(_interpreter(job), arguments)
    with modes.running(module, True, rounding=True):
        got = results(job, function, arguments, want)
    eps = compare.BF16_EPS
    by = "interpreter, operands rounded to bf16"
    problems = numerics.compare_results(job, got, want, arguments, by, eps)
    with rounded_torch(torch.bfloat16):
        reference = _reference(job, arguments)
    if reference is not None:
        by = f"{_name(job)}, operands rounded to bf16"
        problems += numerics.compare_results(job, got, reference, arguments, by, eps)
    return problems


@contextlib.contextmanager
def rounded_torch(dtype: Any) -> Iterator[None]:
    """Inside, torch's products round their operands to ``dtype`` (its fused attention does not)."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Rounding(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            count = _OPERANDS.get(func.overloadpacket.__name__, 0)
            if count:  # the operands are the last tensors; an addend stands before them
                first = len(args) - count
                args = [
                    a.to(dtype).to(a.dtype) if i >= first and a.is_floating_point() else a
                    for i, a in enumerate(args)
                ]
            return func(*args, **(kwargs or {}))

    with Rounding():
        yield


#: torch's products and how many operands they have
_OPERANDS = {"mm": 2, "bmm": 2, "mv": 2, "dot": 2, "addmm": 2, "baddbmm": 2, "addmv": 2}


def _check_simulated(
    module: ModuleType, job: KernelJob, arguments: Mapping[str, Any], want: Any, mode: Any
) -> list[str]:
    function = getattr(module, job.kernel.name)
    cores = mode.num_cores_or_threads
    where = "TPU simulator" + (f" with {cores} cores" if cores > 1 else "")
    try:
        with modes.running(module, mode) as observed:
            got = results(job, function, arguments, want)
    except Exception as exc:  # noqa: BLE001 - whatever the simulator says is the result
        return [f"{where}: {_reason(exc)}"]
    problems = numerics.compare_results(job, got, want, arguments, where)
    return problems + [f"{where}: {race}" for race in observed.races[:1]]


def _reason(exc: BaseException) -> str:
    """The simulator's complaint, from the middle of what XLA makes of a callback's error."""
    found = re.findall(r"^(\w*(?:Error|Exception): .*)$", str(exc), re.MULTILINE)
    return found[-1][:300] if found else numerics.describe(exc)


def _interpreter(job: KernelJob) -> Callable[..., Any]:
    from transpile.ir.interpreter import run_kernel

    return lambda **given: run_kernel(job.kernel, given, job.blocks, fill_empty=True)


def _reference(job: KernelJob, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    if job.reference is None:
        return None
    function = numerics.load_reference(*job.reference)
    return numerics.results(numerics.adapted(function, arguments), arguments)


def _name(job: KernelJob) -> str:
    assert job.reference is not None
    return job.reference[1]


# -- results ---------------------------------------------------------------------------------------


def results(
    job: KernelJob,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    want: Mapping[str, Any],
) -> dict[str, Any]:
    """What a call returns, by name, as torch tensors; changed parameters under their names.

    64-bit integers come back as 32-bit ones, which is not an error.
    """
    import torch

    returned = function(**inputs.clone(arguments))
    values = [value for _, value in compare.flatten(to_torch(returned))]
    changed = written_parameters(job.kernel)
    behind, inside = returned_parameters(job.kernel, changed)
    count = len(values) - len(behind)
    found = {f"out{i}": value for i, value in enumerate(values[: max(count, 0)])}
    found |= dict(zip(behind, values[max(count, 0) :], strict=False))
    found |= {name: values[i] for name, i in inside.items()}
    wide = {torch.int32: torch.int64, torch.uint32: torch.uint64}
    for name, value in found.items():
        wanted = getattr(want.get(name, arguments.get(name)), "dtype", None)
        if isinstance(value, torch.Tensor) and wide.get(value.dtype) is wanted:
            found[name] = value.to(wanted)
    return found


def to_torch(value: Any) -> Any:
    """jax.Arrays of a nested result as torch tensors."""
    import numpy as np
    import torch

    if isinstance(value, tuple | list):
        return tuple(map(to_torch, value))
    if not hasattr(value, "dtype"):
        return value
    array = np.array(value)  # a copy: torch wants to own writable memory
    name = str(value.dtype)
    with contextlib.suppress(TypeError):
        return torch.from_numpy(array)
    raw = array.view(np.int16 if array.itemsize == 2 else np.uint8)
    return torch.from_numpy(raw).view(getattr(torch, name))


_VIEW = re.compile(
    r"^(\w+) = (\w+)(?:\[|\.(?:view|reshape|flatten|permute|transpose|contiguous|t|T|mT|"
    r"squeeze|unsqueeze|view_as|reshape_as)\b)",
    re.MULTILINE,
)


def written_parameters(kernel: ir.Kernel) -> list[str]:
    """Tensor parameters that the kernel writes to, in parameter order, also through views."""
    written = {op.tensor.host for op in walk_kernel(kernel) if isinstance(op, ir.Store | ir.Atomic)}
    texts = [item.text for item in kernel.host if isinstance(item, ir.HostCode)]
    views = dict(match for text in texts for match in _VIEW.findall(text))
    roots = set()
    for host in written:
        name = re.split(r"\W", host, maxsplit=1)[0]
        while name in views and views[name] != name:
            name = views.pop(name)
        roots.add(name)
    for text in texts:  # what the host program itself changes
        roots |= set(
            re.findall(r"^(\w+)(?:\[.*\])?(?:\.\w+_\(| [-+*/]?= )", text, re.MULTILINE)
        ) & {p.name for p in kernel.params if p.kind == "tensor" and f"{p.name}[" in text}
    return [p.name for p in kernel.params if p.kind == "tensor" and p.name in roots]


def returned_parameters(kernel: ir.Kernel, changed: list[str]) -> tuple[list[str], dict[str, int]]:
    """Changed parameters that the generated function returns behind the source's results, and those
    that the source returns itself, with their places."""
    texts = [item.text for item in kernel.host if isinstance(item, ir.HostCode)]
    last = next((t for t in reversed(texts) if re.match(r"\s*return\b", t)), "return")
    node = ast.parse(last.strip()).body[0]
    assert isinstance(node, ast.Return)
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    names = [v.id if isinstance(v, ast.Name) else "" for v in values]
    inside = {name: names.index(name) for name in changed if name in names}
    return [name for name in changed if name not in inside], inside
