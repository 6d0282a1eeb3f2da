"""Arguments for a kernel: made from its signature, the sizes of a shape and the stated values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transpile.ir.dtypes import DType
from transpile.verify.jobs import Argument, KernelJob

if TYPE_CHECKING:
    import torch

#: sizes for kernels without `shapes`: round ones, ragged ones, ones
AUTOMATIC = ({"*": 64}, {"*": 37}, {"*": 1})
_ANONYMOUS = 24
_SCALARS = {"float": 0.5, "int": 3, "bool": True}


class MissingSize(Exception):
    """A shape does not name a dimension of the signature."""


def make_arguments(job: KernelJob, index: int) -> dict[str, Any]:
    """Arguments by parameter name for shape ``index``; the same ones in every process."""
    import torch

    sizes = (job.shapes or AUTOMATIC)[index]
    seed = zlib.crc32(f"{job.kernel.name}({job.kernel.signature}) {index}".encode())
    generator = torch.Generator().manual_seed(seed)
    return {a.name: _argument(a, sizes, generator) for a in job.arguments}


def _argument(argument: Argument, sizes: Mapping[str, int], generator: torch.Generator) -> Any:
    if argument.kind == "value":
        return runtime_value(argument.value)
    assert argument.dtype is not None
    if argument.kind == "scalar":
        kind = "float" if argument.dtype.is_float else "bool" if argument.dtype.is_bool else "int"
        value = _SCALARS[kind] if argument.fill is None else argument.fill
        if isinstance(value, tuple):
            value = _bound(value[0], sizes)
        return float(value) if kind == "float" else value
    shape = [_size(argument, dim, sizes) for dim in argument.dims]
    return _laid_out(_tensor(argument, shape, sizes, generator), argument.order)


def runtime_value(value: Any) -> Any:
    """A compile-time value as the caller of the generated function passes it."""
    import torch

    if isinstance(value, DType):
        return getattr(torch, value.torch)
    return tuple(map(runtime_value, value)) if isinstance(value, tuple) else value


def _size(argument: Argument, dim: str | int | None, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim is None:
        return sizes.get("_", sizes.get("*", _ANONYMOUS))
    if dim not in sizes and "*" not in sizes:
        raise MissingSize(f"`shapes` gives no size for dimension {dim} of {argument.name}")
    return sizes.get(dim, sizes.get("*", 0))


def _bound(bound: Any, sizes: Mapping[str, int]) -> Any:
    if not isinstance(bound, str):
        return bound
    if bound not in sizes:
        raise MissingSize(f"`shapes` gives no size for {bound}, a bound in `values`")
    return sizes[bound]


def _tensor(
    argument: Argument, shape: list[int], sizes: Mapping[str, int], generator: torch.Generator
) -> torch.Tensor:
    import torch

    assert argument.dtype is not None
    dtype = getattr(torch, argument.dtype.torch)
    fill = argument.fill
    if argument.dtype.name == "f4e2m1x2":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).view(dtype)
    if isinstance(fill, tuple):
        low, high = (_bound(bound, sizes) for bound in fill)
    elif fill is not None:
        return torch.full(shape, fill).to(dtype)
    elif argument.dtype.is_float:
        return torch.randn(shape, generator=generator).to(dtype)
    else:
        low, high = (0, 2) if argument.dtype.is_bool else (-8 if argument.dtype.signed else 0, 8)
    if argument.dtype.is_float:
        unit = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * unit).to(dtype)
    low, high = int(low), int(high)
    return torch.randint(low, max(high, low + 1), shape, generator=generator).to(dtype)


def _laid_out(tensor: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """The same elements with the strides of a minor-to-major ``order``."""
    if order is None:
        return tensor
    major_first = list(reversed(order))
    inverse = [major_first.index(dim) for dim in range(tensor.dim())]
    return tensor.permute(major_first).contiguous().permute(inverse)


relayout = _laid_out


def clone(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the tensors, strides kept."""
    import torch

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        made = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype)
        return made.copy_(value)

    return {name: copy(value) for name, value in arguments.items()}
