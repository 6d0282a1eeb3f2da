"""What a kernel is said to need: vector memory, and operations for XLA's scheduler."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pallas.generate import build, function
from tests.pallas.test_kernels import ELEMENTWISE, MATMUL, SOFTMAX
from transpile.emitters.pallas.vmem import MIB, tile_bytes
from transpile.ir.diagnostics import Diagnostic, KtError

ROOT = Path(__file__).resolve().parents[2]

ATTENTION = """
@helion.kernel()
def f(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    b, m, d = q.size()
    n = k.size(1)
    out = torch.empty_like(q)
    for tile_b, tile_m in hl.tile([b, m], block_size=[1, None]):
        top = hl.full([tile_b, tile_m], float("-inf"), dtype=torch.float32)
        total = torch.full_like(top, 1.0)
        acc = hl.zeros([tile_b, tile_m, d], dtype=torch.float32)
        queries = q[tile_b, tile_m, :]
        for tile_n in hl.tile(n):
            scores = torch.bmm(queries, k[tile_b, tile_n, :].transpose(1, 2)).to(torch.float32)
            new_top = torch.maximum(top, torch.amax(scores, -1))
            probs = torch.exp(scores - new_top[:, :, None])
            scale = torch.exp(top - new_top)
            total = total * scale + probs.sum(-1)
            acc = acc * scale[:, :, None] + torch.bmm(probs.to(v.dtype), v[tile_b, tile_n, :])
            top = new_top
        out[tile_b, tile_m, :] = (acc / total[:, :, None]).to(out.dtype)
    return out
"""


def refusal(snippet: str, **options: object) -> Diagnostic:
    with pytest.raises(KtError) as caught:
        build(snippet, **options)  # type: ignore[arg-type]
    (found,) = caught.value.diagnostics
    assert found.code == "KT0640"
    return found


@pytest.mark.parametrize(
    ("shape", "width", "tiles"),
    [
        ((8, 128), 4, 1), ((9, 1), 4, 2), ((8, 128), 2, 1), ((17, 129), 2, 4), ((33, 128), 1, 2),
        ((3, 1, 128), 4, 3), ((100,), 4, 1), ((1025,), 4, 2),
    ],
)  # fmt: skip
def test_buffers_take_whole_tiles(shape: tuple[int, ...], width: int, tiles: int) -> None:
    assert tile_bytes(list(shape), width) == tiles * 4096


def test_too_much_is_refused_with_a_table() -> None:
    found = refusal(SOFTMAX, args={"x": "f32[256,1048576]"}, block_sizes=[256])
    assert "128 on tpu-v5e, 64 on tpu-v5p" in found.message
    assert "2048.00 MiB  x (256, 1048576) f32, twice" in str(found.why)
    assert "MiB  values that may be spilled" in str(found.why)
    assert "split the dimension" in str(found.remedy)


@pytest.mark.parametrize("arch", ["", "tpu-v5p", "tpu-v6e"])
def test_blocks_that_the_remedy_names_fit(arch: str) -> None:
    args = {"x": "f32[4096,4096]", "y": "f32[4096,4096]"}
    found = refusal(MATMUL, args=args, arch=arch, block_sizes=[4096, 2048, 4096])
    sizes = re.search(r"block_sizes=(\[.*?\])", str(found.remedy))
    assert sizes is not None
    chosen = ast.literal_eval(sizes[1])
    build(MATMUL, args=args, arch=arch, block_sizes=chosen)
    largest = chosen.index(max(chosen))
    chosen[largest] *= 2
    refusal(MATMUL, args=args, arch=arch, block_sizes=chosen)


def test_generations_have_memory_of_their_own() -> None:
    """Windows of 80 MiB fit a v5e, a v6e, no v5p, no 7x."""
    args = {"x": "f32[1024,8192]"}
    build(SOFTMAX, args=args, block_sizes=[512], arch="tpu-v6e")
    for arch in ("tpu-7x", "tpu-v5p", ""):
        found = refusal(SOFTMAX, args=args, block_sizes=[512], arch=arch)
        assert "64 on tpu-" in found.message
        assert "128 on" not in found.message
    assert "--arch" in str(found.remedy)


def test_a_known_need_is_a_number() -> None:
    text = build(MATMUL, args={"x": "f32[M,K]", "y": "f32[K,N]"}, block_sizes=[512, 1024, 1024])
    limit = re.search(r"vmem_limit_bytes=(\d+) << 20", text)
    assert limit is not None
    buffers = 2 * 4 * (512 * 1024 + 1024 * 1024 + 512 * 1024) + 4 * 512 * 1024
    assert buffers < int(limit[1]) * MIB < 1.5 * buffers
    assert "    return pl.pallas_call(" in text
    small = build(MATMUL, args={"x": "f32[M,K]", "y": "f32[K,N]"}, block_sizes=[128, 128, 128])
    assert "vmem_limit_bytes" not in small


def test_blocks_as_long_as_a_dimension_are_measured_at_run_time() -> None:
    call = function(build(SOFTMAX, args={"x": "f32[M,N]"}), "_f_call")
    assert "    return kt.pallas_call(" in call
    assert "spilled_bytes=4 * block * n," in call
    assert "vmem_limit" not in call


@pytest.mark.parametrize(
    ("snippet", "args", "estimate"),
    [
        (
            MATMUL, {"x": "bf16[M,K]", "y": "bf16[K,N]"},
            ["2 * m * n * k", "x.nbytes + y.nbytes + m * n * x.dtype.itemsize", "0"],
        ),
        (
            ATTENTION,
            {"q": "bf16[B,M,128]", "k": "bf16[B,N,128]", "v": "bf16[B,N,128]"},
            ["512 * b * m * n", "2 * q.nbytes + 2 * k.nbytes", "b * m * n"],
        ),
        (
            SOFTMAX, {"x": "f32[M,N]"},
            ["4 * m * n", "2 * x.nbytes", "m * n"],
        ),
        (
            ELEMENTWISE.format("torch.exp(x[tile]) * 2"), {"x": "f32[M,N]"},
            ["m * n", "2 * x.nbytes", "m * n"],
        ),
    ],
    ids=["matmul", "attention", "softmax", "elementwise"],
)  # fmt: skip
def test_cost_estimates(snippet: str, args: dict[str, str], estimate: list[str]) -> None:
    call = " ".join(function(build(snippet, args=args), "_f_call").split())
    numbers = r"flops=(.*?), bytes_accessed=(.*?), transcendentals=(.*?),? ?\), name="
    found = re.search(r"cost_estimate=pl\.CostEstimate\( ?" + numbers, call)
    assert found is not None
    assert [*found.groups()] == estimate


def test_loops_that_depend_on_data_have_no_estimate() -> None:
    snippet = """
    @helion.kernel()
    def f(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        out = torch.empty([ends.size(0), x.size(1)], dtype=x.dtype, device=x.device)
        for tile_b, tile_d in hl.tile([ends.size(0), x.size(1)], block_size=[1, None]):
            acc = hl.zeros([tile_d], dtype=torch.float32)
            for tile_l in hl.tile(ends[tile_b.begin]):
                acc = acc + x[tile_l, tile_d].sum(0)
            out[tile_b.begin, tile_d] = acc
        return out
    """
    assert "cost_estimate" not in build(snippet, args={"x": "f32[L,D]", "ends": "i32[B]"})


def test_only_axes_along_which_an_output_is_shared_are_sequential() -> None:
    """`parallel` splits an axis over the cores of a chip that has two."""
    args = {"x": "bf16[M,K]", "y": "bf16[K,N]"}
    assert '("parallel", "parallel", "arbitrary")' in build(MATMUL, args=args)
    assert '("parallel",)' in build(SOFTMAX, args={"x": "f32[M,N]"})
    assert 'name="f"' in build(SOFTMAX, args={"x": "f32[M,N]"})


def test_buffers_of_pipelines_are_counted() -> None:
    """y's blocks of 2048 x 4096 are there twice, 64 MiB, beside the rest: a v5p has no more."""
    args = {"x": "f32[1024,4096]", "y": "f32[4096,8192]"}
    blocks = [128, 4096, 2048]
    options = {"pallas_loop_type": "emit_pipeline", "block_sizes": blocks}
    found = refusal(MATMUL, args=args, arch="tpu-v5p", **options)
    assert "64.00 MiB  y (2048, 4096) f32, twice by emit_pipeline" in str(found.why)
    assert "2.00 MiB  x (128, 2048) f32, twice by emit_pipeline" in str(found.why)
    sizes = re.search(r"block_sizes=(\[.*?\])", str(found.remedy))
    assert sizes is not None
    chosen = ast.literal_eval(sizes[1])
    build(MATMUL, args=args, arch="tpu-v5p", **(options | {"block_sizes": chosen}))


def test_buffers_of_pipelines_are_measured_at_run_time() -> None:
    args = {"x": "f32[M,K]", "y": "f32[K,N]"}
    sizes = {"pallas_loop_type": "emit_pipeline", "block_sizes": [4096, 4096, 4096]}
    call = function(build(MATMUL, args=args, **sizes), "_f_call")
    assert "kt.pallas_call(" in call
    assert call.count("pltpu.VMEM((2, ") == 2
    small = build(MATMUL, args=args, **(sizes | {"block_sizes": [128, 128, 128]}))
    assert "pipeline_buffers" not in small


def test_pipelines_one_after_the_other_have_the_same_memory() -> None:
    snippet = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        top = hl.full([tile_m], float("-inf"), dtype=torch.float32)
        for tile_n in hl.tile(n):
            top = torch.maximum(top, x[tile_m, tile_n].amax(-1))
        total = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n):
            total = total + torch.exp(x[tile_m, tile_n] - top[:, None]).sum(-1)
        out[tile_m] = total
    return out
"""
    options = {"pallas_loop_type": "emit_pipeline", "block_sizes": [2048, 2048, 4096]}
    found = refusal(snippet, args={"x": "f32[4096,8192]"}, arch="tpu-v5p", **options)
    rows = [line for line in str(found.why).split("\n") if "emit_pipeline" in line]
    assert [row.strip() for row in rows] == [
        "64.00 MiB  x (2048, 4096) f32, twice by emit_pipeline"
    ]


def test_the_compiler_takes_what_is_said(tmp_path: Path) -> None:
    """A v5e's compiler takes small kernels with the estimate as the limit, and needs most of it."""
    for package in ("torch", "jax", "libtpu"):
        pytest.importorskip(package)
    figures = tmp_path / "figures.json"
    script = ROOT / "benchmarks" / "pallas_vmem.py"
    command = [sys.executable, str(script), "--quick", "--arch", "v5e", "--json", str(figures)]
    answer = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    cases = json.loads(figures.read_text())
    assert {case["kernel"] for case in cases} >= {"matmul", "softmax", "rms_norm_fwd", "add"}
    for case in cases:
        assert case["accepted"], case
        assert case["needed"] <= case["estimate"] < case["needed"] + 2 * MIB, case
