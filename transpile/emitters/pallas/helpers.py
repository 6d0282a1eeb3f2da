"""Functions that a generated module defines for what Mosaic has no operation for.

A helper is printed once per module, above the kernels that call it. ``USES`` are the helpers that
one calls itself.
"""

from __future__ import annotations

HELPERS: dict[str, str] = {
    "_select": '''def _select(keep, x, fill):
    """``jnp.where``; narrow types are selected as 32-bit ones, whose masks have any layout."""
    wide = jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32
    return jnp.where(keep, x.astype(wide), fill).astype(x.dtype)
''',
    "_mask_tail": '''def _mask_tail(x, axis, start, stop, fill):
    """``x``, a block from ``start`` on, with ``fill`` from position ``stop`` on along ``axis``."""
    if isinstance(stop, int) and stop % x.shape[axis] == 0:
        return x  # whole blocks only
    position = start + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return _select(position < stop, x, fill)
''',
    "_mask_outside": '''def _mask_outside(x, axis, start, first, stop, fill):
    """``x``, a block from ``start`` on, with ``fill`` outside ``first`` to ``stop`` of ``axis``."""
    position = start + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return _select((position >= first) & (position < stop), x, fill)
''',
    "_resumed": '''def _resumed(ref, axis, start):
    """What the step before along a grid axis has left in ``ref``; ``start`` in the first step."""
    if pl.num_programs(axis) == 1:
        return jnp.full(ref.shape, start, ref.dtype)
    return jnp.where(pl.program_id(axis) == 0, start, ref[...])
''',
    "_across": '''def _across(x, n):
    """``x``, each row the same in its 128 lanes, as rows of ``n`` lanes."""
    wide = x if n <= 128 else jnp.tile(x, pl.cdiv(n, 128))
    return wide if n % 128 == 0 else wide[..., :n]
''',
    "_expm1": '''def _expm1(x):
    """exp(x) - 1 without cancellation near 0."""
    half = jnp.tanh(x / 2)
    return jnp.where(jnp.abs(x) < 1, 2 * half / (1 - half), jnp.exp(x) - 1)
''',
    "_sinh": '''def _sinh(x):
    """Hyperbolic sine, without cancellation near 0."""
    grown = _expm1(jnp.abs(x))
    return jnp.sign(x) * (grown + grown / (grown + 1)) / 2
''',
    "_cosh": '''def _cosh(x):
    """Hyperbolic cosine."""
    grown = jnp.exp(jnp.abs(x))
    return (grown + 1 / grown) / 2
''',
    "_asin": '''def _asin(x):
    """Arc sine."""
    return jnp.arctan2(x, jnp.sqrt((1 - x) * (1 + x)))
''',
    "_acos": '''def _acos(x):
    """Arc cosine."""
    return jnp.arctan2(jnp.sqrt((1 - x) * (1 + x)), x)
''',
    "_erfc": '''def _erfc(x):
    """Complementary error function; Chebyshev fit of Numerical Recipes, section 6.2."""
    t = 1 / (1 + jnp.abs(x) / 2)
    series = 0.17087277
    for c in (-0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418):
        series = c + t * series
    series = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * series))
    tail = t * jnp.exp(series - x * x)
    return jnp.where(x < 0, 2 - tail, tail)
''',
    "_fmax": '''def _fmax(x, y):
    """Larger of two; a NaN loses."""
    return jnp.where(jnp.isnan(x), y, jnp.where(jnp.isnan(y), x, jnp.maximum(x, y)))
''',
    "_fmin": '''def _fmin(x, y):
    """Smaller of two; a NaN loses."""
    return jnp.where(jnp.isnan(x), y, jnp.where(jnp.isnan(y), x, jnp.minimum(x, y)))
''',
    "_scan": '''def _scan(combine, values, axis, reverse=False):
    """Inclusive scan of a tuple of blocks in log2(n) steps; ``combine(earlier, later)``."""
    n = values[0].shape[axis]
    position = lax.broadcasted_iota(jnp.int32, values[0].shape, axis)
    shift = 1
    while shift < n:
        moved = tuple(jnp.roll(v, -shift if reverse else shift, axis) for v in values)
        inside = position < n - shift if reverse else position >= shift
        combined = combine(*moved, *values)
        values = tuple(jnp.where(inside, c, v) for c, v in zip(combined, values, strict=True))
        shift *= 2
    return values
''',
    "_reduce": '''def _reduce(combine, values, axis, keepdims=False):
    """Reduction of a tuple of blocks with ``combine``: the last position of its scan."""
    n = values[0].shape[axis]
    scanned = _scan(combine, values, axis)
    last = tuple(lax.slice_in_dim(v, n - 1, n, axis=axis) for v in scanned)
    return last if keepdims else tuple(jnp.squeeze(v, axis) for v in last)
''',
    "_window": '''def _window(x, start, length, axis):
    """``length`` positions of ``x`` from ``start`` on, which need not be aligned; it wraps."""
    n = x.shape[axis]
    rolled = pltpu.roll(x, (n - start) % n, axis)
    return lax.slice_in_dim(rolled, 0, length, axis=axis)
''',
    "_take": '''def _take(x, index, axis):
    """torch.gather: picks by comparing with every position, as there is no gather across lanes."""
    total = jnp.zeros(index.shape, x.dtype)
    for i in range(x.shape[axis]):
        row = lax.slice_in_dim(x, i, i + 1, axis=axis)
        total = jnp.where(index == i, row, total)
    return total
''',
    "_prod": '''def _prod(x, axis, keepdims=False):
    """Product along an axis: the last position of an inclusive scan."""
    (scanned,) = _scan(lambda a, b: (a * b,), (x,), axis)
    last = lax.slice_in_dim(scanned, x.shape[axis] - 1, x.shape[axis], axis=axis)
    return last if keepdims else jnp.squeeze(last, axis)
''',
    "_arg_extreme": '''def _arg_extreme(x, extreme, axis, keepdims=False):
    """First position along ``axis`` of the extreme, for types that jnp.argmax does not take."""
    position = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    found = x == extreme(x, axis=axis, keepdims=True)
    return jnp.min(jnp.where(found, position, x.shape[axis]), axis=axis, keepdims=keepdims)
''',
    "_philox": '''def _philox(seed, offset):
    """First word of Philox4x32-10 (Salmon et al., 2011) of counter ``offset``, key ``seed``."""
    def mulhilo(a, b):
        low = a * b
        a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
        middle = a_high * b_low + ((a_low * b_low) >> 16)
        carry = a_low * b_high + (middle & 0xFFFF)
        return a_high * b_high + (middle >> 16) + (carry >> 16), low

    c0 = offset.astype(jnp.uint32)
    c1 = c2 = c3 = jnp.zeros_like(c0)
    k0, k1 = jnp.asarray(seed).astype(jnp.uint32), jnp.uint32(0)
    for _ in range(10):
        high0, low0 = mulhilo(c0, jnp.uint32(0xD2511F53))
        high1, low1 = mulhilo(c2, jnp.uint32(0xCD9E8D57))
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + jnp.uint32(0x9E3779B9), k1 + jnp.uint32(0xBB67AE85)
    return c0
''',
    "_uniform": '''def _uniform(word):
    """A random word as a float32 in [0, 1)."""
    word = lax.bitcast_convert_type(word, jnp.int32)
    return jnp.where(word < 0, -word - 1, word).astype(jnp.float32) * 4.6566127342e-10
''',
}

USES: dict[str, tuple[str, ...]] = {
    "_mask_tail": ("_select",),
    "_mask_outside": ("_select",),
    "_sinh": ("_expm1",),
    "_prod": ("_scan",),
    "_reduce": ("_scan",),
}


def with_uses(names: set[str]) -> list[str]:
    """The helpers and those they call, in the table's order (a used one first)."""
    wanted = set(names)
    for name in names:
        wanted |= set(USES.get(name, ()))
    return [name for name in HELPERS if name in wanted]
