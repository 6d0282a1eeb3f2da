"""Where shared buffers lie: side by side while that fits, else sharing bytes by lifetime."""

from __future__ import annotations

from transpile.ir.diagnostics import error
from transpile.thread import ir
from transpile.thread.ir import Body, Kernel, SharedBuffer, Stmt
from transpile.thread.limits import Limits
from transpile.thread.walk import bodies, expressions, nodes

_ALIGNMENT = 16


def plan_shared(kernel: Kernel, limits: Limits) -> None:
    """Give each buffer its offset. Buffers of their own need no barrier between uses of one and
    of the next, so bytes are shared only where the target's memory is too small otherwise.

    Raises KtError KT0606 where it is too small even so.
    """
    kernel.shared = tuple(b for b in kernel.shared if b in lifetimes(kernel.body))
    offset = 0
    for buffer in kernel.shared:
        buffer.offset = offset
        offset += _rounded(buffer.bytes)
    if kernel.shared_bytes > limits.shared_bytes:
        _share(kernel)
    if kernel.shared_bytes > limits.shared_bytes:
        parts = ", ".join(f"{b.name} {b.bytes}" for b in kernel.shared)
        raise error(
            "KT0606",
            f"{kernel.name} needs {kernel.shared_bytes} bytes of shared memory",
            kernel.span,
            why=f"the {limits.name} target has {limits.shared_bytes} ({parts})",
            remedy="use smaller `block_sizes` or fewer `num_stages`",
        )


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _share(kernel: Kernel) -> None:
    """The largest buffers first, each at the lowest place that is free while it is alive."""
    alive = lifetimes(kernel.body)
    placed: list[SharedBuffer] = []
    for buffer in sorted(kernel.shared, key=lambda b: -b.bytes):
        begin, end = alive[buffer]
        rivals = [b for b in placed if alive[b][0] <= end and begin <= alive[b][1]]
        buffer.offset = 0
        for rival in sorted(rivals, key=lambda b: b.offset):
            if rival.offset < buffer.offset + _rounded(buffer.bytes):
                buffer.offset = max(buffer.offset, rival.offset + _rounded(rival.bytes))
        placed.append(buffer)


def lifetimes(body: Body) -> dict[SharedBuffer, tuple[int, int]]:
    """First and last statement that uses each buffer; all of a loop that does."""
    found: dict[SharedBuffer, tuple[int, int]] = {}
    _visit(body, 0, found)
    return found


def _visit(body: Body, at: int, found: dict[SharedBuffer, tuple[int, int]]) -> int:
    for stmt in body:
        at += 1
        begin = at
        inner: dict[SharedBuffer, tuple[int, int]] = dict.fromkeys(buffers_of(stmt), (at, at))
        for part in bodies(stmt):
            at = _visit(part, at, inner)
        for buffer, (first, last) in inner.items():
            if isinstance(stmt, ir.For | ir.While):
                first, last = begin, at  # noqa: PLW2901
            known = found.get(buffer, (first, last))
            found[buffer] = min(first, known[0]), max(last, known[1])
    return at


def buffers_of(stmt: Stmt) -> list[SharedBuffer]:
    """The buffers that a statement itself uses, in order."""
    used = [
        getattr(stmt, name)
        for name in ("buffer", "source", "destination")
        if isinstance(getattr(stmt, name, None), SharedBuffer)
    ]
    for expr in expressions(stmt):
        used += [e.buffer for e in nodes(expr) if isinstance(e, ir.SharedLoad)]
    return list(dict.fromkeys(used))
