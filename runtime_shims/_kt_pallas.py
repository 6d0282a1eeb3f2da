"""Run time of the Pallas modules that kt generates: argument checks and compiled functions.

Copied beside the generated files; needs jax, nothing else.

    kernel       decorator of a generated function: checks arguments, compiles once per shape
    INTERPRET    what the pallas_calls are told: KT_INTERPRET=1 runs kernels on the CPU
    pallas_call  pl.pallas_call for blocks that depend on shapes: asks for the memory they need
    check_vmem   refuses shapes whose blocks do not fit into a core's memory
    KtError      every complaint of this file

Arguments may be jax.Arrays, numpy arrays or torch tensors; results are jax.Arrays. The functions
can be called inside jax.jit, jax.vmap and jax.shard_map; there the arguments are checked by shape
and dtype only. Sizes are static: a new shape is a new compilation.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

#: False: compile for the TPU; True or a pltpu.InterpretParams: simulate on the CPU
INTERPRET: Any = os.environ.get("KT_INTERPRET") == "1"


class KtError(ValueError, TypeError):
    """The arguments of a generated function do not fit the signatures it was built for."""


# --------------------------------------------------------------------------------------------
# Signatures

_DTYPES = {
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32",
    "u32": "uint32", "i64": "int64", "u64": "uint64", "f16": "float16", "bf16": "bfloat16",
    "f32": "float32", "f64": "float64", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
}  # fmt: skip
_KT_NAMES = {name: kt_name for kt_name, name in _DTYPES.items()}
_NARROW = {"int64": "int32", "uint64": "uint32"}  # TPUs have no 64-bit integers


@dataclass(frozen=True)
class _Spec:
    """One parameter of a signature: a tensor (`dims`), a run-time scalar, or a fixed `value`."""

    text: str
    kind: str  # tensor, scalar, value
    dtype: str = ""
    dims: tuple[int | str, ...] = ()
    static: bool = False
    value: Any = None


def _parse(text: str) -> _Spec:
    static = text.startswith("static ")
    bare = text.removeprefix("static ")
    if match := re.fullmatch(r"(\w+)\[([^\]]*)\](?:\{[^}]*\})?", bare):
        names = [name.strip() for name in match[2].split(",") if name.strip()]
        dims = tuple(int(name) if name.isdigit() else name for name in names)
        return _Spec(bare, "tensor", _DTYPES[match[1]], dims)
    if bare in _DTYPES:
        return _Spec(bare, "scalar", _DTYPES[bare], static=static)
    if bare in _KT_NAMES:
        return _Spec(bare, "value", static=True, value=jnp.dtype(bare))
    try:
        return _Spec(bare, "value", static=True, value=ast.literal_eval(bare))
    except (ValueError, SyntaxError):
        return _Spec(bare, "any", static=True)  # something that the source file defines


def _describe(value: Any) -> str:
    """What was passed, in the words of the signature: `bf16[128,64]`."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        sizes = ",".join(map(str, value.shape))
        name = str(value.dtype).removeprefix("torch.")
        return f"{_KT_NAMES.get(name, name)}[{sizes}]"
    return f"{type(value).__name__} {value!r:.60}"


def no_signature(kernel: str, **arguments: Any) -> KtError:
    """The error of a call that none of a generated function's signatures fits."""
    got = ", ".join(f"{name}={_describe(value)}" for name, value in arguments.items())
    return KtError(
        f"{kernel}: no kernel was built for these arguments: {got}. Add their signature to the "
        "project file (or --arg) and rebuild; the file's header lists what it was built for."
    )


# --------------------------------------------------------------------------------------------
# Calls


def kernel(
    *alternatives: Mapping[str, str], **signature: str
) -> Callable[[Callable[..., Any]], Any]:
    """Decorator of a generated function.

    Args:
        alternatives: one dict per signature that the function was built for; or
        signature: the only one. A parameter is `dtype[dims]` (dims of one name must agree), the
            dtype of a run-time scalar (`static` before it: compiled in), or a literal, which is
            the only value that the function was built for.

    The function is compiled once per combination of shapes, dtypes and static values. Raises
    KtError for arguments that fit no signature.
    """
    texts = alternatives or (signature,)
    parsed = [{name: _parse(text) for name, text in one.items()} for one in texts]
    return lambda function: _Kernel(function, parsed)


class _Kernel:
    """A generated function with its signatures; called like the function."""

    def __init__(
        self, function: Callable[..., Any], signatures: Sequence[Mapping[str, _Spec]]
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.signatures = signatures
        self.parameters = inspect.signature(function)
        self.accepted: set[Any] = set()
        self.compiled: dict[Any, Callable[..., Any]] = {}
        traced = {
            name
            for signature in signatures
            for name, spec in signature.items()
            if spec.kind in ("tensor", "scalar") and not spec.static
        }
        listed = {name for signature in signatures for name in signature}
        # what no signature speaks of is an array where it looks like one
        self.unlisted = set(self.parameters.parameters) - listed
        self.static = listed - traced
        self.floats = {
            name
            for signature in signatures
            for name, spec in signature.items()
            if spec.kind == "scalar" and "float" in spec.dtype
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {name: self._admitted(name, v) for name, v in bound.arguments.items()}
        static = self.static | {n for n in self.unlisted if not _is_array(given[n])}
        key = tuple(
            (v.shape, v.dtype) if _is_array(v) else v if n in static else type(v)
            for n, v in given.items()
        )
        if key not in self.accepted:
            self._check(given)
            self.accepted.add(key)
        mode = self._mode(given)
        run = self.compiled.get((mode, *sorted(static)))
        if run is None:
            run = self.compiled[(mode, *sorted(static))] = self._jitted(mode, static)
        return run(**given)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Lower without running: `matmul.lower(jax.ShapeDtypeStruct(...), ...).compile()`."""
        return jax.jit(self.function, static_argnames=sorted(self.static)).lower(*args, **kwargs)

    def _jitted(self, mode: Any, static: set[str]) -> Callable[..., Any]:
        def run(**given: Any) -> Any:  # a new function for each mode: jax keeps traces by function
            if mode not in (False, _EMPTY):
                _describe_cpu()
            if mode == _EMPTY:
                with _without_kernels(self):
                    return self.function(**given)
            return self.function(**given)

        run.__name__ = self.function.__name__
        return jax.jit(run, static_argnames=sorted(static))

    def _mode(self, given: Mapping[str, Any]) -> Any:
        """How to run: as INTERPRET says, or without kernels where there is nothing to compute."""
        arrays = [v for v in given.values() if _is_array(v)]
        if any(0 in v.shape for v in arrays):
            return _EMPTY
        mode = self.function.__globals__["kt"].INTERPRET
        traced = any(isinstance(v, jax.core.Tracer) for v in arrays)
        if mode is False and not traced and jax.default_backend() != "tpu":
            raise KtError(
                f"{self.__name__}: there is no TPU here (jax runs on {jax.default_backend()}); "
                "KT_INTERPRET=1 simulates the kernels on the CPU"
            )
        return mode

    # -- arguments ---------------------------------------------------------------------------

    def _admitted(self, name: str, value: Any) -> Any:
        """Arrays as jax.Arrays with element types that TPUs have; numbers as Python's, so that they
        do not widen an array's element type; lists as tuples."""
        if isinstance(value, list):
            return tuple(value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int) and not isinstance(value, bool) and name in self.floats:
            return float(value)
        if name in self.static:
            return _dtype_of_torch(value)
        if isinstance(value, jax.Array | np.ndarray) or hasattr(value, "__dlpack__"):
            return _admit(f"{self.__name__}: {name}", value)
        return value

    def _check(self, given: Mapping[str, Any]) -> None:
        problems = [self._problem(signature, given) for signature in self.signatures]
        if not all(problems):
            return
        if len(problems) == 1:
            raise KtError(f"{self.__name__}: {problems[0]}")
        raise no_signature(self.__name__, **given)

    def _problem(self, signature: Mapping[str, _Spec], given: Mapping[str, Any]) -> str:
        """Why the arguments do not fit a signature, or "" if they do."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, value in given.items():
            spec = signature.get(name)
            if spec is None:
                problem = self._unlisted_problem(name, value)
            elif spec.kind == "tensor":
                problem = _tensor_problem(name, spec, value, sizes)
            elif spec.kind == "scalar":
                problem = _scalar_problem(name, spec, value)
            elif spec.kind == "value" and not _same(spec.value, value):
                problem = f"{name} must be {spec.text}, got {_describe(value)}"
            else:
                problem = ""
            if problem:
                return problem
        return ""

    def _unlisted_problem(self, name: str, value: Any) -> str:
        """A function that was compiled in cannot be another one; numbers have 32 bits."""
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            return f"{name} is {value}; TPUs have 32-bit integers"
        default = self.parameters.parameters[name].default
        optional = default is not inspect.Parameter.empty
        if optional and callable(default) and value is not default:
            return f"{name} is compiled in; set it with --set and rebuild"
        return ""


_EMPTY = "without elements"
_LAUNCH = contextvars.ContextVar("_LAUNCH", default=pl.pallas_call)


@contextlib.contextmanager
def _without_kernels(called: _Kernel) -> Iterator[None]:
    """Inside, pallas_calls of a function whose arguments have no elements run nothing: blocks of no
    elements do not lower. Their results must be empty too, or be changed arguments."""
    scope = called.function.__globals__
    pallas = scope["pl"]

    def pallas_call(*_: Any, out_shape: Any, **options: Any) -> Callable[..., Any]:
        aliases = {out: i for i, out in options.get("input_output_aliases", {}).items()}

        def result(number: int, shape: Any, args: Sequence[Any]) -> Any:
            if number in aliases:
                return args[aliases[number]]
            if 0 not in shape.shape:
                raise KtError(
                    f"{called.__name__}: an argument has no elements, but a result of shape "
                    f"{tuple(shape.shape)} does; compute it without the kernel"
                )
            return jnp.zeros(shape.shape, shape.dtype)

        def call(*args: Any) -> Any:
            if not isinstance(out_shape, tuple | list):
                return result(0, out_shape, args)
            return [result(i, shape, args) for i, shape in enumerate(out_shape)]

        return call

    def cdiv(a: int, b: int) -> int:
        return pallas.cdiv(a, b) if b else 0  # a block is no longer than its dimension

    stand_ins = {"pallas_call": pallas_call, "cdiv": cdiv}
    scope["pl"] = types.SimpleNamespace(**(vars(pallas) | stand_ins))
    token = _LAUNCH.set(pallas_call)
    try:
        yield
    finally:
        _LAUNCH.reset(token)
        scope["pl"] = pallas


@functools.cache
def _describe_cpu() -> None:
    """Inner pipelines ask the device for its tiling, also where they are interpreted."""
    with contextlib.suppress(ImportError, AttributeError):  # not public; JAX may move it
        from jax._src.pallas.mosaic import tpu_info

        chip = tpu_info.ChipVersion.TPU_V6E
        tpu_info.registry.setdefault("cpu", lambda: tpu_info.get_tpu_info_for_chip(chip, 1))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array)  # tracers are too


def _same(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, np.dtype):
        with contextlib.suppress(TypeError):
            return bool(jnp.dtype(value) == wanted)
        return False
    return type(wanted) is type(value) and bool(wanted == value)


def _tensor_problem(name: str, spec: _Spec, value: Any, sizes: dict[str, tuple[int, str]]) -> str:
    must = f"{name} must be {spec.text}, got {_describe(value)}"
    if not _is_array(value):
        return must
    if str(value.dtype) != _NARROW.get(spec.dtype, spec.dtype):
        return f"{must}; convert it, or build for this dtype"
    if len(value.shape) != len(spec.dims):
        return f"{must}; it has {len(value.shape)} dimensions instead of {len(spec.dims)}"
    for i, (dim, size) in enumerate(zip(spec.dims, value.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                return f"{must}; dimension {i} must be {dim}"
        elif dim != "_":
            known, where = sizes.setdefault(dim, (size, name))
            if known != size:
                return f"{must}; {dim} is {known} in {where}"
    return ""


def _scalar_problem(name: str, spec: _Spec, value: Any) -> str:
    must = f"{name} must be a number ({spec.text}), got {_describe(value)}"
    if _is_array(value):
        return must if value.shape else ""
    if not isinstance(value, bool | int | float):
        return must
    if "int" in spec.dtype:
        narrow = np.iinfo(_NARROW.get(spec.dtype, spec.dtype))
        if isinstance(value, float):
            return must
        if not narrow.min <= int(value) <= narrow.max:
            return f"{must}; TPUs have 32-bit integers"
    return ""


# --------------------------------------------------------------------------------------------
# Arrays of other libraries


def _admit(what: str, value: Any) -> jax.Array:
    """The array for JAX: 64-bit integers become 32-bit ones if their values allow it."""
    if isinstance(value, jax.core.Tracer):
        return _narrowed(value)
    if isinstance(value, jax.Array):
        _check_range(what, value)
        return _narrowed(value)
    if isinstance(value, np.ndarray):
        if value.dtype == np.float64:  # jax would round it without a word
            raise KtError(f"{what}: TPUs have no f64; convert it to f32")
        _check_range(what, value)
        return jnp.asarray(_narrowed(value))
    return _from_torch(what, value)


def _narrowed(value: Any) -> Any:
    name = str(value.dtype)
    return value.astype(_NARROW[name]) if name in _NARROW else value


def _check_range(what: str, value: Any) -> None:
    narrow = _NARROW.get(str(value.dtype))
    if narrow is None or value.size == 0:
        return
    low, high = int(value.min()), int(value.max())
    if low < np.iinfo(narrow).min or high > np.iinfo(narrow).max:
        raise KtError(
            f"{what}: its values ({low} to {high}) do not fit {_KT_NAMES[narrow]}, and TPUs have "
            "no 64-bit integers"
        )


def _from_torch(what: str, value: Any) -> jax.Array:
    """A torch tensor (or another library's) through dlpack, without a copy where possible."""
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if name == "float64":
        raise KtError(f"{what}: TPUs have no f64; convert it to f32")
    if hasattr(value, "detach"):
        value = value.detach().contiguous()
        if name in ("int64", "uint64"):
            array = value.numpy()
            _check_range(what, array)
            return jnp.asarray(_narrowed(array))
        if name.startswith("float8"):  # dlpack of older versions does not know them
            import torch

            raw = jnp.from_dlpack(value.view(torch.uint8))
            return _placed(jax.lax.bitcast_convert_type(raw, name))
    return _placed(jnp.from_dlpack(value))


def _placed(value: jax.Array) -> jax.Array:
    """On the default device, where a computation with other arrays expects it."""
    return jax.device_put(value, jax.devices()[0])


def _dtype_of_torch(value: Any) -> Any:
    """torch.float16 as a jax dtype; other values as they are."""
    text = str(value)
    if text.startswith("torch.") and text.removeprefix("torch.") in _KT_NAMES:
        return jnp.dtype(text.removeprefix("torch."))
    return value


def widened(*arrays: jax.Array) -> Any:
    """Arrays as kernels take them: float16, which Mosaic lacks, as float32, others as they are."""
    wide = [x.astype(jnp.float32) if x.dtype == jnp.float16 else x for x in arrays]
    return wide[0] if len(wide) == 1 else tuple(wide)


# --------------------------------------------------------------------------------------------
# Blocks and loops


def block_rows(width: int, least: int) -> int:
    """How many rows of a width a block holds: a power of two, for about 2**18 elements (1 MiB of
    f32, with which copies take long enough to hide what a grid step costs), no fewer than
    ``least``."""
    return max(least, 1 << max(0, (2**18 // max(width, 1)).bit_length() - 1))


def turns(length: int, block: int, most: int = 8) -> int:
    """How many blocks of a dimension one grid step walks: all steps walk the same number of them,
    at most ``most``, whose code is written out."""
    blocks = -(-length // block) if block else 0
    return max(n for n in range(1, most + 1) if blocks % n == 0)


# --------------------------------------------------------------------------------------------
# Tensors in HBM that index tiles access


def rows(x: jax.Array, part: int = 1) -> jax.Array:
    """A tensor as a matrix of its rows, which are padded to a multiple of `part`."""
    matrix = x.reshape(-1, x.shape[-1])
    more = -x.shape[-1] % part
    return jnp.pad(matrix, ((0, 0), (0, more))) if more else matrix


def lanes(x: jax.Array) -> jax.Array:
    """A tensor as rows of 128 elements each; the last one is padded."""
    flat = x.reshape(-1)
    more = -flat.size % 128
    return (jnp.pad(flat, (0, more)) if more else flat).reshape(-1, 128)


# --------------------------------------------------------------------------------------------
# Memory


#: bytes of vector memory of a core, by the device kind that jax reports
_VMEM = {"TPU v5": 64 << 20, "TPU7x": 64 << 20}
_MOST_VMEM = 128 << 20
_KEPT = 1 << 18  # what the compiler keeps for itself


def pallas_call(
    kernel: Callable[..., None],
    *,
    out_shape: Any,
    compiler_params: Any,
    name: str,
    spilled_bytes: int = 0,
    pipeline_buffers: Sequence[Any] = (),
    **options: Any,
) -> Callable[..., Any]:
    """``pl.pallas_call`` with as much vector memory as its blocks need, which depend on the shapes.

    Args:
        kernel, out_shape, compiler_params, name, options: as for ``pl.pallas_call``.
        spilled_bytes: what values take that the compiler may have to keep in memory.
        pipeline_buffers: ``pltpu.VMEM(...)`` that ``pltpu.emit_pipeline`` makes in the kernel.

    Raises:
        KtError: the blocks do not fit into the memory of a core; it lists them.
    """
    launch = _LAUNCH.get()
    if launch is not pl.pallas_call:
        return launch(kernel, out_shape=out_shape, **options)
    specs = options.get("grid_spec")
    given = vars(specs) if specs is not None else options

    def call(*operands: Any) -> Any:
        needs = _buffers(kernel, given, operands, out_shape)
        for buffer in pipeline_buffers:
            row = f"{_described(tuple(buffer.shape), buffer.dtype)}, emit_pipeline"
            needs[row] = needs.get(row, 0) + _tiled(buffer.shape, buffer.dtype)
        needs["values that may be spilled"] = spilled_bytes
        most = _VMEM.get(_device_kind(), _MOST_VMEM) - _KEPT
        check_vmem(name, needs, most)
        room = min(sum(needs.values()) + (4 << 20), most)  # columns may be spilled, too
        params = dataclasses.replace(compiler_params, vmem_limit_bytes=room)
        run = launch(kernel, out_shape=out_shape, compiler_params=params, name=name, **options)
        return run(*operands)

    return call


def _buffers(
    kernel: Callable[..., None], given: Mapping[str, Any], operands: Sequence[Any], out_shape: Any
) -> dict[str, int]:
    """Bytes of a call's blocks and scratch buffers, by what they are."""
    names = [name.removesuffix("_ref") for name in inspect.signature(kernel).parameters]
    in_specs, out_specs, scratch = (
        given["in_specs"],
        given["out_specs"],
        given.get("scratch_shapes", ()),
    )
    outs = out_specs if isinstance(out_specs, Sequence) else [out_specs]
    shapes = out_shape if isinstance(out_shape, Sequence) else [out_shape]
    first = len(operands) - len(in_specs)  # behind the prefetched numbers
    pairs = [*zip(in_specs, operands[first:], strict=True), *zip(outs, shapes, strict=True)]
    copies = 2 if given.get("grid") else 1
    needs: dict[str, int] = {}
    for name, (spec, array) in zip(names[first:], pairs, strict=False):
        if spec.block_shape is not None:
            block = tuple(n for n in spec.block_shape if n is not None)
            twice = ", twice" if copies == 2 else ""
            needs[f"{name} {_described(block, array.dtype)}{twice}"] = copies * _tiled(
                block, array.dtype
            )
    for name, buffer in zip(names[first + len(pairs) :], scratch, strict=False):
        if "memory_space=VMEM" in str(buffer):
            shape = tuple(buffer.shape)
            needs[f"{name} {_described(shape, buffer.dtype)}, scratch"] = _tiled(
                shape, buffer.dtype
            )
    return needs


def _described(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{shape} {_KT_NAMES.get(jnp.dtype(dtype).name, dtype)}"


def _tiled(shape: Sequence[int], dtype: Any) -> int:
    """Bytes in whole tiles: (8, 128) words, more rows of packed elements; 1024 in one dimension."""
    size = jnp.dtype(dtype).itemsize
    if len(shape) == 1:
        return -(-shape[0] // 1024) * 1024 * size
    *lead, rows, lanes = (1, 1, *shape)
    sublanes = 32 // min(4, size)
    rows, lanes = -(-rows // sublanes) * sublanes, -(-lanes // 128) * 128
    return int(np.prod(lead)) * rows * lanes * size


def _device_kind() -> str:
    """The kind of device that is compiled for: the mesh's, else the default one."""
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return str((described or jax.devices()[0]).device_kind)


def check_vmem(kernel: str, needs: Mapping[str, int], limit: int) -> None:
    """Refuse shapes whose blocks do not fit.

    Args:
        kernel: the function's name.
        needs: what each buffer takes, in bytes, by a description of it.
        limit: bytes of vector memory that the kernel may use.
    """
    total = sum(needs.values())
    if total <= limit:
        return
    rows = "".join(f"\n  {n / 2**20:8.2f} MiB  {what}" for what, n in needs.items() if n)
    raise KtError(
        f"{kernel}: these shapes need {total / 2**20:.1f} MiB of VMEM, there are "
        f"{limit / 2**20:.1f}:{rows}\nBuild with smaller block sizes."
    )
