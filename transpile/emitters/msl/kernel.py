"""One phase of a kernel as a Metal kernel function, with what it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from transpile.emitters.common.hostsizes import HostSizes
from transpile.emitters.msl.arguments import Arguments, Member
from transpile.emitters.msl.dtypes import NAMES, spelled
from transpile.emitters.msl.expr import Expressions
from transpile.emitters.msl.families import LEAST
from transpile.emitters.msl.names import Scope
from transpile.emitters.msl.statements import INDENT, Statements
from transpile.emitters.msl.wrap import WIDTH
from transpile.ir import ir as tile
from transpile.ir.diagnostics import KtError, error
from transpile.thread import ir
from transpile.thread.merge import Merged
from transpile.thread.walk import all_nodes, walk

SHARED_BYTES = LEAST.shared_bytes  # of threadgroup memory; no family has more
MAX_THREADS = LEAST.threads
MAX_BUFFERS = LEAST.buffers

_IDS = {
    "tgid": "uint3 tgid [[threadgroup_position_in_grid]]",
    "tid": "ushort tid [[thread_index_in_threadgroup]]",
    "lane": "ushort lane [[thread_index_in_simdgroup]]",
    "sg": "ushort sg [[simdgroup_index_in_threadgroup]]",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor argument and its element type here. ``access`` is "" (read), "out" or "inout"; an
    ``aligned`` one must begin at a multiple of 16 bytes."""

    name: str
    tensor: tile.Tensor
    type: str
    access: str
    aligned: bool


@dataclass(frozen=True, slots=True)
class Form:
    """Which version of which phase a kernel is: for rows up to ``capacity``, or with ``chunk`` for
    rows that are walked in chunks of it."""

    phase: int
    capacity: int
    chunk: int | None = None


@dataclass(eq=False, slots=True)
class MetalKernel:
    """A kernel function without its name and that of its struct, and what its launch needs.

    A function template has ``parameters``, ``arguments`` are those for this kernel.
    """

    source: tile.Kernel
    kernel: ir.Kernel
    sizes: HostSizes
    tensors: list[Parameter]
    members: list[Member]
    ids: list[str]
    body: list[str]
    helpers: set[str]
    made: dict[str, str]
    includes: set[str]
    needs: dict[str, tile.Span | None]  # features that not all GPUs have, and where
    most_threads: str
    parameters: list[str]
    arguments: list[str]
    form: Form | None = None

    @property
    def text(self) -> str:
        """Everything but names: equal texts share one function."""
        return self.function("kernel", "Params")

    def struct(self, name: str) -> str:
        """The struct of scalar arguments, "" if there are none."""
        if not self.members:
            return ""
        lines = [f"  {NAMES[m.dtype]} {m.name};" for m in self.members]
        return "\n".join([f"struct {name} {{", *lines, "};"])

    def function(self, name: str, struct: str) -> str:
        """The kernel function under a name."""
        params = []
        for i, t in enumerate(self.tensors):
            const = "" if t.access else "const "
            params.append(f"{const}device {t.type}* {t.name} [[buffer({i})]]")
        if self.members:
            params.append(f"constant {struct}& params [[buffer({len(params)})]]")
        params += [_IDS[name] for name in self.ids]
        attributes = f"[[kernel, max_total_threads_per_threadgroup({self.most_threads})]]"
        head = f"{attributes} void {name}("
        lines = [f"template <{', '.join(self.parameters)}>"] if self.parameters else []
        lines += [head, *(f"    {p}," for p in params)]
        lines[-1] = lines[-1][:-1] + ") {"
        return "\n".join([*lines, *self.body, "}"])

    def instance(self, name: str, entry: str) -> str:
        """The kernel that is made from the template ``name``, as ``entry`` for the host."""
        made = f"{name}<{', '.join(self.arguments)}>"
        head = f'template [[host_name("{entry}")]] [[kernel]]'
        line = f"{head} decltype({made}) {made};"
        return line if len(line) <= WIDTH else f"{head}\ndecltype({made}) {made};"


def print_kernel(
    source: tile.Kernel,
    kernel: ir.Kernel,
    sizes: HostSizes,
    lines: Mapping[int, str],
    merged: Merged | None = None,
) -> MetalKernel:
    """The kernel in Metal; KtError with everything that this target cannot do.

    ``lines``: the source file's lines that are worth a comment, by number. With ``merged`` the
    kernel is printed as a template for all that are merged in it.
    """
    problems = _limits(source, kernel)
    if problems:
        raise KtError(*(d for p in problems for d in p.diagnostics))
    printed = merged.kernel if merged is not None else kernel
    arguments = Arguments(source, printed, sizes)
    exprs = Expressions(arguments)
    scope = arguments.scope.inner()
    shared = _shared(printed, exprs, scope)
    body = shared + Statements(exprs, lines).body(printed.body, scope, INDENT)
    pad = " " * INDENT
    body = [f"{pad}{line}" for line in exprs.numbers.declarations()] + body
    tensors = [
        Parameter(name, real, spelled(t.dtype), _access(t, exprs), t in exprs.aligned)
        for (t, name), real in zip(arguments.tensors.items(), kernel.tensors, strict=True)
    ]
    if len(tensors) + bool(arguments.members) > MAX_BUFFERS:
        raise error(
            "KT0613", f"`{source.name}` has {len(tensors)} tensors", source.span,
            why=f"a Metal kernel takes {MAX_BUFFERS} buffers, one of them for its scalars",
            remedy="pack tensors of one dtype and shape into one, or split the kernel",
        )  # fmt: skip
    ids = [name for name in _IDS if name in exprs.ids]
    most_threads = exprs.numbers.of_parameters(printed.threads)
    return MetalKernel(
        source, kernel, sizes, tensors, arguments.struct(), ids, body,
        exprs.helpers, exprs.made, exprs.includes, exprs.needs, most_threads,
        *(_template(merged, exprs) if merged is not None else ([], [])),
    )  # fmt: skip


def _template(merged: Merged, exprs: Expressions) -> tuple[list[str], list[str]]:
    """The parameters of a template, and the arguments for the kernel that it is printed like."""
    parameters = [f"typename {t.name}" for t in merged.types]
    arguments = [spelled(t.values[merged.like]) for t in merged.types]
    for number in merged.numbers:
        if number in exprs.numbers.used:
            kind = "short" if max(number.values) < 1 << 15 else "int"
            parameters.append(f"{kind} {exprs.numbers.names[number]}")
            arguments.append(str(number.value))
    return parameters, arguments


def _access(tensor: tile.Tensor, exprs: Expressions) -> str:
    if tensor not in exprs.written:
        return ""
    return "inout" if tensor in exprs.read else "out"


def _limits(source: tile.Kernel, kernel: ir.Kernel) -> list[KtError]:
    """What the hardware has no room for, with numbers."""
    problems = []
    if kernel.shared_bytes > SHARED_BYTES:
        largest = max(kernel.shared, key=lambda b: b.bytes)
        shape = "x".join(map(str, largest.shape))
        problems.append(
            error(
                "KT0611",
                f"`{source.name}` needs {kernel.shared_bytes} bytes of threadgroup memory",
                source.span,
                why=f"a threadgroup has {SHARED_BYTES}; the largest buffer is `{largest.name}`, "
                f"{largest.dtype.name} {shape}, {largest.bytes} bytes",
                remedy="build with smaller `block_sizes`, or fewer `num_stages`",
            )
        )
    if kernel.threads > MAX_THREADS:
        problems.append(
            error(
                "KT0612", f"`{source.name}` needs {kernel.threads} threads", source.span,
                why=f"a threadgroup has at most {MAX_THREADS}",
                remedy="build with smaller `num_warps` or `num_threads`",
            )
        )  # fmt: skip
    if len(kernel.grid) > 3:
        problems.append(
            error(
                "KT0614", f"`{source.name}` has a grid of {len(kernel.grid)} dimensions",
                source.span, why="a Metal grid has three",
                remedy="build with `pid_type` flat",
            )
        )  # fmt: skip
    return problems


def _shared(kernel: ir.Kernel, exprs: Expressions, scope: Scope) -> list[str]:
    """Declarations of threadgroup memory: arrays, or places in one block of bytes where buffers
    that are never alive together share them."""
    buffers = sorted(kernel.shared, key=lambda b: (b.offset, b.name))
    overlap = any(a.offset + a.bytes > b.offset for a, b in pairwise(buffers))
    pad = " " * INDENT
    wide = _vectors(kernel)
    lines = []
    if overlap:
        memory = scope.declare("memory")
        lines.append(f"{pad}alignas(16) threadgroup uchar {memory}[{kernel.shared_bytes}];")
    for buffer in buffers:
        name = exprs.buffers[buffer] = scope.declare(buffer.name)
        kind = exprs.type(buffer.dtype)
        shape = buffer.shape or (1,)
        count = exprs.numbers.text
        row = f"[{count(shape[-1] + buffer.pad)}]" if len(shape) > 1 else ""
        inner = "".join(f"[{count(n)}]" for n in shape[1:-1]) + row
        if not overlap:
            first = f"[{count(shape[0] + (0 if row else buffer.pad))}]"
            aligned = "alignas(16) " if buffer in wide else ""
            lines.append(f"{pad}{aligned}threadgroup {kind} {name}{first}{inner};")
            continue
        at = f"{memory} + {buffer.offset}" if buffer.offset else memory
        at = f"({at})" if buffer.offset else at
        pointer, cast = (f"(*{name}){inner}", f"(*){inner}") if inner else (f"* {name}", "*")
        lines.append(
            f"{pad}threadgroup {kind}{' ' if inner else ''}{pointer} = "
            f"(threadgroup {kind}{' ' if inner else ''}{cast}){at};"
        )
    return lines


def _vectors(kernel: ir.Kernel) -> set[ir.SharedBuffer]:
    """The buffers of which threads access more than one element at a time."""
    found = set()
    for stmt in walk(kernel.body):
        if isinstance(stmt, ir.SharedStore) and stmt.value.width > 1:
            found.add(stmt.buffer)
        elif isinstance(stmt, ir.FragmentLoad | ir.FragmentStore):
            place = stmt.source if isinstance(stmt, ir.FragmentLoad) else stmt.destination
            found |= {place} if isinstance(place, ir.SharedBuffer) else set()
    found |= {
        e.buffer for e in all_nodes(kernel.body) if isinstance(e, ir.SharedLoad) and e.width > 1
    }
    return found
