"""Out-of-place transposition of a matrix: out[j, i] = x[i, j]."""

import helion
import helion.language as hl
import torch


# Programs advance along the rows of the output first, so that neighbours write adjacent lines.
@helion.kernel(config=helion.Config(block_sizes=[64, 64], loop_orders=[[0, 1]], num_warps=8))
def transpose(x: torch.Tensor) -> torch.Tensor:
    """Contiguous transpose, one tile at a time.

    Args:
        x: [M, N], any dtype.

    Returns:
        [N, M], contiguous.
    """
    m, n = x.size()
    out = torch.empty([n, m], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        out[tile_n, tile_m] = x[tile_m, tile_n].T
    return out


def transpose_reference(x: torch.Tensor) -> torch.Tensor:
    return x.T.contiguous()
