"""Signatures that share a kernel: what becomes a parameter, and what keeps them apart."""

from __future__ import annotations

import re

import pytest

from tests.pallas.generate import build_signatures, function
from tests.pallas.test_kernels import MATMUL, SOFTMAX
from transpile.emitters.common.tree import Var, postfix, ref
from transpile.emitters.pallas.unify import Unifier
from transpile.ir.dtypes import BF16, F32

ATTENTION = """
@helion.kernel()
def f(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    heads, m, d = q.size()
    kv_heads, n, _ = k.size()
    head_dim = hl.specialize(d)
    group = hl.specialize(heads) // hl.specialize(kv_heads)
    scale = 1.0 / math.sqrt(head_dim)
    out = torch.empty([heads, m, n], dtype=q.dtype, device=q.device)
    for tile_h, tile_m, tile_n in hl.tile([heads, m, n], block_size=[1, None, None]):
        h = tile_h.begin
        scores = torch.matmul(q[h, tile_m, :], k[h // group, tile_n, :].T)
        out[h, tile_m, tile_n] = (scores.to(torch.float32) * scale).to(out.dtype)
    return out
"""

SCALED = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    factor = 3.0 if x.dtype == torch.bfloat16 else 7.0
    for tile in hl.tile(out.size()):
        out[tile] = (x[tile].to(torch.float32) * factor).to(out.dtype)
    return out
"""

CODES = """
@helion.kernel()
def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(out.size()):
        out[tile] = torch.exp(x[tile].to(torch.float32)).to(y.dtype).to(x.dtype)
    return out
"""


def kernels(text: str) -> list[str]:
    return re.findall(r"^def (_\w+_kernel)\(", text, re.MULTILINE)


def test_conversions_that_one_signature_needs_serve_all() -> None:
    text = build_signatures(SOFTMAX, [{"x": "bf16[M,N]"}, {"x": "f32[M,N]"}, {"x": "f16[M,N]"}])
    assert kernels(text) == ["_f_kernel"]
    kernel, call = function(text, "_f_kernel"), function(text, "_f_call")
    assert "x_ref[...].astype(jnp.float32)" in kernel
    assert ".astype(out_ref.dtype)" in kernel
    assert call.split("\n")[1:4] == [
        "    dtype = x.dtype", "    x = kt.widened(x)", "    m, n = x.shape",
    ]  # fmt: skip
    assert "jax.ShapeDtypeStruct((m, n), x.dtype)" in call
    assert call.endswith(")(x).astype(dtype)")
    assert "return _f_call(x)" in function(text, "f") or "out = _f_call(x)" in function(text, "f")


def test_block_sizes_and_precision_follow_the_element_type() -> None:
    one = {"x": "{}[M,K]", "y": "{}[K,N]"}
    signatures = [{n: s.format(dtype) for n, s in one.items()} for dtype in ("f16", "bf16", "f32")]
    text = build_signatures(MATMUL, signatures)
    assert kernels(text) == ["_f_kernel"]
    call = function(text, "_f_call")
    assert "block_k = min(2048 if x.dtype == jnp.float32 else 4096, k)" in call
    assert "precision = lax.Precision.HIGHEST if dtype == jnp.float16 else None" in call
    assert "precision=precision" in function(text, "_f_kernel")


def test_static_sizes_are_read_off_the_arrays() -> None:
    text = build_signatures(
        ATTENTION,
        [
            {"q": "bf16[8,M,64]", "k": "bf16[2,N,64]"},
            {"q": "f32[6,M,32]", "k": "f32[3,N,32]"},
        ],
    )
    assert kernels(text) == ["_f_kernel"]
    call = function(text, "_f_call")
    assert "heads, m, head_dim = q.shape" in call
    assert "group = heads // kv_heads" in call
    assert "// group" in call
    assert "scale = 1.0 / head_dim**0.5" in call
    assert not re.search(r"\b(64|32|8|6)\b", call)


def test_numbers_without_a_formula_are_chosen() -> None:
    text = build_signatures(SCALED, [{"x": "bf16[M,N]"}, {"x": "f32[M,N]"}])
    assert "scale = 3.0 if x.dtype == jnp.bfloat16 else 7.0" in function(text, "_f_call")
    assert "* scale" in function(text, "_f_kernel")


def test_element_types_are_those_of_refs() -> None:
    text = build_signatures(
        CODES, [{"x": "f32[M]", "y": "bf16[M]"}, {"x": "f32[M]", "y": "f8e4m3[M]"}]
    )
    assert len(kernels(text)) == 2  # no ref has the type of y
    assert "jnp.float8_e4m3fn" in text


@pytest.mark.parametrize(
    "signatures",
    [
        [{"x": "f32[M,N]"}, {"x": "f32[M,N,K]"}],  # another rank
        [{"x": "f32[M,N]", "y": "f32[N,K]"}, {"x": "f32[M,256]", "y": "f32[256,K]"}],  # no mask
    ],
)
def test_what_differs_in_more_stays_apart(signatures: list[dict[str, str]]) -> None:
    elementwise = SCALED.replace("3.0 if x.dtype == torch.bfloat16 else 7.0", "2.0")
    snippet = MATMUL if "y" in signatures[0] else elementwise
    blocks = {"block_sizes": [128, 128, 128]} if "y" in signatures[0] else {}
    assert len(kernels(build_signatures(snippet, signatures, **blocks))) == 2


def test_one_signature_keeps_its_numbers() -> None:
    text = build_signatures(ATTENTION, [{"q": "bf16[8,M,64]", "k": "bf16[2,N,64]"}])
    assert "* 0.125" in function(text, "_f_kernel")
    assert "group" not in function(text, "_f_call")


def test_a_variable_that_one_signature_converts_is_converted() -> None:
    single, half = Var("rows"), Var("rows")
    unifier = Unifier(2, [])
    unifier.var([single, half])
    converted = postfix(ref(half, BF16), ".astype(jnp.float32)", F32)
    assert unifier.expr([ref(single, F32), converted]).text() == "rows.astype(jnp.float32)"
