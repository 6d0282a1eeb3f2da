"""What a launch did to memory, counted by the executor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Accesses to one memory. An access is what one thread reads or writes at once (up to 16
    bytes); atomic operations count as a read and a write. ``segments`` are the distinct aligned 128
    bytes that the lanes of a SIMD group touch with one instruction, summed over instructions:
    bytes / 128 of them if neighbouring lanes access neighbouring memory, up to one a lane if not.
    Only device memory has them."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0
    atomics: int = 0
    segments: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.reads + other.reads,
            self.read_bytes + other.read_bytes,
            self.writes + other.writes,
            self.written_bytes + other.written_bytes,
            self.atomics + other.atomics,
            self.segments + other.segments,
        )


@dataclass(slots=True)
class Counters:
    """One launch. Barriers count once per threadgroup, or per SIMD group; products are 8x8x8."""

    kernel: str
    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    buffers: dict[str, Traffic] = field(default_factory=dict)
    constants: dict[str, Traffic] = field(default_factory=dict)
    threadgroup: Traffic = field(default_factory=Traffic)
    threadgroup_bytes: int = 0
    barriers: int = 0
    simdgroup_barriers: int = 0
    products: int = 0

    @property
    def device(self) -> Traffic:
        """All buffers together, but for those in the constant address space."""
        return sum(self.buffers.values(), Traffic())


_HEAD = (
    "kernel", "grid", "threads", "device read", "device written", "device segments",
    "threadgroup read", "threadgroup written", "barriers", "simdgroup barriers", "products",
)  # fmt: skip


def _segments(traffic: Traffic) -> str:
    """Their number, and how much of them is used."""
    used = traffic.read_bytes + traffic.written_bytes
    if not traffic.segments:
        return "-"
    return f"{traffic.segments} ({used / (128 * traffic.segments):.0%})"


def table(launches: Iterable[Counters]) -> str:
    """One line per launch, bytes in full; the buffers of a launch below it."""
    lines = [_HEAD]
    for launch in launches:
        shared, device = launch.threadgroup, launch.device
        grid, threads = ("x".join(map(str, sizes)) for sizes in (launch.groups, launch.threads))
        reads = f"{shared.reads} ({shared.read_bytes} B)"
        writes = f"{shared.writes} ({shared.written_bytes} B)"
        lines.append((
            launch.kernel, grid, threads, f"{device.read_bytes} B", f"{device.written_bytes} B",
            _segments(device), reads, writes, str(launch.barriers),
            str(launch.simdgroup_barriers), str(launch.products),
        ))  # fmt: skip
        for name, traffic in launch.buffers.items():
            read, written = f"{traffic.read_bytes} B", f"{traffic.written_bytes} B"
            segments = _segments(traffic)
            lines.append((f"  {name}", "", "", read, written, segments, "", "", "", "", ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    padded = (
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "".join(line.rstrip() + "\n" for line in padded)
