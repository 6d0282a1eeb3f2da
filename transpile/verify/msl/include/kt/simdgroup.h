// SIMD-group and quad-group functions, barriers (specification, sections 6.9 and 6.10). 32 lanes.
#pragma once
#include "math.h"

namespace metal {
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags((uint)a | (uint)b); }
KT_INLINE void threadgroup_barrier(mem_flags flags KT_SITE)
KT_BODY(kt_threadgroup_barrier((uint)flags, line);)
KT_INLINE void simdgroup_barrier(mem_flags flags KT_SITE)
KT_BODY(kt_simdgroup_barrier((uint)flags, line);)
}  // namespace metal

namespace kt {
// The types that SIMD-group functions take: no bool, no 64 bits, no bfloat.
template <class T> constexpr bool exchanged_integer =
    metal::is_same_v<T, char> || metal::is_same_v<T, uchar> || metal::is_same_v<T, short> ||
    metal::is_same_v<T, ushort> || metal::is_same_v<T, int> || metal::is_same_v<T, uint>;
template <class T> constexpr bool exchanged =
    exchanged_integer<T> || metal::is_same_v<T, float> || metal::is_same_v<T, half>;
template <class T> using any_data = metal::enable_if_t<exchanged<element<T>>, T>;
template <class T> using integer_data = metal::enable_if_t<exchanged_integer<element<T>>, T>;

#if !KT_STRICT
constexpr int lanes = 32, slot_size = 64;
template <class T> KT_UNCHECKED T slot(const void *slots, int lane) {
  T value;
  __builtin_memcpy(&value, (const char *)slots + lane * slot_size, sizeof(T));
  return value;
}
template <class T> KT_UNCHECKED void set_slot(void *slots, int lane, T value) {
  __builtin_memcpy((char *)slots + lane * slot_size, &value, sizeof(T));
}

template <class F, class T> KT_UNCHECKED T apply(T a, T b) {
  if constexpr (size<T> == 1) {
    return F::of(a, b);
  } else {
    T r;
    for (int i = 0; i < size<T>; i++) { r[i] = F::of(a[i], b[i]); }
    return r;
  }
}
#define KT_OPERATOR(name, expression) \
  struct name { \
    template <class T> KT_UNCHECKED static T of(T a, T b) { return (T)(expression); } \
  };
KT_OPERATOR(sum, a + b) KT_OPERATOR(product, a * b) KT_OPERATOR(bit_and, a & b)
KT_OPERATOR(bit_or, a | b) KT_OPERATOR(bit_xor, a ^ b)
KT_OPERATOR(maximum, metal::max(a, b)) KT_OPERATOR(minimum, metal::min(a, b))

// Pairwise, within blocks of `width` lanes; absent lanes take no part.
template <class T, class F, int width>
KT_UNCHECKED void reduce_lanes(const void *values, void *results, unsigned mask) {
  T value[lanes];
  bool there[lanes];
  for (int i = 0; i < lanes; i++) {
    there[i] = mask >> i & 1;
    value[i] = slot<T>(values, i);
  }
  for (int step = 1; step < width; step *= 2) {
    for (int i = 0; i < lanes; i += 2 * step) {
      if (!there[i + step]) { continue; }
      value[i] = there[i] ? apply<F, T>(value[i], value[i + step]) : value[i + step];
      there[i] = true;
    }
  }
  for (int i = 0; i < lanes; i++) { set_slot(results, i, value[i / width * width]); }
}

template <class T, class F, bool inclusive>
KT_UNCHECKED void scan_lanes(const void *values, void *results, unsigned mask) {
  T total = (T)(metal::is_same_v<F, product> ? 1 : 0);
  for (int i = 0; i < lanes; i++) {
    if (!(mask >> i & 1)) { continue; }
    T next = apply<F, T>(total, slot<T>(values, i));
    set_slot(results, i, inclusive ? next : total);
    total = next;
  }
}

template <class T> struct sent { T value; int from; int line; };
template <class T> KT_UNCHECKED void move_lanes(const void *values, void *results, unsigned mask) {
  for (int i = 0; i < lanes; i++) {
    if (!(mask >> i & 1)) { continue; }
    auto own = slot<sent<T>>(values, i);
    if (own.from < 0 || own.from >= lanes || !(mask >> own.from & 1)) {
      kt_fail("a lane that is not there is read", own.line);
    }
    set_slot(results, i, slot<sent<T>>(values, own.from).value);
  }
}

inline KT_UNCHECKED void vote_lanes(const void *values, void *results, unsigned mask) {
  unsigned votes = 0;
  for (int i = 0; i < lanes; i++) {
    if (mask >> i & 1 && slot<bool>(values, i)) { votes |= 1u << i; }
  }
  for (int i = 0; i < lanes; i++) { set_slot(results, i, votes); }
}

enum operation { reducing = 1, scanning, moving, voting, multiplying };

template <class F, int width, class T> KT_INLINE T reduce(T value, int line) {
  T result;
  kt_exchange(&value, sizeof value, reduce_lanes<T, F, width>, &result, sizeof result, reducing,
              line);
  return result;
}
template <class F, bool inclusive, class T> KT_INLINE T scan(T value, int line) {
  T result;
  kt_exchange(&value, sizeof value, scan_lanes<T, F, inclusive>, &result, sizeof result, scanning,
              line);
  return result;
}
template <class T> KT_INLINE T move(T value, int from, int line) {
  sent<T> message{value, from, line};
  T result;
  kt_exchange(&message, sizeof message, move_lanes<T>, &result, sizeof result, moving, line);
  return result;
}
KT_INLINE unsigned vote(bool value, int line) {
  unsigned votes;
  kt_exchange(&value, sizeof value, vote_lanes, &votes, sizeof votes, voting, line);
  return votes;
}
KT_INLINE int own_lane() { return (int)kt_lane(); }
#endif
}  // namespace kt

namespace metal {
#define KT_REDUCTION(name, width, data, operator_) \
  template <class T> KT_INLINE kt::data<T> name(T value KT_SITE) \
  KT_BODY(return kt::reduce<kt::operator_, width>(value, line);)
KT_REDUCTION(simd_sum, 32, any_data, sum) KT_REDUCTION(simd_product, 32, any_data, product)
KT_REDUCTION(simd_max, 32, any_data, maximum) KT_REDUCTION(simd_min, 32, any_data, minimum)
KT_REDUCTION(simd_and, 32, integer_data, bit_and) KT_REDUCTION(simd_or, 32, integer_data, bit_or)
KT_REDUCTION(simd_xor, 32, integer_data, bit_xor)
KT_REDUCTION(quad_sum, 4, any_data, sum) KT_REDUCTION(quad_product, 4, any_data, product)
KT_REDUCTION(quad_max, 4, any_data, maximum) KT_REDUCTION(quad_min, 4, any_data, minimum)
KT_REDUCTION(quad_and, 4, integer_data, bit_and) KT_REDUCTION(quad_or, 4, integer_data, bit_or)

#define KT_SCAN(name, operator_, inclusive) \
  template <class T> KT_INLINE kt::any_data<T> name(T value KT_SITE) \
  KT_BODY(return kt::scan<kt::operator_, inclusive>(value, line);)
KT_SCAN(simd_prefix_inclusive_sum, sum, true) KT_SCAN(simd_prefix_exclusive_sum, sum, false)
KT_SCAN(simd_prefix_inclusive_product, product, true)
KT_SCAN(simd_prefix_exclusive_product, product, false)

// `from` is the lane that is read; where a shift leaves the group, a lane keeps its own value.
#define KT_MOVE(name, from) \
  template <class T> KT_INLINE kt::any_data<T> name(T value, ushort by KT_SITE) \
  KT_BODY(const int l = kt::own_lane(); (void)l; return kt::move(value, from, line);)
KT_MOVE(simd_broadcast, by) KT_MOVE(simd_shuffle, by) KT_MOVE(simd_shuffle_xor, l ^ by)
KT_MOVE(simd_shuffle_down, l + by < 32 ? l + by : l) KT_MOVE(simd_shuffle_up, l < by ? l : l - by)
KT_MOVE(simd_shuffle_rotate_down, (l + by) & 31) KT_MOVE(simd_shuffle_rotate_up, (l - by) & 31)
KT_MOVE(quad_broadcast, (l & ~3) + (by & 3)) KT_MOVE(quad_shuffle, (l & ~3) + (by & 3))
KT_MOVE(quad_shuffle_xor, l ^ (by & 3))
template <class T>
KT_INLINE kt::any_data<T> simd_shuffle_and_fill_down(T value, T filling, ushort by KT_SITE)
KT_BODY(const int l = kt::own_lane(); T moved = kt::move(value, l + by < 32 ? l + by : l, line);
        return l + by < 32 ? moved : filling;)
template <class T>
KT_INLINE kt::any_data<T> simd_shuffle_and_fill_up(T value, T filling, ushort by KT_SITE)
KT_BODY(const int l = kt::own_lane(); T moved = kt::move(value, l < by ? l : l - by, line);
        return l < by ? filling : moved;)
template <class T> KT_INLINE kt::any_data<T> simd_broadcast_first(T value KT_SITE)
KT_BODY(return kt::move(value, 0, line);)

struct simd_vote {
  typedef ulong vote_t;
  explicit constexpr simd_vote(vote_t v = 0) : votes(v) {}
  explicit constexpr operator vote_t() const { return votes; }
  constexpr bool all() const { return votes == 0xffffffff; }
  constexpr bool any() const { return votes != 0; }

 private:
  vote_t votes;
};
KT_INLINE simd_vote simd_ballot(bool value KT_SITE)
KT_BODY(return simd_vote(kt::vote(value, line));)
KT_INLINE simd_vote simd_active_threads_mask(KT_ONLY_SITE)
KT_BODY(return simd_vote(kt::vote(true, line));)
KT_INLINE bool simd_any(bool value KT_SITE) KT_BODY(return kt::vote(value, line) != 0;)
KT_INLINE bool simd_all(bool value KT_SITE) KT_BODY(return kt::vote(!value, line) == 0;)
KT_INLINE bool simd_is_first(KT_ONLY_SITE)
KT_BODY(return __builtin_ctz(kt::vote(true, line)) == kt::own_lane();)
}  // namespace metal
