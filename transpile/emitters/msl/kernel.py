"""One phase of a kernel as a Metal kernel function, with what it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from transpile.emitters.common.hostsizes import HostSizes
from transpile.emitters.msl.arguments import Arguments, Member
from transpile.emitters.msl.dtypes import NAMES
from transpile.emitters.msl.expr import Expressions
from transpile.emitters.msl.names import Scope
from transpile.emitters.msl.statements import INDENT, Statements
from transpile.ir import ir as tile
from transpile.ir.diagnostics import KtError, error
from transpile.thread import ir
from transpile.thread.walk import all_nodes, walk

SHARED_BYTES = 32 * 1024  # of threadgroup memory, on all Apple GPUs
MAX_THREADS = 1024
MAX_BUFFERS = 31

_IDS = {
    "tgid": "uint3 tgid [[threadgroup_position_in_grid]]",
    "tid": "ushort tid [[thread_index_in_threadgroup]]",
    "lane": "ushort lane [[thread_index_in_simdgroup]]",
    "sg": "ushort sg [[simdgroup_index_in_threadgroup]]",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor argument. ``access`` is "" (read), "out" or "inout"; an ``aligned`` one must begin
    at a multiple of 16 bytes."""

    name: str
    tensor: tile.Tensor
    access: str
    aligned: bool


@dataclass(eq=False, slots=True)
class MetalKernel:
    """A kernel function without its name and that of its struct, and what its launch needs."""

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
            params.append(f"{const}device {NAMES[t.tensor.dtype]}* {t.name} [[buffer({i})]]")
        if self.members:
            params.append(f"constant {struct}& params [[buffer({len(params)})]]")
        params += [_IDS[name] for name in self.ids]
        attributes = f"[[kernel, max_total_threads_per_threadgroup({self.kernel.threads})]]"
        head = f"{attributes} void {name}("
        lines = [head, *(f"    {p}," for p in params)]
        lines[-1] = lines[-1][:-1] + ") {"
        return "\n".join([*lines, *self.body, "}"])


def print_kernel(
    source: tile.Kernel, kernel: ir.Kernel, sizes: HostSizes, lines: Mapping[int, str]
) -> MetalKernel:
    """The kernel in Metal; KtError with everything that this target cannot do.

    ``lines``: the source file's lines that are worth a comment, by number.
    """
    problems = _limits(source, kernel)
    if problems:
        raise KtError(*(d for p in problems for d in p.diagnostics))
    arguments = Arguments(source, kernel, sizes)
    exprs = Expressions(arguments)
    scope = arguments.scope.inner()
    shared = _shared(kernel, exprs, scope)
    body = shared + Statements(exprs, lines).body(kernel.body, scope, INDENT)
    tensors = [
        Parameter(name, t, _access(t, exprs), t in exprs.aligned)
        for t, name in arguments.tensors.items()
    ]
    if len(tensors) + bool(arguments.members) > MAX_BUFFERS:
        raise error(
            "KT0613", f"`{source.name}` has {len(tensors)} tensors", source.span,
            why=f"a Metal kernel takes {MAX_BUFFERS} buffers, one of them for its scalars",
            remedy="pack tensors of one dtype and shape into one, or split the kernel",
        )  # fmt: skip
    ids = [name for name in _IDS if name in exprs.ids]
    return MetalKernel(
        source, kernel, sizes, tensors, arguments.struct(), ids, body,
        exprs.helpers, exprs.made, exprs.includes,
    )  # fmt: skip


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
        row = f"[{shape[-1] + buffer.pad}]" if len(shape) > 1 else ""
        inner = "".join(f"[{n}]" for n in shape[1:-1]) + row
        if not overlap:
            first = f"[{shape[0] + (0 if row else buffer.pad)}]"
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
