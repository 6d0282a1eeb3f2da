"""The strict check: what Metal does not accept is found, at its line; what it accepts is not."""

from __future__ import annotations

import pytest

from tests.msl.programs import HEADER, kernel_text, line_of, program

from transpile.verify.msl import strict  # isort: skip

MEMORY = "threadgroup float tile[64]; threadgroup half half_tile[64];\n"


def body(text: str) -> str:
    return program(MEMORY + text)


def helper(text: str, call: str) -> str:
    return program(call, before=text + "\n")


# name, source with the wrong line marked, part of the message
MISTAKES = [
    # address spaces
    ("threadgroup to device pointer", body("device float* p = tile; // !\ny[t] = p[0];"), "cannot initialize"),
    ("pointer without space", body("const float* p = x; // !\ny[t] = p[0];"), "cannot initialize"),
    ("unbound pointer without space", body("float* p; // !\ny[t] = 0.0f; (void)p;"), "`p` names no address space"),
    ("reference without space", body("float v = 1.0f; float& r = v; // !\ny[t] = r;"), "`r` names no address space"),
    ("helper's pointer without space", helper("static float get(const float* p) { return p[0]; } // !", "float a[1] = {1.0f}; y[t] = get(a);"), "`p` names no address space"),
    ("helper called with the wrong space", helper("static float get(threadgroup const float* p) { return p[0]; }", "y[t] = get(y); // !"), "no matching function"),
    ("store through const device", body("x[t] = 1.0f; // !"), "read-only variable is not assignable"),
    ("store through constant", body("n = 3; // !"), "cannot assign"),
    ("reinterpret_cast across spaces", body("device float* p = reinterpret_cast<device float*>(&tile[0]); // !\ny[t] = p[0];"), "reinterpret_cast"),
    ("C cast across spaces", body("device float* p = (device float*)(&tile[0]); // !\ny[t] = p[0];"), "changes the address space"),
    ("thread pointer to constant", body("thread const uint* p = &n; // !\ny[t] = float(*p);"), "cannot initialize"),
    # signatures
    ("kernel pointer without space", program("y[t] = p[0];", parameters="float* p [[buffer(0)]], device float* y [[buffer(1)]], // !\nuint t [[thread_index_in_threadgroup]]"), "without an address space"),
    ("buffer index twice", program("y[t] = 0.0f;", parameters="device float* x [[buffer(0)]], device float* y [[buffer(0)]], // !\nuint t [[thread_index_in_threadgroup]]"), "is used twice"),
    ("scalar without attribute", program("y[t] = float(n);", parameters="device float* y [[buffer(0)]], uint n, // !\nuint t [[thread_index_in_threadgroup]]"), "`n` has no attribute"),
    ("scalar with buffer attribute", program("y[t] = float(n);", parameters="device float* y [[buffer(0)]], uint n [[buffer(1)]], // !\nuint t [[thread_index_in_threadgroup]]"), "neither a pointer nor a reference"),
    ("buffer index too large", program("y[t] = 0.0f;", parameters="device float* y [[buffer(31)]], // !\nuint t [[thread_index_in_threadgroup]]"), "no index from 0 to 30"),
    ("buffer in threadgroup memory", program("y[t] = 0.0f;", parameters="threadgroup float* y [[buffer(0)]], // !\nuint t [[thread_index_in_threadgroup]]"), "is in address space `threadgroup`"),
    ("attribute of type int", program("y[t] = 0.0f;", parameters="device float* y [[buffer(0)]],\nint t [[thread_index_in_threadgroup]] // !"), "is uint or ushort"),
    ("vector for a scalar attribute", program("y[t.x] = 0.0f;", parameters="device float* y [[buffer(0)]],\nuint2 t [[thread_index_in_threadgroup]] // !"), "is no vector"),
    ("misspelt attribute", program("y[t] = 0.0f;", parameters="device float* y [[buffer(0)]],\nuint t [[thread_index_in_thread_group]] // !"), "unknown attribute"),
    ("kernel that returns a value", HEADER + "kernel float k(device float* y [[buffer(0)]]) { return y[0]; } // !\n", "a kernel returns void"),
    # types
    ("double", body("double d = x[t]; // !\ny[t] = float(d);"), "`double` is not available"),
    ("float to bfloat implicitly", body("bfloat b = x[t] * 2.0f; // !\ny[t] = float(b);"), "bf"),
    ("bfloat from a function", body("bfloat b = bfloat(x[t]);\nb = exp(b); // !\ny[t] = float(b);"), "bf"),
    ("half vector as float vector", body("half4 h = half4(1.0h);\nfloat4 f = h; // !\ny[t] = f.x;"), "cannot initialize|cannot convert"),
    ("too many components", body("float4 f = float4(float2(1.0f), float3(2.0f)); // !\ny[t] = f.x;"), "wrong number of components"),
    ("too few components", body("float4 f = float4(1.0f, 2.0f); // !\ny[t] = f.x;"), "wrong number of components"),
    ("wrong literal suffix", body("half h = 1.0hf; // !\ny[t] = float(h);"), "suffix|literal operator"),
    ("address of a component", body("float4 v = float4(0.0f);\nthread float* p = &v.x; // !\ny[t] = *p;"), "address of vector element"),
    ("vector of 32 bytes", body("long4 v = long4(1); // !\ny[t] = float(v.x);"), "wider than a memory access"),
    ("array of run-time length", body("float a[n]; // !\na[0] = 1.0f; y[t] = a[0];"), "variable length array"),
    # library
    ("std::", body("y[t] = std::max(x[t], 0.0f); // !"), "`std` is not available"),
    ("erf", body("y[t] = erf(x[t]); // !"), "undeclared identifier 'erf'"),
    ("erf in precise", body("y[t] = precise::erf(x[t]); // !"), "no member named 'erf'"),
    ("max of half and float", body("half h = half(x[t]);\ny[t] = max(h, 1.0f); // !"), "ambiguous"),
    ("max of int and uint", body("y[t] = float(max(t, 1)); // !"), "ambiguous"),
    ("simd_sum of bool", body("y[t] = simd_sum(x[t] > 0.0f); // !"), "no matching function"),
    ("simd_sum of bfloat", body("y[t] = float(simd_sum(bfloat(x[t]))); // !"), "no matching function"),
    ("shuffle of 64 bits", body("ulong v = t;\nv = simd_shuffle_xor(v, 1); // !\ny[t] = float(v);"), "no matching function"),
    ("simd_or of float", body("y[t] = simd_or(x[t]); // !"), "no matching function"),
    ("matrix load of another type", body("simdgroup_float8x8 m;\nsimdgroup_load(m, half_tile, 8); // !\nsimdgroup_store(m, y, 8);"), "no matching function"),
    ("matrix store to const", body("simdgroup_float8x8 m(0.0f);\nsimdgroup_store(m, x, 8); // !"), "no matching function"),
    ("product of three operands", body("simdgroup_float8x8 a(1.0f), c(0.0f);\nsimdgroup_multiply_accumulate(c, a, a); // !\nsimdgroup_store(c, y, 8);"), "no matching function"),
    ("product into another type", body("simdgroup_half8x8 a(1.0h), d; simdgroup_float8x8 c(0.0f);\nsimdgroup_multiply_accumulate(d, a, a, c); // !\nsimdgroup_store(d, half_tile, 8);"), "no matching function"),
    ("matrix of int", body("simdgroup_matrix<int, 8, 8> m; // !"), "elements are half, bfloat or float"),
    ("matrix of 16x16", body("simdgroup_matrix<float, 16, 16> m; // !"), "only 8x8"),
    ("no such mem_flags", body("threadgroup_barrier(mem_flags::mem_local); // !"), "no member named 'mem_local'"),
    ("barrier without flags", body("threadgroup_barrier(); // !"), "no matching function|too few arguments"),
    ("float atomic in threadgroup memory", body("threadgroup atomic_float a;\natomic_fetch_add_explicit(&a, 1.0f, memory_order_relaxed); // !"), "no matching function"),
    ("other memory order", body("atomic_fetch_add_explicit(count, 1u, memory_order_acq_rel); // !"), "undeclared identifier"),
    ("atomic on a plain pointer", body("atomic_fetch_add_explicit(y, 1.0f, memory_order_relaxed); // !"), "no matching function"),
    ("atomic maximum of floats", body("device atomic_float* f = (device atomic_float*)y;\natomic_fetch_max_explicit(f, 1.0f, memory_order_relaxed); // !"), "no matching function"),
    # declarations and statements
    ("initialised threadgroup variable", body("threadgroup float s = 0.0f; // !\ny[t] = s;"), "cannot have an initialiser"),
    ("threadgroup variable in a block", body("if (n > 3) {\n  threadgroup float s[4]; // !\n  s[0] = 0.0f;\n}\ny[t] = 0.0f;"), "in an inner block"),
    ("threadgroup variable in a helper", helper("static float f(uint i) {\n  threadgroup float s[4]; // !\n  s[i] = 1.0f; return s[i];\n}", "y[t] = f(t);"), "outside of a kernel"),
    ("too much threadgroup memory", HEADER + "kernel void k(device float* y [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) { // !\n  threadgroup float big[10000];\n  big[t] = 1.0f; y[t] = big[t];\n}\n", "40000 bytes of threadgroup memory"),
    ("mutable global", helper("static float total; // !", "total = 1.0f; y[t] = total;"), "not in address space constant"),
    ("constant expression outside constant space", helper("constexpr uint SIZE = 4; // !", "y[t] = float(SIZE);"), "not in address space constant"),
    ("static local", body("static constant float s = 1.0f; // !\ny[t] = s;"), "static"),
    ("goto", body("if (t == 0) goto end; // !\ny[t] = 1.0f; end: ;"), "`goto` is not available"),
    ("new", body("thread float* p = new float[4]; // !\ny[t] = p[0];"), "`new` is not available"),
    ("undeclared name", body("y[t] = xx[t]; // !"), "undeclared identifier 'xx'"),
    ("missing semicolon", body("y[t] = x[t] // !"), "expected ';'"),
    ("uninitialised variable", body("float a;\nif (t > 3u) { a = x[t]; } // !\ny[t] = a;"), "uninitialized"),
    ("recursion", helper("static int f(int i) { return i <= 0 ? 0 : f(i - 1) + 1; } // !", "y[t] = float(f(int(t)));"), "is recursive"),
    ("function pointer", helper("static float f(float a) { return a; }", "float (*p)(float) = f; // !\ny[t] = p(1.0f);"), "names no address space"),
    ("missing return", helper("static float f(float a) {\n  if (a > 0.0f) { return a; }\n} // !", "y[t] = f(x[t]);"), "non-void function"),
    ("index past a private array", body("float a[4] = {0.0f, 0.0f, 0.0f, 0.0f};\ny[t] = a[4]; // !"), "past the end"),
    ("text that is not ASCII", body("y[t] = 0.0f; // \u00e4 // !"), "not ASCII"),
    ("bracket never closed", HEADER + "kernel void k(device float* y [[buffer(0)]] { // !\n", "never closed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistake_is_found(source: str, message: str) -> None:
    import re

    found = strict.check(source)
    assert found, "accepted"
    line = line_of(source, "!")
    here = [p.message for p in found if p.line == line]
    assert any(re.search(message, text) for text in here), found


CORRECT = [
    ("plain", "y[i] = x[i];"),
    ("helper in the constant space", "y[i] = precise::exp(x[i]) * float(n);"),
    ("thread pointers and references", "float v[2] = {1.0f, 2.0f}; thread float* p = v; thread float& r = v[1]; y[i] = p[0] + r;"),
    ("struct copied from device memory", "struct Pair { float a, b; }; Pair p = ((device const Pair*)x)[t]; y[i] = p.a + p.b;"),
    ("vectors", "float4 v = float4(half4(1.0h)); v.xy = v.zw; y[i] = v.x + float3(v.xy, 1.0f).z;"),
    ("packed vectors", "packed_half4 h = ((device const packed_half4*)y)[0]; y[i] = float4(half4(h)).x;"),
    ("bfloat", "bfloat b = bfloat(x[i]); y[i] = float(b) * 2.0f;"),
    ("16-bit compare and swap", "device atomic_uint* word = (device atomic_uint*)y + i; uint old = atomic_load_explicit(word, memory_order_relaxed); while (!atomic_compare_exchange_weak_explicit(word, &old, old + 1u, memory_order_relaxed, memory_order_relaxed)) {}"),
    ("mixed product", "simdgroup_half8x8 a(1.0h); simdgroup_bfloat8x8 b(bfloat(1.0f)); simdgroup_float8x8 c(0.0f); simdgroup_multiply_accumulate(c, a, b, c); simdgroup_store(c, y, 8);"),
    ("alignas", "alignas(16) threadgroup half s[16]; s[t] = 0.0h; y[i] = float(s[t]);"),
    ("two variables in one declaration", "threadgroup float a[4], b; a[0] = 1.0f; b = 2.0f; y[i] = a[0] + b;"),
    ("vector filled by component", "float4 v; for (short e = 0; e < 4; ++e) { v[e] = x[i] + float(e); } y[i] = v.x + v.w;"),
    ("select and as_type", "y[i] = select(0.0f, as_type<float>(n), x[i] > 0.0f);"),
]  # fmt: skip


@pytest.mark.parametrize("text", [c[1] for c in CORRECT], ids=[c[0] for c in CORRECT])
def test_correct_program_is_accepted(text: str) -> None:
    assert strict.check(program(text)) == []


def test_whole_file_is_accepted() -> None:
    assert strict.check(kernel_text("gemm.metal")) == []


def test_constant_arrays_templates_and_host_names() -> None:
    source = (
        HEADER
        + """
constant float table[2] = {1.0f, 2.0f};
template <typename T, int N>
static inline T total(threadgroup const T* p) {
  T sum = T(0);
  for (int i = 0; i < N; i++) { sum += p[i]; }
  return sum;
}
template <typename T>
kernel void scale(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                  uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup T tile[32];
  tile[t] = x[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = total<T, 32>(tile) * T(table[t & 1]);
}
template [[host_name("scale_f32")]] kernel void scale<float>(
    device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
    uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]);
template [[host_name("scale_f16")]] [[kernel]] decltype(scale<half>) scale<half>;
"""
    )
    assert strict.check(source) == []


@pytest.mark.parametrize(
    "text", ["threadgroup float s = 0.0f; y[i] = s;", "y[i] = float(ulong3(i).x);"]
)
def test_what_only_the_house_style_forbids(text: str) -> None:
    source = program(text)
    assert strict.check(source)
    assert strict.check(source, house_style=False) == []


def test_buffers_without_index_are_counted() -> None:
    source = program(
        "y[t] = x[t];",
        parameters="device float* x, device float* y, uint t [[thread_index_in_threadgroup]]",
    )
    assert [p.message for p in strict.check(source)] == [
        "parameter `x` has no [[buffer(n)]] attribute", "parameter `y` has no [[buffer(n)]] attribute",
    ]  # fmt: skip
    assert strict.check(source, house_style=False) == []
