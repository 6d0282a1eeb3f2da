"""Masked copies of a matrix: lower triangle, diagonal band, and an in-place fill."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def tril(x: torch.Tensor) -> torch.Tensor:
    """Lower triangle, zero above the diagonal; masked elements are never read.

    Args:
        x: [M, N], any dtype.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile([m, n]):
        keep = tile_m.index[:, None] >= tile_n.index[None, :]
        out[tile_m, tile_n] = hl.load(x, [tile_m, tile_n], extra_mask=keep)
    return out


def tril_reference(x: torch.Tensor) -> torch.Tensor:
    return torch.tril(x)


@helion.kernel()
def band(x: torch.Tensor, window: int) -> torch.Tensor:
    """Causal band of a sliding window: keeps x[i, j] where i - window < j <= i.

    Args:
        x: [M, N], any dtype.
        window: width of the band.

    Returns:
        [M, N] in the dtype of ``x``, zero outside of the band.
    """
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile([m, n]):
        distance = tile_m.index[:, None] - tile_n.index[None, :]
        keep = (distance >= 0) & (distance < window)
        out[tile_m, tile_n] = torch.where(keep, x[tile_m, tile_n], 0)
    return out


def band_reference(x: torch.Tensor, window: int) -> torch.Tensor:
    return torch.triu(torch.tril(x), diagonal=1 - window)


@helion.kernel()
def fill_upper(x: torch.Tensor, value: float) -> None:
    """Overwrite the elements above the diagonal in place, as a causal mask on scores does.

    Args:
        x: [M, N], floating point; modified.
        value: what the elements above the diagonal become.
    """
    m, n = x.size()
    for tile_m, tile_n in hl.tile([m, n]):
        above = tile_m.index[:, None] < tile_n.index[None, :]
        filled = hl.full([tile_m, tile_n], value, dtype=x.dtype)
        hl.store(x, [tile_m, tile_n], filled, extra_mask=above)


def fill_upper_reference(x: torch.Tensor, value: float) -> None:
    above = torch.ones_like(x, dtype=torch.bool).triu(1)
    x.masked_fill_(above, value)
