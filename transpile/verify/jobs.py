"""What is to be proved and what came out: plain data that passes between processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from transpile.ir.dtypes import DType
from transpile.ir.ir import Kernel
from transpile.ir.sizes import Sym
from transpile.verify.msl.counters import Counters

Mode = Literal["compile", "numerics"]
Status = Literal["ok", "fail", "n/a"]

AUTOMATIC_SHAPES = 3  # shapes of a kernel that names none


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of the generated function and what to pass for it.

    ``tensor`` has dims (a name, a size, or None for an anonymous one) and a minor-to-major
    ``order``; ``scalar`` a dtype; ``value`` a compile-time value. ``fill`` says what it holds: a
    number, or a (low, high) range whose bounds may name dimensions.
    """

    name: str
    kind: Literal["tensor", "scalar", "value"]
    dtype: DType | None = None
    dims: tuple[str | int | None, ...] = ()
    order: tuple[int, ...] | None = None
    value: Any = None
    fill: bool | int | float | str | tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class KernelJob:
    """One kernel for one signature. ``shapes`` give the named dims, ``reference`` is the file and
    the function that define the result."""

    kernel: Kernel
    arguments: tuple[Argument, ...]
    shapes: tuple[Mapping[str, int], ...]
    blocks: Mapping[Sym, int]
    reference: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class FileJob:
    """The kernels of one generated module, by one harness, in one worker process; those before
    ``first`` are left out."""

    mode: Mode
    target: str
    module: str  # path of the generated file, the shim beside it
    kernels: tuple[KernelJob, ...]
    archs: tuple[str, ...] = ()
    first: int = 0

    def columns(self, row: int) -> list[str]:
        """The cells that the harness gives for a kernel."""
        if self.mode == "compile":
            return list(self.archs)
        shapes = len(self.kernels[row].shapes) or AUTOMATIC_SHAPES
        return [f"shape {i + 1}" for i in range(shapes)]


@dataclass(frozen=True, slots=True)
class RunJob:
    """One call of one generated function on tensors of a file, for ``kt run``.

    ``values`` are passed as they are, besides the tensors of ``inputs``. ``stored`` names the
    parameters that the kernel writes to.
    """

    target: str
    module: str
    kernel: str
    inputs: str
    outputs: str
    simulate: bool
    values: Mapping[str, Any] = field(default_factory=dict)
    scalars: tuple[str, ...] = ()
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    stored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the table. ``row`` is the index of the kernel in its file, ``detail`` the reason
    of a failure or what else there is to say, ``sizes`` those of a shape. ``counters`` are those of
    its launches, where the harness counts."""

    row: int
    column: str
    status: Status
    detail: str = ""
    sizes: str = ""
    counters: tuple[Counters, ...] = ()


@dataclass(frozen=True, slots=True)
class RunResult:
    """The names of what a :class:`RunJob` wrote, and the counters of its launches."""

    names: tuple[str, ...]
    counters: tuple[Counters, ...] = ()

    def counted(self, launches: Iterable[Counters]) -> RunResult:
        """With the counters of these launches."""
        return replace(self, counters=tuple(launches))
