"""Generalised Jensen-Shannon divergence for distillation (Agarwal et al. 2023, GKD).

    m = beta * p + (1 - beta) * q
    JSD(p, q) = beta * KL(p || m) + (1 - beta) * KL(q || m)

with the limits KL(p || q) for beta = 0 and KL(q || p) for beta = 1, as GKD defines them.
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def jsd(log_q: torch.Tensor, log_p: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence of student and teacher, and its gradient in the same pass.

    Args:
        log_q: student log-probabilities [N, V], floating point.
        log_p: teacher log-probabilities [N, V].
        beta: weight of the teacher in the mixture, in [0, 1].

    Returns:
        Divergence of each row [N], float32, and its gradient with respect to ``log_q`` [N, V] in
        the dtype of ``log_q``.
    """
    n, v = log_q.size()
    losses = torch.empty([n], dtype=torch.float32, device=log_q.device)
    grad = torch.empty_like(log_q)
    for tile_n in hl.tile(n):
        acc = hl.zeros([tile_n], dtype=torch.float32)
        for tile_v in hl.tile(v):
            student = log_q[tile_n, tile_v].to(torch.float32)
            teacher = log_p[tile_n, tile_v].to(torch.float32)
            q = torch.exp(student)
            p = torch.exp(teacher)
            if beta == 0.0:
                acc += torch.sum(p * (teacher - student), dim=1)
                grad[tile_n, tile_v] = (-p).to(log_q.dtype)
            elif beta == 1.0:
                acc += torch.sum(q * (student - teacher), dim=1)
                grad[tile_n, tile_v] = (q * (student - teacher + 1.0)).to(log_q.dtype)
            else:
                log_m = torch.log(beta * p + (1.0 - beta) * q)
                q_term = (1.0 - beta) * q * (student - log_m)
                acc += torch.sum(beta * p * (teacher - log_m) + q_term, dim=1)
                grad[tile_n, tile_v] = q_term.to(log_q.dtype)
        losses[tile_n] = acc
    return losses, grad


def jsd_reference(
    log_q: torch.Tensor, log_p: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = log_q.float(), log_p.float()
    q, p = student.exp(), teacher.exp()
    if beta == 0.0:
        loss, grad = p * (teacher - student), -p
    elif beta == 1.0:
        loss = q * (student - teacher)
        grad = loss + q
    else:
        log_m = torch.log(beta * p + (1.0 - beta) * q)
        grad = (1.0 - beta) * q * (student - log_m)
        loss = beta * p * (teacher - log_m) + grad
    return loss.sum(dim=1), grad.to(log_q.dtype)
