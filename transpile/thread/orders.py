"""Memory of the thread interpreter, and the order that barriers give to its accesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transpile.ir.dtypes import DType
from transpile.thread import numerics


class Order:
    """How many barriers each thread has passed, by what they order."""

    def __init__(self, threads: int, simd: int, numbers: np.ndarray) -> None:
        self.threads, self.simd = threads, simd
        self.group = numbers // threads
        self.simdgroup = numbers // simd
        zeros = np.zeros_like(numbers)
        self.passed = {
            (scope, memory): zeros.copy()
            for scope in ("group", "simdgroup")
            for memory in ("shared", "device")
        }

    def barrier(self, active: np.ndarray, scope: str, *, shared: bool, device: bool) -> None:
        """The active threads pass a barrier."""
        for memory, ordered in (("shared", shared), ("device", device)):
            if ordered:
                whole = scope == "group" or self.threads == self.simd
                for level in ("group", "simdgroup") if whole else ("simdgroup",):
                    self.passed[level, memory] = self.passed[level, memory] + active

    def unordered(
        self, memory: str, before: Trace, at: np.ndarray, thread: np.ndarray
    ) -> np.ndarray:
        """For elements ``at`` accessed by ``thread`` now: whether the access noted before was
        another thread's and no barrier came between."""
        other = before.thread[at]
        noted = other != _NOBODY
        several = other == _SEVERAL
        who = np.where(noted & ~several, other, thread)
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

    thread: np.ndarray
    group: np.ndarray
    group_count: np.ndarray
    simd_count: np.ndarray

    @classmethod
    def of(cls, elements: int) -> Trace:
        empty = np.zeros(elements, np.int64)
        return cls(np.full_like(empty, _NOBODY), empty, empty.copy(), empty.copy())

    def note(self, order: Order, memory: str, at: np.ndarray, thread: np.ndarray) -> None:
        """These threads access these elements."""
        group = order.group[thread]
        count = order.passed["group", memory][thread]
        known = (self.thread[at] != _NOBODY) & (self.thread[at] != thread)
        known &= (self.group[at] == group) & (self.group_count[at] == count)
        self.thread[at] = np.where(known, np.full_like(thread, _SEVERAL), thread)
        repeated = self.thread[at] != thread  # several threads in this very access
        self.thread[at[repeated]] = _SEVERAL
        self.group[at] = group
        self.group_count[at] = count
        self.simd_count[at] = order.passed["simdgroup", memory][thread]


@dataclass
class Memory:
    """Flat memory: a tensor's, or a shared buffer of all groups one after the other.

    ``data`` is what stands in memory; values come and go as they are held
    (:mod:`transpile.thread.numerics`).
    """

    name: str
    kind: str
    dtype: DType
    data: np.ndarray
    order: Order
    writes: Trace
    reads: Trace
    written: np.ndarray | None = None
    constant: bool = False  # nothing writes it
    begin: int = 0  # where its elements begin among those of the traces

    @classmethod
    def of_tensor(cls, name: str, array: np.ndarray, dtype: DType, order: Order) -> Memory:
        if array.dtype != numerics.stored(dtype):
            raise ValueError(f"{name} is an array of {array.dtype}, not {numerics.stored(dtype)}")
        size = array.itemsize
        span = 1 + sum((n - 1) * s // size for n, s in zip(array.shape, array.strides, strict=True))
        span = 0 if array.size == 0 else span
        flat = np.lib.stride_tricks.as_strided(array, (span,), (size,))
        return cls(name, "device", dtype, flat, order, Trace.of(span), Trace.of(span))

    @classmethod
    def of_group(cls, name: str, elements: int, dtype: DType, groups: int, order: Order) -> Memory:
        total = elements * groups
        poison = numerics.full((total,), numerics.poison(dtype), dtype)
        data = numerics.encoded(poison, dtype)
        written = np.zeros(total, np.bool_)
        return cls(name, "shared", dtype, data, order, Trace.of(total), Trace.of(total), written)

    def _reached(self, offset: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The elements accessed and the threads that do, checked for bounds."""
        threads = np.flatnonzero(mask)
        at = offset[threads]
        if at.size and (int(at.min()) < 0 or int(at.max()) >= self.data.size):
            raise ValueError(f"{self.name} accessed at {int(at.min())} .. {int(at.max())}")
        return at, threads

    def _ordered(self, trace: Trace, at: np.ndarray, threads: np.ndarray, what: str) -> None:
        wrong = self.order.unordered(self.kind, trace, at + self.begin, threads)
        if wrong.any():
            element, thread = int(at[wrong][0]), int(threads[wrong][0])
            other = int(trace.thread[element + self.begin])
            raise ValueError(
                f"{what} of {self.name}[{element}] by threads {other} and {thread} without a "
                "barrier between"
            )

    def load(self, offset: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The elements for all threads; 0 where the mask is false."""
        at, threads = self._reached(offset, mask)
        if self.written is not None and not self.written[at].all():
            raise ValueError(f"{self.name} read where nothing was written")
        if not self.constant:
            self._ordered(self.writes, at, threads, "a write and a read")
            self.reads.note(self.order, self.kind, at + self.begin, threads)
        result = np.zeros(mask.size, numerics.held(self.dtype))
        result[threads] = numerics.decoded(self.data[at], self.dtype)
        return result

    def store(self, offset: np.ndarray, value: np.ndarray, mask: np.ndarray) -> None:
        """Write the elements of the threads where the mask is true."""
        at, threads = self._reached(offset, mask)
        if np.unique(at).size != at.size:
            raise ValueError(f"two threads write the same element of {self.name}")
        self._ordered(self.writes, at, threads, "two writes")
        self._ordered(self.reads, at, threads, "a read and a write")
        self.writes.note(self.order, self.kind, at + self.begin, threads)
        piece = np.broadcast_to(value, (mask.size,))[threads]
        self.data[at] = numerics.encoded(piece, self.dtype)
        if self.written is not None:
            self.written[at] = True

    def atomic(
        self, kind: str, offset: np.ndarray, mask: np.ndarray, operands: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Thread after thread; the old values."""
        at, threads = self._reached(offset, mask)
        old = np.zeros(mask.size, numerics.held(self.dtype))
        if np.unique(at).size == at.size:
            old[threads] = self._update(kind, at, [o[threads] for o in operands])
            return old
        for number, thread in enumerate(threads):
            one = slice(thread, thread + 1)
            old[one] = self._update(kind, at[number : number + 1], [o[one] for o in operands])
        return old

    def _update(self, kind: str, at: np.ndarray, operands: Sequence[np.ndarray]) -> np.ndarray:
        """Apply an atomic to distinct elements; the old values."""
        old = numerics.decoded(self.data[at], self.dtype)
        new = operands[0]
        if kind == "cas":
            new = np.where(old == operands[1], new, old)
        elif kind != "xchg":
            new = numerics.elementwise(_ATOMICS.get(kind, kind), (old, new), self.dtype)
        self.data[at] = numerics.encoded(new, self.dtype)
        return old


_ATOMICS = {"max": "maximum", "min": "minimum"}  # the others have the operation's name


def share_traces(memories: Sequence[Memory]) -> None:
    """Accesses of tensors that overlap in memory are noted together."""
    group: list[Memory] = []
    end = 0
    for memory in sorted(memories, key=_address):
        if group and _address(memory) < end and memory.data.itemsize == group[0].data.itemsize:
            group.append(memory)
        else:
            _share(group)
            group, end = [memory], 0
        end = max(end, _address(memory) + memory.data.nbytes)
    _share(group)


def _address(memory: Memory) -> int:
    return int(memory.data.__array_interface__["data"][0])


def _share(group: Sequence[Memory]) -> None:
    if len(group) < 2:
        return
    for memory in group:
        memory.begin = (_address(memory) - _address(group[0])) // memory.data.itemsize
    elements = max(memory.begin + memory.data.size for memory in group)
    writes, reads = Trace.of(elements), Trace.of(elements)
    constant = all(memory.constant for memory in group)
    for memory in group:
        memory.writes, memory.reads, memory.constant = writes, reads, constant
