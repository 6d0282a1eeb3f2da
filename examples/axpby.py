"""Vector kernels steered by run-time scalars."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def axpby(x: torch.Tensor, y: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """Linear combination ``alpha * x + beta * y`` of two vectors, rounded once.

    Args:
        x, y: [N], floating point.
        alpha, beta: coefficients.

    Returns:
        [N] in the dtype of ``x``.
    """
    n = x.size(0)
    out = torch.empty_like(x)
    for tile in hl.tile(n):
        total = alpha * x[tile].to(torch.float32) + beta * y[tile].to(torch.float32)
        out[tile] = total.to(x.dtype)
    return out


def axpby_reference(x: torch.Tensor, y: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return (alpha * x.float() + beta * y.float()).to(x.dtype)


@helion.kernel()
def clamp(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Limit every element to the interval [low, high]; NaN stays NaN.

    Args:
        x: [N], floating point.
        low, high: ends of the interval.

    Returns:
        [N] in the dtype of ``x``.
    """
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = torch.clamp(x[tile], low, high)
    return out


def clamp_reference(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.clamp(x, low, high)


@helion.kernel()
def quantize_int8(x: torch.Tensor, inv_scale: float, zero_point: int) -> torch.Tensor:
    """Affine quantisation to int8: q = clamp(round(x * inv_scale) + zero_point, -128, 127).

    Args:
        x: [M, N], floating point.
        inv_scale: reciprocal of the quantisation step.
        zero_point: integer that represents 0.0.

    Returns:
        [M, N], int8.
    """
    m, n = x.size()
    out = torch.empty([m, n], dtype=torch.int8, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        steps = torch.round(x[tile_m, tile_n].to(torch.float32) * inv_scale)
        # Clamped before the conversion, whose result is undefined out of range.
        shifted = torch.clamp(steps + zero_point, -128.0, 127.0)
        out[tile_m, tile_n] = shifted.to(torch.int8)
    return out


def quantize_int8_reference(x: torch.Tensor, inv_scale: float, zero_point: int) -> torch.Tensor:
    steps = torch.round(x.float() * inv_scale) + zero_point
    return torch.clamp(steps, -128.0, 127.0).to(torch.int8)
