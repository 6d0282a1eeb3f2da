"""The host side of Metal kernels: launchers and launches in host Python."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostsizes import HostSizes, HostSpelling
from transpile.emitters.common.layout import wrap
from transpile.emitters.common.module import tensor_spec
from transpile.emitters.msl.dtypes import STRUCT
from transpile.emitters.msl.kernel import MetalKernel
from transpile.ir import ir
from transpile.ir.sizes import Size

SPELLING = HostSpelling(cdiv="kt.cdiv")


@dataclass(frozen=True, slots=True)
class Version:
    """A kernel that is right where the sizes are at most what it was written for."""

    code: MetalKernel
    launcher: str
    capacities: tuple[tuple[Size, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseLaunch:
    """The launch of one phase: of the first version whose capacities suffice."""

    versions: list[Version]
    sizes: HostSizes

    def lines(self, indent: int) -> list[str]:
        pad = " " * indent
        lines: list[str] = []
        for i, version in enumerate(self.versions):
            call = launch_call(version, self.sizes)
            limits = [f"{self.sizes.text(s)} <= {n}" for s, n in version.capacities]
            last = i == len(self.versions) - 1
            if not limits:
                inner = wrap(call, indent + 4 if i else indent)
                return [*lines, f"{pad}else:", *inner] if i else inner
            lines.append(f"{pad}{'elif' if i else 'if'} {' and '.join(limits)}:")
            lines += wrap(call, indent + 4)
            if last:
                lines += [f"{pad}else:", *wrap(self._too_long(version), indent + 4)]
        return lines

    def _too_long(self, version: Version) -> str:
        limits = ", ".join(f"{self.sizes.text(s)}={n}" for s, n in version.capacities)
        size = self.sizes.text(version.capacities[0][0])
        return f'raise kt.too_long("{version.code.source.name}", {size}, "{limits}")'


def launch_call(version: Version, sizes: HostSizes) -> str:
    """``_softmax_launch((m,), x, out, n)``."""
    code = version.code
    counts = [sizes.text(s) for s in code.kernel.grid]
    groups = f"({', '.join(counts)}{',' if len(counts) == 1 else ''})"
    passed = [t.tensor.host for t in code.tensors] + [m.host for m in code.members]
    return f"{version.launcher}({', '.join([groups, *passed])})"


def launcher_text(version: Version, function: str, library: str) -> str:
    """``_softmax_launch = kt.Launcher(...)``."""
    code = version.code
    specs = []
    for t in code.tensors:
        kind = f"{t.access} " if t.access else ""
        aligned = " @16" if t.aligned else ""
        specs.append(f'"{t.name}": "{kind}{tensor_spec(code.source, t.tensor)}{aligned}"')
    members = [f'"{m.name}": "{STRUCT[m.dtype]}"' for m in code.members]
    arguments = [library, f'"{function}"', "{" + ", ".join(specs) + "}"]
    if members:
        arguments.append("{" + ", ".join(members) + "}")
    arguments.append(f"threads=({code.kernel.threads}, 1, 1)")
    if code.source.index_dtype is not None and code.source.index_dtype.bits == 64:
        arguments.append("index64=True")
    return "\n".join(wrap(f"{version.launcher} = kt.Launcher({', '.join(arguments)})", 0))


def host_sizes(kernel: ir.Kernel, schedule: object) -> HostSizes:
    """Sizes as the host functions of this target spell them."""
    return HostSizes(kernel, schedule, SPELLING)  # type: ignore[arg-type]
