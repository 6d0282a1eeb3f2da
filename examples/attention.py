"""Attention that never materialises the score matrix (FlashAttention-2, Dao 2023).

    out = softmax(q @ k.T / sqrt(D)) @ v,    lse = log sum_j exp(score_j)

Scores are kept in base 2: exp2 is one instruction where exp is two, and log2(e) folds into the
scale. Every kernel returns the log-sum-exp of each query for the backward pass.
"""

import math

import helion
import helion.language as hl
import torch


@helion.kernel()
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full attention, batches and heads flattened into one batched product.

    Args:
        q: queries [B, H, M, D]; D is a compile-time size.
        k: keys [B, H, N, D].
        v: values [B, H, N, D].

    Returns:
        Output [B, H, M, D] in the dtype of ``q``; natural-log log-sum-exp [B, H, M], float32.
    """
    b, h, m, d = q.size()
    n = k.size(2)
    head_dim = hl.specialize(d)
    scale = 1.4426950408889634 / math.sqrt(head_dim)
    q_flat = q.reshape(b * h, m, head_dim)
    k_flat = k.reshape(b * h, n, head_dim)
    v_flat = v.reshape(b * h, n, head_dim)
    out = torch.empty_like(q_flat)
    lse = torch.empty([b * h, m], dtype=torch.float32, device=q.device)
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
        lse[tile_b, tile_m] = (row_max + torch.log2(row_sum)) * 0.6931471805599453
    return out.reshape(b, h, m, head_dim), lse.reshape(b, h, m)


def attention_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.size(-1))
    out = torch.softmax(scores, dim=-1) @ v.float()
    return out.to(q.dtype), torch.logsumexp(scores, dim=-1)


@helion.kernel()
def attention_causal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: hl.constexpr = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-attention with an optional causal mask; blocks above the diagonal are not visited.

    Args:
        q, k, v: [B, H, T, D] of one dtype; D is a compile-time size.
        causal: whether query t sees only keys 0..t.

    Returns:
        Output [B, H, T, D] in the dtype of ``q``; natural-log log-sum-exp [B, H, T], float32.
    """
    b, h, t, d = q.size()
    head_dim = hl.specialize(d)
    scale = 1.4426950408889634 / math.sqrt(head_dim)
    q_flat = q.reshape(b * h, t, head_dim)
    k_flat = k.reshape(b * h, t, head_dim)
    v_flat = v.reshape(b * h, t, head_dim)
    out = torch.empty_like(q_flat)
    lse = torch.empty([b * h, t], dtype=torch.float32, device=q.device)
    for tile_b, tile_m in hl.tile([b * h, t], block_size=[1, None]):
        head = tile_b.begin
        q_tile = q_flat[head, tile_m, :]
        row_max = hl.full([tile_m], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([tile_m], dtype=torch.float32)
        acc = hl.zeros([tile_m, head_dim], dtype=torch.float32)
        if causal:
            last_key = tile_m.end
        else:
            last_key = t
        for tile_n in hl.tile(0, last_key):
            scores = hl.dot(q_tile, k_flat[head, tile_n, :].T) * scale
            if causal:
                visible = tile_m.index[:, None] >= tile_n.index[None, :]
                scores = torch.where(visible, scores, float("-inf"))
            new_max = torch.maximum(row_max, torch.amax(scores, dim=-1))
            probs = torch.exp2(scores - new_max[:, None])
            correction = torch.exp2(row_max - new_max)
            row_sum = row_sum * correction + torch.sum(probs, dim=-1)
            acc = acc * correction[:, None]
            acc = hl.dot(probs.to(v.dtype), v_flat[head, tile_n, :], acc=acc)
            row_max = new_max
        out[head, tile_m, :] = (acc / row_sum[:, None]).to(out.dtype)
        lse[head, tile_m] = (row_max + torch.log2(row_sum)) * 0.6931471805599453
    return out.reshape(b, h, t, head_dim), lse.reshape(b, h, t)


def attention_causal_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.size(-1))
    if causal:
        visible = torch.ones_like(scores, dtype=torch.bool).tril()
        scores = scores.masked_fill(~visible, float("-inf"))
    out = torch.softmax(scores, dim=-1) @ v.float()
    return out.to(q.dtype), torch.logsumexp(scores, dim=-1)


@helion.kernel()
def attention_gqa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grouped-query attention (Ainslie et al. 2023): G query heads share one key/value head.

    Args:
        q: queries [B, HKV * G, M, D]; D is a compile-time size.
        k: keys [B, HKV, N, D].
        v: values [B, HKV, N, D].
        sm_scale: factor of the scores, usually 1 / sqrt(D).

    Returns:
        Output [B, HKV * G, M, D] in the dtype of ``q``; natural-log log-sum-exp
        [B, HKV * G, M], float32.
    """
    b, heads, m, d = q.size()
    kv_heads = k.size(1)
    n = k.size(2)
    assert heads % kv_heads == 0, f"{heads} query heads do not divide into {kv_heads} groups"
    group = heads // kv_heads
    head_dim = hl.specialize(d)
    out = torch.empty_like(q)
    lse = torch.empty([b, heads, m], dtype=torch.float32, device=q.device)
    for tile_b, tile_h, tile_m in hl.tile([b, heads, m], block_size=[1, 1, None]):
        batch = tile_b.begin
        head = tile_h.begin
        kv_head = head // group
        q_tile = q[batch, head, tile_m, :]
        row_max = hl.full([tile_m], float("-inf"), dtype=torch.float32)
        row_sum = hl.zeros([tile_m], dtype=torch.float32)
        acc = hl.zeros([tile_m, head_dim], dtype=torch.float32)
        for tile_n in hl.tile(n):
            scores = hl.dot(q_tile, k[batch, kv_head, tile_n, :].T)
            scores = scores * (sm_scale * 1.4426950408889634)
            new_max = torch.maximum(row_max, torch.amax(scores, dim=-1))
            probs = torch.exp2(scores - new_max[:, None])
            correction = torch.exp2(row_max - new_max)
            row_sum = row_sum * correction + torch.sum(probs, dim=-1)
            acc = acc * correction[:, None]
            acc = hl.dot(probs.to(v.dtype), v[batch, kv_head, tile_n, :], acc=acc)
            row_max = new_max
        out[batch, head, tile_m, :] = (acc / row_sum[:, None]).to(out.dtype)
        lse[batch, head, tile_m] = (row_max + torch.log2(row_sum)) * 0.6931471805599453
    return out, lse


def attention_gqa_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sm_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    group = q.size(1) // k.size(1)
    keys = k.float().repeat_interleave(group, dim=1)
    values = v.float().repeat_interleave(group, dim=1)
    scores = q.float() @ keys.transpose(-1, -2) * sm_scale
    out = torch.softmax(scores, dim=-1) @ values
    return out.to(q.dtype), torch.logsumexp(scores, dim=-1)
