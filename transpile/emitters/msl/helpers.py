"""Functions that Metal's library lacks, as text that kernels which need them carry along.

Each is written once, for the types that call it; ``NEEDS`` lists what it calls in turn.
"""

from __future__ import annotations

from collections.abc import Iterable

from transpile.emitters.msl import atomics

_NAN_MAX = """\
// The larger one; NaN if either is.
template <typename T>
inline T nan_max(T a, T b) {
  return a > b || isnan(a) ? a : b;
}"""

_NAN_MIN = """\
// The smaller one; NaN if either is.
template <typename T>
inline T nan_min(T a, T b) {
  return a < b || isnan(a) ? a : b;
}"""

_FLOOR_DIV = """\
// The quotient rounded down, where C++ rounds towards zero.
template <typename T>
inline T floor_div(T a, T b) {
  T quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}"""

_FLOOR_MOD = """\
// The remainder with the sign of b, where C++'s has that of a.
template <typename T>
inline T floor_mod(T a, T b) {
  T remainder = a % b;
  return remainder != 0 && (a < 0) != (b < 0) ? remainder + b : remainder;
}"""

_FLOOR_MOD_FLOAT = """\
// The remainder with the sign of b.
inline float floor_mod(float a, float b) {
  float remainder = fmod(a, b);
  return remainder != 0.0f && (remainder < 0.0f) != (b < 0.0f) ? remainder + b : remainder;
}"""

_INT_POW = """\
// a to the power b by squaring; 0 for a negative b, but for a of 1 and -1.
template <typename T>
inline T int_pow(T a, T b) {
  if (b < 0) {
    return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;
  }
  T power = 1;
  for (; b > 0; b /= 2) {
    power = b % 2 == 0 ? power : power * a;
    a *= a;
  }
  return power;
}"""

# Kahan's corrections of the rounding error in exp(x) - 1 and 1 + x, see Higham, "Accuracy and
# Stability of Numerical Algorithms" (2nd ed., section 1.14.1).
_EXPM1 = """\
// exp(x) - 1, accurate near 0 (Higham, Accuracy and Stability, 1.14.1).
inline float kt_expm1(float x) {
  float y = precise::exp(x);
  float minus_1 = y - 1.0f;
  return y == 1.0f ? x : minus_1 == -1.0f || isinf(y) ? minus_1 : minus_1 * (x / precise::log(y));
}"""

_LOG1P = """\
// log(1 + x), accurate near 0 (Higham, Accuracy and Stability, 1.14.1).
inline float kt_log1p(float x) {
  float y = 1.0f + x;
  return y == 1.0f ? x : isinf(y) ? y : precise::log(y) * x / (y - 1.0f);
}"""

# Both fits are Chebyshev interpolations of the exact function, computed in 40 digits: of
# erf(x) / x over x^2 in [0, 1], and of erfc(x) exp(x^2) / t over t = 1 / (1 + x / 2) in [0.15, 1].
_ERFC = """\
// 1 - erf(x); for x > 0 t * P(t) * exp(-x^2) with t = 1 / (1 + x / 2), error below 3e-7.
inline float kt_erfc(float x) {
  float a = abs(x);
  float t = 1.0f / (1.0f + 0.5f * a);
  float p = -0.060370319f;
  p = fma(p, t, 0.29081214f);
  p = fma(p, t, -0.49981371f);
  p = fma(p, t, 0.29206085f);
  p = fma(p, t, -0.035891414f);
  p = fma(p, t, 0.20641503f);
  p = fma(p, t, 0.24221882f);
  p = fma(p, t, 0.28248802f);
  p = fma(p, t, 0.28208053f);
  float square = a * a;
  float lost = fma(a, a, -square);
  float tail = t * p * precise::exp(-square) * (1.0f - lost);
  tail = a > 11.0f ? 0.0f : tail;
  return x < 0.0f ? 2.0f - tail : tail;
}"""

_ERF = """\
// The error function: x * P(x^2) up to 1, 1 - erfc(x) beyond; error below 2e-7.
inline float kt_erf(float x) {
  float square = x * x;
  if (square > 1.0f) {
    return sign(x) * (1.0f - kt_erfc(abs(x)));
  }
  float p = -0.00056480599f;
  p = fma(p, square, 0.0049217618f);
  p = fma(p, square, -0.02671503f);
  p = fma(p, square, 0.1128032f);
  p = fma(p, square, -0.37612343f);
  p = fma(p, square, 1.1283791f);
  return x * p;
}"""

# What begins anywhere is copied element by element: a vector's address would have to be aligned.
_LOAD_ANY = """\
// N elements that begin anywhere.
template <short N, typename T>
inline vec<T, N> load_any(const device T* x) {
  vec<T, N> v;
  for (short i = 0; i < N; ++i) {
    v[i] = x[i];
  }
  return v;
}"""

_STORE_ANY = """\
// Writes N elements to anywhere.
template <short N, typename T>
inline void store_any(device T* x, vec<T, N> v) {
  for (short i = 0; i < N; ++i) {
    x[i] = v[i];
  }
}"""

_LOAD_FIRST = """\
// The first `count` of N elements, and `other` after them{comment}.
template <short N, typename T>
inline vec<T, N> {name}(const device T* x, int count, T other = T(0.0f)) {{
  if (count >= N) {{
    return {whole};
  }}
  vec<T, N> v = vec<T, N>(other);
  for (short i = 0; i < N - 1; ++i) {{
    if (i < count) {{
      v[i] = x[i];
    }}
  }}
  return v;
}}"""

_STORE_FIRST = """\
// Writes the first `count` of N elements{comment}.
template <short N, typename T>
inline void {name}(device T* x, vec<T, N> v, int count) {{
  if (count >= N) {{
    {whole};
    return;
  }}
  for (short i = 0; i < N - 1; ++i) {{
    if (i < count) {{
      x[i] = v[i];
    }}
  }}
}}"""

_PACK = """\
// N elements that are copied together.
template <typename T, short N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};"""

_LOAD_PACK = """\
// N elements that begin anywhere.
template <short N, typename T>
inline Pack<T, N> load_pack(const device T* x) {
  Pack<T, N> pack;
  for (short i = 0; i < N; ++i) {
    pack.v[i] = x[i];
  }
  return pack;
}"""

_STORE_PACK = """\
// Writes N elements to anywhere.
template <short N, typename T>
inline void store_pack(device T* x, Pack<T, N> pack) {
  for (short i = 0; i < N; ++i) {
    x[i] = pack.v[i];
  }
}"""

_LOAD_PACK_FIRST = """\
// The first `count` of N elements; others are 0{comment}.
template <short N, typename T>
inline Pack<T, N> {name}(const device T* x, int count) {{
{whole}  Pack<T, N> pack = {{}};
  for (short i = 0; i < N; ++i) {{
    if (i < count) {{
      pack.v[i] = x[i];
    }}
  }}
  return pack;
}}"""

_STORE_PACK_FIRST = """\
// Writes the first `count` of N elements{comment}.
template <short N, typename T>
inline void {name}(device T* x, Pack<T, N> pack, int count) {{
{whole}  for (short i = 0; i < N; ++i) {{
    if (i < count) {{
      x[i] = pack.v[i];
    }}
  }}
}}"""

_WHOLE_LOAD = """\
  if (count >= N) {
    return *(const device Pack<T, N>*)x;
  }
"""

_WHOLE_STORE = """\
  if (count >= N) {
    *(device Pack<T, N>*)x = pack;
    return;
  }
"""


def _accesses() -> dict[str, str]:
    """Loads and stores of several elements: that begin at any element, or ``_aligned`` at a
    multiple of their size, and of which only the ``_first`` may exist."""
    aligned = "; x is a multiple of a vector"
    return {
        "load_any": _LOAD_ANY,
        "store_any": _STORE_ANY,
        "load_first": _LOAD_FIRST.format(name="load_first", comment="", whole="load_any<N>(x)"),
        "store_first": _STORE_FIRST.format(
            name="store_first", comment="", whole="store_any<N>(x, v)"
        ),
        "load_aligned": _LOAD_FIRST.format(
            name="load_aligned", comment=aligned, whole="*(const device vec<T, N>*)x"
        ),
        "store_aligned": _STORE_FIRST.format(
            name="store_aligned", comment=aligned, whole="*(device vec<T, N>*)x = v"
        ),
        "Pack": _PACK,
        "load_pack": _LOAD_PACK,
        "store_pack": _STORE_PACK,
        "load_pack_first": _LOAD_PACK_FIRST.format(name="load_pack_first", comment="", whole=""),
        "store_pack_first": _STORE_PACK_FIRST.format(name="store_pack_first", comment="", whole=""),
        "load_pack_aligned": _LOAD_PACK_FIRST.format(
            name="load_pack_aligned", comment=aligned, whole=_WHOLE_LOAD
        ),
        "store_pack_aligned": _STORE_PACK_FIRST.format(
            name="store_pack_aligned", comment=aligned, whole=_WHOLE_STORE
        ),
    }


def access(what: str, *, pack: bool, first: bool, aligned: bool) -> str:
    """The function that loads or stores several elements, see :func:`_accesses`."""
    name = f"{what}_pack" if pack else what
    if first:
        return f"{name}_aligned" if aligned else f"{name}_first"
    return name if pack else f"{name}_any"


_E4M3_TO_FLOAT = """\
// 8 bits (sign, 4 of exponent, 3 of fraction, no infinities) to f32.
inline float e4m3_to_float(uchar x) {
  uint e = (x >> 3) & 15u;
  uint m = x & 7u;
  float a = e == 0u ? float(m) * 0x1p-9f : as_type<float>(((e + 120u) << 23) | (m << 20));
  a = (x & 0x7f) == 0x7f ? NAN : a;
  return x & 0x80 ? -a : a;
}"""

_E5M2_TO_FLOAT = """\
// 8 bits (sign, 5 of exponent, 2 of fraction) to f32: the upper half of a half.
inline float e5m2_to_float(uchar x) {
  return float(as_type<half>(ushort(x << 8)));
}"""

_FLOAT_TO_E4M3 = """\
// f32 to 8 bits (sign, 4 of exponent, 3 of fraction), to the nearest, even on a tie; at most 448.
inline uchar float_to_e4m3(float x) {
  uint a = as_type<uint>(x) & 0x7fffffffu;
  uint s = (as_type<uint>(x) >> 24) & 0x80u;
  if (a > 0x43e00000u) {
    return uchar(s | (a > 0x7f800000u ? 0x7fu : 0x7eu));
  }
  if (a < 0x3c800000u) {  // below 2^-6 multiples of 2^-9, which the sum rounds to
    return uchar(s | (as_type<uint>(as_type<float>(a) + 0x1p14f) - as_type<uint>(0x1p14f)));
  }
  a += 0x7ffffu + ((a >> 20) & 1u);
  return uchar(s | ((a >> 20) - (120u << 3)));
}"""

_FLOAT_TO_E5M2 = """\
// f32 to 8 bits (sign, 5 of exponent, 2 of fraction), to the nearest, even on a tie.
inline uchar float_to_e5m2(float x) {
  uint a = as_type<uint>(x) & 0x7fffffffu;
  uint s = (as_type<uint>(x) >> 24) & 0x80u;
  if (a >= 0x47800000u) {
    return uchar(s | (a > 0x7f800000u ? 0x7fu : 0x7cu));
  }
  if (a < 0x38800000u) {  // below 2^-14 multiples of 2^-16, which the sum rounds to
    return uchar(s | (as_type<uint>(as_type<float>(a) + 0x1p7f) - as_type<uint>(0x1p7f)));
  }
  a += 0xfffffu + ((a >> 21) & 1u);
  return uchar(s | ((a >> 21) - (112u << 2)));
}"""

_SET_ELEMENTS = """\
// Sets this lane's two elements of a matrix.
template <typename T>
inline void set_elements(thread simdgroup_matrix<T, 8, 8>& matrix, vec<T, 2> v) {
  matrix.thread_elements()[0] = v.x;
  matrix.thread_elements()[1] = v.y;
}"""

_ELEMENTS = """\
// This lane's two elements of a matrix.
template <typename T>
inline vec<T, 2> elements(thread simdgroup_matrix<T, 8, 8>& matrix) {
  vec<T, 2> v;
  v[0] = matrix.thread_elements()[0];
  v[1] = matrix.thread_elements()[1];
  return v;
}"""

_PHILOX = """\
// First word of Philox4x32-10 (Salmon et al., SC 2011) for a seed and a counter.
inline uint kt_philox(ulong seed, ulong offset) {
  uint4 c = uint4(uint(offset), uint(offset >> 32), 0u, 0u);
  uint2 key = uint2(uint(seed), uint(seed >> 32));
  for (short i = 0; i < 10; ++i) {
    uint high_0 = mulhi(c.x, 0xd2511f53u);
    uint high_1 = mulhi(c.z, 0xcd9e8d57u);
    c = uint4(high_1 ^ c.y ^ key.x, c.z * 0xcd9e8d57u, high_0 ^ c.w ^ key.y, c.x * 0xd2511f53u);
    key += uint2(0x9e3779b9u, 0xbb67ae85u);
  }
  return c.x;
}"""

_UNIFORM = """\
// 32 random bits as a number in [0, 1).
inline float kt_uniform(uint bits) {
  int word = int(bits);
  return float(word < 0 ? -word - 1 : word) * 4.6566127342e-10f;
}"""

_NAN_GREATER = """\
// a > b, NaN above all numbers.
template <typename T>
inline bool nan_greater(T a, T b) {
  return a > b || (isnan(a) && !isnan(b));
}"""

_NAN_LESS = """\
// a < b, NaN below all numbers.
template <typename T>
inline bool nan_less(T a, T b) {
  return a < b || (isnan(a) && !isnan(b));
}"""

_SIMD_NAN_MAX = """\
// The largest of the SIMD group's values; NaN if one is.
template <typename T>
inline T simd_nan_max(T x) {
  return simd_any(isnan(x)) ? T(NAN) : simd_max(x);
}"""

_SIMD_NAN_MIN = """\
// The smallest of the SIMD group's values; NaN if one is.
template <typename T>
inline T simd_nan_min(T x) {
  return simd_any(isnan(x)) ? T(NAN) : simd_min(x);
}"""


_SHUFFLE_LONG = """\
// simd_shuffle{kind} of 64 bits.
inline {t} shuffle{kind}({t} x, ushort by) {{
  return as_type<{t}>(simd_shuffle{kind}(as_type<uint2>(x), by));
}}"""


def _shuffles() -> dict[str, str]:
    return {
        f"shuffle{kind}_{t}": _SHUFFLE_LONG.format(kind=kind, t=t)
        for kind in ("", "_up", "_down", "_xor")
        for t in ("long", "ulong")
    }


TEXTS: dict[str, str] = {
    "nan_max": _NAN_MAX,
    "nan_min": _NAN_MIN,
    "nan_greater": _NAN_GREATER,
    "nan_less": _NAN_LESS,
    "simd_nan_max": _SIMD_NAN_MAX,
    "simd_nan_min": _SIMD_NAN_MIN,
    "floor_div": _FLOOR_DIV,
    "floor_mod": _FLOOR_MOD,
    "floor_mod_float": _FLOOR_MOD_FLOAT,
    "int_pow": _INT_POW,
    "kt_expm1": _EXPM1,
    "kt_log1p": _LOG1P,
    "kt_erfc": _ERFC,
    "kt_erf": _ERF,
    **_accesses(),
    "e4m3_to_float": _E4M3_TO_FLOAT,
    "e5m2_to_float": _E5M2_TO_FLOAT,
    "float_to_e4m3": _FLOAT_TO_E4M3,
    "float_to_e5m2": _FLOAT_TO_E5M2,
    "elements": _ELEMENTS,
    "set_elements": _SET_ELEMENTS,
    "kt_philox": _PHILOX,
    "kt_uniform": _UNIFORM,
    **atomics.texts(),
    **_shuffles(),
}

NEEDS: dict[str, tuple[str, ...]] = {
    "load_first": ("load_any",),
    "store_first": ("store_any",),
    **{
        f"{what}_pack{how}": ("Pack",)
        for what in ("load", "store")
        for how in ("", "_first", "_aligned")
    },
    "kt_erf": ("kt_erfc",),
    **{
        f"atomic_{kind}_{t}": (function,)
        for kind, (function, _) in atomics.EXTREMES.items()
        for t in ("half", "bfloat", "float")
    },
}

_OPERATORS = {
    "sum": "x += {0};",
    "prod": "x *= {0};",
    "max": "x = max(x, {0});",
    "min": "x = min(x, {0});",
    "nan_max": "x = nan_max(x, {0});",
    "nan_min": "x = nan_min(x, {0});",
    "any": "x = {0} || x;",  # all lanes take part in the exchange
    "all": "x = {0} && x;",
    "xor_sum": "x ^= {0};",
}
_WORDS = {
    "sum": "Sum", "prod": "Product", "max": "Maximum", "min": "Minimum",
    "nan_max": "Maximum (NaN if there is one)", "nan_min": "Minimum (NaN if there is one)",
    "any": "Disjunction", "all": "Conjunction", "xor_sum": "Exclusive or",
}  # fmt: skip
_GROUPS = {(1, 8): "row", (2, 4, 16): "column"}


def butterfly(name: str, xors: tuple[int, ...], *, wide: bool = False) -> tuple[str, str, str]:
    """A reduction (a name of ``_OPERATORS``) over the lanes that differ in the bits ``xors``:
    what calls it, its name and its text.

    (1, 8) are the lanes with a row of an 8x8 matrix, (2, 4, 16) those with a column. ``wide``:
    of 64 bits, which lanes exchange in halves.
    """
    t = "bool" if name in ("any", "all") else "T"
    shuffle = ("" if wide else "simd_") + "shuffle_xor"
    lanes = "{0}" if t == "T" else "ushort({0})"
    kind = f"{name}_long" if wide else name

    def step(bit: str) -> str:
        other = f"{shuffle}({lanes.format('x')}, {bit})"
        return _OPERATORS[name].format(other if t == "T" else f"bool({other})")

    where = _GROUPS.get(xors)
    if where:
        function = call = f"simd_{where}_{kind}"
        parameters = ["typename T"]
        over = f"the lanes that hold a {where} of an 8x8 matrix"
        steps = [step(str(bit)) for bit in xors]
    else:
        function = f"simd_xor_{kind}"
        call = f"{function}<{sum(xors)}>"
        parameters = ["ushort BITS", "typename T"]
        over = "the lanes whose numbers differ in BITS only"
        steps = [
            "for (ushort bit = 1; bit <= BITS; bit *= 2) {",
            "  if (BITS & bit) {",
            f"    {step('bit')}",
            "  }",
            "}",
        ]
    parameters = [p for p in parameters if t == "T" or p != "typename T"]
    head = f"template <{', '.join(parameters)}>\n" if parameters else ""
    body = "\n".join(f"  {line}" for line in [*steps, "return x;"])
    text = f"// {_WORDS[name]} over {over}.\n{head}inline {t} {function}({t} x) {{\n{body}\n}}"
    return call, function, text


def in_order(wanted: Iterable[str]) -> list[str]:
    """The helpers and what they need, each after what it calls."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        for need in NEEDS.get(name, ()):
            visit(need)
        found[name] = None

    known = list(TEXTS)
    for name in sorted(set(wanted), key=lambda n: known.index(n) if n in known else len(known)):
        visit(name)
    return list(found)
