"""Squeeze-and-excitation block (Hu et al. 2018).

z[b, c] = mean_s x[b, c, s]
g = sigmoid(relu(z @ w1) @ w2),    out[b, c, s] = x[b, c, s] * g[b, c]
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def squeeze_excitation(
    x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool, excite and rescale in one kernel; the two small products stay in registers.

    Args:
        x: feature maps [B, C, S] with S spatial positions, floating point; C is a compile-time
            size.
        w1: squeeze weights [C, R]; R is a compile-time size.
        w2: excitation weights [R, C].

    Returns:
        Rescaled maps [B, C, S] in the dtype of ``x``, and the gates [B, C], float32.
    """
    b, c, s = x.size()
    channels = hl.specialize(c)
    hl.specialize(w1.size(1))
    out = torch.empty_like(x)
    gates = torch.empty([b, channels], dtype=torch.float32, device=x.device)
    for tile_b in hl.tile(b):
        pooled = hl.zeros([tile_b, channels], dtype=torch.float32)
        for tile_s in hl.tile(s):
            pooled += torch.sum(x[tile_b, :, tile_s].to(torch.float32), dim=-1)
        hidden = torch.relu(hl.dot(pooled / s, w1[:, :].to(torch.float32)))
        gate = torch.sigmoid(hl.dot(hidden, w2[:, :].to(torch.float32)))
        gates[tile_b, :] = gate
        for tile_s in hl.tile(s):
            scaled = x[tile_b, :, tile_s].to(torch.float32) * gate[:, :, None]
            out[tile_b, :, tile_s] = scaled.to(x.dtype)
    return out, gates


def squeeze_excitation_reference(
    x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    pooled = x.float().mean(dim=-1)
    gate = torch.sigmoid(torch.relu(pooled @ w1.float()) @ w2.float())
    return (x.float() * gate[:, :, None]).to(x.dtype), gate
