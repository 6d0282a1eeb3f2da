"""Accesses that get a distribution of their own: neighbouring lanes on neighbouring elements."""

from __future__ import annotations

import pytest
import torch

from tests.thread.programs import from_source, lower_kernel
from transpile.thread import ir
from transpile.thread.walk import all_nodes, walk

TRANSPOSE = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([n, m], dtype=x.dtype, device=x.device)
    for rows, cols in hl.tile([m, n]):
        out[cols, rows] = x[rows, cols].T
    return out
"""
COLUMN_MAJOR = """
def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(y)
    for rows, cols in hl.tile(y.size()):
        out[rows, cols] = x[cols, rows].T + torch.exp(y[rows, cols])
    return out
"""
FROM_ROWS = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([n, m], dtype=torch.float32, device=x.device)
    for rows, cols in hl.tile([m, n]):
        tile = x[rows, cols].to(torch.float32)
        out[cols, rows] = (tile - torch.amax(tile, dim=1)[:, None]).T
    return out
"""


def accesses(phase: ir.Kernel) -> tuple[set[int], set[int]]:
    """The widths of the phase's loads and stores."""
    nodes = list(all_nodes(phase.body))
    loads = {n.width for n in nodes if isinstance(n, ir.Load)}
    return loads, {s.value.width for s in walk(phase.body) if isinstance(s, ir.Store)}


@pytest.mark.parametrize("blocks", [[32, 32], [64, 32], [16, 128]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_transposition_is_contiguous_on_both_sides(blocks: list[int], dtype: torch.dtype) -> None:
    names = {torch.float32: "f32", torch.float16: "f16", torch.uint8: "u8"}
    kernel = from_source(TRANSPOSE, {"x": f"{names[dtype]}[M,N]"}, {"block_sizes": blocks})
    lowered = lower_kernel(kernel)
    lowered.check()
    (phase,) = lowered.phases
    assert accesses(phase) == ({4}, {4})
    (buffer,) = phase.shared
    assert buffer.pad * dtype.itemsize == 4  # a row further is a bank further
    for m, n in ((64, 96), (37, 131), (1, 1)):
        x = (torch.randn(m, n) * 50).to(dtype)
        out = lowered.run({"x": x})
        assert torch.equal(out, x.T)


def test_what_only_one_operand_needs_is_done_for_it_alone() -> None:
    kernel = from_source(
        COLUMN_MAJOR, {"x": "f32[N,M]", "y": "f32[M,N]"}, {"block_sizes": [32, 32]}
    )
    lowered = lower_kernel(kernel)
    lowered.check()
    assert accesses(lowered.phases[0]) == ({4}, {4})
    assert len(lowered.phases[0].shared) == 1
    x, y = torch.randn(50, 33), torch.randn(33, 50)
    out = lowered.run({"x": x, "y": y})
    torch.testing.assert_close(out, x.T + y.exp())


def test_results_are_stored_along_memory() -> None:
    kernel = from_source(FROM_ROWS, {"x": "f32[M,N]"}, {"block_sizes": [32, 64]})
    lowered = lower_kernel(kernel)
    lowered.check()
    assert accesses(lowered.phases[0]) == ({4}, {4})
    x = torch.randn(40, 64)
    out = lowered.run({"x": x})
    torch.testing.assert_close(out, (x - x.amax(1, keepdim=True)).T)


def test_tiles_larger_than_shared_memory_stay_as_they_are() -> None:
    kernel = from_source(TRANSPOSE, {"x": "f32[M,N]"}, {"block_sizes": [128, 128]})
    lowered = lower_kernel(kernel)
    lowered.check()
    assert not lowered.phases[0].shared
