"""What a target allows and prefers: the only thing thread lowering knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.thread.dot_layout import MatrixUnit


@dataclass(frozen=True)
class Limits:
    """Sizes in threads, bytes and elements.

    ``name`` is for messages. ``vector_bytes`` and ``vector_elements`` bound vector accesses;
    ``unaligned_vectors`` says that a vector may start at any element. ``registers`` is how many
    elements of one tile a thread may hold; ``row`` the longest run-time dimension that is kept in
    registers whole; ``matrices`` the target's product of small matrices. ``uniform``: numbers that
    follow from the element type or from ``row`` are open (:mod:`transpile.thread.named`).
    """

    name: str
    max_threads: int = 1024
    simd: int = 32
    shared_bytes: int = 32 * 1024
    vector_bytes: int = 16
    vector_elements: int = 4
    unaligned_vectors: bool = True
    registers: int = 256
    matrices: MatrixUnit | None = None
    row: int = 4096
    uniform: bool = False

    def vector(self, bits: int) -> int:
        """Elements of ``bits`` bits in the widest vector."""
        return min(self.vector_elements, self.vector_bytes * 8 // max(8, bits))
