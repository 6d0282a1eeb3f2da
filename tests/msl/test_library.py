"""What the library's functions compute, against torch; one thread per element, 32 lanes a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.msl.programs import program, run, torch

from transpile.verify.msl import strict  # isort: skip

ONE = "device const {a}* x [[buffer(0)]], device {b}* y [[buffer(1)]], uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]"
TYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat", torch.int32: "int",
         torch.int64: "long", torch.uint8: "uchar", torch.int8: "char", torch.int16: "short", torch.bool: "bool"}  # fmt: skip


def results(
    expressions: Sequence[str], x: torch.Tensor, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """``expression`` for every element i of x, each expression's values as one tensor."""
    y = torch.empty((len(expressions), *x.shape), dtype=dtype or x.dtype)
    lines = [f"y[{j * x.numel()} + i] = {text};" for j, text in enumerate(expressions)]
    source = program("\n".join(lines), parameters=ONE.format(a=TYPES[x.dtype], b=TYPES[y.dtype]))
    assert strict.check(source) == []
    run(source, [x, y], (x.numel() // 32, 1, 1), (32, 1, 1))
    return list(y)


def check(cases: Mapping[str, Any], x: torch.Tensor, tolerance: float = 0.0) -> None:
    """Each expression gives its expected tensor, of the dtype of x."""
    for text, got in zip(cases, results(list(cases), x), strict=True):
        want = cases[text].to(x.dtype)
        torch.testing.assert_close(
            got,
            want,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda m, text=text: f"{text}: {m}",
        )


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "acos": torch.acos, "asin": torch.asin, "atan": torch.atan, "atanh": torch.atanh, "asinh": torch.asinh,
    "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "exp": torch.exp, "exp2": torch.exp2,
    "exp10": lambda x: 10.0**x, "fabs": torch.abs, "abs": torch.abs, "floor": torch.floor,
    "fract": lambda x: x - torch.floor(x), "rint": torch.round, "sign": torch.sign, "sin": torch.sin,
    "sinh": torch.sinh, "tan": torch.tan, "tanh": torch.tanh, "trunc": torch.trunc,
    "saturate": lambda x: x.clamp(0, 1), "sinpi": lambda x: torch.sin(x * math.pi), "cospi": lambda x: torch.cos(x * math.pi),
    "round": lambda x: torch.sign(x) * torch.floor(x.abs() + 0.5),
}  # fmt: skip
POSITIVE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log": torch.log, "log2": torch.log2, "log10": torch.log10, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float", "half"])
def test_functions_of_one_argument(dtype: torch.dtype) -> None:
    tolerance = 4 * torch.finfo(dtype).eps
    modes = ["", "precise::", "fast::"] if dtype == torch.float32 else [""]
    x = torch.linspace(-0.99, 0.99, 64).to(dtype)
    check(
        {f"{mode}{name}(x[i])": f(x.double()) for mode in modes for name, f in UNARY.items()},
        x,
        tolerance,
    )
    x = torch.linspace(0.01, 9.0, 64).to(dtype)
    check(
        {f"{mode}{name}(x[i])": f(x.double()) for mode in modes for name, f in POSITIVE.items()},
        x,
        tolerance,
    )


def test_expressions() -> None:
    x = torch.linspace(-0.99, 0.99, 64)
    cases = {
        "pow(abs(x[i]), 1.5f)": x.abs() ** 1.5, "fmod(x[i], 0.3f)": torch.fmod(x, 0.3), "acosh(x[i] + 2.0f)": torch.acosh(x + 2),
        "atan2(x[i], 0.5f)": torch.atan2(x, torch.tensor(0.5)), "copysign(2.0f, x[i])": torch.copysign(torch.tensor(2.0), x),
        "fma(x[i], 2.0f, 1.0f)": x * 2 + 1, "clamp(x[i], -0.5f, 0.25f)": x.clamp(-0.5, 0.25), "mix(1.0f, 3.0f, x[i])": 1 + 2 * x,
        "max3(x[i], 0.1f, -x[i])": x.abs().clamp(min=0.1), "precise::divide(1.0f, x[i])": 1 / x, "fmin(x[i], NAN)": x,
        "ldexp(x[i], 3)": x * 8, "select(1.0f, 2.0f, x[i] > 0.0f)": 1.0 + (x > 0), "float(isnan(x[i] / 0.0f * 0.0f))": torch.ones(64),
        "INFINITY * x[i]": x * math.inf, "0.1 + x[i]": torch.tensor(0.1) + x, "length(float2(x[i], 0.0f))": x.abs(),
        "dot(float3(x[i], 1.0f, 2.0f), float3(1.0f, 2.0f, x[i]))": 3 * x + 2,
    }  # fmt: skip
    check(cases, x, 1e-6)


INTEGERS: dict[str, Callable[[int], int]] = {
    "popcount(x[i])": lambda v: (v % 2**32).bit_count(), "clz(x[i])": lambda v: 32 - (v % 2**32).bit_length(),
    "ctz(x[i])": lambda v: (v & -v).bit_length() - 1 if v else 32, "abs(x[i])": abs, "max(x[i], 3)": lambda v: max(v, 3),
    "mulhi(x[i], 1 << 30)": lambda v: v * 2**30 >> 32, "rotate(x[i], 4)": lambda v: (v << 4) | ((v % 2**32) >> 28),
    "reverse_bits(x[i])": lambda v: int(f"{v % 2**32:032b}"[::-1], 2), "addsat(x[i], INT_MAX)": lambda v: min(v + 2**31 - 1, 2**31 - 1),
    "clamp(x[i], -2, 2)": lambda v: max(-2, min(2, v)), "absdiff(x[i], 5)": lambda v: abs(v - 5),
    "extract_bits(x[i], 4, 8)": lambda v: (v >> 4 & 255) - 256 * (v >> 11 & 1), "insert_bits(x[i], 3, 4, 2)": lambda v: v | 0x30,
    "as_type<int>(as_type<float>(x[i]))": lambda v: v, "x[i] >> 1": lambda v: v >> 1, "int(uint(x[i]) >> 1)": lambda v: v % 2**32 >> 1,
    "int(char(x[i]))": lambda v: (v + 128) % 256 - 128, "int(5u) + int(5l) + int(5ul)": lambda v: 15,
}  # fmt: skip


def test_integers() -> None:
    values = [*range(-30, 30), 2**31 - 1, -(2**31), 123456789, -987654321]
    x = torch.tensor(values, dtype=torch.int32)
    signed = {
        text: [(f(v) + 2**31) % 2**32 - 2**31 for v in values] for text, f in INTEGERS.items()
    }
    check({text: torch.tensor(expected) for text, expected in signed.items()}, x)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.int32], ids=["float", "half", "int"]
)
def test_simd_functions(dtype: torch.dtype) -> None:
    x = torch.tensor([(i * 37 + 11) % 29 - 14 for i in range(64)], dtype=torch.int32).to(dtype)
    groups, lane = x.view(2, 32).double(), torch.arange(32)
    everywhere = {
        "simd_sum(x[i])": groups.sum(1), "simd_max(x[i])": groups.amax(1), "simd_min(x[i])": groups.amin(1),
        "simd_broadcast(x[i], 5)": groups[:, 5], "simd_broadcast_first(x[i])": groups[:, 0],
    }  # fmt: skip
    sources = {
        "simd_shuffle_xor(x[i], 5)": lane ^ 5, "simd_shuffle_down(x[i], 3)": torch.where(lane + 3 < 32, lane + 3, lane),
        "simd_shuffle_up(x[i], 3)": torch.where(lane >= 3, lane - 3, lane), "simd_shuffle(x[i], ushort(31 - lane))": 31 - lane,
        "simd_shuffle_rotate_down(x[i], 3)": (lane + 3) % 32, "simd_shuffle_rotate_up(x[i], 3)": (lane - 3) % 32,
        "quad_shuffle_xor(x[i], 1)": lane ^ 1, "quad_broadcast(x[i], 2)": lane // 4 * 4 + 2,
    }  # fmt: skip
    inclusive = groups.cumsum(1)
    cases = {text: values.repeat_interleave(32) for text, values in everywhere.items()}
    cases |= {text: groups[:, source].flatten() for text, source in sources.items()}
    cases["simd_prefix_inclusive_sum(x[i])"] = inclusive.flatten()
    cases["simd_prefix_exclusive_sum(x[i])"] = (inclusive - groups).flatten()
    cases["quad_sum(x[i])"] = x.double().view(16, 4).sum(1).repeat_interleave(4)
    check(cases, x)


def test_simd_products_votes_and_bits() -> None:
    x = torch.arange(64, dtype=torch.int32)
    lane = x % 32
    ones = torch.ones(64, dtype=torch.int32)
    factors = "1 + int(lane % 7 == 0)"
    cases = {
        f"simd_product({factors})": 32 * ones, f"simd_prefix_inclusive_product({factors})": 2 ** (lane // 7 + 1),
        f"simd_prefix_exclusive_product({factors})": 2 ** ((lane + 6) // 7),
        "simd_and(x[i])": 32 * (x // 32), "simd_or(x[i])": 31 + 32 * (x // 32), "simd_xor(x[i])": 0 * ones,
        "int(ulong(simd_ballot(lane < 4)))": 15 * ones, "int(simd_any(lane == 3)) + 2 * int(simd_all(lane < 31))": ones,
        "int(simd_is_first())": (lane == 0).int(), "int(popcount(uint(ulong(simd_active_threads_mask()))))": 32 * ones,
        "simd_shuffle_and_fill_up(x[i], -1, 2)": torch.where(lane < 2, -1, x - 2),
        "simd_shuffle_and_fill_down(x[i], -1, 2)": torch.where(lane > 29, -1, x + 2),
    }  # fmt: skip
    check(cases, x)
    pairs = torch.arange(32, dtype=torch.int64) * 2**33
    check(
        {
            "as_type<long>(simd_shuffle_xor(as_type<uint2>(x[i]), 1))": pairs.view(16, 2)
            .flip(1)
            .flatten()
        },
        pairs,
    )


def test_half_and_bfloat_round_after_every_operation() -> None:
    x = torch.linspace(0.5, 200.0, 64).half()
    check({"x[i] * x[i] / x[i] + 0.1h": x * x / x + torch.tensor(0.1).half()}, x)
    b = torch.linspace(0.5, 1500.0, 64).bfloat16()
    check(
        {
            "bfloat(float(x[i]) * 1.01f)": (b.float() * 1.01).bfloat16(),
            "x[i] * x[i] + x[i]": b * b + b,
        },
        b,
    )
    f = torch.tensor([math.nan, math.inf, -math.inf, 3.4e38] * 8)
    (narrowed,) = results(["bfloat(x[i])"], f, torch.bfloat16)
    torch.testing.assert_close(narrowed, f.bfloat16(), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64, torch.bool])
def test_other_types_of_memory(dtype: torch.dtype) -> None:
    x = torch.arange(64).to(dtype)
    check({"x[i]": x}, x)


def test_vectors() -> None:
    x = torch.arange(128, dtype=torch.float32)
    y = torch.zeros(128)
    body = """
    float4 v = *(device const float4*)(x + 4 * i);
    half4 h = half4(*(device const packed_float4*)(x + 4 * i));
    v.xy = v.zw + 1.0f;
    v[2] = float(h.w);
    vec<float, 2> pair = float2(h.xy);
    v.w = pair[1];
    *(device packed_float4*)(y + 4 * i) = packed_float4(v);
    """
    source = program(body, parameters=ONE.format(a="float", b="float"))
    assert strict.check(source) == []
    run(source, [x, y], (1, 1, 1), (32, 1, 1))
    rows = x.view(32, 4)
    want = torch.stack([rows[:, 2] + 1, rows[:, 3] + 1, rows[:, 3], rows[:, 1]], 1)
    assert torch.equal(y, want.flatten())


MATRIX = """
threadgroup {t} tile[2][64][24];
for (uint e = lane; e < 64; e += 32) {{ tile[1][e / 8][e % 8] = {t}(x[e]); }}
simdgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_{t}8x8 a, b;
simdgroup_load(a, &tile[1][0][0], 24);
simdgroup_load(b, &tile[1][0][0], 24, ulong2(0, 0), true);
simdgroup_float8x8 c = make_filled_simdgroup_matrix<float, 8, 8>(1.0f), d;
simdgroup_multiply_accumulate(c, a, b, c);
simdgroup_multiply(d, c, simdgroup_float8x8(2.0f));
d.thread_elements()[0] += 0.5f;
simdgroup_store(d, y, 8);
"""


@pytest.mark.parametrize("name", ["float", "half", "bfloat"])
def test_matrices(name: str) -> None:
    x = torch.randint(-4, 5, (64,)).float()
    y = torch.zeros(64)
    source = program(MATRIX.format(t=name), parameters=ONE.format(a="float", b="float"))
    assert strict.check(source) == []
    counted = run(source, [x, y], (1, 1, 1), (32, 1, 1))
    a = x.view(8, 8)
    want = 2 * (a @ a.T + 1)
    want[:, ::2] += 0.5
    assert torch.equal(y.view(8, 8), want)
    assert (counted.products, counted.simdgroup_barriers) == (2, 1)


def test_overlapping_views_of_one_threadgroup_array() -> None:
    body = """
    threadgroup alignas(16) uchar memory[2048];
    threadgroup half (*tile)[24] = (threadgroup half (*)[24])(memory + 512);
    threadgroup float* sums = (threadgroup float*)memory;
    tile[lane / 16][lane % 16] = half(x[i]);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    sums[lane] = float(tile[lane / 16][15 - lane % 16]);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = sums[31 - lane];
    """
    x, y = torch.arange(64).float(), torch.zeros(64)
    source = program(body, parameters=ONE.format(a="float", b="float"))
    assert strict.check(source) == []
    run(source, [x, y], (2, 1, 1), (32, 1, 1))
    order = [lane // 16 * 16 + 15 - lane % 16 for lane in range(32)][::-1]
    assert torch.equal(y.view(2, 32), x.view(2, 32)[:, order])


ATOMICS = """
atomic_fetch_add_explicit(sums, 0.5f, memory_order_relaxed);
atomic_fetch_max_explicit(best, int(i), memory_order_relaxed);
threadgroup atomic_uint local;
if (lane == 0) { atomic_store_explicit(&local, 0u, memory_order_relaxed); }
threadgroup_barrier(mem_flags::mem_threadgroup);
uint place = atomic_fetch_add_explicit(&local, 1u, memory_order_relaxed);
atomic_fetch_or_explicit(best + 1, 1 << place, memory_order_relaxed);
device atomic_uint* word = (device atomic_uint*)pair;
uint old = atomic_load_explicit(word, memory_order_relaxed);
uint made;
do {
  half2 values = as_type<half2>(old);
  values.y += 1.0h;
  made = as_type<uint>(values);
} while (!atomic_compare_exchange_weak_explicit(word, &old, made, memory_order_relaxed, memory_order_relaxed));
"""


def test_atomics() -> None:
    parameters = "device atomic_float* sums [[buffer(0)]], device atomic_int* best [[buffer(1)]], device half* pair [[buffer(2)]], uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]"
    source = program(ATOMICS, parameters=parameters)
    assert strict.check(source) == []
    sums, best, pair = torch.zeros(1), torch.zeros(2, dtype=torch.int32), torch.zeros(2).half()
    counted = run(source, [sums, best, pair], (2, 1, 1), (32, 1, 1))
    assert sums.tolist() == [32.0]
    assert best.tolist() == [63, -1]
    assert pair.tolist() == [0.0, 64.0]
    assert counted.buffers["sums"].atomics == 64


def test_attribute_lists_macros_and_program_scope() -> None:
    source = """\
#include <metal_stdlib>
using namespace metal;
#pragma METAL fp math_mode(safe)
#define UNROLL _Pragma("clang loop unroll(full)")
constant float table[4] = {1.0f, 2.0f, 4.0f, 8.0f};
constant constexpr uint SIZE = 4;
struct Params { uint n; float scale; };
template <typename T> static inline T twice(T value) { return value + value; }
static inline float dequantize(uchar code) { return as_type<float>((uint(code) + 100u) << 23); }
[[kernel, max_total_threads_per_threadgroup(64)]] void k(
    device const uchar* codes [[buffer(0)]], device float* y [[buffer(1)]],
    constant Params& params [[buffer(2)]],
    uint3 tgid [[threadgroup_position_in_grid]], ushort tid [[thread_index_in_threadgroup]],
    ushort3 size [[threads_per_threadgroup]], ushort sg [[simdgroup_index_in_threadgroup]],
    uint3 groups [[threadgroups_per_grid]]) {
  const uint i = tgid.x * size.x + tid;
  float sum = 0.0f;
  UNROLL for (short j = 0; j < short(SIZE); ++j) { sum += twice(table[j]); }
  if (i < params.n) {
    y[i] = sum * params.scale + dequantize(codes[i]) + float(sg) + float(groups.x);
  }
}
"""
    import struct

    assert strict.check(source) == []
    codes, y = torch.arange(100, dtype=torch.uint8), torch.zeros(100)
    run(source, [codes, y, struct.pack("If", 100, 0.5)], (2, 1, 1), (64, 1, 1))
    i = torch.arange(100)
    want = 15.0 + 2.0 ** (i.double() - 27) + (i % 64) // 32 + 2
    torch.testing.assert_close(y, want.float())
