"""Dropout that stores no mask: the backward pass draws the same numbers again from the seed.

out[i] = x[i] / (1 - p) if uniform(seed, i) > p else 0
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def seeded_dropout(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Drop each element with probability ``p``; applied to a gradient, it is its own backward.

    Args:
        x: [N], floating point.
        p: probability of a drop, in [0, 1).
        seed: seed of the counter-based generator.

    Returns:
        [N] in the dtype of ``x``.
    """
    scale = 1.0 / (1.0 - p)
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        uniform = hl.rand([tile], seed=seed)
        kept = x[tile].to(torch.float32) * scale
        out[tile] = torch.where(uniform > p, kept, 0.0).to(x.dtype)
    return out


def philox_uniform(n: int, seed: int, device: torch.device) -> torch.Tensor:
    """First word of Philox4x32-10 (Salmon et al. 2011) with counters 0..n-1, mapped to [0, 1)."""
    word = 0xFFFFFFFF
    c0 = torch.arange(n, dtype=torch.int64, device=device)
    c1, c2, c3 = (torch.zeros_like(c0) for _ in range(3))
    k0, k1 = seed & word, (seed >> 32) & word
    for _ in range(10):
        high0, low0 = multiply_wide(c0, 0xD2511F53)
        high1, low1 = multiply_wide(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    # A negative word, taken as int32, becomes its complement: 31 bits of the unit interval remain.
    magnitude = torch.where(c0 >= 2**31, word - c0, c0)
    return magnitude.float() * 4.6566127342e-10


def multiply_wide(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of the product of two 32-bit words held in int64."""
    low = a * (b & 0xFFFF)
    mid = a * (b >> 16) + (low >> 16)
    return mid >> 16, ((mid & 0xFFFF) << 16) | (low & 0xFFFF)


def seeded_dropout_reference(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    uniform = philox_uniform(x.size(0), seed, x.device)
    kept = x.float() * (1.0 / (1.0 - p))
    return torch.where(uniform > p, kept, 0.0).to(x.dtype)
