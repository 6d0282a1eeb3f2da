"""A tester of the tester: every planted mistake in a matrix product is noticed, by the strict
check, by the executor, or by wrong numbers."""

from __future__ import annotations

import struct

import pytest

from tests.msl.programs import kernel_text, program, run, torch

from transpile.verify.msl import strict  # isort: skip
from transpile.verify.msl.executor import ExecutionError  # isort: skip

M, N, K = 129, 67, 45

# name, text, what it becomes, how it is noticed
MUTANTS = [
    ("no barrier in the loop", "    threadgroup_barrier(mem_flags::mem_threadgroup);  // next tile\n", "", "executor"),
    ("no barrier before the loop", "  threadgroup_barrier(mem_flags::mem_threadgroup);  // first tile\n", "", "executor"),
    ("barrier without memory", "mem_flags::mem_threadgroup);  // next", "mem_flags::mem_none);  // next", "executor"),
    ("barrier for device memory", "mem_flags::mem_threadgroup);  // next", "mem_flags::mem_device);  // next", "executor"),
    ("barrier of the SIMD group only", "threadgroup_barrier(mem_flags::mem_threadgroup);  // next", "simdgroup_barrier(mem_flags::mem_threadgroup);  // next", "executor"),
    ("next tile into the stage in use", "load_tile(a_tile[1 - stage]", "load_tile(a_tile[stage]", "executor"),
    ("no row bound", "row + r < height && column + c < width", "column + c < width", "executor"),
    ("no column bound", "row + r < height && column + c < width", "row + r < height", "numbers or executor"),
    ("no row bound in the epilogue", "r < size.m && n < size.n", "n < size.n", "executor"),
    ("no column bound in the epilogue", "r < size.m && n < size.n", "r < size.m", "executor"),
    ("last step left out", "(size.k + BK - 1) / BK", "size.k / BK", "numbers"),
    ("SIMD groups in the wrong place", "simdgroup / 2 * 32", "simdgroup % 2 * 32", "numbers or executor"),
    ("wrong row of a lane", "lane / 2 % 4;", "lane / 2 % 8;", "numbers or executor"),
    ("wrong column of a lane", "(quad & 2) * 2 + lane % 2 * 2", "(quad & 2) + lane % 2 * 2", "numbers or executor"),
    ("operands exchanged", "left[i], right[j], sum", "right[j], left[i], sum", "numbers"),
    ("one operand transposed", "+ 8 * i) * LDA + k, LDA)", "+ 8 * i) * LDA + k, LDA, ulong2(0, 0), true)", "numbers or executor"),
    ("sum not initialised", "sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);", "", "numbers"),
    ("rows of the tile overlap", "LDA = BK + 8", "LDA = BK - 8", "executor"),
    ("half accumulators", "simdgroup_float8x8 sum", "simdgroup_half8x8 sum", "strict"),
    ("matrix of another type", "simdgroup_half8x8 left", "simdgroup_float8x8 left", "strict"),
]  # fmt: skip


def noticed(source: str, reverse: bool) -> str:
    """How the mistake shows: the strict check, the executor, or the numbers; "" if it does not."""
    if strict.check(source):
        return "strict"
    torch.manual_seed(0)
    a, b = torch.randn(M, K).half(), torch.randn(K, N).half()
    c = torch.full((M, N), torch.nan).half()
    try:
        grid = -(-N // 64), -(-M // 64), 1
        run(source, [a, b, c, struct.pack("3I", M, N, K)], grid, (128, 1, 1), "gemm", reverse)
    except ExecutionError:
        return "executor"
    want = a.float() @ b.float()
    wrong = (c.float() - want).abs() > 2.0**-10 * want.abs() + 1e-3
    return "numbers" if bool(wrong.any() | c.isnan().any()) else ""


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("old", "new", "how"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_mutant_is_noticed(old: str, new: str, how: str, reverse: bool) -> None:
    text = kernel_text("gemm.metal")
    assert text.count(old) >= 1
    found = noticed(text.replace(old, new), reverse)
    assert found
    assert found in how


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_original_is_right(reverse: bool) -> None:
    assert noticed(kernel_text("gemm.metal"), reverse) == ""


def test_counters() -> None:
    m, n, k = 128, 64, 32
    a, b, c = torch.randn(m, k).half(), torch.randn(k, n).half(), torch.zeros(m, n).half()
    counted = run(
        kernel_text("gemm.metal"),
        [a, b, c, struct.pack("3I", m, n, k)],
        (1, 2, 1),
        (128, 1, 1),
        "gemm",
    )
    tiles, steps = 2, 2
    assert counted.buffers["a"].read_bytes == m * k * 2
    assert counted.buffers["b"].read_bytes == tiles * k * n * 2
    assert counted.buffers["c"].written_bytes == m * n * 2
    assert counted.buffers["c"].read_bytes == counted.buffers["a"].written_bytes == 0
    assert counted.device.read_bytes == (m * k + tiles * k * n) * 2
    assert counted.constants["size"].read_bytes > 0
    assert counted.barriers == tiles * (1 + steps)
    assert counted.simdgroup_barriers == 0
    assert counted.products == tiles * (64 // 8) * (64 // 8) * (k // 8)
    assert counted.threadgroup_bytes == 2 * 2 * (64 * 24 + 16 * 72)
    # per step: each of 4 SIMD groups loads 4 + 4 matrices for each of 2 slices of k
    assert counted.threadgroup.reads == tiles * steps * 4 * 2 * 8 * 64
    assert counted.threadgroup.written_bytes == tiles * steps * 2 * (64 * 16 + 16 * 64)


SEGMENTS = {  # of 128 bytes, for each of two SIMD groups that read floats
    "x[i]": 1,
    "x[i + 1]": 2,  # across the boundary of a segment
    "x[i * 2]": 2,
    "x[i % 32 * 32]": 32,
    "x[0]": 1,
    "(x[i * 4 + 1] + x[i * 4] + x[i * 4 + 2] + x[i * 4 + 3])": 4,  # four in a row are one access
}


@pytest.mark.parametrize(("read", "count"), SEGMENTS.items(), ids=list(SEGMENTS))
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_segments(read: str, count: int, reverse: bool) -> None:
    x, y = torch.zeros(2048), torch.zeros(64)
    source = program(f"y[i] = {read};")
    rest = [struct.pack("I", 64), torch.zeros(1, dtype=torch.int32)]
    counted = run(source, [x, y, *rest], (1, 1, 1), (64, 1, 1), "k", reverse=reverse)
    assert counted.buffers["x"].segments == 2 * count
    assert counted.buffers["y"].segments == 2
    assert counted.threadgroup.segments == 0
