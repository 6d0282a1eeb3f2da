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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from transpile.verify.harnesses import HARNESSES  # noqa: E402


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


@dataclass(frozen=True)
class Case:
    """A kernel to simulate: one of an example file, or one of OTHERS. All picklable."""

    path: str  # of the example, or a name in OTHERS
    kernel: str = ""
    sizes: tuple[tuple[str, int], ...] = ()
    args: tuple[tuple[str, str], ...] = ()
    config: str = "null"  # JSON
    index: int = 0  # which of the kernel's signatures


_PATIENCE = 120.0  # seconds for one simulation; memory grows with its length


class Profiler:
    """Simulates cases in a process of its own: libtpu reads its flags once, and some kernels make
    the simulator abort (vectors of 16 bits that meet rows) or take all memory (many grid steps)."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None

    def estimate(self, arch: str, case: Case) -> Estimate | str:
        """What the simulator says, or the compiler's complaint."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, get_context("spawn"), _start)
        try:
            return self.pool.submit(_simulate, arch, case).result(_PATIENCE)
        except BrokenProcessPool:
            self.pool = None
            return "libtpu aborts"
        except TimeoutError:
            for process in list(self.pool._processes.values()):
                process.kill()
            self.pool = None
            return "takes too long"


# -- in the other process ----------------------------------------------------------------------


def _start() -> None:
    folder = tempfile.mkdtemp(prefix="kt-profile-")
    os.environ.update(HARNESSES["pallas"].environments["compile"])
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_static_llo_profile_to={folder}"
    os.environ["KT_PROFILES"] = folder
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtpu's stack traces


def _simulate(arch: str, case: Case) -> Estimate | str:
    from transpile.verify.pallas_compile import compile_for

    started = time.perf_counter()
    try:
        made = compile_for(arch, *_call(case))
    except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the result
        return f"{type(exc).__name__}: {' '.join(str(exc).split())[:120]}"
    taken = time.perf_counter() - started
    cycles = 0
    for path in Path(os.environ["KT_PROFILES"]).iterdir():
        cycles += int(re.findall(r"estimated_cycles: (\d+)", path.read_text())[0])
        path.unlink()
    memory = made.memory_analysis()
    moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Estimate(cycles, moved, taken)


def _call(case: Case) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function with its scalars bound, and its arrays by name."""
    from transpile.verify.pallas_compile import call_of

    sizes = dict(case.sizes)
    if case.path in OTHERS:
        return OTHERS[case.path](sizes)
    module, loaded = build(case)
    job = job_of(loaded, case.kernel, case.index)
    return call_of(module, replace(job, shapes=(sizes or scaled(job),)), 0)


@functools.cache
def _built(
    path: str, kernel: str, args: tuple[tuple[str, str], ...], config: str
) -> tuple[Any, Any]:
    from transpile import build as pipeline
    from transpile import proofs
    from transpile.emitters import TARGETS
    from transpile.verify.numerics import load_module

    only = (kernel,) if kernel else ()
    options = pipeline.BuildOptions(("pallas",), only, dict(args), config=json.loads(config))
    loaded = pipeline.load(path, options)
    folder = tempfile.mkdtemp(prefix="kt-built-")
    return load_module(proofs._generate(loaded, TARGETS["pallas"], options, folder)), loaded


def build(case: Case) -> tuple[Any, Any]:
    """The generated module of a case's file, and what the build loaded of it."""
    return _built(case.path, case.kernel, case.args, case.config)


def load(path: str) -> Any:
    """The kernels of a file, not built."""
    from transpile import build as pipeline

    return pipeline.load(path, pipeline.BuildOptions(("pallas",)))


def job_of(loaded: Any, name: str, index: int = 0) -> Any:
    """What `kt verify` would prove of a kernel, for its signature number `index`."""
    from transpile import proofs
    from transpile.emitters import TARGETS

    kernels = [k for k in loaded.kernels if k.name == name]
    return proofs.kernel_job(kernels[index], loaded.project, TARGETS["pallas"])


def _copy(sizes: Mapping[str, int]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A copy in blocks of at most 4 MiB: what moving the bytes costs."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl

    m, n = sizes["M"], sizes["N"]
    rows = max(8, min(m, 2**21 // n))
    block = pl.BlockSpec((rows, n), lambda i: (i, 0))

    def kernel(x_ref: Any, out_ref: Any) -> None:
        out_ref[...] = x_ref[...]

    shape = jax.ShapeDtypeStruct((m, n), jnp.bfloat16)
    copy = pl.pallas_call(
        kernel, grid=(pl.cdiv(m, rows),), in_specs=[block], out_specs=block, out_shape=shape,
        name="copy",
    )  # fmt: skip
    return (lambda x: copy(x)), {"x": shape}  # noqa: PLW0108 - called by name


def _flash_attention(sizes: Mapping[str, int]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """jax's own kernel."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu import flash_attention as theirs

    blocks = theirs.BlockSizes(
        block_q=sizes["block_q"], block_k_major=sizes["block_k"], block_k=sizes["block_k"],
        block_b=1,
    )  # fmt: skip
    array = jax.ShapeDtypeStruct((sizes["B"], sizes["H"], sizes["M"], 128), jnp.bfloat16)
    attend = functools.partial(theirs.flash_attention, sm_scale=128**-0.5, block_sizes=blocks)
    return attend, {"q": array, "k": array, "v": array}


OTHERS: dict[str, Callable[[Mapping[str, int]], tuple[Callable[..., Any], dict[str, Any]]]] = {
    "copy": _copy,
    "flash_attention": _flash_attention,
}


# -- tables ------------------------------------------------------------------------------------


def scaled(job: Any, elements: int = 2**20) -> dict[str, int]:
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


def _cycles(found: Estimate | str) -> str:
    return found if isinstance(found, str) else str(found.cycles)


def _pairs(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sizes.items())


def examples(profiler: Profiler, archs: Sequence[str], names: Sequence[str]) -> None:
    """The default config of every example, at its first shape scaled up."""
    rows = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        if names and path.stem not in names:
            continue
        loaded = load(str(path))
        for name in dict.fromkeys(k.name for k in loaded.kernels):
            job = job_of(loaded, name)
            sizes = scaled(job)
            if isinstance(profiler.estimate(archs[0], Case(str(path), name, _pairs(sizes))), str):
                sizes = scaled(job, 2**16)  # fewer steps
            case = Case(str(path), name, _pairs(sizes))
            cells = [_against_bytes(profiler, arch, case) for arch in archs]
            shown = ", ".join(f"{k}={v}" for k, v in sizes.items())
            rows.append([name, job.kernel.signature[:40], shown[:40], *cells])
    head = ["kernel", "signature", "sizes", *(f"{arch} cycles" for arch in archs)]
    table("default configs; (x.xx): time over the time of moving every byte once", head, rows)


def _against_bytes(profiler: Profiler, arch: str, case: Case) -> str:
    found = profiler.estimate(arch, case)
    if isinstance(found, str):
        return found[:60]
    bound = found.bytes / CHIPS[arch].bandwidth
    return f"{found.cycles} ({found.time(CHIPS[arch]) / bound:.2f})"


def gemm(profiler: Profiler, archs: Sequence[str]) -> None:
    """bf16 square products: cycles and share of the peak."""
    path, args = str(ROOT / "examples/matmul.py"), (("x", "bf16[M,K]"), ("y", "bf16[K,N]"))
    rows = []
    for size in (2048, 4096):
        case = Case(path, "matmul", (("M", size), ("K", size), ("N", size)), args)
        cells = []
        for arch in archs:
            found = profiler.estimate(arch, case)
            if not isinstance(found, str):
                share = 2 * size**3 / found.time(CHIPS[arch]) / CHIPS[arch].peak
                found = f"{found.cycles} ({share:.1%} of peak)"
            cells.append(found)
        rows.append([f"{size}^3", *cells])
    table("bf16 matmul, default config", ["size", *archs], rows)


def rows_kernels(profiler: Profiler, archs: Sequence[str]) -> None:
    """Softmax and RMS norm against a copy of the same bytes."""
    kernels = {
        "softmax": ("softmax.py", "softmax", (("x", "bf16[M,N]"),)),
        "rms_norm": ("rms_norm.py", "rms_norm_fwd", (("x", "bf16[M,N]"), ("weight", "f32[N]"))),
    }
    rows = []
    for m, n in ((32768, 1024), (16384, 4096), (8192, 16384)):
        sizes = (("M", m), ("N", n))
        for arch in archs:
            chip = CHIPS[arch]
            copied = profiler.estimate(arch, Case("copy", sizes=sizes))
            assert isinstance(copied, Estimate)
            cells = []
            for file, name, args in kernels.values():
                found = profiler.estimate(
                    arch, Case(str(ROOT / "examples" / file), name, sizes, args)
                )
                if not isinstance(found, str):
                    found = f"{found.cycles} ({found.time(chip) / copied.time(chip):.2f})"
                cells.append(found[:60])
            rows.append([f"{m}x{n}", arch, f"{copied.time(chip) * 1e6:.0f} us", *cells])
    head = ["shape", "chip", "copy", *(f"{name} cycles" for name in kernels)]
    table("bf16 rows; (x.xx): time over a copy's", head, rows)


def attention(profiler: Profiler, archs: Sequence[str]) -> None:
    """Forward attention of head dim 128 against jax's own kernel with the same blocks."""
    path = str(ROOT / "examples/attention.py")
    args = (("q", "bf16[B,H,M,128]"), ("k", "bf16[B,H,N,128]"), ("v", "bf16[B,H,N,128]"))
    rows = []
    for length in (2048, 4096):
        sizes = {"B": 1, "H": 2, "M": length, "N": length}
        for block_q, block_k in ((256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024)):
            config = json.dumps({"block_sizes": [1, block_q, block_k]})
            mine = Case(path, "attention", _pairs(sizes), args, config)
            other = sizes | {"block_q": block_q, "block_k": block_k}
            cells = [
                f"{_cycles(profiler.estimate(arch, mine))} / "
                f"{_cycles(profiler.estimate(arch, Case('flash_attention', sizes=_pairs(other))))}"
                for arch in archs
            ]
            rows.append([f"1x2x{length}x128", f"{block_q} x {block_k}", *cells])
    table("bf16 attention, cycles: kt / jax's flash_attention", ["shape", "blocks", *archs], rows)


def tune(profiler: Profiler, archs: Sequence[str], options: argparse.Namespace) -> None:
    """Cycles of one kernel under several configs, the fastest first."""
    path, _, name = options.kernel.partition("::")
    args = tuple((a.split("=", 1)[0], a.split("=", 1)[1]) for a in options.arg)
    sizes = tuple((k, int(v)) for k, v in (s.split("=") for s in options.sizes.split(",")))
    found = []
    for config in json.loads(options.configs):
        case = Case(path, name, sizes, args, json.dumps(config or None))
        found.append(
            [json.dumps(config), *(_cycles(profiler.estimate(arch, case)) for arch in archs)]
        )
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
