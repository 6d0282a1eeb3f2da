"""Root-mean-square layer normalisation (Zhang & Sennrich 2019), forward and backward.

rstd[i] = 1 / sqrt(mean_j x[i, j]^2 + eps),    y[i, j] = x[i, j] * rstd[i] * weight[j]
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def rms_norm_fwd(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise each row by its root mean square.

    Args:
        x: [M, N], floating point.
        weight: scale of each column [N].
        eps: added to the mean square.

    Returns:
        Normalised rows [M, N] in the dtype of ``x``, and ``rstd`` [M] in float32 for the backward.
    """
    m, n = x.size()
    assert weight.size(0) == n, f"weight has {weight.size(0)} elements for {n} columns"
    out = torch.empty_like(x)
    rstd = torch.empty([m], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        row = x[tile_m, :].to(torch.float32)
        inv = torch.rsqrt(torch.mean(row * row, dim=-1) + eps)
        normed = row * inv[:, None] * weight[:].to(torch.float32)
        out[tile_m, :] = normed.to(x.dtype)
        rstd[tile_m] = inv
    return out, rstd


def rms_norm_fwd_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5
) -> tuple[torch.Tensor, torch.Tensor]:
    row = x.float()
    rstd = torch.rsqrt(row.square().mean(dim=-1) + eps)
    return (row * rstd[:, None] * weight.float()).to(x.dtype), rstd


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def rms_norm_bwd(
    grad_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of RMS normalisation with respect to its input and its weight.

    Each program owns a block of rows and writes one partial weight gradient; the partials are
    summed at the end, which is deterministic where atomics would not be.

    Args:
        grad_out: gradient with respect to the output [M, N].
        x: input of the forward pass [M, N].
        weight: [N]; N is a compile-time size.
        rstd: reciprocal root mean square of each row [M], float32.

    Returns:
        Gradients of ``x`` [M, N] and of ``weight`` [N], in the dtypes of these.
    """
    m = x.size(0)
    n = hl.specialize(x.size(1))
    block_m = hl.register_block_size(m)
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty([(m + block_m - 1) // block_m, n], dtype=torch.float32)
    for cta in hl.tile(m, block_size=block_m):
        w = weight[None, :].to(torch.float32)
        grad_w = hl.zeros([n], dtype=torch.float32)
        for tile_m in hl.tile(cta.begin, cta.end):
            dy = grad_out[tile_m, :].to(torch.float32)
            inv = rstd[tile_m][:, None]
            x_hat = x[tile_m, :].to(torch.float32) * inv
            grad_w += torch.sum(dy * x_hat, dim=0)
            wdy = w * dy
            proj = torch.sum(wdy * x_hat, dim=-1) / n
            grad_x[tile_m, :] = ((wdy - x_hat * proj[:, None]) * inv).to(x.dtype)
        grad_weight[cta.id, :] = grad_w
    return grad_x, grad_weight.sum(0).to(weight.dtype)


def rms_norm_bwd_reference(
    grad_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    dy = grad_out.float()
    inv = rstd.float()[:, None]
    x_hat = x.float() * inv
    wdy = weight.float() * dy
    proj = (wdy * x_hat).mean(dim=-1, keepdim=True)
    grad_x = (wdy - x_hat * proj) * inv
    return grad_x.to(x.dtype), (dy * x_hat).sum(dim=0).to(weight.dtype)
