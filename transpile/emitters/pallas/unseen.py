"""Which out-of-range lanes nothing can observe, so that a load may leave garbage in them.

A lane beyond a tile's end that only flows, lane by lane, into stores at the same tile is written
to the padding of the last block at most, which is never copied back.
"""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.ir import Value
from transpile.ir.sizes import Size
from transpile.ir.walk import operands, regions


class Unseen:
    """Flow of out-of-range lanes through one phase."""

    def __init__(self, body: ir.Block) -> None:
        self._users: dict[Value, list[ir.Op]] = {}
        self._flows: dict[Value, list[Value]] = {}  # a yielded or initial value -> where it goes
        self._collect(body)

    def _collect(self, block: ir.Block) -> None:
        for op in block.ops:
            for value in operands(op):
                self._users.setdefault(value, []).append(op)
            match op:
                case ir.ForTile() | ir.ForRange():
                    self._loop(op, op.body.params[1:])
                case ir.While():
                    self._loop(op, op.body.params)
                    for init, param in zip(op.inits, op.cond.params, strict=True):
                        self._flows.setdefault(init, []).append(param)
                case ir.If():
                    for branch in (op.then, op.orelse):
                        for out, result in zip(branch.yields, op.results, strict=True):
                            self._flows.setdefault(out, []).append(result)
                case _:
                    pass
            for inner in regions(op):
                self._collect(inner)

    def _loop(self, op: ir.ForTile | ir.ForRange | ir.While, params: tuple[Value, ...]) -> None:
        for init, param, out, result in zip(
            op.inits, params, op.body.yields, op.results, strict=True
        ):
            self._flows.setdefault(init, []).extend((param, result))
            self._flows.setdefault(out, []).extend((param, result))

    def hidden(self, value: Value, tile: Value, dim: int) -> bool:
        """True if the lanes of ``value``'s axis ``dim`` beyond ``tile``'s end are never seen."""
        return self._hidden(value, tile, value.shape[dim], dim, set())

    def _hidden(
        self, value: Value, tile: Value, size: Size, dim: int, seen: set[tuple[Value, int]]
    ) -> bool:
        if (value, dim) in seen:
            return True
        seen.add((value, dim))
        for flow in self._flows.get(value, []):
            if not self._hidden(flow, tile, size, dim, seen):
                return False
        return all(
            self._passes(u, value, tile, size, dim, seen) for u in self._users.get(value, [])
        )

    def _passes(
        self, op: ir.Op, value: Value, tile: Value, size: Size, dim: int,
        seen: set[tuple[Value, int]],
    ) -> bool:  # fmt: skip
        match op:
            case ir.Elementwise() | ir.Broadcast() | ir.Cast():
                return self._hidden(op.result, tile, size, dim, seen)
            case ir.Mask(guards=guards):
                if any(g.tile is tile and g.dim == dim for g in guards):
                    return True
                return self._hidden(op.result, tile, size, dim, seen)
            case ir.Reshape() | ir.Permute() | ir.Reduce() | ir.Join() | ir.Split():
                return self._reshaped(op, tile, size, dim, seen)
            case ir.Scan(dim=over) | ir.ReduceWith(dim=over):
                if over == dim:
                    return False
                lost = isinstance(op, ir.ReduceWith) and not op.keepdim and over < dim
                return all(self._hidden(r, tile, size, dim - lost, seen) for r in op.results)
            case ir.Dot():
                return self._through_dot(op, value, tile, size, dim, seen)
            case ir.Load():
                return value is not op.mask  # an index: numbers of rows are cut to those there are
            case ir.Store() | ir.Atomic():
                return value is not op.mask and self._left_out(op, tile)
            case ir.ForTile() | ir.ForRange() | ir.While():
                return value in op.inits and value not in _bounds(op)
            case _:
                return False

    def _reshaped(
        self, op: ir.Op, tile: Value, size: Size, dim: int, seen: set[tuple[Value, int]]
    ) -> bool:
        """The lanes after their axis has got another place."""
        match op:
            case ir.Reshape():
                places = [i for i, s in enumerate(op.result.shape) if s == size]
                same = [i for i, s in enumerate(op.value.shape) if s == size]
                if len(places) != 1 or len(same) != 1:
                    return False
                return self._hidden(op.result, tile, size, places[0], seen)
            case ir.Permute(order=order):
                return self._hidden(op.result, tile, size, order.index(dim), seen)
            case ir.Reduce(dim=over, keepdim=keepdim):
                if over == dim:
                    return False
                place = dim - (over < dim and not keepdim)
                return self._hidden(op.result, tile, size, place, seen)
            case _:
                return all(self._hidden(r, tile, size, dim, seen) for r in op.results)

    def _through_dot(
        self, op: ir.Dot, value: Value, tile: Value, size: Size, dim: int,
        seen: set[tuple[Value, int]],
    ) -> bool:  # fmt: skip
        rank = len(op.result.shape)
        if value is op.lhs and dim == rank - 1:
            return False
        if value is op.rhs and dim == rank - 2:
            return False
        return self._hidden(op.result, tile, size, dim, seen)

    def _left_out(self, op: ir.Store | ir.Atomic, tile: Value) -> bool:
        """True if the store is at the tile, whose end its window or its guard knows."""
        at_tile = any(isinstance(e, ir.AtTile) and e.tile is tile for e in op.index)
        guarded = any(g.tile is tile for g in op.guards)
        return at_tile or guarded


def _bounds(op: ir.Op) -> tuple[Value, ...]:
    if isinstance(op, ir.While):
        return ()
    assert isinstance(op, ir.ForTile | ir.ForRange)
    return (op.begin, op.end)
