"""The plan of a phase: its grid, the loop that joins it, and the windows of its tensors."""

from __future__ import annotations

import re

from transpile.emitters.common.names import mangle
from transpile.emitters.common.tree import Var
from transpile.emitters.pallas.blocks import minimums
from transpile.emitters.pallas.lanes import replicated_columns
from transpile.emitters.pallas.loops import choose, rounded
from transpile.emitters.pallas.sizes import Sizes, block_variable
from transpile.emitters.pallas.variation import General
from transpile.emitters.pallas.windows import GridDim, Scalars, Windows
from transpile.ir import ir
from transpile.ir.sizes import ZERO, Size, Sym
from transpile.ir.walk import walk
from transpile.passes.schedule import Schedule

_LETTERS = "ijkpqrstuvw"
_SUBLANES = 32  # of a vector register of the narrowest type
_LANES = 128  # of a vector register; a multiple of the sublanes of every dtype


class Plan:
    """Everything about a phase that is decided before its body is lowered."""

    def __init__(
        self,
        kernel: ir.Kernel,
        phase: ir.Phase,
        schedule: Schedule,
        reserved: frozenset[str],
        general: dict[Size, General] | None = None,
        open_blocks: frozenset[Sym] = frozenset(),
    ) -> None:
        self.kernel = kernel
        self.phase = phase
        self.schedule = schedule
        taken = {t.name for t in kernel.tensors} | {s.name for s in kernel.scalars}
        taken |= {f"{t.name}_ref" for t in kernel.tensors}
        read = {op.tensor for op in walk(phase.body) if isinstance(op, ir.Load)}
        dims = frozenset(s for t in read for s in t.shape if s.as_int() is None)
        self.sizes = Sizes(
            kernel, schedule, taken, reserved, dims=dims, general=general or {},
            open_blocks=open_blocks,
        )  # fmt: skip
        self.loop = self._promoted()
        self.grid = self._grid()
        self._take_turns()
        self.nested = self._nested()
        self._clamp()
        self._limit_rows()
        scalars = Scalars(self.grid, self.sizes, phase.body)
        self.windows = Windows(self.sizes, scalars)
        self.windows.loose = self._loose()
        self.windows.nested = self.nested
        self.fresh = {t for t in kernel.tensors if self._is_fresh(t)}
        self.windows.loops = choose(self)
        for _, copied in self.windows.loops.values():
            for block, least in rounded(self, copied).items():
                self.sizes.round_up(block, least)
        self.windows.build(phase.body, self._modified())
        self._order()

    # -- the grid ------------------------------------------------------------------------------

    def _promoted(self) -> ir.ForTile | None:
        """The loop that becomes the innermost grid axis: the only one, over a whole dimension, with
        a product in it."""
        if self.schedule.config.get("pallas_loop_type") is not None:
            return None
        loops = [op for op in self.phase.body.ops if isinstance(op, ir.ForTile | ir.ForRange)]
        others = [op for op in self.phase.body.ops if isinstance(op, ir.If | ir.While)]
        if len(loops) != 1 or others or not isinstance(loops[0], ir.ForTile):
            return None
        loop = loops[0]
        inner = list(walk(loop.body))
        if any(isinstance(op, ir.ForTile | ir.ForRange | ir.While | ir.If) for op in inner):
            return None
        if any(isinstance(op, ir.Store | ir.Atomic) for op in inner) or not loop.results:
            return None
        if not any(isinstance(op, ir.Dot) for op in inner):
            return None
        makers = {r: op for op in self.phase.body.ops for r in op.results}
        begin, end = makers.get(loop.begin), makers.get(loop.end)
        static = isinstance(begin, ir.Const) and begin.value == 0 and isinstance(end, ir.SizeOf)
        before = self.phase.body.ops[: self.phase.body.ops.index(loop)]
        heavy = any(isinstance(op, ir.Dot | ir.Store | ir.Atomic | ir.Scan) for op in before)
        return loop if static and not heavy else None

    def _grid(self) -> list[GridDim]:
        dims: list[GridDim] = []
        for axis in self.phase.axes:
            name = axis.var.name or "tile"
            dims.append(
                GridDim(axis.var, axis.begin, axis.end, axis.block, axis.step, Var(f"i{len(dims)}"),
                        Var(_pid_name(name)))
            )  # fmt: skip
        if self.loop is not None:
            tile = self.loop.body.params[0]
            makers = {r: op for op in self.phase.body.ops for r in op.results}
            end = makers[self.loop.end]
            assert isinstance(end, ir.SizeOf)
            dims.append(
                GridDim(tile, ZERO, end.size, self.loop.block, 1, Var(f"i{len(dims)}"),
                        Var(_pid_name(tile.name or "tile")), self.loop, True)
            )  # fmt: skip
        return dims

    def _take_turns(self) -> None:
        """Several blocks of the loop in one grid step, where each waits for the row statistics of
        the one before: what does not wait is computed meanwhile, but not across grid steps."""
        if self.loop is None or not replicated_columns(self.loop, self.phase.body):
            return
        dim, tile = self.grid[-1], self.loop.body.params[0]
        for op in walk(self.phase.body):
            if isinstance(op, ir.TileAttr) and op.tile is tile:
                return
            entries = op.index if isinstance(op, ir.Load) else ()
            if any(isinstance(e, ir.AtTile) and e.tile is tile and e.offset for e in entries):
                return
        assert dim.block is not None
        name = block_variable(dim.block.name)
        dim.turns = Sym(f"turns_{name.removeprefix('block_')}", "block")
        self.sizes.turns[dim.turns] = dim.end, dim.block

    def _clamp(self) -> None:
        """A grid block is no longer than the dimension it walks."""
        looped = {op.block for op in walk(self.phase.body)
                  if isinstance(op, ir.ForTile) and op is not self.loop}  # fmt: skip
        looped |= {s for op in walk(self.phase.body) if isinstance(op, ir.SizeOf)
                   for s in op.size.syms}  # whose number counts  # fmt: skip
        for dim in self.grid:
            if dim.block is None or dim.block in looped or dim.begin != ZERO:
                continue
            if dim in self.nested.values():
                continue  # its blocks are walked in steps
            if dim.block not in self.schedule.blocks:
                continue
            extents = [d.end for d in self.grid if d.block == dim.block]
            block = self.schedule.blocks[dim.block]
            if all(e == extents[0] for e in extents) and self._fits(dim.block, block, extents[0]):
                number = extents[0].as_int()
                if number is None or number < block:
                    self.sizes.clamp(dim.block, [extents[0]])

    def _limit_rows(self) -> None:
        """A default block of rows is the shorter, the longer its rows are, where a window holds
        them whole and their length is known at run time only."""
        given = self.schedule.config.get("block_sizes") or []
        stated = {s for s, n in zip(self.schedule.tunable, given, strict=False) if n is not None}
        least = minimums(self.kernel)
        ours = set(self.schedule.tunable) - stated
        for dim in self.grid:
            if dim.block not in ours or dim.loop is not None or dim in self.nested.values():
                continue
            assert dim.block is not None
            widths = self._widths(dim)
            fewest = max(least.get(dim.block, 1), _SUBLANES)
            if widths and fewest < self.schedule.blocks[dim.block]:
                self.sizes.rows[dim.block] = max(widths, key=str), fewest

    def _widths(self, dim: GridDim) -> set[Size]:
        """Lengths of the rows that windows hold whole along a grid axis, as far as run time says
        them."""
        loops = {op.body.params[0] for op in walk(self.phase.body)
                 if isinstance(op, ir.ForTile) and op is not self.loop}  # fmt: skip
        found = set()
        for op in walk(self.phase.body):
            if not isinstance(op, ir.Load | ir.Store) or len(op.index) < 2:
                continue
            *_, row, lane = op.index
            if not isinstance(row, ir.AtTile) or row.tile is not dim.var:
                continue
            width = op.tensor.shape[-1]
            whole = isinstance(lane, ir.AtSlice) and lane.start is None
            walked = isinstance(lane, ir.AtTile) and lane.tile in loops - set(self.nested)
            if (whole or walked) and width.as_int() is None:
                found.add(width)
        return found

    def _fits(self, block: Sym, number: int, extent: Size) -> bool:
        """False if tiles of the block also index a dimension of another size, for which a block as
        long as ``extent`` would be neither whole nor a multiple of the lanes."""
        return number % _LANES != 0 or all(
            size == extent
            for op in walk(self.phase.body)
            if isinstance(op, ir.Load | ir.Store | ir.Atomic)
            for entry, size in zip(op.index, op.tensor.shape, strict=True)
            if isinstance(entry, ir.AtTile) and entry.tile.type.block == block  # type: ignore[union-attr]
        )

    def _nested(self) -> dict[ir.Value, GridDim]:
        """Tiles of loops that walk a grid tile from its begin to its end in blocks that divide it:
        their windows are the grid tile's."""
        makers = {r: op for op in walk(self.phase.body) for r in op.results}
        found = {}
        for op in walk(self.phase.body):
            if not isinstance(op, ir.ForTile):
                continue
            begin, end = makers.get(op.begin), makers.get(op.end)
            if not isinstance(end, ir.TileAttr) or end.attr != "end":
                continue
            if not self._steps_within(begin, op.block):
                continue
            assert isinstance(begin, ir.TileAttr)
            for dim in self.grid:
                if dim.var is begin.tile and dim.var is end.tile and dim.begin == ZERO:
                    found[op.body.params[0]] = dim
        return found

    def _loose(self) -> set[ir.Value]:
        """Tiles of loops that begin at a position that is no known multiple of anything."""
        makers = {r: op for op in walk(self.phase.body) for r in op.results}
        found = set()
        for op in walk(self.phase.body):
            if isinstance(op, ir.ForTile) and op is not self.loop:
                begin = makers.get(op.begin)
                known = isinstance(begin, ir.Const) and begin.value == 0
                if not known and not self._steps_within(begin, op.block):
                    found.add(op.body.params[0])
        return found

    def _steps_within(self, begin: ir.Op | None, block: Sym) -> bool:
        """True if a loop begins where a tile does whose size its own blocks divide."""
        if not isinstance(begin, ir.TileAttr) or begin.attr != "begin":
            return False
        assert isinstance(begin.tile.type, ir.TileVar)
        outer = self.schedule.blocks.get(begin.tile.type.block)
        inner = self.schedule.blocks.get(block)
        return outer is not None and inner is not None and outer % inner == 0

    def _order(self) -> None:
        """Outputs' blocks must be visited in one go: axes that do not move an output come last."""
        outputs = [w for w in self.windows.outputs if w not in self.windows.hbm.values()]
        last = [d for d in self.grid if d.loop is not None]
        rest = [d for d in self.grid if d.loop is None]
        rest.sort(key=lambda d: sum(d not in w.along for w in outputs))
        self.grid = [*rest, *last]
        for window in outputs:
            moved = [d in window.along for d in self.grid]
            if moved != sorted(moved, reverse=True):
                self._make_whole(window)
        for dim in self.grid:
            if any(dim not in w.along for w in outputs) or dim.loop is not None:
                dim.arbitrary = True

    def _make_whole(self, window: object) -> None:
        from transpile.emitters.pallas.windows import Window

        assert isinstance(window, Window)
        window.dims = self.windows.whole_dims(window.tensor, self.phase.body)

    def name_letters(self) -> None:
        """Names of the grid axes in index maps: i, j, k but for sizes that the maps mention."""
        windows = [*self.windows.inputs, *self.windows.outputs]
        used = {v.name for w in windows for d in w.dims for v in d.index.vars()}
        letters = [c for c in _LETTERS if c not in used]
        for dim, letter in zip(self.grid, letters, strict=False):
            dim.letter.hint = dim.letter.name = letter

    # -- what tensors held before --------------------------------------------------------------

    def _is_fresh(self, tensor: ir.Tensor) -> bool:
        """True if the host program has just allocated the tensor and nothing has written it."""
        if tensor.param is not None or not tensor.host.isidentifier():
            return False
        earlier = self.kernel.phases[: self.kernel.phases.index(self.phase)]
        for phase in earlier:
            for op in walk(phase.body):
                if isinstance(op, ir.Store | ir.Atomic) and op.tensor.host == tensor.host:
                    return False
        bound = [
            c for c in self.kernel.host
            if isinstance(c, ir.HostCode) and tensor.host in c.defines
        ]  # fmt: skip
        pattern = rf"{re.escape(tensor.host)} = (torch\.empty(_like)?|[\w.]+\.new_empty)\("
        return len(bound) == 1 and any(re.match(pattern, t) for t in bound[0].text.split("\n"))

    def _modified(self) -> set[ir.Tensor]:
        """Written tensors whose old content must be there: read, updated, or written in part."""
        found = set()
        for tensor in {op.tensor for op in walk(self.phase.body)
                       if isinstance(op, ir.Store | ir.Atomic)}:  # fmt: skip
            if tensor in self.fresh:
                continue
            if self._reads(tensor) or not self._covered(tensor):
                found.add(tensor)
        return found

    def _reads(self, tensor: ir.Tensor) -> bool:
        return any(
            (isinstance(op, ir.Load) or (isinstance(op, ir.Atomic) and op.kind != "xchg"))
            and op.tensor is tensor
            for op in walk(self.phase.body)
        )

    def _covered(self, tensor: ir.Tensor) -> bool:
        """True if unconditional stores write every element: each dimension by a tile of the grid
        that spans it, or whole."""
        for op in self.phase.body.ops:
            if not isinstance(op, ir.Store) or op.tensor is not tensor or op.mask is not None:
                continue
            if all(self._spans(e, s) for e, s in zip(op.index, tensor.shape, strict=True)):
                return True
        return False

    def _spans(self, entry: ir.Index, extent: Size) -> bool:
        match entry:
            case ir.AtTile(tile=tile, offset=None):
                return any(d.var is tile and d.begin == ZERO and d.end == extent for d in self.grid)
            case ir.AtSlice(start=None, length=length):
                return length == extent
            case ir.AtScalar(value=value):
                return any(
                    d.var is value and d.begin == ZERO and d.end == extent and d.step == 1
                    for d in self.grid
                )
            case _:
                return False


def _pid_name(name: str) -> str:
    name = name.removeprefix("pid_")
    for affix in ("tile_", "block_"):
        name = name.removeprefix(affix)
    name = name.removesuffix("_tile")
    return mangle("pid" if name in ("tile", "pid", "block") else f"pid_{name}")
