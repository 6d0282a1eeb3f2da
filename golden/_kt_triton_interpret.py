"""Repairs of Triton's interpreter, installed on import; `_kt_triton` imports it for KT_INTERPRET=1.

The interpreter keeps bf16 and fp8 values as raw bits in unsigned numpy arrays, and numpy then
computes on the bits. What is repaired here was seen failing in triton 3.6 and 3.9 with numpy 2.4
(tests/shims/test_interpreter.py has a case for each); it follows what a GPU computes:

    bf16        arithmetic, comparison, fma, dot, sum/max/min, cumsum/cumprod and atomic_add work
                on values; casts from integers and float64; constants (3.6)
    rounding    float casts to bf16 and fp8 round to nearest even (they truncated, or worse);
                fp8 saturates; NaN and inf of fp8 are read as such
    libdevice   the functions of triton.language.extra.libdevice compute instead of returning None
    loops       bounds and steps may be scalar tensors (3.6 with numpy 2.4)
    bool        Python bools as kernel arguments (3.6)

A grid runs one program after the other here, so that races and missing grid barriers do not show.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
from triton.runtime import interpreter

_Handle = interpreter.TensorHandle
_Builder = interpreter.InterpreterBuilder
_Array = np.ndarray[Any, Any]

# --------------------------------------------------------------------------------------------
# Conversions, by torch, whose CPU casts round to nearest even

_TORCH = {
    tl.bfloat16: torch.bfloat16,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
_LARGEST = {tl.float8e4nv: 448.0, tl.float8e5: 57344.0}
_TO_NEAREST = (None, interpreter._ir.ROUNDING_MODE.RTNE)


def _convert(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def convert(data: _Array, source: tl.dtype, target: tl.dtype, rounding: Any) -> Any:
        if source not in _TORCH or target not in _TORCH or rounding not in _TO_NEAREST:
            return original(data, source, target, rounding)
        values = torch.from_numpy(np.array(data)).view(_TORCH[source])
        if target in _LARGEST:  # the GPU's cast is .satfinite
            values = values.float().clamp(-_LARGEST[target], _LARGEST[target])
        bits = values.to(_TORCH[target]).view(getattr(torch, f"uint{target.primitive_bitwidth}"))
        return bits.numpy()

    return convert


def _is_bf16(value: Any) -> bool:
    return bool(value.dtype.scalar == tl.bfloat16)


def _widen(handle: Any) -> Any:
    """The f32 handle of a bf16 handle; any other as it is."""
    if not _is_bf16(handle):
        return handle
    return _Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _round(data: Any) -> Any:
    """The bf16 handle of numbers; comparisons keep their bools."""
    if data.dtype == np.bool_:
        return _Handle(data, tl.bfloat16)
    values = torch.from_numpy(np.array(data, dtype=np.float32))
    return _Handle(values.to(torch.bfloat16).view(torch.uint16).numpy(), tl.bfloat16)


# --------------------------------------------------------------------------------------------
# bf16


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast_impl(self: Any, source: Any, target: tl.dtype) -> Any:
        if target.scalar == tl.bfloat16 and not _is_bf16(source):
            return _round(source.data.astype(np.float32))
        return original(self, _widen(source), target)

    return cast_impl


def _elementwise(original: Callable[..., Any]) -> Callable[..., Any]:
    """unary_op(x, op), binary_op(x, y, op) and create_fma(x, y, z), on values."""

    def compute(self: Any, *operands: Any) -> Any:
        if not _is_bf16(operands[0]):
            return original(self, *operands)
        wide = (_widen(x) if isinstance(x, _Handle) else x for x in operands)
        return _round(original(self, *wide).data)

    return compute


def _clamp(original: Callable[..., Any]) -> Callable[..., Any]:
    def ternary_op(self: Any, x: Any, y: Any, z: Any, op: Any) -> Any:
        if op is np.clip and _is_bf16(x):
            return _round(np.clip(_widen(x).data, _widen(y).data, _widen(z).data))
        return original(self, x, y, z, op)  # np.where moves bits as well as values

    return ternary_op


def _dot(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, _widen(a), _widen(b), *rest)

    return create_dot


def _reduction(original: Callable[..., Any]) -> Callable[..., Any]:
    """numpy's own reductions and scans; other combine functions work tensor by tensor already."""

    def reduce(self: Any, operand: Any, *args: Any, **kwargs: Any) -> Any:
        first = operand[0] if isinstance(operand, tuple) else operand
        if not _is_bf16(first):
            return original(self, operand, *args, **kwargs)
        handle = _widen(first.handle)
        results = original(self, self.to_tensor(handle.data, tl.float32), *args, **kwargs)
        if isinstance(results, tl.tensor):
            return _narrow(results)
        return type(results)(_narrow(result) for result in results)

    return reduce


def _narrow(result: Any) -> Any:
    if result.dtype != tl.float32:  # the index of argmax
        return result
    kind = result.type.with_element_ty(tl.bfloat16) if result.type.is_block() else tl.bfloat16
    return tl.tensor(_round(result.handle.data), kind)


def _atomic(original: Callable[..., Any]) -> Callable[..., Any]:
    """bf16 additions one after the other, as pointers may repeat."""
    add = interpreter._ir.ATOMIC_OP.FADD

    def create_atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, *rest: Any) -> Any:
        if op != add or not _is_bf16(value):
            return original(self, op, pointers, value, *rest)
        memory = interpreter._interpreter
        before = np.zeros(value.data.shape, np.uint16)
        for i in np.ndindex(before.shape):
            pointer, here = (np.array([x.data[i]]) for x in (pointers, rest[0]))
            old = memory.load(pointer, here, np.zeros(1, np.uint16), np.dtype(np.uint16))
            before[i] = old[0]
            total = _widen(_Handle(old, tl.bfloat16)).data + _widen(value).data[i]
            memory.store(pointer, _round(total).data, here)
        return _Handle(before, tl.bfloat16)

    return create_atomic_rmw


# --------------------------------------------------------------------------------------------
# libdevice: by the CUDA table's dtypes and symbols, computed in float64


def _special(name: str) -> Callable[..., Any]:
    function = getattr(torch.special, name)
    return lambda *args: np.asarray(function(*map(torch.from_numpy, args)))


def _round_away(x: _Array) -> Any:
    return np.trunc(x + np.copysign(0.5, x))


_SAME_IN_NUMPY = """
    sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh fabs floor ceil trunc rint
    cbrt hypot copysign nextafter fmod isnan isinf signbit ldexp abs
"""
_SYMBOLS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in _SAME_IN_NUMPY.split()},
    **{name: _special(name) for name in ("erf", "erfc", "erfinv", "erfcx")},
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "cospi": lambda x: np.cos(np.pi * x),
    "cyl_bessel_i0": _special("i0"),
    "cyl_bessel_i1": _special("i1"),
    "exp10": lambda x: np.power(10.0, x),
    "fdim": lambda x, y: np.maximum(x - y, 0.0),
    "finite": np.isfinite,
    "isfinite": np.isfinite,
    "fma": lambda x, y, z: x * y + z,
    "j0": _special("bessel_j0"),
    "j1": _special("bessel_j1"),
    "lgamma": _special("gammaln"),
    "llabs": np.abs,
    "llrint": np.rint,
    "llround": _round_away,
    "mulhi": lambda x, y: (x.astype(np.int64) * y.astype(np.int64)) >> 32,
    "nearbyint": np.rint,
    "normcdf": _special("ndtr"),
    "normcdfinv": _special("ndtri"),
    "pow": np.power,
    "powi": np.power,
    "rcbrt": lambda x: 1 / np.cbrt(x),
    "remainder": lambda x, y: x - y * np.rint(x / y),
    "rhypot": lambda x, y: 1 / np.hypot(x, y),
    "round": _round_away,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "saturate": lambda x: np.clip(x, 0.0, 1.0),
    "scalbn": np.ldexp,
    "sinpi": lambda x: np.sin(np.pi * x),
    "y0": _special("bessel_y0"),
    "y1": _special("bessel_y1"),
}
_SYMBOLS |= {f"fast_{name}": _SYMBOLS[name] for name in ("cos", "sin", "tan", "pow", "exp10")}
_SYMBOLS |= {f"fast_{name}": _SYMBOLS[name] for name in ("exp", "log", "log2", "log10")}
_SYMBOLS |= {"fast_fdivide": np.divide, "frsqrt_rn": _SYMBOLS["rsqrt"]}
for _kind in "fd":  # f32 and f64, rounded to nearest
    _SYMBOLS |= {f"{_kind}add_rn": np.add, f"{_kind}sub_rn": np.subtract}
    _SYMBOLS |= {f"{_kind}mul_rn": np.multiply, f"{_kind}div_rn": np.divide}
    _SYMBOLS |= {f"{_kind}sqrt_rn": np.sqrt, f"{_kind}rcp_rn": np.reciprocal}


def _extern(_self: Any, _library: str, _path: str, symbol: str, args: Any, *result: Any) -> Any:
    """create_extern_elementwise; `result` is its dtype, and whether the function is pure."""
    name = symbol.removeprefix("__nv_")
    compute = _SYMBOLS.get(name) or _SYMBOLS.get(name[:-1] if name[-1] in "fd" else "")
    if compute is None:
        raise NotImplementedError(f"libdevice's {symbol} in the interpreter")
    arrays = [arg.data for arg in args]
    exact = [x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x for x in arrays]
    with np.errstate(all="ignore"):
        data = np.asarray(compute(*exact))
        return _Handle(data.astype(interpreter._get_np_dtype(result[0])), result[0].scalar)


def _libdevice(name: str) -> Callable[..., Any]:
    function = getattr(cuda_libdevice, "tanh" if name == "fast_tanhf" else name)

    def call(*args: Any, _semantic: Any = None) -> Any:
        semantic = _semantic or interpreter.interpreter_semantic
        tensors = [x if isinstance(x, tl.tensor) else semantic.to_tensor(x) for x in args]
        return function(*tensors, _semantic=semantic)

    return call


# --------------------------------------------------------------------------------------------
# Arguments and loops


def _bool_argument(original: Callable[..., Any]) -> Callable[..., Any]:
    def convert(arg: Any) -> Any:
        if isinstance(arg, bool):
            return tl.tensor(_Handle(np.array([arg], dtype=np.bool_), tl.int1), tl.int1)
        return original(arg)

    return convert


def _index(original: Callable[..., Any]) -> Callable[..., Any]:
    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patch


# --------------------------------------------------------------------------------------------


def install_repairs() -> None:
    """Patch triton's interpreter, once however often it is called."""
    if hasattr(_Builder, "kt_repaired"):
        return
    _Builder.kt_repaired = True
    for owner, name, repair in (
        (interpreter, "_convert_float", _convert),
        (interpreter, "_implicit_cvt", _bool_argument),
        (interpreter, "_patch_lang_tensor", _index),
        (_Builder, "cast_impl", _cast),
        (_Builder, "unary_op", _elementwise),
        (_Builder, "binary_op", _elementwise),
        (_Builder, "ternary_op", _clamp),
        (_Builder, "create_fma", _elementwise),
        (_Builder, "create_dot", _dot),
        (_Builder, "create_atomic_rmw", _atomic),
        (interpreter.ReduceOps, "sum", _reduction),
        (interpreter.ReduceOps, "min_max", _reduction),
        (interpreter.ScanOps, "cumsum", _reduction),
        (interpreter.ScanOps, "cumprod", _reduction),
    ):
        setattr(owner, name, repair(getattr(owner, name)))
    _Builder.get_bf16 = lambda _self, value: _round(np.array([value]))
    _Builder.create_extern_elementwise = _extern
    for name, _ in inspect.getmembers(libdevice, inspect.isfunction):
        if hasattr(cuda_libdevice, name):
            setattr(libdevice, name, _libdevice(name))


install_repairs()
