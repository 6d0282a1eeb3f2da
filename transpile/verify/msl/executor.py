"""Runs kernels of an MSL module on the CPU, every access checked.

The state of the runtime is global: one launch at a time in a process. A kernel that overruns its
stack takes the process with it, so proofs run in worker processes.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transpile.verify.msl import prepass, toolchain
from transpile.verify.msl.counters import Counters, Traffic
from transpile.verify.msl.inlined import InlineTable
from transpile.verify.msl.lexer import MslSyntaxError
from transpile.verify.msl.lines import LineTable
from transpile.verify.msl.memory import Span, spans
from transpile.verify.msl.parameters import ATTRIBUTES, MOST_BUFFERS

Three = tuple[int, int, int]
MOST_THREADS = 1024

#: bytes of the scalars that a buffer parameter may be declared with
_SCALARS = {
    "bool": 1, "char": 1, "uchar": 1, "int8_t": 1, "uint8_t": 1, "short": 2, "ushort": 2,
    "int16_t": 2, "uint16_t": 2, "half": 2, "bfloat": 2, "int": 4, "uint": 4, "int32_t": 4,
    "uint32_t": 4, "float": 4, "long": 8, "ulong": 8, "int64_t": 8, "uint64_t": 8,
}  # fmt: skip


class ExecutionError(RuntimeError):
    """A kernel did what it must not do; the message has the place."""


class _Launch(ctypes.Structure):
    """``Launch`` of the runtime."""

    _fields_ = [
        ("entry", ctypes.c_void_p), ("image_first", ctypes.c_void_p),
        ("image_end", ctypes.c_void_p), ("groups", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3), ("reversed", ctypes.c_int),
        ("barriers", ctypes.c_uint64), ("simdgroup_barriers", ctypes.c_uint64),
        ("products", ctypes.c_uint64), ("exchanges", ctypes.c_uint64),
    ]  # fmt: skip


class _Traffic(ctypes.Structure):
    """``Counters`` of the runtime."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("reads", "read_bytes", "writes", "written_bytes", "atomics", "segments")
    ]


@functools.cache
def _runtime() -> Any:
    ctypes.CDLL("libm.so.6", mode=ctypes.RTLD_GLOBAL)  # modules call its functions
    runtime = ctypes.CDLL(toolchain.build_runtime(), mode=ctypes.RTLD_GLOBAL)
    runtime.kt_add_buffer.restype = ctypes.c_void_p
    runtime.kt_add_buffer.argtypes = [
        ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, ctypes.c_int,
        ctypes.c_char_p,
    ]  # fmt: skip
    runtime.kt_counters.restype = ctypes.POINTER(_Traffic)
    runtime.kt_counters.argtypes = [ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint64)]
    runtime.kt_launch.restype = ctypes.c_char_p
    runtime.kt_launch.argtypes = [ctypes.POINTER(_Launch), ctypes.c_void_p]
    return runtime


class Module:
    """A compiled MSL source. Raises SyntaxError where it is not accepted.

    ``constants`` are values of function constants by index; ``only`` restricts the entry points.
    """

    def __init__(
        self,
        source: str,
        *,
        house_style: bool = True,
        constants: Mapping[int, bool | int | float] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        try:
            translation = prepass.translate(source, house_style)
        except MslSyntaxError as exc:
            raise SyntaxError(f"line {exc.lineno}: {exc}") from None
        if translation.problems:
            texts = [f"line {p.line}: {p.message}" for p in translation.problems]
            raise SyntaxError("; ".join(texts))
        self.source = source
        kernels = translation.kernels
        self.kernels = {n: k for n, k in kernels.items() if only is None or n in only}
        defines = [
            f"-D{c.macro}={_literal((constants or {}).get(c.index, 0))}"
            for c in translation.constants
        ]
        text = f'#line 1 "{toolchain.SOURCE_NAME}"\n{translation.text}\n#line 1 "entries"\n'
        text += "".join(map(_entry, self.kernels.values()))
        try:
            self.path = toolchain.build_module(text, defines)
        except toolchain.ToolError as exc:
            raise SyntaxError(str(exc)) from None
        _runtime()
        self.library = ctypes.CDLL(self.path)
        self.image = ctypes.c_void_p(), ctypes.c_void_p()
        self.library.kt_image(*map(ctypes.byref, self.image))

    @functools.cached_property
    def _lines(self) -> tuple[LineTable, InlineTable]:
        return LineTable(self.path), InlineTable(self.path)

    def launch(
        self,
        name: str,
        buffers: Sequence[Any],
        groups: Three,
        threads: Three,
        *,
        reverse: bool = False,
    ) -> Counters:
        """Run a kernel on torch tensors (their memory is updated) and bytes, by buffer index.

        ``reverse`` takes threads and threadgroups from the last to the first. Raises
        ExecutionError; the tensors then keep what they held.
        """
        kernel = self.kernels[name]
        self._check_call(kernel, buffers, threads)
        by_index = {p.buffer: p for p in kernel.parameters if p.buffer is not None}
        pieces = spans(buffers, by_index)
        runtime = _runtime()
        try:
            places, pointers = _bring_in(pieces, buffers)
            call = _Launch(
                entry=ctypes.cast(self.library[_symbol(name)], ctypes.c_void_p).value,
                image_first=self.image[0].value, image_end=self.image[1].value,
                groups=groups, threads=threads, reversed=reverse,
            )  # fmt: skip
            failure = runtime.kt_launch(ctypes.byref(call), pointers)
            if failure is not None:
                raise ExecutionError(f"{name}: {self._placed(failure.decode())}")
            for piece, place in zip(pieces, places, strict=True):
                if not piece.read_only:
                    ctypes.memmove(piece.start, place, piece.size)
            return _counted(kernel.name, groups, threads, pieces, call)
        finally:
            runtime.kt_drop_buffers()

    def _check_call(self, kernel: prepass.Kernel, buffers: Sequence[Any], threads: Three) -> None:
        wanted = sorted(p.buffer for p in kernel.parameters if p.buffer is not None)
        if wanted != list(range(len(buffers))):
            raise ExecutionError(f"{kernel.name}: has buffers {wanted}, is given {len(buffers)}")
        for p in kernel.parameters:
            if p.attribute == "threadgroup":
                raise ExecutionError(f"{kernel.name}: `{p.name}` has no size: [[threadgroup(n)]]")
            if p.buffer is None or isinstance(buffers[p.buffer], bytes):
                continue
            tensor, size = buffers[p.buffer], _SCALARS.get(p.type)
            if size is not None and size != tensor.element_size():
                raise ExecutionError(
                    f"{kernel.name}: buffer {p.buffer} is a tensor of {tensor.dtype}, "
                    f"`{p.name}` points to {p.type}"
                )
        count = threads[0] * threads[1] * threads[2]
        if not 0 < count <= kernel.max_threads:
            raise ExecutionError(
                f"{kernel.name}: {count} threads in a threadgroup, at most {kernel.max_threads}"
            )

    def _placed(self, message: str) -> str:
        """Lines in place of addresses, and the kernel's line that led to the first."""
        lines, inlined = self._lines
        name = toolchain.SOURCE_NAME

        def place(match: re.Match[str]) -> str:
            address = int(match.group(1), 16)
            calls = "".join(f" from {n}" for n in inlined.callers(address, lines.number(name)))
            return f"at line {lines.line(address, name) or '?'}{calls}"

        message = re.sub(r"@([0-9a-f]+)", place, message)
        first = re.search(r"at line (\d+)((?: from \d+)*)", message)
        if first is None:
            return message
        number = int(first.group(2).split()[-1] if first.group(2) else first.group(1))
        return f"{message}; line {number}: `{self.source.splitlines()[number - 1].strip()}`"


def _literal(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _symbol(name: str) -> str:
    return f"kt_entry_{name}"


def _entry(kernel: prepass.Kernel) -> str:
    """A function of C++ that calls the kernel for one thread; types come from its declaration."""
    arguments = []
    for i, p in enumerate(kernel.parameters):
        type_ = f"F::parameter<{i}>"
        if p.buffer is not None:
            arguments.append(f"kt::pointer<{type_}>::to(t->buffers[{p.buffer}])")
        elif p.attribute == "threadgroup":
            arguments.append(f"kt::pointer<{type_}>::to(nullptr)")
        else:
            row = ATTRIBUTES[p.attribute or ""][0]
            arguments.append(f"kt::attribute<{type_}>(t->values[{row}])")
    return (
        'extern "C" __attribute__((visibility("default"))) KT_UNCHECKED void '
        f"{_symbol(kernel.name)}(const kt_thread *t) {{ "
        f"using F = kt::signature<decltype({kernel.call})>; "
        f"{kernel.call}({', '.join(arguments)}); }}\n"
    )


def _bring_in(pieces: Sequence[Span], buffers: Sequence[Any]) -> tuple[list[int], Any]:
    """Copy the pieces into the runtime's memory: their addresses, and each buffer's."""
    places: list[int] = []
    pointers = (ctypes.c_void_p * MOST_BUFFERS)()
    starts = [None if isinstance(value, bytes) else value.data_ptr() for value in buffers]
    for piece in pieces:
        shift = min(piece.item, 4).bit_length() - 1
        place = _runtime().kt_add_buffer(
            piece.size, piece.offset, shift, piece.read_only, piece.coherent, piece.name
        )
        ctypes.memmove(place, piece.start, piece.size)
        places.append(place)
        for index in piece.buffers:
            start = starts[index]
            pointers[index] = place + (0 if start is None else start - piece.start)
    return places, pointers


def _counted(
    name: str, groups: Three, threads: Three, pieces: Sequence[Span], call: _Launch
) -> Counters:
    found = Counters(
        name, groups, threads, barriers=call.barriers,
        simdgroup_barriers=call.simdgroup_barriers, products=call.products,
    )  # fmt: skip
    size, index = ctypes.c_uint64(), 0
    while traffic := _runtime().kt_counters(index, ctypes.byref(size)):
        values = traffic.contents
        counted = Traffic(*(getattr(values, field[0]) for field in _Traffic._fields_))
        if index < len(pieces):
            piece = pieces[index]
            (found.constants if piece.read_only else found.buffers)[piece.label] = counted
        else:
            found.threadgroup += counted
            found.threadgroup_bytes += size.value
        index += 1
    return found
