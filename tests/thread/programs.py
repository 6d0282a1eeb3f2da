"""Lowers kernels to threads and runs them: shared by the tests of this folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from tests.thread.matrices import UNIT
from transpile import proofs
from transpile.build import BuildOptions, Loaded, load
from transpile.emitters import TARGETS
from transpile.frontend import FrontendOptions, SourceFile
from transpile.frontend import load as parse
from transpile.frontend.project import ProjectConfig
from transpile.ir import ir
from transpile.ir.interpreter import run_kernel
from transpile.ir.walk import walk_kernel
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import resolve
from transpile.thread import barriers
from transpile.thread.dot_fit import fitted_blocks
from transpile.thread.interpreter import run_program
from transpile.thread.ir import Kernel
from transpile.thread.limits import Limits
from transpile.thread.lower import lower
from transpile.thread.verifier import verify
from transpile.verify import inputs, numerics

LIMITS = Limits("test", row=1024, matrices=UNIT)  # the longest row of the examples' shapes
torch.set_num_threads(1)  # the tests run in parallel already
HEAD = "import torch\nimport helion\nimport helion.language as hl\n\n\n@helion.kernel\n"


@dataclasses.dataclass
class Lowered:
    """A kernel, rewritten for its schedule, and its phases as thread IR."""

    kernel: ir.Kernel
    prepared: ir.Kernel
    blocks: dict[Any, int]
    phases: list[Kernel]

    def check(self) -> None:
        """The phases are well formed and every cross-thread read is proved ordered."""
        for phase in self.phases:
            assert verify(phase) == []
            assert barriers.unordered(phase) == []

    def run(self, args: Mapping[str, Any]) -> Any:
        return run_program(self.prepared, self.phases.__getitem__, dict(args), self.blocks)

    def reference(self, args: Mapping[str, Any]) -> Any:
        return run_kernel(self.kernel, dict(args), self.blocks, fill_empty=True)


def lower_kernel(kernel: ir.Kernel, limits: Limits = LIMITS, **options: Any) -> Lowered:
    """All phases of a kernel for its config; ``options`` are those of ``lower``."""
    schedule = resolve(kernel, "metal")
    schedule.blocks = fitted_blocks(kernel, schedule.blocks, schedule.num_warps or 4, limits)
    prepared = prepare(kernel, schedule)
    phases = [
        lower(
            prepared, phase, schedule.blocks, limits, order=schedule.phase(phase).order, **options
        )
        for phase in prepared.phases
    ]
    return Lowered(kernel, prepared, schedule.blocks, phases)


def from_source(
    source: str, signature: Mapping[str, str], config: Mapping[str, Any] | None = None
) -> ir.Kernel:
    """The one kernel of a source text, for one signature; the decorator and imports are added."""
    project = ProjectConfig(path=None)
    options = FrontendOptions(
        kernels=(),
        args=dict(signature),
        sets={},
        config=dict(config) if config else None,
        project=project,
    )
    result = parse(SourceFile("kernel.py", HEAD + source, "0"), options)
    assert not [d for d in result.diagnostics if d.severity == "error"], result.diagnostics
    (kernel,) = result.kernels
    return kernel


def load_example(path: str) -> Loaded:
    return load(path, BuildOptions())


def has_products(kernel: ir.Kernel) -> bool:
    return any(isinstance(op, ir.Dot) for op in walk_kernel(kernel))


def differences(lowered: Lowered, project: ProjectConfig, shape: int) -> list[str]:
    """What is wrong with the thread interpreter's results for a shape of the project file."""
    job = proofs.kernel_job(lowered.kernel, project, TARGETS["triton"])
    args = inputs.make_arguments(job, shape)
    got = numerics.results(lambda **given: lowered.run(given), args)
    want = numerics.results(lambda **given: lowered.reference(given), args)
    return numerics.compare_results(job, got, want, args, "the IR's interpreter")
