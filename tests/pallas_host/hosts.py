"""Host functions of small kernels, with launches that only say what they pass and bind."""

from __future__ import annotations

import textwrap
from pathlib import Path

from transpile import build as pipeline
from transpile.emitters.common.hostfunctions import tags
from transpile.emitters.common.layout import wrap
from transpile.emitters.pallas import hostjax
from transpile.emitters.pallas.hostjax_variants import host_functions
from transpile.ir import ir
from transpile.passes.schedule import resolve

HEAD = "import torch\nimport helion\nimport helion.language as hl\n\n\n"


class Call:
    """``out = _call(x)``; structs of fresh outputs are passed by name."""

    def __init__(self, kernel: ir.Kernel, phase: int, overwritten: bool, tag: str) -> None:
        self.phase = phase
        self.name = f"_call_{phase}{tag}"
        written = [op.tensor for op in kernel.phases[phase].body.ops if isinstance(op, ir.Store)]
        self.overwritten = frozenset(written if overwritten else ())

    def lines(self, plan: hostjax.LaunchPlan, indent: int) -> list[str]:
        outputs = [plan.output(t) for t in plan.program.written[self.phase]]
        fresh = [o.tensor for o in outputs if o.fresh]
        passed = [plan.operand(t) for t in plan.tensors if t not in fresh]
        passed += [plan.scalar(s.name) for s in plan.program.kernel.scalars]
        passed += [f"{o.tensor.name}={o.struct}" for o in outputs if o.fresh]
        names = ", ".join(o.name for o in outputs)
        return wrap(f"{names} = {self.name}({', '.join(passed)})", indent)


def load(tmp_path: Path, source: str, signatures: list[dict[str, str]]) -> list[ir.Kernel]:
    """The one kernel of a source text, for each signature."""
    path = tmp_path / "source.py"
    path.write_text(HEAD + textwrap.dedent(source))
    options = [pipeline.BuildOptions(args=args) for args in signatures]
    return [kernel for one in options for kernel in pipeline.load(str(path), one).kernels]


def signatures_text(
    tmp_path: Path, source: str, signatures: list[dict[str, str]], overwritten: bool = False
) -> str:
    """What the host side prints for a kernel under several signatures."""
    kernels = load(tmp_path, source, signatures)
    variants = [
        hostjax.Variant(
            kernel,
            resolve(kernel, "triton"),
            [Call(kernel, i, overwritten, tag) for i in range(len(kernel.phases))],
        )
        for kernel, tag in zip(kernels, tags(kernels), strict=True)
    ]
    return host_functions(variants)


def host_text(tmp_path: Path, source: str, overwritten: bool = False, **args: str) -> str:
    """What the host side prints for a kernel under one signature."""
    return signatures_text(tmp_path, source, [args], overwritten)
