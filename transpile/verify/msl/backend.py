"""The executor as a backend of the Metal shim: generated host functions run on CPU tensors."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from transpile.verify.msl import strict
from transpile.verify.msl.counters import Counters
from transpile.verify.msl.executor import ExecutionError, Module, Three


class Executor:
    """Compiles and runs what the shim hands over. ``launches`` has the counters of each launch.

    ``reverse`` takes threads and threadgroups from the last to the first. ``checked`` also makes
    the strict check part of compiling.
    """

    device = "cpu"

    def __init__(self, *, reverse: bool = False, checked: bool = False) -> None:
        self.reverse = reverse
        self.checked = checked
        self.launches: list[Counters] = []

    def compile(self, source: str) -> Library:
        """Raises SyntaxError where the source is not accepted."""
        if self.checked and (problems := strict.check(source)):
            raise SyntaxError("; ".join(f"line {p.line}: {p.message}" for p in problems))
        return Library(self, _module(source))


@functools.cache
def _module(source: str) -> Module:
    return Module(source)


class Library:
    """A compiled source, for the shim."""

    def __init__(self, executor: Executor, module: Module) -> None:
        self.executor = executor
        self.module = module

    def max_threads(self, kernel: str) -> int:
        """What ``[[max_total_threads_per_threadgroup(n)]]`` says of the kernel."""
        if kernel not in self.module.kernels:
            raise ExecutionError(f"the library has no kernel `{kernel}`")
        return self.module.kernels[kernel].max_threads

    def launch(self, kernel: str, buffers: Sequence[Any], groups: Three, threads: Three) -> None:
        """Raises ExecutionError where the kernel does what it must not do."""
        reverse = self.executor.reverse
        counted = self.module.launch(kernel, buffers, groups, threads, reverse=reverse)
        self.executor.launches.append(counted)


@contextlib.contextmanager
def executing(module: ModuleType, executor: Executor) -> Iterator[None]:
    """Inside, a generated module's functions run on the executor."""
    shim: Any = getattr(module, "kt", module)  # a module with its shim inlined is its own
    shim.set_backend(executor)
    try:
        yield
    finally:
        shim.set_backend(None)
