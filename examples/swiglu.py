"""SwiGLU, the gated unit silu(gate) * up of LLaMA-style feed-forward layers (Shazeer 2020).

silu(g) = g * sigmoid(g),    silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g)))
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def swiglu_fwd(gate_up: torch.Tensor) -> torch.Tensor:
    """Apply SwiGLU to the fused output of the gate and up projections.

    Args:
        gate_up: [M, 2 * N], the gate in the left half and the value in the right half.

    Returns:
        [M, N] in the dtype of ``gate_up``.
    """
    m, n2 = gate_up.size()
    assert n2 % 2 == 0, f"{n2} columns do not split into two halves"
    n = n2 // 2
    gate = gate_up[:, :n]
    up = gate_up[:, n:]
    out = torch.empty([m, n], dtype=gate_up.dtype, device=gate_up.device)
    for tile_m, tile_n in hl.tile([m, n]):
        g = gate[tile_m, tile_n].to(torch.float32)
        u = up[tile_m, tile_n].to(torch.float32)
        out[tile_m, tile_n] = (g * torch.sigmoid(g) * u).to(out.dtype)
    return out


def swiglu_fwd_reference(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.float().chunk(2, dim=1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@helion.kernel()
def swiglu_bwd(
    grad_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of ``silu(gate) * up``; the sigmoid is recomputed.

    Args:
        grad_out: gradient with respect to the output [M, N].
        gate, up: inputs of the forward pass [M, N].

    Returns:
        Gradients of ``gate`` and ``up`` [M, N], each in the dtype of its input.
    """
    m, n = gate.size()
    grad_gate = torch.empty_like(gate)
    grad_up = torch.empty_like(up)
    for tile_m, tile_n in hl.tile([m, n]):
        dy = grad_out[tile_m, tile_n].to(torch.float32)
        g = gate[tile_m, tile_n].to(torch.float32)
        u = up[tile_m, tile_n].to(torch.float32)
        s = torch.sigmoid(g)
        grad_up[tile_m, tile_n] = (dy * g * s).to(up.dtype)
        grad_gate[tile_m, tile_n] = (dy * u * s * (1.0 + g * (1.0 - s))).to(gate.dtype)
    return grad_gate, grad_up


def swiglu_bwd_reference(
    grad_out: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    dy, g, u = grad_out.float(), gate.float(), up.float()
    s = torch.sigmoid(g)
    grad_gate = dy * u * s * (1.0 + g * (1.0 - s))
    return grad_gate.to(gate.dtype), (dy * g * s).to(up.dtype)
