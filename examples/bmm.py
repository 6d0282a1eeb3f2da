"""Batched matrix products: out[b] = x[b] @ y[b], and one with a right operand all batches share."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def bmm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Batched matrix product.

    Args:
        x: [B, M, K], floating point.
        y: [B, K, N], floating point.

    Returns:
        [B, M, N] in the promoted dtype of the operands.
    """
    b, m, k = x.size()
    b2, k2, n = y.size()
    assert b == b2, f"batch sizes differ: {b} and {b2}"
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([b, m, n], dtype=torch.promote_types(x.dtype, y.dtype), device=x.device)
    for tile_b, tile_m, tile_n in hl.tile([b, m, n]):
        acc = hl.zeros([tile_b, tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.baddbmm(acc, x[tile_b, tile_m, tile_k], y[tile_b, tile_k, tile_n])
        out[tile_b, tile_m, tile_n] = acc.to(out.dtype)
    return out


def bmm_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.bmm(x.float(), y.float()).to(torch.promote_types(x.dtype, y.dtype))


@helion.kernel()
def broadcast_matmul(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Batched left operand times one matrix, as a single product of B * M rows.

    Args:
        x: [B, M, K], floating point.
        w: [K, N], dtype of ``x``.

    Returns:
        [B, M, N] in the dtype of ``x``.
    """
    b, m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    rows = b * m
    x_flat = x.reshape(rows, k)
    out = torch.empty([rows, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([rows, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x_flat[tile_m, tile_k], w[tile_k, tile_n])
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out.view(b, m, n)


def broadcast_matmul_reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x.float() @ w.float()).to(x.dtype)
