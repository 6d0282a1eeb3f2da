"""Atomic operations that Metal's library lacks: on 16 bits, extremes of floats, exchanges that
compare; by compare and exchange of 32-bit words."""

from __future__ import annotations

_NARROW = {"half": "before + value", "bfloat": "bfloat(float(before) + float(value))"}
EXTREMES = {
    "max": ("nan_max", "the larger one"),
    "min": ("nan_min", "the smaller one"),
}


def _exchange_loop(name: str, comment: str, t: str, combined: str) -> str:
    """An atomic operation on 16 bits by compare and exchange of the word around them."""
    return f"""\
// {comment}; the value before. Metal's atomics are 32 bits wide.
inline {t} {name}(device {t}* x, int offset, {t} value) {{
  device atomic_uint* word = (device atomic_uint*)x + offset / 2;
  uint shift = offset % 2 * 16;
  uint old = atomic_load_explicit(word, memory_order_relaxed);
  while (true) {{
    {t} before = as_type<{t}>(ushort(old >> shift));
    {t} after = {combined};
    uint now = (old & ~(0xffffu << shift)) | (uint(as_type<ushort>(after)) << shift);
    if (atomic_compare_exchange_weak_explicit(
            word, &old, now, memory_order_relaxed, memory_order_relaxed)) {{
      return before;
    }}
  }}
}}"""


def _float_loop(name: str, comment: str, combined: str) -> str:
    """An atomic operation on f32 by compare and exchange."""
    return f"""\
// {comment}; the value before.
inline float {name}(device float* x, float value) {{
  device atomic_uint* word = (device atomic_uint*)x;
  uint old = atomic_load_explicit(word, memory_order_relaxed);
  while (true) {{
    float before = as_type<float>(old);
    uint now = as_type<uint>({combined});
    if (atomic_compare_exchange_weak_explicit(
            word, &old, now, memory_order_relaxed, memory_order_relaxed)) {{
      return before;
    }}
  }}
}}"""


_ATOMIC_CAS = """\
// Stores `value` where `expected` is; the value before.
inline {t} atomic_cas(device {t}* x, {t} expected, {t} value) {{
  device atomic_{t}* word = (device atomic_{t}*)x;
  {t} before = expected;
  while (!atomic_compare_exchange_weak_explicit(
             word, &before, value, memory_order_relaxed, memory_order_relaxed)) {{
    if (before != expected) {{
      return before;
    }}
  }}
  return before;
}}"""


def texts() -> dict[str, str]:
    """The functions by name."""
    found = {}
    for t, total in _NARROW.items():
        found[f"atomic_add_{t}"] = _exchange_loop(f"atomic_add_{t}", "Adds", t, total)
        for kind, (function, words) in EXTREMES.items():
            wide = f"{function}(float(before), float(value))"
            name = f"atomic_{kind}_{t}"
            found[name] = _exchange_loop(name, f"Stores {words}", t, f"{t}({wide})")
        name = f"atomic_xchg_{t}"
        found[name] = _exchange_loop(name, "Stores the value", t, "value")
    for kind, (function, words) in EXTREMES.items():
        name = f"atomic_{kind}_float"
        found[name] = _float_loop(name, f"Stores {words}", f"{function}(before, value)")
    for t in ("int", "uint"):
        found[f"atomic_cas_{t}"] = _ATOMIC_CAS.format(t=t)
    return found
