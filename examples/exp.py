"""Elementwise exponential and its gradient: y = exp(x), dx = dy * y."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def exp_fwd(x: torch.Tensor) -> torch.Tensor:
    """Exponential of every element.

    Args:
        x: floating-point tensor of any rank.

    Returns:
        ``exp(x)``, same shape and dtype as ``x``.
    """
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = torch.exp(x[tile])
    return out


def exp_fwd_reference(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x.float()).to(x.dtype)


@helion.kernel()
def exp_bwd(grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Gradient of ``exp`` from its saved output, so that no exponential is recomputed.

    Args:
        grad_out: gradient of the loss with respect to ``out``, any rank.
        out: result of the forward pass, same shape.

    Returns:
        Gradient with respect to the input of ``exp``, same shape and dtype as ``out``.
    """
    grad_in = torch.empty_like(out)
    for tile in hl.tile(out.size()):
        grad_in[tile] = grad_out[tile] * out[tile]
    return grad_in


def exp_bwd_reference(grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return (grad_out.float() * out.float()).to(out.dtype)
