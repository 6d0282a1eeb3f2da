"""Vector memory of a kernel: its windows, its scratch buffers and the values it may have to spill.

A buffer is rounded up to whole tiles of its element type; a window of a kernel with a grid is there
twice, so that the next one is copied in while this one is computed on (docs.jax.dev/en/latest/
pallas/tpu, "pipelining"). benchmarks/pallas_vmem.py compares the estimate with what libtpu needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.dtypes import on_device
from transpile.emitters.pallas.temporaries import Temporaries
from transpile.emitters.pallas.windows import Window
from transpile.ir import ir
from transpile.ir.diagnostics import KtError, error
from transpile.ir.dtypes import DType
from transpile.ir.sizes import ONE, ZERO, Size, Sym

if TYPE_CHECKING:
    from transpile.emitters.pallas.loops import Copied
    from transpile.emitters.pallas.plan import Plan

MIB = 1 << 20

#: vector memory of one core of each generation, in bytes
PHYSICAL = {
    "tpu-v5e": 128 * MIB, "tpu-v5p": 64 * MIB, "tpu-v6e": 128 * MIB, "tpu-7x": 64 * MIB,
}  # fmt: skip

#: what the compiler keeps for itself (64 KiB were measured)
_KEPT = MIB // 4

#: what every generation gives a kernel that asks for nothing: 16 MiB on v5e and v5p
UNASKED = 15 * MIB

_WORD = 4  # bytes
_NOMINAL = 1024  # stands for a dimension that is known at run time only, to compare sums


def tile_bytes(shape: list[int], width: int) -> int:
    """Bytes of a buffer in whole tiles; ``width``: bytes of an element."""
    if len(shape) == 1:
        return _up(shape[0], 1024) * width
    *lead, rows, lanes = [1, 1, *shape]
    return prod(lead) * _up(rows, 32 // min(4, width)) * _up(lanes, 128) * width


def with_margin(spilled: int) -> int:
    """Bytes of spilled values with what the compiler adds: up to a quarter of 2 MiB was measured,
    and a tenth of 8 (products)."""
    return spilled * 23 // 20 + MIB // 2 if spilled else 0


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


@dataclass(frozen=True, slots=True)
class Buffer:
    """One row of the table: ``shape`` and ``copies`` of a ``width``-byte element each."""

    what: str
    shape: tuple[Size, ...]
    width: int
    copies: int
    steps: tuple[tuple[int, ...], ...] = ()  # by dimension: it is rounded up to their largest

    def size(self, blocks: Mapping[Sym, int], nominal: int | None = None) -> int | None:
        """Bytes at most, for given block sizes; None if a dimension is not known."""
        numbers: list[int] = []
        for size, steps in zip(self.shape, self.steps or ((),) * len(self.shape), strict=True):
            number = size.substitute(blocks).as_int()
            if number is None and nominal is None:
                return None
            number = (nominal or 0) if number is None else number
            if steps:
                step = max(map(abs, steps))
                number = _up(number, step) + (step if min(steps) < 0 else 0)
            numbers.append(number)
        return self.copies * tile_bytes(numbers, self.width)


class Needs:
    """What a phase needs of vector memory."""

    def __init__(self, plan: Plan, ctx: Context) -> None:
        self.plan = plan
        windows = [*plan.windows.inputs, *plan.windows.outputs]
        self.buffers = [self._window(w, ctx) for w in windows if w.space == "vmem"]
        for var, _ in ctx.scratch:
            if (value := ctx.scratch_values.get(var)) is not None:
                name = (var.name or var.hint).removesuffix("_ref")
                what = f"{name} {_shape(value.shape, ctx)} {value.dtype}, scratch"
                self.buffers.append(Buffer(what, value.shape, _width(value.dtype), 1))
        pipelines = [c for form, c in plan.windows.loops.values() if form == "pipeline"]
        #: what the largest copies: pipelines one after the other have the same memory
        self.pipelined = max(pipelines, key=lambda c: self._rank(c, ctx), default=[])
        self.buffers += [self._pipelined(c, ctx) for c in self.pipelined]
        found = Temporaries(plan.phase.body, plan.loop, self._guess)
        self.spilled = [
            Buffer("values that may be spilled", shape, width, count)
            for (shape, width), count in found.tiles.items()
        ]
        self.words = [
            Buffer("the same as words", shape, _WORD, n) for (shape, _), n in found.words.items()
        ]

    def _window(self, window: Window, ctx: Context) -> Buffer:
        dims = [d for d in window.dims if d.kind != "squeezed"]
        shape, steps = [d.size for d in dims], [d.steps for d in dims]
        if window.unit:
            shape.insert(-1, ONE)
            steps.insert(-1, ())
        what = f"{window.tensor.name} {_shape(tuple(shape), ctx)} {on_device(window.tensor.dtype)}"
        copies = 2 if self.plan.grid else 1
        what += ", twice" if copies == 2 else ""
        return Buffer(what, tuple(shape), _width(window.tensor.dtype), copies, tuple(steps))

    def _pipelined(self, copied: Copied, ctx: Context) -> Buffer:
        """The two buffers that ``pltpu.emit_pipeline`` makes for an operand or a result."""
        shape = tuple(size for size in copied.blocks if size is not None)
        dtype = on_device(copied.tensor.dtype)
        what = f"{copied.tensor.name} {_shape(shape, ctx)} {dtype}, twice by emit_pipeline"
        return Buffer(what, shape, _width(copied.tensor.dtype), 2)

    def _rank(self, copies: list[Copied], ctx: Context) -> int:
        buffers = [self._pipelined(c, ctx) for c in copies]
        return sum(b.size(self.plan.schedule.blocks, _NOMINAL) or 0 for b in buffers)

    def _guess(self, shape: tuple[Size, ...], width: int) -> int:
        size = Buffer("", shape, width, 1).size(self.plan.schedule.blocks, _NOMINAL)
        assert size is not None
        return size

    def total_of(self, blocks: Mapping[Sym, int]) -> int | None:
        """Bytes of everything for given block sizes."""
        sizes = [b.size(blocks) for b in self.buffers]
        spilled = [b.size(blocks) for b in self.spilled]
        if None in sizes or None in spilled:
            return None
        return sum(n or 0 for n in sizes) + with_margin(sum(n or 0 for n in spilled))

    @property
    def total(self) -> int | None:
        """Bytes of everything at most; None where that depends on a dimension."""
        return self.total_of(self.plan.schedule.blocks)

    @property
    def spills(self) -> Size:
        """Bytes of the values that may be spilled, but for columns: as words, so that signatures
        that differ in types only agree."""
        total = ZERO
        for buffer in self.words:
            if len(buffer.shape) > 1 and ONE not in buffer.shape[-2:]:
                term = Size.of(buffer.copies * buffer.width)
                for size in buffer.shape:
                    number = self.plan.sizes.number(size)
                    known = size if number is None else Size.of(number)
                    term = term * self.plan.sizes.open(known)
                total = total + term
        return total

    @property
    def spills_much(self) -> bool:
        """True if they may take more than half of what kt.pallas_call adds for columns and such."""
        sizes = [b.size(self.plan.schedule.blocks) for b in self.words]
        return None in sizes or sum(n for n in sizes if n is not None) > 2 * MIB

    def table(self) -> str:
        """A line for each buffer."""
        rows = [(b.what, b.size(self.plan.schedule.blocks)) for b in self.buffers]
        spilled = [b.size(self.plan.schedule.blocks) or 0 for b in self.spilled]
        rows.append(("values that may be spilled", with_margin(sum(spilled))))
        return "".join(f"\n  {n / MIB:8.2f} MiB  {what}" for what, n in rows if n)


def most_of(totals: Sequence[int | None]) -> int | None:
    """The largest; None if one is not known."""
    known = [t for t in totals if t is not None]
    return max(known) if known and len(known) == len(totals) else None


def _width(dtype: DType) -> int:
    return max(1, on_device(dtype).bits // 8)


def _shape(shape: tuple[Size, ...], ctx: Context) -> str:
    blocks = ctx.sizes.schedule.blocks
    texts = [ctx.sizes.expr(s.substitute(blocks)).text() for s in shape]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def limits(arch: str) -> dict[str, int]:
    """Bytes that a kernel may ask for, by generation: of one, or of all if ``arch`` is empty."""
    chosen = {arch: PHYSICAL[arch]} if arch in PHYSICAL else PHYSICAL
    return {name: size - _KEPT for name, size in chosen.items()}


def check(needs: Needs, kernel: ir.Kernel, arch: str) -> None:
    """KT0640 if a generation cannot hold the buffers: what they take, and blocks that fit."""
    total = needs.total
    if total is None or not _all_static(needs):
        return
    small = {name: limit for name, limit in limits(arch).items() if total > limit}
    if not small:
        return
    where = ", ".join(f"{PHYSICAL[name] // MIB} on {name}" for name in small)
    raise KtError(*error(
        "KT0640",
        f"`{kernel.name}` needs {total / MIB:.1f} MiB of VMEM, there are {where}",
        kernel.span,
        why=f"its buffers, in whole tiles:{needs.table()}",
        remedy=_remedy(needs, min(small.values()), arch, len(small) < len(limits(arch))),
    ).diagnostics)  # fmt: skip


def _all_static(needs: Needs) -> bool:
    """True if no dimension can turn out smaller than its block."""
    return not any(
        extent.as_int() is None for dim in needs.plan.grid for extent in [dim.end - dim.begin]
    )


def _remedy(needs: Needs, limit: int, arch: str, some_fit: bool) -> str:
    """The largest blocks that fit: halves of those given, the largest first."""
    schedule = needs.plan.schedule
    blocks = dict(schedule.blocks)
    tunable = [s for s in schedule.tunable if _takes(needs, blocks, s)]
    total = needs.total_of(blocks)
    while total is not None and total > limit and tunable:
        largest = max(tunable, key=lambda s: blocks[s])
        blocks[largest] //= 2
        total = needs.total_of(blocks)
        tunable = [s for s in tunable if _takes(needs, blocks, s)]
    other = "; or build with --arch for a generation that has more" if some_fit else ""
    if total is None or total > limit:
        return f"split the dimension with hl.tile{other}"
    sizes = [blocks[s] for s in schedule.tunable]
    return f"block_sizes={sizes} needs {total / MIB:.1f} MiB{other}"


def _takes(needs: Needs, blocks: dict[Sym, int], sym: Sym) -> bool:
    """True if half the block is a legal one and takes less."""
    from transpile.emitters.pallas.blocks import minimums

    if blocks[sym] // 2 < minimums(needs.plan.kernel).get(sym, 1) or blocks[sym] % 2:
        return False
    less = needs.total_of(blocks | {sym: blocks[sym] // 2})
    return less is not None and less < (needs.total_of(blocks) or 0)
