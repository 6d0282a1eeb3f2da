"""Generated Triton on a CUDA device: every example's results, and speed against the best known.

    python benchmarks/triton.py [examples] [gemm] [rows] [attention] [launch] [--json FILE]

Prints one table a section (all by default). Speeds are medians over repeated runs in one process,
with the L2 cache flushed between runs; each row holds kt's kernel and what it is compared with,
measured alternately. `kt build` runs first, so the numbers are those of the checked-in sources.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# This file's own folder would shadow the triton package.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks"]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

# kt's own default, and the best configuration found with tensor descriptors.
GEMM_CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "TMA": {"block_sizes": [128, 256, 64], "l2_groupings": [8], "num_warps": 8, "num_stages": 3,
            "indexing": "tensor_descriptor"},
}  # fmt: skip
ATTENTION_CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "pointers": {"block_sizes": [1, 128, 64], "num_warps": 8, "num_stages": 2, "maxnreg": 128},
}
ROW_SHAPES = [(32768, 1024), (16384, 4096), (8192, 16384)]


def build(name: str, folder: str, *options: str) -> ModuleType:
    """`kt build examples/NAME.py`, imported from its own folder."""
    out = os.path.join(folder, str(abs(hash((name, options)))))
    command = [sys.executable, "-c", "from transpile.cli import main; main()", "build"]
    command += [str(ROOT / "examples" / f"{name}.py"), "-t", "triton", "-o", out, *options]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    sys.path.insert(0, out)
    try:
        for shim in [m for m in sys.modules if m.startswith("_kt_triton")]:
            del sys.modules[shim]
        path = os.path.join(out, f"{name}_triton.py")
        spec = importlib.util.spec_from_file_location(f"{name}_{len(sys.modules)}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(out)


class Timer:
    """Device time of calls, alternating between the candidates, cold L2."""

    def __init__(self) -> None:
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(4 * l2, dtype=torch.int8, device="cuda")

    def medians(self, *calls: Callable[[], Any], repeat: int = 60) -> list[float]:
        """Milliseconds, one median per call."""
        for call in calls:
            for _ in range(5):
                call()
        events = [[_event_pair() for _ in range(repeat)] for _ in calls]
        for i in range(repeat):
            for call, pairs in zip(calls, events, strict=True):
                self.flush.zero_()
                pairs[i][0].record()
                call()
                pairs[i][1].record()
        torch.cuda.synchronize()
        return [statistics.median(a.elapsed_time(b) for a, b in pairs) for pairs in events]


def _event_pair() -> tuple[Any, Any]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    print(f"\n{title}")
    for row in [head, *rows]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    sys.stdout.flush()


# -- sections ----------------------------------------------------------------------------------


def examples(folder: str) -> list[dict[str, Any]]:
    """Every example, signature and shape on the device against its torch reference."""
    from transpile import build as pipeline
    from transpile import proofs
    from transpile.emitters import TARGETS
    from transpile.verify import inputs, numerics

    rows: list[list[str]] = []
    report: list[dict[str, Any]] = []
    options = pipeline.BuildOptions(targets=("triton",))
    for path in sorted((ROOT / "examples").glob("*.py")):
        loaded = pipeline.load(str(path), options)
        module = build(path.stem, folder)
        for kernel in loaded.kernels:
            job = proofs.kernel_job(kernel, loaded.project, TARGETS["triton"])
            problems = []
            for index in range(len(job.shapes)):
                try:
                    problems += _check(module, job, index, inputs, numerics)
                except Exception as exc:  # noqa: BLE001 - one kernel's failure is a row of the table
                    problems.append(f"{type(exc).__name__}: {str(exc)[:150]}")
            report.append(
                {"kernel": kernel.name, "signature": kernel.signature, "ok": not problems}
            )
            if problems:
                rows.append([path.stem, kernel.name, kernel.signature[:50], problems[0][:150]])
    right = sum(r["ok"] for r in report)
    table(
        f"examples: {right} of {len(report)} signatures right",
        ["file", "kernel", "signature", "problem"],
        rows,
    )
    return report


def _check(module: ModuleType, job: Any, index: int, inputs: Any, numerics: Any) -> list[str]:
    arguments = inputs.make_arguments(job, index)

    def on_device(**given: Any) -> Any:
        moved = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        returned = getattr(module, job.kernel.name)(**moved)
        for key, value in given.items():
            if isinstance(value, torch.Tensor):
                value.copy_(moved[key])
        return returned

    from transpile.verify import compare

    got = numerics.results(on_device, arguments)
    got = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in got.items()}
    reference = numerics.load_reference(*job.reference)
    want = numerics.results(numerics.adapted(reference, arguments), arguments)
    eps = compare.TF32_EPS
    return numerics.compare_results(job, got, want, arguments, "torch", eps)  # type: ignore[no-any-return]


def gemm(folder: str) -> list[dict[str, Any]]:
    """bf16 square products against cuBLAS."""
    timer, rows, report = Timer(), [], []
    for label, config in GEMM_CONFIGS.items():
        extra = ["--config", json.dumps(config)] if config else []
        types = ["--arg", "x=bf16[M,K]", "--arg", "y=bf16[K,N]"]
        module = build("matmul", folder, "--kernel", "matmul", *types, *extra)
        for n in (4096, 8192):
            x = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
            y = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
            torch.testing.assert_close(module.matmul(x, y), x @ y, rtol=2e-2, atol=1e-1 * n**0.5)
            ours, theirs = timer.medians(
                functools.partial(module.matmul, x, y), functools.partial(torch.mm, x, y)
            )
            flops = 2 * n**3 / 1e9
            rows.append(
                [
                    label,
                    str(n),
                    f"{flops / ours:.0f}",
                    f"{flops / theirs:.0f}",
                    f"{theirs / ours:.3f}",
                ]
            )
            report.append({"config": label, "n": n, "ratio": theirs / ours, "tflops": flops / ours})
    table("bf16 GEMM, TFLOP/s", ["config", "n", "kt", "cuBLAS", "kt/cuBLAS"], rows)
    return report


def rows(folder: str) -> list[dict[str, Any]]:
    """Softmax and RMS norm in bf16 against a copy of the same bytes."""
    timer, lines, report = Timer(), [], []
    softmax, norm = build("softmax", folder), build("rms_norm", folder)
    for m, n in ROW_SHAPES:
        x = torch.randn(m, n, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(n, device="cuda", dtype=torch.bfloat16)
        copy = torch.empty_like(x)
        calls = {
            "softmax_decomposed": functools.partial(softmax.softmax_decomposed, x),
            "rms_norm_fwd": functools.partial(norm.rms_norm_fwd, x, w),
        }
        torch.testing.assert_close(
            softmax.softmax_decomposed(x),
            torch.softmax(x.float(), -1).bfloat16(),
            rtol=2e-2,
            atol=1e-5,
        )
        for name, call in calls.items():
            ours, theirs = timer.medians(call, functools.partial(copy.copy_, x))
            moved = 2 * x.numel() * x.element_size() / 1e6
            lines.append(
                [
                    name,
                    f"{m}x{n}",
                    f"{moved / ours:.0f}",
                    f"{moved / theirs:.0f}",
                    f"{theirs / ours:.3f}",
                ]
            )
            report.append({"kernel": name, "shape": [m, n], "ratio": theirs / ours})
    table("row kernels bf16, GB/s", ["kernel", "shape", "kt", "copy", "kt/copy"], lines)
    return report


def attention(folder: str) -> list[dict[str, Any]]:
    """Forward attention against torch's scaled_dot_product_attention."""
    timer, lines, report = Timer(), [], []
    types = [
        f"{name}=bf16[B,H,{length},128]" for name, length in (("q", "M"), ("k", "N"), ("v", "N"))
    ]
    stated = [part for text in types for part in ("--arg", text)]
    q, k, v = (torch.randn(4, 32, 4096, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for label, config in ATTENTION_CONFIGS.items():
        extra = ["--config", json.dumps(config)] if config else []
        module = build("attention", folder, "--kernel", "attention", *stated, *extra)
        torch.testing.assert_close(
            module.attention(q, k, v)[0], sdpa(q, k, v), rtol=2e-2, atol=2e-2
        )
        ours, theirs = timer.medians(
            functools.partial(module.attention, q, k, v),
            functools.partial(sdpa, q, k, v),
            repeat=40,
        )
        flops = 4 * 4 * 32 * 4096**2 * 128 / 1e9
        numbers = [f"{flops / ours:.0f}", f"{flops / theirs:.0f}", f"{theirs / ours:.3f}"]
        lines.append([label, "4x32x4096x128", *numbers])
        report.append({"config": label, "shape": "4x32x4096x128", "ratio": theirs / ours})
    table("attention forward bf16, TFLOP/s", ["config", "shape", "kt", "SDPA", "kt/SDPA"], lines)
    return report


def launch(folder: str) -> list[dict[str, Any]]:
    """Host time of one warm launch of a two-tensor add: the shim, and triton's own call."""
    module = build("add", folder)
    x = torch.randn(64, 64, device="cuda", dtype=torch.bfloat16)
    y, out = torch.randn_like(x), torch.empty_like(x)
    kernel, ours = module._add_kernel, module._add_1_launch
    args = (x, y, out, x.size(1), x.stride(0), y.stride(0))

    def triton_call() -> None:
        kernel[(64,)](*args, BLOCK_1=1024, num_warps=4)

    results = [
        [name, f"{_host_microseconds(call):.2f}"]
        for name, call in (
            ("kt launcher", lambda: ours((64,), *args)),
            ("triton kernel[grid]", triton_call),
            ("generated add()", lambda: module.add(x, y)),
        )
    ]
    table("host time of a warm launch, us", ["call", "us"], results)
    return [{"call": name, "us": float(us)} for name, us in results]


def _host_microseconds(call: Callable[[], Any], calls: int = 200, repeat: int = 25) -> float:
    """Median over blocks of calls; the queue is drained between blocks so that it never fills."""
    samples = []
    for _ in range(repeat):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(samples)


SECTIONS = {
    "examples": examples,
    "gemm": gemm,
    "rows": rows,
    "attention": attention,
    "launch": launch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []])
    parser.add_argument("--json", help="also write the numbers to this file")
    chosen = parser.parse_args()
    import triton

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.sections or SECTIONS:
            report[name] = SECTIONS[name](folder)
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
