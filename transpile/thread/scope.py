"""Where items go: the nests of one block, in order, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.thread.ir import Body
from transpile.thread.nests import Control, Held, Item, Nest


@dataclass(eq=False)
class Scope:
    """One block: nests and control flow in order, declarations in front of them.

    An item goes to the last nest with its loops that comes after all that it needs; items without
    loops go as early as that allows. Nothing moves across control flow.
    """

    parent: Scope | None = None
    prologue: Body = field(default_factory=list)
    segments: list[Nest | Control] = field(default_factory=list)
    fence: int = 0  # segments before it are closed

    def place(self, item: Item) -> None:
        """Put the item, and what it uses and is nowhere yet, into nests."""
        at = max(self.fence, self._floor(item))
        nest = self._nest(item, at)
        self._put(item, nest)

    def around(self) -> list[Scope]:
        """This block and those around it, outwards."""
        found = [self]
        while (parent := found[-1].parent) is not None:
            found.append(parent)
        return found

    def add(self, control: Control) -> None:
        """Control flow, after everything that is there."""
        self.segments.append(control)
        self.fence = len(self.segments)

    def close(self) -> None:
        """Nothing that comes later moves before what is there."""
        self.fence = len(self.segments)

    def build(self) -> Body:
        """The block's statements. Nested blocks add to the prologue, so it is taken last."""
        body: Body = []
        for segment in self.segments:
            body += segment.body() if isinstance(segment, Nest) else segment.build()
        return self.prologue + body

    # -- placing -------------------------------------------------------------------------------

    def _put(self, item: Item, nest: Nest) -> None:
        item.nest = nest
        nest.items.append(item)
        for held in item.uses:
            held.readers.append(item)
        for held in dict.fromkeys(item.uses):
            if held.item is not None and held.item.nest is None:
                self._operand(held.item, nest)

    def _operand(self, item: Item, reader: Nest) -> None:
        """Places what an item in ``reader`` uses: with it, or in a nest before."""
        home = item.scope if item.scope is not None else self
        if home is not self:
            home.place(item)
            return
        if item.key == reader.key and not item.ends_with_nest:
            self._put(item, reader)
            return
        limit = self.segments.index(reader)
        floor = max(self.fence, self._floor(item))
        for segment in reversed(self.segments[floor:limit]):
            if isinstance(segment, Nest) and segment.key == item.key:
                self._put(item, segment)
                return
        nest = Nest(item.key)
        self.segments.insert(limit, nest)
        self._put(item, nest)

    def _nest(self, item: Item, at: int) -> Nest:
        fitting = [s for s in self.segments[at:] if isinstance(s, Nest) and s.key == item.key]
        if fitting:
            return fitting[-1 if item.key else 0]
        nest = Nest(item.key)
        self.segments.insert(at if not item.key else len(self.segments), nest)
        return nest

    def _floor(self, item: Item) -> int:
        """The first segment that the item may be in."""
        floor = 0
        for held in item.uses:
            floor = max(floor, self._available(held, item))
        for number, segment in enumerate(self.segments):
            floor = max(floor, self._after(item, number, segment))
        return floor

    def _available(self, held: Held, reader: Item) -> int:
        maker = held.item
        if maker is None:
            return 0
        if maker.nest is None:
            return self._floor(maker) if maker.scope is self else 0
        if maker.nest not in self.segments:
            return 0
        at = self.segments.index(maker.nest)
        same = maker.nest.key == reader.key and not maker.ends_with_nest
        return at if same else at + 1

    def _after(self, item: Item, number: int, segment: Nest | Control) -> int:
        """Where accesses of memory and overwritten variables in a segment let the item be."""
        if isinstance(segment, Control):
            return 0
        floor = 0
        for other in segment.items:
            conflict = other.writes & (item.reads | item.writes) or other.reads & item.writes
            overwrites = item.clobbers is not None and item.clobbers in other.uses
            if conflict:
                shares = not item.key and not segment.key
                floor = max(floor, number if shares or _alike(other, item) else number + 1)
            if overwrites:
                floor = max(floor, number if segment.key == item.key else number + 1)
        return floor


def _alike(first: Item, second: Item) -> bool:
    """Whether both access memory at the same place for the same element."""
    return first.cell is not None and first.cell == second.cell and first.key == second.key
