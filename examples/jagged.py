"""Reductions over batches of ragged length, stored end to end with an array of offsets."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def jagged_mean(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of each batch.

    Args:
        values: rows of all batches [L, D], floating point.
        offsets: batch b holds rows offsets[b] to offsets[b + 1] [B + 1], integer.

    Returns:
        [B, D] in the dtype of ``values``; zero for an empty batch.
    """
    _, d = values.size()
    b = offsets.size(0) - 1
    out = torch.empty([b, d], dtype=values.dtype, device=values.device)
    for tile_b, tile_d in hl.tile([b, d], block_size=[1, None]):
        batch = tile_b.begin
        start = offsets[batch]
        end = offsets[batch + 1]
        acc = hl.zeros([tile_d], dtype=torch.float32)
        for tile_l in hl.tile(start, end):
            acc += torch.sum(values[tile_l, tile_d].to(torch.float32), dim=0)
        count = torch.clamp(end - start, min=1).to(torch.float32)
        out[batch, tile_d] = (acc / count).to(values.dtype)
    return out


def jagged_mean_reference(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    bounds = offsets.tolist()
    means = []
    for b in range(len(bounds) - 1):
        rows = values[bounds[b] : bounds[b + 1]].float()
        means.append(rows.sum(dim=0) / max(rows.size(0), 1))
    return torch.stack(means).to(values.dtype)
