"""Gradient of the row softmax from its saved output.

dx[i, j] = y[i, j] * (dy[i, j] - sum_k dy[i, k] * y[i, k])
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def softmax_bwd(grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Backward pass of a softmax over the last dimension.

    Args:
        grad_out: gradient with respect to the softmax output [M, N].
        out: softmax output [M, N].

    Returns:
        Gradient with respect to the softmax input [M, N], in the dtype of ``out``.
    """
    m, n = out.size()
    grad_in = torch.empty_like(out)
    for tile_m in hl.tile(m):
        dot = hl.zeros([tile_m], dtype=torch.float32)
        for tile_n in hl.tile(n):
            dy = grad_out[tile_m, tile_n].to(torch.float32)
            y = out[tile_m, tile_n].to(torch.float32)
            dot += torch.sum(dy * y, dim=1)
        for tile_n in hl.tile(n):
            dy = grad_out[tile_m, tile_n].to(torch.float32)
            y = out[tile_m, tile_n].to(torch.float32)
            grad_in[tile_m, tile_n] = (y * (dy - dot[:, None])).to(out.dtype)
    return grad_in


def softmax_bwd_reference(grad_out: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    dy, y = grad_out.float(), out.float()
    return (y * (dy - (dy * y).sum(dim=1, keepdim=True))).to(out.dtype)
