"""Accesses whose neighbours in memory would be on threads far apart, as in a transposition.

A tile has one distribution, but tensors may disagree about which of its axes is contiguous. Those
that lose are accessed in a distribution of their own, neighbouring threads on neighbouring
elements, and the tile changes from one to the other through shared memory.
"""

from __future__ import annotations

from math import prod

from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.sizes import ONE
from transpile.ir.walk import entry_axes, index_shape
from transpile.thread.context import Lowering
from transpile.thread.dot_layout import staging
from transpile.thread.layout import Axis, Digits, Layout
from transpile.thread.named import bytes_of, named
from transpile.thread.plan import keys_of

_BETTER = 4  # times as many neighbours in memory are worth two barriers
_ENOUGH = 64  # bytes in a row that a SIMD group accesses at once


def access_of_its_own(low: Lowering, op: ir.Load | ir.Store, layout: Layout) -> Layout | None:
    """The distribution in which the access has more neighbours in memory on neighbouring threads
    than in ``layout``, None if that is good enough or the tile does not fit in shared memory."""
    dim = _contiguous(op)
    if dim is None or op.mask is not None or low.plan.products.products:
        return None
    extents = layout.extents
    if prod(extents) < low.plan.threads or sum(e > 1 for e in extents) < 2:
        return None  # little to gain: one value of each row, say
    dtype = op.tensor.dtype
    width = max(1, dtype.bits // 8)
    held = sum(buffer.bytes for buffer in low.buffers)
    if held + padded_bytes(extents, dtype) > low.limits.shared_bytes * 3 // 4:
        return None
    axes = [
        digits[0].axis if digits else Axis(*key)
        for key, digits in zip(keys_of(index_shape(op.index)), layout.axes, strict=True)
    ]
    vector = low.limits.vector(dtype.bits)
    own = staging(axes, extents, dim, low.plan.threads, vector)
    before, after = (neighbours(way.axes[dim], low.plan.simd) for way in (layout, own))
    if before * width >= _ENOUGH or after < _BETTER * before:
        return None
    return own


def _contiguous(op: ir.Load | ir.Store) -> int | None:
    """The axis of the access along which memory is contiguous, if all indices are of tiles."""
    found = None
    for entry, dims, stride in zip(op.index, entry_axes(op.index), op.tensor.strides, strict=True):
        if isinstance(entry, ir.AtTensor):
            return None
        if stride == ONE and isinstance(entry, ir.AtTile | ir.AtSlice):
            found = dims[0]
    return found


def neighbours(digits: Digits, simd: int) -> int:
    """How many consecutive elements of an axis a SIMD group holds in one register of each lane."""
    run = 1
    for digit in sorted(digits, key=lambda d: d.weight):
        if digit.weight != run:
            break
        if digit.vector:
            run *= digit.count
        elif digit.of_thread and digit.stride < simd:
            run *= min(digit.count, simd // digit.stride)
        else:
            break
    return run


def row_padding(dtype: DType, *, uniform: bool = False) -> int:
    """Elements between the rows of a buffer that is written along them and read across: one word,
    so that neither has two lanes in one bank. ``uniform``: for any dtype of up to a word."""
    pad = max(1, 32 // max(8, dtype.bits))
    whole = uniform and 8 <= dtype.bits <= 32
    return named(pad, "PAD", 4 // bytes_of(dtype)) if whole else pad


def padded_bytes(extents: tuple[int, ...], dtype: DType) -> int:
    """Shared memory for a tile with padded rows."""
    rows = prod(extents[:-1])
    return rows * (extents[-1] + row_padding(dtype)) * max(1, dtype.bits // 8)
