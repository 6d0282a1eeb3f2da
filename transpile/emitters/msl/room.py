"""What would make a kernel fit that asks for more registers or memory than there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.sizes import Size

#: registers, shared memory, threadgroup memory
CODES = frozenset({"KT0605", "KT0606", "KT0611"})
_CHUNKS = (4096, 1024, 256)


def with_remedy(
    problem: KtError, kernel: ir.Kernel, build: Callable[[ir.Kernel], object]
) -> KtError:
    """The problem with the largest blocks that ``build`` takes as its remedy, if it takes any."""
    if not all(d.code in CODES for d in problem.diagnostics):
        return problem
    for remedy, smaller in _smaller(kernel):
        try:
            build(smaller)
        except (KtError, ValueError):
            continue
        return KtError(*(replace(d, remedy=remedy) for d in problem.diagnostics))
    return problem


def _smaller(kernel: ir.Kernel) -> Iterator[tuple[str, ir.Kernel]]:
    """Kernels that need less and less, and how to say so in the source or the config."""
    if (kernel.config.get("num_stages") or 1) > 1:
        yield (
            "use `num_stages` 1: that fits",
            replace(kernel, config={**kernel.config, "num_stages": 1}),
        )
    blocks = list(kernel.blocks)
    while True:
        sizes = {n: b.fixed.as_int() or 0 for n, b in enumerate(blocks) if b.fixed is not None}
        widest = max(sizes, key=lambda n: (sizes[n], -n), default=None)
        if widest is None or sizes[widest] <= 1:
            break
        half = Size.of(sizes[widest] // 2)
        blocks[widest] = replace(blocks[widest], fixed=half)
        now = [b.fixed.as_int() for b in blocks if b.fixed is not None]
        given = f"a `block_size` of {now[0]} fits" if len(now) == 1 else (
            f"block sizes of {', '.join(map(str, now))} (in the order of the source) fit"
        )  # fmt: skip
        yield given, replace(kernel, blocks=tuple(blocks))
    for chunk in _CHUNKS:
        yield (
            f"`reduction_loops` of {chunk} in the config, which walks rows in chunks, fits",
            replace(kernel, config={**kernel.config, "reduction_loops": [chunk]}),
        )
