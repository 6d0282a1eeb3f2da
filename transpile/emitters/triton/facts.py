"""Which integers are provably non-negative: there Triton's truncating division is Python's."""

from __future__ import annotations

from transpile.ir import ir
from transpile.ir.sizes import Size
from transpile.ir.walk import index_shape, index_values, operands, regions, use_counts, walk

_CLOSED = frozenset(
    {"add", "mul", "floordiv", "mod", "maximum", "minimum", "and", "or", "shr", "abs"}
)


class Facts:
    """Sign facts about the values of one phase."""

    def __init__(self, phase: ir.Phase) -> None:
        self._known: dict[ir.Value, bool] = {}
        self._makers: dict[ir.Value, ir.Op] = {}
        for axis in phase.axes:
            if isinstance(axis.var.type, ir.TileType):
                self._known[axis.var] = axis.begin.non_negative
        for op in walk(phase.body):
            for result in op.results:
                self._makers[result] = op
            if isinstance(op, ir.ForRange):
                self._makers[op.body.params[0]] = op

    def non_negative(self, value: ir.Value) -> bool:
        """True if no lane can be below zero."""
        if isinstance(value.type, ir.TileVar) or not value.dtype.signed:
            return True
        if value not in self._known:
            self._known[value] = False  # a cycle through a loop proves nothing
            self._known[value] = self._derive(value)
        return self._known[value]

    def _derive(self, value: ir.Value) -> bool:
        match self._makers.get(value):
            case ir.Const(value=number):
                return number >= 0
            case ir.SizeOf(size=size):
                return size.non_negative
            case ir.TileIndex() | ir.TileAttr():
                return True
            case ir.Iota(start=start, step=step):
                return start >= 0 and step >= 0
            case ir.ForRange(begin=begin, step=step):
                return self.non_negative(begin) and self.non_negative(step)
            case ir.Elementwise(name="where", args=args):
                return all(self.non_negative(a) for a in args[1:])
            case ir.Elementwise(name="mod", args=(_, rhs)):
                return self.non_negative(rhs)
            case ir.Elementwise(name=name, args=args) if name in _CLOSED:
                return all(self.non_negative(a) for a in args)
            case ir.Cast(value=source, bitcast=False):
                return source.dtype.is_bool or (source.dtype.is_int and self.non_negative(source))
            case ir.Reshape(value=source) | ir.Broadcast(value=source) | ir.Full(value=source):
                return self.non_negative(source)
            case ir.Permute(value=source) | ir.Mask(value=source, fill=0):
                return self.non_negative(source)
            case _:
                return False


_Excluded = tuple[ir.Value | None, Size | None]


class Lanes:
    """Which loads' masked lanes can be observed.

    A masked lane that only flows, lane by lane, into stores under at least the same guards is
    never seen, so the load needs no value for it.
    """

    def __init__(self, phase: ir.Phase) -> None:
        self._users: dict[ir.Value, list[ir.Op | None]] = {}
        self._loads = {op.result: op for op in walk(phase.body) if isinstance(op, ir.Load)}
        self._collect(phase.body)

    def _collect(self, block: ir.Block) -> None:
        for op in block.ops:
            for value in operands(op):
                self._users.setdefault(value, []).append(op)
            for inner in regions(op):
                self._collect(inner)
        for value in block.yields:
            self._users.setdefault(value, []).append(None)

    def folded(self, mask: ir.Mask) -> bool:
        """True if the mask is the ``other`` of the load it follows."""
        load = self._loads.get(mask.value)
        return (
            load is not None
            and load.mask is None
            and self._users[load.result] == [mask]
            and set(load.guards) == set(mask.guards)
        )

    def fill(self, load: ir.Load) -> bool | int | float | None:
        """What the load's masked lanes must hold: a mask's fill, 0, or None if nothing sees them.

        A lane is never seen if every path from the load ends in a store that masks what it masks.
        """
        match self._users.get(load.result):
            case [ir.Mask(fill=fill) as mask] if self.folded(mask):
                return fill
        tiles = {
            (g.tile, load.result.shape[g.dim] if g.tile is None else None) for g in load.guards
        }
        if load.mask is not None:
            tiles.add((load.mask, None))
        return None if self._hidden(load.result, tiles, set()) else 0

    def _hidden(self, value: ir.Value, tiles: set[_Excluded], visited: set[ir.Value]) -> bool:
        if value in visited:
            return True
        visited.add(value)
        for user in self._users.get(value, []):
            match user:
                case ir.Elementwise() | ir.Cast() | ir.Broadcast() | ir.Reshape() | ir.Permute():
                    if not self._hidden(user.result, tiles, visited):
                        return False
                case ir.Store(value=stored):
                    if stored is not value or not tiles <= _excluded_by(user):
                        return False
                    if value in (user.mask, *_index_operands(user)):
                        return False
                case _:
                    return False
        return True


def _excluded_by(store: ir.Store) -> set[_Excluded]:
    """The lanes a store leaves out: beyond a tile's end, beyond a size, or by an extra mask."""
    shape = index_shape(store.index)
    found: set[_Excluded] = {
        (g.tile, shape[g.dim] if g.tile is None else None) for g in store.guards
    }
    return found | ({(store.mask, None)} if store.mask is not None else set())


def _index_operands(store: ir.Store) -> tuple[ir.Value, ...]:
    return tuple(v for entry in store.index for v in index_values(entry))


def remasked_selects(body: ir.Block) -> set[ir.Value]:
    """Results of ``where(c, x, f)`` that only a mask with the same ``f`` reads: one ``where`` does
    for both."""
    makers = {r: op for op in walk(body) for r in op.results}
    counts = use_counts(body)
    found: set[ir.Value] = set()
    for op in walk(body):
        if not isinstance(op, ir.Mask) or counts.get(op.value) != 1:
            continue
        select = makers.get(op.value)
        if isinstance(select, ir.Elementwise) and select.name == "where":
            other = makers.get(select.args[2])
            if isinstance(other, ir.Full):
                other = makers.get(other.value)
            if isinstance(other, ir.Const) and other.value == op.fill:
                found.add(op.value)
    return found


def known_sizes(body: ir.Block) -> dict[ir.Value, Size]:
    """Scalars that are sums and products of sizes and integers."""
    known: dict[ir.Value, Size] = {}
    for op in walk(body):
        match op:
            case ir.Const(value=int() as number) if not isinstance(number, bool):
                known[op.result] = Size.of(number)
            case ir.SizeOf(size=size):
                known[op.result] = size
            case ir.Elementwise(name="add" | "sub" | "mul" as name, args=(a, b)):
                if a in known and b in known:
                    x, y = known[a], known[b]
                    known[op.result] = x + y if name == "add" else x - y if name == "sub" else x * y
            case ir.Cast(value=inner) if inner in known:
                known[op.result] = known[inner]
    return known
