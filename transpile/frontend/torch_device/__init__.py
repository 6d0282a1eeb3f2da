"""torch on the device: what each torch function and tensor method means in Tile IR.

A function is registered once under its torch name and usable as ``torch.f(x, ...)`` and
``x.f(...)`` alike. Composite functions (softmax, gelu, var, ...) are written out here from their
definitions in the torch documentation, so that every target sees the same few operations.
"""

from __future__ import annotations

from transpile.frontend.torch_device import creation, elementwise, reductions, scans, shape
from transpile.frontend.torch_device.registry import FUNCTIONS, as_shape
from transpile.frontend.torch_device.scans import scan
from transpile.frontend.torch_device.shape import join, split

__all__ = [
    "FUNCTIONS", "as_shape", "creation", "elementwise", "join", "reductions", "scan", "scans",
    "shape", "split",
]  # fmt: skip
