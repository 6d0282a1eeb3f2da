"""Vector memory: kt's estimate against the least limit that libtpu accepts; no TPU is needed.

    python benchmarks/pallas_vmem.py [--arch v5e,v6e] [--only softmax ...] [--quick] [--json FILE]

Needs jax and libtpu (`pip install -e ".[pallas]"`). Every kernel is built for static sizes and
compiled with a `vmem_limit_bytes` far too small; the compiler's complaint says what it needs, which
is asked for next, until it accepts. It is compiled once more with the estimate as the limit. No
profiles are dumped, as benchmarks/pallas.py has it: libtpu then aborts where a vector of 16 bits
meets rows of 32. Most tensors are large: a small one XLA may keep in vector memory as a whole, and
the kernel needs less for windows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from transpile.verify.harnesses import HARNESSES  # noqa: E402

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A kernel of an example, its arguments with static sizes, its block sizes."""

    file: str
    kernel: str
    args: dict[str, str]
    blocks: list[int]
    quick: bool = False


@dataclass(frozen=True)
class Found:
    """Bytes of vector memory, or what went wrong."""

    estimate: int = 0
    needed: int = 0  # the least limit that the compiler accepts, up to the rounding of its messages
    accepted: bool = False  # with the estimate as the limit
    problem: str = ""


def _matmul(dtype: str, sizes: Sequence[int], blocks: list[int], quick: bool = False) -> Case:
    m, k, n = sizes
    args = {"x": f"{dtype}[{m},{k}]", "y": f"{dtype}[{k},{n}]"}
    return Case("matmul", "matmul", args, blocks, quick)


def _norm(name: str, dtype: str, m: int, n: int, rows: int, quick: bool = False) -> Case:
    args = {"x": f"{dtype}[{m},{n}]", "weight": f"{dtype}[{n}]"}
    if name == "layer_norm":
        args["bias"] = f"{dtype}[{n}]"
    return Case(name, f"{name}_fwd", args, [rows], quick)


def _attention(spec: str, blocks: list[int]) -> Case:
    return Case("attention", "attention", dict.fromkeys("qkv", spec), blocks)


def _add(dtype: str, blocks: list[int], quick: bool = False) -> Case:
    return Case("add", "add", dict.fromkeys("xy", f"{dtype}[8192,8192]"), blocks, quick)


#: the largest are near the 128 MiB of a v5e and a v6e
CASES = (
    _matmul("bf16", (4096, 4096, 4096), [512, 512, 512]),
    _matmul("bf16", (4096, 4096, 4096), [1024, 1024, 4096]),
    _matmul("bf16", (8192, 8192, 8192), [2048, 2048, 512]),
    _matmul("bf16", (1000, 3000, 1000), [512, 512, 1024]),
    _matmul("bf16", (8192, 8192, 8192), [256, 256, 512], True),
    _matmul("f32", (2048, 4096, 2048), [512, 1024, 2048]),
    _matmul("f32", (1000, 3000, 1000), [256, 512, 512]),
    Case("bmm", "bmm", {"x": "bf16[4,1024,2048]", "y": "bf16[4,2048,1024]"}, [1, 512, 512, 1024]),
    Case("softmax", "softmax", {"x": "f32[65536,1024]"}, [256], True),
    Case("softmax", "softmax", {"x": "f32[4096,8192]"}, [256]),
    Case("softmax", "softmax", {"x": "f32[2048,16384]"}, [128]),
    Case("softmax", "softmax_decomposed", {"x": "bf16[4096,4096]"}, [256]),
    Case("softmax", "softmax_decomposed", {"x": "bf16[4096,8192]"}, [512]),
    _norm("rms_norm", "bf16", 4096, 4096, 256),
    _norm("rms_norm", "f32", 4096, 8192, 256),
    _norm("rms_norm", "f32", 262144, 1000, 128, True),
    _norm("layer_norm", "bf16", 4096, 4096, 256),
    _norm("layer_norm", "f32", 4096, 2048, 512),
    _norm("layer_norm", "bf16", 262144, 1000, 128, True),
    _attention("bf16[1,8,4096,128]", [1, 512, 512]),
    _attention("bf16[1,8,4096,128]", [1, 1024, 1024]),
    _attention("f32[1,8,2048,64]", [1, 512, 512]),
    _add("f32", [1024, 1024]),
    _add("f32", [1024, 4096]),
    _add("bf16", [1024, 2048]),
    _add("bf16", [512, 512], True),
)


# -- in the other process ----------------------------------------------------------------------


def _start() -> None:
    os.environ.update(HARNESSES["pallas"].environments["compile"])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtpu's stack traces


def measure(arch: str, case: Case) -> Found:
    """The estimate for one generation, and what its compiler says."""
    try:
        estimate, function, arrays = _built(f"tpu-{arch}", case)
        needed = _least(partial(_complaint, arch, function, arrays))
        refused = _complaint(arch, function, arrays, estimate)
    except Exception as exc:  # noqa: BLE001 - the compiler's complaint is the result
        return Found(problem=f"{type(exc).__name__}: {' '.join(str(exc).split())[:100]}")
    return Found(estimate, needed, not refused)


def _built(arch: str, case: Case) -> tuple[int, Callable[..., Any], dict[str, Any]]:
    """The estimate, the generated function with its scalars bound, its arrays by name."""
    from transpile import build, proofs
    from transpile.emitters import TARGETS
    from transpile.emitters.pallas.phase import draft
    from transpile.emitters.pallas.prepare import prepared
    from transpile.emitters.pallas.vmem import Needs
    from transpile.verify.numerics import load_module
    from transpile.verify.pallas_compile import call_of

    target, config = TARGETS["pallas"], {"block_sizes": case.blocks}
    options = build.BuildOptions(("pallas",), (case.kernel,), case.args, config=config, arch=arch)
    loaded = build.load(str(ROOT / f"examples/{case.file}.py"), options)
    (kernel,) = loaded.kernels
    lowered, schedule = prepared(kernel, arch)
    assert len(lowered.phases) == 1
    drafted = draft(lowered, 0, schedule)
    estimate = Needs(drafted.plan, drafted.ctx).total
    assert estimate is not None
    folder = tempfile.mkdtemp(prefix="kt-vmem-")
    module = load_module(proofs._generate(loaded, target, options, folder))
    job = replace(proofs.kernel_job(kernel, loaded.project, target), shapes=({"_": 1},))
    function, arrays = call_of(module, job, 0)
    return estimate, partial(_limited, module, function), arrays


def _limited(module: ModuleType, function: Callable[..., Any], limit: int, **arrays: Any) -> Any:
    with _limit(module, limit) as calls:
        result = function(**arrays)
    assert calls == [limit], "the kernel is not called once"
    return result


@contextmanager
def _limit(module: ModuleType, limit: int) -> Iterator[list[int]]:
    """Inside, the module's kernels may take ``limit`` bytes; yields one entry for each call."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    calls: list[int] = []

    def pallas_call(*args: Any, compiler_params: Any = None, **options: Any) -> Any:
        calls.append(limit)
        asked = replace(compiler_params or pltpu.CompilerParams(), vmem_limit_bytes=limit)
        return pl.pallas_call(*args, compiler_params=asked, **options)

    for value in vars(module).values():
        if isinstance(getattr(value, "compiled", None), dict):  # kt.jit's, of another limit
            value.compiled.clear()
    module.pl = SimpleNamespace(**(vars(pl) | {"pallas_call": pallas_call}))
    yield calls
    module.pl = pl


def _complaint(
    arch: str, function: Callable[..., Any], arrays: dict[str, Any], limit: int
) -> tuple[int, str] | None:
    """None if the compiler takes the kernel with this limit; or bytes it asks for, and its words.

    Raises what is not about the limit.
    """
    from transpile.verify.pallas_compile import compile_for

    try:
        compile_for(arch, partial(function, limit), arrays)
    except Exception as exc:
        size = re.search(r"Scoped allocation with size ([\d.]+)([KMG]?)", str(exc))
        if size is None:
            raise
        unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
        return int((float(size[1]) + 0.005) * unit), str(exc)  # it is rounded
    return None


def _least(complaint: Callable[[int], tuple[int, str] | None]) -> int:
    """The least limit without a complaint: each names the first allocation that does not fit."""
    limit = 1 << 16
    for _ in range(20):
        said = complaint(limit)
        if said is None:
            return limit
        limit = max(limit + 1024, said[0])
    raise RuntimeError("no end of complaints")


# -- tables ------------------------------------------------------------------------------------


class Compiler:
    """A process with libtpu, started anew after it died or took too long."""

    def __init__(self, patience: float) -> None:
        self.patience = patience  # seconds for one case
        self.pool: ProcessPoolExecutor | None = None

    def __call__(self, arch: str, case: Case) -> Found:
        self.pool = self.pool or ProcessPoolExecutor(1, get_context("spawn"), _start)
        try:
            return self.pool.submit(measure, arch, case).result(self.patience)
        except BrokenProcessPool:
            self.pool = None
            return Found(problem="libtpu aborts")
        except TimeoutError:
            self.close()
            return Found(problem=f"more than {self.patience:.0f} s")

    def close(self) -> None:
        """End the process."""
        for process in list(self.pool._processes.values()) if self.pool else []:
            process.kill()
        self.pool = None


def _cell(found: Found) -> str:
    if found.problem:
        return found.problem
    ratio = found.estimate / found.needed
    text = f"{found.estimate / MIB:.2f} / {found.needed / MIB:.2f} ({ratio:.2f})"
    return text if found.accepted and ratio >= 1 else f"{text} TOO LITTLE"


def compared(cases: Sequence[Case], archs: Sequence[str], patience: float) -> list[dict[str, Any]]:
    """Measure all, a line of Markdown for each; the figures as rows."""
    rows: list[dict[str, Any]] = []
    print(" | ".join(["| kernel | arguments | blocks", *archs]), "|")
    print("|---" * (3 + len(archs)) + "|")
    with closing(Compiler(patience)) as compiler:
        for case in cases:
            found = {arch: compiler(arch, case) for arch in archs}
            given = ", ".join(dict.fromkeys(case.args.values()))
            blocks = ", ".join(map(str, case.blocks))
            cells = " | ".join(map(_cell, found.values()))
            print(f"| {case.kernel} | {given} | {blocks} | {cells} |", flush=True)
            rows += [asdict(case) | {"arch": a} | asdict(f) for a, f in found.items()]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", default="v5e,v6e", help="of v5e, v5p, v6e, 7x")
    parser.add_argument("--only", action="append", default=[], help="stem of an example")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for one case")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    cases = [c for c in CASES if c.quick or not options.quick]
    cases = [c for c in cases if not options.only or c.file in options.only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the other process stays
    started = time.perf_counter()
    print(f"jax {version('jax')}, libtpu {version('libtpu')}; MiB: said / needed (ratio)\n")
    rows = compared(cases, options.arch.split(","), options.patience)
    measured = [r for r in rows if not r["problem"]]
    low = [r for r in measured if not r["accepted"] or r["estimate"] < r["needed"]]
    ratios = sorted(r["estimate"] / r["needed"] for r in measured)
    taken = time.perf_counter() - started
    print(f"\n{len(ratios)} of {len(rows)} measured in {taken:.0f} s, {len(low)} of them too low")
    if ratios:
        middle = ratios[len(ratios) // 2]
        print(f"ratios: least {ratios[0]:.2f}, median {middle:.2f}, most {ratios[-1]:.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if low or len(ratios) < len(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
