"""Accesses through index tiles: rows of a tensor in HBM, copied one by one.

The vector unit has no gather and no scatter, the copy engines address any row. So a tensor that is
accessed through an index tile stays in HBM as a matrix of rows; the numbers of the rows go to SMEM,
where the kernel can read them, and one copy is started for each. An element is a lane of a row of
128 (``kt.lanes`` makes those). A row that is updated is copied in, changed, and copied back, one
after the other: grid steps run in order, so that needs no atomics.

Rows that a guard or a mask excludes have number -1. A gather reads row 0 for them and the load
fills in what the mask says; a scatter leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.tree import (
    ADD,
    ATOM,
    FLOOR,
    MUL,
    Eval,
    Expr,
    Var,
    binary,
    call,
    lit,
    postfix,
    ref,
)
from transpile.emitters.pallas.context import Context
from transpile.emitters.pallas.dtypes import NAMES, bytes_of, on_device
from transpile.emitters.pallas.windows import Access, by_elements
from transpile.ir import ir
from transpile.ir.dtypes import BOOL, I32, DType
from transpile.ir.ir import TileType, Value
from transpile.ir.sizes import ONE, Size
from transpile.ir.walk import entry_axes, index_shape

LANES = 128


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of an access are: their numbers, of shape ``shape``, and the part of a row.

    ``width`` lanes from ``start`` on; for single elements, ``lane`` has the one of each row.
    """

    shape: tuple[Size, ...]
    numbers: Expr
    start: Expr
    width: Size
    lane: Expr | None = None


def lower_gathered(ctx: Context, op: ir.Load) -> Expr:
    """A load whose index tiles pick rows or elements."""
    window = ctx.windows.of[op]
    _check(ctx, op)
    place = _place(ctx, op)
    dtype = on_device(op.tensor.dtype)
    buffer = _buffer(ctx, f"{op.tensor.name}_rows", place, dtype)
    index = _index(ctx, place.shape)
    ctx.helpers.add("_gather_rows")
    numbers = ctx.coerce(place.numbers, TileType(I32, place.shape))
    arguments = [ref(window.ref), numbers, *index, ref(buffer)]
    if place.start.text() != "0":
        arguments.append(place.start)
    ctx.emit(Eval(call("_gather_rows", *arguments)))
    return _picked(ctx, buffer, place, dtype)


def _picked(ctx: Context, buffer: Var, place: Place, dtype: DType) -> Expr:
    """What an access reads, from a buffer of its rows."""
    shape = (*place.shape, place.width)
    rows = Expr("{0}[...]", (ref(buffer),), (ATOM,), dtype=dtype, shape=shape, is_load=True)
    if _is_narrow(dtype):
        rows = postfix(rows, ".squeeze(-2)", dtype, shape)
    if place.lane is None:
        return rows
    ctx.helpers.add("_pick_lane")
    lane = ctx.coerce(place.lane, TileType(I32, place.shape))
    return call("_pick_lane", rows, lane, dtype=dtype, shape=place.shape)


def scatter(ctx: Context, op: ir.Store | ir.Atomic, value: Expr) -> None:
    """A store or an atomic whose index tiles pick rows or elements."""
    window = ctx.windows.of[op]
    _check(ctx, op)
    place = _place(ctx, op)
    dtype = on_device(op.tensor.dtype)
    index = _index(ctx, place.shape)
    numbers, inside = _without(ctx, op, place)
    kind = op.kind if isinstance(op, ir.Atomic) else "xchg"
    if inside is not None and not (kind == "add" and place.lane is None):
        raise ctx.unsupported(
            f"this scatter to `{op.tensor.name}`", op.span,
            "its mask excludes parts of rows", "mask whole rows, or update with hl.atomic_add",
        )  # fmt: skip
    if inside is not None:
        value = ctx.select(inside, value, lit("0.0" if dtype.is_float else "0"), dtype)
    values = [_filled(ctx, f"{op.tensor.name}_values", place, dtype, value)]
    if isinstance(op, ir.Atomic) and op.expected is not None:
        expected = ctx.expr(op.expected)
        values.insert(0, _filled(ctx, f"{op.tensor.name}_expected", place, dtype, expected))
    numbers = ctx.coerce(numbers, TileType(I32, place.shape))
    arguments = [ref(window.ref), numbers, *index]
    start = [place.start] if place.start.text() != "0" else []
    if kind == "xchg" and place.lane is None and not _is_read(ctx, op):
        ctx.helpers.add("_scatter_rows")
        ctx.emit(Eval(call("_scatter_rows", *arguments, ref(values[0]), *start)))
        return
    _update(ctx, op, place, kind, arguments, values)


def _is_read(ctx: Context, op: ir.Store | ir.Atomic) -> bool:
    return bool(op.results) and ctx.uses.get(op.result) is not None


_UPDATES = {
    "add": "jnp.add", "max": "jnp.maximum", "min": "jnp.minimum", "and": "jnp.bitwise_and",
    "or": "jnp.bitwise_or", "xor": "jnp.bitwise_xor", "xchg": "_replaced", "cas": "_replaced_if",
}  # fmt: skip


def _update(
    ctx: Context, op: ir.Store | ir.Atomic, place: Place, kind: str, arguments: list[Expr],
    values: list[Var],
) -> None:  # fmt: skip
    dtype = on_device(op.tensor.dtype)
    ctx.helpers |= {"_update_rows", *(h for h in [_UPDATES[kind]] if h.startswith("_"))}
    one = Place((), lit("0"), lit("0"), place.width)
    row = _buffer(ctx, f"{op.tensor.name}_row", one, dtype, (ONE,))
    slots = ", ".join(f"{{{i}}}" for i in range(len(values)))
    comma = "," if len(values) == 1 else ""
    packed = Expr(f"({slots}{comma})", tuple(map(ref, values)), (0,) * len(values))
    arguments = [*arguments, ref(row), packed, lit(_UPDATES[kind])]
    if place.start.text() != "0":
        arguments.append(_keyword("start", place.start))
    if place.lane is not None:
        lanes = _scalars(ctx, "lane_ref", place.shape)
        lane = ctx.coerce(place.lane, TileType(I32, place.shape))
        arguments.append(_keyword("lanes", Expr("({0}, {1})", (lane, ref(lanes)), (0, 0))))
    before = None
    if _is_read(ctx, op):
        before = _buffer(ctx, f"{op.tensor.name}_before", place, dtype)
        arguments.append(_keyword("before", ref(before)))
    ctx.emit(Eval(call("_update_rows", *arguments)))
    if before is not None:
        ctx.assign(op.result, _picked(ctx, before, place, dtype), "previous")


def _keyword(name: str, value: Expr) -> Expr:
    return Expr(f"{name}={{0}}", (value,), (0,))


# -- what an access needs --------------------------------------------------------------------------


def _check(ctx: Context, op: Access) -> None:
    """Refuse what no copy of rows can do."""
    if op.tensor.dtype == BOOL:
        raise ctx.unsupported(
            f"an index tile into the truth values of `{op.tensor.name}`", op.span,
            "copies move rows of numbers", "pass it as int8",
        )  # fmt: skip
    last = op.index[-1]
    partial = isinstance(last, ir.AtTile) and last.offset is not None
    if isinstance(last, ir.AtSlice):
        partial = last.start is not None
    if partial and not by_elements(op):
        raise ctx.unsupported(
            f"a part of the rows of `{op.tensor.name}` that an index tile picks", op.span,
            "a copy begins at a whole tile of 128 lanes", "index the last dimension with a tile",
        )  # fmt: skip


def _place(ctx: Context, op: Access) -> Place:
    """The rows of an access, from its index."""
    shape = index_shape(op.index)
    axes = entry_axes(op.index)
    extents = op.tensor.shape
    if by_elements(op):
        flat = _flat(ctx, op.index, axes, extents, shape)
        flat = ctx.let("position", flat, "drop")
        numbers = Expr(f"{{0}} // {LANES}", (flat,), (FLOOR,), FLOOR, dtype=I32, shape=flat.shape)
        lane = Expr(f"{{0}} % {LANES}", (flat,), (MUL,), MUL, dtype=I32, shape=flat.shape)
        return Place(shape, numbers, lit("0"), Size.of(LANES), lane)
    lead = shape[:-1]
    flat = _flat(ctx, op.index[:-1], axes[:-1], extents[:-1], lead)
    last = op.index[-1]
    if isinstance(last, ir.AtTile):
        tile = ctx.tiles[last.tile]
        return Place(lead, flat, tile.begin, Size.of(tile.block))
    return Place(lead, flat, lit("0"), extents[-1])


def _flat(
    ctx: Context, entries: tuple[ir.Index, ...], axes: tuple[tuple[int, ...], ...],
    extents: tuple[Size, ...], shape: tuple[Size, ...],
) -> Expr:  # fmt: skip
    """Row-major position of what the entries index, broadcast to ``shape``."""
    total: Expr | None = None
    stride = ONE
    for entry, dims, extent in reversed(list(zip(entries, axes, extents, strict=True))):
        part = _coordinate(ctx, entry, dims, shape)
        if stride != ONE:
            part = binary("*", part, ctx.size(stride), MUL, I32, part.shape)
        if total is None:
            total = part
        elif part.text() != "0":
            total = binary("+", part, total, ADD, I32, ctx.broadcast(part, total))
        stride = stride * extent
    assert total is not None
    return total


def _coordinate(
    ctx: Context, entry: ir.Index, dims: tuple[int, ...], shape: tuple[Size, ...]
) -> Expr:
    """Positions along one dimension, as a tile that broadcasts with ``shape``."""
    match entry:
        case ir.AtScalar(value=value):
            return ctx.expr(value)
        case ir.AtTile(tile=tile, offset=offset):
            line = _line(shape, dims[0])
            at = ctx.positions(ctx.tiles[tile], line, dims[0])
            return at if offset is None else binary("+", at, ctx.expr(offset), ADD, I32, line)
        case ir.AtSlice(start=start):
            line = _line(shape, dims[0])
            at = ctx.lanes(line, dims[0])
            return at if start is None else binary("+", ctx.expr(start), at, ADD, I32, line)
        case ir.AtTensor(value=value):
            return _spread(ctx, ctx.exact(value), value.shape, dims, len(shape))


def _line(shape: tuple[Size, ...], dim: int) -> tuple[Size, ...]:
    return tuple(s if d == dim else ONE for d, s in enumerate(shape))


def _spread(
    ctx: Context, index: Expr, have: tuple[Size, ...], dims: tuple[int, ...], rank: int
) -> Expr:
    """An index tile whose axes stand at ``dims`` of ``rank`` axes."""
    del ctx
    if len(dims) == rank:
        return index
    items = [":" if d in dims else "None" for d in range(rank)]
    places = iter(have)
    shape = tuple(next(places) if d in dims else ONE for d in range(rank))
    return postfix(index, f"[{', '.join(items)}]", I32, shape)


def _without(ctx: Context, op: Access, place: Place) -> tuple[Expr, Expr | None]:
    """Numbers of rows, -1 for those that guards and masks leave out; and the mask of the lanes."""
    from transpile.emitters.pallas.memory import extra_mask

    shape = index_shape(op.index)
    rank = len(place.shape)
    masks = [
        ctx.in_range(ctx.tiles[g.tile], place.shape, g.dim)
        for g in op.guards
        if g.tile is not None and g.dim < rank
    ]
    inside = None
    mask = extra_mask(ctx, op)
    if mask is not None:
        lead = len(shape) - len(mask.shape)
        if rank == len(shape) or not mask.shape:
            masks.append(mask)
        elif lead == 0 and mask.shape[-1] == ONE:
            masks.append(postfix(mask, "[..., 0]", BOOL, mask.shape[:-1]))
        else:
            inside = mask
    if not masks:
        return place.numbers, inside
    number = lit("-1")
    return ctx.select(ctx.conjunction(masks), place.numbers, number, I32), inside


# -- scratch ---------------------------------------------------------------------------------------


def _is_narrow(dtype: DType) -> bool:
    """True for types whose rows share 32-bit words with others: they get an axis of 1."""
    return bytes_of(dtype) < 4


def _buffer(
    ctx: Context, name: str, place: Place, dtype: DType, lead: tuple[Size, ...] | None = None
) -> Var:
    """Scratch for the rows of an access."""
    shape = (*(place.shape if lead is None else lead), place.width)
    if _is_narrow(dtype):
        shape = (*shape[:-1], ONE, shape[-1])
    var = Var(f"{name}_ref")
    text = f"pltpu.VMEM({{0}}, {NAMES[dtype]})"
    ctx.scratch.append((var, Expr(text, (ctx.shape(shape),), (0,))))
    ctx.scratch_values[var] = Value(TileType(dtype, shape))
    return var


def _index(ctx: Context, shape: tuple[Size, ...]) -> list[Expr]:
    """Scratch for the numbers: in VMEM, in SMEM; and the semaphore of the copies."""
    wide = _shared(
        ctx, "numbers_ref", Expr("pltpu.VMEM({0}, jnp.int32)", (ctx.shape(shape),), (0,))
    )
    ctx.scratch_values[wide] = Value(TileType(I32, shape))
    scalars = _scalars(ctx, "index_ref", shape)
    done = _shared(ctx, "copied", lit("pltpu.SemaphoreType.DMA"))
    return [ref(wide), ref(scalars), ref(done)]


def _scalars(ctx: Context, name: str, shape: tuple[Size, ...]) -> Var:
    return _shared(ctx, name, Expr("pltpu.SMEM({0}, jnp.int32)", (ctx.shape(shape),), (0,)))


def _shared(ctx: Context, name: str, made: Expr) -> Var:
    """Scratch that is in use only while a helper runs: one for all that want such a one."""
    for var, known in ctx.scratch:
        if var.hint == name and known.text() == made.text():
            return var
    ctx.scratch.append((Var(name), made))
    return ctx.scratch[-1][0]


def _filled(ctx: Context, name: str, place: Place, dtype: DType, value: Expr) -> Var:
    """A buffer with the rows of a value; an element's is the same in all lanes."""
    buffer = _buffer(ctx, name, place, dtype)
    whole = (*place.shape, place.width)
    value = ctx.cast(value, dtype)
    if place.lane is not None and value.shape:
        value = postfix(ctx.coerce(value, TileType(dtype, place.shape)), "[..., None]", dtype,
                        (*place.shape, ONE))  # fmt: skip
    value = ctx.coerce(value, TileType(dtype, whole))
    target = Expr("{0}[...]", (ref(buffer),), (ATOM,))
    if _is_narrow(dtype):
        value = postfix(value, "[..., None, :]", dtype, whole)
    ctx.emit(Eval(Expr("{0} = {1}", (target, value), (0, 0))))
    return buffer
