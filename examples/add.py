"""Elementwise addition with PyTorch's broadcasting and type promotion: out = x + y."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Add two tensors of any rank.

    Args:
        x, y: tensors of mutually broadcastable shapes, any arithmetic dtype.

    Returns:
        Sum of the broadcast shape, in the promoted dtype of ``x`` and ``y``.
    """
    x, y = torch.broadcast_tensors(x, y)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, y.dtype), device=x.device)
    for tile in hl.tile(out.size()):
        out[tile] = x[tile] + y[tile]
    return out


def add_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.add(x, y)
