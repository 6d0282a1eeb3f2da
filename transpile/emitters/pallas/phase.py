"""One phase as text: its Pallas kernel, and the function that calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from transpile.emitters.common.layout import WIDTH, filled, render, wrap
from transpile.emitters.common.names import RESERVED as PYTHON_NAMES
from transpile.emitters.common.names import Namer, mangle
from transpile.emitters.common.tidy import tidy, used_variables
from transpile.emitters.common.tree import ATOM, Assign, Eval, Expr, Stmt, Var, blocks, ref
from transpile.emitters.pallas.body import lower_body
from transpile.emitters.pallas.call import Call
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.hostjax import LaunchPlan
from transpile.emitters.pallas.plan import Plan
from transpile.emitters.pallas.variation import General, Variation
from transpile.emitters.pallas.vmem import Needs, check
from transpile.emitters.pallas.windows import Window
from transpile.ir import ir
from transpile.ir.diagnostics import KtError
from transpile.ir.sizes import Size, Sym
from transpile.passes.schedule import Schedule

#: names a kernel must not bind: modules of the generated file and builtins that it calls
RESERVED = PYTHON_NAMES | {"jax", "jnp", "lax", "pl", "pltpu", "functools", "np"}


@dataclass(eq=False, slots=True)
class LoweredPhase:
    """A kernel and the function that calls it; their texts have ``{kernel}`` and ``{call}`` for the
    names. The launch of :mod:`hostjax`: it says what to pass and what comes back."""

    kernel_text: str
    call_text: str
    tensors: list[ir.Tensor]  # read, or modified: what the call function takes, in order
    scalars: list[str]
    numbers: list[Size]  # run-time integers
    sizes: list[Size]
    outputs: list[ir.Tensor]
    overwritten: frozenset[ir.Tensor]
    helpers: set[str]
    typed: list[ir.Tensor]  # results whose element type is an argument
    name: str = ""

    @property
    def text(self) -> str:
        """Phases with equal text share their functions."""
        return f"{self.kernel_text}\n{self.call_text}"

    def lines(self, plan: LaunchPlan, indent: int) -> list[str]:
        """``out = _add_call(x, y)``."""
        passed = [self._operand(plan, t) for t in self.tensors]
        passed += [plan.scalar(name) for name in self.scalars]
        passed += [plan.size(size) for size in (*self.numbers, *self.sizes)]
        passed += [plan.output(t).dtype for t in self.typed]
        names = ", ".join(plan.output(t).name for t in self.outputs)
        return wrap(f"{names} = {self.name}({', '.join(passed)})", indent)

    def _operand(self, plan: LaunchPlan, tensor: ir.Tensor) -> str:
        if tensor in self.outputs and (output := plan.output(tensor)).fresh:
            return f"jnp.zeros({output.shape}, {output.dtype})"
        return plan.operand(tensor)


@dataclass(eq=False, slots=True)
class Draft:
    """A phase lowered to statements, before its variables have names."""

    kernel: ir.Kernel
    schedule: Schedule
    title: str
    plan: Plan
    ctx: Context
    refs: list[Var] = field(default_factory=list)
    shared: list[Var] | None = None  # the keywords of the kernel that stands for this one

    @property
    def keywords(self) -> list[Var]:
        """Sizes that the kernel asks for."""
        if self.shared is not None:
            return self.shared
        used = used_variables(self.ctx.body)
        return [v for v in self.plan.sizes.variables.values() if v in used]

    @property
    def windows(self) -> list[Window]:
        """Those that are refs of the kernel."""
        return [*self.plan.windows.inputs, *self.plan.windows.outputs]


def draft(
    kernel: ir.Kernel,
    number: int,
    schedule: Schedule,
    general: dict[Size, General] | None = None,
    open_blocks: frozenset[Sym] = frozenset(),
) -> Draft:
    """Lower one phase; KtError with everything that this target cannot do.

    ``general`` and ``open_blocks`` are sizes and blocks that are variables though they are known.
    """
    title = kernel.name if len(kernel.phases) == 1 else f"{kernel.name}_{number + 1}"
    plan = Plan(kernel, kernel.phases[number], schedule, RESERVED, general, open_blocks)
    ctx = Context(kernel, plan.phase, plan.sizes, plan.windows)
    lower_body(ctx, plan)
    if ctx.errors:
        raise KtError(*dict.fromkeys(d for e in ctx.errors for d in e.diagnostics))
    tidy(ctx.body)
    used = used_variables(ctx.body)
    given = set(plan.windows.initial.values())  # of those in HBM the output is the same memory
    plan.windows.inputs = [
        w
        for w in plan.windows.inputs
        if w.ref in used or w.space == "prefetch" or (w.space == "hbm" and w in given)
    ]
    made = Draft(kernel, schedule, title, plan, ctx)
    made.refs = _name_refs(ctx, plan, used)
    kept = {w.ref for w in given}
    unread = [ref(v) for v in made.refs if v not in used and v not in kept]
    if unread:
        names = ", ".join(f"{{{i}}}" for i in range(len(unread)))
        delete = Expr(f"del {names}  # for the index maps", tuple(unread), (ATOM,) * len(unread))
        ctx.body.insert(0, Eval(delete))
    aliased = [ref(v) for v in made.refs if v not in used and v in kept]
    if aliased:
        names = ", ".join(f"{{{i}}}" for i in range(len(aliased)))
        delete = Expr(f"del {names}  # the results' memory", tuple(aliased), (ATOM,) * len(aliased))
        ctx.body.insert(0, Eval(delete))
    plan.name_letters()
    check(Needs(plan, ctx), kernel, schedule.arch)
    return made


def finish(made: Draft, variation: Variation | None = None) -> LoweredPhase:
    """The texts of a phase, for itself or for all signatures of a variation."""
    kernel, plan, ctx = made.kernel, made.plan, made.ctx
    if variation is None:
        variation = Variation({w.tensor.name: (w.tensor.dtype,) for w in made.windows})
    extras = [var for var, _ in variation.extras]
    call = Call(kernel, plan, ctx, made.keywords, made.title, Needs(plan, ctx), variation)
    call_text = call.text()
    Namer(ctx.body, [*made.refs, *made.keywords, *extras], RESERVED).run()
    _blank(ctx.body, used_variables(ctx.body))
    keywords = [v.name for v in (*made.keywords, *extras)]
    head = _signature("def {kernel}", [v.name for v in made.refs], keywords)
    outputs = [w.tensor for w in plan.windows.outputs]
    scalars = [s.name for s in kernel.scalars if s.name in ctx.scalars]
    return LoweredPhase(
        "\n".join([*head, *render(ctx.body)]), call_text, call.tensors, scalars,
        list(ctx.numbers), list(call.extra.values()), outputs,
        frozenset(t for t in outputs if t not in call.tensors), ctx.helpers,
        [t for t in outputs if t.name in call.choices.asked],
    )  # fmt: skip


def _blank(body: list[Stmt], used: set[Var]) -> None:
    """``_`` for parts of a tuple that nothing reads."""
    for stmt in body:
        if isinstance(stmt, Assign) and len(stmt.targets) > 1:
            for var in stmt.targets:
                var.name = var.name if var in used else "_"
        for block in blocks(stmt):
            _blank(block, used)


def _name_refs(ctx: Context, plan: Plan, used: set[Var]) -> list[Var]:
    """Refs in Pallas' order: prefetched numbers, inputs, scalars, outputs, scratch."""
    windows = plan.windows
    prefetched = [w.ref for w in windows.inputs if w.space == "prefetch"]
    rest = [w for w in windows.inputs if w.space != "prefetch"]
    ctx.scalars = {n: v for n, v in ctx.scalars.items() if v in used}
    ctx.numbers = {n: v for n, v in ctx.numbers.items() if v in used}
    refs = [
        *prefetched, *(w.ref for w in rest), *ctx.scalars.values(),
        *ctx.numbers.values(),
        *(w.ref for w in windows.outputs), *(v for v, _ in ctx.scratch),
    ]  # fmt: skip
    taken = {v.name for v in plan.sizes.variables.values()}
    for var in refs:
        var.argument = True
        var.name = mangle(var.hint, taken, RESERVED)
        taken.add(var.name)
    return refs


def _signature(head: str, parameters: list[str], keywords: list[str]) -> list[str]:
    every = [*parameters, *(["*", *keywords] if keywords else [])]
    one = f"{head}({', '.join(every)}):"
    if len(re.sub(r"\{kernel\}", "_kernel_name_here", one)) <= WIDTH:
        return [one]
    lines = [f"{head}("]
    lines += filled(parameters, 4)
    if keywords:
        lines += filled(["*", *keywords], 4)
    return [*lines, "):"]
