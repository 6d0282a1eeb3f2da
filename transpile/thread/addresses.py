"""Which threads touch which element: addresses as sums, evaluated for every thread and register.

An address is a polynomial over what is the same for all threads (sizes, the group's place, loop
variables) whose coefficients depend on the thread and on lane loops alone; those are few enough to
write down all values. Two accesses never meet in one element from different threads if the parts
that do not vary are equal, and the others, taken as coordinates, never agree for two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from transpile.ir.ir import Tensor
from transpile.ir.sizes import Opaque
from transpile.thread import ir
from transpile.thread.ir import Expr, SharedBuffer, Stmt, Var
from transpile.thread.walk import expressions, nodes

Monomial = tuple[str, ...]
Point = tuple[int, dict[Var, int]]
"""A thread, and a value of each lane loop's variable."""

Form = dict[Monomial, list[int]]
"""Coefficients per product of symbols, one entry per point."""


@dataclass(frozen=True, eq=False)
class Access:
    """One access of a statement: which memory, and each point's coordinates (None: unknown).

    ``points`` are the thread numbers; ``fixed`` what is the same at all of them. ``stage`` is x, a
    and n of a leading index ``(x + a) % n``.
    """

    memory: str
    device: bool
    write: bool
    fixed: object
    points: tuple[tuple[int, tuple[int, ...]], ...] | None
    stmt: Stmt
    place: object = None
    atomic: bool = False
    stage: tuple[str, int, int] | None = None

    def meets(self, other: Access) -> bool:
        """Whether different threads may access one element, one of them writing."""
        if self.device != other.device or not (self.write or other.write):
            return False
        if self.memory != other.memory:
            return _overlap(self.place, other.place)  # views begin anywhere in their storage
        if (self.atomic and other.atomic) or _apart(self.stage, other.stage):
            return False
        if self.points is None or other.points is None or self.fixed != other.fixed:
            return True
        owner: dict[tuple[int, ...], int] = {}
        for thread, at in self.points:
            if owner.setdefault(at, thread) != thread:
                owner[at] = -1
        return any(owner.get(at, thread) != thread for thread, at in other.points)


def _apart(first: tuple[str, int, int] | None, second: tuple[str, int, int] | None) -> bool:
    """Whether two accesses are in different stages: ``(x + a) % n`` and ``(x + b) % n``."""
    if first is None or second is None or (first[0], first[2]) != (second[0], second[2]):
        return False
    return (first[1] - second[1]) % first[2] != 0


def _overlap(first: object, second: object) -> bool:
    """Whether two shared buffers have bytes in common, or two tensors a storage."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.storage == second.storage
    if not isinstance(first, SharedBuffer) or not isinstance(second, SharedBuffer):
        return False
    ends = first.offset + first.bytes, second.offset + second.bytes
    return first.offset < ends[1] and second.offset < ends[0]


@dataclass(eq=False)
class Scope:
    """What is known where a statement stands: lane loops around it, variables' first values."""

    threads: int
    simd: int
    lanes: tuple[tuple[Var, int], ...] = ()
    values: Mapping[Var, Expr] | None = None
    symbols: Mapping[Var, str] | None = None

    def inside(self, var: Var, count: int) -> Scope:
        """The scope of a lane loop's body."""
        lanes = (*self.lanes, (var, count))
        return Scope(self.threads, self.simd, lanes, self.values, self.symbols)

    def points(self) -> list[Point]:
        """All threads with all values of the lane loops' variables."""
        ranges = [range(count) for _, count in self.lanes]
        names = [var for var, _ in self.lanes]
        return [
            (thread, dict(zip(names, numbers, strict=True)))
            for thread in range(self.threads)
            for numbers in product(*ranges)
        ]


def accesses(stmt: Stmt, scope: Scope, contended: set[str]) -> Iterator[Access]:
    """What a statement itself (not its bodies) reads and writes, reads first: shared memory, and
    the tensors whose storages are in ``contended``."""
    points: list[Point] = []
    for node in (n for expr in expressions(stmt) for n in nodes(expr)):
        if isinstance(node, ir.Load) and node.tensor.storage in contended:
            yield _access(stmt, node.tensor, (node.offset,), node.vector, scope, points)
        elif isinstance(node, ir.SharedLoad):
            yield _access(stmt, node.buffer, node.index, node.vector, scope, points)
    match stmt:
        case ir.Store(tensor=tensor) if tensor.storage in contended:
            width = stmt.value.width
            yield _access(stmt, tensor, (stmt.offset,), width, scope, points, stmt.guard, True)
        case ir.SharedStore(buffer=buffer, index=index, value=value):
            yield _access(stmt, buffer, index, value.width, scope, points, stmt.guard, True)
        case ir.Atomic(tensor=tensor) if tensor.storage in contended:
            name, device = _name(tensor)
            yield Access(name, device, True, None, None, stmt, tensor, atomic=True)
        case ir.FragmentLoad(source=source, index=index):
            yield _whole(stmt, source, write=False, stage=_stage(index[0], scope))
        case ir.FragmentStore(destination=destination):
            yield _whole(stmt, destination, write=True)


def _whole(
    stmt: Stmt, place: object, *, write: bool, stage: tuple[str, int, int] | None = None
) -> Access:
    name, device = _name(place)
    return Access(name, device, write, None, None, stmt, place, stage=stage)


def _stage(index: Expr, scope: Scope) -> tuple[str, int, int] | None:
    """x, a and n of an index ``(x + a) % n`` that is the same for all threads."""
    if isinstance(index, Var):
        index = (scope.values or {}).get(index, index)
    match index:
        case ir.Apply(name="mod", args=(base, ir.Const(value=count))):
            form = _Forms(scope, [(0, {})]).of(base)
            if form is None or "thread" in {n.kind for n in nodes(base) if isinstance(n, ir.Id)}:
                return None
            added = form.pop((), [0])[0]
            return _key(form), added, int(count)
    return None


def _name(place: object) -> tuple[str, bool]:
    if isinstance(place, SharedBuffer):
        return f"shared {place.name}", False
    return f"device {getattr(place, 'name', place)}", True


def _access(
    stmt: Stmt,
    place: object,
    index: tuple[Expr, ...],
    width: int,
    scope: Scope,
    points: list[Point],
    guard: Expr | None = None,
    write: bool = False,
) -> Access:
    name, device = _name(place)
    if not points:
        points += scope.points()
    forms = [_Forms(scope, points).of(expr) for expr in index]
    if any(form is None for form in forms):
        return Access(name, device, write, None, None, stmt, place)
    taken = _Forms(scope, points).holds(guard)
    fixed: list[object] = []
    varying: list[list[int]] = []
    for number, form in enumerate(forms):
        assert form is not None
        for mono, values in sorted(form.items()):
            if all(v == values[0] for v in values):
                if values[0]:
                    fixed.append((number, mono, values[0]))
            else:
                fixed.append((number, mono))
                varying.append(values)
    unit = _unit_row(forms)
    found = []
    for at, (thread, _) in enumerate(points):
        if taken[at]:
            key = tuple(values[at] for values in varying)
            found += [(thread, _stepped(key, unit, part)) for part in range(width)]
    stage = _stage(index[0], scope) if not device else None
    return Access(name, device, write, tuple(fixed), tuple(found), stmt, place, stage=stage)


def _unit_row(forms: list[Form | None]) -> int | None:
    """Which of the varying coefficients counts single elements of the last dimension."""
    row = 0
    for number, form in enumerate(forms):
        for mono, values in sorted((form or {}).items()):
            if any(v != values[0] for v in values):
                if number == len(forms) - 1 and mono == ():
                    return row
                row += 1
    return None


def _stepped(key: tuple[int, ...], unit: int | None, part: int) -> tuple[int, ...]:
    """The coordinates of a vector's component."""
    if unit is None:
        return (*key, part)
    return (*key[:unit], key[unit] + part, *key[unit + 1 :])


def numbers(expr: Expr, scope: Scope, guard: Expr | None, values: Mapping[Var, Expr]) -> list[int]:
    """What an index is where the guard may be true; empty if it is no number known here."""
    known = Scope(scope.threads, scope.simd, scope.lanes, values, scope.symbols)
    forms = _Forms(known, known.points())
    form = forms.of(expr)
    if form is None or form.keys() - {()}:
        return []
    taken = forms.holds(guard)
    return [value for value, there in zip(form[()], taken, strict=True) if there]


class _Forms:
    """Evaluates expressions at all points."""

    def __init__(self, scope: Scope, points: list[Point]) -> None:
        self.scope, self.points = scope, points
        self.lanes = {var for var, _ in scope.lanes}

    def of(self, expr: Expr) -> Form | None:
        """The expression as a form, None if it is none."""
        match expr:
            case ir.Const(value=value):
                return {(): [int(value)] * len(self.points)}
            case ir.Extent(size=size):
                return {
                    tuple(str(a) for a in mono if not isinstance(a, Opaque))
                    + tuple(f"({a})" for a in mono if isinstance(a, Opaque)): [coeff]
                    * len(self.points)
                    for mono, coeff in size.terms
                } or {(): [0] * len(self.points)}
            case ir.Id(kind=kind):
                return self._identity(kind)
            case Var():
                return self._variable(expr)
            case ir.Convert(value=value, dtype=dtype) if dtype.is_int and value.dtype.is_int:
                return self.of(value)
            case ir.Apply(name=name, args=args):
                return self._apply(name, args)
        return None

    def _identity(self, kind: str) -> Form:
        simd = self.scope.simd
        numbers: dict[str, Callable[[int], int]] = {
            "thread": lambda t: t, "lane": lambda t: t % simd, "simdgroup": lambda t: t // simd,
        }  # fmt: skip
        if kind in numbers:
            return {(): [numbers[kind](thread) for thread, _ in self.points]}
        return {(kind,): [1] * len(self.points)}

    def _variable(self, var: Var) -> Form | None:
        if var in self.lanes:
            return {(): [numbers[var] for _, numbers in self.points]}
        known = (self.scope.values or {}).get(var)
        if known is not None:
            return self.of(known)
        symbol = (self.scope.symbols or {}).get(var)
        return None if symbol is None else {(symbol,): [1] * len(self.points)}

    def _apply(self, name: str, args: tuple[Expr, ...]) -> Form | None:
        forms = [self.of(a) for a in args]
        if any(f is None for f in forms) or len(forms) != 2:
            return None
        a, b = forms
        assert a is not None
        assert b is not None
        if name in ("add", "sub"):
            sign = 1 if name == "add" else -1
            total = {mono: list(values) for mono, values in a.items()}
            for mono, values in b.items():
                old = total.get(mono, [0] * len(values))
                total[mono] = [x + sign * y for x, y in zip(old, values, strict=True)]
            return total
        if name == "mul":
            return _product(a, b)
        return self._divided(name, a, b, args)

    def _divided(self, name: str, a: Form, b: Form, args: tuple[Expr, ...]) -> Form | None:
        if name not in ("floordiv", "mod"):
            return None
        if a.keys() == {()} and b.keys() == {()} and all(b[()]):
            pairs = zip(a[()], b[()], strict=True)
            return {(): [x // y if name == "floordiv" else x % y for x, y in pairs]}
        if all(v == values[0] for f in (a, b) for values in f.values() for v in values):
            return {(f"{name}{_key(a)}{_key(b)}",): [1] * len(self.points)}
        return None

    def holds(self, guard: Expr | None) -> list[bool]:
        """Where a condition may be true: what it says of the thread's number is looked at."""
        everywhere = [True] * len(self.points)
        match guard:
            case ir.Apply(name="land", args=(first, second)):
                pairs = zip(self.holds(first), self.holds(second), strict=True)
                return [a and b for a, b in pairs]
            case ir.Apply(name="eq" | "lt" as name, args=(first, second)):
                a, b = self.of(first), self.of(second)
                if a is not None and b is not None and a.keys() == b.keys() == {()}:
                    both = zip(a[()], b[()], strict=True)
                    return [x == y if name == "eq" else x < y for x, y in both]
        return everywhere


def _key(form: Form) -> str:
    return str(sorted((mono, values[0]) for mono, values in form.items()))


def _product(a: Form, b: Form) -> Form:
    total: Form = {}
    for mono_a, values_a in a.items():
        for mono_b, values_b in b.items():
            mono = tuple(sorted((*mono_a, *mono_b)))
            old = total.get(mono, [0] * len(values_a))
            total[mono] = [o + x * y for o, x, y in zip(old, values_a, values_b, strict=True)]
    return total
