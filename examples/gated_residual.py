"""Gated residual connection of a diffusion transformer (Peebles & Xie 2022, adaLN-Zero).

out[b, t, c] = x[b, t, c] + gate[b, c] * y[b, t, c]
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def gated_residual(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Add a branch to the residual stream through a per-sample, per-channel gate.

    Args:
        x: residual stream [B, T, C].
        y: branch output [B, T, C].
        gate: [B, C], broadcast over the tokens.

    Returns:
        [B, T, C] in the dtype of ``x``.
    """
    b, t, c = x.size()
    out = torch.empty_like(x)
    for tile_b, tile_t, tile_c in hl.tile([b, t, c]):
        branch = y[tile_b, tile_t, tile_c].to(torch.float32)
        g = gate[tile_b, tile_c].to(torch.float32)
        res = x[tile_b, tile_t, tile_c].to(torch.float32)
        out[tile_b, tile_t, tile_c] = (res + g[:, None, :] * branch).to(x.dtype)
    return out


def gated_residual_reference(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return (x.float() + gate.float()[:, None, :] * y.float()).to(x.dtype)
