"""Products of a 16-bit activation matrix with 4-bit weights, two weights to a byte.

The two kernels differ in which weights share a byte. Neighbours along K keep a byte's pair in one
tile and are interleaved in registers; halves of K need no interleaving, only two dot products.
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def int4_matmul(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """Product with signed 4-bit weights, rows 2i and 2i + 1 of the weights in byte row i.

    Args:
        x: [M, K], 16-bit floating point, K even.
        packed: [K / 2, N], int8; the low nibble is the even row, both two's complement.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    half_k, n = packed.size()
    assert k == 2 * half_k, f"{k} columns for {half_k} rows of packed pairs"
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    block_k = hl.register_block_size(half_k)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(half_k, block_size=block_k):
            pair = packed[tile_k, tile_n]
            low = (pair & 0xF).to(torch.int32)
            low = torch.where(low >= 8, low - 16, low)
            high = (pair >> 4).to(torch.int32)
            interleaved = torch.stack([low.to(x.dtype), high.to(x.dtype)], dim=1)
            w = interleaved.reshape(tile_k.block_size * 2, tile_n.block_size)
            # Twice the width of tile_k, whose mask does not cover these columns.
            columns = tile_k.begin * 2 + hl.arange(block_k * 2)
            a = hl.load(x, [tile_m, columns], extra_mask=(columns < k)[None, :])
            acc = hl.dot(a, w, acc=acc)
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out


def int4_matmul_reference(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    pair = packed.to(torch.int32)
    low, high = pair & 0xF, pair >> 4
    low = torch.where(low >= 8, low - 16, low)
    w = torch.stack([low, high], dim=1).reshape(x.size(1), -1)
    return (x.float() @ w.float()).to(x.dtype)


@helion.kernel()
def uint4_matmul_halves(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """Product with unsigned 4-bit weights, dequantised by column as (code - zero) * scale.

    Args:
        x: [M, K], 16-bit floating point, K even.
        packed: [K / 2, N], uint8; byte row i holds weight row i in its low nibble and row
            i + K / 2 in its high nibble.
        scale, zero: [N], float32.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    half_k, n = packed.size()
    assert k == 2 * half_k, f"{k} columns for {half_k} rows of packed pairs"
    x_low = x[:, :half_k]
    x_high = x[:, half_k:]
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        row_sum = hl.zeros([tile_m], dtype=torch.float32)
        for tile_k in hl.tile(half_k):
            pair = packed[tile_k, tile_n].to(torch.int32)
            a_low = x_low[tile_m, tile_k]
            a_high = x_high[tile_m, tile_k]
            acc = hl.dot(a_low, (pair & 0xF).to(x.dtype), acc=acc)
            acc = hl.dot(a_high, (pair >> 4).to(x.dtype), acc=acc)
            row_sum += torch.sum(a_low.to(torch.float32) + a_high.to(torch.float32), dim=-1)
        # sum x * (code - zero) = sum x * code - zero * sum x, and the codes are exact in 16 bits.
        centred = acc - row_sum[:, None] * zero[tile_n][None, :]
        out[tile_m, tile_n] = (centred * scale[tile_n][None, :]).to(x.dtype)
    return out


def uint4_matmul_halves_reference(
    x: torch.Tensor, packed: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    codes = torch.cat([packed & 0xF, packed >> 4], dim=0).float()
    return (x.float() @ ((codes - zero) * scale)).to(x.dtype)
