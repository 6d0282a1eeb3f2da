"""Reshaping, broadcasting, joining and splitting tiles."""

from __future__ import annotations

from typing import Any

from transpile.frontend.builder import describe, show_shape
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.torch_device.registry import (
    as_shape,
    torch_op,
)
from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.sizes import ONE, Size


def _reshape_target(ev: Evaluator, x: ir.Value, shape: tuple[Any, ...]) -> tuple[Size, ...]:
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    holes = [i for i, s in enumerate(shape) if s == -1]
    sizes = list(as_shape(ev, *[1 if s == -1 else s for s in shape]))
    total = ONE
    for axis in x.shape:
        total = total * axis
    if holes:
        known = ONE
        for axis in sizes:
            known = known * axis
        sizes[holes[0]] = total // known
    else:
        wanted = ONE
        for axis in sizes:
            wanted = wanted * axis
        if wanted.substitute(ev.b.fixed_blocks) != total.substitute(ev.b.fixed_blocks):
            ev.fail(
                "KT0512",
                f"a tile of shape {show_shape(x.shape)} cannot become {show_shape(sizes)}",
                why="the number of elements differs",
            )
    return tuple(sizes)


@torch_op("reshape", "view")
def _reshape(ev: Evaluator, x: ir.Value, *shape: Any) -> ir.Value:
    if len(shape) == 1 and isinstance(shape[0], DType):
        return ev.b.emit(  # type: ignore[no-any-return]
            ir.Cast(results=(ev.b.new(shape[0], x.shape),), value=x, bitcast=True)
        )
    return ev.b.reshape(x, _reshape_target(ev, x, shape))


@torch_op("flatten")
def _flatten(ev: Evaluator, x: ir.Value) -> ir.Value:
    return ev.b.reshape(x, _reshape_target(ev, x, (-1,)))


@torch_op("unsqueeze")
def _unsqueeze(ev: Evaluator, x: ir.Value, dim: int) -> ir.Value:
    at = dim if dim >= 0 else dim + len(x.shape) + 1
    return ev.b.reshape(x, (*x.shape[:at], ONE, *x.shape[at:]))


@torch_op("squeeze")
def _squeeze(ev: Evaluator, x: ir.Value, dim: int | None = None) -> ir.Value:
    if dim is None:
        return ev.b.reshape(x, tuple(a for a in x.shape if a != ONE))
    at = ev.b.axis(x, dim)
    if x.shape[at] != ONE and x.shape[at].substitute(ev.b.fixed_blocks) != ONE:
        return x
    return ev.b.reshape(x, (*x.shape[:at], *x.shape[at + 1 :]))


@torch_op("expand", "broadcast_to")
def _expand(ev: Evaluator, x: ir.Value, *shape: Any) -> ir.Value:
    if len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = tuple(shape[0])
    pad = len(shape) - len(x.shape)
    full = tuple(x.shape[i - pad] if s == -1 else s for i, s in enumerate(shape))
    return ev.b.broadcast(x, as_shape(ev, *full))


@torch_op("expand_as", "view_as")
def _expand_as(ev: Evaluator, x: ir.Value, other: ir.Value) -> ir.Value:
    return ev.b.broadcast(x, other.shape)


@torch_op("permute")
def _permute(ev: Evaluator, x: ir.Value, *order: Any) -> ir.Value:
    if len(order) == 1 and isinstance(order[0], (list, tuple)):
        order = tuple(order[0])
    return ev.b.permute(x, [ev.b.axis(x, d) for d in order])


@torch_op("transpose", "swapaxes")
def _transpose(ev: Evaluator, x: ir.Value, dim0: int, dim1: int) -> ir.Value:
    order = list(range(len(x.shape)))
    i, j = ev.b.axis(x, dim0), ev.b.axis(x, dim1)
    order[i], order[j] = order[j], order[i]
    return ev.b.permute(x, order)


@torch_op("t", "T", "mT")
def _t(ev: Evaluator, x: ir.Value) -> ir.Value:
    rank = len(x.shape)
    return x if rank < 2 else _transpose(ev, x, rank - 2, rank - 1)


@torch_op("contiguous", "clone", "detach")
def _identity(ev: Evaluator, x: Any, **_: Any) -> Any:
    return x


@torch_op("stack")
def _stack(ev: Evaluator, tensors: Any, dim: int = 0) -> ir.Value:
    """A power-of-two number of tiles along a new axis, by pairwise joins."""
    parts: list[ir.Value] = list(tensors)
    if len(parts) == 0 or len(parts) & (len(parts) - 1):
        ev.fail("KT0513", f"stack of {len(parts)} tiles", remedy="stack 1, 2, 4, 8... tiles")
    b = ev.b
    rank = len(parts[0].shape)
    at = dim if dim >= 0 else dim + rank + 1
    if len(parts) == 1:
        only: ir.Value = _unsqueeze(ev, parts[0], at)
        return only
    while len(parts) > 1:
        # Join (i, i + half) so that the last join's axis is the most significant digit.
        half = len(parts) // 2
        parts = [join(ev, parts[i], parts[i + half]) for i in range(half)]
    joined = parts[0]
    digits = len(joined.shape) - rank
    order = list(range(rank)) + list(range(rank + digits - 1, rank - 1, -1))
    if digits > 1:
        joined = b.permute(joined, order)
        joined = b.reshape(joined, (*joined.shape[:rank], Size.of(1 << digits)))
    order = list(range(rank))
    order.insert(at, rank)
    return b.permute(joined, order)


def join(ev: Evaluator, lhs: ir.Value, rhs: ir.Value) -> ir.Value:
    """New last axis of size 2."""
    b = ev.b
    dtype = b.result_dtype([lhs, rhs])
    shape = b.broadcast_shape([lhs.shape, rhs.shape])
    lhs, rhs = (b.broadcast(b.cast(v, dtype), shape) for v in (lhs, rhs))
    return b.emit(ir.Join(results=(b.new(dtype, (*shape, Size.of(2))),), lhs=lhs, rhs=rhs))  # type: ignore[no-any-return]


def split(ev: Evaluator, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The two halves of a last axis of size 2."""
    b = ev.b
    if not x.shape or x.shape[-1] != Size.of(2):
        ev.fail("KT0513", f"split of {describe(x)}", why="the last axis must have size 2")
    results = (b.new(x.dtype, x.shape[:-1]), b.new(x.dtype, x.shape[:-1]))
    b.emit(ir.Split(results=results, value=x))
    return results


@torch_op("unbind")
def _unbind(ev: Evaluator, x: ir.Value, dim: int = 0) -> tuple[ir.Value, ...]:
    at = ev.b.axis(x, dim)
    order = [i for i in range(len(x.shape)) if i != at] + [at]
    return split(ev, ev.b.permute(x, order))
