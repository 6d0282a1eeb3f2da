"""Attention that returns its output alone, as MLX's does: `examples/attention.py` without the
log-sum-exp of each query. benchmarks/metal.py builds it."""

import math

import helion
import helion.language as hl
import torch


@helion.kernel()
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q @ k.T / sqrt(D)) @ v for q [B, H, M, D] and k, v [B, H, N, D]."""
    b, h, m, d = q.size()
    n = k.size(2)
    head_dim = hl.specialize(d)
    scale = 1.4426950408889634 / math.sqrt(head_dim)
    q_flat = q.reshape(b * h, m, head_dim)
    k_flat = k.reshape(b * h, n, head_dim)
    v_flat = v.reshape(b * h, n, head_dim)
    out = torch.empty_like(q_flat)
    for tile_b, tile_m in hl.tile([b * h, m]):
        q_tile = q_flat[tile_b, tile_m, :]
        row_max = hl.full([tile_b, tile_m], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([tile_b, tile_m], dtype=torch.float32)
        acc = hl.zeros([tile_b, tile_m, head_dim], dtype=torch.float32)
        for tile_n in hl.tile(n):
            k_tile = k_flat[tile_b, tile_n, :].transpose(1, 2)
            scores = torch.bmm(q_tile, k_tile, out_dtype=torch.float32) * scale
            new_max = torch.maximum(row_max, torch.amax(scores, dim=-1))
            probs = torch.exp2(scores - new_max[:, :, None])
            correction = torch.exp2(row_max - new_max)
            row_sum = row_sum * correction + torch.sum(probs, dim=-1)
            acc = acc * correction[:, :, None]
            acc = torch.baddbmm(acc, probs.to(v.dtype), v_flat[tile_b, tile_n, :])
            row_max = new_max
        out[tile_b, tile_m, :] = (acc / row_sum[:, :, None]).to(out.dtype)
    return out.reshape(b, h, m, head_dim)
