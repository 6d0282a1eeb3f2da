"""Launches of Triton kernels in host Python."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostprogram import product
from transpile.emitters.common.hostsizes import HostSizes
from transpile.emitters.common.layout import wrap
from transpile.emitters.triton.arguments import HOST_SPELLING, Argument
from transpile.ir import ir
from transpile.passes.schedule import Schedule


def grid(kernel: ir.Kernel, schedule: Schedule, phase: ir.Phase) -> str:
    """The launch grid as a tuple."""
    plan = schedule.phase(phase)
    sizes = HostSizes(kernel, schedule, HOST_SPELLING)
    counts = [sizes.count(phase.axes[i]) for i in plan.order]
    if plan.pid_type == "xyz":
        return f"({', '.join(counts)})"
    total = product(counts)
    if plan.pid_type == "flat":
        return f"({total},)"
    device = f"{kernel.tensors[0].host}.device"
    programs = f"kt.num_sms({device})"
    factor = schedule.config.get("num_sm_multiplier", 1)
    if factor != 1:
        programs += f" * {factor}"
    return f"(min({programs}, {total}),)"


def launch_call(launcher: str, grid_text: str, arguments: list[Argument]) -> str:
    """``_matmul_launch((grid,), x, y, ...)``."""
    passed = [a.host for a in arguments if not a.constexpr]
    return f"{launcher}({', '.join([grid_text, *passed])})"


@dataclass(frozen=True, slots=True)
class PhaseLaunch:
    """One launch of a phase, and its pointer version where tensors may be unfit for TMA."""

    call: str
    test: str = ""
    otherwise: str = ""

    def lines(self, indent: int) -> list[str]:
        if not self.test:
            return wrap(self.call, indent)
        return [
            *wrap(f"if {self.test}:", indent), *wrap(self.call, indent + 4),
            " " * indent + "else:", *wrap(self.otherwise, indent + 4),
        ]  # fmt: skip
