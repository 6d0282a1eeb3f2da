"""Arguments of a launch as the executor's buffers: each tensor's bytes alone in its own room."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transpile.verify.msl.parameters import Parameter

ALIGNMENT = 256  # of a device allocation


@dataclass(slots=True)
class Span:
    """Bytes from ``start`` on; what several buffers share is one span."""

    start: int
    size: int
    offset: int  # of the start in its allocation, modulo ALIGNMENT
    item: int  # size of an element
    read_only: bool
    coherent: bool
    buffers: dict[int, str]
    owner: Any  # keeps the memory alive
    name: bytes = b""  # "buffer 0 (x)"; the runtime keeps a pointer to it

    def __post_init__(self) -> None:
        self._rename()

    def share(self, other: Span) -> None:
        """Take in a span that begins inside of this one."""
        self.size = max(self.size, other.start + other.size - self.start)
        self.item = min(self.item, other.item)
        self.read_only &= other.read_only
        self.coherent |= other.coherent
        self.buffers = dict(sorted((self.buffers | other.buffers).items()))
        self._rename()

    def _rename(self) -> None:
        many = "s" if len(self.buffers) > 1 else ""
        indices = " and ".join(map(str, self.buffers))
        self.name = f"buffer{many} {indices} ({self.label})".encode()

    @property
    def label(self) -> str:
        """The parameters' names."""
        return ", ".join(self.buffers.values())


def spans(buffers: Sequence[Any], parameters: Mapping[int, Parameter]) -> list[Span]:
    """The distinct pieces of memory among the arguments. A tensor's span goes from its first to its
    last addressed element."""
    found = [_span(index, value, parameters[index]) for index, value in enumerate(buffers)]
    merged: list[Span] = []
    for span in sorted(found, key=lambda s: s.start):
        last = merged[-1] if merged else None
        if last is not None and span.start < last.start + last.size:
            last.share(span)
        else:
            merged.append(span)
    return sorted(merged, key=lambda s: min(s.buffers))


def _span(index: int, value: Any, parameter: Parameter) -> Span:
    named = {index: parameter.name}
    constant = parameter.space == "constant"
    if isinstance(value, bytes):
        kept = ctypes.create_string_buffer(value, max(len(value), 1))
        start = ctypes.addressof(kept)
        return Span(start, len(value), 0, 1, constant, False, named, kept)
    last = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    item = value.element_size()
    size = (last + 1) * item if value.numel() else 0
    start = value.data_ptr()
    offset = (start - value.untyped_storage().data_ptr()) % ALIGNMENT
    return Span(start, size, offset, item, constant, parameter.coherent, named, value)
