"""What a frontend's evaluator computes with: host objects known symbolically, device values.

Python numbers, strings, tuples, lists and None stand for themselves; a symbolic integer is a
:class:`~transpile.ir.sizes.Size`, a dtype a :class:`~transpile.ir.dtypes.DType`, a device tile an
:class:`~transpile.ir.ir.Value`. The classes here are everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size, Sym


class NeedFact(Exception):
    """Evaluation cannot go on without a fact about a parameter that no signature gives.

    The driver records the fact and starts over, so inference is driven by what the body does.
    """

    def __init__(
        self,
        param: str,
        *,
        rank: int | None = None,
        dtype: DType | None = None,
        at_least: bool = False,
        more: int = 0,
    ) -> None:
        super().__init__(param)
        self.param = param
        self.rank = rank
        self.dtype = dtype
        self.at_least = at_least  # ``rank`` is a lower bound
        self.more = more  # the guessed rank is this much too low


@dataclass(eq=False)
class HostTensor:
    """A torch tensor of the host program, by shape and layout.

    ``strides`` entries are None where only the run time knows. ``host`` is how the host program
    spells it at the launch, None until it is bound to a variable. ``shape`` is None while the rank
    of parameter ``param`` is unknown.
    """

    dtype: DType
    shape: tuple[Size, ...] | None
    strides: tuple[Size | None, ...] = ()
    host: str | None = None
    param: str | None = None
    origin: str | None = None  # parameter it was derived from, for inference
    stable: bool = False  # freshly allocated: strides follow from the shape
    guessed: bool = False  # a parameter whose rank is a guess that the body may correct
    follows: str | None = None  # the guessed parameter that this tensor's rank goes along with
    base: HostTensor | None = None  # the tensor it is a view of, made by the code for the launch
    view: str = ""  # how that view is spelled after the base
    source: HostTensor | None = None  # the tensor whose memory it may share, itself no view

    @property
    def memory(self) -> HostTensor:
        """The tensor whose memory this one has, or may have."""
        return self.source or (self.base.memory if self.base is not None else self)

    @property
    def dims(self) -> tuple[Size, ...]:
        """The shape; asks for the rank when it is not known yet."""
        if self.shape is None:
            raise NeedFact(self.origin or self.param or "?")
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.dims)

    def numel(self) -> Size:
        total = Size.of(1)
        for dim in self.dims:
            total = total * dim
        return total


def contiguous_strides(shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """Row-major strides of a freshly allocated tensor."""
    strides: list[Size] = []
    step = Size.of(1)
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


@dataclass(eq=False)
class HostNumber:
    """A run-time float, int or bool of the host program that is no symbolic integer."""

    dtype: DType
    host: str | None = None


@dataclass(eq=False)
class Opaque:
    """A host object kt does not model; only host code may use it. ``what`` describes it."""

    what: str
    host: str | None = None


@dataclass(frozen=True)
class Device:
    """A torch device; kernels never look inside."""


@dataclass(frozen=True)
class ModuleRef:
    """An imported module, by its real dotted name (``hl`` is ``helion.language``)."""

    name: str


@dataclass(frozen=True)
class Known:
    """A function or attribute of a known module, by its real dotted name (``torch.exp``)."""

    name: str


@dataclass(frozen=True)
class Builtin:
    """A Python builtin such as ``min`` or ``range``."""

    name: str


@dataclass(eq=False)
class Method:
    """A bound method of a modelled object: ``x.size``, ``acc.to``."""

    owner: Any
    name: str


@dataclass(eq=False)
class Function:
    """A function or lambda of the source file; calls are inlined. ``env`` is its closure."""

    node: cst.FunctionDef | cst.Lambda
    env: Env
    name: str
    decorated: bool = False


@dataclass(eq=False)
class Tile:
    """A tile loop's variable."""

    value: ir.Value
    block: Sym
    begin: Any = None  # Size or ir.Value
    end: Any = None
    lengths: ir.Value | None = None  # of a jagged tile: its end per lane of the parent axes

    @property
    def size(self) -> Size:
        return Size.of(self.block)


@dataclass(eq=False)
class TileOffset:
    """``tile + offset``."""

    tile: Tile
    offset: Any


@dataclass(eq=False)
class Scalar:
    """A number computed on the device that behaves like a Python number (weak in promotion)."""

    value: ir.Value

    @property
    def dtype(self) -> DType:
        return self.value.dtype


@dataclass(eq=False)
class Gone:
    """A name whose value does not exist here: out of its loop, or bound in one branch only."""

    why: str


@dataclass(eq=False)
class Env:
    """A scope: names, and the scope around it."""

    names: dict[str, Any] = field(default_factory=dict)
    outer: Env | None = None

    def lookup(self, name: str) -> Any:
        """The value of ``name``; KeyError if no scope has it."""
        env: Env | None = self
        while env is not None:
            if name in env.names:
                return env.names[name]
            env = env.outer
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        try:
            self.lookup(name)
        except KeyError:
            return False
        return True
