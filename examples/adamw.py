"""One AdamW step (Loshchilov & Hutter 2019), fused and in place."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def adamw_step(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
) -> None:
    """Update a parameter and its two moments.

    Args:
        param: [N], floating point; modified.
        grad: [N], floating point.
        exp_avg, exp_avg_sq: running moments [N], float32; modified.
        lr, beta1, beta2, eps, weight_decay: as in ``torch.optim.AdamW``.
        correction1, correction2: 1 - beta1 ** step and 1 - beta2 ** step.
    """
    for tile in hl.tile(param.size(0)):
        g = grad[tile].to(torch.float32)
        first = beta1 * exp_avg[tile] + (1.0 - beta1) * g
        second = beta2 * exp_avg_sq[tile] + (1.0 - beta2) * g * g
        denominator = torch.sqrt(second / correction2) + eps
        decayed = param[tile].to(torch.float32) * (1.0 - lr * weight_decay)
        param[tile] = (decayed - lr * (first / correction1) / denominator).to(param.dtype)
        exp_avg[tile] = first
        exp_avg_sq[tile] = second


def adamw_step_reference(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
) -> None:
    g = grad.float()
    exp_avg.mul_(beta1).add_(g, alpha=1.0 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
    denominator = (exp_avg_sq / correction2).sqrt() + eps
    decayed = param.float() * (1.0 - lr * weight_decay)
    param.copy_(decayed - lr * (exp_avg / correction1) / denominator)
