"""Memory of the thread interpreter, and the order that barriers give to its accesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transpile.ir.dtypes import DType
from transpile.ir.reference import numerics
from transpile.ir.reference.memory import atomic_update

_STAND_INS = {
    torch.float8_e4m3fn: torch.uint8, torch.float8_e5m2: torch.uint8, torch.uint16: torch.int16,
    torch.uint32: torch.int32, torch.uint64: torch.int64,
}  # fmt: skip


def bits(tensor: Tensor) -> Tensor:
    """Dtypes that torch cannot index or select as integers that it can."""
    stand_in = _STAND_INS.get(tensor.dtype)
    return tensor if stand_in is None else tensor.view(stand_in)


class Order:
    """How many barriers each thread has passed, by what they order."""

    def __init__(self, threads: int, simd: int, numbers: Tensor) -> None:
        self.threads, self.simd = threads, simd
        self.group = numbers // threads
        self.simdgroup = numbers // simd
        zeros = torch.zeros_like(numbers)
        self.passed = {
            (scope, memory): zeros.clone()
            for scope in ("group", "simdgroup")
            for memory in ("shared", "device")
        }

    def barrier(self, active: Tensor, scope: str, *, shared: bool, device: bool) -> None:
        """The active threads pass a barrier."""
        for memory, ordered in (("shared", shared), ("device", device)):
            if ordered:
                whole = scope == "group" or self.threads == self.simd
                for level in ("group", "simdgroup") if whole else ("simdgroup",):
                    self.passed[level, memory] = self.passed[level, memory] + active.long()

    def unordered(self, memory: str, before: Trace, at: Tensor, thread: Tensor) -> Tensor:
        """For elements ``at`` accessed by ``thread`` now: whether the access noted before was
        another thread's and no barrier came between."""
        other = before.thread[at]
        noted = other != _NOBODY
        several = other == _SEVERAL
        who = torch.where(noted & ~several, other, thread)
        apart = (who != thread) | several
        same_group = before.group[at] == self.group[thread]
        behind_group = before.group_count[at] < self.passed["group", memory][thread]
        same_simd = ~several & (self.simdgroup[who] == self.simdgroup[thread])
        behind_simd = before.simd_count[at] < self.passed["simdgroup", memory][thread]
        ordered = same_group & (behind_group | (same_simd & behind_simd))
        return noted & apart & ~ordered


_NOBODY, _SEVERAL = -1, -2


@dataclass
class Trace:
    """The last access of each element: by which thread (or several), after how many barriers."""

    thread: Tensor
    group: Tensor
    group_count: Tensor
    simd_count: Tensor

    @classmethod
    def of(cls, elements: int) -> Trace:
        empty = torch.zeros(elements, dtype=torch.int64)
        return cls(torch.full_like(empty, _NOBODY), empty, empty.clone(), empty.clone())

    def note(self, order: Order, memory: str, at: Tensor, thread: Tensor) -> None:
        """These threads access these elements."""
        group = order.group[thread]
        count = order.passed["group", memory][thread]
        known = (self.thread[at] != _NOBODY) & (self.thread[at] != thread)
        known &= (self.group[at] == group) & (self.group_count[at] == count)
        self.thread[at] = torch.where(known, torch.full_like(thread, _SEVERAL), thread)
        repeated = self.thread[at] != thread  # several threads in this very access
        self.thread[at[repeated]] = _SEVERAL
        self.group[at] = group
        self.group_count[at] = count
        self.simd_count[at] = order.passed["simdgroup", memory][thread]


@dataclass
class Memory:
    """Flat memory: a tensor's, or a shared buffer of all groups one after the other."""

    name: str
    kind: str
    data: Tensor
    order: Order
    writes: Trace
    reads: Trace
    written: Tensor | None = None
    constant: bool = False  # nothing writes it
    begin: int = 0  # where its elements begin among those of the traces

    @classmethod
    def of_tensor(cls, name: str, tensor: Tensor, order: Order) -> Memory:
        span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        span = 0 if tensor.numel() == 0 else span
        flat = torch.as_strided(tensor, (span,), (1,), tensor.storage_offset())
        return cls(name, "device", flat, order, Trace.of(span), Trace.of(span))

    @classmethod
    def of_group(cls, name: str, elements: int, dtype: DType, groups: int, order: Order) -> Memory:
        total = elements * groups
        data = numerics.full((total,), numerics.poison(dtype) if not dtype.is_bool else True, dtype)
        written = torch.zeros(total, dtype=torch.bool)
        return cls(name, "shared", data, order, Trace.of(total), Trace.of(total), written)

    def _reached(self, offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The elements accessed and the threads that do, checked for bounds."""
        threads = mask.nonzero().flatten()
        at = offset[threads]
        if at.numel() and (int(at.min()) < 0 or int(at.max()) >= self.data.numel()):
            raise ValueError(f"{self.name} accessed at {int(at.min())} .. {int(at.max())}")
        return at, threads

    def _ordered(self, trace: Trace, at: Tensor, threads: Tensor, what: str) -> None:
        wrong = self.order.unordered(self.kind, trace, at + self.begin, threads)
        if bool(wrong.any()):
            element, thread = int(at[wrong][0]), int(threads[wrong][0])
            other = int(trace.thread[element + self.begin])
            raise ValueError(
                f"{what} of {self.name}[{element}] by threads {other} and {thread} without a "
                "barrier between"
            )

    def load(self, offset: Tensor, mask: Tensor) -> Tensor:
        """The elements for all threads; 0 where the mask is false."""
        at, threads = self._reached(offset, mask)
        if self.written is not None and not bool(self.written[at].all()):
            raise ValueError(f"{self.name} read where nothing was written")
        if not self.constant:
            self._ordered(self.writes, at, threads, "a write and a read")
            self.reads.note(self.order, self.kind, at + self.begin, threads)
        result = torch.zeros(mask.numel(), dtype=self.data.dtype)
        bits(result)[threads] = bits(self.data)[at]
        return result

    def store(self, offset: Tensor, value: Tensor, mask: Tensor) -> None:
        """Write the elements of the threads where the mask is true."""
        at, threads = self._reached(offset, mask)
        if at.unique().numel() != at.numel():
            raise ValueError(f"two threads write the same element of {self.name}")
        self._ordered(self.writes, at, threads, "two writes")
        self._ordered(self.reads, at, threads, "a read and a write")
        self.writes.note(self.order, self.kind, at + self.begin, threads)
        bits(self.data)[at] = bits(value.expand(mask.numel()))[threads]
        if self.written is not None:
            self.written[at] = True

    def atomic(self, kind: str, offset: Tensor, mask: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Thread after thread; the old values."""
        update = atomic_update(kind)
        at, threads = self._reached(offset, mask)
        old = torch.zeros(mask.numel(), dtype=self.data.dtype)
        picked = [o[threads] for o in operands]
        if at.unique().numel() == at.numel():
            old[threads] = self.data[at]
            self.data[at] = update(self.data[at], *picked)
            return old
        for number, (element, thread) in enumerate(zip(at.tolist(), threads.tolist(), strict=True)):
            old[thread] = self.data[element]
            self.data[element] = update(self.data[element], *(p[number] for p in picked))
        return old


def share_traces(memories: Sequence[tuple[Memory, Tensor]]) -> None:
    """Accesses of tensors that are views of one storage are noted together."""
    views: dict[tuple[int, int], list[tuple[Memory, Tensor]]] = {}
    for memory, tensor in memories:
        storage = tensor.untyped_storage().data_ptr(), tensor.element_size()
        views.setdefault(storage, []).append((memory, tensor))
    for found in views.values():
        if len(found) > 1:
            ends = (tensor.storage_offset() + memory.data.numel() for memory, tensor in found)
            elements = max(ends)
            writes, reads = Trace.of(elements), Trace.of(elements)
            constant = all(memory.constant for memory, _ in found)
            for memory, tensor in found:
                memory.writes, memory.reads = writes, reads
                memory.begin, memory.constant = tensor.storage_offset(), constant
