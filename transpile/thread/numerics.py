"""What the operations of thread IR compute, on numpy arrays.

An array of IR dtype f16, f32, f64, an integer or bool has that dtype in numpy too. numpy lacks bf16
and the 8-bit floats: their values are held as f32, rounded to the type, and in memory stand as the
integers with their bits (:func:`encoded`, :func:`decoded`). Single values are arrays of shape (1,).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transpile.ir.dtypes import DType
from transpile.ir.ops import ELEMENTWISE, Number

_STORED = {"bf16": np.uint16, "f8e4m3": np.uint8, "f8e5m2": np.uint8, "f4e2m1x2": np.uint8}


def held(dtype: DType) -> Any:
    """The numpy dtype that values of an IR dtype are computed in."""
    return np.dtype(np.float32 if dtype.name in _STORED else dtype.torch)


def stored(dtype: DType) -> Any:
    """The numpy dtype of an IR dtype in memory."""
    return np.dtype(_STORED.get(dtype.name) or dtype.torch)


def full(shape: Sequence[int], value: Number, dtype: DType) -> np.ndarray:
    """An array of one value as it is held; integers wrap."""
    if dtype.is_int:
        number = np.array(int(value) & ((1 << dtype.bits) - 1), np.dtype(f"uint{dtype.bits}"))
        return np.full(tuple(shape), number.view(held(dtype)))
    return cast(np.full(tuple(shape), value), dtype)


def poison(dtype: DType) -> Number:
    """A value that spoils whatever consumes it."""
    if dtype.is_bool:
        return True
    return math.nan if dtype.is_float else (1 << (dtype.bits - dtype.signed)) - 4


# -- narrow floats -----------------------------------------------------------------------------


def encoded(value: np.ndarray, dtype: DType) -> np.ndarray:
    """Held values as they stand in memory; f32 is rounded to the nearest, ties to even."""
    if dtype.name == "bf16":
        word = value.astype(np.float32).view(np.uint32)
        rounded = word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
        quiet = word | np.uint32(0x400000)
        return (np.where(np.isnan(value), quiet, rounded) >> np.uint32(16)).astype(np.uint16)
    if dtype.is_fp8:
        return _encoded8(value, dtype)
    return value


def decoded(word: np.ndarray, dtype: DType) -> np.ndarray:
    """What stands in memory as it is held."""
    if dtype.name == "bf16":
        return (word.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _decoding(dtype)[word] if dtype.is_fp8 else word


#: The greatest code that rounding gives: e4m3fn saturates, as in torch, and e5m2 has an infinity.
_GREATEST = {"f8e4m3": 0x7E, "f8e5m2": 0x7C}


@functools.cache
def _magnitudes(name: str) -> np.ndarray:
    """The value of each code without sign, as if none were special (f64)."""
    mantissa, bias = (3, 7) if name == "f8e4m3" else (2, 15)
    code = np.arange(128)
    exponent, fraction = code >> mantissa, (code & ((1 << mantissa) - 1)) / (1 << mantissa)
    return np.ldexp(fraction + (exponent > 0), np.maximum(exponent, 1) - bias)


@functools.lru_cache
def _decoding(dtype: DType) -> np.ndarray:
    """The value of each of the 256 codes (f32)."""
    values = _magnitudes(dtype.name).astype(np.float32)
    values[_GREATEST[dtype.name] + 1 :] = np.nan
    if dtype.name == "f8e5m2":
        values[_GREATEST[dtype.name]] = np.inf
    return np.concatenate([values, -values])


def _encoded8(value: np.ndarray, dtype: DType) -> np.ndarray:
    greatest = _GREATEST[dtype.name]
    values = _magnitudes(dtype.name)[: greatest + 1]
    middles = (values[:-1] + values[1:]) / 2
    magnitude = np.abs(value.astype(np.float32)).astype(np.float64)
    code = np.searchsorted(middles, magnitude)
    tie = magnitude == middles[np.minimum(code, greatest - 1)]
    code = code + (tie & (code % 2 == 1))
    code = np.where(np.isnan(value), 0x7F, code) | (np.signbit(value).astype(np.int64) << 7)
    return code.astype(np.uint8)


# -- conversions -------------------------------------------------------------------------------


def cast(value: np.ndarray, dtype: DType) -> np.ndarray:
    """Conversion of held values: truncating to integers, which wrap, ``!= 0`` to bool."""
    if dtype.is_bool:
        return value != 0
    if dtype.is_int:
        if value.dtype.kind == "f" and dtype.bits < 64:
            value = value.astype(np.int64)
        return value.astype(held(dtype))
    if dtype.bits >= 32:
        return value.astype(held(dtype))
    value = value.astype(np.float32)  # narrower floats are rounded from f32, as torch does
    return (
        value.astype(np.float16) if dtype.name == "f16" else decoded(encoded(value, dtype), dtype)
    )


def bitcast(value: np.ndarray, source: DType, dtype: DType) -> np.ndarray:
    """Reinterpretation of held values."""
    return decoded(np.ascontiguousarray(encoded(value, source)).view(stored(dtype)), dtype)


# -- elementwise -------------------------------------------------------------------------------


def elementwise(name: str, args: Sequence[np.ndarray], dtype: DType) -> np.ndarray:
    """Operation ``name`` of the op table with a result of ``dtype``; operands have equal dtypes.

    What has a float result by its rule, ``pow`` and ``fma`` of floats are computed in f64 and
    rounded once (bf16 and 8-bit floats: once more).
    """
    function = _FUNCTIONS[name]
    if dtype.is_float and (ELEMENTWISE[name].rule == "float" or name in ("pow", "fma")):
        wide = [(a if a.dtype.kind == "f" else a.astype(np.float32)) for a in args]
        return cast(function(*(a.astype(np.float64) for a in wide)), dtype)
    if dtype.is_int and name in ("floor", "ceil", "round", "trunc"):
        return args[0]
    result: np.ndarray = function(*args)
    return cast(result, dtype) if dtype.name in _STORED else result


def _sign(a: np.ndarray) -> np.ndarray:
    """0 for NaN too, as in torch."""
    return a if a.dtype.kind == "b" else np.sign(np.where(np.isnan(a), np.zeros_like(a), a))


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "i":
        return np.power(a, b)
    parity = np.where(b % 2 == 0, a * a, a)  # of 1 and -1, which alone have negative powers
    inverse = np.where(np.abs(a) == 1, parity, np.zeros_like(a))
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


def _each(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the standard library on arrays of f64."""
    scalar = np.frompyfunc(function, 1, 1)
    return lambda a: scalar(a).astype(np.float64)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "neg": np.negative, "abs": np.absolute,
    "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin,
    "sign": _sign, "pow": _pow, "atan2": np.arctan2, "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "erf": _each(math.erf), "erfc": _each(math.erfc),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "trunc": np.trunc, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "isnan": np.isnan,
    "isinf": np.isinf, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "shl": np.left_shift, "shr": np.right_shift, "where": np.where,
    "fma": lambda a, b, c: a * b + c,
}  # fmt: skip


# -- random numbers ----------------------------------------------------------------------------

_PHILOX_KEY = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUND = (0xD2511F53, 0xCD9E8D57)
_MASK32 = 0xFFFFFFFF
_UNIFORM_SCALE = 4.6566127342e-10  # the largest float whose product with 2**31 - 1 is below 1


def philox(seed: int, offset: np.ndarray) -> np.ndarray:
    """First output word of Philox4x32-10 for key ``seed`` and counter ``offset``, as int32.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    mask, half = np.uint64(_MASK32), np.uint64(32)
    counter = offset.astype(np.int64).view(np.uint64)
    keys = [seed & _MASK32, (seed >> 32) & _MASK32]
    c = [counter & mask, counter >> half, *(np.zeros_like(counter),) * 2]
    for _ in range(10):
        first, second = c[0] * np.uint64(_PHILOX_ROUND[0]), c[2] * np.uint64(_PHILOX_ROUND[1])
        key0, key1 = (np.uint64(k) for k in keys)
        c = [
            (second >> half) ^ c[1] ^ key0, second & mask,
            (first >> half) ^ c[3] ^ key1, first & mask,
        ]  # fmt: skip
        keys = [(k + step) & _MASK32 for k, step in zip(keys, _PHILOX_KEY, strict=True)]
    return c[0].astype(np.uint32).view(np.int32)


def uniform(words: np.ndarray) -> np.ndarray:
    """int32 words to f32 in [0, 1): negative ones by their complement."""
    return np.where(words < 0, ~words, words).astype(np.float32) * np.float32(_UNIFORM_SCALE)
