"""Matrix product with a layer normalisation of its rows in the epilogue.

    out = layer_norm(x @ w) * weight + bias

One program holds whole rows of the product, so N is a compile-time size of at most a few hundred.
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def matmul_layer_norm(
    x: torch.Tensor,
    w: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Product of two matrices, its rows normalised before they leave the registers.

    Args:
        x: [M, K], floating point.
        w: [K, N], dtype of ``x``; N is a compile-time size.
        weight, bias: scale and shift of the normalisation [N].
        eps: added to the (biased) variance.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    width = hl.specialize(n)
    out = torch.empty([m, width], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(m):
        acc = hl.zeros([tile_m, width], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], w[tile_k, :])
        mean = torch.sum(acc, dim=-1, keepdim=True) / width
        centered = acc - mean
        var = torch.sum(centered * centered, dim=-1, keepdim=True) / width
        normed = centered * torch.rsqrt(var + eps)
        y = normed * weight[:].to(torch.float32) + bias[:].to(torch.float32)
        out[tile_m, :] = y.to(x.dtype)
    return out


def matmul_layer_norm_reference(
    x: torch.Tensor,
    w: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
) -> torch.Tensor:
    product = x.float() @ w.float()
    return F.layer_norm(product, [w.size(1)], weight.float(), bias.float(), eps).to(x.dtype)
