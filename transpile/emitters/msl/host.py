"""The host side of Metal kernels: launchers and launches in host Python."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostsizes import HostSizes, HostSpelling
from transpile.emitters.common.layout import wrap
from transpile.emitters.common.module import tensor_spec
from transpile.emitters.msl.dtypes import STRUCT
from transpile.emitters.msl.kernel import MetalKernel, Parameter
from transpile.ir import ir
from transpile.ir.sizes import Size

SPELLING = HostSpelling(cdiv="kt.cdiv")


@dataclass(frozen=True, slots=True)
class Version:
    """A kernel that is right where the sizes are at most what it was written for."""

    code: MetalKernel
    function: str
    launcher: str

    @property
    def capacities(self) -> tuple[tuple[Size, int], ...]:
        return self.code.kernel.capacities


@dataclass(frozen=True, slots=True)
class PhaseLaunch:
    """The launch of one phase: of the first version whose capacities suffice."""

    versions: list[Version]
    row: str = ""  # the scalar by which one launcher chooses between all versions

    def lines(self, indent: int) -> list[str]:
        if self.row:
            return wrap(launch_call(self.versions[0]), indent)
        pad = " " * indent
        lines: list[str] = []
        for i, version in enumerate(self.versions):
            call = launch_call(version)
            sizes = version.code.sizes
            limits = [f"{sizes.text(s)} <= {n}" for s, n in version.capacities]
            if not limits:
                inner = wrap(call, indent + 4 if i else indent)
                return [*lines, f"{pad}else:", *inner] if i else inner
            lines.append(f"{pad}{'elif' if i else 'if'} {' and '.join(limits)}:")
            lines += wrap(call, indent + 4)
        return [*lines, f"{pad}else:", *wrap(self._too_long(self.versions[-1]), indent + 4)]

    @staticmethod
    def _too_long(version: Version) -> str:
        (size, limit), *_ = version.capacities
        length = version.code.sizes.text(size)
        return f'raise kt.too_long("{version.code.source.name}", {length}, {limit})'


def launched(versions: list[Version]) -> PhaseLaunch:
    """How the versions are launched: by one launcher where they have the same parameters and one
    size tells which it is."""
    first, *rest = versions
    limited = [v for v in versions if v.capacities]
    sizes = {s for v in limited for s, _ in v.capacities}
    alike = all(_parameters(v) == _parameters(first) for v in rest)
    if not rest or not alike or len(sizes) != 1 or any(len(v.capacities) > 1 for v in limited):
        return PhaseLaunch(versions)
    host = first.code.sizes.text(sizes.pop())
    row = next((m.name for m in first.code.members if m.host == host), "")
    return PhaseLaunch(versions, row)


def _parameters(version: Version) -> tuple[object, ...]:
    """What a call of the launcher passes, and what it is checked against."""
    code = version.code
    return launch_call(version).partition("(")[2], _specs(code), _scalars(code)


def launch_call(version: Version) -> str:
    """``_softmax_launch((m,), x, out, n)``."""
    code = version.code
    counts = [code.sizes.text(s) for s in code.kernel.grid]
    groups = f"({', '.join(counts)}{',' if len(counts) == 1 else ''})"
    passed = [t.tensor.host for t in code.tensors] + [m.host for m in code.members]
    return f"{version.launcher}({', '.join([groups, *passed])})"


def _specs(code: MetalKernel) -> str:
    specs = []
    for t in code.tensors:
        kind = f"{t.access} " if t.access else ""
        aligned = " @16" if t.aligned else ""
        specs.append(f'"{t.name}": "{kind}{tensor_spec(code.source, t.tensor)}{aligned}"')
    return "{" + ", ".join(specs) + "}"


def _scalars(code: MetalKernel) -> str:
    members = [f'"{m.name}": "{STRUCT[m.dtype]}"' for m in code.members]
    return "{" + ", ".join(members) + "}"


def _views(code: MetalKernel) -> str:
    """Names of tensors that share a storage which the kernel writes, as a tuple of tuples."""
    groups: dict[str, list[Parameter]] = {}
    for parameter in code.tensors:
        groups.setdefault(parameter.tensor.storage, []).append(parameter)
    shared = [g for g in groups.values() if len(g) > 1 and any(p.access for p in g)]
    names = ["(" + ", ".join(f'"{p.name}"' for p in group) + ")" for group in shared]
    return "(" + ", ".join(names) + ",)" if names else ""


def launcher_texts(launch: PhaseLaunch, library: str) -> list[str]:
    """``_softmax_launch = kt.Launcher(...)`` for each version, or once for all."""
    texts = []
    for version in launch.versions[: 1 if launch.row else None]:
        code = version.code
        arguments = [library, f'"{version.function}"', _specs(code)]
        arguments += [_scalars(code)] if code.members else []
        arguments.append(f"threads=({code.kernel.threads}, 1, 1)")
        function = "kt.Launcher"
        if launch.row:
            kernels = [
                f"{v.capacities[0][1] if v.capacities else None}: "
                f'("{v.function}", {v.code.kernel.threads})'
                for v in launch.versions
            ]
            function = "kt.by_row"
            choice = "{" + ", ".join(kernels) + "}"
            arguments = [library, f'"{launch.row}"', choice, _specs(code), _scalars(code)]
        if code.source.index_dtype is not None and code.source.index_dtype.bits == 64:
            arguments.append("index64=True")
        if views := _views(code):
            arguments.append(f"views={views}")
        texts += wrap(f"{version.launcher} = {function}({', '.join(arguments)})", 0)
    return texts


def host_sizes(kernel: ir.Kernel, schedule: object) -> HostSizes:
    """Sizes as the host functions of this target spell them."""
    return HostSizes(kernel, schedule, SPELLING)  # type: ignore[arg-type]
