"""Generated Pallas functions through jax's lowering and through libtpu's compiler, without a TPU.

The first column needs jax alone: it lowers to Mosaic for a described chip. The others compile with
libtpu for chips of each generation, down to the executable. The first shape is compiled for every
generation, the others for the one with the tightest limits.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from transpile.verify import inputs
from transpile.verify.jobs import Cell, FileJob, KernelJob
from transpile.verify.numerics import describe, load_module, shape_text

#: libtpu's names of one host of each generation
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "7x": "tpu7x:2x2x1"}
_EVERY_SHAPE = "v5e"  # 16 MiB of VMEM by default, the least of all


def check_file(job: FileJob) -> Iterator[Cell]:
    """One cell per kernel and architecture, after one for the lowering."""
    module = load_module(job.module)
    for row, kernel in list(enumerate(job.kernels))[job.first :]:
        for arch in job.archs:
            compile_one = _lower if arch == "lower" else functools.partial(_compile, arch)
            shapes = range(len(kernel.shapes or inputs.AUTOMATIC))
            chosen = shapes if arch == _EVERY_SHAPE else shapes[:1]
            yield _cell(row, arch, module, kernel, list(chosen), compile_one)


def _cell(
    row: int,
    arch: str,
    module: ModuleType,
    job: KernelJob,
    shapes: list[int],
    compile_one: Callable[[Callable[..., Any], dict[str, Any]], object],
) -> Cell:
    for index in shapes:
        try:
            function, arrays = call_of(module, job, index)
            compile_one(function, arrays)
        except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the result
            return Cell(row, arch, "fail", _complaint(exc), shape_text(job, index))
    return Cell(row, arch, "ok")


def call_of(
    module: ModuleType, job: KernelJob, index: int
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of a kernel with all but its arrays bound, and the arrays' shapes and dtypes."""
    arguments = inputs.make_arguments(job, index)
    arrays = {n: abstract(v) for n, v in arguments.items() if hasattr(v, "untyped_storage")}
    others = {n: v for n, v in arguments.items() if n not in arrays}
    return functools.partial(getattr(module, job.kernel.name), **others), arrays


def abstract(tensor: Any) -> Any:
    """A torch tensor's shape and dtype for jax; 64-bit integers are 32-bit ones."""
    import jax
    import jax.numpy as jnp

    name = str(tensor.dtype).removeprefix("torch.")
    narrow = {"int64": "int32", "uint64": "uint32"}
    return jax.ShapeDtypeStruct(tuple(tensor.shape), jnp.dtype(narrow.get(name, name)))


def _lower(function: Callable[..., Any], arrays: dict[str, Any]) -> object:
    """Lower for a v5e that jax only knows by description."""
    import jax
    from jax.sharding import AbstractDevice, AbstractMesh

    chip = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    mesh = AbstractMesh((1,), ("chips",), abstract_device=chip)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(_of_arrays(function)).trace(arrays).lower(lowering_platforms=("tpu",))


def _compile(arch: str, function: Callable[..., Any], arrays: dict[str, Any]) -> object:
    return compile_for(arch, function, arrays)


def compile_for(arch: str, function: Callable[..., Any], arrays: dict[str, Any]) -> Any:
    """The executable for one chip of a generation."""
    import jax

    with on_chip(arch):
        return jax.jit(_of_arrays(function)).lower(arrays).compile()


def _of_arrays(function: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """A new function each time: jax would reuse a trace that was made for another chip."""
    return lambda arrays: function(**arrays)


@contextlib.contextmanager
def on_chip(arch: str) -> Iterator[None]:
    """Inside, jax compiles for a chip of the generation; Pallas asks the mesh what it is for."""
    import jax
    import numpy as np
    from jax.sharding import Mesh

    with jax.set_mesh(Mesh(np.array([_chip(arch)]), ("chips",))):
        yield


@functools.cache
def _chip(arch: str) -> Any:
    from jax.experimental import topologies

    name = TOPOLOGIES[arch.removeprefix("tpu-")]
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]


def _complaint(exc: BaseException) -> str:
    """The compiler's message without the MLIR that follows it."""
    text = re.split(r"\n\s*\n|The MLIR operation|The preceding stack trace", str(exc))[0]
    message = " ".join(text.split())
    return f"{type(exc).__name__}: {message[:400]}" if message else describe(exc)
