// Math, common, integer and relational functions (specification, chapter 6).
//
// Plain overloads, not templates: mixed arguments, max(half, float), are ambiguous as in Metal.
// There is no bfloat arithmetic library: a bfloat argument counts as float and gives a float.
#pragma once
#include "vectors.h"

namespace kt {
KT_INLINE float exp10(float x) { return (float)__builtin_pow(10.0, (double)x); }
KT_INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
KT_INLINE float fract(float x) {
  float part = x - __builtin_floorf(x);
  return part >= 1.0f ? 0x1.fffffep-1f : part;
}
KT_INLINE float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x != x ? 0.0f : x; }
KT_INLINE float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
KT_INLINE float sinpi(float x) { return (float)__builtin_sin((double)x * 3.14159265358979323846); }
KT_INLINE float cospi(float x) { return (float)__builtin_cos((double)x * 3.14159265358979323846); }
KT_INLINE float tanpi(float x) { return (float)__builtin_tan((double)x * 3.14159265358979323846); }
KT_INLINE float divide(float x, float y) { return x / y; }

template <class T> constexpr int bits = 8 * (int)sizeof(T);
template <class T> constexpr ulong low_bits = ~0ul >> (64 - 8 * sizeof(T));
template <class T> KT_INLINE T clamped(__int128 x) {
  const __int128 low = metal::numeric_limits<T>::min(), high = metal::numeric_limits<T>::max();
  return (T)(x < low ? low : x > high ? high : x);
}
}  // namespace kt

#define KT_UNARY(define) \
  define(acos, __builtin_acosf) define(acosh, __builtin_acoshf) define(asin, __builtin_asinf) \
  define(asinh, __builtin_asinhf) define(atan, __builtin_atanf) define(atanh, __builtin_atanhf) \
  define(ceil, __builtin_ceilf) define(cos, __builtin_cosf) define(cosh, __builtin_coshf) \
  define(cospi, kt::cospi) define(exp, __builtin_expf) define(exp10, kt::exp10) \
  define(exp2, __builtin_exp2f) define(fabs, __builtin_fabsf) define(floor, __builtin_floorf) \
  define(fract, kt::fract) define(log, __builtin_logf) define(log10, __builtin_log10f) \
  define(log2, __builtin_log2f) define(rint, __builtin_rintf) define(round, __builtin_roundf) \
  define(rsqrt, kt::rsqrt) define(saturate, kt::saturate) define(sign, kt::sign) \
  define(sin, __builtin_sinf) define(sinh, __builtin_sinhf) define(sinpi, kt::sinpi) \
  define(sqrt, __builtin_sqrtf) define(tan, __builtin_tanf) define(tanh, __builtin_tanhf) \
  define(tanpi, kt::tanpi) define(trunc, __builtin_truncf)
#define KT_BINARY(define) \
  define(atan2, __builtin_atan2f) define(copysign, __builtin_copysignf) \
  define(fdim, __builtin_fdimf) define(fmax, __builtin_fmaxf) define(fmin, __builtin_fminf) \
  define(fmod, __builtin_fmodf) define(nextafter, __builtin_nextafterf) \
  define(pow, __builtin_powf) define(powr, __builtin_powf)

// Componentwise overloads of a scalar function for vectors of 2, 3 and 4.
#define KT_EACH1(T, f) \
  KT_INLINE T##2 f(T##2 x) { return T##2{f(x.x), f(x.y)}; } \
  KT_INLINE T##3 f(T##3 x) { return T##3{f(x.x), f(x.y), f(x.z)}; } \
  KT_INLINE T##4 f(T##4 x) { return T##4{f(x.x), f(x.y), f(x.z), f(x.w)}; }
#define KT_EACH2(T, f) \
  KT_INLINE T##2 f(T##2 x, T##2 y) { return T##2{f(x.x, y.x), f(x.y, y.y)}; } \
  KT_INLINE T##3 f(T##3 x, T##3 y) { return T##3{f(x.x, y.x), f(x.y, y.y), f(x.z, y.z)}; } \
  KT_INLINE T##4 f(T##4 x, T##4 y) { \
    return T##4{f(x.x, y.x), f(x.y, y.y), f(x.z, y.z), f(x.w, y.w)}; \
  }
#define KT_EACH3(T, f) \
  KT_INLINE T##2 f(T##2 x, T##2 y, T##2 z) { return T##2{f(x.x, y.x, z.x), f(x.y, y.y, z.y)}; } \
  KT_INLINE T##3 f(T##3 x, T##3 y, T##3 z) { \
    return T##3{f(x.x, y.x, z.x), f(x.y, y.y, z.y), f(x.z, y.z, z.z)}; \
  } \
  KT_INLINE T##4 f(T##4 x, T##4 y, T##4 z) { \
    return T##4{f(x.x, y.x, z.x), f(x.y, y.y, z.y), f(x.z, y.z, z.z), f(x.w, y.w, z.w)}; \
  }

namespace metal {
#define KT_MATH1(f, implementation) \
  KT_INLINE float f(float x) { return implementation(x); } \
  KT_INLINE half f(half x) { return (half)implementation((float)x); } \
  KT_INLINE float f(bfloat x) { return implementation((float)x); } \
  KT_EACH1(float, f) KT_EACH1(half, f)
#define KT_MATH2(f, implementation) \
  KT_INLINE float f(float x, float y) { return implementation(x, y); } \
  KT_INLINE half f(half x, half y) { return (half)implementation((float)x, (float)y); } \
  KT_EACH2(float, f) KT_EACH2(half, f)
KT_UNARY(KT_MATH1)
KT_BINARY(KT_MATH2)
KT_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
KT_INLINE half fma(half a, half b, half c) { return (half)((double)a * (double)b + (double)c); }
KT_EACH3(float, fma) KT_EACH3(half, fma)

#define KT_FOR_INTS(define) \
  define(char) define(uchar) define(short) define(ushort) define(int) define(uint) define(long) \
  define(ulong)
#define KT_INTEGER(T) \
  KT_INLINE T max(T a, T b) { return a < b ? b : a; } \
  KT_INLINE T min(T a, T b) { return b < a ? b : a; } \
  KT_INLINE T clamp(T x, T low, T high) { return min(max(x, low), high); } \
  KT_INLINE T max3(T a, T b, T c) { return max(a, max(b, c)); } \
  KT_INLINE T min3(T a, T b, T c) { return min(a, min(b, c)); } \
  KT_INLINE T abs(T x) { return x < (T)0 ? (T)-x : x; } \
  KT_INLINE T absdiff(T a, T b) { return a < b ? (T)(b - a) : (T)(a - b); } \
  KT_INLINE T popcount(T x) { return (T)__builtin_popcountll((ulong)x & kt::low_bits<T>); } \
  KT_INLINE T clz(T x) { \
    return x == 0 ? (T)kt::bits<T> : \
                    (T)(__builtin_clzll((ulong)x & kt::low_bits<T>) - (64 - kt::bits<T>)); \
  } \
  KT_INLINE T ctz(T x) { return x == 0 ? (T)kt::bits<T> : (T)__builtin_ctzll((ulong)x); } \
  KT_INLINE T mulhi(T a, T b) { return (T)(((__int128)a * (__int128)b) >> kt::bits<T>); } \
  KT_INLINE T madhi(T a, T b, T c) { return (T)(mulhi(a, b) + c); } \
  KT_INLINE T rotate(T x, T by) { \
    ulong v = (ulong)x & kt::low_bits<T>; \
    int n = (int)((ulong)by & (kt::bits<T> - 1)); \
    return n == 0 ? x : (T)((v << n) | (v >> (kt::bits<T> - n))); \
  } \
  KT_INLINE T reverse_bits(T x) { \
    return (T)(__builtin_bitreverse64((ulong)x) >> (64 - kt::bits<T>)); \
  } \
  KT_INLINE T extract_bits(T x, uint offset, uint count) { \
    return count == 0 ? (T)0 : (T)((T)((ulong)x << (kt::bits<T> - offset - count)) >> \
                                   (kt::bits<T> - count)); \
  } \
  KT_INLINE T insert_bits(T base, T inserted, uint offset, uint count) { \
    ulong mask = (count == 64 ? ~0ul : (1ul << count) - 1) << offset; \
    return (T)(((ulong)base & ~mask) | (((ulong)inserted << offset) & mask)); \
  } \
  KT_INLINE T addsat(T a, T b) { return kt::clamped<T>((__int128)a + (__int128)b); } \
  KT_INLINE T subsat(T a, T b) { return kt::clamped<T>((__int128)a - (__int128)b); } \
  KT_EACH1(T, abs) KT_EACH2(T, max) KT_EACH2(T, min) KT_EACH3(T, clamp) KT_EACH1(T, popcount) \
  KT_EACH1(T, clz) KT_EACH1(T, ctz)
KT_FOR_INTS(KT_INTEGER)
KT_INLINE int mad24(int a, int b, int c) { return a * b + c; }
KT_INLINE uint mad24(uint a, uint b, uint c) { return a * b + c; }
KT_INLINE int mul24(int a, int b) { return a * b; }
KT_INLINE uint mul24(uint a, uint b) { return a * b; }

#define KT_FLOATING(T) \
  KT_INLINE T max(T a, T b) { return fmax(a, b); } \
  KT_INLINE T min(T a, T b) { return fmin(a, b); } \
  KT_INLINE T clamp(T x, T low, T high) { return fmin(fmax(x, low), high); } \
  KT_INLINE T abs(T x) { return fabs(x); } \
  KT_INLINE T mix(T x, T y, T a) { return x + (y - x) * a; } \
  KT_INLINE T step(T edge, T x) { return x < edge ? (T)0 : (T)1; } \
  KT_INLINE T smoothstep(T low, T high, T x) { \
    T t = clamp((x - low) / (high - low), (T)0, (T)1); \
    return t * t * ((T)3 - (T)2 * t); \
  } \
  KT_INLINE T max3(T a, T b, T c) { return fmax(a, fmax(b, c)); } \
  KT_INLINE T min3(T a, T b, T c) { return fmin(a, fmin(b, c)); } \
  KT_INLINE T median3(T a, T b, T c) { return fmax(fmin(a, b), fmin(fmax(a, b), c)); } \
  KT_INLINE T ldexp(T x, int e) { return (T)__builtin_ldexpf((float)x, e); } \
  KT_INLINE T frexp(T x, thread int &e) { return (T)__builtin_frexpf((float)x, &e); } \
  KT_INLINE int ilogb(T x) { return __builtin_ilogbf((float)x); } \
  KT_INLINE T modf(T x, thread T &whole) { \
    whole = trunc(x); \
    return x - whole; \
  } \
  KT_INLINE T sincos(T x, thread T &c) { \
    c = cos(x); \
    return sin(x); \
  } \
  KT_INLINE bool isnan(T x) { return __builtin_isnan((float)x); } \
  KT_INLINE bool isinf(T x) { return __builtin_isinf((float)x); } \
  KT_INLINE bool isfinite(T x) { return __builtin_isfinite((float)x); } \
  KT_INLINE bool isnormal(T x) { return __builtin_isnormal((float)x); } \
  KT_INLINE bool signbit(T x) { return __builtin_signbit((float)x); } \
  KT_INLINE T dot(T##2 a, T##2 b) { return a.x * b.x + a.y * b.y; } \
  KT_INLINE T dot(T##3 a, T##3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; } \
  KT_INLINE T dot(T##4 a, T##4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; } \
  KT_EACH1(T, abs) KT_EACH2(T, max) KT_EACH2(T, min) KT_EACH3(T, clamp) KT_EACH3(T, mix) \
  KT_INLINE T length(T##2 v) { return sqrt(dot(v, v)); } \
  KT_INLINE T length(T##3 v) { return sqrt(dot(v, v)); } \
  KT_INLINE T length(T##4 v) { return sqrt(dot(v, v)); }
KT_FLOATING(float)
KT_FLOATING(half)
KT_INLINE float max(bfloat a, bfloat b) { return fmax((float)a, (float)b); }
KT_INLINE float min(bfloat a, bfloat b) { return fmin((float)a, (float)b); }
KT_INLINE float abs(bfloat x) { return fabs((float)x); }
KT_INLINE bool isnan(bfloat x) { return __builtin_isnan((float)x); }
KT_INLINE bool isinf(bfloat x) { return __builtin_isinf((float)x); }
KT_INLINE bool isfinite(bfloat x) { return __builtin_isfinite((float)x); }

#define KT_SELECT_EACH(T, N) \
  template <class M, class = enable_if_t<kt::size<M> == N>> \
  KT_INLINE T##N select(T##N a, T##N b, M chosen) { \
    T##N r; \
    for (int i = 0; i < N; i++) { r[i] = chosen[i] ? b[i] : a[i]; } \
    return r; \
  }
#define KT_SELECT(T) \
  KT_INLINE T select(T a, T b, bool chosen) { return chosen ? b : a; } \
  KT_SELECT_EACH(T, 2) KT_SELECT_EACH(T, 3) KT_SELECT_EACH(T, 4)
KT_FOR_INTS(KT_SELECT) KT_SELECT(float) KT_SELECT(half) KT_SELECT(bfloat) KT_SELECT(bool)
template <class M> KT_INLINE enable_if_t<(kt::size<M> > 1), bool> any(M m) {
  bool found = false;
  for (int i = 0; i < kt::size<M>; i++) { found |= m[i] != 0; }
  return found;
}
template <class M> KT_INLINE enable_if_t<(kt::size<M> > 1), bool> all(M m) {
  bool found = true;
  for (int i = 0; i < kt::size<M>; i++) { found &= m[i] != 0; }
  return found;
}

#define KT_FLOAT1(f, implementation) \
  KT_INLINE float f(float x) { return implementation(x); } \
  KT_EACH1(float, f)
#define KT_FLOAT2(f, implementation) \
  KT_INLINE float f(float x, float y) { return implementation(x, y); } \
  KT_EACH2(float, f)
#define KT_FLOAT_MODE \
  KT_UNARY(KT_FLOAT1) KT_BINARY(KT_FLOAT2) KT_FLOAT2(divide, kt::divide) \
  KT_FLOAT2(max, __builtin_fmaxf) KT_FLOAT2(min, __builtin_fminf) KT_FLOAT1(abs, __builtin_fabsf) \
  KT_INLINE float clamp(float x, float low, float high) { return min(max(x, low), high); } \
  KT_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); } \
  KT_EACH3(float, clamp) KT_EACH3(float, fma)
namespace precise { KT_FLOAT_MODE }
namespace fast { KT_FLOAT_MODE }

template <class T> using uniform = T;
template <class T> KT_INLINE T make_uniform(T x) { return x; }
}  // namespace metal
