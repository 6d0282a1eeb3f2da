"""How a kernel walks a loop over tiles: the form, from the config or from what each form costs.

``whole``     the loop's operands are windows of VMEM that span the dimension
``grid``      the loop is the innermost axis of the grid, carried values live in scratch (plan.py)
``copies``    operands stay in HBM; the kernel copies block after block into one of two buffers
``pipeline``  the same by ``pltpu.emit_pipeline``

``pallas_loop_type`` asks for a form: "unroll" for ``whole``, "fori_loop" for ``copies``,
"emit_pipeline" for ``pipeline``. Without it a product over a whole dimension takes ``grid``, and
:func:`choose` decides for the other loops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from transpile.emitters.common.tree import Var
from transpile.emitters.pallas.dtypes import bytes_of
from transpile.emitters.pallas.vmem import PHYSICAL, tile_bytes
from transpile.emitters.pallas.windows import Access, Window
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, note
from transpile.ir.ir import TileVar, Value
from transpile.ir.sizes import ZERO, Size, Sym
from transpile.ir.walk import walk

if TYPE_CHECKING:
    from transpile.emitters.pallas.plan import Plan

Form = Literal["whole", "copies", "pipeline"]

#: what the values of ``pallas_loop_type`` ask for
ASKED: dict[str, Form] = {"unroll": "whole", "fori_loop": "copies", "emit_pipeline": "pipeline"}

#: bytes a second that a core reads from HBM; https://cloud.google.com/tpu/docs/v5e, /v5p, /v6e,
#: /tpu7x (of a v5p and a 7x, one core's half)
BANDWIDTH = {"tpu-v5e": 819e9, "tpu-v5p": 1382e9, "tpu-v6e": 1640e9, "tpu-7x": 3690e9}

#: seconds from the start of a copy that nothing hides to its end, for a small block: an assumption,
#: the order of a round trip to HBM; the choice changes where it is off by a few times, not less
LATENCY = 1e-6

_SHARE = 2  # windows of one loop take at most one part in so many of vector memory


@dataclass(eq=False, slots=True)
class Copied:
    """Blocks of a tensor in HBM that one loop reads, or writes, through two buffers in VMEM."""

    tensor: ir.Tensor
    loop: ir.ForTile
    index: tuple[ir.Index, ...]
    window: Window  # its ref is the buffer
    semaphores: Var
    copy: Var  # the function that makes the copy of a block
    accesses: list[Access] = field(default_factory=list)

    @property
    def stored(self) -> bool:
        """True if the loop writes the blocks."""
        return isinstance(self.accesses[0], ir.Store)

    @property
    def blocks(self) -> list[Size | None]:
        """What the copies take of each dimension; None of one where they take a single element."""
        return [
            None if isinstance(entry, ir.AtScalar) else _block(entry, extent)
            for entry, extent in zip(self.index, self.tensor.shape, strict=True)
        ]


def _block(entry: ir.Index, extent: Size) -> Size:
    if isinstance(entry, ir.AtTile) and isinstance(entry.tile.type, TileVar):
        return Size.of(entry.tile.type.block)
    return extent


def choose(plan: Plan) -> dict[ir.ForTile, tuple[Form, list[Copied]]]:
    """The form of every loop that is no grid axis, with what it copies.

    A loop takes ``copies``

    - if its windows, known at build time, do not fit into half of vector memory,
    - if its bounds depend on data or on the grid position, and the dimension is known only at run
      time: then it reads what it needs of a dimension of any length; or the dimension is known
      and copies cost less than windows, see :func:`_cheaper`.

    Else it takes ``whole``: a dimension that every turn of the grid walks from end to end is read
    once where the window stays, and without a wait.
    """
    asked = plan.schedule.config.get("pallas_loop_type")
    found: dict[ir.ForTile, tuple[Form, list[Copied]]] = {}
    for op in walk(plan.phase.body):
        if not isinstance(op, ir.ForTile) or op is plan.loop or asked == "unroll":
            continue
        copied = _candidates(plan, op)
        if asked is None and op.body.params[0] in plan.nested:
            continue  # a part of the grid tile's window
        top = op in plan.phase.body.ops
        plan.schedule.notes += _fallbacks(plan, op, asked, copied)
        if all(c.stored for c in copied):
            continue
        if asked == "emit_pipeline" and top:
            found[op] = "pipeline", copied
        elif asked is not None or _needs_copies(plan, op, copied):
            for one in copied:
                _share_buffers(one, [c for _, others in found.values() for c in others])
            found[op] = "copies", copied
    return found


def _share_buffers(copied: Copied, earlier: list[Copied]) -> None:
    """Loops one after the other need buffers of the same blocks only once."""
    for other in earlier:
        apart = copied.loop not in walk(other.loop.body)
        if apart and other.tensor is copied.tensor and other.blocks == copied.blocks:
            copied.window.ref, copied.semaphores = other.window.ref, other.semaphores
            return


def _needs_copies(plan: Plan, loop: ir.ForTile, copied: list[Copied]) -> bool:
    windows = [_bytes(plan, c) for c in copied]
    arch = plan.schedule.arch
    limit = PHYSICAL.get(arch, min(PHYSICAL.values())) // _SHARE
    if None not in windows and 2 * sum(w for w in windows if w is not None) > limit:
        return True
    if _spans_dimension(plan, loop):
        return False
    return None in windows or _cheaper(plan, loop, copied)


def _cheaper(plan: Plan, loop: ir.ForTile, copied: list[Copied]) -> bool:
    """True if copies take less time than windows, for sizes known at build time.

    Windows are read whenever the grid moves them. Copies are read in every step, but of a loop
    whose bounds depend on the step only half of the dimension is, as of a causal mask; and the
    first copy of a loop is waited for. Time is bytes over bandwidth, plus that wait; products take
    the same in either form.
    """
    bandwidth = BANDWIDTH.get(plan.schedule.arch, BANDWIDTH["tpu-v5e"])
    steps = moves = 1.0
    copied = [c for c in copied if not c.stored]  # these are written once in either form
    moving = {d for c in copied for d in _along(plan, c)}
    for dim in plan.grid:
        count = _count(plan, dim.end - dim.begin, dim.block)
        if count is None:
            return True
        steps *= count
        moves = steps if dim in moving else moves
    whole = sum(_bytes(plan, c) or 0 for c in copied)
    return steps * (whole / 2 / bandwidth + LATENCY) < moves * whole / bandwidth


def _count(plan: Plan, extent: Size, block: Sym | None) -> float | None:
    number = extent.as_int()
    size = 1 if block is None else plan.schedule.blocks.get(block)
    return None if number is None or size is None else -(-number // size)


def _along(plan: Plan, copied: Copied) -> set[object]:
    grid = plan.windows.scalars.grid
    return {
        grid[tile]
        for entry in copied.index
        for tile in [entry.tile if isinstance(entry, ir.AtTile) else
                     entry.value if isinstance(entry, ir.AtScalar) else None]
        if tile in grid
    }  # fmt: skip


def _spans_dimension(plan: Plan, loop: ir.ForTile) -> bool:
    """True for a loop from 0 to the end of a dimension."""
    makers = plan.windows.scalars.makers
    begin, end = makers.get(loop.begin), makers.get(loop.end)
    return isinstance(begin, ir.Const) and begin.value == 0 and isinstance(end, ir.SizeOf)


def _bytes(plan: Plan, copied: Copied) -> int | None:
    """Bytes of the window that would hold all blocks of the loop."""
    shape = []
    for entry, extent in zip(copied.index, copied.tensor.shape, strict=True):
        if isinstance(entry, ir.AtScalar):
            continue
        size = extent
        if isinstance(entry, ir.AtTile):
            assert isinstance(entry.tile.type, TileVar)
            if entry.tile is not copied.loop.body.params[0]:
                size = Size.of(plan.schedule.blocks[entry.tile.type.block])
        number = size.as_int()
        if number is None:
            return None
        shape.append(number)
    return tile_bytes(shape, bytes_of(copied.tensor.dtype))


# -- what a loop can copy --------------------------------------------------------------------------


def _candidates(plan: Plan, loop: ir.ForTile) -> list[Copied]:
    """The loop's operands of at least two axes, one of them the loop's; results behind them."""
    written = {
        op.tensor for op in walk(plan.phase.body) if isinstance(op, ir.Store | ir.Atomic)
    }  # fmt: skip
    inside = _defined(loop.body)
    groups: dict[object, Copied] = {}
    for op in walk(loop.body):
        if not isinstance(op, ir.Load) or op.tensor in written:
            continue
        if _obstacle(plan, loop, op, inside):
            continue
        name = op.tensor.name
        key = (op.tensor, op.index)
        if key not in groups:
            buffer = Window(op.tensor, [], Var(f"{name}_buffer"), "buffer")
            groups[key] = Copied(
                op.tensor, loop, op.index, buffer, Var(f"{name}_sems"), Var(f"copy_{name}")
            )
        groups[key].accesses.append(op)
    results = [
        _stored(op, loop)
        for op in loop.body.ops
        if isinstance(op, ir.Store) and _storable(plan, loop, op, inside)
    ]
    return [*groups.values(), *results]


def _storable(plan: Plan, loop: ir.ForTile, op: ir.Store, inside: set[Value]) -> bool:
    """True if the store writes whole blocks of a new tensor, each block once and all of them."""
    tensor = op.tensor
    others = [
        o for o in walk(plan.phase.body)
        if isinstance(o, ir.Load | ir.Store | ir.Atomic) and o.tensor is tensor and o is not op
    ]  # fmt: skip
    if others or op.mask is not None or tensor not in plan.fresh:
        return False
    top = loop in plan.phase.body.ops and _spans_dimension(plan, loop)
    if not top or _obstacle(plan, loop, op, inside):
        return False
    end = plan.windows.scalars.makers[loop.end]
    own = next(d for d, e in enumerate(op.index)
               if isinstance(e, ir.AtTile) and e.tile is loop.body.params[0])  # fmt: skip
    return isinstance(end, ir.SizeOf) and end.size == tensor.shape[own]


def _stored(op: ir.Store, loop: ir.ForTile) -> Copied:
    name = op.tensor.name
    buffer = Window(op.tensor, [], Var(f"{name}_buffer"), "buffer")
    return Copied(op.tensor, loop, op.index, buffer, Var(f"{name}_sems"), Var(f"copy_{name}"), [op])


def _defined(block: ir.Block) -> set[Value]:
    """Values that the block or one inside it defines."""
    found = set(block.params)
    for op in walk(block):
        found |= set(op.results)
        for name in ("body", "cond", "then", "orelse", "combine"):
            inner = getattr(op, name, None)
            if isinstance(inner, ir.Block):
                found |= set(inner.params)
    return found


def _obstacle(plan: Plan, loop: ir.ForTile, op: Access, inside: set[Value]) -> str:
    """Why blocks cannot be copied; "" if each entry of the index is a whole block that is known
    before the loop begins."""
    name, tile = op.tensor.name, loop.body.params[0]
    for d in range(len(op.index)):
        if found := _obstacle_at(plan, op, d, tile, inside):
            return found
    tiles = [e.tile for e in op.index if isinstance(e, ir.AtTile)]
    if tiles.count(tile) != 1:
        return f"`{name}` is not indexed by the loop's tile"
    if sum(not isinstance(e, ir.AtScalar) for e in op.index) < 2:
        return f"`{name}` has no second axis that blocks span"
    if op.tensor.dtype.bits < 8 or op.tensor.dtype.is_bool:
        return f"elements of `{name}` have no bytes of their own in HBM"
    return ""


def _obstacle_at(plan: Plan, op: Access, d: int, own: Value, inside: set[Value]) -> str:
    """The same for one entry of the index; ``own`` is the loop's tile."""
    name, position = op.tensor.name, len(op.index) - 1 - d
    whole = {own, *(tile for tile, dim in plan.windows.scalars.grid.items() if dim.begin == ZERO)}
    match op.index[d]:
        case ir.AtTile(tile=at) | ir.AtScalar(value=at) if at in inside - {own}:
            return f"where `{name}` is accessed follows from what the loop computes"
        case ir.AtScalar():
            if position > 1:
                return ""  # memory is in tiles of the last two axes
            return f"one element of an axis of `{name}` is less than a tile of memory"
        case ir.AtTile(tile=at, offset=None) if at in whole:
            return _part_of_a_tile(plan, at, op, position)
        case ir.AtSlice(start=None, length=length) if length == op.tensor.shape[d]:
            return ""
        case _:
            return f"`{name}` is not accessed in whole blocks"


def _part_of_a_tile(plan: Plan, tile: Value, op: Access, position: int) -> str:
    """Why copies cannot have blocks of this size at this axis, counted from the last; "" if they
    can."""
    assert isinstance(tile.type, TileVar)
    block, name = tile.type.block, op.tensor.name
    size = plan.schedule.blocks.get(block)
    if size is None or block in plan.schedule.dynamic_blocks:
        return f"a block size of `{name}` is known at run time only"
    packing = 4 // min(4, bytes_of(op.tensor.dtype))
    need = {0: 128, 1: 8 * packing}.get(position, 1)
    if size % need == 0:
        return ""
    return f"blocks of `{name}` have {size} elements along an axis that needs a multiple of {need}"


def _fallbacks(
    plan: Plan, loop: ir.ForTile, asked: str | None, copied: list[Copied]
) -> list[Diagnostic]:
    """A note if the loop cannot have the form that is asked for."""
    if asked is None:
        return []
    if all(c.stored for c in copied):
        return [left_out(plan.kernel, loop, asked, *_why_windows(plan, loop))]
    if asked == "emit_pipeline" and loop not in plan.phase.body.ops:
        why = 'it is inside another loop or a branch; copies are written, as for "fori_loop"'
        return [left_out(plan.kernel, loop, asked, why, 'say "fori_loop"')]
    return []


def _why_windows(plan: Plan, loop: ir.ForTile) -> tuple[str, str]:
    """Why a loop can copy none of its operands, and what to do."""
    written = {op.tensor for op in walk(plan.phase.body) if isinstance(op, ir.Store | ir.Atomic)}
    tile, inside = loop.body.params[0], _defined(loop.body)
    for op in walk(loop.body):
        if not isinstance(op, ir.Load) or tile not in _tiles(op):
            continue
        writes = f"the kernel writes `{op.tensor.name}`, too"
        why = writes if op.tensor in written else _obstacle(plan, loop, op, inside)
        larger = "multiple of" in why
        return (
            f"{why}; windows that span the dimension are written",
            "choose such block sizes" if larger else 'say "unroll", or leave the key out',
        )
    return "it reads no block of a tensor", "leave the key out"


def _tiles(op: Access) -> set[Value]:
    return {entry.tile for entry in op.index if isinstance(entry, ir.AtTile)}


def left_out(kernel: ir.Kernel, loop: ir.ForTile, asked: str, why: str, remedy: str) -> Diagnostic:
    """KT0604 for a loop that has not the form that the config asks for."""
    name = loop.body.params[0].name
    where = f"the loop over `{name}`" if name else "a loop"
    return note(
        "KT0604",
        f'`pallas_loop_type="{asked}"` of `{kernel.name}` is left out in {where}',
        loop.span or kernel.span,
        why=why,
        remedy=remedy,
    )


def rounded(plan: Plan, copied: list[Copied]) -> dict[Sym, int]:
    """Grid blocks of copies, with the least size each may be cut to, whatever the element type:
    whole tiles, and what a block of a one-dimensional tensor has to be."""
    lines = {
        entry.tile.type.block
        for op in walk(plan.phase.body)
        if isinstance(op, ir.Load | ir.Store | ir.Atomic) and len(op.index) == 1
        for entry in op.index
        if isinstance(entry, ir.AtTile) and isinstance(entry.tile.type, TileVar)
    }
    found: dict[Sym, int] = {}
    for c in copied:
        for position, entry in zip((1, 0), c.index[-2:], strict=True):
            if isinstance(entry, ir.AtTile) and entry.tile is not c.loop.body.params[0]:
                assert isinstance(entry.tile.type, TileVar)
                block = entry.tile.type.block
                least = 32 if position else 128
                found[block] = max(found.get(block, 0), 512 if block in lines else least)
    return found
