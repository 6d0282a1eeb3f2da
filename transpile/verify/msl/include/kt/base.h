// Address spaces, scalar types, type traits and limits (Metal Shading Language specification, chapters 2 and 4).
//
// The prelude serves two passes. With KT_STRICT=1 address spaces are types and functions have no
// bodies: clang only checks. With KT_STRICT=0 the address space is flat and the code runs.
#pragma once

#ifndef __METAL_VERSION__
#define __METAL_VERSION__ 310
#endif
#define __METAL__ 1
#define __HAVE_BFLOAT__ 1
#define __HAVE_SIMDGROUP_MATRIX__ 1

#define thread
#define kernel
#define METAL_FUNC inline __attribute__((always_inline))
// Without debug information of its own, an inlined library function has the line of its call.
#define KT_INLINE inline __attribute__((always_inline, nodebug))
#define KT_UNCHECKED __attribute__((no_sanitize("thread"), nodebug))

#if KT_STRICT
#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define KT_THREADGROUP(site, name, ...) \
  threadgroup typename kt::identity<__VA_ARGS__>::type &name = \
      *(threadgroup typename kt::identity<__VA_ARGS__>::type *)nullptr
#define KT_SITE
#define KT_ONLY_SITE
#define KT_BODY(...) ;
#define KT_FOR_SPACES(define) define(device) define(threadgroup)
#else
#define device
#define constant const
#define threadgroup
#define KT_THREADGROUP(site, name, ...) \
  typename kt::identity<__VA_ARGS__>::type &name = \
      *(typename kt::identity<__VA_ARGS__>::type *)kt_threadgroup_variable( \
          site, sizeof(typename kt::identity<__VA_ARGS__>::type), \
          alignof(typename kt::identity<__VA_ARGS__>::type), #name)
// The line of the call, for messages and to tell whether lanes meet at the same operation.
#define KT_SITE , int line = __builtin_LINE()
#define KT_ONLY_SITE int line = __builtin_LINE()
#define KT_BODY(...) { __VA_ARGS__ }
#define KT_FOR_SPACES(define) define()
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef unsigned long uintptr_t;
typedef long intptr_t;
typedef _Float16 half;
typedef __bf16 bfloat;

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wuser-defined-literals"
#pragma clang diagnostic ignored "-Wreserved-user-defined-literal"
constexpr half operator""h(long double x) { return (half)(float)x; }
constexpr half operator""H(long double x) { return (half)(float)x; }
constexpr half operator""h(unsigned long long x) { return (half)(float)x; }
constexpr bfloat operator""bf(long double x) { return (bfloat)(float)x; }
constexpr bfloat operator""BF(long double x) { return (bfloat)(float)x; }
#pragma clang diagnostic pop

namespace kt {
template <class T> struct identity { using type = T; };
}

#if !KT_STRICT
extern "C" {
// Each active lane of a SIMD group hands in `size` bytes. The last to arrive calls
// `combine(values, results, mask, lane)`, slots of 64 bytes by lane; each lane takes its result.
typedef void (*kt_combine)(const void *values, void *results, unsigned mask);
void kt_exchange(const void *value, unsigned size, kt_combine combine, void *result,
                 unsigned result_size, int operation, int line);
void kt_threadgroup_barrier(unsigned flags, int line);
void kt_simdgroup_barrier(unsigned flags, int line);
void kt_touch_matrix(int line);  // this lane takes part in a simdgroup_load or _store
void kt_atomic(const volatile void *address, unsigned size);
void kt_atomic_store(const volatile void *address, unsigned size);
void kt_count_product(void);
void kt_fail(const char *reason, int line);
unsigned kt_lane(void);
void *kt_threadgroup_variable(unsigned site, unsigned size, unsigned alignment, const char *name);
}
#endif

namespace metal {
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <class T, T V> struct integral_constant {
  static constexpr T value = V;
  using value_type = T;
  using type = integral_constant;
  constexpr operator T() const { return V; }
};
template <bool B> using bool_constant = integral_constant<bool, B>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;
template <bool B, class X, class Y> struct conditional { using type = X; };
template <class X, class Y> struct conditional<false, X, Y> { using type = Y; };
template <bool B, class X, class Y> using conditional_t = typename conditional<B, X, Y>::type;
template <class A, class B> struct is_same : bool_constant<__is_same(A, B)> {};
template <class A, class B> constexpr bool is_same_v = __is_same(A, B);
template <class A, class B> struct is_convertible : bool_constant<__is_convertible(A, B)> {};
template <class A, class B> constexpr bool is_convertible_v = __is_convertible(A, B);
template <class B, class D> struct is_base_of : bool_constant<__is_base_of(B, D)> {};
#define KT_TRAIT(name) \
  template <class T> struct name : bool_constant<__##name(T)> {}; \
  template <class T> constexpr bool name##_v = __##name(T);
KT_TRAIT(is_integral) KT_TRAIT(is_floating_point) KT_TRAIT(is_arithmetic) KT_TRAIT(is_signed)
KT_TRAIT(is_unsigned) KT_TRAIT(is_pointer) KT_TRAIT(is_void)
template <class T> struct remove_cv { using type = __remove_cv(T); };
template <class T> using remove_cv_t = __remove_cv(T);
template <class T> struct remove_reference { using type = __remove_reference_t(T); };
template <class T> using remove_reference_t = __remove_reference_t(T);
template <class T> struct remove_pointer { using type = __remove_pointer(T); };
template <class T> T declval();

template <class T> struct numeric_limits;
#define KT_INT_LIMITS(T, low, high) \
  template <> struct numeric_limits<T> { \
    static constexpr T min() { return low; } \
    static constexpr T lowest() { return low; } \
    static constexpr T max() { return high; } \
  };
KT_INT_LIMITS(char, -128, 127) KT_INT_LIMITS(signed char, -128, 127) KT_INT_LIMITS(uchar, 0, 255)
KT_INT_LIMITS(short, -32768, 32767) KT_INT_LIMITS(ushort, 0, 65535)
KT_INT_LIMITS(int, -2147483647 - 1, 2147483647) KT_INT_LIMITS(uint, 0, 4294967295u)
KT_INT_LIMITS(long, -9223372036854775807l - 1, 9223372036854775807l)
KT_INT_LIMITS(ulong, 0, 18446744073709551615ul) KT_INT_LIMITS(bool, false, true)
#define KT_FLOAT_LIMITS(T, low, high, eps) \
  template <> struct numeric_limits<T> { \
    static constexpr T min() { return (T)low; } \
    static constexpr T lowest() { return -(T)high; } \
    static constexpr T max() { return (T)high; } \
    static constexpr T epsilon() { return (T)eps; } \
    static constexpr T infinity() { return (T)__builtin_inff(); } \
    static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); } \
  };
KT_FLOAT_LIMITS(float, 0x1p-126f, 0x1.fffffep127f, 0x1p-23f)
KT_FLOAT_LIMITS(half, 0x1p-14f, 65504.0f, 0x1p-10f)
KT_FLOAT_LIMITS(bfloat, 0x1p-126f, 0x1.fep127f, 0x1p-7f)
}  // namespace metal

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT 0x1.fffffep127f
#define FLT_MAX 0x1.fffffep127f
#define FLT_MIN 0x1p-126f
#define FLT_EPSILON 0x1p-23f
#define HALF_MAX 65504.0h
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-9223372036854775807l - 1)
#define ULONG_MAX 18446744073709551615ul
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
