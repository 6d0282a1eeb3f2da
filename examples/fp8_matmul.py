"""Matrix products of float8 operands with scales, and the quantisation that makes them.

out[i, j] = scale_x[i] * scale_w[j] * sum_k x[i, k] * w[k, j]
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def fp8_matmul_scaled(
    x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor
) -> torch.Tensor:
    """Product of e4m3 matrices, dequantised by row and by column.

    Args:
        x: [M, K], float8_e4m3fn.
        w: [K, N], float8_e4m3fn; column-major where the hardware is to be fed without a transpose.
        scale_x: scale of each row of ``x`` [M], float32.
        scale_w: scale of each column of ``w`` [N], float32.

    Returns:
        [M, N], bfloat16.
    """
    m, k = x.size()
    k2, n = w.size()
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = torch.empty([m, n], dtype=torch.bfloat16, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = hl.dot(x[tile_m, tile_k], w[tile_k, tile_n], acc=acc)
        scaled = acc * scale_x[tile_m][:, None] * scale_w[tile_n][None, :]
        out[tile_m, tile_n] = scaled.to(torch.bfloat16)
    return out


def fp8_matmul_scaled_reference(
    x: torch.Tensor, w: torch.Tensor, scale_x: torch.Tensor, scale_w: torch.Tensor
) -> torch.Tensor:
    out = (x.float() @ w.float()) * scale_x[:, None] * scale_w[None, :]
    return out.to(torch.bfloat16)


@helion.kernel()
def quantize_fp8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row to e4m3 with a scale that maps its largest magnitude to 448.

    Args:
        x: [M, N], floating point.

    Returns:
        Quantised rows [M, N], float8_e4m3fn, and the scales [M], float32, with
        ``x ~= quantised * scale[:, None]``.
    """
    m, n = x.size()
    out = torch.empty([m, n], dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty([m], dtype=torch.float32, device=x.device)
    for tile_m in hl.tile(m):
        row = x[tile_m, :].to(torch.float32)
        # A row of zeros would otherwise divide zero by zero.
        amax = torch.clamp(torch.amax(torch.abs(row), dim=-1), min=1e-12)
        scale = amax / 448.0
        # A rounding error may take the quotient past 448, which e4m3fn turns into NaN.
        quantised = torch.clamp(row / scale[:, None], -448.0, 448.0)
        out[tile_m, :] = quantised.to(torch.float8_e4m3fn)
        scales[tile_m] = scale
    return out, scales


def quantize_fp8_rows_reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    row = x.float()
    scale = row.abs().amax(dim=-1).clamp(min=1e-12) / 448.0
    quantised = (row / scale[:, None]).clamp(-448.0, 448.0)
    return quantised.to(torch.float8_e4m3fn), scale
