"""Names for variables: out of SSA, one Python name per source variable where live ranges allow.

Tracing compilers make this more than register allocation. A name bound before a loop or an `if`
and bound again inside becomes part of its carried state, so two variables may share a name
across such an edge only if the construct really carries it.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from dataclasses import dataclass, field

from transpile.emitters.common.tree import (
    OR,
    TERNARY,
    Assign,
    Copy,
    Expr,
    For,
    Function,
    If,
    Stmt,
    Var,
    While,
    blocks,
    free_variables,
    uses,
)

#: names a kernel must not bind whatever the target: builtins that kernels call, and keywords
RESERVED = frozenset(
    {"kt", "min", "max", "range", "float", "int", "bool", "len", "list", "print", "isinstance"}
    | set(keyword.kwlist)
)


def mangle(name: str, taken: Iterable[str] = (), reserved: frozenset[str] = RESERVED) -> str:
    """``name`` as a legal, free Python identifier; a clash gets a suffix.

    ``reserved`` are the names a kernel of the target must not bind.
    """
    taken = set(taken)
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in name) or "t"
    if name[0].isdigit():
        name = "_" + name
    if name in reserved:
        name += "_"
    candidate, n = name, 0
    while candidate in taken:
        n += 1
        candidate = f"{name}_{n}"
    return candidate


@dataclass(eq=False, slots=True)
class _Region:
    """A block of statements; ``owner`` is the construct it belongs to."""

    parent: _Region | None
    owner: Stmt | None
    start: int = 0
    end: int = 0
    sibling: _Region | None = None  # the first branch, for the second one of an `if`

    def ancestors(self) -> list[_Region]:
        """This region and those around it, innermost first."""
        out: list[_Region] = []
        region: _Region | None = self
        while region is not None:
            out.append(region)
            region = region.parent
        return out


@dataclass(eq=False, slots=True)
class _Web:
    """Variables that share a name: where they are defined and live."""

    vars: list[Var] = field(default_factory=list)
    defs: list[tuple[int, _Region]] = field(default_factory=list)
    live: list[tuple[int, int]] = field(default_factory=list)
    name: str = ""

    def overlaps(self, other: _Web) -> bool:
        return any(a < d and c < b for a, b in self.live for c, d in other.live)


class _Liveness:
    """Numbers the statements and collects definitions, uses and carried edges."""

    def __init__(self, body: list[Stmt], params: Iterable[Var] = ()) -> None:
        self.position = 0
        self.defs: dict[Var, list[tuple[int, _Region]]] = {}
        self.uses: dict[Var, list[tuple[int, _Region]]] = {}
        self.carriers: dict[Var, tuple[Stmt, _Region]] = {}
        self.spans: dict[Stmt, tuple[int, int]] = {}
        self.captured: dict[Var, list[Var]] = {}  # what a nested function reads wherever it is used
        self.root = _Region(None, None)
        for param in params:
            self.defs[param] = [(0, self.root)]
        self._walk(body, self.root)

    def _walk(self, body: list[Stmt], region: _Region) -> None:
        region.start = self.position
        for stmt in body:
            self.position += 2
            here = self.position
            for var in uses(stmt):
                self._use(var, here, region)
            match stmt:
                case Assign(targets=targets):
                    for var in targets:
                        self.defs.setdefault(var, []).append((here, region))
                case Copy(pairs=pairs):
                    for var, _ in pairs:
                        self.defs.setdefault(var, []).append((here, region))
                case Function(name=name):  # a scope of its own: here it only reads
                    self.defs.setdefault(name, []).append((here, region))
                    self.captured[name] = free_variables(stmt)
                    for var in self.captured[name]:
                        self._use(var, here, region)
                    continue
                case _:
                    pass
            if nested := blocks(stmt):
                self._construct(stmt, nested, region, here)
        self.position += 2
        region.end = self.position

    def _use(self, var: Var, here: int, region: _Region) -> None:
        self.uses.setdefault(var, []).append((here, region))
        for inner in self.captured.get(var, ()):
            self._use(inner, here, region)

    def _construct(
        self, stmt: Stmt, nested: tuple[list[Stmt], ...], region: _Region, here: int
    ) -> None:
        sibling: _Region | None = None
        for block in nested:
            inner = _Region(region, stmt, sibling=sibling)
            sibling = inner if isinstance(stmt, If) else None
            if isinstance(stmt, For):
                self.defs.setdefault(stmt.target, []).append((here, inner))
            self._walk(block, inner)
            if isinstance(stmt, For):  # the counter lives as long as the loop
                self.uses.setdefault(stmt.target, []).append((self.position, inner))
        self.position += 2
        self.spans[stmt] = (here, self.position)
        assert isinstance(stmt, For | While | If)
        for var in stmt.carried:
            self.carriers[var] = (stmt, region)
        if isinstance(stmt, While):  # the condition is read again after each turn
            for var in uses(stmt):
                self.uses.setdefault(var, []).append((self.position, region))

    def web(self, var: Var) -> _Web:
        web = _Web([var], self.defs.get(var, []))
        if var in self.carriers:
            web.live = self._carried(var)
        else:
            web.live = self._plain(var)
        return web

    def _segments(
        self, start: int, use: tuple[int, _Region], within: _Region
    ) -> list[tuple[int, int]]:
        """From ``start`` to a use, seen from region ``within``.

        A use in a nested loop lasts as long as the loop, and one in the second branch of an ``if``
        leaves out the first.
        """
        position, region = use
        holes: list[tuple[int, int]] = []
        for r in region.ancestors():
            if r is within:
                break
            if isinstance(r.owner, For | While):
                position = max(position, self.spans[r.owner][1])
            elif r.sibling is not None and start <= r.sibling.start:
                holes.append((r.sibling.start, r.sibling.end))
        segments = []
        for begin, end in sorted(holes):
            segments.append((start, begin))
            start = end
        return [*segments, (start, max(position, start))]

    def _plain(self, var: Var) -> list[tuple[int, int]]:
        where = self.defs.get(var)
        if not where:
            return []
        start, region = where[0]
        live = [(start, start + 1)]
        for use in self.uses.get(var, []):
            live += self._segments(start, use, region)
        return live

    def _carried(self, var: Var) -> list[tuple[int, int]]:
        stmt, region = self.carriers[var]
        begin, end = self.spans[stmt]
        live: list[tuple[int, int]] = []
        for use in self.uses.get(var, []):
            inner = next((r for r in use[1].ancestors() if r.owner is stmt), None)
            if inner is not None:
                live += self._segments(begin, use, inner)
            elif use[0] > begin:
                live += self._segments(end, use, region)
        for position, where in self.defs.get(var, []):
            if where.owner is stmt:
                live.append((position, where.end))
            else:
                live.append((position, begin))
        return live


class Namer:
    """Gives every variable of a kernel body its name and resolves the copies."""

    def __init__(
        self,
        body: list[Stmt],
        arguments: Iterable[Var],
        reserved: frozenset[str] = RESERVED,
        params: Iterable[Var] = (),
    ) -> None:
        """``arguments`` have their names, which nothing else gets; ``params`` are bound on entry
        and get names as the rest does."""
        self.body = body
        self.reserved = reserved
        self.taken = {v.name for v in arguments}
        self.arguments = set(arguments)
        self.liveness = _Liveness(body, params)
        self.webs: dict[Var, _Web] = {}
        for var in self.liveness.defs:
            self.webs[var] = self.liveness.web(var)

    def run(self) -> None:
        self._coalesce(self.body)
        self._assign_names()
        _resolve_copies(self.body)
        self._functions(self.body)

    def _functions(self, body: list[Stmt]) -> None:
        """Names inside nested functions: they may be those of variables outside that the function
        does not read."""
        for stmt in body:
            if isinstance(stmt, Function):
                read = [v for v in free_variables(stmt) if v.name]
                Namer(stmt.body, read, self.reserved, stmt.params).run()
                continue
            for block in blocks(stmt):
                self._functions(block)

    # -- coalescing ----------------------------------------------------------------------------

    def _coalesce(self, body: list[Stmt]) -> None:
        for stmt in body:
            if isinstance(stmt, Copy):
                for target, value in stmt.pairs:
                    if value.var is not None and value.var in self.webs:
                        self._unite(self.webs[target], self.webs[value.var])
            for block in () if isinstance(stmt, Function) else blocks(stmt):
                self._coalesce(block)

    def _unite(self, a: _Web, b: _Web) -> None:
        if a is b or a.overlaps(b) or not self._scopes_agree(a, b):
            return
        a.vars += b.vars
        a.defs = a.defs + b.defs
        a.live = a.live + b.live
        for var in b.vars:
            self.webs[var] = a

    def _scopes_agree(self, a: _Web, b: _Web) -> bool:
        """True if no construct would pick the shared name up as state it does not carry."""
        carried = {id(self.liveness.carriers[v][0]) for v in (*a.vars, *b.vars)
                   if v in self.liveness.carriers}  # fmt: skip
        for outer, inner in ((a, b), (b, a)):
            for _, region in inner.defs:
                for r in region.ancestors():
                    if r.parent is None or id(r.owner) in carried:
                        continue
                    around = r.parent.ancestors()
                    if any(p <= r.start and w in around for p, w in outer.defs):
                        return False
        return True

    # -- names ---------------------------------------------------------------------------------

    def _assign_names(self) -> None:
        done: dict[str, list[_Web]] = {}
        for web in sorted({id(w): w for w in self.webs.values()}.values(), key=_first):
            base = mangle(_hint(web, self.liveness.carriers.keys()), (), self.reserved)
            name, n = base, 0
            while name in self.taken or not self._may_share(web, done.get(name, [])):
                n += 1
                name = f"{base}_{n}"
            web.name = name
            done.setdefault(name, []).append(web)
            for var in web.vars:
                var.name = name

    def _may_share(self, web: _Web, others: list[_Web]) -> bool:
        return all(not web.overlaps(o) and self._scopes_agree(web, o) for o in others)


def _first(web: _Web) -> int:
    return min(p for p, _ in web.defs)


def _hint(web: _Web, carried: Iterable[Var]) -> str:
    """The carried variable's name if it has one, else the first one's."""
    carried = set(carried)
    names = [v.hint for v in web.vars if v in carried and v.hint]
    names += [v.hint for v in web.vars if v.hint]
    return names[0] if names else "t"


def _resolve_copies(body: list[Stmt]) -> None:
    """Replace parallel copies by assignments, leaving out what became ``x = x``."""
    out: list[Stmt] = []
    for stmt in body:
        for block in () if isinstance(stmt, Function) else blocks(stmt):
            _resolve_copies(block)
        if isinstance(stmt, Copy):
            out.extend(_sequence(stmt))
        else:
            out.append(stmt)
    body[:] = out


def _sequence(copy: Copy) -> list[Stmt]:
    pending = [(t, v) for t, v in copy.pairs if v.var is None or v.var.name != t.name]
    out: list[Stmt] = []
    while pending:
        for i, (target, _) in enumerate(pending):
            others = pending[:i] + pending[i + 1 :]
            if all(target.name not in {x.name for x in v.vars()} for _, v in others):
                out.append(Assign((target,), pending[i][1]))
                pending = others
                break
        else:  # a cycle: one tuple assignment
            values = [v for _, v in pending]
            text = ", ".join(f"{{{i}}}" for i in range(len(values)))
            value = Expr(text, tuple(values), (OR,) * len(values), TERNARY)
            out.append(Assign(tuple(t for t, _ in pending), value))
            break
    return out
