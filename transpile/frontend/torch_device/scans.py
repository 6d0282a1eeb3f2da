"""Scans, sorting, gathering and matrix products."""

from __future__ import annotations

from typing import Any

from transpile.frontend.builder import extreme
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.torch_device.registry import (
    dtype_or,
    torch_op,
)
from transpile.ir import ir
from transpile.ir.dtypes import F32, I64, DType
from transpile.ir.sizes import Size


def scan(
    ev: Evaluator, x: ir.Value, name: str, dim: Any, reverse: bool = False, dtype: Any = None
) -> ir.Value:
    """Inclusive sum or product along an axis; 16-bit floats are scanned in f32."""
    b = ev.b
    if isinstance(dtype, DType):
        x = b.cast(x, dtype)
    axis = b.axis(x, dim)
    wide = b.cast(x, F32) if x.dtype.is_half else b.cast(x, I64) if not x.dtype.is_float else x
    masked = b.mask_to(wide, axis, 0 if name == "sum" else 1)
    result = b.emit(
        ir.Scan(
            results=(b.new(masked.dtype, x.shape),),
            values=(masked,),
            dim=axis,
            name=name,
            reverse=reverse,
        )
    )
    return b.cast(result, x.dtype if x.dtype.is_half else result.dtype)


@torch_op("cumsum")
def _cumsum(ev: Evaluator, x: ir.Value, dim: Any, dtype: Any = None) -> ir.Value:
    return scan(ev, x, "sum", dim, dtype=dtype)


@torch_op("cumprod")
def _cumprod(ev: Evaluator, x: ir.Value, dim: Any, dtype: Any = None) -> ir.Value:
    return scan(ev, x, "prod", dim, dtype=dtype)


@torch_op("gather")
def _gather(ev: Evaluator, x: ir.Value, dim: Any, index: ir.Value) -> ir.Value:
    b = ev.b
    axis = b.axis(x, dim)
    return b.emit(  # type: ignore[no-any-return]
        ir.Gather(results=(b.new(x.dtype, index.shape),), value=x, index=index, dim=axis)
    )


@torch_op("sort")
def _sort(ev: Evaluator, x: ir.Value, dim: Any = -1, descending: bool = False) -> Any:
    return _sorted(ev, x, dim, descending, None)


@torch_op("topk")
def _topk(ev: Evaluator, x: ir.Value, k: Any, dim: Any = -1, largest: bool = True) -> Any:
    return _sorted(ev, x, dim, largest, k)


def _sorted(ev: Evaluator, x: ir.Value, dim: Any, descending: bool, k: Any) -> Any:
    b = ev.b
    if b.axis(x, dim) != len(x.shape) - 1:
        ev.fail("KT0515", "sort along an axis that is not the last", remedy="transpose first")
    masked = b.mask_to(x, len(x.shape) - 1, extreme(x.dtype, "min" if descending else "max"))
    shape = x.shape if k is None else (*x.shape[:-1], Size.of(k))
    results = (b.new(x.dtype, shape), b.new(I64, shape))
    b.emit(ir.Sort(results=results, value=masked, descending=descending, k=k))
    return results


@torch_op("matmul", "mm", "bmm")
def _matmul(ev: Evaluator, x: ir.Value, y: ir.Value, out_dtype: Any = None) -> ir.Value:
    return ev.b.dot(x, y, out_dtype=dtype_or(out_dtype, None))  # type: ignore[arg-type]


@torch_op("addmm", "baddbmm")
def _addmm(
    ev: Evaluator,
    acc: ir.Value,
    x: ir.Value,
    y: ir.Value,
    out_dtype: Any = None,
    *,
    beta: Any = 1,
    alpha: Any = 1,
) -> ir.Value:
    if beta == 1 and alpha == 1:
        return ev.b.dot(x, y, acc, dtype_or(out_dtype, None))  # type: ignore[arg-type]
    b = ev.b
    product = b.elementwise("mul", b.dot(x, y, out_dtype=acc.dtype), alpha)
    return b.elementwise("add", b.elementwise("mul", acc, beta), product)
