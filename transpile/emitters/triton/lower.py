"""One phase of a kernel as text: lowering, names and layout."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.layout import render
from transpile.emitters.common.names import Namer, mangle
from transpile.emitters.common.tidy import name_loads, tidy, used_variables
from transpile.emitters.common.tree import Var, ref
from transpile.emitters.triton import host
from transpile.emitters.triton.arguments import RESERVED, Argument
from transpile.emitters.triton.context import Context
from transpile.emitters.triton.control import lower_block
from transpile.emitters.triton.grid import lower_phase
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
    described: list[str]  # host spellings of tensors that it accesses through descriptors
    named_loads: frozenset[int] = frozenset()  # loads with a variable for want of room
    fallback: LoweredPhase | None = None  # the same with pointers, for tensors unfit for TMA

    @property
    def text(self) -> str:
        """Parameters and body: equal texts share one function."""
        return ", ".join(a.var.name for a in self.parameters) + "\n" + self.body


def lower(
    kernel: ir.Kernel,
    phase: ir.Phase,
    schedule: Schedule,
    named_loads: frozenset[int] = frozenset(),
) -> LoweredPhase:
    """Lower one phase; KtError with everything that this target cannot do.

    ``named_loads``: loads, by ordinal, to be bound to variables as in another signature's code.
    """
    lowered = _lower(kernel, phase, schedule, named_loads, allow_blocks=True)
    if lowered.described:
        lowered.fallback = _lower(kernel, phase, schedule, named_loads, allow_blocks=False)
    return lowered


def _lower(
    kernel: ir.Kernel,
    phase: ir.Phase,
    schedule: Schedule,
    named_loads: frozenset[int],
    *,
    allow_blocks: bool,
) -> LoweredPhase:
    ctx = Context(kernel, phase, schedule, allow_blocks=allow_blocks)
    body = lower_phase(ctx)
    if ctx.errors:
        raise KtError(*(d for e in ctx.errors for d in e.diagnostics))
    tidy(body)
    named = name_loads(body, named_loads)
    arguments = ctx.used_arguments(used_variables(body))
    Namer(body, [a.var for a in arguments], RESERVED).run()
    return LoweredPhase(
        arguments,
        "\n".join(render(body)),
        host.grid(kernel, schedule, phase),
        ctx.imports,
        ctx.helpers,
        list(dict.fromkeys(ctx.described)),
        named,
    )


def function_body(outer: Context, block: ir.Block) -> tuple[list[str], str]:
    """Parameters and body of a jit function that computes a block of scalars."""
    phase = ir.Phase((), ir.Block(block.params, block.ops, block.yields), -1)
    ctx = Context(outer.kernel, phase, outer.schedule)
    params: list[Var] = []
    for value in block.params:
        var = Var(value.name or "", argument=True)
        hint = value.name or "abcdefgh"[len(params) % 8]
        var.name = mangle(hint, [p.name for p in params], RESERVED)
        params.append(var)
        ctx.values[value] = ref(var, value.dtype, value.shape)
    lower_block(ctx, block)
    if ctx.errors:
        raise ctx.errors[0]
    results = [ctx.coerce(ctx.expr(v), v.tile) for v in block.yields]
    if ctx.arguments:
        raise outer.unsupported(
            "a combine function that reads sizes or tensors of the kernel", None,
            "it is a function of its own in Triton",
        )  # fmt: skip
    tidy(ctx.body)
    Namer(ctx.body, params, RESERVED).run()
    outer.imports |= ctx.imports
    outer.helpers |= ctx.helpers
    lines = render(ctx.body) if ctx.body else []
    lines.append("    return " + ", ".join(r.text() for r in results))
    return [p.name for p in params], "\n".join(lines)
