"""Layer normalisation of long rows with Welford's one-pass mean and variance.

Blocks are merged with the parallel update of Chan, Golub & LeVeque (1979):

    delta = mean_b - mean_a,    mean = mean_a + delta * n_b / n,
    m2 = m2_a + m2_b + delta^2 * n_a * n_b / n
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def welford_layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    """Layer normalisation that reads each row once for its statistics and once to apply them.

    Args:
        x: [M, N], floating point.
        weight, bias: [N].
        eps: added to the (biased) variance.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        count = hl.zeros([tile_m], dtype=torch.float32)
        mean = hl.zeros([tile_m], dtype=torch.float32)
        m2 = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n):
            values = x[tile_m, tile_n].to(torch.float32)
            # The last block may be ragged, so its width comes from the bounds, not the block size.
            block_count = tile_n.end - tile_n.begin
            block_mean = torch.sum(values, dim=-1) / block_count
            # Out-of-range lanes hold 0, not the mean: they would add to the squared deviations.
            in_range = (tile_n.index < n)[None, :]
            deviation = torch.where(in_range, values - block_mean[:, None], 0.0)
            block_m2 = torch.sum(deviation * deviation, dim=-1)

            total = count + block_count
            delta = block_mean - mean
            mean = mean + delta * (block_count / total)
            m2 = m2 + block_m2 + delta * delta * (count * block_count / total)
            count = total
        rstd = torch.rsqrt(m2 / count + eps)
        for tile_n in hl.tile(n):
            values = x[tile_m, tile_n].to(torch.float32)
            normed = (values - mean[:, None]) * rstd[:, None]
            y = normed * weight[tile_n].to(torch.float32) + bias[tile_n].to(torch.float32)
            out[tile_m, tile_n] = y.to(x.dtype)
    return out


def welford_layer_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    n = x.size(1)
    return F.layer_norm(x.float(), [n], weight.float(), bias.float(), eps).to(x.dtype)
