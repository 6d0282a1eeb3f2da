"""What each operation computes, on torch tensors.

The functions of the op table are torch's own; this module adds what torch on a CPU lacks
(arithmetic on unsigned integers, 8-bit floats) and fixes accumulation: sums and dots of narrow
floats are accumulated in f32.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from transpile.ir.dtypes import DType
from transpile.ir.ops import ELEMENTWISE, REDUCTIONS, Number

_PHILOX_KEY = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUND = (0xD2511F53, 0xCD9E8D57)
_MASK32 = 0xFFFFFFFF
_UNIFORM_SCALE = 4.6566127342e-10  # the largest float whose product with 2**31 - 1 is below 1


def torch_dtype(dtype: DType) -> Any:
    """The ``torch.dtype`` of an IR dtype."""
    return getattr(torch, dtype.torch)


def extreme(dtype: DType, which: str) -> Number:
    """The least ("min") or greatest ("max") value of a dtype, infinite where it has infinities."""
    if dtype.is_bool:
        return which == "max"
    if dtype.is_int:
        info = torch.iinfo(torch_dtype(dtype))
        return int(info.min if which == "min" else info.max)
    finite = float(torch.finfo(torch_dtype(dtype)).max)
    magnitude = finite if dtype.name in ("f8e4m3", "f4e2m1x2") else math.inf
    return -magnitude if which == "min" else magnitude


def poison(dtype: DType) -> Number:
    """A value that spoils whatever consumes it."""
    if dtype.is_bool:
        return True
    return math.nan if dtype.is_float else int(torch.iinfo(torch_dtype(dtype)).max) - 3


def full(shape: Sequence[int], value: Number, dtype: DType) -> Tensor:
    """A tensor of one value; 8-bit floats included."""
    if dtype.is_fp8:
        return torch.full(tuple(shape), float(value)).to(torch_dtype(dtype))
    return torch.full(tuple(shape), value, dtype=torch_dtype(dtype))


def same_as(value: Tensor, number: Number) -> Tensor:
    """Where ``value`` equals ``number`` (8-bit floats and wide unsigned integers included)."""
    if value.dtype in _UNSIGNED:
        return torch.from_numpy(value.numpy() == number)
    return (value.float() if value.is_floating_point() and value.itemsize < 4 else value) == number


# -- elementwise -------------------------------------------------------------------------------


_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def elementwise(name: str, args: Sequence[Tensor]) -> Tensor:
    """Operation ``name`` of the op table; operands have equal dtypes."""
    if any(a.dtype in _UNSIGNED for a in args):
        return _unsigned(name, args)
    function = _SPECIAL.get(name) or getattr(torch, ELEMENTWISE[name].torch)
    return function(*args)


def _floordiv(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return torch.floor_divide(a, b)
    return _safe_divisor(torch.floor_divide, a, b)


def _mod(a: Tensor, b: Tensor) -> Tensor:
    return torch.remainder(a, b) if a.is_floating_point() else _safe_divisor(torch.remainder, a, b)


def _safe_divisor(divide: Callable[..., Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Integer division that does not trap: lanes nobody looks at may divide by zero.

    Division by -1 is a negation, as the least integer has no quotient.
    """
    minus_one = b == -1 if b.dtype.is_signed else torch.zeros_like(b, dtype=torch.bool)
    quotient = divide(a, torch.where((b == 0) | minus_one, torch.ones_like(b), b))
    by_minus_one = -a if divide is torch.floor_divide else torch.zeros_like(a)
    return torch.where(minus_one, by_minus_one, quotient)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    if a.is_floating_point() and a.itemsize <= 4:  # one rounding
        return (a.double() * b.double() + c.double()).to(a.dtype)
    return a * b + c


_SPECIAL: dict[str, Callable[..., Tensor]] = {
    "floordiv": _floordiv, "mod": _mod, "fma": _fma,
}  # fmt: skip

_NUMPY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "floordiv": "floor_divide",
    "mod": "remainder", "neg": "negative", "abs": "absolute", "maximum": "maximum",
    "minimum": "minimum", "fmax": "maximum", "fmin": "minimum", "sign": "sign", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "invert",
    "shl": "left_shift", "shr": "right_shift", "where": "where", "pow": "power",
}  # fmt: skip


def _unsigned(name: str, args: Sequence[Tensor]) -> Tensor:
    """Unsigned integers wider than 8 bits, which torch only stores; numpy computes on them."""
    import numpy as np

    if name not in _NUMPY:  # the float-valued ones
        wide = torch.float64 if args[0].dtype is torch.uint64 else torch.int64
        result = elementwise(name, [a.to(wide) for a in args])
        return result.float() if result.is_floating_point() else result
    with np.errstate(all="ignore"):
        array = getattr(np, _NUMPY[name])(*(a.numpy() for a in args))
    return torch.from_numpy(np.array(array))


def cast(value: Tensor, dtype: DType, bitcast: bool) -> Tensor:
    """Conversion (truncating to integers, ``!= 0`` to bool) or reinterpretation."""
    target = torch_dtype(dtype)
    if bitcast:
        return value.contiguous().view(target)
    if value.dtype is torch.float8_e4m3fn or value.dtype is torch.float8_e5m2:
        value = value.float()
    return value.to(target)


# -- across lanes ------------------------------------------------------------------------------


def _widened(value: Tensor, target: DType) -> Tensor:
    """The value in the dtype in which it is summed or multiplied up."""
    if value.is_floating_point():
        return value if value.itemsize >= 4 else value.float()
    return value.view(torch.int64) if target.name == "u64" else value.to(torch.int64)


def _narrowed(value: Tensor, target: DType) -> Tensor:
    return value.view(torch.uint64) if target.name == "u64" else value.to(torch_dtype(target))


def reduce(name: str, value: Tensor, dim: int, keepdim: bool, target: DType) -> Tensor:
    """Reduction ``name`` of the op table along one axis, into ``target``."""
    if value.shape[dim] == 0:
        return _identity(name, value, dim, keepdim, target)
    if name in ("sum", "prod"):
        total = getattr(torch, name)(_widened(value, target), dim, keepdim=keepdim)
        return _narrowed(total, target)
    if name in ("any", "all"):
        result: Tensor = getattr(torch, name)(value != 0, dim, keepdim=keepdim)
        return result
    if name == "xor_sum":
        total = functools.reduce(lambda a, b: elementwise("xor", (a, b)), value.unbind(dim))
        return total.unsqueeze(dim) if keepdim else total
    comparable = _ordered(value)
    result = getattr(torch, REDUCTIONS[name].torch)(comparable, dim, keepdim=keepdim)
    return result.to(torch_dtype(target))


def _ordered(value: Tensor) -> Tensor:
    """The value in a dtype of the same order that torch can compare."""
    if value.dtype in (torch.uint16, torch.uint32) or value.dtype is torch.bool:
        return value.to(torch.int64)
    if value.dtype is torch.uint64:
        raise NotImplementedError("maximum of u64")
    return value.float() if value.is_floating_point() and value.itemsize == 1 else value


def _identity(name: str, value: Tensor, dim: int, keepdim: bool, target: DType) -> Tensor:
    identity = REDUCTIONS[name].identity
    number = extreme(target, identity) if isinstance(identity, str) else identity
    if REDUCTIONS[name].index:
        number = 0
    shape = list(value.shape)
    shape[dim : dim + 1] = [1] if keepdim else []
    return full(shape, number, target)


def scan(name: str, value: Tensor, dim: int, reverse: bool, target: DType) -> Tensor:
    """Inclusive "sum" or "prod" along one axis."""
    wide = _widened(value, target)
    wide = wide.flip(dim) if reverse else wide
    result = torch.cumsum(wide, dim) if name == "sum" else torch.cumprod(wide, dim)
    return _narrowed(result.flip(dim) if reverse else result, target)


_operands: list[torch.dtype] = []


@contextlib.contextmanager
def rounded_operands(dtype: torch.dtype) -> Iterator[None]:
    """Inside, products round their operands to ``dtype``, as a target's matrix units do."""
    _operands.append(dtype)
    try:
        yield
    finally:
        _operands.pop()


def dot(lhs: Tensor, rhs: Tensor, acc: Tensor | None, acc_dtype: DType, target: DType) -> Tensor:
    """``acc + lhs @ rhs`` from exact operand values; see :class:`transpile.ir.ir.Dot`."""
    if _operands:
        lhs, rhs = (x.to(_operands[-1]) if x.is_floating_point() else x for x in (lhs, rhs))
    wide = torch.float64 if lhs.dtype is torch.float64 else torch.float32
    if not lhs.is_floating_point():
        wide = torch.int32 if lhs.itemsize == 1 else torch.int64
    product = _narrowed(torch.matmul(lhs.to(wide), rhs.to(wide)), acc_dtype)
    if acc is None:
        return product.to(torch_dtype(target))
    if product.is_floating_point() and product.itemsize < 4:
        return (acc.float() + product.float()).to(torch_dtype(target))
    return (acc + product).to(torch_dtype(target))


def sort(value: Tensor, descending: bool, k: int | None) -> tuple[Tensor, Tensor]:
    """Stable sort along the last axis, or its first k."""
    values, indices = torch.sort(_ordered(value), dim=-1, descending=descending, stable=True)
    values = values.to(value.dtype)
    return (values, indices) if k is None else (values[..., :k], indices[..., :k])


# -- random numbers ----------------------------------------------------------------------------


def _mulhilo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of two 32-bit numbers (held in int64)."""
    low, high = b & 0xFFFF, b >> 16
    first = a * low  # below 2**48
    second = a * high  # below 2**48, at weight 2**16
    carry = (first >> 16) + (second & _MASK32)
    product_low = (first & 0xFFFF) | ((carry & 0xFFFF) << 16)
    product_high = (carry >> 16) + ((second >> 32) << 16)
    return product_high & _MASK32, product_low & _MASK32


def philox(seed: Tensor, offset: Tensor) -> Tensor:
    """First output word of Philox4x32-10 for key ``seed`` and counter ``offset``, as int32.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the same words as
    ``tl.randint(seed, offset)`` for 32-bit offsets.
    """
    counter = offset.to(torch.int64)
    key = int(seed)
    keys = [key & _MASK32, (key >> 32) & _MASK32]
    c = [counter & _MASK32, (counter >> 32) & _MASK32, *(torch.zeros_like(counter),) * 2]
    for _ in range(10):
        high0, low0 = _mulhilo(_PHILOX_ROUND[0], c[0])
        high1, low1 = _mulhilo(_PHILOX_ROUND[1], c[2])
        c = [high1 ^ c[1] ^ keys[0], low1, high0 ^ c[3] ^ keys[1], low0]
        keys = [(k + step) & _MASK32 for k, step in zip(keys, _PHILOX_KEY, strict=True)]
    return torch.where(c[0] >= 2**31, c[0] - 2**32, c[0]).to(torch.int32)


def uniform(bits: Tensor) -> Tensor:
    """int32 words to f32 in [0, 1), as Triton maps them."""
    return torch.where(bits < 0, -bits - 1, bits).float() * _UNIFORM_SCALE
