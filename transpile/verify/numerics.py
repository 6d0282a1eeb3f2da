"""Runs a generated function on the CPU and compares it with both references."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from transpile.verify import compare, inputs
from transpile.verify.jobs import Cell, FileJob, KernelJob, Status


def load_module(path: str) -> ModuleType:
    """Import a Python file, whatever its name; modules beside it can be imported by it.

    Neither the file nor its neighbours may hide a module of the standard library (``copy.py``).
    """
    folder, name = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"_kt_loaded_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def filled_allocations() -> Iterator[None]:
    """What torch allocates uninitialised holds NaN (integers: their largest value) inside."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def check_file(job: FileJob) -> Iterator[Cell]:
    """One cell per kernel and shape."""
    return check_cells(job, check_shape)


def check_cells(
    job: FileJob, check: Callable[[ModuleType, KernelJob, int], list[str]]
) -> Iterator[Cell]:
    """One cell per kernel and shape; ``check`` says what is wrong with a shape."""
    module = load_module(job.module)
    for row, kernel in list(enumerate(job.kernels))[job.first :]:
        for index in range(len(kernel.shapes or inputs.AUTOMATIC)):
            try:
                problem = "; ".join(check(module, kernel, index))
            except Exception as exc:  # noqa: BLE001 - generated and user code may raise anything
                problem = describe(exc)
            status: Status = "fail" if problem else "ok"
            yield Cell(row, f"shape {index + 1}", status, problem, shape_text(kernel, index))


def shape_text(job: KernelJob, index: int) -> str:
    """``M=64, N=32``, the sizes of a shape that the signature names."""
    named = {d for a in job.arguments for d in a.dims if isinstance(d, str)}
    sizes = (job.shapes or inputs.AUTOMATIC)[index]
    return ", ".join(f"{k}={v}" for k, v in sizes.items() if k in named or k == "*") or "no dims"


def describe(exc: BaseException) -> str:
    """Type and the first lines of the message; with KT_DEBUG=1 the traceback goes to stderr."""
    if os.environ.get("KT_DEBUG") == "1":
        traceback.print_exception(exc)
    message = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {message[:400]}" if message else type(exc).__name__


def check_shape(module: ModuleType, job: KernelJob, index: int) -> list[str]:
    """What is wrong with the kernel's results for one shape; nothing if all agree."""
    arguments = inputs.make_arguments(job, index)
    got = results(getattr(module, job.kernel.name), arguments)
    problems = []
    for by, want in expected(job, arguments, index).items():
        problems += compare_results(job, got, want, arguments, by)
    return problems


def expected(job: KernelJob, arguments: Mapping[str, Any], index: int) -> dict[str, dict[str, Any]]:
    """The results of each reference, by its name: the interpreter, and the job's own if it has one.

    Raises ValueError where that one says nothing about the first shape.
    """
    from transpile.ir.interpreter import run_kernel

    def interpret(**given: Any) -> Any:
        return run_kernel(job.kernel, given, job.blocks, fill_empty=True)

    found = {"interpreter": results(interpret, arguments)}
    if job.reference is not None:
        name = job.reference[1]
        want = results(adapted(load_reference(*job.reference), arguments), arguments)
        if not want and index == 0:
            raise ValueError(f"{name} returns nothing and changes nothing")
        found[name] = want
    return found


def results(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a call returns and which tensors it changes, by name. Arguments are copied first."""
    import torch

    given = inputs.clone(arguments)
    with filled_allocations():
        returned = function(**given)
    found = dict(compare.flatten(returned))
    for name, before in arguments.items():
        if isinstance(before, torch.Tensor) and not same_bits(before, given[name]):
            found[name] = given[name]
    return found


def same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors of the same shape and dtype hold the same bits (NaN included)."""
    import torch

    if a.dtype.is_floating_point:
        views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        a, b = (t.contiguous().view(views[t.element_size()]) for t in (a, b))
    return bool(torch.equal(a, b))


def compare_results(
    job: KernelJob,
    got: dict[str, Any],
    want: dict[str, Any],
    arguments: Mapping[str, Any],
    by: str,
    product_eps: float = 0.0,
) -> list[str]:
    """How results differ, by name. ``product_eps``: f32 operands of products were cut to this."""
    import torch

    tensors = [v for v in (*arguments.values(), *got.values()) if isinstance(v, torch.Tensor)]
    work_eps = max((compare.eps(t.dtype) for t in tensors), default=0.0)
    products = compare.cut_products(job.kernel, product_eps)
    longest = max((size for t in tensors for size in t.shape), default=1)
    elements = max((t.numel() for t in tensors), default=1)
    roundings = compare.narrow_roundings(job.kernel)
    problems = []
    for name in dict.fromkeys([*got, *want]):
        if name not in got or name not in want:
            # A tensor may be written with what it held; a result is there or it is not.
            if name not in arguments:
                problems.append(f"{name}: only {by if name in want else 'kt'} returns it")
                continue
            got = {name: arguments[name], **got}
            want = {name: arguments[name], **want}
        scalar = getattr(want[name], "numel", lambda: 1)() == 1
        problem = compare.difference(
            name, got[name], want[name], work_eps=work_eps, roundings=roundings,
            reduction_length=elements if scalar else longest, products=products,
        )  # fmt: skip
        if problem:
            problems.append(f"{problem} ({by})")
    return problems


# -- references of the user's ------------------------------------------------------------------


class _Anything(ModuleType):
    """Stands for a dialect's package while a reference is imported from a kernel file: every
    attribute exists, a call gives it back, and a decorator leaves the function as it is."""

    __path__: list[str] = []  # noqa: RUF012 - a package, to the import system

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        decorates = len(args) == 1 and not kwargs and inspect.isfunction(args[0])
        return args[0] if decorates else self

    def __getitem__(self, item: Any) -> Any:
        return self

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__


_references: dict[str, ModuleType] = {}


def load_reference(file: str, function: str) -> Callable[..., Any]:
    """The reference function; its file may be a kernel file whose dialect is not installed."""
    if file not in _references:
        stubs = {name: _Anything(name) for name in ("helion", "helion.language")}
        stubs["helion"].language = stubs["helion.language"]  # type: ignore[attr-defined]
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_dialect(name)}
        sys.modules.update(stubs)
        try:
            _references[file] = load_module(file)
        finally:
            for name in list(sys.modules):
                if _is_dialect(name):
                    del sys.modules[name]
            sys.modules.update(hidden)
    found: Callable[..., Any] = getattr(_references[file], function)
    return found


def _is_dialect(name: str) -> bool:
    return name.partition(".")[0] == "helion"


def adapted(reference: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The reference as a function of the kernel's arguments: those it names, or by position."""
    parameters = inspect.signature(reference).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return reference
    names = {p.name for p in parameters}
    named = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    required = {p.name for p in named if p.default is p.empty}
    if required <= arguments.keys():
        return lambda **given: reference(**{k: v for k, v in given.items() if k in names})
    return lambda **given: reference(*given.values())
