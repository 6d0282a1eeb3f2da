"""Cross-entropy loss of class logits.

loss = mean_i (logsumexp_j logits[i, j] - logits[i, labels[i]])
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, one row of logits per tile row.

    Args:
        logits: contiguous [N, V], floating point.
        labels: class of each row [N], integer, in [0, V).

    Returns:
        Scalar loss, float32.
    """
    n, v = logits.size()
    losses = torch.empty([n], dtype=torch.float32, device=logits.device)
    logits_flat = logits.view(-1)
    for tile_n in hl.tile(n):
        # One element per row: gathered from the flat view rather than selected from the tile.
        target = hl.load(logits_flat, [tile_n.index * v + labels[tile_n]]).to(torch.float32)
        rows = logits[tile_n, :].to(torch.float32)
        row_max = torch.amax(rows, dim=-1)
        sum_exp = torch.sum(torch.exp(rows - row_max[:, None]), dim=-1)
        losses[tile_n] = row_max + torch.log(sum_exp) - target
    return losses.mean()


def cross_entropy_reference(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels.long())


@helion.kernel()
def cross_entropy_bwd(
    logits: torch.Tensor, labels: torch.Tensor, lse: torch.Tensor, ignore_index: int
) -> torch.Tensor:
    """Gradient of the summed loss with respect to the logits, for vocabularies of any size.

    Args:
        logits: [N, V], floating point.
        labels: class of each row [N], integer.
        lse: log-sum-exp of each row from the forward pass [N], float32.
        ignore_index: label of the rows that do not count; their gradient is zero.

    Returns:
        [N, V] in the dtype of ``logits``.
    """
    n, v = logits.size()
    grad = torch.empty_like(logits)
    for tile_n, tile_v in hl.tile([n, v]):
        label = labels[tile_n]
        probs = torch.exp(logits[tile_n, tile_v].to(torch.float32) - lse[tile_n][:, None])
        one_hot = (tile_v.index[None, :] == label[:, None]).to(torch.float32)
        counted = (label != ignore_index)[:, None]
        grad[tile_n, tile_v] = torch.where(counted, probs - one_hot, 0.0).to(logits.dtype)
    return grad


def cross_entropy_bwd_reference(
    logits: torch.Tensor, labels: torch.Tensor, lse: torch.Tensor, ignore_index: int
) -> torch.Tensor:
    counted = (labels != ignore_index)[:, None]
    one_hot = labels[:, None] == torch.arange(logits.size(1), device=labels.device)
    grad = torch.exp(logits.float() - lse[:, None]) - one_hot.float()
    return (grad * counted).to(logits.dtype)
