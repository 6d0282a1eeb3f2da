"""GEGLU, the gated unit gelu(a) * b with the tanh form of GELU (Shazeer 2020).

gelu(a) = a / 2 * (1 + tanh(u)),    u = sqrt(2 / pi) * (a + 0.044715 * a^3)
"""

import helion
import helion.language as hl
import torch
import torch.nn.functional as F


@helion.kernel()
def geglu_fwd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Gate ``b`` with the GELU of ``a``.

    Args:
        a: gate, contiguous, any rank, floating point.
        b: value, contiguous, same shape as ``a``.

    Returns:
        Same shape, in the promoted dtype of ``a`` and ``b``.
    """
    assert a.size() == b.size(), f"shapes differ: {a.size()} and {b.size()}"
    out = torch.empty_like(a, dtype=torch.promote_types(a.dtype, b.dtype))
    a_flat = a.view(-1)
    b_flat = b.view(-1)
    out_flat = out.view(-1)
    for tile in hl.tile(a.numel()):
        gate = a_flat[tile].to(torch.float32)
        u = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gelu = 0.5 * gate * (1.0 + torch.tanh(u))
        out_flat[tile] = (gelu * b_flat[tile].to(torch.float32)).to(out.dtype)
    return out


def geglu_fwd_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = F.gelu(a.float(), approximate="tanh") * b.float()
    return out.to(torch.promote_types(a.dtype, b.dtype))


@helion.kernel()
def geglu_bwd(
    grad_out: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of GEGLU; the activation is recomputed, nothing but the inputs is saved.

    Args:
        grad_out: gradient with respect to the output, contiguous, same shape as ``a``.
        a: gate.
        b: value.

    Returns:
        Gradients of ``a`` and ``b``, each in the dtype of its input.
    """
    grad_a = torch.empty_like(a)
    grad_b = torch.empty_like(b)
    dy_flat = grad_out.view(-1)
    a_flat = a.view(-1)
    b_flat = b.view(-1)
    grad_a_flat = grad_a.view(-1)
    grad_b_flat = grad_b.view(-1)
    for tile in hl.tile(a.numel()):
        dy = dy_flat[tile].to(torch.float32)
        gate = a_flat[tile].to(torch.float32)
        value = b_flat[tile].to(torch.float32)
        square = gate * gate
        t = torch.tanh(0.7978845608028654 * gate * (1.0 + 0.044715 * square))
        du = 0.7978845608028654 * (1.0 + 3 * 0.044715 * square)
        dgelu = 0.5 * (1.0 + t) + 0.5 * gate * (1.0 - t * t) * du
        grad_a_flat[tile] = (dy * value * dgelu).to(a.dtype)
        grad_b_flat[tile] = (dy * 0.5 * gate * (1.0 + t)).to(b.dtype)
    return grad_a, grad_b


def geglu_bwd_reference(
    grad_out: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    gate = a.detach().float().requires_grad_()
    value = b.detach().float().requires_grad_()
    with torch.enable_grad():
        out = F.gelu(gate, approximate="tanh") * value
        grad_a, grad_b = torch.autograd.grad(out, (gate, value), grad_out.float())
    return grad_a.to(a.dtype), grad_b.to(b.dtype)
