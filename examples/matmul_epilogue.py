"""Matrix products with a fused epilogue, given as a function of the accumulator."""

from collections.abc import Callable

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def linear_gelu(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor,
    epilogue: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda acc, bias: F.gelu(
        acc + bias
    ),
) -> torch.Tensor:
    """Linear layer with a bias and an activation, by default gelu(x @ w + bias).

    Args:
        x: [M, K], floating point.
        w: [K, N], dtype of ``x``.
        bias: [N].
        epilogue: maps a float32 tile of the product and the float32 bias of its columns to the
            values stored.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], w[tile_k, tile_n])
        out[tile_m, tile_n] = epilogue(acc, bias[tile_n].to(torch.float32)).to(x.dtype)
    return out


def linear_gelu_reference(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor,
    epilogue: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda acc, bias: F.gelu(
        acc + bias
    ),
) -> torch.Tensor:
    return epilogue(x.float() @ w.float(), bias.float()).to(x.dtype)


@helion.kernel()
def matmul_relu_squared(
    x: torch.Tensor,
    w: torch.Tensor,
    epilogue: Callable[[torch.Tensor], torch.Tensor] = lambda acc: torch.relu(acc) * acc,
) -> torch.Tensor:
    """Matrix product with a caller's epilogue, by default the squared ReLU of So et al. (2021).

    Args:
        x: [M, K], floating point.
        w: [K, N], dtype of ``x``.
        epilogue: maps a float32 tile of the product to the values stored.

    Returns:
        [M, N] in the dtype of ``x``.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], w[tile_k, tile_n])
        out[tile_m, tile_n] = epilogue(acc).to(x.dtype)
    return out


def matmul_relu_squared_reference(
    x: torch.Tensor,
    w: torch.Tensor,
    epilogue: Callable[[torch.Tensor], torch.Tensor] = lambda acc: torch.relu(acc) * acc,
) -> torch.Tensor:
    return epilogue(x.float() @ w.float()).to(x.dtype)


def scaled_residual(acc: torch.Tensor, residual: torch.Tensor, scale: float) -> torch.Tensor:
    """Epilogue of a transformer's output projections."""
    return residual.to(torch.float32) + scale * acc


# Operands and result go through tensor descriptors (TMA on Hopper and later).
@helion.kernel(
    config=helion.Config(
        block_sizes=[128, 64, 64], indexing="tensor_descriptor", num_warps=4, num_stages=3
    )
)
def matmul_residual(
    x: torch.Tensor, w: torch.Tensor, residual: torch.Tensor, scale: float
) -> torch.Tensor:
    """Scaled product added to a residual stream: residual + scale * (x @ w).

    Args:
        x: [M, K], floating point.
        w: [K, N], dtype of ``x``.
        residual: [M, N].
        scale: factor of the product.

    Returns:
        [M, N] in the dtype of ``residual``.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty_like(residual)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], w[tile_k, tile_n], acc=acc)
        total = scaled_residual(acc, residual[tile_m, tile_n], scale)
        out[tile_m, tile_n] = total.to(residual.dtype)
    return out


def matmul_residual_reference(
    x: torch.Tensor, w: torch.Tensor, residual: torch.Tensor, scale: float
) -> torch.Tensor:
    return (residual.float() + scale * (x.float() @ w.float())).to(residual.dtype)
