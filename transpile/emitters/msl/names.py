"""Names that a generated kernel must not bind, and C++ scopes of those that it does."""

from __future__ import annotations

from collections.abc import Iterable

from transpile.emitters.msl.helpers import TEXTS

#: words of C++ and of Metal's own grammar, and types
_WORDS = """
alignas alignof and and_eq asm atomic_bool atomic_float atomic_int atomic_uint auto bfloat bitand
bitor bool break case catch char class compl const const_cast constant constexpr continue decltype
default delete device do double dynamic_cast else enum explicit export extern false float for
fragment friend goto half if inline int kernel long mutable namespace new noexcept not not_eq
nullptr object_data operator or or_eq private protected public ptrdiff_t register
reinterpret_cast return sampler short signed sizeof size_t static static_assert static_cast struct
switch template texture this thread thread_local threadgroup threadgroup_imageblock throw true try
typedef typeid typename uchar uint ulong union unsigned ushort using vec vertex virtual visible
void volatile wchar_t while xor xor_eq main metal precise fast packed_float packed_half as_type
"""

#: functions and constants of the standard library that a kernel may call: a variable of that name
#: would hide them
_LIBRARY = """
abs acos all any asin atan atan2 ceil clamp cos cosh cross distance dot exp exp2 exp10 fabs floor
fma fmax fmin fmod fract isfinite isinf isnan isnormal ldexp length log log2 log10 max min mix
normalize popcount pow powr rint round rsqrt saturate select sign sin sinh sqrt step tan tanh trunc
INFINITY NAN INT_MIN INT_MAX LONG_MIN M_PI_F mem_flags memory_order_relaxed numeric_limits
UNROLL tgid tid lane sg params simdgroup simdgroup_matrix simd_sum simd_max simd_min
"""

RESERVED = frozenset((_WORDS + _LIBRARY).split())


def legal(name: str) -> str:
    """``name`` as an identifier that is nobody else's; not yet unique."""
    name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name) or "t"
    while "__" in name:  # reserved in C++
        name = name.replace("__", "_")
    if name[0].isdigit() or name == "_":
        name = f"v{name}"
    if name[0] == "_" and name[1:2].isupper():
        name = name[1:]
    known = (
        name in RESERVED
        or name in TEXTS
        or name.startswith(("kt_", "metal_", "simd_", "simdgroup_"))
    )
    vector = name.rstrip("234x8") in RESERVED and name[-1].isdigit()
    return f"{name}_" if known or vector else name


class Scope:
    """The names that are visible at a place; inner scopes see those of the outer ones."""

    def __init__(self, taken: Iterable[str] = (), outer: Scope | None = None) -> None:
        self.names = set(taken)
        self.outer = outer

    def inner(self) -> Scope:
        return Scope((), self)

    def taken(self, name: str) -> bool:
        return name in self.names or (self.outer is not None and self.outer.taken(name))

    def declare(self, name: str) -> str:
        """A free name like ``name``, which is taken from now on."""
        name = legal(name)
        candidate, n = name, 1
        while self.taken(candidate):
            n += 1
            candidate = f"{name.rstrip('_')}_{n}"
        self.names.add(candidate)
        return candidate
