"""The kernel of one signature made from that of a narrower one."""

from __future__ import annotations

import pytest

from transpile.frontend import FrontendOptions, SourceFile
from transpile.frontend import load as parse
from transpile.frontend.project import ProjectConfig
from transpile.ir import ir
from transpile.ir.dtypes import BF16, F16, F32, StandIn
from transpile.ir.printer import format_kernel
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.retype import like, retyped
from transpile.passes.simplify import simplify, widens

HEAD = "import torch\nimport helion\nimport helion.language as hl\n\n\n@helion.kernel\n"
NORM = """\
def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        row = x[tile, :].to(torch.float32)
        mean = torch.mean(row * row, dim=-1, keepdim=True)
        out[tile, :] = (row * torch.rsqrt(mean + 1e-6) * w[:].to(torch.float32)).to(x.dtype)
    return out
"""
ROUNDS = """\
def rounds(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = (x[tile] * 3).to(torch.float16).to(x.dtype)
    return out
"""


def kernel_of(source: str, **signature: str) -> ir.Kernel:
    options = FrontendOptions((), dict(signature), {}, None, ProjectConfig(path=None))
    result = parse(SourceFile("kernel.py", HEAD + source, "0"), options)
    assert not [d for d in result.diagnostics if d.severity == "error"], result.diagnostics
    return result.kernels[0]


def casts(kernel: ir.Kernel) -> int:
    return sum(isinstance(op, ir.Cast) for op in walk_kernel(kernel))


@pytest.mark.parametrize("narrow", ["f16", "bf16"])
def test_the_same_program_with_casts(narrow: str) -> None:
    wide = kernel_of(NORM, x="f32[M,N]", w="f32[N]")
    other = kernel_of(NORM, x=f"{narrow}[M,N]", w=f"{narrow}[N]")
    made = like(wide, other)
    assert made is not None
    verify(made)
    assert casts(made) == casts(other) > casts(wide)
    assert all(isinstance(t.dtype, StandIn) and t.dtype.bits == 32 for t in made.tensors)
    assert [t.shape for t in made.tensors] == [t.shape for t in wide.tensors]
    assert made.signature == wide.signature
    plain = retyped(made, {t.dtype: F32 for t in made.tensors})
    assert format_kernel(simplify(plain)) == format_kernel(simplify(wide))
    assert casts(simplify(made)) == casts(simplify(other))  # none of them is taken for nothing


def test_types_that_differ_apart() -> None:
    wide = kernel_of(NORM, x="f32[M,N]", w="f32[N]")
    mixed = kernel_of(NORM, x="f16[M,N]", w="f32[N]")
    made = like(wide, mixed)
    assert made is not None
    assert [isinstance(t.dtype, StandIn) for t in made.tensors] == [True, False, True]


def test_other_programs_are_not_made() -> None:
    assert like(kernel_of(ROUNDS, x="f32[N]"), kernel_of(ROUNDS, x="f16[N]")) is None
    wide = kernel_of(NORM, x="f32[M,N]", w="f32[N]")
    assert like(wide, kernel_of(NORM, x="f16[M,64]", w="f16[64]")) is None
    assert like(wide, wide) is None
    assert like(kernel_of(NORM, x="f16[M,N]", w="f16[N]"), wide) is None


def test_a_stand_in_is_as_narrow_as_what_it_stands_for() -> None:
    standing = StandIn(F32.name, F32.torch, F32.category, 32, of=F16)
    assert standing != F32
    assert widens(standing, F32)
    assert not widens(F32, standing)
    assert not widens(BF16, standing)
