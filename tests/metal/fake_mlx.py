"""mlx.core as far as the shim knows it, on torch tensors; its kernels run in the executor.

The signature of a kernel is made as MLX's documentation says: inputs as `const device T*` (constant
memory for fewer than 8 elements), outputs as `device T*`, attributes where the source has their
names. Arrays are immutable but for ``array[...] = values``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from transpile.verify.msl import strict
from transpile.verify.msl.executor import Module

_NAMES = {
    torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat", torch.int32: "int",
    torch.int64: "long", torch.uint8: "uchar", torch.bool: "bool", torch.int8: "char",
}  # fmt: skip
_ATTRIBUTES = {
    "threadgroup_position_in_grid": "uint3", "thread_index_in_threadgroup": "uint",
    "thread_index_in_simdgroup": "uint", "simdgroup_index_in_threadgroup": "uint",
}  # fmt: skip


class Array:
    """mlx.core.array; ``tensor`` is contiguous."""

    def __init__(self, values: Any, dtype: Any = None) -> None:
        self.tensor = torch.as_tensor(values, dtype=dtype).contiguous()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def size(self) -> int:
        return self.tensor.numel()

    def astype(self, dtype: torch.dtype) -> Array:
        return Array(self.tensor.to(dtype))

    def __getitem__(self, index: Any) -> Array:
        found = Array.__new__(Array)
        found.tensor = self.tensor[index]  # a view, as in MLX
        return found

    def __setitem__(self, index: Any, values: Array) -> None:
        self.tensor = self.tensor.clone()
        self.tensor[index] = values.tensor


class Kernel:
    """mx.fast.metal_kernel's result. ``calls`` counts them."""

    def __init__(
        self, name: str, input_names: Sequence[str], output_names: Sequence[str], source: str,
        header: str,
    ) -> None:  # fmt: skip
        self.name, self.inputs, self.outputs = name, list(input_names), list(output_names)
        self.source, self.header = source, header
        self.calls = 0

    def __call__(
        self, *, inputs: Sequence[Array], output_shapes: Sequence[Any], grid: Any,
        output_dtypes: Sequence[Any], threadgroup: Any,
    ) -> list[Array]:  # fmt: skip
        assert len(inputs) == len(self.inputs)
        assert all(a.size >= 8 for a in inputs), "MLX would put it in constant memory"
        assert all(g % t == 0 for g, t in zip(grid, threadgroup, strict=True)), "a partial group"
        self.calls += 1
        outputs = [
            Array(torch.zeros(shape, dtype=dtype))
            for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
        ]
        parameters = [
            f"const device {_NAMES[a.dtype]}* {name} [[buffer({i})]]"
            for i, (name, a) in enumerate(zip(self.inputs, inputs, strict=True))
        ]
        parameters += [
            f"device {_NAMES[a.dtype]}* {name} [[buffer({i})]]"
            for i, (name, a) in enumerate(zip(self.outputs, outputs, strict=True), len(inputs))
        ]
        parameters += [
            f"{kind} {name} [[{name}]]" for name, kind in _ATTRIBUTES.items() if name in self.source
        ]
        threads = threadgroup[0] * threadgroup[1] * threadgroup[2]
        head = f"[[kernel, max_total_threads_per_threadgroup({threads})]] void custom_kernel"
        text = f"{self.header}\n{head}({', '.join(parameters)}) {{\n{self.source}\n}}\n"
        problems = [p for p in strict.check(text) if "const" not in p.message]
        assert problems == [], problems
        groups = tuple(g // t for g, t in zip(grid, threadgroup, strict=True))
        buffers = [a.tensor for a in (*inputs, *outputs)]
        Module(text.replace("const device", "device")).launch(
            "custom_kernel", buffers, groups, tuple(threadgroup)
        )
        return outputs


def module() -> ModuleType:
    """A module ``mlx.core``; its ``kernels`` are those that were made."""
    mx: Any = ModuleType("mlx.core")
    mx.array = Array
    for name in ("bool_", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
                 "float16", "bfloat16", "float32"):  # fmt: skip
        setattr(mx, name, getattr(torch, name.rstrip("_")))
    mx.reshape = lambda a, shape: Array(a.tensor.reshape(shape))
    mx.full = lambda shape, value, dtype: Array(torch.full(shape, value, dtype=dtype))
    mx.zeros = lambda shape, dtype: Array(torch.zeros(shape, dtype=dtype))
    mx.concatenate = lambda arrays: Array(torch.cat([a.tensor for a in arrays]))
    mx.as_strided = lambda a, shape, strides, offset: Array(
        torch.as_strided(a.tensor, shape, strides, offset)
    )
    mx.eval = lambda *arrays: None
    mx.kernels = []
    mx.fast = ModuleType("mlx.core.fast")

    def metal_kernel(**options: Any) -> Kernel:
        mx.kernels.append(Kernel(**options))
        return mx.kernels[-1]

    mx.fast.metal_kernel = metal_kernel
    return mx
