"""Softmax over the rows of a matrix, written three ways.

    y[i, j] = exp(x[i, j] - max_j x[i, j]) / sum_j exp(x[i, j] - max_j x[i, j])

The two-pass form keeps a running maximum and a rescaled running sum (Milakov & Gimelshein 2018),
so a row may be longer than what one program can hold.
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def softmax(x: torch.Tensor) -> torch.Tensor:
    """Row softmax with a whole row in one tile.

    Args:
        x: [M, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``; every row sums to one.
    """
    m, _ = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        out[tile_m, :] = F.softmax(x[tile_m, :], dim=1)
    return out


def softmax_reference(x: torch.Tensor) -> torch.Tensor:
    return F.softmax(x.float(), dim=1).to(x.dtype)


@helion.kernel()
def softmax_decomposed(x: torch.Tensor) -> torch.Tensor:
    """Row softmax spelled out as maximum, exponential, sum and division.

    Args:
        x: [M, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, _ = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        row = x[tile_m, :].to(torch.float32)
        numerator = torch.exp(row - torch.amax(row, dim=1, keepdim=True))
        denominator = torch.sum(numerator, dim=1, keepdim=True)
        out[tile_m, :] = (numerator / denominator).to(x.dtype)
    return out


def softmax_decomposed_reference(x: torch.Tensor) -> torch.Tensor:
    return F.softmax(x.float(), dim=1).to(x.dtype)


@helion.kernel()
def softmax_two_pass(x: torch.Tensor) -> torch.Tensor:
    """Row softmax that reads each row twice in blocks of columns.

    Args:
        x: [M, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, n = x.size()
    out = torch.empty_like(x)
    # Both passes share one column block, so that one tuning choice serves the two loops.
    block_n = hl.register_block_size(n)
    for tile_m in hl.tile(m):
        row_max = hl.full([tile_m], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n, block_size=block_n):
            values = x[tile_m, tile_n].to(torch.float32)
            new_max = torch.maximum(row_max, torch.amax(values, dim=1))
            rescaled = row_sum * torch.exp(row_max - new_max)
            row_sum = rescaled + torch.exp(values - new_max[:, None]).sum(dim=1)
            row_max = new_max
        for tile_n in hl.tile(n, block_size=block_n):
            values = x[tile_m, tile_n].to(torch.float32)
            probs = torch.exp(values - row_max[:, None]) / row_sum[:, None]
            out[tile_m, tile_n] = probs.to(x.dtype)
    return out


def softmax_two_pass_reference(x: torch.Tensor) -> torch.Tensor:
    return F.softmax(x.float(), dim=1).to(x.dtype)
