"""Tiles from nothing: zeros, full, arange and their relatives."""

from __future__ import annotations

from typing import Any

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.torch_device.registry import (
    FUNCTIONS,
    Handler,
    as_shape,
    dtype_or,
    torch_op,
)
from transpile.frontend.values import Scalar, Tile
from transpile.ir import ir
from transpile.ir.dtypes import F32
from transpile.ir.sizes import Size


@torch_op("full_like")
def _full_like(ev: Evaluator, x: ir.Value, value: Any, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, value, dtype_or(dtype, x.dtype))


@torch_op("zeros_like")
def _zeros_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 0, dtype_or(dtype, x.dtype))


@torch_op("ones_like")
def _ones_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 1, dtype_or(dtype, x.dtype))


@torch_op("empty_like")
def _empty_like(ev: Evaluator, x: ir.Value, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(x.shape, 0, dtype_or(dtype, x.dtype))


def _new(value: int) -> Handler:
    def create(ev: Evaluator, x: Any, *shape: Any, dtype: Any = None, **_: Any) -> ir.Value:
        return ev.b.full(as_shape(ev, *shape), value, dtype_or(dtype, x.dtype))

    return create


FUNCTIONS["new_zeros"] = FUNCTIONS["new_empty"] = _new(0)
FUNCTIONS["new_ones"] = _new(1)


@torch_op("new_full")
def _new_full(ev: Evaluator, x: Any, shape: Any, value: Any, dtype: Any = None, **_: Any) -> Any:
    return ev.b.full(as_shape(ev, shape), value, dtype_or(dtype, x.dtype))


def _creation(value: int) -> Handler:
    def create(ev: Evaluator, *shape: Any, dtype: Any = None, **_: Any) -> ir.Value:
        return ev.b.full(as_shape(ev, *shape), value, dtype_or(dtype, F32))

    return create


FUNCTIONS["zeros"] = FUNCTIONS["empty"] = _creation(0)
FUNCTIONS["ones"] = _creation(1)


@torch_op("full")
def _full(ev: Evaluator, shape: Any, value: Any, dtype: Any = None, **_: Any) -> ir.Value:
    return ev.b.full(as_shape(ev, shape), value, dtype_or(dtype, F32))


@torch_op("arange")
def _arange(ev: Evaluator, *args: Any, dtype: Any = None, **_: Any) -> ir.Value:
    start, stop, step = {1: (0, args[0], 1), 2: (*args, 1), 3: args}[len(args)]
    stop = stop.size if isinstance(stop, Tile) else stop
    base = start
    if isinstance(start, Scalar) or isinstance(stop, Scalar):
        length = ev.indexer._difference(start, stop)
        start = 0
    else:
        if isinstance(start, Size):
            length, start = Size.of(stop) - start, 0
        else:
            length = (Size.of(stop) - start).ceildiv(step)
            base = 0
    kind = dtype_or(dtype, ev.b.index_dtype)
    iota: ir.Value = ev.b.emit(
        ir.Iota(results=(ev.b.new(kind, (length,)),), start=start, step=step)
    )
    if isinstance(base, (Scalar, Size)):
        return ev.b.elementwise("add", iota, base)
    return iota
