"""Embedding lookup: out[..., :] = weight[ids[...], :]."""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gather rows of an embedding table.

    Args:
        ids: token numbers [B, T], integer, in [0, V).
        weight: table [V, D], any dtype.

    Returns:
        [B, T, D] in the dtype of ``weight``.
    """
    b, t = ids.size()
    _, d = weight.size()
    ids_flat = ids.reshape(-1)
    out = torch.empty([b * t, d], dtype=weight.dtype, device=weight.device)
    for tile_t, tile_d in hl.tile([b * t, d]):
        out[tile_t, tile_d] = weight[ids_flat[tile_t], tile_d]
    return out.view(b, t, d)


def embedding_reference(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids.long(), weight)


@helion.kernel()
def embedding_bag(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean embedding of each bag of L tokens.

    Args:
        ids: token numbers [B, L], integer, in [0, V).
        weight: table [V, D], floating point.

    Returns:
        [B, D] in the dtype of ``weight``.
    """
    b, length = ids.size()
    _, d = weight.size()
    out = torch.empty([b, d], dtype=weight.dtype, device=weight.device)
    for tile_b, tile_d in hl.tile([b, d]):
        acc = hl.zeros([tile_b, tile_d], dtype=torch.float32)
        for i in hl.grid(length):
            acc += weight[ids[tile_b, i], tile_d].to(torch.float32)
        out[tile_b, tile_d] = (acc / length).to(weight.dtype)
    return out


def embedding_bag_reference(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids.long(), weight.float()).mean(dim=1).to(weight.dtype)
