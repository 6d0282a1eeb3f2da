"""Dequantisation of an integer matrix product with one scale per row and one per column.

    out[i, j] = acc[i, j] * row_scale[i] * col_scale[j] + bias[j]

The epilogue of per-token, per-channel int8 inference (SmoothQuant, Xiao et al. 2022).
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def row_col_scale(
    acc: torch.Tensor, row_scale: torch.Tensor, col_scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Scale rows and columns of an accumulator and add a bias row.

    Args:
        acc: integer or floating-point accumulator [M, N].
        row_scale: per-token scale [M].
        col_scale: per-channel scale [N].
        bias: [N], its dtype is the dtype of the result.

    Returns:
        [M, N] in the dtype of ``bias``.
    """
    m, n = acc.size()
    out = torch.empty([m, n], dtype=bias.dtype, device=acc.device)
    for tile_m, tile_n in hl.tile([m, n]):
        scale = row_scale[tile_m].to(torch.float32)[:, None] * col_scale[tile_n].to(torch.float32)
        value = acc[tile_m, tile_n].to(torch.float32) * scale + bias[tile_n].to(torch.float32)
        out[tile_m, tile_n] = value.to(out.dtype)
    return out


def row_col_scale_reference(
    acc: torch.Tensor, row_scale: torch.Tensor, col_scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    scale = row_scale.float()[:, None] * col_scale.float()
    return (acc.float() * scale + bias.float()).to(bias.dtype)
