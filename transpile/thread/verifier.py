"""Checks that thread IR is well formed: what the interpreter and the emitters may rely on.

Variables are declared where they are used and assigned before they are read; dtypes and widths
agree; indices of registers and of shared memory that are known numbers are in range; barriers are
reached by all threads of a group, and what SIMD groups do together by all of their threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transpile.ir.dtypes import BOOL, DType
from transpile.ir.ops import ELEMENTWISE
from transpile.thread import ir
from transpile.thread.addresses import Scope, numbers
from transpile.thread.ir import Body, Element, Expr, Kernel, Stmt, Var
from transpile.thread.printer import format_stmt
from transpile.thread.uniform import GROUP, SIMD, Levels
from transpile.thread.walk import bodies, expressions, nodes


def verify(kernel: Kernel) -> list[str]:
    """What is wrong with the kernel; empty if nothing is."""
    verifier = _Verifier(kernel)
    verifier.body(kernel.body, Scope(kernel.threads, kernel.simd), GROUP)
    return verifier.problems


_TOGETHER = (ir.Shuffle, ir.LaneReduce, ir.LaneScan)
_LOGIC = {"land": 2, "lor": 2, "lnot": 1}


@dataclass(eq=False)
class _Verifier:
    kernel: Kernel
    problems: list[str] = field(default_factory=list)
    declared: set[Var] = field(default_factory=set)
    assigned: set[Var] = field(default_factory=set)
    lanes: dict[Var, int] = field(default_factory=dict)
    stmt: Stmt | None = None

    def __post_init__(self) -> None:
        self.levels = Levels(self.kernel.body, self.kernel.simd)
        self.tensors = {t.name for t in self.kernel.tensors}
        self.scalars = {s.name for s in self.kernel.scalars}

    def check(self, good: bool, message: str) -> bool:
        if not good:
            text = format_stmt(self.stmt).splitlines()[0] if self.stmt is not None else ""
            self.problems.append(f"{message} in `{text}`")
        return good

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Variables declared inside are unknown outside."""
        saved = set(self.declared)
        yield
        self.declared = saved

    def body(self, body: Body, scope: Scope, level: int) -> None:
        """Statements reached by threads that differ as ``level`` says."""
        for stmt in body:
            self.stmt = stmt
            self._statement(stmt, scope, level)

    def _statement(self, stmt: Stmt, scope: Scope, level: int) -> None:
        targets = _targets(stmt)
        for expr in expressions(stmt):
            if expr not in targets and not isinstance(stmt, ir.While):
                self._expr(expr, scope, level)
        if not isinstance(stmt, ir.Let | ir.LaneLoop | ir.For):
            for target in targets:
                self._target(target)
        self._types(stmt)
        if isinstance(stmt, ir.Barrier):
            limit = GROUP if stmt.scope == "group" else SIMD
            self.check(level <= limit, "a barrier that not all threads reach")
        elif isinstance(stmt, ir.FragmentLoad | ir.FragmentStore | ir.Mma):
            self.check(level <= SIMD, "matrices where threads of a SIMD group part")
        elif isinstance(stmt, ir.SharedStore):
            self._shared(stmt.buffer, stmt.index, stmt.value.width, stmt.guard, scope)
        self._nested(stmt, scope, level)

    def _nested(self, stmt: Stmt, scope: Scope, level: int) -> None:
        inner = max([level, *(self.levels.of(e) for e in _conditions(stmt))])
        if isinstance(stmt, ir.LaneLoop):
            scope = scope.inside(stmt.var, stmt.count)
            self.lanes[stmt.var] = stmt.count
        with self.scope():
            if isinstance(stmt, ir.LaneLoop | ir.For):
                self.declared.add(stmt.var)
                self.assigned.add(stmt.var)
            if isinstance(stmt, ir.While):
                self.body(stmt.before, scope, inner)
                self._expr(stmt.cond, scope, inner)
                self.body(stmt.body, scope, inner)
                return
            for part in bodies(stmt):
                keep = set(self.declared)
                self.body(part, scope, inner)
                self.declared = keep

    # -- expressions ---------------------------------------------------------------------------

    def _expr(self, expr: Expr, scope: Scope, level: int) -> None:
        for node in nodes(expr):
            if isinstance(node, Var):
                if self.check(node in self.declared, f"{node.name} is not declared here"):
                    self.check(node in self.assigned, f"{node.name} has no value yet")
            elif isinstance(node, Element):
                self._element(node)
            elif isinstance(node, ir.Apply):
                self._apply(node)
            elif isinstance(node, _TOGETHER):
                self.check(level <= SIMD, "lanes exchanged where threads of a SIMD group part")
            elif isinstance(node, ir.SharedLoad):
                self._shared(node.buffer, node.index, node.vector, node.guard, scope)
            elif isinstance(node, ir.Load):
                self.check(node.tensor.name in self.tensors, f"no tensor {node.tensor.name}")
                self._guard(node.guard)
            elif isinstance(node, ir.HostScalar):
                self.check(node.name in self.scalars, f"no scalar {node.name}")

    def _guard(self, guard: Expr | None) -> None:
        self.check(guard is None or guard.dtype == BOOL, "a guard that is no condition")

    def _apply(self, expr: ir.Apply) -> None:
        args = expr.args
        if expr.name in _LOGIC:
            good = len(args) == _LOGIC[expr.name] and {a.dtype for a in (*args, expr)} == {BOOL}
            self.check(good, f"{expr.name} of other things than conditions")
            return
        if expr.name in ("nan_gt", "nan_lt"):
            good = len(args) == 2 and all(a.dtype.is_float for a in args)
            self.check(good, f"{expr.name} of other things than two floats")
            return
        entry = ELEMENTWISE.get(expr.name)
        if not self.check(entry is not None, f"no operation {expr.name}") or entry is None:
            return
        self.check(len(args) == entry.arity, f"{expr.name} of {len(args)} operands")
        self.check(all(a.width == 1 for a in args), f"{expr.name} of vectors")
        if expr.name == "where":
            self.check(args[0].dtype == BOOL, "a selection by what is no condition")
            args = args[1:]
        dtypes = {a.dtype for a in args}
        self.check(len(dtypes) == 1, f"{expr.name} of {', '.join(sorted(map(str, dtypes)))}")
        self.check(_result(entry.rule, args[0].dtype, expr.dtype), f"{expr.name} is {expr.dtype}")

    def _element(self, element: Element) -> None:
        shape = element.array.shape
        if not self.check(len(element.index) == len(shape), f"rank of {element.array.name}"):
            return
        pairs = list(zip(element.index, shape, strict=True))
        if element.component is not None:
            width = element.array.components
            fragment = element.array.fragment
            pairs.append((element.component, fragment.width if fragment else width))
        for index, room in pairs:
            high = _highest(index, self.lanes)
            if self.check(high is not None, f"registers of {element.array.name} by no constant"):
                assert high is not None
                self.check(high < room, f"index {high} of {element.array.name}")

    def _shared(
        self,
        buffer: ir.SharedBuffer,
        index: tuple[Expr, ...],
        width: int,
        guard: Expr | None,
        scope: Scope,
    ) -> None:
        self._guard(guard)
        self.check(buffer in self.kernel.shared, f"{buffer.name} is not planned")
        if not self.check(len(index) == len(buffer.shape), f"rank of {buffer.name}"):
            return
        for number, (expr, room) in enumerate(zip(index, buffer.shape, strict=True)):
            last = number == len(index) - 1
            values = numbers(expr, scope, guard, self.levels.values)
            if values:
                low, high = min(values), max(values) + (width - 1 if last else 0)
                self.check(low >= 0 and high < room, f"{low} .. {high} of {buffer.name}")

    # -- statements ----------------------------------------------------------------------------

    def _target(self, target: Expr) -> None:
        array = target.array if isinstance(target, Element) else target
        if isinstance(array, Var):
            self.check(array in self.declared, f"{array.name} is not declared here")
            self.assigned.add(array)
        if isinstance(target, Element):
            self._element(target)

    def _types(self, stmt: Stmt) -> None:
        match stmt:
            case ir.Let(var=var, value=value):
                self.check(var not in self.declared, f"{var.name} is declared twice")
                self.declared.add(var)
                if value is not None:
                    self.assigned.add(var)
                    same = value.dtype == var.dtype and value.width in (1, var.components)
                    self.check(same, f"{value.dtype} for {var.name} of {var.dtype}")
            case ir.Assign(target=target, value=value):
                same = target.dtype == value.dtype and target.width == value.width
                self.check(same, f"{value.dtype} for a variable of {target.dtype}")
            case ir.Store(tensor=tensor, value=value):
                self._guard(stmt.guard)
                self.check(tensor.name in self.tensors, f"no tensor {tensor.name}")
                self.check(value.dtype == tensor.dtype, f"{value.dtype} into {tensor.dtype}")
            case ir.SharedStore(buffer=buffer, value=value):
                self.check(value.dtype == buffer.dtype, f"{value.dtype} into {buffer.dtype}")
            case ir.Atomic(tensor=tensor, value=value):
                self._guard(stmt.guard)
                self.check(value.dtype == tensor.dtype, f"{value.dtype} into {tensor.dtype}")
            case ir.If(cond=cond) | ir.While(cond=cond):
                self.check(cond.dtype == BOOL, "a condition that is none")
            case ir.For():
                dtypes = {e.dtype for e in (stmt.var, stmt.begin, stmt.end, stmt.step)}
                self.check(len(dtypes) == 1, "a loop over several dtypes")


def _result(rule: str, operand: DType, result: DType) -> bool:
    if rule == "bool":
        return result == BOOL
    return result == operand or (rule == "float" and result.is_float)


def _targets(stmt: Stmt) -> tuple[Expr, ...]:
    """What a statement assigns."""
    match stmt:
        case ir.Let(var=var):
            return (var,)
        case ir.LaneLoop(var=var) | ir.For(var=var):
            return (var,)
        case ir.Assign(target=target) | ir.FragmentLoad(target=target) | ir.Mma(target=target):
            return (target,)
        case ir.Atomic(result=result) if result is not None:
            return (result,)
        case ir.Inline(results=results):
            return results
    return ()


def _conditions(stmt: Stmt) -> tuple[Expr, ...]:
    match stmt:
        case ir.If(cond=cond) | ir.While(cond=cond):
            return (cond,)
        case ir.For(begin=begin, end=end, step=step):
            return (begin, end, step)
    return ()


def _highest(expr: Expr, lanes: dict[Var, int]) -> int | None:
    """The largest value of an index of registers, None if it is not made of lane loops."""
    match expr:
        case ir.Const(value=value):
            return int(value)
        case Var():
            return lanes[expr] - 1 if expr in lanes else None
        case ir.Apply(name="add" | "mul" | "sub" | "floordiv" | "mod" as name, args=(a, b)):
            x, y = _highest(a, lanes), _highest(b, lanes)
            if x is None or y is None:
                return None
            values = {"add": x + y, "mul": x * y, "sub": x, "floordiv": x, "mod": min(x, y - 1)}
            return values[name]
    return None
