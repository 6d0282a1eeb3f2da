"""Kullback-Leibler divergence of a target distribution p from a model q given as log q.

KL(p || q) = sum_j p[j] * (log p[j] - log q[j])
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def kl_div(
    log_q: torch.Tensor,
    target: torch.Tensor,
    log_target: hl.constexpr = False,
    reduction: hl.constexpr = "batchmean",
) -> torch.Tensor:
    """Divergence of each row, reduced as ``torch.nn.functional.kl_div`` does.

    Args:
        log_q: log-probabilities of the model [N, V], floating point.
        target: probabilities, or log-probabilities if ``log_target`` [N, V].
        log_target: whether ``target`` is in log space.
        reduction: "batchmean" or "sum" for a scalar, "rows" for the divergence of each row.

    Returns:
        Scalar, or [N] for "rows"; float32.
    """
    n, v = log_q.size()
    losses = torch.empty([n], dtype=torch.float32, device=log_q.device)
    for tile_n in hl.tile(n):
        acc = hl.zeros([tile_n], dtype=torch.float32)
        for tile_v in hl.tile(v):
            model = log_q[tile_n, tile_v].to(torch.float32)
            t = target[tile_n, tile_v].to(torch.float32)
            if log_target:
                term = torch.exp(t) * (t - model)
            else:
                # 0 * log 0 counts as 0; the clamp keeps the logarithm finite.
                term = t * (torch.log(torch.clamp(t, min=1e-37)) - model)
            acc += torch.sum(term, dim=1)
        losses[tile_n] = acc
    if reduction == "batchmean":
        return losses.sum() / n
    if reduction == "sum":
        return losses.sum()
    return losses


def kl_div_reference(
    log_q: torch.Tensor,
    target: torch.Tensor,
    log_target: bool = False,
    reduction: str = "batchmean",
) -> torch.Tensor:
    losses = F.kl_div(log_q.float(), target.float(), reduction="none", log_target=log_target)
    rows = losses.sum(dim=1)
    if reduction == "batchmean":
        return rows.sum() / log_q.size(0)
    if reduction == "sum":
        return rows.sum()
    return rows
