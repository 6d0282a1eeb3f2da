"""First-order linear recurrences, h[t] = a[t] * h[t - 1] + x[t] with h[-1] = 0.

The core of gated linear RNNs (Martin & Cundy 2018). One kernel walks through time and keeps the
state in registers, the other evaluates all steps of a sequence at once with a parallel scan.
"""

import helion
import helion.language as hl
import torch


@helion.kernel()
def recurrence_stepped(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Recurrence over time, parallel over batch and channels.

    Args:
        a: decay [B, T, C], floating point.
        x: input [B, T, C].

    Returns:
        State at each step [B, T, C] in the dtype of ``x``; carried in float32.
    """
    b, t, c = x.size()
    out = torch.empty_like(x)
    for tile_b, tile_c in hl.tile([b, c]):
        state = hl.zeros([tile_b, tile_c], dtype=torch.float32)
        for step in hl.grid(t):
            decay = a[tile_b, step, tile_c].to(torch.float32)
            state = decay * state + x[tile_b, step, tile_c].to(torch.float32)
            out[tile_b, step, tile_c] = state.to(x.dtype)
    return out


def recurrence_stepped_reference(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    state = torch.zeros_like(x[:, 0], dtype=torch.float32)
    states = []
    for step in range(x.size(1)):
        state = a[:, step].float() * state + x[:, step].float()
        states.append(state)
    return torch.stack(states, dim=1).to(x.dtype)


def compose(
    left_a: torch.Tensor, left_x: torch.Tensor, right_a: torch.Tensor, right_x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two affine maps h -> a * h + x in sequence, the left one first."""
    return left_a * right_a, right_a * left_x + right_x


@helion.kernel()
def recurrence_scanned(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Recurrence along each row as an associative scan over affine maps.

    Args:
        a: decay [M, T], floating point.
        x: input [M, T].

    Returns:
        State at each step [M, T] in the dtype of ``x``; composed in float32.
    """
    out = torch.empty_like(x)
    for tile_m in hl.tile(x.size(0)):
        decay = a[tile_m, :].to(torch.float32)
        value = x[tile_m, :].to(torch.float32)
        _, states = hl.associative_scan(compose, (decay, value), dim=1)
        out[tile_m, :] = states.to(x.dtype)
    return out


def recurrence_scanned_reference(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return recurrence_stepped_reference(a[:, :, None], x[:, :, None])[:, :, 0]


@helion.kernel()
def row_cumsum(x: torch.Tensor) -> torch.Tensor:
    """Inclusive prefix sum of each row, the recurrence without decay.

    Args:
        x: [M, N], floating point.

    Returns:
        [M, N] in the dtype of ``x``, accumulated in float32.
    """
    m, _ = x.size()
    out = torch.empty_like(x)
    for tile_m in hl.tile(m):
        out[tile_m, :] = hl.cumsum(x[tile_m, :].to(torch.float32), dim=1).to(x.dtype)
    return out


def row_cumsum_reference(x: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(x.float(), dim=1).to(x.dtype)
