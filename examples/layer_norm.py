"""Layer normalisation (Ba et al. 2016) over the last dimension, forward and backward.

y[i, j] = (x[i, j] - mean[i]) * rstd[i] * weight[j] + bias[j]
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def layer_norm_fwd(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise each row to zero mean and unit variance, then scale and shift it.

    Args:
        x: [M, N], floating point.
        weight: [N].
        bias: [N], or None for a normalisation without shift.
        eps: added to the (biased) variance.

    Returns:
        Normalised rows [M, N] in the dtype of ``x``; mean and reciprocal standard deviation
        of each row [M] in float32.
    """
    m, n = x.size()
    assert weight.size(0) == n, f"weight has {weight.size(0)} elements for {n} columns"
    out = torch.empty_like(x)
    mean = torch.empty([m], dtype=torch.float32, device=x.device)
    rstd = torch.empty([m], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        row = x[tile_m, :].to(torch.float32)
        mu = torch.sum(row, dim=-1) / n
        # Two passes over registers: E[x^2] - E[x]^2 would cancel for rows far from zero.
        centered = row - mu[:, None]
        var = torch.sum(centered * centered, dim=-1) / n
        inv = torch.rsqrt(var + eps)
        y = centered * inv[:, None] * weight[:].to(torch.float32)
        if bias is not None:
            y = y + bias[:].to(torch.float32)
        out[tile_m, :] = y.to(x.dtype)
        mean[tile_m] = mu
        rstd[tile_m] = inv
    return out, mean, rstd


def layer_norm_fwd_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    row = x.float()
    shift = None if bias is None else bias.float()
    out = F.layer_norm(row, row.shape[-1:], weight.float(), shift, eps).to(x.dtype)
    var, mean = torch.var_mean(row, dim=-1, correction=0)
    return out, mean, torch.rsqrt(var + eps)


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def layer_norm_bwd(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    with_bias: hl.constexpr = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of layer normalisation.

    Each program reduces a block of rows to one partial weight and bias gradient; the partials
    are summed at the end, which is deterministic where atomics would not be.

    Args:
        grad_out: gradient with respect to the output [M, N].
        x: input of the forward pass [M, N]; N is a compile-time size.
        mean: mean of each row [M], float32.
        rstd: reciprocal standard deviation of each row [M], float32.
        weight: [N].
        with_bias: whether the layer has a bias whose gradient is wanted.

    Returns:
        Gradients of ``x`` [M, N], ``weight`` [N] and bias [N] (None without a bias).
    """
    m = x.size(0)
    n = hl.specialize(x.size(1))
    block_m = hl.register_block_size(m)
    num_ctas = (m + block_m - 1) // block_m
    grad_x = torch.empty_like(x)
    grad_weight = x.new_empty([num_ctas, n], dtype=torch.float32)
    grad_bias = x.new_empty([num_ctas, n], dtype=torch.float32)
    for cta in hl.tile(m, block_size=block_m):
        w = weight[None, :].to(torch.float32)
        grad_w = hl.zeros([n], dtype=torch.float32)
        grad_b = hl.zeros([n], dtype=torch.float32)
        for tile_m in hl.tile(cta.begin, cta.end):
            dy = grad_out[tile_m, :].to(torch.float32)
            inv = rstd[tile_m][:, None]
            x_hat = (x[tile_m, :].to(torch.float32) - mean[tile_m][:, None]) * inv
            grad_w += torch.sum(dy * x_hat, dim=0)
            if with_bias:
                grad_b += torch.sum(dy, dim=0)
            wdy = w * dy
            proj = torch.sum(wdy * x_hat, dim=-1) / n
            shift = torch.sum(wdy, dim=-1) / n
            dx = (wdy - x_hat * proj[:, None] - shift[:, None]) * inv
            grad_x[tile_m, :] = dx.to(x.dtype)
        grad_weight[cta.id, :] = grad_w
        if with_bias:
            grad_bias[cta.id, :] = grad_b
    if with_bias:
        return grad_x, grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(weight.dtype)
    return grad_x, grad_weight.sum(0).to(weight.dtype), None


def layer_norm_bwd_reference(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor,
    with_bias: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    dy = grad_out.float()
    inv = rstd.float()[:, None]
    x_hat = (x.float() - mean.float()[:, None]) * inv
    wdy = weight.float() * dy
    proj = (wdy * x_hat).mean(dim=-1, keepdim=True)
    grad_x = (wdy - x_hat * proj - wdy.mean(dim=-1, keepdim=True)) * inv
    grad_weight = (dy * x_hat).sum(dim=0).to(weight.dtype)
    grad_bias = dy.sum(dim=0).to(weight.dtype) if with_bias else None
    return grad_x.to(x.dtype), grad_weight, grad_bias
