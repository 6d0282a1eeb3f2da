"""One kernel for one signature, and how its phases are launched."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostfunctions import HostVariant
from transpile.emitters.triton.host import PhaseLaunch, launch_call
from transpile.emitters.triton.lower import LoweredPhase
from transpile.ir import ir
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class Variant:
    """One kernel for one signature, lowered."""

    kernel: ir.Kernel
    schedule: Schedule
    phases: list[LoweredPhase]
    launchers: list[list[str]]  # per phase: the launcher, and that of its pointer version

    def on_host(self, tag: str) -> HostVariant:
        """What the host function needs of it."""
        return HostVariant(self.kernel, self.schedule, _launches(self), tag)


def _launches(variant: Variant) -> list[PhaseLaunch]:
    found = []
    for names, phase in zip(variant.launchers, variant.phases, strict=True):
        call = launch_call(names[0], phase.grid, phase.parameters)
        if phase.fallback is None:
            found.append(PhaseLaunch(call))
            continue
        test = f"kt.tma_ok({', '.join(phase.described)})"
        plain = launch_call(names[1], phase.fallback.grid, phase.fallback.parameters)
        found.append(PhaseLaunch(call, test, plain))
    return found
