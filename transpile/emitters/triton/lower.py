"""One phase of a kernel as text: the passes, the lowering, names and layout."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.triton import host
from transpile.emitters.triton.context import Argument, Context
from transpile.emitters.triton.grid import lower_phase
from transpile.emitters.triton.layout import render
from transpile.emitters.triton.names import Namer
from transpile.emitters.triton.tidy import name_loads, tidy, used_variables
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class LoweredPhase:
    """A `@triton.jit` function without its name, and what its launch needs."""

    parameters: list[Argument]
    body: str
    grid: str
    imports: set[str]
    helpers: dict[str, str]
    tensors: list[ir.Tensor]

    @property
    def text(self) -> str:
        """Parameters and body: equal texts share one function."""
        return ", ".join(a.var.name for a in self.parameters) + "\n" + self.body


def lower(kernel: ir.Kernel, phase: ir.Phase, schedule: Schedule) -> LoweredPhase:
    """Lower one phase; KtError with everything that this target cannot do."""
    ctx = Context(kernel, phase, schedule)
    body = lower_phase(ctx)
    if ctx.errors:
        raise KtError(*(d for e in ctx.errors for d in e.diagnostics))
    tidy(body)
    name_loads(body)
    arguments = ctx.used_arguments(used_variables(body))
    Namer(body, [a.var for a in arguments]).run()
    return LoweredPhase(
        arguments,
        "\n".join(render(body)),
        host.grid(kernel, schedule, phase),
        ctx.imports,
        ctx.helpers,
        [t for t in kernel.tensors if ("tensor", t) in ctx.arguments],
    )
