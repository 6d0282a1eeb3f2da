"""Functions that a generated module defines for what Mosaic has no operation for.

A helper is printed once per module, above the kernels that call it. ``USES`` are the helpers that
one calls itself.
"""

from __future__ import annotations

HELPERS: dict[str, str] = {
    "_NT_DIMS": """_NT_DIMS = (((1,), (1,)), ((), ()))  # of x @ y.T, without turning y
""",
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
    "_to_smem": '''def _to_smem(numbers, staging, scalars, copied):
    """Numbers of a tile to where single ones can be read."""
    staging[...] = numbers
    copy = pltpu.make_async_copy(staging, scalars, copied)
    copy.start()
    copy.wait()
''',
    "_nth": '''def _nth(shape, n):
    """Position number ``n`` of a tile."""
    place = ()
    for size in reversed(shape[1:]):
        n, place = n // size, (n % size, *place)
    return (n, *place)
''',
    "_row": '''def _row(ref, place, start=0, width=None):
    """One row of a buffer, or ``width`` lanes of it from ``start`` on, as a block of one row.

    32-bit rows stand one below the other; narrower ones have an axis of 1 each.
    """
    if ref.dtype.itemsize == 4:
        place = (*place[:-1], pl.ds(place[-1], 1))
    if width is None or width == ref.shape[-1]:
        return ref.at[place]
    whole = (slice(None),) * (ref.ndim - 1 - len(place))
    return ref.at[(*place, *whole, pl.ds(start, width))]
''',
    "_gather_rows": '''def _gather_rows(table, numbers, staging, scalars, copied, buffer, start=0):
    """``buffer[i] = table[numbers[i]]``: rows of a table in HBM, all of them on the way at once."""
    _to_smem(jnp.clip(numbers, 0, table.shape[0] - 1), staging, scalars, copied)

    def copy(n):
        place = _nth(scalars.shape, n)
        row = _row(table, (scalars[place],), start, buffer.shape[-1])
        return pltpu.make_async_copy(row, _row(buffer, place), copied)

    several = 8 if scalars.size % 8 == 0 else 1
    lax.fori_loop(0, scalars.size, lambda n, _: copy(n).start(), None, unroll=several)
    pltpu.make_async_copy(buffer, buffer, copied).wait()  # as many bytes as all of them
''',
    "_scatter_rows": '''\
def _scatter_rows(table, numbers, staging, scalars, copied, buffer, start=0):
    """``table[numbers[i]] = buffer[i]``, in order; rows that there are not are left out."""
    _to_smem(numbers, staging, scalars, copied)

    def store(n, _):
        place = _nth(scalars.shape, n)
        number = scalars[place]

        @pl.when((number >= 0) & (number < table.shape[0]))
        def _():
            row = _row(table, (number,), start, buffer.shape[-1])
            copy = pltpu.make_async_copy(_row(buffer, place), row, copied)
            copy.start()
            copy.wait()

    lax.fori_loop(0, scalars.size, store, None)
''',
    "_update_rows": '''def _update_rows(
    table, numbers, staging, scalars, copied, buffer, values, combine, start=0, lanes=None,
    before=None,
):
    """``table[numbers[i]] = combine(table[numbers[i]], values[i]...)``, one row after the other.

    ``lanes``: the one lane of each row that changes, and where its number is read from.
    ``before``: a buffer for what the rows held.
    """
    _to_smem(numbers, staging, scalars, copied)
    if lanes is not None:
        _to_smem(lanes[0], staging, lanes[1], copied)
    wide = table.dtype
    if wide.itemsize < 4:
        wide = jnp.float32 if jnp.issubdtype(wide, jnp.floating) else jnp.int32

    def update(n, _):
        place = _nth(scalars.shape, n)
        number = scalars[place]

        @pl.when((number >= 0) & (number < table.shape[0]))
        def _():
            row = _row(table, (number,), start, buffer.shape[-1])
            fetch = pltpu.make_async_copy(row, _row(buffer, (0,)), copied)
            fetch.start()
            fetch.wait()
            at = (*place[:-1], pl.ds(place[-1], 1))
            old = buffer[...].astype(wide)
            new = combine(old, *(v[at].reshape(old.shape).astype(wide) for v in values))
            if lanes is not None:
                lane = lax.broadcasted_iota(jnp.int32, old.shape, old.ndim - 1)
                new = jnp.where(lane == lanes[1][place], new, old)
            if before is not None:
                before[at] = buffer[...].reshape(before[at].shape)
            buffer[...] = new.astype(buffer.dtype)
            store = pltpu.make_async_copy(_row(buffer, (0,)), row, copied)
            store.start()
            store.wait()

    lax.fori_loop(0, scalars.size, update, None)
''',
    "_replaced": '''def _replaced(old, new):
    """What an exchange leaves."""
    return new
''',
    "_replaced_if": '''def _replaced_if(old, expected, new):
    """What a compare-and-swap leaves."""
    return jnp.where(old == expected, new, old)
''',
    "_pick_lane": '''def _pick_lane(rows, lane):
    """One lane of each row."""
    wide = jnp.float32 if jnp.issubdtype(rows.dtype, jnp.floating) else jnp.int32
    here = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1) == lane[..., None]
    return jnp.sum(jnp.where(here, rows.astype(wide), 0), axis=-1).astype(rows.dtype)
''',
    "_take": '''def _take(x, index, axis):
    """torch.gather: picks by comparing with every position, as there is no gather across lanes."""
    n = x.shape[axis]
    wide = jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32
    position = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    x_wide = x.astype(wide)

    def pick(i, total):
        row = jnp.sum(jnp.where(position == i, x_wide, 0), axis=axis, keepdims=True)
        return jnp.where(index == i, row, total)

    picked = lax.fori_loop(0, n, pick, jnp.zeros(index.shape, wide), unroll=n <= 16)
    return picked.astype(x.dtype)
''',
    "_sort": '''def _sort(x, descending=False, k=None):
    """Values and positions along the last axis, sorted stably by a bitonic network (Batcher, 1968);
    the first ``k`` of them. Keys are integers in the order of the numbers, NaN the greatest."""
    n = x.shape[-1]
    size = max(128, 1 << (n - 1).bit_length())
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    key = x.astype(jnp.float32) + 0.0 if floating else x.astype(jnp.int32)
    key = lax.bitcast_convert_type(key, jnp.int32)
    key = jnp.where(key < 0, key ^ 0x7FFFFFFF, key) if floating else key
    key = ~key if descending else key
    last = jnp.full((*x.shape[:-1], size - n), 0x7FFFFFFF, jnp.int32)
    key = jnp.concatenate([key, last], axis=-1) if size > n else key
    position = lane = lax.broadcasted_iota(jnp.int32, key.shape, key.ndim - 1)
    span = 2
    while span <= size:
        step = span // 2
        while step:
            upper = (lane & step) != 0
            other, other_position = (
                jnp.where(upper, *(pltpu.roll(v, by, v.ndim - 1) for by in (step, size - step)))
                for v in (key, position)
            )
            before = (key < other) | ((key == other) & (position < other_position))
            stays = before ^ (((lane // step) ^ (lane // span)) % 2 != 0)
            key = jnp.where(stays, key, other)
            position = jnp.where(stays, position, other_position)
            step //= 2
        span *= 2
    key = ~key if descending else key
    key = jnp.where(key < 0, key ^ 0x7FFFFFFF, key) if floating else key
    value = lax.bitcast_convert_type(key, jnp.float32 if floating else jnp.int32)
    return value[..., : k or n].astype(x.dtype), position[..., : k or n]
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
    "_gather_rows": ("_to_smem", "_nth", "_row"),
    "_scatter_rows": ("_to_smem", "_nth", "_row"),
    "_update_rows": ("_to_smem", "_nth", "_row"),
}


def with_uses(names: set[str]) -> list[str]:
    """The helpers and those they call, in the table's order (a used one first)."""
    wanted = set(names)
    for name in names:
        wanted |= set(USES.get(name, ()))
    return [name for name in HELPERS if name in wanted]
