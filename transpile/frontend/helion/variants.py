"""Which variants of a kernel to build when no signature is stated.

A compile-time flag has a second value, and an optional argument can be absent or given. Lowering
tells which parameters it looked at, and only those are varied: what is built is every outcome of
the decisions that the source takes, not every combination of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transpile.frontend.signatures import Spec
from transpile.ir import ir
from transpile.ir.diagnostics import KtError

MAX_ATTEMPTS = 64


class WatchedNames(dict[str, Any]):
    """The names of a scope, remembering which were looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.reads.add(name)
        return super().__getitem__(name)


@dataclass(frozen=True)
class Attempt:
    """One lowering: the parameters that had their other value, what came out, and the parameters
    that were looked at."""

    chosen: frozenset[str]
    result: ir.Kernel | KtError
    reads: frozenset[str]

    @property
    def kernel(self) -> ir.Kernel | None:
        return self.result if isinstance(self.result, ir.Kernel) else None


def search(
    base: Mapping[str, Spec],
    others: Mapping[str, Any],
    lower: Callable[[dict[str, Any]], tuple[ir.Kernel | KtError, frozenset[str]]],
) -> list[Attempt]:
    """Lower ``base`` and, breadth first, its variants by the ``others`` that lowering looks at.

    A variant that fails is varied further: a branch may need an argument that another one lacks.
    One whose changed parameters were not all looked at repeats another and is dropped.
    """
    attempts: list[Attempt] = []
    queue: list[frozenset[str]] = [frozenset()]
    for chosen in queue:  # grows while it is walked
        if len(attempts) == MAX_ATTEMPTS:
            break
        spec = {**base, **{name: other for name, other in others.items() if name in chosen}}
        attempt = Attempt(chosen, *lower(spec))
        if not chosen <= attempt.reads:
            continue
        attempts.append(attempt)
        for name in others:
            if name in attempt.reads and chosen | {name} not in queue:
                queue.append(chosen | {name})
    return attempts


def lacking(attempts: list[Attempt]) -> list[tuple[str, KtError]]:
    """Parameters whose other value no kernel takes, each with what stands in the way."""
    kernels = [a for a in attempts if a.kernel is not None]
    found: dict[str, KtError] = {}
    for attempt in attempts:
        for name in sorted(attempt.chosen):
            taken = any(name in a.chosen or name not in a.reads for a in kernels)
            if isinstance(attempt.result, KtError) and not taken:
                found.setdefault(name, attempt.result)
    return list(found.items())
