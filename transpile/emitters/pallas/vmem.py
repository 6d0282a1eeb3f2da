"""Vector memory of a kernel: what its windows and scratch buffers take, at most.

A buffer is rounded up to whole tiles of (8, 128) 32-bit words; a window that moves is there twice,
so that the next one is copied in while this one is computed on (docs.jax.dev/en/latest/pallas/tpu,
"pipelining"). What the compiler spills comes on top.
"""

from __future__ import annotations

from math import prod

from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.dtypes import bytes_of
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.windows import Window, WindowDim
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import F32, DType
from transpile.ir.sizes import Size

MIB = 1 << 20

#: vector memory of one core, in bytes
PHYSICAL = {
    "tpu-v5e": 128 * MIB, "tpu-v5p": 64 * MIB, "tpu-v6e": 128 * MIB, "tpu-7x": 64 * MIB,
}  # fmt: skip

#: what every generation allows a kernel that asks for nothing, less room for what is spilled
UNASKED = 10 * MIB

_SPILLED = 3  # values of the largest shape that are alive at once, besides the windows


def tile_bytes(shape: list[int], dtype: DType) -> int:
    """Bytes of a buffer in whole tiles."""
    size = bytes_of(dtype)
    *lead, rows, lanes = [1, 1, *shape]
    sublanes = 8 * (4 // min(4, size))
    return prod(lead) * _up(rows, sublanes) * _up(lanes, 128) * size


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


class Needs:
    """Upper bounds of a phase's buffers; None where a dimension is known only at run time."""

    def __init__(self, plan: Plan, ctx: Context) -> None:
        self.plan = plan
        self.ctx = ctx
        windows = [*plan.windows.inputs, *plan.windows.outputs]
        self.buffers: list[tuple[str, int | None]] = [
            (self._describe(w), self._window(w)) for w in windows if w.space == "vmem"
        ]
        for var, _ in ctx.scratch:
            value = ctx.scratch_values.get(var)
            if value is None:
                continue  # not vector memory
            self.buffers.append(
                (f"scratch {var.name}", self._bytes(list(value.shape), value.dtype))
            )
        largest = self._largest()
        if largest:
            self.buffers.append(("values that may be spilled", largest))

    @property
    def total(self) -> int | None:
        """All of it, in bytes."""
        sizes = [n for _, n in self.buffers]
        return None if None in sizes else sum(n for n in sizes if n is not None)

    def _describe(self, window: Window) -> str:
        text = ", ".join(
            "1" if d.kind == "squeezed" else self.ctx.sizes.expr(d.size).text() for d in window.dims
        )
        return f"window of {window.tensor.name} ({text})" + (" twice" if window.along else "")

    def _window(self, window: Window) -> int | None:
        shape: list[int] = []
        for dim in window.dims:
            if dim.kind == "squeezed":
                continue
            number = self._extent(dim)
            if number is None:
                return None
            shape.append(number)
        if window.unit:
            shape.insert(-1, 1)
        return tile_bytes(shape, window.tensor.dtype) * (2 if self.plan.grid else 1)

    def _extent(self, dim: WindowDim) -> int | None:
        number = self._most(dim.size)
        if number is None or not dim.steps:
            return number
        step = max(abs(s) for s in dim.steps)
        return _up(number, step) + (step if min(dim.steps) < 0 else 0)

    def _most(self, size: Size) -> int | None:
        """The largest value of a size that is known at build time."""
        return size.substitute(self.plan.schedule.blocks).as_int()

    def _bytes(self, shape: list[Size], dtype: DType) -> int | None:
        numbers = [self._most(s) for s in shape]
        if any(n is None for n in numbers):
            return None
        return tile_bytes([n for n in numbers if n is not None], dtype)

    def _largest(self) -> int:
        sizes = [
            self._bytes(list(r.shape), F32)
            for op in self.ctx.makers.values()
            if not isinstance(op, ir.Load)
            for r in op.results
            if isinstance(r.type, ir.TileType) and len(r.shape) > 1
        ]
        return _SPILLED * max((s for s in sizes if s is not None), default=0)


def check(needs: Needs, kernel: ir.Kernel, arch: str) -> None:
    """KT0640 if the buffers cannot fit, with what they take and the largest blocks that do."""
    total = needs.total
    limit = PHYSICAL.get(arch, max(PHYSICAL.values()))
    if total is None or total <= limit or not _all_static(needs):
        return
    table = "".join(f"\n  {size / MIB:8.2f} MiB  {what}" for what, size in needs.buffers if size)
    raise KtError(*error(
        "KT0640",
        f"`{kernel.name}` needs {total / MIB:.1f} MiB of VMEM, there are {limit // MIB}",
        kernel.span,
        why=f"its buffers, in whole tiles:{table}",
        remedy=_remedy(needs, total, limit),
    ).diagnostics)  # fmt: skip


def _all_static(needs: Needs) -> bool:
    """True if no dimension can turn out smaller than its block."""
    return not any(
        extent.as_int() is None for dim in needs.plan.grid for extent in [dim.end - dim.begin]
    )


def _remedy(needs: Needs, total: int, limit: int) -> str:
    """The block sizes to halve until all of it fits."""
    blocks = dict(needs.plan.schedule.blocks)
    tunable = [s for s in needs.plan.schedule.tunable if blocks[s] > 128]
    while total > limit and tunable:
        largest = max(tunable, key=lambda s: blocks[s])
        blocks[largest] //= 2
        total //= 2
        tunable = [s for s in tunable if blocks[s] > 128]
    sizes = [blocks[s] for s in needs.plan.schedule.tunable]
    return f"block_sizes={sizes} fits" if total <= limit else "split the dimension with hl.tile"
