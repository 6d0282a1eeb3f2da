"""Concatenation of two matrices along their columns: out = [x | y]."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def concat_columns(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Concatenate with one slice of the output for each source.

    Args:
        x: [M, N1], any dtype.
        y: [M, N2], dtype of ``x``.

    Returns:
        [M, N1 + N2].
    """
    m, n1 = x.size()
    m2, n2 = y.size()
    assert m == m2, f"row counts differ: {m} and {m2}"
    out = torch.empty([m, n1 + n2], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        out[tile_m, :n1] = x[tile_m, :]
        out[tile_m, n1:] = y[tile_m, :]
    return out


def concat_columns_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, y], dim=1)


@helion.kernel()
def concat_columns_masked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Concatenate in tiles of the output; a tile may straddle the seam.

    Each element is loaded from exactly one source, so both loads carry a mask of their own on
    top of the one that keeps the tile within the output.

    Args:
        x: [M, N1], any dtype.
        y: [M, N2], dtype of ``x``.

    Returns:
        [M, N1 + N2].
    """
    m, n1 = x.size()
    m2, n2 = y.size()
    assert m == m2, f"row counts differ: {m} and {m2}"
    out = torch.empty([m, n1 + n2], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n1 + n2]):
        from_x = (tile_n.index < n1)[None, :]
        left = hl.load(x, [tile_m, tile_n], extra_mask=from_x)
        right = hl.load(y, [tile_m, tile_n.index - n1], extra_mask=tile_n.index[None, :] >= n1)
        out[tile_m, tile_n] = torch.where(from_x, left, right)
    return out


def concat_columns_masked_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, y], dim=1)
