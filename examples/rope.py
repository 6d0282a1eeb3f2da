"""Rotary position embedding (Su et al. 2021) in its two layouts.

Channel pairs (a, b) of position t turn by angle t * theta_i:

    a' = a * cos - b * sin,    b' = b * cos + a * sin

GPT-NeoX and LLaMA pair channel i with i + D / 2, GPT-J pairs 2i with 2i + 1.
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def rope_half(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate channel i against channel i + D / 2.

    Args:
        x: queries or keys [B, T, H, D]; D is a compile-time size.
        cos, sin: angles of each position [T, D / 2], float32.

    Returns:
        [B, T, H, D] in the dtype of ``x``.
    """
    b, t, h, d = x.size()
    head_dim = hl.specialize(d)
    half = head_dim // 2
    out = torch.empty_like(x)
    for tile_b, tile_t, tile_h in hl.tile([b, t, h]):
        c = cos[tile_t, :].to(torch.float32)[None, :, None, :]
        s = sin[tile_t, :].to(torch.float32)[None, :, None, :]
        first = x[tile_b, tile_t, tile_h, :half].to(torch.float32)
        second = x[tile_b, tile_t, tile_h, half:].to(torch.float32)
        out[tile_b, tile_t, tile_h, :half] = (first * c - second * s).to(x.dtype)
        out[tile_b, tile_t, tile_h, half:] = (second * c + first * s).to(x.dtype)
    return out


def rope_half_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, dim=-1)
    c, s = cos.float()[None, :, None, :], sin.float()[None, :, None, :]
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1).to(x.dtype)


@helion.kernel()
def rope_interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate channel 2i against channel 2i + 1; each line is read and written once.

    Args:
        x: queries or keys [T, H, D]; D is a compile-time size.
        cos, sin: angles of each position [T, D / 2], float32.

    Returns:
        [T, H, D] in the dtype of ``x``.
    """
    t, h, d = x.size()
    head_dim = hl.specialize(d)
    half = head_dim // 2
    out = torch.empty_like(x)
    for tile_t, tile_h in hl.tile([t, h]):
        c = cos[tile_t, :].to(torch.float32)[:, None, :]
        s = sin[tile_t, :].to(torch.float32)[:, None, :]
        pairs = x[tile_t, tile_h, :].to(torch.float32).reshape([tile_t, tile_h, half, 2])
        even, odd = hl.split(pairs)
        rotated = hl.join(even * c - odd * s, odd * c + even * s)
        out[tile_t, tile_h, :] = rotated.reshape([tile_t, tile_h, head_dim]).to(x.dtype)
    return out


def rope_interleaved_reference(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    c, s = cos.float()[:, None, :], sin.float()[:, None, :]
    rotated = torch.stack([even * c - odd * s, odd * c + even * s], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
