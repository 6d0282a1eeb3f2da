"""From Tile IR to Metal kernels: schedule, thread lowering, and the versions of a phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from transpile.emitters.msl.comments import worth_saying
from transpile.emitters.msl.host import PhaseLaunch, host_sizes
from transpile.emitters.msl.kernel import MAX_THREADS, SHARED_BYTES, MetalKernel, print_kernel
from transpile.ir import ir
from transpile.ir.dtypes import BF16, F8E4M3, F8E5M2, F16, F32
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import Schedule, resolve
from transpile.thread import ir as thread
from transpile.thread.dot_fit import fitted_blocks
from transpile.thread.dot_layout import MatrixMap, MatrixUnit
from transpile.thread.ir import Part
from transpile.thread.limits import Limits
from transpile.thread.lower import lower

#: rows of a run-time length are kept in registers in kernels for these lengths
CAPACITIES = (1024, 4096, 16384)
#: 8x8 matrices of a SIMD group: lane l holds row 4 * (l / 16) + l / 2 % 4, and two neighbours in
#: columns from 4 * (l / 8 % 2) + 2 * (l % 2) on (as MLX's steel kernels and others rely on)
_EIGHT = MatrixMap(
    rows=(Part(2, 4, 16), Part(4, 1, 2)), cols=(Part(2, 4, 8), Part(2, 2, 1), Part(2, 1))
)
_PRODUCTS = MatrixUnit(
    _EIGHT, _EIGHT, _EIGHT,
    types=frozenset({(F16, F32), (BF16, F32), (F32, F32)}),
    widened=((F8E4M3, F16), (F8E5M2, F16)),
)  # fmt: skip
LIMITS = Limits(
    "metal", MAX_THREADS, simd=32, shared_bytes=SHARED_BYTES, vector_bytes=16, vector_elements=4,
    matrices=_PRODUCTS, row=CAPACITIES[-1],
)  # fmt: skip


@dataclass(eq=False, slots=True)
class Variant:
    """One kernel for one signature, as Metal code: per phase its versions, smallest first."""

    kernel: ir.Kernel
    schedule: Schedule
    phases: list[list[MetalKernel]]
    launches: list[PhaseLaunch] = field(default_factory=list)


def lower_kernel(kernel: ir.Kernel, arch: str, text: str) -> Variant:
    """All phases of a kernel as Metal; KtError with everything this target cannot do.

    ``text`` is the source file's, from which comments quote.
    """
    kernel, schedule = _prepared(kernel, arch)
    comments = worth_saying(text, kernel)
    phases = [_versions(kernel, phase, schedule, comments) for phase in kernel.phases]
    return Variant(kernel, schedule, phases)


def thread_kernels(kernel: ir.Kernel, arch: str = "") -> Iterator[thread.Kernel]:
    """The thread IR of every phase, and of each of its versions."""
    kernel, schedule = _prepared(kernel, arch)
    for phase in kernel.phases:
        yield from _lowered(kernel, phase, schedule)


def _prepared(kernel: ir.Kernel, arch: str) -> tuple[ir.Kernel, Schedule]:
    schedule = resolve(kernel, "metal", arch)
    if "num_warps" not in schedule.config:
        schedule.num_warps = None  # the lowering chooses the number of threads
    schedule.blocks = fitted_blocks(kernel, schedule.blocks, schedule.num_warps or 4, LIMITS)
    return prepare(kernel, schedule), schedule


def _lowered(kernel: ir.Kernel, phase: ir.Phase, schedule: Schedule) -> Iterator[thread.Kernel]:
    """The phase's kernels: one, or one for each length that a run-time row may have."""
    for capacity in CAPACITIES:
        lowered = lower(
            kernel, phase, schedule.blocks, replace(LIMITS, row=capacity),
            config=schedule.config, order=schedule.phase(phase).order,
        )  # fmt: skip
        yield lowered
        if not lowered.capacities:
            return


def _versions(
    kernel: ir.Kernel, phase: ir.Phase, schedule: Schedule, comments: Mapping[int, str]
) -> list[MetalKernel]:
    sizes = host_sizes(kernel, schedule)
    return [print_kernel(kernel, k, sizes, comments) for k in _lowered(kernel, phase, schedule)]
