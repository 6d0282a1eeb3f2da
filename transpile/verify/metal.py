"""Runs generated Metal functions in the executor and compares them with both references.

Every shape runs twice, with threads and threadgroups forwards and backwards: what depends on the
order is wrong on a GPU, which has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

from transpile.verify import inputs, numerics
from transpile.verify.jobs import Cell, FileJob, KernelJob
from transpile.verify.msl.backend import Executor, executing
from transpile.verify.msl.counters import Counters


def check_file(job: FileJob) -> Iterator[Cell]:
    """One cell per kernel and shape, with the counters of its launches."""
    launches: list[Counters] = []

    def check(module: ModuleType, kernel: KernelJob, index: int) -> list[str]:
        launches.clear()
        return check_shape(module, kernel, index, launches)

    for cell in numerics.check_cells(job, check):
        yield replace(cell, counters=tuple(launches))


def check_shape(
    module: ModuleType, job: KernelJob, index: int, launches: list[Counters]
) -> list[str]:
    """What is wrong with the kernel's results for one shape; nothing if all agree."""
    arguments = inputs.make_arguments(job, index)
    expected = numerics.expected(job, arguments, index)
    problems: list[str] = []
    for reverse in (False, True):
        executor = Executor(reverse=reverse)
        with executing(module, executor):
            got = numerics.results(getattr(module, job.kernel.name), arguments)
        if not reverse:
            launches += executor.launches
        for by, want in expected.items():
            problems += numerics.compare_results(job, got, want, arguments, by)
        if problems:
            return [f"{text}, in reverse order" for text in problems] if reverse else problems
    return problems
