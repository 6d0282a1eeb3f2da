// What the executor needs to call a kernel: its parameters filled in by position and type.
#pragma once
#include "vectors.h"

struct kt_thread {
  void **buffers;
  void **threadgroup_memory;
  uint values[16][4];  // the attributes, in the order of the pre-pass's table
};

namespace kt {
template <class F> struct signature;
template <class... A> struct signature<void(A...)> {
  template <int i> using parameter = __type_pack_element<i, A...>;
};
template <class P> struct pointer;
template <class T> struct pointer<T *> {
  KT_UNCHECKED static T *to(void *p) { return (T *)p; }
};
template <class T> struct pointer<T &> {
  KT_UNCHECKED static T &to(void *p) { return *(T *)p; }
};
template <class T> KT_UNCHECKED T attribute(const uint *values) {
  if constexpr (size<T> == 1) {
    return (T)values[0];
  } else {
    T made;
    for (int i = 0; i < size<T>; i++) { made[i] = (element<T>)values[i]; }
    return made;
  }
}
}  // namespace kt

// Where this library lies in memory: its own constants may be read, nothing of it written.
extern "C" {
extern char __ehdr_start[], _end[];
__attribute__((visibility("default"))) KT_UNCHECKED void kt_image(char **first, char **end) {
  *first = __ehdr_start;
  *end = _end;
}
}
