"""KT0604: loops that cannot have the form that ``pallas_loop_type`` asks for."""

from __future__ import annotations

import re

import pytest

from tests.frontend.lower import kernels
from tests.pallas.generate import SOURCE
from tests.pallas.test_kernels import MATMUL
from transpile.emitters import EmitOptions
from transpile.emitters.pallas.emitter import emit
from transpile.ir.diagnostics import Diagnostic

#: one axis, which is the loop's
LINE = """
@helion.kernel()
def f(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    m = x.size(0)
    n = scale.size(0)
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        total = torch.zeros_like(x[tile_m])
        for tile_n in hl.tile(n):
            total = total + torch.sum(scale[tile_n])
        out[tile_m] = x[tile_m] * total
    return out
"""

IN_PLACE = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    for tile_m in hl.tile(m):
        for tile_n in hl.tile(n):
            x[tile_m, tile_n] = x[tile_m, tile_n] * 2
    return x
"""

NESTED = """
@helion.kernel()
def f(x: torch.Tensor, turns: int) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        total = hl.zeros([tile_m], dtype=torch.float32)
        for i in range(turns):
            for tile_n in hl.tile(n):
                total = total * i + x[tile_m, tile_n].sum(-1)
        out[tile_m] = total
    return out
"""

CAUSAL = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m, n], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        total = hl.zeros([tile_m, n], dtype=torch.float32)
        for tile_n in hl.tile(0, tile_m.end):
            total = total + x[tile_n, :].sum(0)[None, :]
        out[tile_m, :] = total
    return out
"""
MATRIX = {"x": "f32[M,N]"}
PRODUCT = {"x": "bf16[M,K]", "y": "bf16[K,N]"}


def notes(snippet: str, args: dict[str, str], **config: object) -> list[Diagnostic]:
    found = emit(SOURCE, [kernels(snippet, args=args, config=config)[:1]], EmitOptions())
    return list(found.diagnostics)


@pytest.mark.parametrize(
    ("snippet", "args", "asked", "blocks", "why", "remedy"),
    [
        (LINE, {"x": "f32[M]", "scale": "f32[N]"}, "fori_loop", [1024, 1024],
         "`scale` has no second axis", "unroll"),
        (IN_PLACE, MATRIX, "fori_loop", [64, 128], "the kernel writes `x`", "unroll"),
        (IN_PLACE, MATRIX, "emit_pipeline", [64, 128], "the kernel writes `x`", "unroll"),
        (NESTED.replace("hl.tile(n)", "hl.tile(n, block_size=64)"), {**MATRIX, "turns": "i32"},
         "fori_loop", [64],
         "`x` have 64 elements along an axis that needs a multiple of 128", "block sizes"),
        (NESTED, {**MATRIX, "turns": "i32"}, "emit_pipeline", [64, 128],
         "inside another loop", "fori_loop"),
        (CAUSAL, MATRIX, "unroll", [64, 128], "grid position", "fori_loop"),
    ],
)  # fmt: skip
def test_a_loop_that_cannot_follow_is_named(
    snippet: str, args: dict[str, str], asked: str, blocks: list[int], why: str, remedy: str
) -> None:
    (found,) = notes(snippet, args, pallas_loop_type=asked, block_sizes=blocks)
    assert (found.code, found.severity) == ("KT0604", "note")
    assert re.fullmatch(
        rf'`pallas_loop_type="{asked}"` of `f` is left out in the loop over `tile_\w`',
        found.message,
    )
    assert why in found.why
    assert remedy in found.remedy
    assert found.span is not None


@pytest.mark.parametrize("asked", ["fori_loop", "emit_pipeline", "unroll"])
def test_a_loop_that_follows_is_not(asked: str) -> None:
    assert notes(MATMUL, PRODUCT, pallas_loop_type=asked, block_sizes=[128, 128, 128]) == []


@pytest.mark.parametrize("snippet", [IN_PLACE, CAUSAL, MATMUL])
def test_nothing_asked_nothing_said(snippet: str) -> None:
    args = PRODUCT if snippet is MATMUL else MATRIX
    assert notes(snippet, args) == []
