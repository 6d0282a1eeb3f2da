"""Statements of the thread IR in Metal Shading Language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transpile.emitters.msl import ops
from transpile.emitters.msl.dtypes import spelled
from transpile.emitters.msl.expr import Expressions, conjuncts, is_pack
from transpile.emitters.msl.families import ATOMICS64
from transpile.emitters.msl.names import Scope
from transpile.emitters.msl.ops import ADD, ATOM, LESS, TERNARY
from transpile.emitters.msl.vectors import Vectors
from transpile.emitters.msl.wrap import wrap
from transpile.ir.dtypes import BF16, F16, F32, I32, U32, U64
from transpile.thread import ir
from transpile.thread.merge import TypeParam

INDENT = 2


class Statements:
    """Prints bodies; names are declared in the scope of the braces they stand in."""

    def __init__(self, exprs: Expressions, source: Mapping[int, str]) -> None:
        self.exprs = exprs
        self.source = source  # lines of the source file that are worth a comment
        self.said: set[int] = set()  # those that have been quoted
        self.assigned = set(_assigned(exprs.arguments.kernel.body))
        self.known: frozenset[ir.Expr] = frozenset()

    def body(self, body: ir.Body, scope: Scope, indent: int) -> list[str]:
        lines: list[str] = []
        at = 0
        while at < len(body):
            stmt = body[at]
            loop = self._loop_after(body, at)
            found = self._whole_vectors(body[at : loop + 1], scope) if loop >= at else None
            last = loop if found is not None else at
            for each in body[at : last + 1]:
                self.exprs.span = each.span or self.exprs.span
            if found is None:
                lines += self._comment(stmt, indent)
                lines += self._statement(stmt, scope, indent)
            else:
                texts, rest = found
                for each, text in texts:
                    lines += self._comment(each, indent)
                    lines += wrap(text, indent)
                for each in rest:
                    lines += self._comment(each, indent)
                    lines += self._statement(each, scope, indent)
            at = last + 1
        return lines

    @staticmethod
    def _loop_after(body: ir.Body, at: int) -> int:
        """Where the loop over components is that stands here, after declarations of which the
        first has no value; -1 if there is none."""
        first = body[at]
        if isinstance(first, ir.Let) and first.value is not None:
            return -1
        while at < len(body) and isinstance(body[at], ir.Let):
            at += 1
        stmt = body[at] if at < len(body) else None
        return at if isinstance(stmt, ir.LaneLoop) and not is_pack(stmt.count) else -1

    def _whole_vectors(
        self, body: ir.Body, scope: Scope
    ) -> tuple[list[tuple[ir.Stmt, str]], list[ir.LaneLoop]] | None:
        """A loop over components and the declarations before it as statements on vectors (what each
        is of, and its text), and the loop with what has to be done one by one. None if vectors
        have no part in it."""
        loop = body[-1]
        assert isinstance(loop, ir.LaneLoop)
        vectors = Vectors(self.exprs, loop)
        lets = [let for let in body[:-1] if isinstance(let, ir.Let)]
        unset = {let.var: let for let in lets if let.value is None}
        inner = scope.inner()  # names are taken only if some of the loop can be vectors
        given = [
            (let, line)
            for let in lets
            if let.value is not None
            for line in self._let(let, inner, 0)
        ]
        texts: list[tuple[ir.Stmt, str]] = []
        rest: ir.Body = []
        for stmt in loop.body:
            if not isinstance(stmt, ir.Let | ir.Assign):
                return None
            value = vectors.of(stmt.value) if stmt.value is not None else None
            text = None
            if value is not None and isinstance(stmt, ir.Let):
                name = vectors.names[stmt.var] = inner.declare(self._hint(stmt.var))
                text = f"{self.exprs.type(stmt.var.dtype, loop.count)} {name} = {value[0]};"
            elif value is not None and isinstance(stmt, ir.Assign):
                text = self._added_whole(stmt, vectors)
                if text is None:
                    text = self._assigned_whole(stmt.target, value[0], vectors, unset, inner)
            if text is not None:
                texts.append((stmt, text))
                continue
            rest.append(stmt)
            vectors.leave(stmt)
        if not texts or (rest and any(v.shape or v.components > 1 for v in unset)):
            return None
        declared = [(let, line) for let in unset.values() for line in self._let(let, inner, 0)]
        scope.names |= inner.names
        component = scope.inner().declare(loop.var.name)
        for var, name in vectors.names.items():
            self.exprs.names[var] = f"{name}[{component}]"
        return [*given, *declared, *texts], (
            [ir.LaneLoop(loop.var, loop.count, rest)] if rest else []
        )

    def _assigned_whole(
        self, target: ir.Var | ir.Element, value: str, vectors: Vectors,
        unset: dict[ir.Var, ir.Let], scope: Scope,
    ) -> str | None:  # fmt: skip
        if not isinstance(target, ir.Element) or target.component != vectors.component:
            return None
        array = target.array
        if array.components != vectors.width or array in vectors.left | vectors.kept:
            return None
        if array in unset and not array.shape and array.fragment is None:
            del unset[array]
            name = self.exprs.names[array] = scope.declare(self._hint(array))
            return f"{self._type(array)} {name} = {value};"
        if array in unset or array not in self.exprs.names:
            return None
        place = self.exprs.place_of(ir.Element(array, target.index))
        if array.fragment is None:
            return f"{place} = {value};"
        self.exprs.helpers.add("set_elements")
        return f"set_elements({place}, {value});"

    def _added_whole(self, stmt: ir.Assign, vectors: Vectors) -> str | None:
        """``v[i] += x`` where the statement adds to what it assigns."""
        target, value = stmt.target, stmt.value
        if not isinstance(target, ir.Element) or target.array.fragment is not None:
            return None
        adds = isinstance(value, ir.Apply) and value.name == "add" and value.dtype == F32
        if not adds or not isinstance(value, ir.Apply) or value.args[0] != target:
            return None
        if target.array in vectors.left | vectors.kept or vectors.of(target) is None:
            return None
        added = vectors.of(value.args[1])
        place = self.exprs.place_of(ir.Element(target.array, target.index))
        return None if added is None else f"{place} += {added[0]};"

    def _comment(self, stmt: ir.Stmt, indent: int) -> list[str]:
        """The source statement whose code begins here, above the whole loop over registers; where
        a loop is of several, each is said where its code begins inside."""
        found = [n for n in dict.fromkeys(_lines_of(stmt)) if n not in self.said]
        quoted = [n for n in found if self.source.get(n)]
        if len(quoted) > 1 and isinstance(stmt, ir.LaneLoop | ir.If):
            return []
        self.said.update(found)
        return [f"{' ' * indent}// {p}" for n in quoted for p in self.source[n].split("\n") if p]

    def _statement(self, stmt: ir.Stmt, scope: Scope, indent: int) -> list[str]:
        self.known = self.exprs.holding  # without the statement's own guard
        guard = getattr(stmt, "guard", None)
        with self.exprs.knowing(self.known | set(conjuncts(guard))):
            return _PRINT[type(stmt)](self, stmt, scope, indent)

    def _set(self, stmt: ir.Assign, scope: Scope, indent: int) -> list[str]:
        exprs, target, value = self.exprs, stmt.target, stmt.value
        place = exprs.place_of(target)
        whole = isinstance(value, ir.Var | ir.Element) and _fragment_of(value) is not None
        if whole and isinstance(value, ir.Var | ir.Element):
            return wrap(f"{place} = {exprs.place_of(value)};", indent)
        matrix = _fragment_of(target)
        if matrix is not None:
            exprs.helpers.add("set_elements")
            return wrap(f"set_elements({place}, {exprs.text(value)});", indent)
        return self._assign(place, value, indent)

    def _shared_store(self, stmt: ir.SharedStore, scope: Scope, indent: int) -> list[str]:
        if stmt.value.width == 1:
            place = self.exprs.place(stmt.buffer, stmt.index)
        else:
            place = self.exprs.shared_vector(stmt.buffer, stmt.index, stmt.value.width)
        return self._guarded(stmt.guard, f"{place} = {self.exprs.text(stmt.value)};", indent)

    def _barrier(self, stmt: ir.Barrier, scope: Scope, indent: int) -> list[str]:
        flags = ["mem_flags::mem_threadgroup"] if stmt.shared else []
        flags += ["mem_flags::mem_device"] if stmt.device else []
        function = "threadgroup_barrier" if stmt.scope == "group" else "simdgroup_barrier"
        return [f"{' ' * indent}{function}({' | '.join(flags) or 'mem_flags::mem_none'});"]

    def _lane_loop(self, stmt: ir.LaneLoop, scope: Scope, indent: int) -> list[str]:
        inner = scope.inner()
        name = self.exprs.names[stmt.var] = inner.declare(stmt.var.name)
        self.exprs.helpers.add("UNROLL")
        head = f"UNROLL for (short {name} = 0; {name} < {self._count(stmt.count)}; ++{name})"
        return self._block(head, stmt.body, inner, indent)

    def _mma(self, stmt: ir.Mma, scope: Scope, indent: int) -> list[str]:
        names = [self.exprs.place_of(e) for e in (stmt.target, stmt.lhs, stmt.rhs, stmt.acc)]
        return wrap(f"simdgroup_multiply_accumulate({', '.join(names)});", indent)

    def _inline(self, stmt: ir.Inline, scope: Scope, indent: int) -> list[str]:
        texts = [self.exprs.text(e) for e in (*stmt.args, *stmt.results)]
        return wrap(stmt.code.format(*texts), indent)

    def _block(self, head: str, body: ir.Body, scope: Scope, indent: int) -> list[str]:
        lines = wrap(f"{head} {{", indent)
        return [*lines, *self.body(body, scope, indent + INDENT), f"{' ' * indent}}}"]

    # -- variables -----------------------------------------------------------------------------

    def _let(self, stmt: ir.Let, scope: Scope, indent: int) -> list[str]:
        var, value = stmt.var, stmt.value
        # What the value says comes first: it may read a variable of an outer scope of this name.
        text = self.exprs.text(value) if value is not None else ""
        name = self.exprs.names[var] = scope.declare(self._hint(var))
        declared = f"{self._type(var)} {name}" + "".join(f"[{self._count(n)}]" for n in var.shape)
        if value is None:
            return wrap(f"{declared};", indent)
        if not var.shape and var.fragment is None:
            if value.width < var.components:
                text = f"{self._type(var)}({text})"
            return wrap(f"{declared} = {text};", indent)
        if var.fragment is not None:
            text = f"make_filled_simdgroup_matrix<{spelled(var.dtype)}, 8, 8>({text})"
        elif isinstance(value, ir.Const) and value.value == 0 and str(value.value)[0] != "-":
            return wrap(f"{declared} = {{}};", indent)
        elif var.components > 1:
            text = f"{self._type(var)}({text})"
        return [*wrap(f"{declared};", indent), *self._fill(name, var.shape, text, indent)]

    def _hint(self, var: ir.Var) -> str:
        """The variable's name; what is loaded from a tensor of that name is a tile of it."""
        tensors = self.exprs.arguments.tensors.values()
        return f"{var.name}_tile" if var.name in tensors else var.name

    def _fill(self, name: str, shape: tuple[int, ...], value: str, indent: int) -> list[str]:
        """Every entry of an array set to a value."""
        if not shape:
            return wrap(f"{name} = {value};", indent)
        self.exprs.helpers.add("UNROLL")
        lines, ends = [], []
        for i, count in zip("ijkl", shape, strict=False):
            head = f"UNROLL for (short {i} = 0; {i} < {self._count(count)}; ++{i}) {{"
            lines.append(f"{' ' * indent}{head}")
            ends.append(f"{' ' * indent}}}")
            name += f"[{i}]"
            indent += INDENT
        return [*lines, *wrap(f"{name} = {value};", indent), *reversed(ends)]

    def _count(self, number: int) -> str:
        return self.exprs.numbers.text(number)

    def _type(self, var: ir.Var) -> str:
        if var.fragment is not None:
            self.exprs.includes.add("metal_simdgroup_matrix")
            rows, cols = var.fragment.rows, var.fragment.cols
            if isinstance(var.dtype, TypeParam):
                return f"simdgroup_matrix<{spelled(var.dtype)}, {rows}, {cols}>"
            return f"simdgroup_{spelled(var.dtype)}{rows}x{cols}"
        return self.exprs.type(var.dtype, var.components)

    def _assign(self, target: str, value: ir.Expr, indent: int) -> list[str]:
        """``x = x + y`` is printed ``x += y``."""
        # Narrow integers are computed in int and bfloats in float, so they convert on the way.
        plain = value.dtype in (F16, F32) or (value.dtype.is_int and value.dtype.bits >= 32)
        if isinstance(value, ir.Apply) and plain:
            symbol = {"add": "+", "sub": "-", "mul": "*"}.get(value.name)
            if symbol and self.exprs.text(value.args[0]) == target:
                return wrap(f"{target} {symbol}= {self.exprs.text(value.args[1])};", indent)
        return wrap(f"{target} = {self.exprs.text(value)};", indent)

    # -- memory --------------------------------------------------------------------------------

    def _guarded(self, guard: ir.Expr | None, text: str, indent: int) -> list[str]:
        if guard is None:
            return wrap(text, indent)
        pad = " " * indent
        with self.exprs.knowing(self.known):
            head = wrap(f"if ({self.exprs.text(guard)}) {{", indent)
        return [*head, *wrap(text, indent + INDENT), f"{pad}}}"]

    def _store(self, stmt: ir.Store, scope: Scope, indent: int) -> list[str]:
        exprs = self.exprs
        exprs.written.add(stmt.tensor)
        if stmt.value.width > 1 and stmt.aligned:
            exprs.aligned.add(stmt.tensor)
        value = exprs.text(stmt.value)
        width = stmt.value.width
        if stmt.count is not None:
            helper = exprs.access("store", width, first=True, aligned=stmt.aligned)
            pointer = exprs.pointer(stmt.tensor, stmt.offset)[0]
            count = exprs.count(stmt.count, stmt.value.width)
            text = f"{helper}({pointer}, {value}, {count});"
            return self._guarded(stmt.guard, text, indent)
        if width == 1:
            name = exprs.arguments.tensors[stmt.tensor]
            place = f"{name}[{exprs.text(stmt.offset)}]"
        elif stmt.aligned:
            place = exprs.vector_at(stmt.tensor, stmt.offset, width, "")
        else:
            pointer = exprs.pointer(stmt.tensor, stmt.offset)[0]
            helper = exprs.access("store", width, first=False, aligned=False)
            text = f"{helper}({pointer}, {value});"
            return self._guarded(stmt.guard, text, indent)
        return self._guarded(stmt.guard, f"{place} = {value};", indent)

    def _atomic(self, stmt: ir.Atomic, scope: Scope, indent: int) -> list[str]:
        exprs = self.exprs
        dtype = exprs.dtype(stmt.tensor.dtype)
        exprs.includes.add("metal_atomic")
        exprs.read.add(stmt.tensor)
        exprs.written.add(stmt.tensor)
        if stmt.sem != "relaxed" and stmt.result is not None:
            raise exprs.unsupported(
                f"an atomic operation with {stmt.sem} ordering", "Metal's atomics are relaxed",
                "use sem='relaxed', and a barrier (hl.barrier) between producer and consumer",
            )  # fmt: skip
        value = exprs.text(stmt.value)
        pointer = exprs.pointer(stmt.tensor, stmt.offset)
        at = pointer[0] if pointer[1] == ATOM else f"({pointer[0]})"
        if dtype in (F16, BF16) and stmt.kind in ("add", "max", "min", "xchg"):
            exprs.aligned.add(stmt.tensor)  # its words of 32 bits are
            helper = f"atomic_{stmt.kind}_{spelled(dtype)}"
            name = exprs.arguments.tensors[stmt.tensor]
            text = f"{helper}({name}, {exprs.text(stmt.offset)}, {value})"
        elif dtype == F32 and stmt.kind in ("max", "min"):
            helper = f"atomic_{stmt.kind}_float"
            text = f"{helper}({pointer[0]}, {value})"
        elif dtype in (I32, U32) and stmt.kind == "cas" and stmt.expected is not None:
            helper = f"atomic_cas_{spelled(dtype)}"
            text = f"atomic_cas({pointer[0]}, {exprs.text(stmt.expected)}, {value})"
        elif dtype in (I32, U32) or (dtype == F32 and stmt.kind in ("add", "xchg")):
            helper = ""
            function = ops.ATOMICS[stmt.kind]
            cast = f"(device atomic_{spelled(dtype)}*){at}"
            text = f"{function}({cast}, {value}, memory_order_relaxed)"
        elif dtype == U64 and stmt.kind in ("max", "min") and stmt.result is None:
            exprs.needs.setdefault(ATOMICS64, stmt.span)
            helper = ""
            cast = f"(device atomic_ulong*){at}"
            text = f"atomic_{stmt.kind}_explicit({cast}, {value}, memory_order_relaxed)"
        else:
            raise exprs.unsupported(
                f"atomic {stmt.kind} on {dtype.name}",
                "Metal has atomics of 32 bits; of those on floats, there are add, max, min, xchg; "
                "of 64 bits max and min on u64, where nothing reads the old value",
                "accumulate in an f32 or i32 tensor",
            )  # fmt: skip
        if helper:
            exprs.helpers.add(helper)
        if stmt.result is not None:
            text = f"{exprs.text(stmt.result)} = {text}"
        return self._guarded(stmt.guard, f"{text};", indent)

    def _fragment(
        self, stmt: ir.FragmentLoad | ir.FragmentStore, scope: Scope, indent: int
    ) -> list[str]:
        exprs = self.exprs
        load = isinstance(stmt, ir.FragmentLoad)
        place = stmt.source if isinstance(stmt, ir.FragmentLoad) else stmt.destination
        matrix = stmt.target if isinstance(stmt, ir.FragmentLoad) else stmt.value
        if isinstance(place, ir.SharedBuffer):
            address = f"&{exprs.place(place, stmt.index)}"
        else:
            address = exprs.pointer(place, stmt.index[0])[0]
            (exprs.read if load else exprs.written).add(place)
        function = "simdgroup_load" if load else "simdgroup_store"
        turned = ", ulong2(0, 0), true" if stmt.transpose else ""
        stride = exprs.text(stmt.stride)
        return wrap(f"{function}({exprs.place_of(matrix)}, {address}, {stride}{turned});", indent)

    # -- control flow --------------------------------------------------------------------------

    def _for(self, stmt: ir.For, scope: Scope, indent: int) -> list[str]:
        exprs = self.exprs
        kind = exprs.type(stmt.var.dtype)
        lines: list[str] = []
        begin = exprs.text(stmt.begin)
        inner = scope.inner()
        ends = []
        for what, bound in (("end", stmt.end), ("step", stmt.step)):
            if self._changes(bound):
                name = scope.declare(f"{stmt.var.name}_{what}")
                lines += wrap(f"{kind} {name} = {exprs.text(bound)};", indent)
                ends.append((name, ATOM))
            else:
                ends.append(exprs.of(bound))
        name = exprs.names[stmt.var] = inner.declare(stmt.var.name)
        end = ends[0][0] if ends[0][1] > LESS else f"({ends[0][0]})"
        step = ends[1][0]
        advance = f"++{name}" if step == "1" else f"{name} += {step}"
        head = f"for ({kind} {name} = {begin}; {name} < {end}; {advance})"
        return lines + self._block(head, stmt.body, inner, indent)

    def _changes(self, expr: ir.Expr) -> bool:
        """True if evaluating it again may give another value, or costs something."""
        lanes = ir.Shuffle | ir.LaneReduce | ir.LaneScan
        if isinstance(expr, ir.Load | ir.SharedLoad | lanes | ir.Random):
            return True
        if isinstance(expr, ir.Var) and expr in self.assigned:
            return True
        if isinstance(expr, ir.Element):
            return True
        return any(self._changes(e) for e in _operands(expr))

    def _if(self, stmt: ir.If, scope: Scope, indent: int) -> list[str]:
        pad = " " * indent
        head = f"if ({self.exprs.text(stmt.cond, TERNARY)})"
        lasting = {c for c in conjuncts(stmt.cond) if not self._changes(c)}
        with self.exprs.knowing(self.exprs.holding | lasting):
            lines = self._block(head, stmt.then, scope.inner(), indent)
        if not stmt.orelse:
            return lines
        if len(stmt.orelse) == 1 and isinstance(stmt.orelse[0], ir.If):
            first, *rest = self._statement(stmt.orelse[0], scope, indent)
            return [*lines[:-1], f"{pad}}} else {first.lstrip()}", *rest]
        orelse = self.body(stmt.orelse, scope.inner(), indent + INDENT)
        return [*lines[:-1], f"{pad}}} else {{", *orelse, f"{pad}}}"]

    def _while(self, stmt: ir.While, scope: Scope, indent: int) -> list[str]:
        inner = scope.inner()
        if not stmt.before:
            return self._block(f"while ({self.exprs.text(stmt.cond)})", stmt.body, inner, indent)
        pad = " " * indent
        deeper = indent + INDENT
        before = self.body(stmt.before, inner, deeper)
        cond = wrap(f"if (!({self.exprs.text(stmt.cond, ADD)})) {{", deeper)
        leave = [*cond, f"{pad}    break;", f"{pad}  }}"]
        return [f"{pad}while (true) {{", *before, *leave, *self.body(stmt.body, inner, deeper),
                f"{pad}}}"]  # fmt: skip


def _lines_of(stmt: ir.Stmt) -> Iterator[int]:
    """Lines of the source that a statement comes from; those of a loop of the source, or of its
    branches, come from the statements inside."""
    if isinstance(stmt, ir.For | ir.While):
        return
    if stmt.span is not None:
        yield stmt.span.line
    inner: ir.Body = []
    if isinstance(stmt, ir.LaneLoop):
        inner = stmt.body
    elif isinstance(stmt, ir.If) and stmt.span is None:
        inner = [*stmt.then, *stmt.orelse]
    for each in inner:
        yield from _lines_of(each)


def _assigned(body: ir.Body) -> Iterator[ir.Var]:
    """Variables that get a value after their declaration."""
    for stmt in body:
        match stmt:
            case ir.Assign(target=target):
                yield target if isinstance(target, ir.Var) else target.array
            case ir.Atomic(result=result) if result is not None:
                yield result if isinstance(result, ir.Var) else result.array
            case ir.Inline(results=results):
                yield from (r if isinstance(r, ir.Var) else r.array for r in results)
            case ir.LaneLoop(body=inner) | ir.For(body=inner):
                yield from _assigned(inner)
            case ir.If(then=then, orelse=orelse):
                yield from _assigned(then)
                yield from _assigned(orelse)
            case ir.While(before=before, body=inner):
                yield from _assigned(before)
                yield from _assigned(inner)


def _fragment_of(value: ir.Var | ir.Element) -> ir.FragmentShape | None:
    """The matrix that the value is as a whole, None if it is a number of each thread."""
    if isinstance(value, ir.Element):
        return value.array.fragment if value.component is None else None
    return value.fragment


def _operands(expr: ir.Expr) -> tuple[ir.Expr, ...]:
    match expr:
        case ir.Apply(args=args):
            return args
        case ir.Convert(value=value):
            return (value,)
    return ()


_PRINT: dict[type[ir.Stmt], Callable[[Statements, Any, Scope, int], list[str]]] = {
    ir.Let: Statements._let,
    ir.Assign: Statements._set,
    ir.Store: Statements._store,
    ir.SharedStore: Statements._shared_store,
    ir.Atomic: Statements._atomic,
    ir.Barrier: Statements._barrier,
    ir.LaneLoop: Statements._lane_loop,
    ir.For: Statements._for,
    ir.If: Statements._if,
    ir.While: Statements._while,
    ir.FragmentLoad: Statements._fragment,
    ir.FragmentStore: Statements._fragment,
    ir.Mma: Statements._mma,
    ir.Inline: Statements._inline,
}
