// Vector types and their constructors, packed vectors, as_type (specification, sections 2.2 to 2.3).
#pragma once
#include "base.h"

#define KT_VECTORS(T) \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
KT_VECTORS(char) KT_VECTORS(uchar) KT_VECTORS(short) KT_VECTORS(ushort) KT_VECTORS(int)
KT_VECTORS(uint) KT_VECTORS(long) KT_VECTORS(ulong) KT_VECTORS(half) KT_VECTORS(bfloat)
KT_VECTORS(float) KT_VECTORS(bool)

namespace metal {
template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));
}

namespace kt {
// Element type and number of components; a scalar has one.
template <class T> struct vector { using element = T; static constexpr int size = 1; };
#define KT_VECTOR_TRAIT(N) \
  template <class T> struct vector<T __attribute__((ext_vector_type(N)))> { \
    using element = T; \
    static constexpr int size = N; \
  };
KT_VECTOR_TRAIT(2) KT_VECTOR_TRAIT(3) KT_VECTOR_TRAIT(4)
template <class T> using element = typename vector<T>::element;
template <class T> constexpr int size = vector<T>::size;

template <class V, int At> KT_INLINE constexpr void fill(V &) {}
template <class V, int At, class A, class... Rest>
KT_INLINE constexpr void fill(V &made, A first, Rest... rest) {
  if constexpr (size<A> == 1) {
    made[At] = (element<V>)first;
  } else {
    for (int i = 0; i < size<A>; i++) { made[At + i] = (element<V>)first[i]; }
  }
  fill<V, At + size<A>>(made, rest...);
}

// float4(...): one scalar for all components, or exactly as many components as there are.
template <class V, class... A> KT_INLINE constexpr V make(A... arguments) {
  constexpr int given = (0 + ... + size<A>);
  V made = (V)(element<V>)0;
  if constexpr (sizeof...(A) == 1 && given == 1) {
    element<V> value = (element<V>)(arguments, ...);
    for (int i = 0; i < size<V>; i++) { made[i] = value; }
  } else if constexpr (sizeof...(A) > 0) {
    static_assert(given == size<V>, "vector constructor: wrong number of components");
    fill<V, 0>(made, arguments...);
  }
  return made;
}
}  // namespace kt

// Packed vectors: aligned as their elements. Three components take the room of three.
#define KT_PACKED(T) \
  typedef T packed_##T##2 __attribute__((ext_vector_type(2), aligned(sizeof(T)))); \
  typedef T packed_##T##4 __attribute__((ext_vector_type(4), aligned(sizeof(T)))); \
  struct packed_##T##3 { \
    T x, y, z; \
    packed_##T##3() = default; \
    constexpr packed_##T##3(T##3 v) : x(v.x), y(v.y), z(v.z) {} \
    constexpr packed_##T##3(T a, T b, T c) : x(a), y(b), z(c) {} \
    constexpr operator T##3() const { return T##3{x, y, z}; } \
    T &operator[](int i) { return (&x)[i]; } \
    T operator[](int i) const { return (&x)[i]; } \
  };
KT_PACKED(char) KT_PACKED(uchar) KT_PACKED(short) KT_PACKED(ushort) KT_PACKED(int) KT_PACKED(uint)
KT_PACKED(half) KT_PACKED(bfloat) KT_PACKED(float) KT_PACKED(long)

template <class T, class U> KT_INLINE T as_type(U value) {
  static_assert(sizeof(T) == sizeof(U), "as_type: sizes differ");
  return __builtin_bit_cast(T, value);
}
namespace metal {
using ::as_type;
}
