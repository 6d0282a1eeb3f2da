"""MLX's steel kernels in the executor, for comparison, from a checkout of ml-explore/mlx.

Nothing of MLX is part of kt. The files of the checkout are joined into one source in memory, with
stand-ins for its headers of complex numbers, bfloat functions and logging, which use what only
Apple's compiler has.
"""

from __future__ import annotations

import os
import re
import struct

import torch

from transpile.verify.msl.counters import Counters
from transpile.verify.msl.executor import Module

KERNELS = "mlx/backend/metal/kernels/"
STAND_INS = {
    "complex.h": """
template <typename T> struct complex_t {
  T real, imag;
  complex_t() = default;
  constexpr complex_t(T r, T i) : real(r), imag(i) {}
};
typedef complex_t<float> complex64_t;
""",
    "bf16_math.h": "",
    "logging.h": "",
    "utils.h": f"""
#include "{KERNELS}bf16.h"
#include "{KERNELS}complex.h"
namespace metal {{ template <class T> using remove_addrspace_t = T; }}
template <typename U> struct Limits {{
  static constexpr U finite_max = metal::numeric_limits<U>::max();
  static constexpr U finite_min = metal::numeric_limits<U>::lowest();
}};
inline long elem_to_loc(uint, constant const int*, constant const int64_t*, int) {{ return 0; }}
""",
}
# One of several specialisations that differ in the address space: all are one where it is flat.
POINTERS = r"template <typename T>\s+struct pointer_element<(?:device|threadgroup) T\*> \{[^}]*\};"


def joined(root: str, *headers: str) -> str:
    """Headers of MLX's kernels with MLX's own headers in place of their include lines."""
    seen: set[str] = set()

    def text(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        if name in STAND_INS:
            content = STAND_INS[name]
        else:
            with open(os.path.join(root, KERNELS, name), encoding="utf-8") as stream:
                content = stream.read()
        content = content.encode("ascii", "replace").decode().replace("#pragma once", "")
        content = re.sub(POINTERS, "", content)
        pattern = rf'#include "{re.escape(KERNELS)}([^"]*)"'
        return re.sub(pattern, lambda match: text(match.group(1)), content)

    return "#include <metal_stdlib>\n" + "".join(map(text, ["utils.h", *headers]))


def gemm(root: str, m: int, n: int, k: int, tile: tuple[int, ...], by: str = "nn") -> Counters:
    """f16 GEMM; ``tile`` is (BM, BN, BK, WM, WN). Checked against torch."""
    bm, bn, bk, wm, wn = tile
    transposed = tuple("true" if c == "t" else "false" for c in by)
    call = f"gemm<half, {bm}, {bn}, {bk}, {wm}, {wn}, {transposed[0]}, {transposed[1]}, float>"
    files = ("steel/gemm/gemm.h", "steel/gemm/kernels/steel_gemm_fused.h")
    source = joined(root, *files)
    source += f'\ntemplate [[host_name("gemm")]] [[kernel]] decltype({call}) {call};\n'
    constants = {200: m % bm == 0, 201: n % bn == 0, 202: k % bk == 0}
    constants |= {10: False, 100: False, 110: False}
    module = Module(source, house_style=False, constants=constants, only=["gemm"])
    a, b, d = (
        torch.randn(m, k).half(),
        torch.randn(k, n).half(),
        torch.full((m, n), torch.nan).half(),
    )
    given = [a if by[0] == "n" else a.T.contiguous(), b if by[1] == "n" else b.T.contiguous()]
    tiles = -(-n // bn), -(-m // bm)
    lda, ldb = given[0].stride(0), given[1].stride(0)
    params = struct.pack("8i3q3i4x", m, n, k, lda, ldb, n, *tiles, 0, 0, 0, 0, k // bk, 1)
    unused = torch.zeros(1).half()
    buffers = [*given, unused, d, params, b"\0" * 32, b"\0" * 4, b"\0" * 8]
    counters = module.launch("gemm", buffers, (*tiles, 1), (32, wn, wm))
    torch.testing.assert_close(d.float(), a.float() @ b.float(), rtol=2e-3, atol=2e-2)
    return counters


def attention(
    root: str, heads: int, queries: int, keys: int, head_dim: int, causal: bool = False
) -> Counters:
    """f16 attention of one batch, blocks as MLX chooses them. Checked against torch."""
    bq, bk = 32, 32 if head_dim < 128 else 16
    call = f"attention<half, {bq}, {bk}, {head_dim}, 4, 1, bool, float>"
    source = joined(root, "steel/attn/kernels/steel_attention.h")
    source += f'\ntemplate [[host_name("attention")]] [[kernel]] decltype({call}) {call};\n'
    constants = {200: queries % bq == 0, 201: keys % bk == 0}
    constants |= {300: False, 301: causal, 302: False}
    module = Module(source, house_style=False, constants=constants, only=["attention"])
    q = torch.randn(heads, queries, head_dim).half()
    k, v = (torch.randn(heads, keys, head_dim).half() for _ in range(2))
    out = torch.full_like(q, torch.nan)
    nq, nk = -(-queries // bq), -(-keys // bk)
    strides = []
    for tensor in (q, k, v, out):
        strides += [0, tensor.stride(0), tensor.stride(1)]
    params = struct.pack(
        "6if7i12q", 1, heads, head_dim, queries, keys, 1,
        head_dim**-0.5, nq, nk, queries // bq, keys // bk, queries % bq, keys % bk,
        keys - queries, *strides,
    )  # fmt: skip
    buffers = [
        q,
        k,
        v,
        out,
        params,
        b"\0" * 24,
        torch.zeros(1, dtype=torch.bool),
        torch.zeros(1).half(),
    ]
    counters = module.launch("attention", buffers, (nq, heads, 1), (32, 4, 1))
    want = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), is_causal=causal
    )
    torch.testing.assert_close(out.float(), want, rtol=2e-3, atol=2e-3)
    return counters
