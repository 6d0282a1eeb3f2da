"""Matrix product with float32 accumulation, with three schedules: out = x @ y."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix product, tuned by whoever calls it.

    Args:
        x: [M, K], floating point.
        y: [K, N], floating point.

    Returns:
        [M, N] in the promoted dtype of the operands.
    """
    m, k = x.size()
    k2, n = y.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=torch.promote_types(x.dtype, y.dtype), device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc.to(out.dtype)
    return out


def matmul_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.float() @ y.float()).to(torch.promote_types(x.dtype, y.dtype))


# Consecutive programs walk down eight row blocks before they move to the next column block, so
# that the operand blocks they share stay in the L2 cache.
@helion.kernel(
    config=helion.Config(block_sizes=[128, 128, 64], l2_groupings=[8], num_warps=8, num_stages=3)
)
def matmul_l2_grouped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Matrix product with programs ordered for reuse in the L2 cache.

    Args:
        x: [M, K], floating point.
        y: [K, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = y.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], y[tile_k, tile_n], acc=acc)
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out


def matmul_l2_grouped_reference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.float() @ y.float()).to(x.dtype)


# One program per streaming multiprocessor works through every n-th output tile, which hides the
# tail of the last wave and the launch cost of the others.
@helion.kernel(
    config=helion.Config(
        block_sizes=[128, 128, 64],
        pid_type="persistent_interleaved",
        l2_groupings=[4],
        num_warps=8,
        num_stages=4,
    )
)
def matmul_persistent(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Linear layer without bias, weights stored as in ``torch.nn.Linear``: out = x @ w.T.

    Args:
        x: [M, K], floating point.
        w: [N, K], floating point.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    n, k2 = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], w[tile_n, tile_k].T, acc=acc)
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out


def matmul_persistent_reference(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x.float() @ w.float().T).to(x.dtype)
