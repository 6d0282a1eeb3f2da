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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
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
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32",
    "u32": "uint32", "i64": "int64", "u64": "uint64", "f16": "float16", "bf16": "bfloat16",
    "f32": "float32", "f64": "float64", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
    "f4e2m1x2": "float4_e2m1fn_x2",
}  # fmt: skip
_KT_NAMES = {getattr(torch, name, None): kt_name for kt_name, name in _DTYPES.items()}


@dataclass(frozen=True)
class _Spec:
    """One tensor of a signature, `[new |tma ]dtype[dims]{minor-to-major}`."""

    text: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]  # static size, name shared across the signature, or "_"
    minor: int | None  # the dim whose stride must be 1; None: any strides ({*}, or rank 0)
    tma: bool  # the argument is a descriptor, not a tensor
    new: bool  # just allocated by the caller, who is to be trusted on it


def _parse(text: str) -> _Spec:
    match = re.fullmatch(r"(new |tma )?(\w+)\[([^\]]*)\](?:\{([^}]*)\})?", text)
    if not match or match[2] not in _DTYPES:
        raise KtError(f"{text!r} is not a kt signature such as 'f16[M,K]' or 'bf16[K,N]{{0,1}}'")
    names = [name.strip() for name in match[3].split(",") if name.strip()]
    dims = tuple(int(name) if name.isdigit() else name for name in names)
    minor: int | None = len(dims) - 1 if dims else None
    if match[4] is not None:
        minor = None if match[4].strip() == "*" else int(match[4].split(",")[0])
    return _Spec(
        text, getattr(torch, _DTYPES[match[2]]), dims, minor, match[1] == "tma ", match[1] == "new "
    )


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


def no_signature(kernel: str, **arguments: Any) -> KtError:
    """The error of a call that none of a generated function's signatures fits."""
    got = ", ".join(f"{name}={_describe(value)}" for name, value in arguments.items())
    return KtError(
        f"{kernel}: no kernel was built for these arguments: {got}. Add their signature to the "
        "project file (or --arg) and rebuild; the file's header lists what it was built for."
    )


# --------------------------------------------------------------------------------------------
# Launching
#
# Triton's own call takes three times as long as the driver needs to queue the kernel: it binds
# the arguments, asks each for its specialization, and builds a string from the answers. Here a
# dictionary leads from everything that could change the answer (device, sizes, strides, pointer
# alignment, integer values, grid, stream) to the C entry point of the compiled kernel. The checks
# depend on nothing else, so that a call found there has passed them already.

_TENSORS = {torch.Tensor, torch.nn.Parameter}  # other subclasses may mean something else
_SCALARS = {int, float, bool, type(None)}
_REMEMBERED = 1024  # calls that a launcher remembers before it starts afresh
_TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
_VERSIONS_READ = ((3, 6), (3, 7), (3, 8), (3, 9))  # whose C launchers are as `_bind` has it
_FLAT_ARGUMENTS = _TRITON == (3, 6)  # they take the kernel's arguments one by one, not as a tuple

# One launcher's way from arguments to kernel, written out for its parameters: a loop over the
# arguments would cost as much as the launch. The containers in the `if` are triton's hooks and
# changed knobs; they are empty unless someone is profiling or debugging, and then triton's own
# call is made. torch.compile gets to see triton's own call too, which it can trace.
_HOT_PATH = """
def launch(grid, {params}):
    if compiling():
        return kernel[grid]({params}, **options_for({params}))
    try:
        device = current_device()
        {pointers}
        key = (grid, device, current_stream(device), {key})
        run = remembered.get(key)
    except (AttributeError, TypeError, RuntimeError):  # no tensor, no memory, or a list as grid
        return first_call(None, grid, {params})
    if (run is None or enter_hooks or exit_hooks or pre_run_hooks or runtime_knobs
            or compilation_knobs {suspicions}):
        return first_call(key, grid, {params})
    run({passed})

def send(run, {params}):
    {pointers}
    run({passed})
"""


def Launcher(  # noqa: N802  (a class to its callers, but a method call costs a tenth of a launch)
    kernel: Any, tensors: dict[str, str], /, *, index64: bool = False, **options: Any
) -> Callable[..., None]:
    """The function that launches one kernel: `launch(grid, *tensors, *scalars)`.

    Args:
        kernel: the `@triton.jit` function; its parameters are the tensors, then the scalars
            (Python int, float, bool, or 0-d tensors), and constexprs anywhere.
        tensors: the signature of each tensor parameter, in parameter order, as
            `[new |tma ]dtype[dims][{order}]`. Dims of the same name must agree. The innermost
            stride must be 1, and `{..}` says which dim is innermost; `{*}` takes any strides.
            `tma`: the argument is a `descriptor`. `new`: the caller has just allocated it by
            torch.empty, so that it is not checked.
        index64: the kernel computes offsets in 64 bits, so that tensors may be of any size.
        options: values of the constexprs, and triton's launch options (num_warps, num_stages,
            num_ctas, maxnreg, launch_cooperative_grid, ...). A callable is given the arguments
            by name, with the options before it, and returns the value; it may look at integers.

    A launch with an empty grid does nothing. Raises KtError for arguments that do not fit.
    """
    return _Launch(kernel, tensors, index64, options).hot_path()


class _Launch:
    """What a launcher knows; `first_call` is its careful way, `hot_path` its fast one."""

    def __init__(
        self, kernel: Any, tensors: dict[str, str], index64: bool, options: dict[str, Any]
    ) -> None:
        self.kernel = kernel
        self.specs = {name: _parse(text) for name, text in tensors.items()}
        self.index64 = index64
        self.options = options
        # Functions, not all callables: a constexpr may be a @triton.jit function or a dtype.
        self.computed = {name for name, f in options.items() if isinstance(f, FunctionType)}
        self.remembered: dict[Any, Callable[..., None]] = {}
        self.compiled: dict[Any, Any] = {}  # also keeps the binaries loaded
        self.watched: list[Any] = []
        self.launch: Callable[..., None] = functools.partial(self.first_call, None)
        self.send: Callable[..., None]  # launches through what _bind returned

    def first_call(self, key: Any, grid: tuple[int, ...], *args: Any) -> None:
        """Check and launch; remember a faster way under `key` where there is one."""
        tensors, scalars = args[: len(self.specs)], args[len(self.specs) :]
        device = _check_tensors(self, tensors)
        _check_grid(self, grid)
        if 0 in grid:
            return
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self.launch(grid, *args)
            return
        if (
            key is None
            or any(self.watched)
            or not _TENSORS.issuperset(map(type, tensors))
            or not _SCALARS.issuperset(map(type, scalars))
        ):
            plain = [v.item() if isinstance(v, torch.Tensor) else v for v in scalars]
            self.kernel[grid](*tensors, *plain, **self.options_for(*tensors, *plain))
            return
        options = self.options_for(*args)
        chosen = tuple(options[name] for name in sorted(self.computed))
        special = (device.index, chosen, *map(_specialization, args))
        known = self.compiled.get(special)
        compiled = known or self.kernel[grid](*args, **options)
        run = _bind(compiled, grid, stream=key[2])
        if run is None:
            return
        self.compiled[special] = compiled
        if len(self.remembered) >= _REMEMBERED:
            self.remembered.clear()
        self.remembered[key] = run
        if known:
            self.send(run, *args)

    def options_for(self, *args: Any) -> dict[str, Any]:
        """The options of a call: those that depend on its arguments computed."""
        if not self.computed:
            return self.options
        names = [p for p in self.kernel.arg_names if p not in self.options]
        known = dict(zip(names, args, strict=False))
        options = {}
        for name, option in self.options.items():
            value = option(known) if name in self.computed else option
            if name in self.computed and type(value) is int and value == 0:
                value = 1  # the block of an empty axis still needs a lane, a masked one
            options[name] = known[name] = value
        return options

    def hot_path(self) -> Callable[..., None]:
        """_HOT_PATH for this kernel, or first_call where only triton's own call will do."""
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
            return self.launch
        watched = {
            "enter_hooks": hooks[0].calls,
            "exit_hooks": hooks[1].calls,
            "pre_run_hooks": self.kernel.pre_run_hooks,
            "runtime_knobs": vars(runtime),
            "compilation_knobs": vars(compilation),
        }
        self.watched = list(watched.values())
        scope = watched | {
            "kernel": self.kernel,
            "options_for": self.options_for,
            "remembered": self.remembered,
            "first_call": self.first_call,
            "compiling": torch.compiler.is_dynamo_compiling,
            "current_device": torch._C._cuda_getDevice,
            "current_stream": torch._C._cuda_getCurrentRawStream,
            "Tensor": torch.Tensor,
            "Parameter": torch.nn.Parameter,
        }
        for param in self.kernel.params:
            if param.is_constexpr:
                # The compiled kernel has these inside; its launcher only counts them.
                value = self.options.get(param.name, param.default)
                scope[f"a{param.num}"] = None if param.name in self.computed else value
            elif param.name in self.specs:
                scope[f"d{param.num}"] = self.specs[param.name].dtype
        exec(compile(self.hot_path_source(), f"<launch of {self.kernel.__name__}>", "exec"), scope)
        self.launch, self.send = scope["launch"], scope["send"]
        return self.launch

    def hot_path_source(self) -> str:
        params, pointers, shapes, scalars, suspicions, passed = [], [], [], [], [], []
        for param in self.kernel.params:
            i = param.num
            spec = self.specs.get(param.name)
            passed.append(f"p{i}" if spec and not spec.tma else f"a{i}")
            if param.is_constexpr:
                continue
            params.append(f"a{i}")
            if spec is None:
                # Integers are compiled in by divisibility and range, other scalars by type. One
                # that triton must not specialize on (a seed, say) shall not fill the dictionary.
                any_i32 = f"(int if -0x80000000 <= a{i} <= 0x7fffffff else a{i})"
                value = any_i32 if param.do_not_specialize else f"a{i}"
                scalars.append(f"{value} if a{i}.__class__ is int else a{i}.__class__")
            elif spec.tma:
                scalars.append(f"a{i}.token")
            else:
                pointers.append(i)
                if not spec.new:
                    shapes.append(i)
                    suspicions.append(
                        f"or a{i}.dtype is not d{i} or a{i}.get_device() != device "
                        f"or (a{i}.__class__ is not Tensor and a{i}.__class__ is not Parameter)"
                    )
        key = [f"a{i}.shape" for i in shapes]
        if pointers:  # triton compiles in which pointers are multiples of 16
            each = "".join(f"p{i} & 15, " for i in pointers)
            key.append(f"({' | '.join(f'p{i}' for i in pointers)}) & 15 and ({each})")
        if shapes:  # a contiguous tensor's strides follow from its shape, where they matter
            each = "".join(f"a{i}.stride(), " for i in shapes)
            key.append(f"{' and '.join(f'a{i}.is_contiguous()' for i in shapes)} or ({each})")
        elif pointers:
            suspicions.append(f"or a{pointers[0]}.get_device() != device")
        arguments = ", ".join(passed)
        return _HOT_PATH.format(
            params=", ".join(params),
            pointers="; ".join(f"p{i} = a{i}.data_ptr()" for i in pointers) or "pass",
            key=", ".join(key + scalars),
            suspicions=" ".join(suspicions),
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


def _check_tensors(launch: _Launch, tensors: tuple[Any, ...]) -> torch.device:
    """Raise KtError unless the tensors fit the signatures; return their device."""
    device: torch.device | None = None
    sizes: dict[str, tuple[int, str]] = {}  # named dim: its size, and the parameter that set it
    for (name, spec), value in zip(launch.specs.items(), tensors, strict=True):
        if not isinstance(value, TensorDescriptor if spec.tma else torch.Tensor):
            kind = "kt.descriptor(...)" if spec.tma else "torch tensor"
            raise _error(launch, name, value, f"pass a {kind}")
        tensor, strides = (value.base, value.strides) if spec.tma else (value, value.stride())
        if tensor.dtype != spec.dtype:
            advice = f"convert it with .to({spec.dtype}), or build the kernel for its dtype"
            raise _error(launch, name, value, advice)
        device = device or tensor.device
        if tensor.device != device:
            advice = f"move it to {device}, where the tensors before it are"
            raise _error(launch, name, value, advice)
        if device.type == "cpu" and not INTERPRETING:
            advice = "move it to a GPU, or set KT_INTERPRET=1 to run on the CPU"
            raise _error(launch, name, value, advice)
        if len(value.shape) != len(spec.dims):
            raise _error(launch, name, value, f"pass a tensor of rank {len(spec.dims)}")
        _check_dims(launch, name, value, sizes)
        reach = _check_layout(launch, name, value, strides)
        if reach >= 2**31 and not launch.index64 and not spec.tma:
            advice = (
                f"its last element is {reach} elements from its first, too far for 32-bit "
                'offsets: rebuild with --config \'{"index_dtype": "int64"}\''
            )
            raise _error(launch, name, value, advice)
    if device is None:
        raise KtError(f"{launch.kernel.__name__} has no tensor parameter to launch for")
    return device


def _check_dims(launch: _Launch, name: str, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
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


def _check_layout(launch: _Launch, name: str, value: Any, strides: Sequence[int]) -> int:
    """Check the innermost stride; return the offset of the last element from the first."""
    minor = launch.specs[name].minor
    reach = 0
    for axis, size in enumerate(value.shape):
        reach += (size - 1) * strides[axis]
        if axis == minor and strides[axis] != 1 and size > 1:
            advice = f"dim {axis} must have stride 1: " + (
                "pass .contiguous(), or build the kernel for this layout"
                if axis == len(strides) - 1
                else "pass the transpose of a contiguous tensor, or build for this layout"
            )
            raise _error(launch, name, value, advice)
    return reach


def _error(launch: _Launch, name: str, value: Any, advice: str) -> KtError:
    return KtError(
        f"{launch.kernel.__name__}: {name} must be {launch.specs[name].text}, "
        f"got {_describe(value)}; {advice}"
    )


def _check_grid(launch: _Launch, grid: tuple[int, ...]) -> None:
    """CUDA's limits; beyond them the driver's error says no more than 'invalid argument'."""
    x, y, z = (*grid, 1, 1)[:3]
    # Triton skips a launch whose number of programs overflows 32 bits, without a word.
    ctas = launch.options.get("num_ctas", 1)
    programs = x * y * z * (ctas if isinstance(ctas, int) else 1)
    if len(grid) > 3 or min(x, y, z) < 0 or programs >= 2**31 or max(y, z) >= 2**16:
        raise KtError(
            f"{launch.kernel.__name__}: cannot launch a grid of {tuple(grid)}: axes 1 and 2 "
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
    token: int  # differs for every descriptor made; stands for it in a launch's dictionary


_TENSORS.add(_Descriptor)
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


def tma_ok(*tensors: torch.Tensor) -> bool:
    """Whether `descriptor` can take these tensors; if not, launch a kernel that uses pointers.

    It wants an sm_90 or newer device, rank 1 to 5, no dim of size 0, an innermost stride of 1, and
    16-byte multiples for the address and for every other stride.
    """
    for tensor in tensors:
        layout = (tensor.data_ptr() & 15, tensor.dtype, tensor.get_device(), tensor.size())
        key = (*layout, tensor.stride())
        fits = _tma_fits.get(key)
        if fits is None:
            if len(_tma_fits) >= _REMEMBERED:
                _tma_fits.clear()
            fits = _tma_fits[key] = _tma_problem(tensor) is None
        if not fits:
            return False
    return True


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


if os.environ.get("KT_INTERPRET") == "1":  # in an inlined shim that file's text stands here
    importlib.import_module(f"{__name__}_interpret")
