"""Kernels whose path depends on values known only at run time."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def integer_power(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """Integer power by repeated squaring, in about 2 * log2(exponent) multiplications.

    Args:
        x: [N], floating point.
        exponent: non-negative.

    Returns:
        ``x ** exponent`` [N] in the dtype of ``x``.
    """
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        base = x[tile].to(torch.float32)
        power = hl.full([tile], 1.0, dtype=torch.float32)
        remaining = hl.full([], exponent, dtype=torch.int32)
        while remaining > 0:
            if (remaining & 1) != 0:
                power = power * base
            base = base * base
            remaining = remaining >> 1
        out[tile] = power.to(x.dtype)
    return out


def integer_power_reference(x: torch.Tensor, exponent: int) -> torch.Tensor:
    return torch.pow(x.float(), exponent).to(x.dtype)


@helion.kernel()
def stochastic_depth(
    x: torch.Tensor, branch: torch.Tensor, keep: torch.Tensor, scale: float
) -> torch.Tensor:
    """Residual connection whose branch is dropped for some samples (Huang et al. 2016).

    The branch of a dropped sample is not read.

    Args:
        x: residual stream [B, N], floating point.
        branch: [B, N].
        keep: [B], integer; zero drops the branch of the sample.
        scale: factor of the branches that are kept, one over the probability of a keep.

    Returns:
        [B, N] in the dtype of ``x``.
    """
    b, n = x.size()
    out = torch.empty_like(x)
    for tile_b, tile_n in hl.tile([b, n], block_size=[1, None]):
        sample = tile_b.begin
        value = x[sample, tile_n].to(torch.float32)
        if keep[sample] != 0:
            value = value + scale * branch[sample, tile_n].to(torch.float32)
        out[sample, tile_n] = value.to(x.dtype)
    return out


def stochastic_depth_reference(
    x: torch.Tensor, branch: torch.Tensor, keep: torch.Tensor, scale: float
) -> torch.Tensor:
    kept = (keep != 0)[:, None]
    return torch.where(kept, x.float() + scale * branch.float(), x.float()).to(x.dtype)
