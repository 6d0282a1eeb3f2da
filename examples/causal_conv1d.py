"""Short causal depthwise convolution of state-space models (Mamba, Gu & Dao 2023).

out[b, c, t] = silu(bias[c] + sum_k weight[c, k] * x[b, c, t - (W - 1) + k])
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def causal_conv1d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution along time with zeros before the sequence, then SiLU.

    Args:
        x: [B, C, T], floating point.
        weight: taps of each channel [C, W]; W is a small compile-time size.
        bias: [C].

    Returns:
        [B, C, T] in the dtype of ``x``.
    """
    b, c, t = x.size()
    width = hl.specialize(weight.size(1))
    out = torch.empty_like(x)
    for tile_b, tile_c, tile_t in hl.tile([b, c, t]):
        acc = hl.zeros([tile_b, tile_c, tile_t], dtype=torch.float32)
        acc = acc + bias[tile_c].to(torch.float32)[None, :, None]
        for k in hl.static_range(width):
            time = tile_t.index - (width - 1 - k)
            values = hl.load(x, [tile_b, tile_c, time], extra_mask=(time >= 0)[None, None, :])
            tap = weight[tile_c, k].to(torch.float32)[None, :, None]
            acc = acc + tap * values.to(torch.float32)
        out[tile_b, tile_c, tile_t] = (acc * torch.sigmoid(acc)).to(x.dtype)
    return out


def causal_conv1d_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    channels, width = weight.shape
    padded = F.pad(x.float(), (width - 1, 0))
    out = F.conv1d(padded, weight.float()[:, None, :], bias.float(), groups=channels)
    return F.silu(out).to(x.dtype)
