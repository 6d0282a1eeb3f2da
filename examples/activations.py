"""Pointwise activations: SiLU and the two forms of GELU (Hendrycks & Gimpel 2016)."""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def silu(x: torch.Tensor) -> torch.Tensor:
    """SiLU, x * sigmoid(x).

    Args:
        x: contiguous floating-point tensor of any rank.

    Returns:
        Same shape and dtype as ``x``.
    """
    x_flat = x.view(-1)
    out = torch.empty_like(x)
    out_flat = out.view(-1)
    for tile in hl.tile(x_flat.size(0)):
        out_flat[tile] = F.silu(x_flat[tile])
    return out


def silu_reference(x: torch.Tensor) -> torch.Tensor:
    return F.silu(x.float()).to(x.dtype)


@helion.kernel()
def gelu_erf(x: torch.Tensor) -> torch.Tensor:
    """GELU by its definition, x * Phi(x) = x / 2 * (1 + erf(x / sqrt(2))).

    Args:
        x: floating-point tensor of any rank.

    Returns:
        Same shape and dtype as ``x``.
    """
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        value = x[tile].to(torch.float32)
        out[tile] = (0.5 * value * (1.0 + torch.erf(value * 0.7071067811865476))).to(x.dtype)
    return out


def gelu_erf_reference(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x.float()).to(x.dtype)


@helion.kernel()
def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU with the cubic tanh approximation, as in GPT-2.

    Args:
        x: [M, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, n = x.size()
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile([m, n]):
        value = x[tile_m, tile_n].to(torch.float32)
        inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
        out[tile_m, tile_n] = (0.5 * value * (1.0 + torch.tanh(inner))).to(x.dtype)
    return out


def gelu_tanh_reference(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x.float(), approximate="tanh").to(x.dtype)
