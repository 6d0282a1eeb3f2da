"""Run time of the Metal modules that kt generates: argument checks and launches.

Copied beside the generated files. Needs torch, and a torch with the MPS device to run anything;
MLX arrays go through `mlx` (the file _kt_metal_mlx.py). It does what a Swift or C++ caller of the
.metal file does: buffers in the order of the kernel's parameters, the scalars as one packed
struct after them, and a dispatch of whole threadgroups.

    Library          the .metal file of a module, compiled once, when it is first needed
    Launcher         checks a kernel's arguments and launches it
    by_row           a launcher that chooses between kernels for shorter and longer rows
    mlx              a generated function for MLX arrays
    set_backend      something else than the GPU to run the kernels, for tests
    cdiv             rounded-up quotient, for grids
    num_sms          cores of the GPU
    KtError          every complaint of this file
"""

from __future__ import annotations

import importlib
import os
import re
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Extent = tuple[int, int, int]


class KtError(ValueError, TypeError):
    """The arguments of a generated function do not fit the signature it was built for."""


def cdiv(a: int, b: int) -> int:
    """The least integer that is not below a / b."""
    return -(-a // b)


# --------------------------------------------------------------------------------------------
# Signatures

_DTYPES = {
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32",
    "u32": "uint32", "i64": "int64", "u64": "uint64", "f16": "float16", "bf16": "bfloat16",
    "f32": "float32", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
    "f4e2m1x2": "float4_e2m1fn_x2",
}  # fmt: skip
_KT_NAMES = {getattr(torch, name, None): kt_name for kt_name, name in _DTYPES.items()}
#: members of a kernel's struct of scalars, as the struct module knows them
_CODES = {"bool": "?", "i32": "i", "u32": "I", "i64": "q", "u64": "Q", "f16": "e", "f32": "f"}


@dataclass(frozen=True)
class _Spec:
    """One tensor of a signature, `[out |inout ]dtype[dims]{minor-to-major}[ @16]`."""

    text: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]  # static size, name shared across the signature, or "_"
    minor: int | None  # the dim whose stride must be 1; None: any strides ({*}, or rank 0)
    access: str  # what the kernel does with it: "in", "out" or "inout"
    aligned: bool  # the kernel reads or writes vectors: it begins at a multiple of 16 bytes


def _parse(text: str) -> _Spec:
    match = re.fullmatch(r"(?:(out|inout) )?(\w+)\[([^\]]*)\](?:\{([^}]*)\})?( @16)?", text)
    if not match or match[2] not in _DTYPES:
        raise KtError(f"{text!r} is not a kt signature such as 'f16[M,K]' or 'bf16[K,N]{{0,1}}'")
    names = [name.strip() for name in match[3].split(",") if name.strip()]
    dims = tuple(int(name) if name.isdigit() else name for name in names)
    minor: int | None = len(dims) - 1 if dims else None
    if match[4] is not None:
        minor = None if match[4].strip() == "*" else int(match[4].split(",")[0])
    shown = text.removeprefix("out ").removeprefix("inout ").removesuffix(" @16")
    dtype = getattr(torch, _DTYPES[match[2]])
    return _Spec(shown, dtype, dims, minor, match[1] or "in", match[5] is not None)


def _describe(value: Any) -> str:
    """What was passed, in the words of the signature: `bf16[128,64] strides (64, 1) on mps:0`."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r:.60}"
    sizes = ",".join(map(str, value.shape))
    dtype = _KT_NAMES.get(value.dtype, value.dtype)
    return f"{dtype}[{sizes}] strides {tuple(value.stride())} on {value.device}"


def no_signature(kernel: str, **arguments: Any) -> KtError:
    """The error of a call that none of a generated function's signatures fits."""
    got = ", ".join(f"{name}={_describe(value)}" for name, value in arguments.items())
    return KtError(
        f"{kernel}: no kernel was built for these arguments: {got}. Add their signature to the "
        "project file (or --arg) and rebuild; the file's header lists what it was built for."
    )


def too_long(kernel: str, size: int, limit: int) -> KtError:
    """The error of a row that no kernel of a generated function has registers for."""
    return KtError(
        f"{kernel}: a row of {size} elements is too long, kernels were built for up to {limit}; "
        "rebuild with `reduction_loops` in the config, which walks rows in chunks"
    )


# --------------------------------------------------------------------------------------------
# What runs the kernels


class Compiled(Protocol):
    """A compiled .metal file."""

    def max_threads(self, kernel: str) -> int:
        """Threads that one threadgroup of the kernel may have on this device."""
        ...

    def launch(
        self, kernel: str, buffers: Sequence[torch.Tensor | bytes], groups: Extent, threads: Extent
    ) -> None:
        """Run `groups` threadgroups of `threads` threads; `buffers[n]` is [[buffer(n)]]."""
        ...


class Backend(Protocol):
    """`device` is the type of torch device that tensors must be on."""

    device: str

    def compile(self, source: str) -> Compiled: ...


class _Mps:
    """torch's own Metal compiler and stream. Its math mode is the precise one."""

    device = "mps"

    def compile(self, source: str) -> Compiled:
        return _MpsLibrary(torch.mps.compile_shader(source))


class _MpsLibrary:
    def __init__(self, library: Any) -> None:
        self.library = library

    def max_threads(self, kernel: str) -> int:
        return int(getattr(self.library, kernel).max_threads_per_threadgroup)

    def launch(
        self, kernel: str, buffers: Sequence[torch.Tensor | bytes], groups: Extent, threads: Extent
    ) -> None:
        # torch has no argument of raw bytes, but it packs a tuple of integers into one buffer.
        words = {i: "int32" for i, b in enumerate(buffers) if isinstance(b, bytes)}
        args = [
            struct.unpack(f"<{len(b) // 4}i", b) if isinstance(b, bytes) else b for b in buffers
        ]
        total = [g * t for g, t in zip(groups, threads, strict=True)]  # torch counts threads
        casts = {"arg_casts": words} if words else {}
        getattr(self.library, kernel)(*args, threads=total, group_size=list(threads), **casts)


_backend: Backend = _Mps()
_compiled: dict[str, Compiled] = {}  # by source text


def set_backend(backend: Backend | None) -> None:
    """Run kernels by something else; None for the GPU again. Forgets all compiled libraries."""
    global _backend  # noqa: PLW0603
    _backend = backend or _Mps()
    _compiled.clear()


class Library:
    """The Metal source of a module: a file beside it, or the text itself."""

    def __init__(self, module_file: str, name: str, text: str | None = None) -> None:
        self.path = os.path.join(os.path.dirname(os.path.abspath(module_file)), name)
        self._text = text

    @property
    def source(self) -> str:
        if self._text is None:
            with open(self.path, encoding="ascii") as file:
                self._text = file.read()
        return self._text

    def compiled(self) -> Compiled:
        """The library on the current backend; compiles at the first call."""
        known = _compiled.get(self.source)
        if known is None:
            known = _compiled[self.source] = _backend.compile(self.source)
        return known


# --------------------------------------------------------------------------------------------
# Launching


class Launcher:
    """Launches one kernel: `launch(groups, *tensors, *scalars)`.

    Args:
        library: where the kernel is.
        kernel: its name there.
        tensors: the signature of each tensor parameter, in parameter order, as
            `[out |inout ]dtype[dims][{order}][ @16]`. Dims of the same name must agree. The
            innermost stride must be 1, and `{..}` says which dim is innermost; `{*}` takes any
            strides. `@16`: a tensor that does not begin at a multiple of 16 bytes is copied.
        scalars: the members of the kernel's struct, which is its last buffer, and their dtypes.
        threads: the threadgroup the kernel was written for.
        index64: the kernel computes offsets in 64 bits, so that tensors may be of any size.
        views: tensors that the kernel was built for as views of one storage. Others that share
            memory with one that is written are passed as copies of what they are at the launch.

    A launch without threadgroups does nothing. Raises KtError for arguments that do not fit.
    """

    def __init__(
        self,
        library: Library,
        kernel: str,
        tensors: Mapping[str, str],
        scalars: Mapping[str, str] | None = None,
        *,
        threads: Extent,
        index64: bool = False,
        views: Sequence[Sequence[str]] = (),
    ) -> None:
        self.library = library
        self.kernel = kernel
        self.specs = {name: _parse(text) for name, text in tensors.items()}
        self.scalars = dict(scalars or {})
        codes = [_CODES[dtype] for dtype in self.scalars.values()]
        # In C's layout, and as many bytes as an array of the struct would have for each: to the
        # alignment of its largest member, and whole words.
        wide = max([4, *map(struct.calcsize, codes)])
        self.layout = struct.Struct(f"@{''.join(codes)}0{'q' if wide == 8 else 'i'}")
        self.threads = threads
        self.index64 = index64
        self.storage = [next((v[0] for v in views if name in v), name) for name in self.specs]
        self.checked: set[Any] = set()  # dtypes, shapes and strides that have passed
        self.ready: Compiled | None = None

    def __call__(self, groups: tuple[int, ...], *args: Any) -> None:
        tensors, scalars = args[: len(self.specs)], args[len(self.specs) :]
        try:
            key = tuple([(t.dtype, t.shape, t.stride(), t.device) for t in tensors])
        except AttributeError:
            key = None  # no tensor; the check says so
        if key is None or key not in self.checked:
            _check_tensors(self, tensors)
            if len(self.checked) >= 1024:
                self.checked.clear()
            self.checked.add(key)
        x, y, z = (*groups, 1, 1)[:3]
        if 0 in groups:
            return
        buffers = [*tensors, self.pack(scalars)] if self.scalars else list(tensors)
        launch = _recorders[-1] if _recorders else self.run
        launch(self, buffers, (x, y, z))

    def pack(self, values: Sequence[Any]) -> bytes:
        """The struct of scalars as bytes."""
        plain = [v.item() if isinstance(v, torch.Tensor) else v for v in values]
        try:
            return self.layout.pack(*plain)
        except struct.error as problem:
            got = ", ".join(f"{n}={v!r}" for n, v in zip(self.scalars, plain, strict=False))
            advice = 'rebuild with --config \'{"index_dtype": "int64"}\' for larger sizes'
            raise KtError(f"{self.kernel}: cannot pass {got}: {problem}; {advice}") from None

    def run(self, _: Launcher, buffers: list[Any], groups: Extent) -> None:
        """Launch on the backend, the pipeline's own limit checked when it is new."""
        library = self.library.compiled()
        if library is not self.ready:
            x, y, z = self.threads
            limit = library.max_threads(self.kernel)
            if x * y * z > limit:
                raise KtError(
                    f"{self.kernel} needs threadgroups of {x * y * z} threads, but this device "
                    f"runs it with at most {limit} (registers); rebuild with "
                    f"--config '{{\"num_threads\": {limit // 32 * 32}}}' or smaller blocks"
                )
            self.ready = library
        self.separate(buffers)
        copies = self.align(buffers)
        library.launch(self.kernel, buffers, groups, self.threads)
        for tensor, copy in copies:
            tensor.copy_(copy)

    def separate(self, buffers: list[Any]) -> None:
        """Puts copies in place of tensors that are read where another is written."""
        specs = list(self.specs.items())
        places = [t.untyped_storage().data_ptr() for t in buffers[: len(specs)]]
        if len(set(places)) == len(places):
            return
        for i, (name, spec) in enumerate(specs):
            for j, (other, rival) in enumerate(specs):
                apart = places[i] != places[j] or self.storage[i] == self.storage[j]
                if i == j or apart or rival.access == "in" or not _overlap(buffers[i], buffers[j]):
                    continue
                if spec.access != "in":
                    if not (buffers[i].is_contiguous() and buffers[j].is_contiguous()):
                        continue  # rows of one may lie between those of the other
                    raise KtError(
                        f"{self.kernel}: {name} and {other} share memory, and the kernel writes "
                        "both; pass tensors of their own"
                    )
                buffers[i] = torch.empty_strided(
                    buffers[i].size(), buffers[i].stride(), dtype=buffers[i].dtype,
                    device=buffers[i].device,
                ).copy_(buffers[i])  # fmt: skip
                break

    def align(self, buffers: list[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Puts copies in place of tensors that begin where vectors cannot; returns those that
        are to be copied back."""
        back = []
        for i, spec in enumerate(self.specs.values()):
            tensor = buffers[i]
            if spec.aligned and tensor.storage_offset() * tensor.element_size() % 16:
                if self.storage.count(self.storage[i]) > 1:
                    raise _error(
                        self, list(self.specs)[i], tensor,
                        "it must begin at a multiple of 16 bytes of its storage, as other "
                        "arguments are views of it: pass a .clone()",
                    )  # fmt: skip
                buffers[i] = torch.empty_strided(
                    tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device
                ).copy_(tensor)
                if spec.access != "in":
                    back.append((tensor, buffers[i]))
        return back


def by_row(
    library: Library,
    row: str,
    kernels: Mapping[int | None, tuple[str, int]],
    tensors: Mapping[str, str],
    scalars: Mapping[str, str],
    *,
    index64: bool = False,
    views: Sequence[Sequence[str]] = (),
) -> Callable[..., None]:
    """A launcher that chooses its kernel by the length of a row.

    Args:
        row: the scalar that says how long a row is.
        kernels: kernel and number of threads for rows up to each length, the least first; for
            None, of any length.
        library, tensors, scalars, index64, views: see Launcher; all kernels have the same ones.
    """
    options: dict[str, Any] = {"index64": index64, "views": views}
    launchers = [
        (limit, Launcher(library, kernel, tensors, scalars, threads=(n, 1, 1), **options))
        for limit, (kernel, n) in kernels.items()
    ]
    position = len(tensors) + list(scalars).index(row)

    def launch(groups: tuple[int, ...], *args: Any) -> None:
        for limit, launcher in launchers:
            if limit is None or args[position] <= limit:
                return launcher(groups, *args)
        raise too_long(launchers[0][1].kernel, args[position], max(n or 0 for n, _ in launchers))

    return launch


#: what takes launches instead of the backend, innermost last (see _kt_metal_mlx.py)
_recorders: list[Callable[[Launcher, list[Any], Extent], None]] = []


def mlx(function: Callable[..., Any]) -> Callable[..., Any]:
    """The generated function for MLX arrays: `kt.mlx(softmax)(x)`."""
    package = __name__.rpartition(".")[0]
    name = "_kt_metal_mlx"
    module = importlib.import_module(f"{package}.{name}" if package else name)
    wrapped: Callable[..., Any] = module.wrap(function, sys.modules[__name__])
    return wrapped


# --------------------------------------------------------------------------------------------
# Checks

#: elements from a tensor's first that 32-bit offsets reach, and less: the last block of a kernel
#: counts beyond the end before it compares
_REACH = 2**31 - 2**20


def _check_tensors(launch: Launcher, tensors: Sequence[Any]) -> None:
    """Raise KtError unless the tensors fit the signatures."""
    device = "meta" if _recorders else _backend.device
    sizes: dict[str, tuple[int, str]] = {}  # named dim: its size, and the parameter that set it
    first: torch.device | None = None
    for (name, spec), value in zip(launch.specs.items(), tensors, strict=True):
        if not isinstance(value, torch.Tensor):
            raise _error(launch, name, value, "pass a torch tensor")
        if value.dtype != spec.dtype and not _stored_as_bytes(value, spec):
            advice = f"convert it with .to({spec.dtype}), or build the kernel for its dtype"
            raise _error(launch, name, value, advice)
        if value.device.type != device:
            raise _error(launch, name, value, f'move it to the GPU with .to("{device}")')
        first = first or value.device
        if value.device != first:
            advice = f"move it to {first}, where the tensors before it are"
            raise _error(launch, name, value, advice)
        if value.dim() != len(spec.dims):
            raise _error(launch, name, value, f"pass a tensor of rank {len(spec.dims)}")
        _check_dims(launch, name, value, sizes)
        reach = _check_layout(launch, name, value)
        if reach >= _REACH and not launch.index64:
            advice = (
                f"its last element is {reach} elements from its first, too far for 32-bit "
                'offsets: rebuild with --config \'{"index_dtype": "int64"}\''
            )
            raise _error(launch, name, value, advice)


def _stored_as_bytes(value: torch.Tensor, spec: _Spec) -> bool:
    """True for bytes in place of 8-bit floats, which the MPS device does not know."""
    return value.dtype == torch.uint8 and "float8" in str(spec.dtype)


def _check_dims(launch: Launcher, name: str, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
    for axis, dim in enumerate(launch.specs[name].dims):
        size = value.shape[axis]
        if isinstance(dim, int):
            if size != dim:
                advice = f"dim {axis} was {dim} when the kernel was built; rebuild it for {size}"
                raise _error(launch, name, value, advice)
        elif dim != "_" and sizes.setdefault(dim, (size, name))[0] != size:
            known, by = sizes[dim]
            advice = f"dim {axis} ({dim}) is {size}, but {dim} is {known} in {by}"
            raise _error(launch, name, value, advice)


def _check_layout(launch: Launcher, name: str, value: Any) -> int:
    """Check the innermost stride; return the offset of the last element from the first."""
    minor = launch.specs[name].minor
    reach = 0
    for axis, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        reach += (size - 1) * stride
        if axis == minor and stride != 1 and size > 1:
            advice = f"dim {axis} must have stride 1: " + (
                "pass .contiguous(), or build the kernel for this layout"
                if axis == value.dim() - 1
                else "pass the transpose of a contiguous tensor, or build for this layout"
            )
            raise _error(launch, name, value, advice)
    return reach


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one storage may have bytes in common."""
    (begin, end), (other, last) = _bytes(a), _bytes(b)
    return begin < last and other < end


def _bytes(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage from a tensor's first element to after its last."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    begin, size = tensor.storage_offset(), tensor.element_size()
    return begin * size, (begin + (reach + 1 if tensor.numel() else 0)) * size


def _error(launch: Launcher, name: str, value: Any, advice: str) -> KtError:
    return KtError(
        f"{launch.kernel}: {name} must be {launch.specs[name].text}, "
        f"got {_describe(value)}; {advice}"
    )


# --------------------------------------------------------------------------------------------
# Devices


def num_sms(device: torch.device | int) -> int:
    """Cores of the GPU; 4 where something else runs the kernels, so that programs take turns."""
    del device  # there is one
    return int(torch.backends.mps.get_core_count()) if _backend.device == "mps" else 4
