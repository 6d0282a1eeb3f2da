"""Attention of one new token per sequence against a key/value cache of ragged lengths."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def decode_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, sm_scale: float
) -> torch.Tensor:
    """Grouped-query decoding; the G query heads of a key/value head form one small matrix.

    Args:
        q: queries of the new tokens [B, HKV, G, D], 16-bit or float32; G and D are compile-time
            sizes.
        k, v: caches [B, HKV, N, D], dtype of ``q``.
        lengths: valid entries of each cache [B], integer, in [1, N].
        sm_scale: factor of the scores, usually 1 / sqrt(D).

    Returns:
        [B, HKV, G, D] in the dtype of ``q``.
    """
    b, kv_heads, g, d = q.size()
    group = hl.specialize(g)
    head_dim = hl.specialize(d)
    out = torch.empty_like(q)
    for batch, head in hl.grid([b, kv_heads]):
        length = lengths[batch]
        q_tile = q[batch, head, :, :]
        row_max = hl.full([group], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([group], dtype=torch.float32)
        acc = hl.zeros([group, head_dim], dtype=torch.float32)
        for tile_n in hl.tile(0, length):
            scores = hl.dot(q_tile, k[batch, head, tile_n, :].T)
            scores = scores * (sm_scale * 1.4426950408889634)
            new_max = torch.maximum(row_max, torch.amax(scores, dim=-1))
            probs = torch.exp2(scores - new_max[:, None])
            correction = torch.exp2(row_max - new_max)
            row_sum = row_sum * correction + torch.sum(probs, dim=-1)
            acc = acc * correction[:, None]
            acc = hl.dot(probs.to(v.dtype), v[batch, head, tile_n, :], acc=acc)
            row_max = new_max
        out[batch, head, :, :] = (acc / row_sum[:, None]).to(out.dtype)
    return out


def decode_attention_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, sm_scale: float
) -> torch.Tensor:
    scores = q.float() @ k.float().transpose(-1, -2) * sm_scale
    position = torch.arange(k.size(2), device=k.device)
    valid = position[None, :] < lengths[:, None]
    scores = scores.masked_fill(~valid[:, None, None, :], float("-inf"))
    return (torch.softmax(scores, dim=-1) @ v.float()).to(q.dtype)
