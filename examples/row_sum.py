"""Sums over the rows of a matrix: out[i] = sum_j x[i, j].

Three schedules: a whole row in one tile, a row rolled into chunks by the configuration, and a
row looped over by hand. Rows of a few thousand elements suit the first, longer rows the others.
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def row_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of each row, the row held in registers.

    Args:
        x: [M, N], floating point.

    Returns:
        [M] in the dtype of ``x``, accumulated in float32.
    """
    m, _ = x.size()
    out = torch.empty([m], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        out[tile_m] = x[tile_m, :].to(torch.float32).sum(-1).to(x.dtype)
    return out


def row_sum_reference(x: torch.Tensor) -> torch.Tensor:
    return x.float().sum(-1).to(x.dtype)


@helion.kernel(config=helion.Config(block_sizes=[1], reduction_loops=[1024], num_warps=8))
def long_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum of each row in chunks of 1024; the source does not mention the loop.

    Args:
        x: [M, N], floating point, N of any length.

    Returns:
        [M] in the dtype of ``x``, accumulated in float32.
    """
    m, _ = x.size()
    out = torch.empty([m], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        out[tile_m] = torch.sum(x[tile_m, :].to(torch.float32), dim=-1).to(x.dtype)
    return out


def long_sum_reference(x: torch.Tensor) -> torch.Tensor:
    return x.float().sum(-1).to(x.dtype)


@helion.kernel()
def long_sum_looped(x: torch.Tensor) -> torch.Tensor:
    """Sum of each row with one accumulator per column of the block, reduced once at the end.

    Args:
        x: [M, N], floating point, N of any length.

    Returns:
        [M] in the dtype of ``x``, accumulated in float32.
    """
    m, n = x.size()
    out = torch.empty([m], dtype=x.dtype, device=x.device)
    block_n = hl.register_block_size(n)
    for tile_m in hl.tile(m):
        acc = hl.zeros([tile_m, block_n], dtype=torch.float32)
        for tile_n in hl.tile(n, block_size=block_n):
            acc += x[tile_m, tile_n].to(torch.float32)
        out[tile_m] = acc.sum(-1).to(x.dtype)
    return out


def long_sum_looped_reference(x: torch.Tensor) -> torch.Tensor:
    return x.float().sum(-1).to(x.dtype)
