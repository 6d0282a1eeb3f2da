"""Generated Metal functions for MLX arrays; part of the run time of _kt_metal.py, copied beside it.

    y = kt.mlx(softmax)(x)          x and y are mlx.core.array

The host function runs as it is, on torch's meta tensors, which have shapes, strides and views but
no memory; each stands for an MLX array. Its launches become calls of mx.fast.metal_kernel, whose
source is the body of the kernel in the .metal file and whose header is what stands before it.
Tensors that a kernel fills are outputs of its call and stay lazy. MLX has no writing in place:
tensors with contents that a kernel changes are written where they are, in a copy, and evaluated.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import torch
from torch.overrides import TorchFunctionMode

_SMALLEST = 8  # elements: MLX declares smaller inputs in constant memory


@dataclass(eq=False)
class _Cell:
    """The contents of one torch storage: an MLX array of all its elements, flat, or a number that
    fills it, or nothing yet."""

    array: Any = None
    fill: float | None = None
    owner: Any = None  # the caller's array, which shows what is written
    written: bool = False


class _Session(TorchFunctionMode):
    """One call of a generated function: which array each meta tensor stands for."""

    def __init__(self, kt: Any) -> None:
        super().__init__()
        self.kt = kt
        self.cells: dict[int, _Cell] = {}
        self.storages: list[Any] = []  # kept, so that no two have one address

    # -- tensors ---------------------------------------------------------------------------------

    def take(self, value: Any) -> Any:
        """The meta tensor that stands for an argument."""
        if not isinstance(value, mx.array):
            return value
        tensor = torch.empty(value.shape, dtype=_torch_dtype(value.dtype), device="meta")
        self.cell(tensor).array = mx.reshape(value, (-1,))
        self.cell(tensor).owner = value
        return tensor

    def give(self, value: Any) -> Any:
        """What the caller gets for a result."""
        if isinstance(value, (tuple, list)):
            return type(value)(self.give(v) for v in value)
        if not isinstance(value, torch.Tensor):
            return value
        flat = self.contents(value)
        return mx.as_strided(flat, tuple(value.shape), value.stride(), value.storage_offset())

    def cell(self, tensor: torch.Tensor) -> _Cell:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.cells:
            self.storages.append(storage)
            self.cells[storage._cdata] = _Cell()
        return self.cells[storage._cdata]

    def contents(self, tensor: torch.Tensor) -> Any:
        """All elements of a tensor's storage."""
        cell = self.cell(tensor)
        if cell.array is None:
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            cell.array = mx.full((count,), cell.fill or 0, _mlx_dtype(tensor.dtype))
        return cell.array

    # -- torch functions of the host program -------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, torch.Tensor) or result.device.type != "meta":
            return result
        known = result.untyped_storage()._cdata in self.cells
        name = getattr(func, "__name__", "")
        cell = self.cell(result)
        if known or name.startswith(("empty", "new_empty")):
            return result
        if name in _FILLS:
            cell.fill = _FILLS[name]
        elif name in ("full", "full_like", "new_full"):
            cell.fill = (kwargs or {}).get("fill_value", args[1 if name != "new_full" else 2])
        elif name in ("contiguous", "clone") and isinstance(args[0], torch.Tensor):
            cell.array = mx.reshape(self.give(args[0]), (-1,))
        elif name == "to" and isinstance(args[0], torch.Tensor):
            cell.array = mx.reshape(self.give(args[0]), (-1,)).astype(_mlx_dtype(result.dtype))
        else:
            raise self.kt.KtError(
                f"the host program calls torch.{name}, which is not known for MLX arrays; call the "
                "function with torch tensors, or compute this before the call"
            )
        return result

    # -- launches --------------------------------------------------------------------------------

    def launch(self, launcher: Any, buffers: list[Any], groups: tuple[int, int, int]) -> None:
        """One launch as a call of mx.fast.metal_kernel."""
        outputs, inputs, arrays = [], [], []
        for (name, spec), tensor in zip(launcher.specs.items(), buffers, strict=False):
            cell = self.cell(tensor)
            whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
            if spec.access == "out" and whole and cell.array is None and cell.fill is None:
                outputs.append((name, tensor))
                continue
            inputs.append((name, spec.access != "in"))
            arrays.append(self.argument(launcher, name, tensor))
        if launcher.scalars:
            words = struct.unpack(f"<{len(buffers[-1]) // 4}i", buffers[-1])
            arrays.append(_padded(mx.array(words, dtype=mx.int32)))
        kernel = _kernel(launcher, tuple(inputs), tuple(name for name, _ in outputs))
        results = kernel(
            inputs=arrays,
            output_shapes=[(max(1, t.numel()),) for _, t in outputs] or [(1,)],
            output_dtypes=[_mlx_dtype(t.dtype) for _, t in outputs] or [mx.int32],
            grid=tuple(g * t for g, t in zip(groups, launcher.threads, strict=True)),
            threadgroup=launcher.threads,
        )
        for (_, tensor), result in zip(outputs, results, strict=False):
            self.cell(tensor).array = result
        if any(written for _, written in inputs):
            mx.eval(*results)

    def argument(self, launcher: Any, name: str, tensor: torch.Tensor) -> Any:
        """The array of an input, from the tensor's first element on."""
        spec, offset = launcher.specs[name], tensor.storage_offset()
        array = self.contents(tensor)
        if spec.access != "in":  # a copy of our own, which the kernel writes to
            cell = self.cell(tensor)
            array = cell.array = _padded(array, always=True)
            cell.written = True
            mx.eval(array)
        array = array[offset:] if offset else array
        if spec.aligned and offset * tensor.element_size() % 16:
            if spec.access != "in":
                raise self.kt.KtError(
                    f"{launcher.kernel}: {name} begins {offset} elements into its array, which is "
                    "no multiple of 16 bytes; give it an array of its own"
                )
            return _padded(array, always=True)
        return _padded(array)

    def show_writes(self) -> None:
        """Let the caller's arrays be what the function made of them."""
        for cell in self.cells.values():
            if cell.owner is not None and cell.written:
                cell.owner[...] = mx.reshape(cell.array[: cell.owner.size], cell.owner.shape)


_FILLS = {
    "zeros": 0, "zeros_like": 0, "new_zeros": 0, "ones": 1, "ones_like": 1, "new_ones": 1,
}  # fmt: skip


def _padded(array: Any, *, always: bool = False) -> Any:
    """The array with some zeros after it; if not ``always``, only where it is too short for MLX to
    put it in device memory, as the kernels expect."""
    if array.size >= _SMALLEST and not always:
        return array
    return mx.concatenate([array, mx.zeros((_SMALLEST,), array.dtype)])


# -- kernels -----------------------------------------------------------------------------------

_KERNEL = re.compile(
    r"^(?:template <([^\n]*)>\n)?\[\[kernel, [^\n]*\]\] void (\w+)\(\n(.*?)\) \{\n(.*?)^\}\n",
    re.DOTALL | re.MULTILINE,
)
_INSTANCE = re.compile(
    r'^template \[\[host_name\("(\w+)"\)\]\] \[\[kernel\]\]\s+decltype\([^;]*\) (\w+)<([^;]*)>;\n',
    re.MULTILINE,
)
_IDS = {
    "tgid": "uint3 tgid = threadgroup_position_in_grid;",
    "tid": "ushort tid = thread_index_in_threadgroup;",
    "lane": "ushort lane = thread_index_in_simdgroup;",
    "sg": "ushort sg = simdgroup_index_in_threadgroup;",
}
_kernels: dict[Any, Any] = {}


def _kernel(launcher: Any, inputs: tuple[tuple[str, bool], ...], outputs: tuple[str, ...]) -> Any:
    """The MLX kernel of a launcher, made once. ``inputs``: names, and whether they are written."""
    source = launcher.library.source
    key = source, launcher.kernel, inputs, outputs
    if key not in _kernels:
        header, body = split(source, launcher.kernel, dict(inputs))
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        names = [f"{name}_in" for name, _ in inputs]
        _kernels[key] = mx.fast.metal_kernel(
            name=f"{launcher.kernel}_{digest}",  # MLX compiles anew where a name's source changes
            input_names=[*names, "params_in"] if launcher.scalars else names,
            output_names=list(outputs) or ["nothing"],
            source=body,
            header=header,
        )
    return _kernels[key]


def split(source: str, kernel: str, inputs: dict[str, bool]) -> tuple[str, str]:
    """What stands before the kernels of a .metal file, and the body of one of them, which begins
    with its parameters as variables. ``inputs``: see :func:`_kernel`."""
    functions = {match[2]: match for match in _KERNEL.finditer(source)}
    instances = {match[1]: match for match in _INSTANCE.finditer(source)}
    first = []
    if kernel in instances:
        made, given = functions[instances[kernel][2]], instances[kernel][3]
        first = _bound(made[1], given)
    else:
        made = functions[kernel]
    parameters, body = made[3], made[4]
    for parameter in parameters.split(",\n"):
        text, _, attribute = parameter.strip().partition(" [[")
        kind, _, name = text.rpartition(" ")
        if name in inputs:
            pointer = kind.removeprefix("const ") if inputs[name] else kind
            first.append(f"{pointer} {name} = ({pointer}){name}_in;")
        elif name == "params":
            struct_name = kind.removeprefix("constant ").rstrip("&")
            first.append(f"{struct_name} params = *(const device {struct_name}*)params_in;")
        elif name in _IDS:
            first.append(_IDS[name])
        else:  # an output, which MLX declares under this name
            assert attribute.startswith("buffer")
    header = _INSTANCE.sub("", _KERNEL.sub("", source))
    return header, "\n".join([*(f"  {line}" for line in first), body])


def _bound(parameters: str, arguments: str) -> list[str]:
    """The parameters of a template as types and constants of one instance."""
    lines = []
    for parameter, value in zip(parameters.split(", "), arguments.split(", "), strict=True):
        kind, name = parameter.split(" ")
        lines.append(
            f"using {name} = {value};" if kind == "typename"
            else f"constexpr {kind} {name} = {value};"
        )  # fmt: skip
    return lines


# -- dtypes ------------------------------------------------------------------------------------

_DTYPES = {
    "bool": "bool_", "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16",
    "int32": "int32", "uint32": "uint32", "int64": "int64", "uint64": "uint64",
    "float16": "float16", "bfloat16": "bfloat16", "float32": "float32",
    "float8_e4m3fn": "uint8", "float8_e5m2": "uint8",
}  # fmt: skip


def _mlx_dtype(dtype: torch.dtype) -> Any:
    return getattr(mx, _DTYPES[str(dtype).removeprefix("torch.")])


def _torch_dtype(dtype: Any) -> torch.dtype:
    name = next(t for t, m in _DTYPES.items() if getattr(mx, m) == dtype)
    found: torch.dtype = getattr(torch, name)
    return found


# -- calls -------------------------------------------------------------------------------------


def wrap(function: Callable[..., Any], kt: Any) -> Callable[..., Any]:
    """``function`` of a generated module for MLX arrays; ``kt`` is its _kt_metal."""

    def call(*args: Any, **kwargs: Any) -> Any:
        session = _Session(kt)
        values = [session.take(a) for a in args]
        named = {name: session.take(a) for name, a in kwargs.items()}
        kt._recorders.append(session.launch)
        try:
            with session:
                result = function(*values, **named)
        finally:
            kt._recorders.pop()
        session.show_writes()
        return session.give(result)

    return call
