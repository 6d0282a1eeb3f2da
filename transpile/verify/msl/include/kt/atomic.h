// Atomic functions (specification, section 6.15): relaxed order only; int and uint in device and
// threadgroup memory, float in device memory.
#pragma once
#include "base.h"

namespace metal {
enum memory_order { memory_order_relaxed };

template <class T> struct atomic {
  static_assert(is_same_v<T, int> || is_same_v<T, uint> || is_same_v<T, float> ||
                    is_same_v<T, bool> || is_same_v<T, ulong>,
                "atomic<T>: no such atomic type");
  atomic() = default;
  atomic(const atomic &) = delete;
  T kt_value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
typedef atomic<ulong> atomic_ulong;
}  // namespace metal

namespace kt {
template <class T> constexpr bool atomic_integer =
    metal::is_same_v<T, int> || metal::is_same_v<T, uint>;
template <class T> constexpr bool atomic_number =
    atomic_integer<T> || metal::is_same_v<T, float>;
#if !KT_STRICT
template <class T> KT_UNCHECKED __attribute__((noinline)) T peek(const volatile T *p) { return *p; }
template <class T> KT_UNCHECKED __attribute__((noinline)) T replace(volatile T *p, T value) {
  T old = *p;
  *p = value;
  return old;
}
template <class T>
KT_UNCHECKED __attribute__((noinline)) bool exchange_if(volatile T *p, T *expected, T value) {
  T old = *p;
  if (__builtin_memcmp(&old, expected, sizeof old) != 0) {
    *expected = old;
    return false;
  }
  *p = value;
  return true;
}
#endif
}  // namespace kt

namespace metal {
template <class T> using kt_value_of = typename kt::identity<T>::type;

#define KT_ATOMIC(space, ok, result, name, ...) \
  template <class T, class = enable_if_t<ok>> KT_INLINE result name(__VA_ARGS__)

#define KT_ATOMIC_MEMORY(space, ok) \
  KT_ATOMIC(space, ok, T, atomic_load_explicit, const volatile space atomic<T> *p, memory_order) \
  KT_BODY(kt_atomic(p, sizeof(T)); return kt::peek<T>(&p->kt_value);) \
  KT_ATOMIC(space, ok, void, atomic_store_explicit, volatile space atomic<T> *p, \
            kt_value_of<T> value, memory_order) \
  KT_BODY(kt_atomic_store(p, sizeof(T)); kt::replace<T>(&p->kt_value, value);) \
  KT_ATOMIC(space, ok, T, atomic_exchange_explicit, volatile space atomic<T> *p, \
            kt_value_of<T> value, memory_order) \
  KT_BODY(kt_atomic(p, sizeof(T)); return kt::replace<T>(&p->kt_value, value);) \
  KT_ATOMIC(space, ok, bool, atomic_compare_exchange_weak_explicit, volatile space atomic<T> *p, \
            thread kt_value_of<T> *expected, kt_value_of<T> value, memory_order, memory_order) \
  KT_BODY(kt_atomic(p, sizeof(T)); \
          return kt::exchange_if<T>(&p->kt_value, expected, value);)

#define KT_ATOMIC_UPDATE(space, ok, name, updated) \
  KT_ATOMIC(space, ok, T, name, volatile space atomic<T> *p, kt_value_of<T> value, memory_order) \
  KT_BODY(kt_atomic(p, sizeof(T)); const T old = kt::peek<T>(&p->kt_value); \
          return kt::replace<T>(&p->kt_value, (T)(updated));)

#define KT_ATOMIC_NUMBERS(space, ok) \
  KT_ATOMIC_MEMORY(space, ok) \
  KT_ATOMIC_UPDATE(space, ok, atomic_fetch_add_explicit, old + value) \
  KT_ATOMIC_UPDATE(space, ok, atomic_fetch_sub_explicit, old - value)

#define KT_ATOMIC_INTEGERS(space) \
  KT_ATOMIC_UPDATE(space, kt::atomic_integer<T>, atomic_fetch_and_explicit, old & value) \
  KT_ATOMIC_UPDATE(space, kt::atomic_integer<T>, atomic_fetch_or_explicit, old | value) \
  KT_ATOMIC_UPDATE(space, kt::atomic_integer<T>, atomic_fetch_xor_explicit, old ^ value) \
  KT_ATOMIC_UPDATE(space, kt::atomic_integer<T>, atomic_fetch_max_explicit, \
                   old < value ? value : old) \
  KT_ATOMIC_UPDATE(space, kt::atomic_integer<T>, atomic_fetch_min_explicit, \
                   value < old ? value : old)

#if KT_STRICT
KT_ATOMIC_NUMBERS(device, kt::atomic_number<T>)
KT_ATOMIC_NUMBERS(threadgroup, kt::atomic_integer<T>)
#else
KT_ATOMIC_NUMBERS(, kt::atomic_number<T>)
#endif
KT_FOR_SPACES(KT_ATOMIC_INTEGERS)

// Of 64 bits, in device memory, without the old value: from Apple9 on.
#define KT_ATOMIC_EXTREME(name, better) \
  KT_INLINE void name(volatile device atomic_ulong *p, ulong value, memory_order) \
  KT_BODY(kt_atomic(p, sizeof(ulong)); const ulong old = kt::peek<ulong>(&p->kt_value); \
          kt::replace<ulong>(&p->kt_value, value better old ? value : old);)
KT_ATOMIC_EXTREME(atomic_max_explicit, >)
KT_ATOMIC_EXTREME(atomic_min_explicit, <)
}  // namespace metal
