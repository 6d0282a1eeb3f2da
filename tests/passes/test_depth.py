"""Products of whole dimensions in steps: the same results, and no operand held whole."""

from __future__ import annotations

import pytest
import torch

from transpile.frontend import FrontendOptions, SourceFile, load
from transpile.ir import ir
from transpile.ir.interpreter import run_kernel
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.depth import step_products
from transpile.passes.schedule import resolve

HEADER = "import helion\nimport helion.language as hl\nimport torch\n\n@helion.kernel()\n"
SCALED = (
    HEADER
    + """
def product(x, y, s):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        a = x[tile_m, :] * (1.0 - s[:])[None, :]
        out[tile_m, tile_n] = a @ y[:, tile_n]
    return out
"""
)
TRANSPOSED = (
    HEADER
    + """
def product(x, y):
    m, k = x.size()
    n = y.size(0)
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        for tile_n in hl.tile(n):
            out[tile_m, tile_n] = hl.dot(x[tile_m, :], y[tile_n, :].T)
    return out
"""
)
SOFTMAX = (
    HEADER
    + """
def product(x, y):
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        a = torch.softmax(x[tile_m, :], dim=-1)
        out[tile_m, tile_n] = a @ y[:, tile_n]
    return out
"""
)


def stepped(source: str, signature: str) -> tuple[ir.Kernel, ir.Kernel, dict]:
    args = dict(part.split("=", 1) for part in signature.split())
    options = FrontendOptions(args=args, config={"block_sizes": [16, 16]})
    result = load(SourceFile("kernel.py", source, ""), options)
    assert not result.diagnostics, result.diagnostics
    (kernel,) = result.kernels
    blocks = resolve(kernel).blocks
    rewritten = step_products(kernel, blocks)
    verify(rewritten)
    return kernel, rewritten, blocks


def widest(kernel: ir.Kernel) -> set[str]:
    """Depths of the kernel's products."""
    return {str(op.lhs.shape[-1]) for op in walk_kernel(kernel) if isinstance(op, ir.Dot)}


@pytest.mark.parametrize("k", [1, 16, 37])
def test_a_scaled_operand_is_loaded_in_steps(k):
    kernel, rewritten, blocks = stepped(SCALED, "x=f32[M,K] y=f32[K,N] s=f32[K]")
    assert (widest(kernel), widest(rewritten)) == ({"K"}, {"BLOCK_K"})
    args = {"x": torch.randn(19, k), "y": torch.randn(k, 21), "s": torch.randn(k)}
    torch.testing.assert_close(
        run_kernel(rewritten, args, blocks), run_kernel(kernel, args, blocks)
    )


def test_a_transposed_operand_is_loaded_in_steps():
    kernel, rewritten, blocks = stepped(TRANSPOSED, "x=f32[M,K] y=f32[N,K]")
    assert widest(rewritten) == {"BLOCK_K"}
    args = {"x": torch.randn(19, 50), "y": torch.randn(33, 50)}
    torch.testing.assert_close(
        run_kernel(rewritten, args, blocks), run_kernel(kernel, args, blocks)
    )


def test_a_normalised_operand_is_loaded_again_in_steps():
    kernel, rewritten, blocks = stepped(SOFTMAX, "x=f32[M,K] y=f32[K,N]")
    assert widest(rewritten) == {"BLOCK_K"}
    args = {"x": torch.randn(19, 50), "y": torch.randn(50, 33)}
    torch.testing.assert_close(
        run_kernel(rewritten, args, blocks), run_kernel(kernel, args, blocks)
    )


def test_an_operand_that_is_needed_whole_stays_whole():
    source = SOFTMAX.replace("torch.softmax(x[tile_m, :], dim=-1)", "hl.cumsum(x[tile_m, :], -1)")
    kernel, rewritten, _ = stepped(source, "x=f32[M,K] y=f32[K,N]")
    assert rewritten is kernel


@pytest.mark.parametrize(("k", "loops"), [(32, False), (64, True)])
def test_short_depths_stay_whole(k, loops):
    kernel, rewritten, _ = stepped(SCALED, f"x=f32[M,{k}] y=f32[{k},N] s=f32[{k}]")
    assert (rewritten is not kernel) == loops


@pytest.mark.parametrize(("k", "loops"), [(128, False), (512, True)])
def test_operands_of_products_in_loops_stay_whole_longer(k, loops):
    kernel, rewritten, _ = stepped(TRANSPOSED, f"x=f32[M,{k}] y=f32[N,{k}]")
    assert (rewritten is not kernel) == loops
