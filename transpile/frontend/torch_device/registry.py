"""The table of torch functions on the device, and what its entries share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transpile.frontend.builder import Builder, describe
from transpile.frontend.evaluator import Evaluator
from transpile.frontend.values import Tile
from transpile.ir import ir
from transpile.ir.dtypes import F32, DType
from transpile.ir.sizes import Size

Handler = Callable[..., Any]
FUNCTIONS: dict[str, Handler] = {}


def torch_op(*names: str) -> Callable[[Handler], Handler]:
    """Register ``f(ev, x, ...)`` under torch names."""

    def register(f: Handler) -> Handler:
        for name in names:
            FUNCTIONS[name] = f
        return f

    return register


def as_bool(b: Builder, x: Any) -> Any:
    """``x != 0`` unless it is bool already."""
    value = b.scalar(x)
    return value if value.dtype.is_bool else b.elementwise("ne", value, 0)


def in_f32(ev: Evaluator, x: ir.Value, f: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Composite functions of 16-bit floats are computed in f32 and rounded once, as torch does."""
    wide = ev.b.cast(x, F32) if x.dtype.is_half else x
    return ev.b.cast(f(wide), x.dtype)


def as_shape(ev: Evaluator, *args: Any) -> tuple[Size, ...]:
    """A shape from sizes, tiles (their block), or one list of them."""
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        args = tuple(args[0])
    out: list[Size] = []
    for arg in args:
        if isinstance(arg, Tile):
            out.append(arg.size)
        elif isinstance(arg, (int, Size)) and not isinstance(arg, bool):
            out.append(Size.of(arg))
        else:
            ev.fail(
                "KT0511",
                f"{describe(arg)} in a shape",
                why="a tile's shape must be known from block sizes and host sizes",
                remedy="use tiles, block sizes and host integers",
            )
    return tuple(out)


def dtype_or(dtype: Any, default: DType) -> DType:
    """``dtype`` if it is one, else the default."""
    return dtype if isinstance(dtype, DType) else default


def to_dtype(ev: Evaluator, x: Any, dtype: DType) -> Any:
    """A tile or number converted to ``dtype``."""
    if isinstance(x, ir.Value):
        return ev.b.cast(x, dtype)
    return ev.b.cast(ev.b.scalar(x), dtype)
