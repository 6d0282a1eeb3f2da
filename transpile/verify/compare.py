"""Tolerances, and comparing what a kernel computed with what it should have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transpile.ir import ir
from transpile.ir.walk import walk_kernel

if TYPE_CHECKING:
    import torch

_EPS32 = 2.0**-23
_MAX_ROUNDINGS = 16


TF32_EPS = 2.0**-10  # ten bits of mantissa: what tensor cores keep of f32 operands
BF16_EPS = 2.0**-8  # half a unit of bf16's last bit: what TPUs make of f32 operands by default


@dataclass(frozen=True, slots=True)
class CutProducts:
    """Products whose f32 operands the device cuts to fewer bits: how many, and their error."""

    count: int = 0
    eps: float = 0.0


def cut_products(kernel: ir.Kernel, eps: float) -> CutProducts:
    """The products of f32 (or of what stands for it) that a device cuts, which interpreters do
    not; none where ``eps`` is 0. Tensor cores take the operands of f32 only."""
    dots = [op for op in walk_kernel(kernel) if isinstance(op, ir.Dot)]
    if eps == TF32_EPS:
        dots = [op for op in dots if op.lhs.dtype.name == "f32" and op.precision == "tf32"]
    return CutProducts(max(len(dots), 1), eps) if eps and dots else CutProducts()


def narrow_roundings(kernel: ir.Kernel) -> int:
    """How many operations of the kernel round to a 16- or 8-bit float: each adds an error of its
    own, which another order of evaluation does not repeat."""
    count = 0
    for op in walk_kernel(kernel):
        if isinstance(op, ir.Elementwise | ir.Cast | ir.Dot | ir.Reduce):
            dtype = op.result.dtype
            count += dtype.is_float and dtype.bits <= 16
    return min(max(count, 1), _MAX_ROUNDINGS)


def tolerance(
    result_eps: float,
    work_eps: float,
    roundings: int,
    reduction_length: int,
    products: CutProducts = CutProducts(),
) -> tuple[float, float]:
    """(relative to the element, relative to the tensor's magnitude) allowed differences.

    - The result is rounded to its dtype, once on each side: ``2 * result_eps`` of the element.
    - ``roundings`` intermediate values are rounded to the narrowest float of the kernel; their
      errors are independent, relative to values of the result's magnitude:
      ``2 * sqrt(roundings) * work_eps``.
    - A sum of n terms in f32 in another order differs by about ``sqrt(n)`` roundings of partial
      sums; 4 standard deviations: ``4 * sqrt(n) * eps(f32)``. Transcendental functions of
      different libraries differ by some ulp: 8 more.
    - ``products`` cut both operands (tf32: to 11 significant bits): independent errors of
      ``sqrt(2) * eps`` of the sum's magnitude, 4 standard deviations; what follows a product
      (an activation, a square) passes them on relative to its value: ``4 * eps`` of the element.
    """
    relative = 2 * result_eps + 8 * _EPS32 + 4 * products.eps
    magnitude = 2 * math.sqrt(roundings) * work_eps + (8 + 4 * math.sqrt(reduction_length)) * _EPS32
    magnitude += 4 * math.sqrt(2 * products.count) * products.eps
    return relative, magnitude


def eps(dtype: torch.dtype) -> float:
    """Spacing of the floats of a dtype at 1; 0 for integers."""
    import torch

    if not dtype.is_floating_point:
        return 0.0
    if dtype is torch.float4_e2m1fn_x2:
        return 0.5
    return float(torch.finfo(dtype).eps)


def flatten(value: Any, name: str = "out") -> list[tuple[str, Any]]:
    """The tensors (and numbers) of a nested result, named by their place."""
    if isinstance(value, dict):
        items = [(f"{name}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        form = "{}{}" if name == "out" else "{}[{}]"
        items = [(form.format(name, i), item) for i, item in enumerate(value)]
    elif _is_numeric(value):
        return [("out0" if name == "out" else name, value)]
    else:
        return []
    return [pair for key, item in items for pair in flatten(item, key)]


def _is_numeric(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor | bool | int | float)


def difference(
    name: str,
    got: Any,
    want: Any,
    *,
    work_eps: float,
    roundings: int,
    reduction_length: int,
    products: CutProducts = CutProducts(),
) -> str:
    """What is wrong with ``got``, or "" if it agrees with ``want``."""
    import torch

    if not isinstance(got, torch.Tensor) or not isinstance(want, torch.Tensor):
        got, want = torch.as_tensor(got), torch.as_tensor(want)
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{name}: is {_describe(got)}, should be {_describe(want)}"
    if got.numel() == 0:
        return ""
    a, b = got.detach().cpu(), want.detach().cpu()
    if a.dtype is torch.float4_e2m1fn_x2:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    if not a.dtype.is_floating_point:
        # A float rounded to a small integer may fall to the other side of a half.
        slack = 1 if work_eps and a.dtype in (torch.int8, torch.uint8, torch.int16) else 0
        wrong = (a.long() - b.long()).abs() > slack
        return _worst(name, a, b, wrong, f"more than {slack}" if slack else "")
    x, y = a.double(), b.double()
    relative, magnitude = tolerance(eps(a.dtype), work_eps, roundings, reduction_length, products)
    finite = y[y.isfinite()]
    scale = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    allowed = relative * y.abs() + magnitude * scale
    close = ((x - y).abs() <= allowed) & y.isfinite()
    same = (x == y) | (x.isnan() & y.isnan())
    limit = f"more than {relative:.1e} of the element and {magnitude:.1e} of the rms {scale:.3g}"
    return _worst(name, x, y, ~(close | same), limit)


def _worst(
    name: str, got: torch.Tensor, want: torch.Tensor, wrong: torch.Tensor, limit: str
) -> str:
    import torch

    count = int(wrong.sum())
    if not count:
        return ""
    distance = (got.double() - want.double()).abs().nan_to_num(math.inf, math.inf, math.inf)
    flat = int(torch.where(wrong, distance, -1.0).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(flat), wrong.shape)]
    by = f" by {limit}" if limit else ""
    return (
        f"{name}: {count} of {wrong.numel()} elements differ{by}; at {place} "
        f"{got.flatten()[flat].item():.6g} instead of {want.flatten()[flat].item():.6g}"
    )


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
