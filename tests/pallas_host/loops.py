"""Kernels whose loops test_loops builds in every form."""

import helion
import helion.language as hl
import torch


@helion.kernel(config=helion.Config(block_sizes=[32, 128, 128]))
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


@helion.kernel(config=helion.Config(block_sizes=[64, 128]))
def prefix_product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Row t of x times the sum of the rows of y up to t, in the manner of a causal mask."""
    t, d = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(t):
        acc = hl.zeros([tile_m, d], dtype=torch.float32)
        for tile_n in hl.tile(0, torch.clamp(tile_m.end, max=t)):
            seen = (tile_m.index[:, None] >= tile_n.index[None, :]).to(torch.float32)
            acc = torch.addmm(acc, seen, y[tile_n, :])
        out[tile_m, :] = acc * x[tile_m, :]
    return out


@helion.kernel(config=helion.Config(block_sizes=[128, 16]))
def segment_sum(x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sum of the rows of each segment."""
    _, d = x.size()
    segments = offsets.size(0) - 1
    out = torch.empty([segments, d], dtype=x.dtype, device=x.device)
    for tile_s, tile_d in hl.tile([segments, d], block_size=[1, None]):
        start = offsets[tile_s.begin]
        end = offsets[tile_s.begin + 1]
        acc = hl.zeros([tile_d], dtype=torch.float32)
        for tile in hl.tile(start, end):
            acc = acc + x[tile, tile_d].sum(0)
        out[tile_s.begin, tile_d] = acc
    return out


@helion.kernel(config=helion.Config(block_sizes=[16, 128, 128]))
def normalised(x: torch.Tensor) -> torch.Tensor:
    """Rows over their sums of squares: one loop reads, the next one reads and writes."""
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        total = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n):
            values = x[tile_m, tile_n]
            total = total + (values * values).sum(-1)
        for tile_n in hl.tile(n):
            out[tile_m, tile_n] = x[tile_m, tile_n] / total[:, None]
    return out


@helion.kernel(config=helion.Config(block_sizes=[16]))
def batched(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Largest value of each column among the first rows of each batch."""
    b, h, _, d = x.size()
    out = torch.empty([b, h, d], dtype=torch.float32, device=x.device)
    for tile_b, tile_h in hl.tile([b, h], block_size=[1, 1]):
        length = lengths[tile_b.begin]
        most = hl.full([d], -100.0, dtype=torch.float32)
        for tile_t in hl.tile(0, length):
            rows = x[tile_b.begin, tile_h.begin, tile_t, :].to(torch.float32)
            most = torch.maximum(most, rows.amax(0))
        out[tile_b.begin, tile_h.begin, :] = most
    return out
