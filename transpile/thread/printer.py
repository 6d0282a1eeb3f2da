"""Text of the thread IR, for people: ``kt ir --stage thread`` and test expectations.

The text depends on the kernel only. Variables are numbered where a name is used for several
(``row``, ``row.1``); ``x[i][j]`` is an entry, a component after a dot: ``x[i].(v)``. Loads from
tensors are ``x@[offset]``, with ``:width`` for vectors and ``if guard`` or ``first count`` behind.
"""

from __future__ import annotations

from collections.abc import Iterable

from transpile.thread import ir
from transpile.thread.ir import Body, Expr, Kernel, SharedBuffer, Stmt, Var

_INDENT = "  "
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "eq": "==",
    "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|", "xor": "^",
    "shl": "<<", "shr": ">>", "land": "and", "lor": "or",
}  # fmt: skip


def format_kernel(kernel: Kernel) -> str:
    """The whole kernel as text, ending in a newline."""
    names = Names()
    grid = ", ".join(str(size) for size in kernel.grid)
    lines = [f"thread kernel {kernel.name} grid ({grid}) threads {kernel.threads} {{"]
    for tensor in kernel.tensors:
        shape = ", ".join(map(str, tensor.shape))
        strides = ", ".join(map(str, tensor.strides))
        lines.append(f"{_INDENT}tensor {tensor.name}: {tensor.dtype}[{shape}] strides ({strides})")
    lines += [f"{_INDENT}scalar {s.name}: {s.dtype}" for s in kernel.scalars]
    lines += [f"{_INDENT}capacity {size} <= {number}" for size, number in kernel.capacities]
    lines += [_INDENT + _shared(buffer) for buffer in kernel.shared]
    lines += [_INDENT + line for line in _body(kernel.body, names)]
    return "\n".join([*lines, "}"]) + "\n"


def format_stmt(stmt: Stmt) -> str:
    """One statement, for messages."""
    return "\n".join(_stmt(stmt, Names()))


class Names:
    """Printed names of variables, in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._names: dict[Var, str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, var: Var) -> str:
        if var not in self._names:
            number = self._counts.get(var.name, 0)
            self._counts[var.name] = number + 1
            self._names[var] = f"{var.name}.{number}" if number else var.name
        return self._names[var]


def _shared(buffer: SharedBuffer) -> str:
    shape = ", ".join(map(str, buffer.shape))
    pad = f" pad {buffer.pad}" if buffer.pad else ""
    return f"shared {buffer.name}: {buffer.dtype}[{shape}]{pad} at {buffer.offset}"


def _body(body: Body, names: Names) -> list[str]:
    return [line for stmt in body for line in _stmt(stmt, names)]


def _block(head: str, body: Body, names: Names) -> list[str]:
    return [f"{head} {{", *(_INDENT + line for line in _body(body, names)), "}"]


def _type(var: Var) -> str:
    shape = "".join(f"[{n}]" for n in var.shape)
    vector = f"x{var.components}" if var.components > 1 else ""
    fragment = f" {var.fragment.rows}x{var.fragment.cols}" if var.fragment else ""
    return f"{var.dtype}{vector}{fragment}{shape}"


def _stmt(stmt: Stmt, names: Names) -> list[str]:
    def show(expr: Expr) -> str:
        return _expr(expr, names)

    match stmt:
        case ir.Let(var=var, value=value):
            return [f"let {names(var)}: {_type(var)}" + (f" = {show(value)}" if value else "")]
        case ir.Assign(target=target, value=value):
            return [f"{show(target)} = {show(value)}"]
        case ir.Store(tensor=tensor, value=value):
            where = _access(f"{tensor.name}@", stmt.offset, value.width, names)
            return [f"{where} = {show(value)}{_limits(stmt, names)}"]
        case ir.SharedStore(buffer=buffer, index=index, value=value, guard=guard):
            text = f"{buffer.name}{_index(index, names)} = {show(value)}"
            return [text + (f" if {show(guard)}" if guard is not None else "")]
        case ir.Atomic():
            return [_atomic(stmt, names)]
        case ir.Barrier(scope=scope, shared=shared, device=device):
            memory = [n for n, on in (("shared", shared), ("device", device)) if on]
            return [f"barrier {scope} {' '.join(memory)}".rstrip()]
        case ir.LaneLoop(var=var, count=count, body=body):
            return _block(f"lanes {names(var)} in {count}", body, names)
        case ir.For(var=var, begin=begin, end=end, step=step, body=body):
            bounds = f"{show(begin)} to {show(end)} step {show(step)}"
            return _block(f"for {names(var)} = {bounds}", body, names)
        case ir.If(cond=cond, then=then, orelse=orelse):
            lines = _block(f"if {show(cond)}", then, names)
            return lines if not orelse else lines[:-1] + _block("} else", orelse, names)
        case ir.While(before=before, cond=cond, body=body):
            lines = _block("loop", before, names)[:-1]
            lines += [f"{_INDENT}while {show(cond)}"]
            return lines + [_INDENT + line for line in _body(body, names)] + ["}"]
        case _:
            return [_fragment(stmt, names)]


def _limits(stmt: ir.Store | ir.Load, names: Names) -> str:
    text = f" if {_expr(stmt.guard, names)}" if stmt.guard is not None else ""
    text += f" first {_expr(stmt.count, names)}" if stmt.count is not None else ""
    width = stmt.vector if isinstance(stmt, ir.Load) else stmt.value.width
    return text + ("" if stmt.aligned or width == 1 else " unaligned")


def _access(name: str, offset: Expr, width: int, names: Names) -> str:
    return f"{name}[{_expr(offset, names)}{f' : {width}' if width > 1 else ''}]"


def _index(index: Iterable[Expr], names: Names) -> str:
    return "".join(f"[{_expr(i, names)}]" for i in index)


def _atomic(stmt: ir.Atomic, names: Names) -> str:
    target = f"{_expr(stmt.result, names)} = " if stmt.result is not None else ""
    values = [v for v in (stmt.expected, stmt.value) if v is not None]
    args = ", ".join(_expr(v, names) for v in values)
    where = _access(f"{stmt.tensor.name}@", stmt.offset, 1, names)
    guard = f" if {_expr(stmt.guard, names)}" if stmt.guard is not None else ""
    return f"{target}atomic {stmt.kind} {where}, {args}{guard} {stmt.sem}"


def _fragment(stmt: Stmt, names: Names) -> str:
    def show(expr: Expr) -> str:
        return _expr(expr, names)

    match stmt:
        case ir.FragmentLoad(target=target, source=source):
            mode = " transposed" if stmt.transpose else ""
            index = _index(stmt.index, names)
            return f"{show(target)} = fragment {source.name}{index} by {show(stmt.stride)}{mode}"
        case ir.FragmentStore(value=value, destination=to):
            mode = " transposed" if stmt.transpose else ""
            index = _index(stmt.index, names)
            return f"fragment {to.name}{index} by {show(stmt.stride)}{mode} = {show(value)}"
        case ir.Mma(target=target, lhs=lhs, rhs=rhs, acc=acc):
            return f"{show(target)} = {show(lhs)} @ {show(rhs)} + {show(acc)}"
        case ir.Inline(code=code, args=args, results=results):
            outs = ", ".join(show(r) for r in results)
            return f"inline {code!r} ({', '.join(show(a) for a in args)}) -> ({outs})"
    raise TypeError(type(stmt).__name__)


def _expr(expr: Expr, names: Names) -> str:
    def show(inner: Expr) -> str:
        text = _expr(inner, names)
        infix = isinstance(inner, ir.Apply) and inner.name in _INFIX
        return f"({text})" if infix else text

    match expr:
        case ir.Const() | ir.Extent() | ir.HostScalar() | ir.Id() | Var():
            return _leaf(expr, names)
        case ir.Element(array=array, index=index, component=component):
            part = f".({_expr(component, names)})" if component is not None else ""
            return f"{names(array)}{_index(index, names)}{part}"
        case ir.Apply(name=name, args=args):
            if name in _INFIX and len(args) == 2:
                return f"{show(args[0])} {_INFIX[name]} {show(args[1])}"
            return f"{name}({', '.join(_expr(a, names) for a in args)})"
        case ir.Convert(value=value, dtype=dtype, bitcast=bitcast):
            return f"{dtype}{' bits' if bitcast else ''}({_expr(value, names)})"
        case ir.Random(kind=kind, seed=seed, offset=offset):
            return f"random {kind}({_expr(seed, names)}, {_expr(offset, names)})"
        case ir.Load(tensor=tensor, offset=offset, vector=vector):
            text = _access(f"{tensor.name}@", offset, vector, names) + _limits(expr, names)
            other = f" else {expr.other!r}" if expr.other else ""
            return f"({text}{other})" if " if " in text or " first " in text else text
        case ir.SharedLoad(buffer=buffer, index=index, vector=vector, guard=guard):
            text = f"{buffer.name}{_index(index, names)}" + (f":{vector}" if vector > 1 else "")
            return text if guard is None else f"({text} if {_expr(guard, names)})"
        case ir.Shuffle(kind=kind, value=value, by=by):
            return f"shuffle {kind}({_expr(value, names)}, {_expr(by, names)})"
        case ir.LaneReduce(name=name, value=value, xors=xors):
            return f"lanes {name}({_expr(value, names)}, {', '.join(map(str, xors))})"
        case ir.LaneScan(name=name, value=value):
            return f"lanes before {name}({_expr(value, names)})"
    raise TypeError(type(expr).__name__)


def _leaf(expr: Expr, names: Names) -> str:
    match expr:
        case ir.Const(value=value):
            return repr(value)
        case ir.Extent(size=size):
            text = str(size)
            return f"{{{text}}}" if " " in text else text
        case ir.HostScalar(name=name):
            return name
        case ir.Id(kind=kind):
            return kind
        case Var():
            return names(expr)
    raise TypeError(type(expr).__name__)
