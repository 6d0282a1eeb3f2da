// SIMD-group matrices (specification, sections 2.4 and 6.7): 8x8, two elements per lane.
//
// Lane l holds row (q & 4) + (l / 2) % 4 and columns (q & 2) * 2 + (l % 2) * 2 and the next one,
// with q = l / 4. The specification does not fix this map; all Apple GPUs so far have it.
#pragma once
#include "simdgroup.h"

namespace kt {
template <class T> constexpr bool matrix_element =
    metal::is_same_v<T, half> || metal::is_same_v<T, float> || metal::is_same_v<T, bfloat>;
}

#if !KT_STRICT
namespace kt {
KT_INLINE constexpr int row_of(int lane) { return (lane / 4 & 4) + lane / 2 % 4; }
KT_INLINE constexpr int col_of(int lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }
KT_INLINE int matrix_row() { return row_of(own_lane()); }
KT_INLINE int matrix_col() { return col_of(own_lane()); }

template <class A, class B, class C> struct factors { A a[2]; B b[2]; C c[2]; };
struct products { float d[2]; };

// D = A * B + C in f32, the terms in the order of k.
template <class A, class B, class C>
KT_UNCHECKED void multiply_lanes(const void *values, void *results, unsigned mask) {
  typedef float row __attribute__((ext_vector_type(8)));
  if (mask != 0xffffffffu) { kt_fail("a matrix product needs all 32 lanes", 0); }
  float a[8][8];
  row b[8], d[8];
  for (int lane = 0; lane < lanes; lane++) {
    auto own = slot<factors<A, B, C>>(values, lane);
    const int r = row_of(lane), c = col_of(lane);
    for (int i = 0; i < 2; i++) {
      a[r][c + i] = (float)own.a[i];
      b[r][c + i] = (float)own.b[i];
      d[r][c + i] = (float)own.c[i];
    }
  }
  for (int r = 0; r < 8; r++) {
    for (int k = 0; k < 8; k++) { d[r] += a[r][k] * b[k]; }
  }
  for (int lane = 0; lane < lanes; lane++) {
    const int r = row_of(lane), c = col_of(lane);
    set_slot(results, lane, products{{d[r][c], d[r][c + 1]}});
  }
  kt_count_product();
}
}  // namespace kt
#endif

namespace metal {
template <class T, int Cols, int Rows> struct simdgroup_matrix {
  static_assert(Cols == 8 && Rows == 8, "simdgroup_matrix: only 8x8");
  static_assert(kt::matrix_element<T>, "simdgroup_matrix: elements are half, bfloat or float");
  typedef T storage_type __attribute__((ext_vector_type(2)));
  simdgroup_matrix() = default;
  KT_INLINE explicit simdgroup_matrix(T diagonal)
  KT_BODY(const int row = kt::matrix_row(); const int col = kt::matrix_col();
          kt_elements = storage_type{row == col ? diagonal : (T)0,
                                     row == col + 1 ? diagonal : (T)0};)
  KT_INLINE storage_type &thread_elements() { return kt_elements; }

  storage_type kt_elements;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
}  // namespace metal

namespace metal {
template <class T, int Cols, int Rows = Cols>
KT_INLINE simdgroup_matrix<T, Cols, Rows> make_filled_simdgroup_matrix(T value)
KT_BODY(simdgroup_matrix<T, Cols, Rows> made;
        made.kt_elements = {value, value}; return made;)

#define KT_MATRIX_MEMORY(space) \
  template <class T, int Cols, int Rows> \
  KT_INLINE void simdgroup_load(thread simdgroup_matrix<T, Cols, Rows> &d, const space T *source, \
                                ulong elements_per_row = Cols, ulong2 origin = ulong2{0, 0}, \
                                bool transpose = false KT_SITE) \
  KT_BODY(const ulong r = kt::matrix_row(); const ulong c = kt::matrix_col(); \
          kt_touch_matrix(line); source += origin.y * elements_per_row + origin.x; \
          for (ulong i = 0; i < 2; i++) { \
            d.kt_elements[i] = transpose ? source[(c + i) * elements_per_row + r] : \
                                           source[r * elements_per_row + c + i]; \
          }) \
  template <class T, int Cols, int Rows> \
  KT_INLINE void simdgroup_store(thread simdgroup_matrix<T, Cols, Rows> a, space T *target, \
                                 ulong elements_per_row = Cols, ulong2 origin = ulong2{0, 0}, \
                                 bool transpose = false KT_SITE) \
  KT_BODY(const ulong r = kt::matrix_row(); const ulong c = kt::matrix_col(); \
          kt_touch_matrix(line); target += origin.y * elements_per_row + origin.x; \
          for (ulong i = 0; i < 2; i++) { \
            target[transpose ? (c + i) * elements_per_row + r : r * elements_per_row + c + i] = \
                a.kt_elements[i]; \
          })
KT_FOR_SPACES(KT_MATRIX_MEMORY)

template <class T, class A, class B, int Cols, int Rows, int K>
KT_INLINE void simdgroup_multiply_accumulate(thread simdgroup_matrix<T, Cols, Rows> &d,
                                             simdgroup_matrix<A, K, Rows> a,
                                             simdgroup_matrix<B, Cols, K> b,
                                             simdgroup_matrix<T, Cols, Rows> c KT_SITE)
KT_BODY(
  kt::factors<A, B, T> own{{a.kt_elements[0], a.kt_elements[1]},
                                           {b.kt_elements[0], b.kt_elements[1]},
                                           {c.kt_elements[0], c.kt_elements[1]}};
  kt::products out;
  kt_exchange(&own, sizeof own, kt::multiply_lanes<A, B, T>, &out, sizeof out,
              kt::multiplying, line);
  d.kt_elements = {(T)out.d[0], (T)out.d[1]};)
template <class T, class A, class B, int Cols, int Rows, int K>
KT_INLINE void simdgroup_multiply(thread simdgroup_matrix<T, Cols, Rows> &d,
                                  simdgroup_matrix<A, K, Rows> a,
                                  simdgroup_matrix<B, Cols, K> b KT_SITE)
KT_BODY(const auto zero = make_filled_simdgroup_matrix<T, Cols, Rows>((T)0);
        simdgroup_multiply_accumulate(d, a, b, zero, line);)
}  // namespace metal
