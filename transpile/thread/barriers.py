"""Barriers: where threads must wait for each other, and the proof that they do.

:func:`place` goes through the statements with the accesses since the last barrier, and puts one in
front of the statement whose access may meet one of them in another thread's element. Loops are gone
through again with what their own end leaves behind. :func:`unordered` does the same without adding
anything: what it finds is a race. Lane loops count as one statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from transpile.ir.ir import Tensor
from transpile.thread import ir
from transpile.thread.addresses import Access, Scope, accesses
from transpile.thread.ir import Barrier, Body, Kernel, Stmt, Var
from transpile.thread.uniform import single_values
from transpile.thread.walk import bodies, expressions, nodes, walk


def place(kernel: Kernel) -> None:
    """Insert the barriers that the kernel's body needs."""
    _Walker(kernel, inserting=True).run()


@dataclass(frozen=True)
class Race:
    """Two statements that different threads may run on one element in any order."""

    first: Stmt
    second: Stmt
    memory: str


def unordered(kernel: Kernel) -> list[Race]:
    """Races that no barrier prevents; empty if every cross-thread read is proved ordered."""
    walker = _Walker(kernel, inserting=False)
    walker.run()
    return walker.races


@dataclass(eq=False)
class _Walker:
    kernel: Kernel
    inserting: bool
    races: list[Race] = field(default_factory=list)

    def run(self) -> None:
        body = self.kernel.body
        self.values = single_values(body)
        self.contended = _contended(body)
        self.symbols: dict[Var, str] = {}
        self.generation = 0
        scope = Scope(self.kernel.threads, self.kernel.simd, (), self.values, self.symbols)
        self.body(body, [], scope)

    def body(self, body: Body, pending: list[Access], scope: Scope) -> list[Access]:
        """The accesses pending after the body."""
        at = 0
        while at < len(body):
            stmt = body[at]
            if isinstance(stmt, Barrier):
                pending = _after(stmt, pending)
            elif isinstance(stmt, ir.For | ir.While | ir.If):
                pending, inserted = self._control(stmt, pending, scope, body, at)
                at += inserted
            else:
                found = _all_accesses(stmt, scope, self.contended)
                clashes = _clashes(pending, found)
                if clashes and self.inserting:
                    barrier = self._barrier(clashes)
                    body.insert(at, barrier)
                    at += 1
                    pending = _after(barrier, pending)
                self._report(clashes)
                pending = pending + found
            at += 1
        return pending

    def _report(self, clashes: list[tuple[Access, Access]]) -> None:
        if not self.inserting:
            self.races += [Race(a.stmt, b.stmt, b.memory) for a, b in clashes]

    def _barrier(self, clashes: list[tuple[Access, Access]]) -> Barrier:
        device = any(b.device for _, b in clashes)
        shared = any(not b.device for _, b in clashes)
        one = self.kernel.threads == self.kernel.simd
        return Barrier("simdgroup" if one else "group", shared, device)

    def _control(
        self, stmt: Stmt, pending: list[Access], scope: Scope, body: Body, at: int
    ) -> tuple[list[Access], int]:
        """A branch or loop; what its conditions read comes first."""
        found = list(accesses(stmt, scope, self.contended))
        clashes = _clashes(pending, found)
        if self.inserting and isinstance(stmt, ir.If) and not clashes:
            clashes = self._in_both_arms(stmt, pending, scope)
        elif self.inserting and isinstance(stmt, ir.For | ir.While) and not clashes:
            clashes = self._in_first_pass(stmt, pending, scope)
        self._report(clashes)
        inserted = 0
        if clashes and self.inserting:
            barrier = self._barrier(clashes)
            body.insert(at, barrier)
            pending, inserted = _after(barrier, pending), 1
        pending = pending + found
        if isinstance(stmt, ir.If):
            after = [self.body(arm, list(pending), scope) for arm in bodies(stmt)]
            return _union(after), inserted
        return self._loop(stmt, pending, scope), inserted

    def _in_both_arms(
        self, stmt: ir.If, pending: list[Access], scope: Scope
    ) -> list[tuple[Access, Access]]:
        """What both arms of a branch would wait for: they can do that before it."""
        arms = [
            _clashes(
                pending, [a for part in arm for a in _all_accesses(part, scope, self.contended)]
            )
            for arm in bodies(stmt)
        ]
        return [clash for arm in arms for clash in arm] if all(arms) else []

    def _in_first_pass(
        self, stmt: Stmt, pending: list[Access], scope: Scope
    ) -> list[tuple[Access, Access]]:
        """What a loop that only reads would wait for: it does that before it, once."""
        self._next_pass(stmt)
        found = [
            a for part in bodies(stmt) for s in part
            for a in _all_accesses(s, scope, self.contended)
        ]  # fmt: skip
        waits = any(isinstance(inner, Barrier) for inner in walk([stmt]))
        return [] if waits or any(a.write for a in found) else _clashes(pending, found)

    def _loop(self, stmt: Stmt, pending: list[Access], scope: Scope) -> list[Access]:
        first = self._iteration(stmt, pending, scope)
        again = self._iteration(stmt, _union([pending, first]), scope)
        return _union([pending, first, again])

    def _iteration(self, stmt: Stmt, pending: list[Access], scope: Scope) -> list[Access]:
        """One pass over a loop's bodies."""
        self._next_pass(stmt)
        for part in bodies(stmt):
            pending = self.body(part, pending, scope)
        return pending

    def _next_pass(self, stmt: Stmt) -> None:
        """The loop's variable is another one than in the last pass."""
        self.generation += 1
        for inner in walk([stmt]):
            if isinstance(inner, ir.For):
                self.symbols[inner.var] = f"{inner.var.name}#{id(inner)}#{self.generation}"


def _after(barrier: Barrier, pending: list[Access]) -> list[Access]:
    """What a barrier leaves pending. One of a SIMD group orders its own threads only, and they are
    all there are where kt places one."""
    return [a for a in pending if not (barrier.device if a.device else barrier.shared)]


def _union(parts: Iterable[list[Access]]) -> list[Access]:
    return list(dict.fromkeys(a for part in parts for a in part))


def _clashes(pending: list[Access], found: list[Access]) -> list[tuple[Access, Access]]:
    return [(a, b) for b in found for a in pending if a.meets(b)]


def _contended(body: Body) -> set[str]:
    """Storages of tensors that are written, and accessed by another statement too."""
    writes: dict[str, int] = {}
    total: dict[str, int] = {}
    for stmt in walk(body):
        if isinstance(stmt, ir.Store | ir.Atomic | ir.FragmentStore):
            place = stmt.destination if isinstance(stmt, ir.FragmentStore) else stmt.tensor
            name = _storage(place)
            writes[name] = writes.get(name, 0) + 1
            total[name] = total.get(name, 0) + 1
        if isinstance(stmt, ir.FragmentLoad):
            name = _storage(stmt.source)
            total[name] = total.get(name, 0) + 1
        for expr in expressions(stmt):
            for node in nodes(expr):
                if isinstance(node, ir.Load):
                    name = _storage(node.tensor)
                    total[name] = total.get(name, 0) + 1
    return {name for name in writes if total[name] > 1}


def _storage(place: Tensor | ir.SharedBuffer) -> str:
    return place.storage if isinstance(place, Tensor) else place.name


def _all_accesses(stmt: Stmt, scope: Scope, contended: set[str]) -> list[Access]:
    """Those of the statement and, for lane loops and branches in them, of its bodies."""
    found = list(accesses(stmt, scope, contended))
    inner = scope.inside(stmt.var, stmt.count) if isinstance(stmt, ir.LaneLoop) else scope
    for body in bodies(stmt):
        for part in body:
            found += _all_accesses(part, inner, contended)
    return found
