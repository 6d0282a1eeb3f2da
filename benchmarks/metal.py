"""What generated Metal kernels do to memory, counted on a CPU, next to MLX's steel kernels.

    python benchmarks/metal.py [gemm] [attention] [rows] [--mlx DIR] [--json FILE]

Prints one table a section (all by default). The executor of `kt verify -t metal` runs the kernels
and counts; every result is compared with torch. `--mlx` names a checkout of ml-explore/mlx, whose
kernels then run on the same shapes in the same executor. Times mean nothing here and are not shown.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mlx_steel  # noqa: E402  (beside this file)
import torch  # noqa: E402

from transpile.verify.msl.backend import Executor, executing  # noqa: E402
from transpile.verify.msl.counters import Counters  # noqa: E402
from transpile.verify.numerics import load_module  # noqa: E402

GEMM_SHAPES = [(512, 512, 512), (500, 300, 200)]
MLX_TILES = [(64, 64, 16, 2, 2), (64, 64, 16, 1, 2)]  # of its larger and its smaller GPUs
ATTENTION_SHAPES = [(2, 256, 256, 64), (2, 256, 256, 128), (2, 200, 200, 128)]
ATTENTION_FILES = {  # MLX's returns the output alone
    "kt": "benchmarks/attention_forward.py", "kt, with log-sum-exp": "examples/attention.py"
}  # fmt: skip
ROW_SHAPES = [(64, 1024), (32, 4096), (13, 781)]

Row = dict[str, Any]


def build(file: str, folder: str, *options: str) -> ModuleType:
    """`kt build FILE -t metal`, imported."""
    name = Path(file).stem
    out = Path(folder) / f"{name}{len(list(Path(folder).iterdir()))}"
    command = [sys.executable, "-c", "from transpile.cli import main; main()", "build"]
    command += [str(ROOT / file), "-t", "metal", "-o", str(out), *options]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return load_module(str(out / f"{name}_metal.py"))


def counted(module: ModuleType, call: Callable[[], Any], want: Any, tolerance: float) -> Counters:
    """The counters of a call that launches once and gives `want`."""
    executor = Executor()
    with executing(module, executor):
        got = call()
    got = got[0] if isinstance(got, tuple) else got
    torch.testing.assert_close(got.float(), want.float(), rtol=tolerance, atol=tolerance)
    (launch,) = executor.launches
    return launch


def row(what: str, shape: str, launch: Counters, units: float) -> Row:
    """One kernel's counters, those in the threadgroup divided by the units of work."""
    device, shared = launch.device, launch.threadgroup
    return {
        "kernel": what,
        "shape": shape,
        "groups": "x".join(map(str, launch.groups)),
        "threads": math.prod(launch.threads),
        "device read": device.read_bytes,
        "device written": device.written_bytes,
        "tg reads": round(shared.reads / units),
        "tg read bytes": round(shared.read_bytes / units),
        "tg written bytes": round(shared.written_bytes / units),
        "barriers": round(launch.barriers / units, 1),
        "simdgroup barriers": round(launch.simdgroup_barriers / units),
        "products": round(launch.products / units),
        "tg memory": launch.threadgroup_bytes,
    }


def table(title: str, rows: list[Row]) -> None:
    head = list(rows[0])
    lines = [head, *([str(row[key]) for key in head] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()


# -- sections ----------------------------------------------------------------------------------


def gemm(folder: str, mlx: str | None) -> list[Row]:
    """f16 with f32 accumulation; units are output tiles of 64x64."""
    rows = []
    signature = ("--kernel", "matmul", "--arg", "x=f16[M,K]", "--arg", "y=f16[K,N]")
    module: Any = build("examples/matmul.py", folder, *signature)
    for m, n, k in GEMM_SHAPES:
        units = math.ceil(m / 64) * math.ceil(n / 64)
        shape = f"{m}x{n}x{k}"
        x, y = torch.randn(m, k).half(), torch.randn(k, n).half()
        launch = counted(module, lambda x=x, y=y: module.matmul(x, y), x.float() @ y.float(), 3e-2)
        rows.append(row("kt", shape, launch, units))
        if mlx:
            for tile in MLX_TILES:
                launch = mlx_steel.gemm(mlx, m, n, k, tile)
                rows.append(row(f"MLX {','.join(map(str, tile))}", shape, launch, units))
    table("GEMM f16; threadgroup counts, barriers and products per 64x64 of output", rows)
    return rows


def attention(folder: str, mlx: str | None) -> list[Row]:
    """f16 forward; units are blocks of 32 queries and 32 keys."""
    rows = []
    for heads, queries, keys, dim in ATTENTION_SHAPES:
        units = heads * math.ceil(queries / 32) * math.ceil(keys / 32)
        shape = f"{heads}x{queries}x{keys}x{dim}"
        arguments = [
            f"{name}=f16[B,H,{size},{dim}]" for name, size in zip("qkv", "MNN", strict=True)
        ]
        options = [text for argument in arguments for text in ("--arg", argument)]
        options += ["--kernel", "attention"]
        q = torch.randn(1, heads, queries, dim).half()
        k, v = (torch.randn(1, heads, keys, dim).half() for _ in range(2))
        want = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
        for what, file in ATTENTION_FILES.items():
            module: Any = build(file, folder, *options)
            call = lambda q=q, k=k, v=v, f=module.attention: f(q, k, v)  # noqa: E731
            rows.append(row(what, shape, counted(module, call, want, 4e-3), units))
        if mlx:
            launch = mlx_steel.attention(mlx, heads, queries, keys, dim)
            rows.append(row("MLX", shape, launch, units))
    table("Attention f16; threadgroup counts, barriers, products per 32 queries x 32 keys", rows)
    return rows


def rows(folder: str, mlx: str | None) -> list[Row]:
    """Softmax and RMS norm: how often each input byte is read."""
    found = []
    signature = ("--kernel", "softmax", "--arg", "x=f16[M,N]")
    softmax: Any = build("examples/softmax.py", folder, *signature)
    norm: Any = build(
        "examples/rms_norm.py", folder, "--kernel", "rms_norm_fwd", "--arg", "x=f16[M,N]", "--arg",
        "weight=f16[N]", "--arg", "eps=f32",
    )  # fmt: skip
    for m, n in ROW_SHAPES:
        x, weight = torch.randn(m, n).half(), torch.randn(n).half()
        want = torch.softmax(x.float(), 1)
        launch = counted(softmax, lambda x=x: softmax.softmax(x), want, 2e-3)
        found.append(_reads("softmax", launch, x))
        want = torch.nn.functional.rms_norm(x.float(), (n,), weight.float(), 1e-5)
        launch = counted(norm, lambda x=x, w=weight: norm.rms_norm_fwd(x, w, 1e-5), want, 1e-2)
        found.append(_reads("RMS norm", launch, x))
    table("Rows f16: bytes of x read from device memory, in units of the bytes of x", found)
    return found


def _reads(what: str, launch: Counters, x: torch.Tensor) -> Row:
    shape = "x".join(map(str, x.shape))
    made = row(what, shape, launch, launch.groups[0] * launch.groups[1] * launch.groups[2])
    times = launch.buffers["x"].read_bytes / (x.numel() * x.element_size())
    return {"kernel": what, "shape": shape, "reads of x": round(times, 3)} | made


SECTIONS = {"gemm": gemm, "attention": attention, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--mlx", metavar="DIR", help="a checkout of github.com/ml-explore/mlx")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    torch.manual_seed(0)
    report = {}
    with tempfile.TemporaryDirectory(prefix="kt-metal-") as folder:
        for name in options.sections or SECTIONS:
            report[name] = SECTIONS[name](folder, options.mlx)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
