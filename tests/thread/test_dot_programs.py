"""Kernels with products, run by threads, against the Tile IR's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.thread.matrices import UNIT, prepared
from tests.thread.test_dot_layout import ATTENTION, MATMUL
from transpile.ir.interpreter import run_kernel
from transpile.thread.barriers import unordered
from transpile.thread.interpreter import run_program
from transpile.thread.ir import Mma
from transpile.thread.limits import Limits
from transpile.thread.lower import lower
from transpile.thread.walk import walk

LIMITS = Limits("test", matrices=UNIT)
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}


def check(
    source: str, signature: str, blocks: list[int], args: dict[str, Any], stages: int = 1,
    **options: Any,
) -> None:  # fmt: skip
    """Lower, prove the barriers, run both ways and compare."""
    kernel, schedule = prepared(source, signature, blocks)
    config = {"num_warps": 4, "num_stages": stages}
    phases = [
        lower(kernel, phase, schedule.blocks, LIMITS, config=config, **options)
        for phase in kernel.phases
    ]
    assert not [race for phase in phases for race in unordered(phase)]
    expected = run_kernel(kernel, dict(args), schedule.blocks)
    found = run_program(kernel, lambda number: phases[number], dict(args), schedule.blocks)
    pairs = zip(_tuple(expected), _tuple(found), strict=True)
    for want, got in pairs:
        assert want.dtype == got.dtype
        if not want.is_floating_point():
            assert torch.equal(want, got)
            continue
        scale = float(want.float().abs().max()) or 1.0
        error = float((want.double() - got.double()).abs().max()) / scale
        assert error <= TOLERANCE[want.dtype], error


def _tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def columns(tensor: torch.Tensor) -> torch.Tensor:
    """The same matrix, column-major."""
    return tensor.t().contiguous().t()


@pytest.mark.parametrize(
    ("m", "n", "k", "blocks"),
    [
        (32, 32, 32, [32, 32, 16]),
        (37, 21, 19, [32, 32, 16]),
        (5, 3, 7, [16, 16, 16]),
        (20, 20, 20, [4, 32, 8]),
        (20, 20, 20, [32, 4, 8]),
        (9, 9, 9, [2, 2, 4]),
        (9, 9, 9, [8, 16, 4]),
        (9, 9, 9, [8, 1, 8]),
        (6, 6, 6, [1, 1, 1]),
    ],
)
def test_any_block_sizes(m, n, k, blocks):
    args = {"x": randn(m, k), "y": randn(k, n), "bias": randn(n)}
    check(MATMUL, "x=f32[M,K] y=f32[K,N] bias=f32[N]", blocks, args)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("major", ["", "{0,1}"])
def test_narrow_operands_in_both_orders(dtype, major):
    name = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    lay = columns if major else (lambda t: t)
    x, y = lay(randn(37, 40, dtype=dtype)), lay(randn(40, 24, dtype=dtype))
    signature = f"x={name}[M,K]{major} y={name}[K,N]{major} bias=f32[N]"
    check(MATMUL, signature, [32, 32, 16], {"x": x, "y": y, "bias": randn(24)})


@pytest.mark.parametrize(("m", "n"), [(32, 64), (19, 37)])
def test_attention(m, n):
    q, k, v = (randn(s, 16, dtype=torch.float16) for s in (m, n, n))
    check(ATTENTION, "q=f16[M,16] k=f16[N,16] v=f16[N,16]", [32, 32], {"q": q, "k": k, "v": v})


BATCHED = """
def bmm(x, y):
    b, m, k = x.size()
    n = y.size(2)
    out = torch.empty([b, m, n], dtype=x.dtype, device=x.device)
    for tile_b, tile_m, tile_n in hl.tile([b, m, n]):
        acc = hl.zeros([tile_b, tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.baddbmm(acc, x[tile_b, tile_m, tile_k], y[tile_b, tile_k, tile_n])
        out[tile_b, tile_m, tile_n] = acc.to(x.dtype)
    return out
"""


@pytest.mark.parametrize("block", [1, 2, 4])
def test_batches(block):
    args = {"x": randn(3, 18, 17), "y": randn(3, 17, 9)}
    check(BATCHED, "x=f32[B,M,K] y=f32[B,K,N]", [block, 16, 8, 16], args)


INTEGERS = """
def product(x, y):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.int32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.int32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
        out[tile_m, tile_n] = acc
    return out
"""


def test_integers():
    args = {
        "x": torch.randint(-128, 128, (21, 35), dtype=torch.int8),
        "y": torch.randint(-128, 128, (35, 18), dtype=torch.int8),
    }
    check(INTEGERS, "x=i8[M,K] y=i8[K,N]", [16, 16, 16], args)


TWO_OUTPUTS = """
def gated(x, w, v):
    m, k = x.size()
    n = w.size(1)
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    gate = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        a = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        b = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            x_tile = x[tile_m, tile_k]
            a = hl.dot(x_tile, w[tile_k, tile_n], acc=a)
            b = hl.dot(x_tile, v[tile_k, tile_n], acc=b)
        gate[tile_m, tile_n] = torch.sigmoid(a)
        out[tile_m, tile_n] = (a * torch.sigmoid(a) * b).to(x.dtype)
    return out, gate
"""


def test_two_products_with_one_operand_and_two_outputs():
    args = {n: randn(*s, dtype=torch.float16) for n, s in
            {"x": (33, 20), "w": (20, 17), "v": (20, 17)}.items()}  # fmt: skip
    check(TWO_OUTPUTS, "x=f16[M,K] w=f16[K,N] v=f16[K,N]", [32, 16, 16], args)


ROWS = """
def normalised(x, w, weight):
    m, k = x.size()
    n = hl.specialize(w.size(1))
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        acc = hl.zeros([tile_m, n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], w[tile_k, :])
        total = torch.sum(acc, dim=-1, keepdim=True)
        top = torch.amax(acc, dim=0)
        out[tile_m, :] = ((acc - total / n) * weight[:][None, :] + top[None, :]).to(x.dtype)
    return out
"""


@pytest.mark.parametrize("n", [32, 24, 12, 4])
def test_reductions_of_rows_and_columns(n):
    args = {"x": randn(16, 20), "w": randn(20, n), "weight": randn(n)}
    check(ROWS, f"x=f32[M,K] w=f32[K,{n}] weight=f32[{n}]", [16, 8], args)


BACKWARD = """
def backward(x, w, grad):
    m, k = x.size()
    n = w.size(1)
    k = hl.specialize(k)
    n = hl.specialize(n)
    dx = torch.empty([m, k], dtype=torch.float32, device=x.device)
    dw = torch.zeros([k, n], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        g = grad[tile_m, :]
        dx[tile_m, :] = hl.dot(g, w[:, :].T)
        hl.atomic_add(dw, [slice(None), slice(None)], hl.dot(x[tile_m, :].T, g))
    return dx, dw
"""


def test_an_axis_that_is_rows_here_and_columns_there():
    args = {"x": randn(37, 16), "w": randn(16, 24), "grad": randn(37, 24)}
    check(BACKWARD, "x=f32[M,16] w=f32[16,24] grad=f32[M,24]", [16], args)


BRANCH = """
def branch(x, y, bias, flag: int):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
            if tile_k.begin == 16:
                acc = acc * 0.5
        old = acc
        if tile_m.begin == 0:
            acc = acc + bias[tile_n][None, :]
        out[tile_m, tile_n] = acc * old
    return out
"""


def test_accumulators_in_branches_and_read_again():
    args = {"x": randn(37, 40), "y": randn(40, 24), "bias": randn(24), "flag": 1}
    check(BRANCH, "x=f32[M,K] y=f32[K,N] bias=f32[N] flag=i32", [16, 16, 16], args)


KEPT = """
def kept(x, y):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        best = hl.full([tile_m, tile_n], float("-inf"), dtype=torch.float32)
        for tile_k in hl.tile(k):
            new = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
            best = torch.maximum(best, new - acc)
            acc = new
        out[tile_m, tile_n] = best + acc
    return out
"""


def test_an_accumulator_that_is_read_beside_its_product():
    args = {"x": randn(37, 40), "y": randn(40, 24)}
    check(KEPT, "x=f32[M,K] y=f32[K,N]", [16, 16, 16], args)


TRANSPOSED = """
def transposed(x, y):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([n, m], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            a = torch.relu(x[tile_m, tile_k].to(torch.float32) * 2.0)
            acc = hl.dot(a, y[tile_k, tile_n].to(torch.float32), acc=acc)
        out[tile_n, tile_m] = acc.T
    return out
"""


def test_computed_operands_and_a_transposed_result():
    args = {"x": randn(37, 40, dtype=torch.float16), "y": randn(40, 24, dtype=torch.bfloat16)}
    check(TRANSPOSED, "x=f16[M,K] y=bf16[K,N]", [32, 16, 16], args)


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_bands_of_tiles(rows):
    args = {"x": randn(70, 17), "y": randn(17, 40), "bias": randn(40)}
    check(MATMUL, "x=f32[M,K] y=f32[K,N] bias=f32[N]", [16, 16, 16], args, swizzle=rows)


@pytest.mark.parametrize("k", [1, 7, 16, 33, 64])
@pytest.mark.parametrize("stages", [2, 3])
def test_stages(stages, k):
    args = {"x": randn(37, k), "y": randn(k, 24), "bias": randn(24)}
    check(MATMUL, "x=f32[M,K] y=f32[K,N] bias=f32[N]", [32, 16, 16], args, stages)


def test_stages_of_attention():
    q, k, v = (randn(s, 16, dtype=torch.float16) for s in (37, 70, 70))
    args = {"q": q, "k": k, "v": v}
    check(ATTENTION, "q=f16[M,16] k=f16[N,16] v=f16[N,16]", [32, 16], args, 2)


def test_stages_of_two_products():
    shapes = {"x": (33, 40), "w": (40, 17), "v": (40, 17)}
    args = {n: randn(*s, dtype=torch.float16) for n, s in shapes.items()}
    check(TWO_OUTPUTS, "x=f16[M,K] w=f16[K,N] v=f16[K,N]", [32, 16, 16], args, 2)


def test_stages_of_computed_operands():
    args = {"x": randn(37, 40, dtype=torch.float16), "y": randn(40, 24, dtype=torch.bfloat16)}
    check(TRANSPOSED, "x=f16[M,K] y=bf16[K,N]", [32, 16, 16], args, 2)


STATIC_WIDTH = """
def kernel(x, y):
    m, k = x.size()
    n = hl.specialize(y.size(1))
    out = torch.empty([m, n], dtype={out}, device=x.device)
    for tile_m in hl.tile(m):
        acc = hl.zeros([tile_m, n], dtype={acc})
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, :], acc=acc)
        out[tile_m, :] = {result}
    return out
"""


@pytest.mark.parametrize("n", [3, 67, 100])
def test_more_threads_than_columns(n):
    """A static width that is no power of two: threads beyond it have nothing to read."""
    source = STATIC_WIDTH.format(out="torch.int32", acc="torch.int32", result="acc")
    args = {
        "x": torch.randint(-128, 128, (21, 35), dtype=torch.int8),
        "y": torch.randint(-128, 128, (35, n), dtype=torch.int8),
    }
    check(source, f"x=i8[M,K] y=i8[K,{n}]", [16, 16], args)


@pytest.mark.parametrize("n", [5, 67])
def test_reductions_over_a_static_width_stay_on_matrices(n):
    """The columns that fill up the last matrix are masked like those of any tile."""
    result = "acc - acc.sum(dim=-1, keepdim=True) / n * torch.exp(acc).amax(-1, keepdim=True)"
    source = STATIC_WIDTH.format(out="torch.float32", acc="torch.float32", result=result)
    args = {"x": randn(37, 19) / 4, "y": randn(19, n)}
    signature = f"x=f32[M,K] y=f32[K,{n}]"
    check(source, signature, [32, 16], args)
    kernel, schedule = prepared(source, signature, [32, 16])
    (phase,) = kernel.phases
    lowered = lower(kernel, phase, schedule.blocks, LIMITS, config={"num_warps": 4})
    assert any(isinstance(stmt, Mma) for stmt in walk(lowered.body))
