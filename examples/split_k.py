"""Matrix products for small M and N and a long K: several programs share one output tile.

The atomic form adds partial products into a zeroed float32 result; the barrier form keeps every
partial product and sums them in a second phase, which is deterministic.
"""

import helion
import helion.language as hl
import torch


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def matmul_split_k(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Product with the K dimension on the grid and atomic accumulation.

    Args:
        x: [M, K], floating point.
        y: [K, N], dtype of ``x``.

    Returns:
        [M, N] in the dtype of ``x``. The order of the additions varies from run to run.
    """
    m, k = x.size()
    k2, n = y.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    # Sixteen-bit atomics would round after every partial product.
    out = torch.zeros([m, n], dtype=torch.float32, device=x.device)
    for tile_m, tile_n, split in hl.tile([m, n, k], block_size=[None, None, 256]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(split.begin, split.end):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        hl.atomic_add(out, [tile_m, tile_n], acc)
    return out.to(x.dtype)


def matmul_split_k_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.float() @ y.float()).to(x.dtype)


@helion.kernel(ignore_warnings=[helion.exc.TensorOperationInWrapper])
def linear_split_k(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, splits: hl.constexpr = 4
) -> torch.Tensor:
    """Linear layer ``x @ w + bias`` whose bias the first of ``splits`` partial products adds.

    Args:
        x: [M, K], floating point.
        w: [K, N], dtype of ``x``.
        bias: [N].
        splits: number of programs per output tile.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.zeros([m, n], dtype=torch.float32, device=x.device)
    split_size = helion.next_power_of_2(helion.cdiv(k, splits))
    for tile_m, tile_n, split in hl.tile([m, n, k], block_size=[None, None, split_size]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(split.begin, split.end):
            acc = torch.addmm(acc, x[tile_m, tile_k], w[tile_k, tile_n])
        if split.begin == 0:
            acc = acc + bias[tile_n].to(torch.float32)
        hl.atomic_add(out, [tile_m, tile_n], acc)
    return out.to(x.dtype)


def linear_split_k_reference(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, splits: int = 4
) -> torch.Tensor:
    return (x.float() @ w.float() + bias.float()).to(x.dtype)


@helion.kernel()
def matmul_split_k_barrier(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Product in two phases of one launch: partial products, then their sum.

    Args:
        x: [M, K], floating point.
        y: [K, N], dtype of ``x``.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = y.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    splits = (k + 255) // 256
    partial = torch.empty([splits, m, n], dtype=torch.float32, device=x.device)
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n, split in hl.tile([m, n, k], block_size=[None, None, 256]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(split.begin, split.end):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        partial[split.id, tile_m, tile_n] = acc
    hl.barrier()
    for tile_m, tile_n in hl.tile([m, n]):
        total = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for i in hl.grid(splits):
            total += partial[i, tile_m, tile_n]
        out[tile_m, tile_n] = total.to(x.dtype)
    return out


def matmul_split_k_barrier_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.float() @ y.float()).to(x.dtype)
