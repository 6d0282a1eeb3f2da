"""Runs thread IR: all threads of all groups, statement by statement, on numpy arrays.

Threads advance together, so the order in which they run never decides a result; what would be
decided by it on a device is found instead: two threads of a group touching one element of shared or
device memory, one of them writing, without a barrier in between; two groups doing so at all. Reads
of shared memory that nobody wrote, accesses out of bounds and barriers that not all threads reach
are errors too. Variables begin as NaN or an extreme integer. numpy is imported on first use only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transpile.ir import ir
from transpile.ir.ops import Number
from transpile.ir.sizes import Sym
from transpile.thread.ir import Kernel

if TYPE_CHECKING:
    import numpy as np


class ThreadError(Exception):
    """The program did something undefined. The message names the statement."""


def run_threads(
    kernel: Kernel,
    tensors: Mapping[str, np.ndarray],
    scalars: Mapping[str, Number],
    sizes: Mapping[Sym, int],
) -> None:
    """Run one launch, writing into ``tensors`` (by ``Tensor.name``).

    bf16 and 8-bit floats stand in them as their bits, of dtype uint16 and uint8.

    ``sizes`` gives dim, stride and scalar symbols. Raises :class:`ThreadError`, also for sizes
    beyond the kernel's capacities.
    """
    from transpile.thread.machine import Machine

    Machine(kernel, tensors, scalars, sizes).run()


def run_program(
    kernel: ir.Kernel,
    phases: Callable[[int], Kernel],
    args: Mapping[str, Any],
    blocks: Mapping[Sym, int],
    *,
    fill_empty: bool = True,
) -> Any:
    """Run a kernel's host program on ``args``, its phases as thread IR; its return value.

    The host program computes on torch tensors; its launches see their memory as numpy arrays.
    """
    from transpile.ir.reference.host import run_host

    def launch(phase: int, bound: Any) -> None:
        arrays = {name: _array(tensor) for name, tensor in bound.tensors.items()}
        run_threads(phases(phase), arrays, bound.scalars, bound.sizes)

    return run_host(kernel, args, blocks, launch, fill_empty)


def _array(tensor: Any) -> np.ndarray:
    """The memory of a torch tensor, what numpy has no type for as bits."""
    import torch

    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.itemsize < 4 and tensor.dtype is not torch.float16:
        tensor = tensor.view(torch.uint8 if tensor.itemsize == 1 else torch.uint16)
    return tensor.numpy()
