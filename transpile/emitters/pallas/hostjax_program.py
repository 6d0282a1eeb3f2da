"""The host program of a kernel as JAX: which tensors are outputs, which are changed, what is left.

torch's host program allocates tensors and the launches fill them. JAX's functions return new
arrays: a tensor that is allocated uninitialised and then written by a launch becomes that launch's
result (:class:`Output`, ``fresh``); any other tensor that a launch writes goes in and comes out,
and takes its old name. What was changed through a view is put back into the tensor itself.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import libcst as cst

from transpile.emitters.pallas import hostjax_alloc as alloc
from transpile.emitters.pallas.hostjax_calls import Call, Untranslatable
from transpile.emitters.pallas.hostjax_fold import decided
from transpile.emitters.pallas.hostjax_scan import bound, changed_on_host, needs_array
from transpile.emitters.pallas.hostjax_text import Translator, code, comments, torch_imports
from transpile.emitters.pallas.hostjax_views import View, view_of
from transpile.ir import ir
from transpile.ir.diagnostics import error
from transpile.ir.sizes import Sym
from transpile.ir.walk import walk

LAUNCH = "__kt_launch__"
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass
class Statement:
    """A complete statement of the host program, or a launch at the top level (``phase``).

    ``inner`` are the phases launched inside a compound statement, where its text has
    ``__kt_launch__(phase)``.
    """

    text: str
    span: ir.Span | None = None
    phase: int | None = None
    inner: tuple[int, ...] = ()
    pure: bool = False
    target: str = ""  # the name that a plain assignment binds
    value: str = ""  # and the expression it binds it to

    @property
    def phases(self) -> tuple[int, ...]:
        return self.inner if self.phase is None else (self.phase,)

    @property
    def words(self) -> set[str]:
        return set(_WORD.findall(self.text))


@dataclass(frozen=True)
class Output:
    """A tensor that a launch writes.

    ``name`` is what the launch binds, ``shape`` and ``dtype`` are expressions of what the kernel
    writes. ``fresh``: it has no contents before; else pass its ``operand`` and alias it.
    ``struct`` is the whole ``jax.ShapeDtypeStruct``.
    """

    tensor: ir.Tensor
    name: str
    shape: str
    dtype: str
    fresh: bool
    struct: str


@dataclass
class Fresh:
    """An allocation that is a launch's output: dropped, or kept as a shape and dtype."""

    index: int
    allocation: alloc.Allocation
    launch: int
    kept: bool
    host: str  # the allocated tensor, or the view of it that is written


@dataclass
class HostProgram:
    """Everything about the host side of one kernel for one signature.

    ``overwritten`` are tensors of which the kernel writes every element, whatever they held;
    ``constants`` are compile-time values whose branches are decided.
    """

    kernel: ir.Kernel
    blocks: Mapping[Sym, int] = field(default_factory=dict)
    overwritten: frozenset[ir.Tensor] = frozenset()
    constants: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kernel = self.kernel
        tensors = [p.name for p in kernel.params if p.kind == "tensor"]
        self.translator = Translator(torch_imports(kernel.prelude) | {"torch": "torch"}, tensors)
        self.translator.span = kernel.span
        self.statements = list(_statements(kernel, self.blocks))
        if self.constants:
            self._decide_branches()
        self.translator.check_names(p.name for p in kernel.params)
        self.translator.check_names(n for s in self.statements for n in sorted(bound(s.text)))
        self.written = [_written(phase) for phase in kernel.phases]
        self.views = self._find_views()
        self.translator.tensors |= set(self.views)
        self.fresh = dict(self._find_fresh())
        self.changed = self._changed_parameters()

    def _decide_branches(self) -> None:
        for statement in self.statements:
            if statement.text and not statement.inner:
                statement.text = decided(statement.text, self.constants)
        ends = (i for i, s in enumerate(self.statements) if re.match(r"return\b", s.text))
        del self.statements[next(ends, len(self.statements)) + 1 :]

    # -- what the statements are -----------------------------------------------------------------

    def _find_views(self) -> dict[str, View]:
        """Names that are bound once, to views of other names."""
        found: dict[str, View] = {}
        bound: set[str] = set()
        for statement in self.statements:
            if statement.target and statement.target not in bound:
                view = view_of(statement.value)
                if view is not None and view.base != statement.target:
                    found[statement.target] = view
            elif statement.target:
                found.pop(statement.target, None)
            bound.add(statement.target)
        return found

    def _allocation(self, statement: Statement) -> alloc.Allocation | None:
        if not statement.target:
            return None
        node = cst.parse_expression(statement.value)
        if not isinstance(node, cst.Call):
            return None
        name = self.translator.qualified(node.func)
        short = name.removeprefix("torch.") if name else ""
        receiver = ""
        if name is None and isinstance(node.func, cst.Attribute):
            short, receiver = node.func.attr.value, code(node.func.value)
        if short not in (alloc.METHODS if receiver else alloc.FUNCTIONS):
            return None
        t = self.translator
        arguments = [a.star + t.expression(code(a.value)) for a in node.args if a.keyword is None]
        named = {
            a.keyword.value: t.expression(code(a.value))
            for a in node.args
            if a.keyword is not None and a.keyword.value != "device"
        }
        try:
            return alloc.allocation(short, Call(short, receiver, arguments, named))
        except Untranslatable:
            return None  # the statement's own translation says why

    def _find_fresh(self) -> Iterator[tuple[str, Fresh]]:
        for index, statement in enumerate(self.statements):
            name = statement.target
            allocation = self._allocation(statement)
            if allocation is None or sum(s.target == name for s in self.statements) > 1:
                continue
            launch = self._first_writer(name, index)
            if launch is None:
                continue
            phase = self.statements[launch].phase
            assert phase is not None
            (host, *more) = self._hosts_of(name, phase)
            tensors = {t for t in self.written[phase] if t.host == host}
            if more or (allocation.fill is not None and not tensors <= self.overwritten):
                continue
            uses = self._uses(name, host, index + 1, launch)
            if uses is None:
                continue
            kept = uses or self._rebound(allocation, index + 1, launch)
            yield name, Fresh(index, allocation, launch, kept, host)

    def _first_writer(self, name: str, index: int) -> int | None:
        """The first statement after ``index`` with a launch that writes to ``name`` or to a view of
        it, if that is at the top level."""
        for number, statement in enumerate(self.statements[index + 1 :], index + 1):
            if any(self._hosts_of(name, phase) for phase in statement.phases):
                return number if statement.phase is not None else None
        return None

    def _hosts_of(self, name: str, phase: int) -> list[str]:
        """How the launch spells what it writes of ``name``: the name, or views of it."""
        return [t.host for t in self.written[phase] if self._root(t.host) == name]

    def _root(self, host: str) -> str:
        """The tensor that a host expression is, or is a view of."""
        view = self.views.get(host) if host.isidentifier() else view_of(host)
        return host if view is None else self._root(view.base)

    def _uses(self, name: str, host: str, start: int, stop: int) -> bool | None:
        """Whether statements between an allocation and its launch ask for its shape or dtype; None
        if one needs the tensor itself."""
        asked = False
        view = self.views.get(host)
        if view is not None and (view.base != name or not view.whole):
            return None
        if view is None and host != name:
            return None
        for statement in self.statements[start:stop]:
            if name not in statement.words or (view is not None and statement.target == host):
                continue
            if statement.phase is not None or needs_array(statement.text, name):
                return None
            asked = True
        # the kernel itself may read it only where it is written
        return asked

    def _rebound(self, allocation: alloc.Allocation, start: int, stop: int) -> bool:
        words = set(_WORD.findall(allocation.shape + " " + allocation.dtype))
        return any(words & bound(s.text) for s in self.statements[start:stop] if s.text)

    def _changed_parameters(self) -> list[str]:
        """Tensor parameters that the program changes, in parameter order."""
        roots = {self._root(t.host) for tensors in self.written for t in tensors}
        for statement in self.statements:
            roots |= changed_on_host(statement.text)
        names = [p.name for p in self.kernel.params if p.kind == "tensor"]
        for name in names:
            if name in roots and any(name in bound(s.text) for s in self.statements):
                raise error(
                    "KT0631", f"`{name}` is bound anew and then written to", self.kernel.span,
                    remedy="give the new value another name",
                )  # fmt: skip
        return [name for name in names if name in roots]

    # -- what a launch passes and gets -----------------------------------------------------------

    def operand(self, tensor: ir.Tensor) -> str:
        """The array that a launch passes for a tensor."""
        return self.translator.expression(tensor.host)

    def output(self, tensor: ir.Tensor, sizes: Iterable[str]) -> Output:
        """What a launch binds for a tensor it writes; ``sizes`` are its dims in host Python."""
        fresh = next((f for f in self.fresh.values() if f.host == tensor.host), None)
        shape = _tuple(sizes)
        name = tensor.host if tensor.host.isidentifier() else tensor.name
        if fresh is None:
            host = self.translator.expression(tensor.host)
            struct = f"jax.ShapeDtypeStruct({host}.shape, {host}.dtype)"
            return Output(tensor, name, f"{host}.shape", f"{host}.dtype", False, struct)
        owner = next(n for n, f in self.fresh.items() if f is fresh)
        dtype = f"{owner}.dtype" if fresh.kept else fresh.allocation.dtype
        if owner == tensor.host:
            shape = f"{owner}.shape" if fresh.kept else fresh.allocation.shape
        struct = f"jax.ShapeDtypeStruct({shape}, {dtype})"
        if fresh.kept and owner == tensor.host:
            struct = owner
        return Output(tensor, name, shape, dtype, True, struct)

    def launched(self, phase: int, launch: list[str], indent: int) -> list[str]:
        """A launch and what follows from it: results put back where they are views."""
        after: list[str] = []
        index = next(i for i, s in enumerate(self.statements) if phase in s.phases)
        for tensor in self.written[phase]:
            name = tensor.host if tensor.host.isidentifier() else tensor.name
            after += self._put_back(name, tensor, index)
        return [*launch, *self._indented(after, indent)]

    def _put_back(self, name: str, tensor: ir.Tensor, index: int) -> list[str]:
        host = tensor.host
        view = self.views.get(host) if host.isidentifier() else view_of(host)
        lines: list[str] = []
        updated = {host}
        while view is not None and self._live(view.base, index):
            fresh = self.fresh.get(view.base)
            shape = fresh.allocation.shape if fresh is not None and not fresh.kept else ""
            value = view.put(name, self.translator.expression, shape)
            lines.append(f"{view.base} = {value}")
            name = view.base
            updated.add(name)
            view = self.views.get(name)
        for other, one in self.views.items():
            if other not in updated and one.base in updated and self._read_later(other, index):
                lines.append(f"{other} = {self.translator.expression(one.text)}")
                updated.add(other)
        return lines

    def _live(self, name: str, index: int) -> bool:
        """Whether a name, or what it is a view of, matters after statement ``index``."""
        if name in self.changed or self._read_later(name, index):
            return True
        view = self.views.get(name)
        return view is not None and self._live(view.base, index)

    def _read_later(self, name: str, index: int) -> bool:
        for statement in self.statements[index + 1 :]:
            if name in statement.words:
                return True
            hosts = (t.host for p in statement.phases for t in tensors_of(self.kernel.phases[p]))
            if any(name in _WORD.findall(host) for host in hosts):
                return True
        return False

    # -- the text --------------------------------------------------------------------------------

    def body(self, launches: Mapping[int, list[str]]) -> list[str]:
        """The function's statements, indented by 4; ``launches`` are the lines of each launch,
        indented for the place it has (``indent_of``)."""
        dropped = {f.index for f in self.fresh.values() if not f.kept}
        dropped |= {
            i
            for i, s in enumerate(self.statements)
            for f in self.fresh.values()
            if s.target == f.host != self.statements[f.index].target
        }
        read = set(_WORD.findall("\n".join(line for lines in launches.values() for line in lines)))
        texts: list[list[str]] = []
        for index in range(len(self.statements) - 1, -1, -1):
            statement = self.statements[index]
            if statement.phase is not None:
                phase = statement.phase
                lead = [c for f in self.fresh.values() if f.launch == index and not f.kept
                        for c in comments(self.statements[f.index].text)]  # fmt: skip
                lines = self.launched(phase, launches[phase], 4)
                texts.append([*(f"    {c}" for c in lead), *lines])
                read |= set(_WORD.findall("\n".join(lines)))
                continue
            needless = statement.pure or statement.target in self.views
            needless |= self._allocation(statement) is not None
            if index in dropped or (needless and not read & bound(statement.text)):
                continue
            lines = self._statement_lines(index, statement, launches)
            texts.append(_unused_as_underscores(lines, read) if statement.pure else lines)
            read |= statement.words
        return [line for lines in reversed(texts) for line in lines]

    def _statement_lines(
        self, index: int, statement: Statement, launches: Mapping[int, list[str]]
    ) -> list[str]:
        self.translator.span = statement.span or self.kernel.span
        kept = next((f for f in self.fresh.values() if f.index == index), None)
        if kept is not None:
            lead = comments(statement.text)
            return [*(f"    {c}" for c in lead), *self._indented(
                [f"{statement.target} = {kept.allocation.struct()}"], 4)]  # fmt: skip
        text = self.translator.statement(statement.text)
        lines = textwrap.indent(text, "    ").split("\n") if text else []
        if not statement.inner:
            return lines
        found: list[str] = []
        for line in lines:
            if (match := re.match(rf"\s*{LAUNCH}\((\d+)\)", line)) is None:
                found.append(line)
                continue
            phase = int(match[1])
            found += self.launched(phase, launches[phase], len(line) - len(line.lstrip()))
        return found

    def _indented(self, lines: list[str], indent: int) -> list[str]:
        from transpile.emitters.common.layout import wrap

        return [one for line in lines for one in wrap(line, indent)]

    def indent_of(self, phase: int) -> int:
        """Columns before the first line of a launch."""
        indents = {i.phase: i.indent for i in self.kernel.host if isinstance(i, ir.Launch)}
        return 4 + 4 * indents.get(phase, 0)


def _unused_as_underscores(lines: list[str], read: set[str]) -> list[str]:
    """``_, k = x.shape`` where nothing reads the first name."""
    match = re.match(r"( *)(\w+(?:, \w+)+) = ", lines[-1]) if lines else None
    if match is None:
        return lines
    names = ", ".join(name if name in read else "_" for name in match[2].split(", "))
    return [*lines[:-1], f"{match[1]}{names} = {lines[-1][match.end() :]}"]


def tensors_of(phase: ir.Phase) -> list[ir.Tensor]:
    """The tensors that a phase reads or writes, in order of first use."""
    found: dict[ir.Tensor, None] = {}
    for op in walk(phase.body):
        if isinstance(op, ir.Load | ir.Store | ir.Atomic):
            found[op.tensor] = None
    return list(found)


def _written(phase: ir.Phase) -> list[ir.Tensor]:
    found: dict[ir.Tensor, None] = {}
    for op in walk(phase.body):
        if isinstance(op, ir.Store | ir.Atomic):
            found[op.tensor] = None
    return list(found)


def _statements(kernel: ir.Kernel, blocks: Mapping[Sym, int]) -> Iterator[Statement]:
    """Complete statements; pieces around launches inside a compound one are put together."""
    values = {s.name: v for s, v in blocks.items()}
    pending: list[str] = []
    phases: list[int] = []
    span: ir.Span | None = None
    for item in kernel.host:
        if isinstance(item, ir.Launch):
            if not item.indent and not pending:
                yield Statement("", phase=item.phase)
                continue
            pending.append("    " * item.indent + f"{LAUNCH}({item.phase})")
            phases.append(item.phase)
        else:
            if not pending:
                span = item.span
            pending.append(_substituted(item.text, values))
        text = "\n".join(pending)
        if not _complete(text) or (phases and _continues(kernel, item)):
            continue
        yield _statement(text, item, tuple(phases), span)
        pending, phases = [], []
    if pending:
        yield Statement("\n".join(pending), span, inner=tuple(phases))


def _continues(kernel: ir.Kernel, item: ir.HostCode | ir.Launch) -> bool:
    """Whether the next piece of the host program belongs to the same compound statement."""
    following = kernel.host[kernel.host.index(item) + 1 :]
    if not following:
        return False
    first = following[0]
    if isinstance(first, ir.Launch):
        return first.indent > 0
    return first.text[:1] in (" ", "\t") or re.match(r"(elif|else)\b", first.text) is not None


def _statement(
    text: str, item: ir.HostCode | ir.Launch, phases: tuple[int, ...], span: ir.Span | None
) -> Statement:
    pure = isinstance(item, ir.HostCode) and item.pure and bool(item.defines)
    made = Statement(text, span, inner=phases, pure=pure and not phases)
    body = cst.parse_module(text + "\n").body
    if len(body) == 1 and isinstance(body[0], cst.SimpleStatementLine) and len(body[0].body) == 1:
        small = body[0].body[0]
        if isinstance(small, cst.Assign) and len(small.targets) == 1:
            target, value = small.targets[0].target, small.value
        elif isinstance(small, cst.AnnAssign) and small.value is not None:
            target, value = small.target, small.value
        else:
            return made
        if isinstance(target, cst.Name):
            made.target, made.value = target.value, code(value)
    return made


def _substituted(text: str, blocks: Mapping[str, int]) -> str:
    """Block sizes as numbers; a TPU chip runs a kernel on one core."""
    text = re.sub(r"__kt_block_(\w+?)__", lambda m: str(blocks[m[1]]), text)
    return re.sub(r"__kt_num_sm__\([^()]*\)", "1", text)


def _complete(text: str) -> bool:
    try:
        cst.parse_module(text + "\n")
    except cst.ParserSyntaxError:
        return False
    return True


def _tuple(sizes: Iterable[str]) -> str:
    given = list(sizes)
    return f"({', '.join(given)}{',' if len(given) == 1 else ''})"
