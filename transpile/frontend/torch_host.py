"""torch on the host, symbolically: allocations, views, shapes and strides.

Only what a kernel can depend on is modelled; every other call gives an opaque value, and its
source text runs unchanged in the generated host function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from transpile.frontend.evaluator import Evaluator
from transpile.frontend.symbolic import HostShape, simplified
from transpile.frontend.values import (
    Device,
    HostNumber,
    HostTensor,
    NeedFact,
    Opaque,
    contiguous_strides,
)
from transpile.ir import dtypes
from transpile.ir.dtypes import BOOL, F32, I64, DType
from transpile.ir.sizes import ONE, Size, Sym

Handler = Callable[..., Any]
FUNCTIONS: dict[str, Handler] = {}  # torch.NAME(...)
METHODS: dict[str, Handler] = {}  # tensor.NAME(...)


def fn(*names: str) -> Callable[[Handler], Handler]:
    """Register a function of the ``torch`` namespace."""

    def register(f: Handler) -> Handler:
        for name in names:
            FUNCTIONS[name] = f
        return f

    return register


def method(*names: str) -> Callable[[Handler], Handler]:
    """Register a tensor method."""

    def register(f: Handler) -> Handler:
        for name in names:
            METHODS[name] = f
        return f

    return register


def both(*names: str) -> Callable[[Handler], Handler]:
    """Register under both namespaces."""

    def register(f: Handler) -> Handler:
        for name in names:
            FUNCTIONS[name] = METHODS[name] = f
        return f

    return register


def fresh(dtype: DType, shape: Sequence[Size]) -> HostTensor:
    """A newly allocated, row-major tensor."""
    return HostTensor(dtype, tuple(shape), contiguous_strides(tuple(shape)), stable=True)


def allocated(dtype: Any, default: DType, shape: Sequence[Size]) -> Any:
    """A new tensor of ``dtype``, or of the default; opaque where the dtype is not known."""
    if dtype is not None and not isinstance(dtype, DType):
        return Opaque("a tensor of unknown dtype")
    return fresh(dtype or default, shape)


def shape_of(args: Sequence[Any]) -> tuple[Size, ...] | None:
    """A host shape from ``(2, 3)``, ``([2, 3])`` or ``x.shape``; None if a part is unknown."""
    items = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
    if isinstance(items, HostShape):
        items = items.unpacked(None)
    if not all(isinstance(i, (int, Size)) for i in items):
        return None
    return tuple(Size.of(i) for i in items)


# -- allocations -------------------------------------------------------------------------------


@fn("empty", "zeros", "ones", "rand", "randn")
def _alloc(ev: Evaluator, *size: Any, dtype: Any = None, **kw: Any) -> Any:
    if not size and "size" in kw:
        size = (kw["size"],)
    shape = shape_of(size)
    if shape is None:
        return Opaque("a tensor of unknown size")
    return _allocated(dtype, F32, shape)


def _allocated(dtype: Any, default: DType, shape: Sequence[Size]) -> HostTensor | Opaque:
    if isinstance(dtype, Opaque):
        return Opaque("a tensor of unknown dtype")
    return fresh(dtype if isinstance(dtype, DType) else default, shape)


@fn("full")
def _full(ev: Evaluator, size: Any, value: Any = None, dtype: Any = None, **_: Any) -> Any:
    shape = shape_of((size,))
    if shape is None:
        return Opaque("a tensor of unknown size")
    natural = BOOL if isinstance(value, bool) else I64 if isinstance(value, int) else F32
    return _allocated(dtype, natural, shape)


@fn("arange")
def _arange(ev: Evaluator, *args: Any, dtype: Any = None, **_: Any) -> Any:
    if not all(isinstance(a, (int, Size)) for a in args):
        return Opaque("torch.arange")
    start, stop = (0, args[0]) if len(args) == 1 else args[:2]
    step = args[2] if len(args) > 2 else 1
    length = (Size.of(stop) - Size.of(start)).ceildiv(step)
    return _allocated(dtype, I64, (length,))


@both("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
def _like(ev: Evaluator, x: HostTensor, *_: Any, dtype: Any = None, **__: Any) -> Any:
    if isinstance(dtype, Opaque):
        return Opaque("a tensor of unknown dtype")
    if dtype is not None and not isinstance(dtype, DType):
        return Opaque("a tensor of unknown dtype")
    return _same_layout(x, dtype or x.dtype)


def _same_layout(x: HostTensor, dtype: DType) -> HostTensor:
    """``empty_like``: dense with ``x``'s order of axes where that is known to be row-major."""
    shape = x.dims
    row_major = bool(shape) and len(x.strides) == len(shape) and x.strides[-1] == ONE
    if not shape or (row_major and not _column_major(x)):
        made = fresh(dtype, shape)
    else:
        made = HostTensor(dtype, shape, tuple(s if s == ONE else None for s in x.strides))
    made.follows = x.follows
    return made


def _column_major(x: HostTensor) -> bool:
    return len(x.strides) > 1 and x.strides[0] == ONE


@method("new_empty", "new_zeros", "new_ones")
def _new(ev: Evaluator, x: HostTensor, *size: Any, dtype: Any = None, **_: Any) -> Any:
    shape = shape_of(size)
    if shape is None:
        return Opaque("a tensor of unknown size")
    return _allocated(dtype, x.dtype, shape)


@method("new_full", "new_tensor")
def _new_full(
    ev: Evaluator, x: HostTensor, size: Any, *_: Any, dtype: Any = None, **__: Any
) -> Any:
    return _new(ev, x, size, dtype=dtype)


# -- dtype and layout changes --------------------------------------------------------------------


@method("to", "type", "cuda", "cpu")
def _to(ev: Evaluator, x: HostTensor, *args: Any, dtype: Any = None, **_: Any) -> Any:
    for arg in (dtype, *args):
        if isinstance(arg, Opaque) and arg.what.startswith("dtype"):
            return Opaque("a tensor of unknown dtype")
        if isinstance(arg, DType) and arg != x.dtype:
            return _same_layout(x, arg)
        if isinstance(arg, HostTensor) and arg.dtype != x.dtype:
            return _same_layout(x, arg.dtype)
    return _alias(x)


def _alias(x: HostTensor) -> HostTensor:
    return HostTensor(
        x.dtype, x.shape, x.strides,
        origin=x.origin or x.param, stable=x.stable, follows=x.follows, source=x.memory,
    )  # fmt: skip


def _register_casts() -> None:
    names = {"float": "f32", "double": "f64", "half": "f16", "bfloat16": "bf16", "int": "i32",
             "long": "i64", "bool": "bool"}  # fmt: skip
    for name, dtype in names.items():
        METHODS[name] = lambda ev, x, _d=dtypes.BY_NAME[dtype]: _to(ev, x, _d)


_register_casts()


@method("contiguous")
def _contiguous(ev: Evaluator, x: HostTensor, **_: Any) -> Any:
    made = fresh(x.dtype, x.dims)
    made.follows, made.source = x.follows, x.memory
    return made


@both("clone")
def _clone(ev: Evaluator, x: HostTensor, **_: Any) -> Any:
    return _same_layout(x, x.dtype)


@method("detach", "requires_grad_", "zero_", "fill_", "copy_", "data", "share_memory_")
def _self(ev: Evaluator, x: HostTensor, *_: Any, **__: Any) -> Any:
    return _alias(x)


# -- views ---------------------------------------------------------------------------------------


def _infer_hole(x: HostTensor, shape: Sequence[Any]) -> tuple[Size, ...] | None:
    known = ONE
    for s in shape:
        if not isinstance(s, (int, Size)):
            return None
        if s != -1:
            known = known * s
    if -1 not in [s if isinstance(s, int) else 0 for s in shape]:
        return tuple(Size.of(s) for s in shape)
    if x.shape is None and len(shape) == 1:
        return (Size.of(Sym(f"numel_{x.origin or x.param}", "dim")),)
    hole = x.numel() // known
    return tuple(hole if s == -1 else Size.of(s) for s in shape)


@both("reshape", "view")
def _reshape(ev: Evaluator, x: HostTensor, *size: Any) -> Any:
    if len(size) == 1 and isinstance(size[0], DType):
        return _view_dtype(x, size[0])
    items = size[0] if len(size) == 1 and isinstance(size[0], (list, tuple)) else size
    if isinstance(items, HostShape):
        items = items.unpacked(None)
    shape = _infer_hole(x, items)
    if shape is None:
        return Opaque("a view of unknown shape")
    if x.shape is not None and shape == x.shape:
        return _alias(x)
    if x.stable:
        return HostTensor(
            x.dtype, shape, contiguous_strides(shape),
            origin=x.origin or x.param, stable=True, source=x.memory,
        )  # fmt: skip
    unit = x.shape is None or (bool(x.strides) and x.strides[-1] == ONE)
    strides: list[Size | None] = [None] * len(shape)
    if shape and unit:
        strides[-1] = ONE
    return HostTensor(x.dtype, shape, tuple(strides), origin=x.origin or x.param, source=x.memory)


def _view_dtype(x: HostTensor, dtype: DType) -> Any:
    if dtype.bits != x.dtype.bits:
        return Opaque("a view as a dtype of another width")
    return HostTensor(
        dtype, x.shape, x.strides,
        origin=x.origin or x.param, stable=x.stable, source=x.memory,
    )  # fmt: skip


@method("view_as", "reshape_as")
def _view_as(ev: Evaluator, x: HostTensor, other: HostTensor) -> Any:
    return _reshape(ev, x, list(other.dims))


@both("flatten")
def _flatten(ev: Evaluator, x: HostTensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    rank = x.rank
    start, end = start_dim % rank, end_dim % rank
    middle = ONE
    for d in x.dims[start : end + 1]:
        middle = middle * d
    return _reshape(ev, x, [*x.dims[:start], middle, *x.dims[end + 1 :]])


def _permuted(x: HostTensor, order: Sequence[int]) -> HostTensor:
    return HostTensor(
        x.dtype,
        tuple(x.dims[i] for i in order),
        tuple(x.strides[i] for i in order),
        origin=x.origin or x.param,
        follows=x.follows,
        source=x.memory,
    )


@both("transpose", "swapaxes")
def _transpose(ev: Evaluator, x: HostTensor, a: int, b: int) -> Any:
    order = list(range(x.rank))
    order[a], order[b] = order[b], order[a]
    return _permuted(x, order)


@both("t")
def _t(ev: Evaluator, x: HostTensor) -> Any:
    return _permuted(x, list(reversed(range(x.rank))))


@both("permute")
def _permute(ev: Evaluator, x: HostTensor, *order: Any) -> Any:
    if len(order) == 1 and isinstance(order[0], (list, tuple)):
        order = tuple(order[0])
    return _permuted(x, [o % x.rank for o in order])


@both("unsqueeze")
def _unsqueeze(ev: Evaluator, x: HostTensor, dim: int) -> Any:
    at = dim if dim >= 0 else dim + x.rank + 1
    shape = (*x.dims[:at], ONE, *x.dims[at:])
    strides = (*x.strides[:at], None, *x.strides[at:])
    return HostTensor(
        x.dtype, shape, strides,
        origin=x.origin or x.param, follows=x.follows, source=x.memory,
    )  # fmt: skip


@both("squeeze")
def _squeeze(ev: Evaluator, x: HostTensor, dim: int | None = None) -> Any:
    if dim is None:
        keep = [i for i, d in enumerate(x.dims) if d != ONE]
    else:
        at = dim % x.rank
        if x.dims[at] != ONE:
            return Opaque("a squeeze of a dimension that may not be 1")
        keep = [i for i in range(x.rank) if i != at]
    return _permuted(x, keep)


@both("expand", "broadcast_to")
def _expand(ev: Evaluator, x: HostTensor, *size: Any) -> Any:
    shape = shape_of(size)
    if shape is None:
        return Opaque("an expansion to an unknown shape")
    pad = len(shape) - x.rank
    if pad < 0 and x.follows is not None:
        raise NeedFact(x.follows, more=pad)
    full = tuple(x.dims[i - pad] if s == Size.of(-1) else s for i, s in enumerate(shape))
    return _broadcast(x, full)


@method("expand_as")
def _expand_as(ev: Evaluator, x: HostTensor, other: HostTensor) -> Any:
    return _broadcast(x, other.dims)


def _broadcast(x: HostTensor, shape: tuple[Size, ...]) -> HostTensor:
    """Strides: 0 where a 1 is expanded, kept where the sizes agree, unknown otherwise."""
    pad = len(shape) - x.rank
    strides: list[Size | None] = [Size.of(0)] * pad
    for own, want, stride in zip(x.dims, shape[pad:], x.strides, strict=True):
        if own == want:
            strides.append(stride)
        else:
            strides.append(Size.of(0) if own == ONE else None)
    return HostTensor(x.dtype, shape, tuple(strides), origin=x.origin or x.param, source=x.memory)


@fn("broadcast_tensors")
def _broadcast_tensors(ev: Evaluator, *tensors: HostTensor) -> Any:
    shapes = [t.dims for t in tensors]
    rank = max(len(s) for s in shapes)
    out: list[Size] = [ONE] * rank
    for shape in shapes:
        for i, d in enumerate(shape):
            at = rank - len(shape) + i
            if out[at] in (ONE, d):
                out[at] = d
            elif d != ONE:
                # Two names: either may be 1 at run time, so only the result knows.
                out[at] = Size.of(Sym(f"broadcast_{at}", "dim"))
    return tuple(_broadcast(t, tuple(out)) for t in tensors)


@both("chunk", "split")
def _chunk(ev: Evaluator, x: HostTensor, parts: Any, dim: int = 0) -> Any:
    return Opaque("parts of a split tensor")


@both("narrow")
def _narrow(ev: Evaluator, x: HostTensor, dim: int, start: Any, length: Any) -> Any:
    shape = list(x.dims)
    shape[dim] = Size.of(length)
    return HostTensor(x.dtype, tuple(shape), x.strides, origin=x.origin or x.param, source=x.memory)


def subscript(ev: Evaluator, x: HostTensor, entries: Sequence[Any]) -> Any:
    """A view by integers, slices and None; anything else is opaque."""
    shape: list[Size] = []
    strides: list[Size | None] = []
    dims = list(zip(x.dims, x.strides, strict=True))
    entries = list(entries)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        given = sum(e is not None and e is not Ellipsis for e in entries)
        entries[at : at + 1] = [slice(None)] * (len(dims) - given)
    for entry in entries:
        if entry is None:
            shape.append(ONE)
            strides.append(None)
            continue
        if not dims:
            return Opaque("an element of a tensor")
        dim, stride = dims.pop(0)
        if isinstance(entry, (int, Size)) and not isinstance(entry, bool):
            continue
        if not isinstance(entry, slice) or not all(
            b is None or isinstance(b, (int, Size)) for b in (entry.start, entry.stop, entry.step)
        ):
            return Opaque("an element of a tensor")
        start, stop = _bound(entry.start, dim, 0), _bound(entry.stop, dim, dim)
        step = 1 if entry.step is None else entry.step
        shape.append((stop - start).ceildiv(step) if step != 1 else stop - start)
        strides.append(stride if step == 1 or stride is None else stride * step)
    shape += [d for d, _ in dims]
    strides += [s for _, s in dims]
    return HostTensor(
        x.dtype, tuple(shape), tuple(strides), origin=x.origin or x.param, source=x.memory
    )


def _bound(bound: Any, extent: Size, default: int | Size) -> Size:
    if bound is None:
        return Size.of(default)
    if isinstance(bound, int) and bound < 0:
        return extent + bound
    return Size.of(bound)


# -- queries -------------------------------------------------------------------------------------


@method("size")
def _size(ev: Evaluator, x: HostTensor, dim: Any = None) -> Any:
    if dim is None:
        return HostShape.of(x)
    if x.shape is None:
        raise NeedFact(x.origin or x.param or "?")
    if x.guessed and isinstance(dim, int) and not -x.rank <= dim < x.rank:
        raise NeedFact(x.param or "?", rank=dim + 1 if dim >= 0 else -dim, at_least=True)
    if not isinstance(dim, int) or not -x.rank <= dim < x.rank:
        ev.fail("KT0302", f"'{x.host or 'tensor'}' of rank {x.rank} has no dimension {dim}")
    return simplified(x.dims[dim])


@method("stride")
def _stride(ev: Evaluator, x: HostTensor, dim: Any = None) -> Any:
    if dim is None:
        return tuple(_stride(ev, x, i) for i in range(x.rank))
    stride = x.strides[dim]
    if stride is not None:
        return simplified(stride)
    name = x.host or "tensor"
    return Size.of(Sym(f"{name}_stride_{dim % x.rank}", "stride"))


@method("dim", "ndimension")
def _dim(ev: Evaluator, x: HostTensor) -> Any:
    return x.rank


@method("numel", "nelement")
def _numel(ev: Evaluator, x: HostTensor) -> Any:
    if x.shape is None:
        return Size.of(Sym(f"numel_{x.origin or x.param}", "dim"))
    return simplified(x.numel())


@method("element_size")
def _element_size(ev: Evaluator, x: HostTensor) -> Any:
    return max(1, x.dtype.bits // 8)


@method("item")
def _item(ev: Evaluator, x: HostTensor) -> Any:
    return HostNumber(x.dtype)


@method("is_floating_point")
def _is_floating(ev: Evaluator, x: HostTensor) -> Any:
    return x.dtype.is_float


@method("is_contiguous")
def _is_contiguous(ev: Evaluator, x: HostTensor) -> Any:
    return True if x.stable else HostNumber(BOOL)


def attribute(ev: Evaluator, x: HostTensor, name: str) -> Any:
    """Attributes that are no methods; None if ``name`` is none of them."""
    if name == "shape":
        return HostShape.of(x)
    if name == "dtype":
        return x.dtype
    if name == "device":
        return Device()
    if name == "ndim":
        return x.rank
    if name in ("T", "mT"):
        return _t(ev, x) if name == "T" else _transpose(ev, x, -2, -1)
    if name in ("is_cuda", "requires_grad", "grad"):
        return HostNumber(BOOL)
    return None


# -- reductions and arithmetic on whole tensors: shapes only ---------------------------------------


@both("sum", "mean", "amax", "amin", "max", "min", "prod")
def _reduce(ev: Evaluator, x: HostTensor, dim: Any = None, keepdim: bool = False, **kw: Any) -> Any:
    dtype = kw.get("dtype") if isinstance(kw.get("dtype"), DType) else x.dtype
    assert isinstance(dtype, DType)
    if dim is None:
        return fresh(dtype, ())
    if not isinstance(dim, int) or x.shape is None:
        return Opaque("a reduced tensor")
    shape = list(x.dims)
    if keepdim:
        shape[dim] = ONE
    else:
        del shape[dim]
    return fresh(dtype, shape)


@fn("promote_types", "result_type")
def _promote(ev: Evaluator, a: Any, b: Any) -> Any:
    a = a.dtype if isinstance(a, HostTensor) else a
    b = b.dtype if isinstance(b, HostTensor) else b
    if isinstance(a, DType) and isinstance(b, DType):
        return dtypes.promote(a, b) or Opaque("no promotion")
    return Opaque("a dtype")


@fn("device")
def _device(ev: Evaluator, *_: Any) -> Any:
    return Device()


@fn("tensor", "as_tensor")
def _tensor(ev: Evaluator, data: Any, *, dtype: Any = None, **_: Any) -> Any:
    if isinstance(data, (bool, int, float)):
        natural = BOOL if isinstance(data, bool) else I64 if isinstance(data, int) else F32
        return fresh(dtype if isinstance(dtype, DType) else natural, ())
    return Opaque("torch.tensor")


def math_function(name: str) -> Handler | None:
    """``math.NAME`` on host numbers: folded when constant, a host float otherwise."""
    function = getattr(math, name, None)
    if function is None:
        return None
    if not callable(function):
        return None

    def run(ev: Evaluator, *args: Any) -> Any:
        if all(isinstance(a, (int, float)) for a in args):
            try:
                return function(*args)
            except (ValueError, OverflowError, ZeroDivisionError, TypeError):
                return ev.fail("KT0407", f"math.{name}{tuple(args)} is undefined")
        if name == "ceil" or name == "floor":
            return HostNumber(I64)
        return HostNumber(F32)

    return run
