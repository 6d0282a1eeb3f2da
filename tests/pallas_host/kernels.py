"""Kernels whose generated code test_planted_generated breaks."""

import helion
import helion.language as hl
import torch


@helion.kernel(config=helion.Config(block_sizes=[128, 128, 128]))
def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y."""
    m, k = x.size()
    _, n = y.size()
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc
    return out


@helion.kernel()
def scale(x: torch.Tensor, factor: float) -> None:
    """x *= factor, in place."""
    for tile in hl.tile(x.size(0)):
        x[tile, :] = x[tile, :] * factor


@helion.kernel(config=helion.Config(block_sizes=[8, 128]))
def row_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of each row, in blocks."""
    m, n = x.size()
    out = torch.empty([m], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        acc = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n):
            acc = acc + x[tile_m, tile_n].sum(-1)
        out[tile_m] = acc
    return out


@helion.kernel(config=helion.Config(block_sizes=[64, 128]))
def column_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of each column, accumulated with atomics."""
    m, n = x.size()
    out = torch.zeros([n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        hl.atomic_add(out, [tile_n], x[tile_m, tile_n].sum(0))
    return out


@helion.kernel(config=helion.Config(block_sizes=[16]))
def segment_sum(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sum of the rows of each segment."""
    _, d = x.size()
    segments = offsets.size(0) - 1
    out = torch.empty([segments, d], dtype=x.dtype, device=x.device)
    for i in hl.grid(segments):
        start = offsets[i]
        end = offsets[i + 1]
        acc = hl.zeros([d], dtype=torch.float32)
        for tile in hl.tile(start, end):
            acc = acc + x[tile, :].sum(0)
        out[i, :] = acc
    return out
