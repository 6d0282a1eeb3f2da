"""Searches for the best of many candidates: greedy sampling and vector quantisation."""

import helion
import helion.language as hl
import torch


@helion.kernel()
def row_argmax(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest element of each row and where it is, as in greedy decoding.

    Args:
        x: [M, N], floating point.

    Returns:
        Maximum of each row [M] in the dtype of ``x``, and its first position [M], int64.
    """
    m, _ = x.size()
    values = torch.empty([m], dtype=x.dtype, device=x.device)
    indices = torch.empty([m], dtype=torch.int64, device=x.device)
    for tile_m in hl.tile(m):
        row = x[tile_m, :]
        values[tile_m] = torch.amax(row, dim=1)
        indices[tile_m] = torch.argmax(row, dim=1)
    return values, indices


def row_argmax_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.amax(dim=1), x.argmax(dim=1)


@helion.kernel()
def nearest_code(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Nearest codebook entry of each vector (VQ-VAE, van den Oord et al. 2017).

    argmin_v |x - c_v|^2 = argmin_v (|c_v|^2 - 2 x . c_v), searched block by block.

    Args:
        x: vectors [M, D], floating point.
        codebook: [V, D], dtype of ``x``.

    Returns:
        Index of the nearest entry [M], int32; the first of equals.
    """
    m, _ = x.size()
    v, _ = codebook.size()
    out = torch.empty([m], dtype=torch.int32, device=x.device)
    for tile_m in hl.tile(m):
        vectors = x[tile_m, :]
        best = hl.full([tile_m], float("inf"), dtype=torch.float32)
        best_index = hl.zeros([tile_m], dtype=torch.int32)
        for tile_v in hl.tile(v):
            codes = codebook[tile_v, :]
            norms = torch.sum(codes.to(torch.float32) * codes.to(torch.float32), dim=1)
            distance = norms[None, :] - 2.0 * hl.dot(vectors, codes.T)
            nearest = torch.amin(distance, dim=1)
            index = torch.argmin(distance, dim=1).to(torch.int32) + tile_v.begin
            best_index = torch.where(nearest < best, index, best_index)
            best = torch.minimum(best, nearest)
        out[tile_m] = best_index
    return out


def nearest_code_reference(x: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    codes = codebook.float()
    distance = codes.square().sum(dim=1)[None, :] - 2.0 * (x.float() @ codes.T)
    return distance.argmin(dim=1).to(torch.int32)
