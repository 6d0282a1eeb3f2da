"""The reference interpreter: what a kernel means, computed with torch on the CPU.

Programs of a phase run one after the other, each operation on whole tiles. Nothing is optimised;
this is what generated code is compared with. torch is imported on first use only.

Two modes serve the proof of the masked-value analysis (``passes.masks``):

- ``pad_size_axes``: axes that belong to no tile are padded to the next power of two, as Triton
  does. Padded lanes hold whatever the operations put there.
- ``poison``: an analysis result (:class:`Claims`). Lanes for which it claims a value are checked to
  hold it, and lanes that it calls junk are filled with NaN or an extreme integer after each
  operation, so that a reader of junk shows in the results. (A source may rely on lanes of which
  the analysis knows nothing: ``0 * log(eps)`` beyond the end of a tile is 0.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from transpile.ir.ir import Kernel, Value
from transpile.ir.ops import Number
from transpile.ir.sizes import Sym

if TYPE_CHECKING:
    from torch import Tensor

Lanes = tuple[int, Value | None]
"""An axis of a value and a tile: the lanes of that axis beyond the tile's end (or, for ``None``,
beyond the axis's own extent, where a target pads it)."""


class InterpreterError(Exception):
    """The kernel did something undefined, or the IR is wrong. The message names the operation."""


class Claims(Protocol):
    """What an analysis says about lanes that are out of range."""

    def uniform(self, value: Value) -> Number | None:
        """The number that all lanes of the value hold, or None."""

    def known(self, value: Value) -> Mapping[Lanes, Number]:
        """The numbers that out-of-range lanes hold."""

    def junk(self, value: Value) -> frozenset[Lanes]:
        """Out-of-range lanes whose content must not matter."""


def run_phase(
    kernel: Kernel,
    phase_index: int,
    tensors: Mapping[str, Tensor],
    scalars: Mapping[str, Number],
    sizes: Mapping[Sym, int],
    blocks: Mapping[Sym, int],
    *,
    poison: Claims | None = None,
    pad_size_axes: bool = False,
) -> None:
    """Execute one phase's grid, writing into ``tensors`` (by ``Tensor.name``).

    ``sizes`` gives dim, stride and scalar symbols, ``blocks`` the block sizes (those fixed to a
    number in the IR may be absent). Raises :class:`InterpreterError` on out-of-bounds accesses, on
    results that do not have their declared type, and on target code (``Inline``).
    """
    from transpile.ir.reference.machine import Machine

    Machine(kernel, tensors, scalars, sizes, blocks, poison, pad_size_axes).run(phase_index)


def run_kernel(
    kernel: Kernel,
    args: Mapping[str, Any],
    blocks: Mapping[Sym, int],
    *,
    poison: Claims | None = None,
    pad_size_axes: bool = False,
    fill_empty: bool = False,
) -> Any:
    """Execute the host program on ``args`` (by parameter name) and its phases; its return value.

    Absent arguments take their default, or the compile-time value they were built for.
    ``fill_empty`` fills what the host program allocates uninitialised with NaN (integers: an
    extreme value), so that an element left unwritten shows.
    """
    from transpile.ir.reference.host import run_host

    def launch(phase: int, bound: Any) -> None:
        run_phase(
            kernel, phase, bound.tensors, bound.scalars, bound.sizes, blocks,
            poison=poison, pad_size_axes=pad_size_axes,
        )  # fmt: skip

    return run_host(kernel, args, blocks, launch, fill_empty)
