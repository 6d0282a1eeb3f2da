"""Estimated cycles of generated Pallas kernels, from libtpu's static simulator; no TPU is needed.

    python benchmarks/pallas.py examples      the default config of every example
    python benchmarks/pallas.py numbers       products, attention, rows, and what bounds them
    python benchmarks/pallas.py tune examples/matmul.py::matmul --sizes M=2048,K=2048,N=2048 \\
        --arg 'x=bf16[M,K]' --arg 'y=bf16[K,N]' --configs '[{"block_sizes": [512, 512, 512]}]'

Needs jax and libtpu (`pip install -e ".[pallas]"`). The simulator unrolls the real grid and models
the units of the core and the latency of copies, but lets concurrent copies each have the whole
bandwidth, and makes up values that depend on data. So the time of a kernel is taken to be
max(cycles / clock, bytes / bandwidth), and kernels with data-dependent loops are marked. Nothing
here has been calibrated on hardware.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from transpile.verify.harnesses import HARNESSES  # noqa: E402

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Chip:
    """One core. Clock derived from the peak and the size of its matrix units; bandwidth of HBM."""

    clock: float  # Hz
    peak: float  # bf16 operations a second
    bandwidth: float  # bytes a second


#: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm; of a 7x, one of its two cores
CHIPS = {
    "v5e": Chip(1.5e9, 197e12, 819e9),
    "v6e": Chip(1.75e9, 918e12, 1640e9),
    "7x": Chip(2.2e9, 1153.5e12, 3690e9),
}


@dataclass(frozen=True)
class Estimate:
    """What the simulator says of a function, and the bytes of its arguments and results."""

    cycles: int
    bytes: int
    seconds: float  # it took to simulate

    def time(self, chip: Chip) -> float:
        """Seconds: the longer of computing and of moving every byte once."""
        return max(self.cycles / chip.clock, self.bytes / chip.bandwidth)


class Profiler:
    """Compiles with the static profile on. One per process: libtpu reads its flags once."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="kt-profile-")
        os.environ.update(HARNESSES["pallas"].environments["compile"])
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_static_llo_profile_to={self.folder}"

    def estimate(self, arch: str, function: Callable[..., Any], arrays: Arrays) -> Estimate:
        """Simulate a function of named arrays, given by shape and dtype."""
        from transpile.verify.pallas_compile import compile_for

        started = time.perf_counter()
        made = compile_for(arch, function, dict(arrays))
        taken = time.perf_counter() - started
        cycles = 0
        for path in Path(self.folder).iterdir():
            cycles += int(re.findall(r"estimated_cycles: (\d+)", path.read_text())[0])
            path.unlink()
        memory = made.memory_analysis()
        moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return Estimate(cycles, moved, taken)


# -- kernels to measure ------------------------------------------------------------------------


@functools.cache
def _folder() -> str:
    return tempfile.mkdtemp(prefix="kt-built-")


def build(path: str, config: Mapping[str, Any] | None = None, **args: str) -> tuple[Any, Any]:
    """The generated module of an example, and what the build loaded of it."""
    from transpile import build as pipeline
    from transpile import proofs
    from transpile.emitters import TARGETS
    from transpile.verify.numerics import load_module

    options = pipeline.BuildOptions(targets=("pallas",), args=args, config=config)
    loaded = pipeline.load(path, options)
    folder = tempfile.mkdtemp(dir=_folder())
    return load_module(proofs._generate(loaded, TARGETS["pallas"], options, folder)), loaded


def job_of(loaded: Any, name: str, index: int = 0) -> Any:
    """What `kt verify` would prove of a kernel, for its signature number `index`."""
    from transpile import proofs
    from transpile.emitters import TARGETS

    kernels = [k for k in loaded.kernels if k.name == name]
    return proofs.kernel_job(kernels[index], loaded.project, TARGETS["pallas"])


def call(module: Any, job: Any, sizes: Mapping[str, int]) -> tuple[Callable[..., Any], Arrays]:
    """The function with its scalars bound, and its arrays for the given sizes."""
    from transpile.verify.pallas_compile import call_of

    return call_of(module, replace(job, shapes=(dict(sizes),)), 0)


def scaled(job: Any, elements: int = 2**21) -> dict[str, int]:
    """The first shape with all named dims doubled until a tensor has that many elements."""
    sizes = dict((job.shapes or ({"*": 64},))[0])
    while _largest(job, sizes) < elements and _largest(job, sizes):
        sizes = {name: 2 * size for name, size in sizes.items()}
    return sizes


def _largest(job: Any, sizes: Mapping[str, int]) -> int:
    if not any(isinstance(d, str) for a in job.arguments for d in a.dims):
        return 0
    totals = []
    for argument in job.arguments:
        total = 1
        for dim in argument.dims:
            total *= dim if isinstance(dim, int) else sizes.get(dim, sizes.get("*", 24))
        totals.append(total)
    return max(totals)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


# -- sections ----------------------------------------------------------------------------------


def examples(profiler: Profiler, archs: Sequence[str], names: Sequence[str]) -> None:
    """The default config of every example, at its first shape scaled up."""
    rows = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        if names and path.stem not in names:
            continue
        try:
            module, loaded = build(str(path))
        except Exception as exc:  # noqa: BLE001 - one file's failure is a row of the table
            rows.append([path.stem, str(exc)[:60], "", *([""] * len(archs))])
            continue
        names_of = dict.fromkeys(k.name for k in loaded.kernels)
        rows += [_example(profiler, archs, module, job_of(loaded, name)) for name in names_of]
    head = ["kernel", "signature", "sizes", *(f"{arch} cycles" for arch in archs)]
    table("default configs; (x.xx): time over the time of moving every byte once", head, rows)


def _example(profiler: Profiler, archs: Sequence[str], module: Any, job: Any) -> list[str]:
    sizes = scaled(job)
    cells = []
    for arch in archs:
        try:
            estimate = profiler.estimate(arch, *call(module, job, sizes))
        except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the cell
            cells.append(f"{type(exc).__name__}: {' '.join(str(exc).split())[:50]}")
            continue
        bound = estimate.bytes / CHIPS[arch].bandwidth
        cells.append(f"{estimate.cycles} ({estimate.time(CHIPS[arch]) / bound:.2f})")
    shown = ", ".join(f"{k}={v}" for k, v in sizes.items())
    return [job.kernel.name, job.kernel.signature[:48], shown[:40], *cells]


def gemm(profiler: Profiler, archs: Sequence[str]) -> None:
    """bf16 square products: cycles and share of the peak."""
    import jax
    import jax.numpy as jnp

    module, _ = build(str(ROOT / "examples/matmul.py"), x="bf16[M,K]", y="bf16[K,N]")
    rows = []
    for size in (2048, 4096):
        array = jax.ShapeDtypeStruct((size, size), jnp.bfloat16)
        cells = []
        for arch in archs:
            estimate = profiler.estimate(arch, module.matmul, {"x": array, "y": array})
            share = 2 * size**3 / estimate.time(CHIPS[arch]) / CHIPS[arch].peak
            cells.append(f"{estimate.cycles} ({share:.1%} of peak)")
        rows.append([f"{size}^3", *cells])
    table("bf16 matmul, default config", ["size", *archs], rows)


def attention(profiler: Profiler, archs: Sequence[str]) -> None:
    """Forward attention of head dim 128 against jax's own kernel with the same blocks."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import flash_attention as theirs

    rows = []
    spec = "bf16[B,H,{},128]"
    for batch, heads, length in ((1, 8, 2048), (1, 8, 4096)):
        array = jax.ShapeDtypeStruct((batch, heads, length, 128), jnp.bfloat16)
        arrays = {"q": array, "k": array, "v": array}
        for blocks in (None, (512, 512), (256, 512), (1024, 1024)):
            config = {"block_sizes": [1, *blocks]} if blocks else None
            module, _ = build(
                str(ROOT / "examples/attention.py"), config,
                q=spec.format("M"), k=spec.format("N"), v=spec.format("N"),
            )  # fmt: skip
            block_q, block_k = blocks or (512, 512)
            sizes = theirs.BlockSizes(
                block_q=block_q, block_k_major=block_k, block_k=block_k, block_b=1
            )
            other = functools.partial(theirs.flash_attention, sm_scale=128**-0.5, block_sizes=sizes)
            cells = []
            for arch in archs:
                mine = _cycles(profiler, arch, module.attention, arrays)
                jaxs = _cycles(profiler, arch, other, arrays)
                cells.append(f"{mine} / {jaxs}")
            shown = f"{blocks[0]} x {blocks[1]}" if blocks else "default / 512 x 512"
            rows.append([f"{batch}x{heads}x{length}x128", shown, *cells])
    table("bf16 attention, cycles: kt / jax's flash_attention", ["shape", "blocks", *archs], rows)


def _cycles(profiler: Profiler, arch: str, function: Callable[..., Any], arrays: Arrays) -> str:
    try:
        return str(profiler.estimate(arch, function, arrays).cycles)
    except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the cell
        return f"{type(exc).__name__}: {' '.join(str(exc).split())[:40]}"


def rows_kernels(profiler: Profiler, archs: Sequence[str]) -> None:
    """Softmax and RMS norm against a copy of the same bytes."""
    import jax
    import jax.numpy as jnp

    softmax, _ = build(str(ROOT / "examples/softmax.py"), x="bf16[M,N]")
    rms, _ = build(str(ROOT / "examples/rms_norm.py"), x="bf16[M,N]", weight="bf16[N]")
    rows = []
    for m, n in ((32768, 1024), (16384, 4096), (8192, 16384)):
        x = jax.ShapeDtypeStruct((m, n), jnp.bfloat16)
        weight = jax.ShapeDtypeStruct((n,), jnp.bfloat16)
        for arch in archs:
            chip = CHIPS[arch]
            copied = profiler.estimate(arch, _copy, {"x": x}).time(chip)
            cells = []
            for function, arrays in (
                (softmax.softmax, {"x": x}),
                (functools.partial(rms.rms_norm_fwd, eps=1e-5), {"x": x, "weight": weight}),
            ):
                estimate = profiler.estimate(arch, function, arrays)
                cells.append(f"{estimate.cycles} ({estimate.time(chip) / copied:.2f})")
            rows.append([f"{m}x{n}", arch, f"{copied * 1e6:.0f} us", *cells])
    head = ["shape", "chip", "copy", "softmax cycles", "rms_norm cycles"]
    table("bf16 rows; (x.xx): time over a copy's", head, rows)


def _copy(x: Any) -> Any:
    """A copy in blocks of at most 4 MiB: what moving the bytes costs."""
    import jax
    from jax.experimental import pallas as pl

    rows = max(8, min(x.shape[0], 2**21 // x.shape[1]))

    def kernel(x_ref: Any, out_ref: Any) -> None:
        out_ref[...] = x_ref[...]

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(x.shape[0], rows),),
        in_specs=[pl.BlockSpec((rows, x.shape[1]), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((rows, x.shape[1]), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        name="copy",
    )(x)


def tune(profiler: Profiler, archs: Sequence[str], options: argparse.Namespace) -> None:
    """Cycles of one kernel under several configs, the fastest first."""
    path, _, name = options.kernel.partition("::")
    args = dict(a.split("=", 1) for a in options.arg)
    sizes = {k: int(v) for k, v in (s.split("=") for s in options.sizes.split(","))}
    found = []
    for config in json.loads(options.configs):
        module, loaded = build(path, config or None, **args)
        job = job_of(loaded, name or loaded.kernels[0].name)
        cells = [_cycles(profiler, arch, *call(module, job, sizes)) for arch in archs]
        found.append([json.dumps(config), *cells])
    found.sort(key=lambda row: int(row[1]) if row[1].isdigit() else sys.maxsize)
    table(f"{name} at {options.sizes}", ["config", *archs], found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("section", choices=["examples", "numbers", "tune"])
    parser.add_argument("kernel", nargs="?", default="", help="FILE::KERNEL, for tune")
    parser.add_argument("--arch", default="v5e,v6e", help="of v5e, v6e, 7x")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=SPEC")
    parser.add_argument("--sizes", default="")
    parser.add_argument("--configs", default="[{}]", help="a JSON list")
    parser.add_argument("--only", action="append", default=[], help="stem of an example")
    options = parser.parse_args()
    archs = options.arch.split(",")
    profiler = Profiler()
    if options.section == "examples":
        examples(profiler, archs, options.only)
    elif options.section == "numbers":
        gemm(profiler, archs)
        rows_kernels(profiler, archs)
        attention(profiler, archs)
    else:
        tune(profiler, archs, options)


if __name__ == "__main__":
    main()
