"""From Tile IR to Metal kernels: schedule, thread lowering, and the versions of a phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from transpile.emitters.msl.comments import worth_saying
from transpile.emitters.msl.host import PhaseLaunch, host_sizes
from transpile.emitters.msl.kernel import (
    MAX_THREADS,
    SHARED_BYTES,
    Form,
    MetalKernel,
    print_kernel,
)
from transpile.emitters.msl.room import with_remedy
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.dtypes import BF16, F8E4M3, F8E5M2, F16, F32
from transpile.ir.sizes import Sym
from transpile.passes.depth import step_products
from transpile.passes.pipeline import prepare
from transpile.passes.roll import reduction_sizes
from transpile.passes.schedule import Schedule, resolve
from transpile.thread import ir as thread
from transpile.thread.dead import remove_dead
from transpile.thread.dot_fit import fitted_blocks
from transpile.thread.dot_layout import MatrixMap, MatrixUnit
from transpile.thread.fit import held_blocks
from transpile.thread.ir import Part
from transpile.thread.limits import Limits
from transpile.thread.lower import lower
from transpile.thread.named import named

#: keys of the config that matter here
FOLLOWED = frozenset(
    {
        "flatten_loops",
        "index_dtype",
        "l2_groupings",
        "loop_orders",
        "num_stages",
        "num_threads",
        "num_warps",
        "reduction_loops",
    }
)

#: rows of a run-time length are kept in registers in kernels for these lengths; longer ones are
#: walked in chunks, or where that cannot be in a kernel for the last length
CAPACITIES = (1024, 4096)
SHORTEST, LONGEST = 32, 16384
_NO_ROOM = ("KT0605", "KT0606")  # in registers, in shared memory
CHUNK = 4096
_SHORT = 2  # letters of a dimension that go with a B to the name of its block
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
    matrices=_PRODUCTS, row=LONGEST,
)  # fmt: skip


@dataclass(eq=False, slots=True)
class Variant:
    """One kernel for one signature, as Metal code: per phase its versions, smallest first; and what
    it was lowered from."""

    kernel: ir.Kernel
    schedule: Schedule
    phases: list[list[MetalKernel]]
    given: ir.Kernel
    arch: str
    comments: Mapping[int, str]
    launches: list[PhaseLaunch] = field(default_factory=list)


def lower_kernel(kernel: ir.Kernel, arch: str, text: str) -> Variant:
    """All phases of a kernel as Metal; KtError with everything this target cannot do.

    ``text`` is the source file's, from which comments quote.
    """
    comments = worth_saying(text, kernel)
    try:
        whole = _Prepared(kernel, arch)
        phases = [whole.printed(i, comments) for i in range(len(kernel.phases))]
    except KtError as problem:
        raise with_remedy(problem, kernel, lambda less: _whole(less, arch)) from None
    limited = [i for i, codes in enumerate(phases) if codes[-1].kernel.capacities]
    if limited:
        for i, code in _beyond(kernel, arch, comments, whole, limited):
            phases[i].append(code)
    return Variant(whole.kernel, whole.schedule, phases, kernel, arch, comments)


def _whole(kernel: ir.Kernel, arch: str) -> None:
    """Lowers all phases; KtError where something has no room."""
    prepared = _Prepared(kernel, arch)
    for number in range(len(kernel.phases)):
        prepared.printed(number, {})


def _beyond(
    kernel: ir.Kernel, arch: str, comments: Mapping[int, str], whole: _Prepared, limited: list[int]
) -> Iterator[tuple[int, MetalKernel]]:
    """For phases that hold rows of a run-time length: their kernels for longer rows."""
    for number in limited:
        try:
            rolled = _Prepared(kernel, arch, chunk=CHUNK)
            (code,) = rolled.printed(number, comments)
        except (KtError, ValueError):
            code = None
        if code is not None and not code.kernel.capacities:
            yield number, code
            continue
        try:
            code = whole.printed(number, comments, (LONGEST,))[0]
        except KtError:
            continue  # no registers for it
        yield number, code


class Uniform:
    """The versions of a kernel lowered once more, so that other kernels may have the same code."""

    def __init__(self, kernel: ir.Kernel, arch: str) -> None:
        self.kernel, self.arch = kernel, arch
        self.prepared: dict[int | None, _Prepared] = {}

    def of(self, form: Form) -> thread.Kernel:
        """KtError or ValueError where that cannot be."""
        if form.chunk not in self.prepared:
            prepared = _Prepared(self.kernel, self.arch, form.chunk, uniform=True)
            self.prepared[form.chunk] = prepared
        return self.prepared[form.chunk].again(form)


def thread_kernels(kernel: ir.Kernel, arch: str = "") -> Iterator[thread.Kernel]:
    """The thread IR of every phase, and of each of its versions."""
    whole = _Prepared(kernel, arch)
    for number in range(len(kernel.phases)):
        yield from (lowered for _, lowered in whole.versions(number))


def _constant(block: Sym) -> str:
    """What a block size is called in the code: BM for the block of M."""
    short = block.name.removeprefix("BLOCK_")
    return f"B{short}" if len(short) <= _SHORT else block.name


class _Prepared:
    """A kernel and its schedule after the passes; with ``chunk`` rows of a run-time length are
    walked in chunks of it; ``uniform`` is for code that other kernels shall have, too."""

    def __init__(
        self, kernel: ir.Kernel, arch: str, chunk: int | None = None, *, uniform: bool = False
    ) -> None:
        self.uniform, self.chunk = uniform, chunk
        self.schedule = schedule = resolve(kernel, "metal", arch)
        if "num_warps" not in schedule.config:
            schedule.num_warps = None  # the lowering chooses the number of threads
        if chunk is not None:
            sizes = reduction_sizes(kernel)
            given = [*schedule.reduction_loops, *[None] * len(sizes)]
            schedule.reduction_loops = tuple(
                chunk if size.as_int() is None else known
                for size, known in zip(sizes, given, strict=False)
            )
        kernel = step_products(kernel, schedule.blocks)
        schedule.blocks = fitted_blocks(kernel, schedule.blocks, schedule.num_warps, LIMITS)
        schedule.blocks = held_blocks(kernel, schedule.blocks, schedule.config, LIMITS)
        self.kernel = prepare(kernel, schedule)
        self.sizes = host_sizes(self.kernel, schedule)

    def versions(
        self, number: int, capacities: tuple[int, ...] = CAPACITIES
    ) -> Iterator[tuple[int, thread.Kernel]]:
        """A phase's kernels: one, or one for each length that a run-time row may have, with it."""
        for i, capacity in enumerate(capacities):
            try:
                lowered = self._for(number, capacity)
            except KtError as problem:
                if i == 0:
                    yield self._shorter(number, capacity, problem)
                return  # no registers for longer rows
            yield capacity, lowered
            if not lowered.capacities:
                return

    def _shorter(self, number: int, capacity: int, problem: KtError) -> tuple[int, thread.Kernel]:
        """The kernel for the longest rows there are registers for; the problem if there are none
        even for short ones."""
        while all(d.code in _NO_ROOM for d in problem.diagnostics) and capacity > SHORTEST:
            capacity //= 2
            try:
                return capacity, self._for(number, capacity)
            except KtError as again:
                if not all(d.code in _NO_ROOM for d in again.diagnostics):
                    raise
        raise problem

    def _for(self, number: int, capacity: int) -> thread.Kernel:
        phase = self.kernel.phases[number]
        plan = self.schedule.phase(phase)
        blocks = {s: named(n, _constant(s)) for s, n in self.schedule.blocks.items()}
        lowered = lower(
            self.kernel, phase, blocks, replace(LIMITS, row=capacity, uniform=self.uniform),
            config=self.schedule.config, order=plan.order, swizzle=plan.group,
        )  # fmt: skip
        remove_dead(lowered.body)
        return lowered

    def printed(
        self, number: int, comments: Mapping[int, str], capacities: tuple[int, ...] = CAPACITIES
    ) -> list[MetalKernel]:
        """The same as Metal."""
        codes = []
        for capacity, lowered in self.versions(number, capacities):
            code = print_kernel(self.kernel, lowered, self.sizes, comments)
            code.form = Form(number, capacity, self.chunk)
            codes.append(code)
        return codes

    def again(self, form: Form) -> thread.Kernel:
        """A version that has been lowered before, in another way."""
        return self._for(form.phase, form.capacity)
