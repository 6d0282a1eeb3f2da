"""Reductions, moments, softmax and its relatives."""

from __future__ import annotations

from typing import Any

from transpile.frontend.builder import describe
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.torch_device.registry import (
    FUNCTIONS,
    Handler,
    in_f32,
    torch_op,
)
from transpile.frontend.values import Scalar
from transpile.ir import ir
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size


def _one_dim(ev: Evaluator, x: ir.Value, dim: Any) -> tuple[ir.Value, int]:
    """The reduced axis; a reduction over everything flattens first."""
    if isinstance(dim, (list, tuple)):
        if len(dim) != 1:
            ev.fail(
                "KT0514",
                "a reduction over several axes",
                remedy="reduce one axis after the other",
            )
        dim = dim[0]
    if dim is None:
        if len(x.shape) == 1:
            return x, 0
        ev.fail(
            "KT0514",
            f"a reduction over all axes of {describe(x)}",
            remedy="name one axis with dim=; reduce one axis after the other",
        )
    return x, ev.b.axis(x, dim)


def _reduction(name: str) -> Handler:
    def run(
        ev: Evaluator, x: ir.Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> ir.Value:
        if isinstance(dtype, DType):
            x = ev.b.cast(x, dtype)
        if not x.shape:
            return x
        if dim is None and len(x.shape) > 1 and name in ("sum", "max", "min"):
            for axis in reversed(range(len(x.shape))):
                x = ev.b.reduce(name, x, axis)
            return x
        x, axis = _one_dim(ev, x, dim)
        return ev.b.reduce(name, x, axis, keepdim)

    return run


for _torch_name, _op in {
    "sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "any": "any", "all": "all",
    "argmax": "argmax", "argmin": "argmin",
}.items():  # fmt: skip
    FUNCTIONS[_torch_name] = _reduction(_op)


def _max_or_min(name: str) -> Handler:
    def run(ev: Evaluator, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, (ir.Value, Scalar)):
            return ev.b.arith("maximum" if name == "max" else "minimum", x, dim)
        if dim is None:
            return FUNCTIONS["amax" if name == "max" else "amin"](ev, x)
        values = ev.b.reduce(name, x, dim, keepdim)
        return values, ev.b.reduce("arg" + name, x, dim, keepdim)

    return run


FUNCTIONS["max"] = _max_or_min("max")
FUNCTIONS["min"] = _max_or_min("min")


def _extent(ev: Evaluator, x: ir.Value, axis: int) -> Any:
    """Number of elements a mean divides by: the logical size of the axis."""
    size = x.shape[axis]
    tile = ev.b.active_tile(size)
    if tile is None:
        return size
    value = ev.b.emit(
        ir.TileAttr(results=(ev.b.new(ev.b.index_dtype),), tile=tile.value, attr="end")
    )
    begin = ev.b.emit(
        ir.TileAttr(results=(ev.b.new(ev.b.index_dtype),), tile=tile.value, attr="begin")
    )
    return Scalar(ev.b.elementwise("sub", value, begin))


@torch_op("mean")
def _mean(
    ev: Evaluator, x: ir.Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)
    if not x.dtype.is_float:
        ev.fail("KT0501", f"mean of {x.dtype}", remedy="convert to a float dtype first")
    x, axis = _one_dim(ev, x, dim)

    def f(v: ir.Value) -> ir.Value:
        total = ev.b.reduce("sum", v, axis, keepdim)
        return ev.b.elementwise("div", total, _extent(ev, x, axis))

    return in_f32(ev, x, f)


@torch_op("var")
def _var(
    ev: Evaluator,
    x: ir.Value,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Any = None,
) -> ir.Value:
    """``sum((x - mean)^2) / (n - correction)``."""
    x, axis = _one_dim(ev, x, dim)
    delta = (1 if unbiased else 0) if correction is None else correction
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        extent = _extent(ev, x, axis)
        mean = b.elementwise("div", b.reduce("sum", v, axis, keepdim=True), extent)
        centered = b.elementwise("sub", v, mean)
        total = b.reduce("sum", b.elementwise("mul", centered, centered), axis, keepdim)
        count = extent - delta if isinstance(extent, Size) else b.arith("sub", extent, delta)
        return b.elementwise("div", total, count)

    return in_f32(ev, x, f)


@torch_op("std")
def _std(ev: Evaluator, x: ir.Value, *args: Any, **kwargs: Any) -> ir.Value:
    return ev.b.elementwise("sqrt", _var(ev, x, *args, **kwargs))


@torch_op("var_mean")
def _var_mean(ev: Evaluator, x: ir.Value, dim: Any = None, **kwargs: Any) -> Any:
    keepdim = bool(kwargs.get("keepdim", False))
    return _var(ev, x, dim, **kwargs), _mean(ev, x, dim, keepdim)


def _softmax_parts(ev: Evaluator, x: ir.Value, dim: Any) -> tuple[ir.Value, ir.Value, int]:
    b = ev.b
    axis = b.axis(x, dim)
    shifted = b.elementwise("sub", x, b.reduce("max", x, axis, keepdim=True))
    return shifted, b.elementwise("exp", shifted), axis


@torch_op("softmax", "nn.functional.softmax")
def _softmax(ev: Evaluator, x: ir.Value, dim: Any = None, dtype: Any = None, **_: Any) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)

    def f(v: ir.Value) -> ir.Value:
        _, exps, axis = _softmax_parts(ev, v, dim)
        return ev.b.elementwise("div", exps, ev.b.reduce("sum", exps, axis, keepdim=True))

    return in_f32(ev, x, f)


@torch_op("log_softmax", "nn.functional.log_softmax")
def _log_softmax(
    ev: Evaluator, x: ir.Value, dim: Any = None, dtype: Any = None, **_: Any
) -> ir.Value:
    if isinstance(dtype, DType):
        x = ev.b.cast(x, dtype)

    def f(v: ir.Value) -> ir.Value:
        shifted, exps, axis = _softmax_parts(ev, v, dim)
        total = ev.b.reduce("sum", exps, axis, keepdim=True)
        return ev.b.elementwise("sub", shifted, ev.b.elementwise("log", total))

    return in_f32(ev, x, f)


@torch_op("logsumexp")
def _logsumexp(ev: Evaluator, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    b = ev.b

    def f(v: ir.Value) -> ir.Value:
        axis = b.axis(v, dim)
        peak = b.reduce("max", v, axis, keepdim=True)
        exps = b.elementwise("exp", b.elementwise("sub", v, peak))
        total = b.elementwise("log", b.reduce("sum", exps, axis, keepdim))
        if not keepdim:
            peak = b.reshape(peak, total.shape)
        return b.elementwise("add", total, peak)

    return in_f32(ev, x, f)
