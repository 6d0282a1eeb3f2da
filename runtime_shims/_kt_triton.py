"""Run time of the Triton modules that kt generates: argument checks and cheap launches.

Copied beside the generated files; needs torch and triton (3.6 or newer), nothing else.

    Launcher         checks a kernel's arguments and launches it through its compiled binary
    descriptor       host-side TMA descriptor of a tensor; `tma_ok` says whether there can be one
    set_allocator    scratch memory for kernels that make their descriptors on the device
    num_sms          multiprocessors of a device, for persistent grids
    KtError          every complaint of this file

KT_INTERPRET=1 runs the kernels on the CPU, in Triton's interpreter. Import this file before
triton then: it sets TRITON_INTERPRET, which triton reads while it is being imported.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

if os.environ.get("KT_INTERPRET") == "1":
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "KT_INTERPRET=1, but triton was imported before the generated module; import the "
            "generated module first, or set TRITON_INTERPRET=1 in the environment as well"
        )
    os.environ["TRITON_INTERPRET"] = "1"

import triton
from triton import knobs
from triton.runtime import _allocation
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

INTERPRETING: bool = knobs.runtime.interpret


class KtError(ValueError, TypeError):
    """The arguments of a generated function do not fit the signature it was built for."""


# --------------------------------------------------------------------------------------------
# Signatures

_DTYPES = {
    "bool": "bool",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "u16": "uint16",
    "i32": "int32",
    "u32": "uint32",
    "i64": "int64",
    "u64": "uint64",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "f8e4m3": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
    "f4e2m1x2": "float4_e2m1fn_x2",
}
_KT_NAMES = {getattr(torch, name, None): kt_name for kt_name, name in _DTYPES.items()}


@dataclass(frozen=True)
class _Spec:
    """One tensor of a signature, `[tma ]dtype[dims]{minor-to-major}`."""

    text: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]  # static size, name shared across the signature, or "_"
    minor: int | None  # the dim whose stride must be 1; None: any strides ({*}, or rank 0)
    tma: bool  # the argument is a descriptor, not a tensor


def _parse(text: str) -> _Spec:
    match = re.fullmatch(r"(tma )?(\w+)\[([^\]]*)\](?:\{([^}]*)\})?", text)
    if not match or match[2] not in _DTYPES:
        raise KtError(f"{text!r} is not a kt signature such as 'f16[M,K]' or 'bf16[K,N]{{0,1}}'")
    names = [name.strip() for name in match[3].split(",") if name.strip()]
    dims = tuple(int(name) if name.isdigit() else name for name in names)
    minor: int | None = len(dims) - 1 if dims else None
    if match[4] is not None:
        minor = None if match[4].strip() == "*" else int(match[4].split(",")[0])
    return _Spec(text, getattr(torch, _DTYPES[match[2]]), dims, minor, bool(match[1]))


def _describe(value: Any) -> str:
    """What was passed, in the words of the signature: `bf16[128,64] strides (64, 1) on cuda:0`."""
    if isinstance(value, TensorDescriptor):
        sizes = ",".join(map(str, value.shape))
        return f"a descriptor of {_KT_NAMES.get(value.base.dtype, value.base.dtype)}[{sizes}]"
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r:.60}"
    sizes = ",".join(map(str, value.shape))
    dtype = _KT_NAMES.get(value.dtype, value.dtype)
    return f"{dtype}[{sizes}] strides {tuple(value.stride())} on {value.device}"


# --------------------------------------------------------------------------------------------
# Launching
#
# Triton's own call takes about twice as long as the driver needs to queue the kernel: it binds
# the arguments, asks each for its specialization, and builds a string from the answers. Here a
# dictionary leads from everything that could change the answer (devices, dtypes, sizes, strides,
# pointer alignment, integer values, grid, stream) to the C entry point of the compiled kernel.
# The checks depend on nothing else, so that a call found there has passed them already.

_REMEMBERED = 1024  # calls that a launcher remembers before it starts afresh
_KNOWN_TYPES = {torch.Tensor, torch.nn.Parameter, int, float, bool, type(None)}
_TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
_VERSIONS_READ = ((3, 6), (3, 7), (3, 8), (3, 9))  # whose C launchers are as `_bind` has it
_FLAT_ARGUMENTS = _TRITON == (3, 6)  # they take the kernel's arguments one by one, not as a tuple

# One launcher's way from arguments to kernel, written out for its parameters: a loop over the
# arguments would cost as much as the launch. {facts} is what the checks and the choice of the
# binary depend on. The containers named in the `if` are triton's hooks and changed knobs; they
# are empty unless someone is profiling or debugging, and then triton's own call is made.
_HOT_PATH = """
def launch(grid, {params}):
    try:
        device = {first}.get_device()
        {pointers}
        key = (grid, current_stream(device), {facts})
        run = remembered.get(key)
    except (AttributeError, TypeError, RuntimeError):
        return first_call(None, grid, {params})
    if (run is None or device != current_device() or enter_hooks or exit_hooks
            or pre_run_hooks or runtime_knobs or compilation_knobs):
        return first_call(key, grid, {params})
    run({passed})
"""


class Launcher:
    """Launches one kernel: `launcher(grid, *tensors, *scalars)`.

    Args:
        kernel: the `@triton.jit` function; its parameters are the tensors, then the scalars
            (Python int, float, bool, or 0-d tensors), and constexprs anywhere.
        tensors: the signature of each tensor parameter, in parameter order. Dims of the same name
            must agree. The innermost stride must be 1, and `{..}` says which dim is innermost;
            `{*}` takes any strides. `tma dtype[dims]` is a parameter that takes a `descriptor`.
        index64: the kernel computes offsets in 64 bits, so that tensors may be of any size.
        options: values of the constexprs, and triton's launch options (num_warps, num_stages,
            num_ctas, maxnreg, launch_cooperative_grid, ...).

    A launch with an empty grid does nothing. Raises KtError for arguments that do not fit.
    """

    def __init__(
        self, kernel: Any, tensors: dict[str, str], *, index64: bool = False, **options: Any
    ) -> None:
        self.kernel = kernel
        self.specs = {name: _parse(text) for name, text in tensors.items()}
        self.index64 = index64
        self.options = options
        self._remembered: dict[Any, Callable[..., None]] = {}
        self._compiled: dict[Any, Any] = {}
        self._watched: list[Any] = []
        self._launch = self._hot_path() or functools.partial(self._first_call, None)

    def __call__(self, grid: tuple[int, ...], *args: Any) -> None:
        self._launch(grid, *args)

    def _first_call(self, key: Any, grid: tuple[int, ...], *args: Any) -> None:
        """Check and launch; remember a faster way under `key` where there is one."""
        count = len(self.specs)
        device = _check_tensors(self, args[:count])
        _check_grid(self, grid)
        if 0 in grid:
            return
        if any(isinstance(value, torch.Tensor) for value in args[count:]):
            scalars = (v.item() if isinstance(v, torch.Tensor) else v for v in args[count:])
            self(grid, *args[:count], *scalars)
            return
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(grid, *args)
            return
        if key is None or any(self._watched) or not _KNOWN_TYPES.issuperset(map(type, args)):
            self.kernel[grid](*args, **self.options)
            return
        special = (device.index, *map(_specialization, args))
        compiled = self._compiled.get(special)
        if compiled is None:
            compiled = self.kernel[grid](*args, **self.options)
            launched = True
        else:
            launched = False
        run = _bind(compiled, grid, stream=key[1])
        if run is not None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._compiled[special] = compiled  # keeps the binary loaded
            self._remembered[key] = run
        if not launched:
            self._launch(grid, *args)

    def _hot_path(self) -> Callable[..., None] | None:
        """_HOT_PATH for this kernel, or None where only triton's own call will do."""
        runtime, compilation = knobs.runtime, knobs.compilation
        hooks = [runtime.launch_enter_hook, runtime.launch_exit_hook]
        if (
            _TRITON not in _VERSIONS_READ
            or not isinstance(self.kernel, JITFunction)
            or not hasattr(torch._C, "_cuda_getCurrentRawStream")
            or torch.version.hip is not None
            or not all(isinstance(getattr(hook, "calls", None), list) for hook in hooks)
            or runtime.debug
            or compilation.instrumentation_mode
        ):
            return None
        watched = {
            "enter_hooks": hooks[0].calls,
            "exit_hooks": hooks[1].calls,
            "pre_run_hooks": self.kernel.pre_run_hooks,
            "runtime_knobs": vars(runtime),
            "compilation_knobs": vars(compilation),
        }
        self._watched = list(watched.values())
        scope = watched | {
            "remembered": self._remembered,
            "first_call": self._first_call,
            "current_stream": torch._C._cuda_getCurrentRawStream,
            "current_device": torch._C._cuda_getDevice,
        }
        for param in self.kernel.params:
            if param.is_constexpr:
                scope[f"a{param.num}"] = self.options.get(param.name, param.default)
        exec(self._hot_path_source(), scope)
        launch: Callable[..., None] = scope["launch"]
        return launch

    def _hot_path_source(self) -> str:
        params, first, pointers, facts, passed = [], [], [], [], []
        for param in self.kernel.params:
            a = f"a{param.num}"
            spec = self.specs.get(param.name)
            passed.append(f"p_{a}" if spec and not spec.tma else a)
            if param.is_constexpr:
                continue
            params.append(a)
            if spec is None:
                # Integers are compiled in by divisibility and range, other scalars by type. One
                # that triton must not specialize on (a seed, say) shall not fill the dictionary.
                any_i32 = f"(int if -0x80000000 <= {a} <= 0x7fffffff else {a})"
                value = any_i32 if param.do_not_specialize else a
                facts.append(f"{value} if {a}.__class__ is int else {a}.__class__")
            elif spec.tma:
                first.append(f"{a}.base")
                facts.append(f"{a}.token")
            else:
                first.append(a)
                pointers.append(f"p_{a} = {a}.data_ptr()")
                # A contiguous tensor's strides follow from its sizes, but for dims of size 1,
                # whose strides nothing depends on.
                facts.append(
                    f"{a}.__class__, {a}.dtype, {a}.get_device(), {a}.size(), "
                    f"{a}.is_contiguous() or {a}.stride(), p_{a} & 15"
                )
        arguments = ", ".join(passed)
        return _HOT_PATH.format(
            params=", ".join(params),
            first=first[0],
            pointers="; ".join(pointers) or "pass",
            facts=", ".join(facts),
            passed=arguments if _FLAT_ARGUMENTS else f"({arguments},)",
        )


def _specialization(value: Any) -> Any:
    """What triton compiles an argument in by: equal here implies the same binary."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, TensorDescriptor):
        return value.base.dtype, *value.block_shape, value.padding
    if type(value) is int:
        return value == 1, value % 16 == 0, -(2**31) <= value < 2**31, value < 2**63
    return type(value)


def _bind(compiled: Any, grid: tuple[int, ...], stream: int) -> Callable[..., None] | None:
    """The C launcher of a compiled kernel, lacking nothing but the kernel's arguments."""
    run = getattr(compiled, "run", None)
    if run is None or run.global_scratch_size or run.profile_scratch_size:
        return None  # scratch memory is allocated anew for each launch
    x, y, z = (*grid, 1, 1)[:3]
    head = (x, y, z, stream, compiled.function, run.launch_cooperative_grid, run.launch_pdl)
    metadata = compiled.packed_metadata
    if _FLAT_ARGUMENTS:  # two scratch buffers, metadata, launch metadata, two hooks
        return functools.partial(run.launch, *head, None, None, metadata, None, None, None)
    rest = (metadata, None, None, None, None, None, run.arg_annotations, run.kernel_signature)
    return functools.partial(run.launch, *head, *rest)


# --------------------------------------------------------------------------------------------
# Checks


def _check_tensors(launcher: Launcher, tensors: tuple[Any, ...]) -> torch.device:
    """Raise KtError unless the tensors fit the signatures; return their device."""
    device: torch.device | None = None
    sizes: dict[str, tuple[int, str]] = {}  # named dim: its size, and the parameter that set it
    for (name, spec), value in zip(launcher.specs.items(), tensors, strict=True):
        if not isinstance(value, TensorDescriptor if spec.tma else torch.Tensor):
            kind = "kt.descriptor(...)" if spec.tma else "torch tensor"
            raise _error(launcher, name, value, f"pass a {kind}")
        tensor = value.base if spec.tma else value
        strides = value.strides if spec.tma else value.stride()
        if tensor.dtype != spec.dtype:
            advice = f"convert it with .to({spec.dtype}), or build the kernel for its dtype"
            raise _error(launcher, name, value, advice)
        device = device or tensor.device
        if tensor.device != device:
            advice = f"move it to {device}, where the tensors before it are"
            raise _error(launcher, name, value, advice)
        if device.type == "cpu" and not INTERPRETING:
            advice = "move it to a GPU, or set KT_INTERPRET=1 to run on the CPU"
            raise _error(launcher, name, value, advice)
        _check_dims(launcher, name, value, sizes)
        if spec.minor is not None and strides[spec.minor] != 1 and value.shape[spec.minor] > 1:
            advice = f"dim {spec.minor} must have stride 1: " + (
                "pass .contiguous(), or build the kernel for this layout"
                if spec.minor == len(spec.dims) - 1
                else "pass the transpose of a contiguous tensor, or build for this layout"
            )
            raise _error(launcher, name, value, advice)
        reach = sum((size - 1) * stride for size, stride in zip(value.shape, strides, strict=True))
        if reach >= 2**31 and not launcher.index64 and not spec.tma:
            advice = (
                f"its last element is {reach} elements from its first, too far for 32-bit "
                'offsets: rebuild with --config \'{"index_dtype": "int64"}\''
            )
            raise _error(launcher, name, value, advice)
    if device is None:
        raise KtError(f"{launcher.kernel.__name__} has no tensor parameter to launch for")
    return device


def _check_dims(
    launcher: Launcher, name: str, value: Any, sizes: dict[str, tuple[int, str]]
) -> None:
    spec = launcher.specs[name]
    if len(value.shape) != len(spec.dims):
        raise _error(launcher, name, value, f"pass a tensor of rank {len(spec.dims)}")
    for axis, (dim, size) in enumerate(zip(spec.dims, value.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                advice = f"dim {axis} was {dim} when the kernel was built; rebuild it for {size}"
                raise _error(launcher, name, value, advice)
        elif dim != "_" and sizes.setdefault(dim, (size, name))[0] != size:
            known, by = sizes[dim]
            advice = f"dim {axis} ({dim}) is {size}, but {dim} is {known} in {by}"
            raise _error(launcher, name, value, advice)


def _error(launcher: Launcher, name: str, value: Any, advice: str) -> KtError:
    return KtError(
        f"{launcher.kernel.__name__}: {name} must be {launcher.specs[name].text}, "
        f"got {_describe(value)}; {advice}"
    )


def _check_grid(launcher: Launcher, grid: tuple[int, ...]) -> None:
    """CUDA's limits; beyond them the driver's error says no more than 'invalid argument'."""
    x, y, z = (*grid, 1, 1)[:3]
    # Triton skips a launch whose number of programs overflows 32 bits, without a word.
    programs = x * y * z * launcher.options.get("num_ctas", 1)
    if len(grid) > 3 or min(x, y, z) < 0 or programs >= 2**31 or max(y, z) >= 2**16:
        raise KtError(
            f"{launcher.kernel.__name__}: cannot launch a grid of {tuple(grid)}: axes 1 and 2 "
            "take up to 65535 programs, and all axes together less than 2**31; build with larger "
            "block sizes, a flat grid (pid_type flat), or a persistent one"
        )


# --------------------------------------------------------------------------------------------
# Tensor memory accelerator


class _Pointer:
    """What a descriptor needs of its tensor, without keeping the tensor's memory alive."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype = tensor.dtype
        self.device = tensor.device
        self._device_index: int = tensor.get_device()
        self._data_ptr: int = tensor.data_ptr()

    def data_ptr(self) -> int:
        return self._data_ptr

    def get_device(self) -> int:
        return self._device_index


class _Descriptor(TensorDescriptor):  # type: ignore[misc]
    token: int  # differs for every descriptor made; stands for it in a launcher's dictionary


_KNOWN_TYPES.add(_Descriptor)
_descriptors: dict[Any, _Descriptor] = {}
_tokens = itertools.count()
_tma_fits: dict[Any, bool] = {}


def descriptor(
    tensor: torch.Tensor, block_shape: tuple[int, ...], padding: str = "zero"
) -> TensorDescriptor:
    """TMA descriptor for loads and stores of `block_shape` tiles of `tensor`, made on the host.

    Out-of-range elements read as 0 (padding "zero") or NaN ("nan") and are not written. Cheap to
    call at each launch: descriptors are kept by address and layout. Raises KtError for what TMA
    cannot address; `tma_ok` asks first.
    """
    block_shape = tuple(block_shape)
    key = (
        tensor.data_ptr(), tensor.dtype, tensor.get_device(),
        tensor.size(), tensor.stride(), block_shape, padding,
    )  # fmt: skip
    made = _descriptors.get(key)
    if made is not None:
        return made
    problem = _tma_problem(tensor) or _block_problem(tensor, block_shape)
    if problem:
        raise KtError(f"no TMA descriptor for {_describe(tensor)}: {problem}")
    shape, strides, block = list(tensor.shape), list(tensor.stride()), list(block_shape)
    if INTERPRETING:  # it reads the tensor itself
        return TensorDescriptor(tensor, shape, strides, block, padding)
    if len(_descriptors) >= _REMEMBERED:
        _descriptors.clear()
    made = _Descriptor(_Pointer(tensor), shape, strides, block, padding)
    made.token = next(_tokens)
    _descriptors[key] = made
    return made


def tma_ok(tensor: torch.Tensor) -> bool:
    """Whether `descriptor` can take this tensor; if not, launch a kernel that uses pointers.

    It wants an sm_90 or newer device, rank 1 to 5, no dim of size 0, an innermost stride of 1, and
    16-byte multiples for the address and for every other stride.
    """
    layout = (tensor.data_ptr() & 15, tensor.dtype, tensor.get_device(), tensor.size())
    key = (*layout, tensor.stride())
    fits = _tma_fits.get(key)
    if fits is None:
        if len(_tma_fits) >= _REMEMBERED:
            _tma_fits.clear()
        fits = _tma_fits[key] = _tma_problem(tensor) is None
    return fits


def _tma_problem(tensor: torch.Tensor) -> str | None:
    strides = [stride * tensor.element_size() for stride in tensor.stride()[:-1]]
    if not INTERPRETING and (not tensor.is_cuda or _capability(tensor.get_device()) < 9):
        return "it needs a GPU of compute capability 9.0 or newer"
    if not 1 <= tensor.dim() <= 5:
        return "its rank is not 1 to 5"
    if tensor.numel() == 0 or max(tensor.shape) >= 2**32:
        return "each size must be 1 to 2**32 - 1"
    if tensor.stride(-1) != 1:
        return "the innermost stride is not 1"
    if tensor.data_ptr() % 16:
        return "its address is not a multiple of 16 bytes"
    if any(stride % 16 or not 0 <= stride < 2**40 for stride in strides):
        return "a stride is not a multiple of 16 bytes, or 2**40 bytes or more"
    return None


def _block_problem(tensor: torch.Tensor, block_shape: tuple[int, ...]) -> str | None:
    if len(block_shape) != tensor.dim():
        return f"block {block_shape} is not of its rank"
    if any(size < 1 or size & (size - 1) for size in block_shape):
        return f"a size of block {block_shape} is not a power of two"
    if block_shape[-1] * tensor.element_size() < 16:
        return f"the rows of block {block_shape} are shorter than 16 bytes"
    return None


@functools.cache
def _capability(device: int) -> int:
    return int(torch.cuda.get_device_capability(device)[0])


def set_allocator() -> None:
    """Let kernels that call tl.make_tensor_descriptor allocate their scratch memory from torch.

    Call it before each launch of such a kernel: triton keeps the allocator per context, so that
    one set at import is missing in other threads (autograd's, for one). One that the user has
    set stays.
    """
    if isinstance(_allocation._allocator.get(), _allocation.NullAllocator):
        triton.set_allocator(_allocate)


def _allocate(size: int, _alignment: int, _stream: int | None) -> torch.Tensor:
    # torch's allocator aligns to 512 bytes and orders reuse by the current stream, which is the
    # one that the kernel is launched on.
    return torch.empty(size, dtype=torch.int8, device="cuda")


# --------------------------------------------------------------------------------------------
# Devices


def num_sms(device: torch.device | int) -> int:
    """Multiprocessors of a CUDA device; in the interpreter 4, so that programs take turns."""
    if INTERPRETING:
        return 4
    index = device if isinstance(device, int) else device.index
    return _num_sms(torch.cuda.current_device() if index is None else index)


@functools.cache
def _num_sms(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


if os.environ.get("KT_INTERPRET") == "1":
    importlib.import_module(f"{__name__}_interpret")  # repairs triton's interpreter
