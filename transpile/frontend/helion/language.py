"""``helion.language`` and ``helion`` functions inside expressions (loops are statements).

``DEVICE`` holds what device code may call, ``HOST`` what the host program may; names are relative
to ``helion.language``, those of the ``helion`` package itself carry the prefix ``helion.``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from transpile.frontend import torch_device as td
from transpile.frontend.builder import describe
from transpile.frontend.symbolic import simplified
from transpile.frontend.values import Function, HostNumber, HostTensor, Known, Tile
from transpile.ir import ir
from transpile.ir.dtypes import F32, I32, I64
from transpile.ir.sizes import Size

if TYPE_CHECKING:
    from transpile.frontend.helion.lowering import Lowering

Handler = Callable[..., Any]
DEVICE: dict[str, Handler] = {}
HOST: dict[str, Handler] = {}


def device(*names: str) -> Callable[[Handler], Handler]:
    """Register a function of device code."""

    def register(f: Handler) -> Handler:
        for name in names:
            DEVICE[name] = f
        return f

    return register


def host(*names: str) -> Callable[[Handler], Handler]:
    """Register a function of the host program."""

    def register(f: Handler) -> Handler:
        for name in names:
            HOST[name] = f
        return f

    return register


# -- creation ----------------------------------------------------------------------------------


@device("zeros")
def _zeros(ev: Lowering, shape: Any, dtype: Any = F32, device: Any = None) -> Any:
    return ev.b.full(td.as_shape(ev, shape), 0, dtype)


@device("full")
def _full(ev: Lowering, shape: Any, value: Any, dtype: Any = F32, device: Any = None) -> Any:
    return ev.b.full(td.as_shape(ev, shape), value, dtype)


@device("arange")
def _arange(ev: Lowering, *args: Any, dtype: Any = None, **kw: Any) -> Any:
    return td.FUNCTIONS["arange"](ev, *args, dtype=dtype)


# -- memory ------------------------------------------------------------------------------------


def _index_list(index: Any) -> list[Any]:
    return list(index) if isinstance(index, (list, tuple)) else [index]


def _host_tensor(ev: Lowering, x: Any, what: str) -> HostTensor:
    if not isinstance(x, HostTensor):
        ev.fail("KT0413", f"{what} of {describe(x)}", remedy="pass a tensor of the host program")
    return x


@device("load")
def _load(
    ev: Lowering, tensor: Any, index: Any, extra_mask: Any = None, eviction_policy: Any = None
) -> Any:
    tensor = _host_tensor(ev, tensor, "hl.load")
    return ev.load(tensor, _index_list(index), mask=extra_mask, eviction=eviction_policy or "")


@device("store")
def _store(ev: Lowering, tensor: Any, index: Any, value: Any, extra_mask: Any = None) -> None:
    tensor = _host_tensor(ev, tensor, "hl.store")
    ev.store(tensor, _index_list(index), value, mask=extra_mask)


def _atomic(kind: str) -> Handler:
    def run(
        ev: Lowering, target: Any, index: Any, *values: Any, sem: str = "relaxed", **kw: Any
    ) -> Any:
        target = _host_tensor(ev, target, f"hl.atomic_{kind}")
        operands = [*values, *[kw[k] for k in ("expected", "value") if k in kw]]
        if operands and isinstance(operands[-1], str):
            sem = operands.pop()
        return ev.atomic(kind, target, _index_list(index), operands, sem)

    return run


for _kind in ("add", "and", "or", "xor", "xchg", "max", "min", "cas"):
    DEVICE[f"atomic_{_kind}"] = _atomic(_kind)


# -- products, reductions, scans -----------------------------------------------------------------


@device("dot")
def _dot(ev: Lowering, mat1: Any, mat2: Any, acc: Any = None, out_dtype: Any = None) -> Any:
    if acc is None and out_dtype is None:
        out_dtype = I32 if mat1.dtype.is_int else F32
    return ev.b.dot(mat1, mat2, acc, out_dtype, ev.dot_precision)


def _combine(ev: Lowering, func: Any, values: Sequence[ir.Value]) -> ir.Block:
    """The user's combine as a block over scalars (lhs..., rhs...)."""
    if not isinstance(func, (Function, Known)):
        ev.fail("KT0414", f"{describe(func)} as a combine function", remedy="pass a function")
    params = tuple(ev.b.new(v.dtype) for v in (*values, *values))
    half = len(values)
    with ev.b.region() as ops:
        yields = _combined(ev, func, params[:half], params[half:])
    return ir.Block(params, ops, yields)


def _combined(
    ev: Lowering, func: Any, lhs: Sequence[ir.Value], rhs: Sequence[ir.Value]
) -> tuple[ir.Value, ...]:
    """What the user's combine gives for two tuples of scalars."""
    if len(lhs) == 1:
        result = ev.call(func, [lhs[0], rhs[0]], {}, ev.node)
    elif ev.takes(func, 2 * len(lhs)):
        result = ev.call(func, [*lhs, *rhs], {}, ev.node)
    else:
        result = ev.call(func, [tuple(lhs), tuple(rhs)], {}, ev.node)
    parts = list(result) if isinstance(result, (list, tuple)) else [result]
    return tuple(ev.b.cast(ev.b.scalar(p), v.dtype) for p, v in zip(parts, lhs, strict=True))


def _combine_present(ev: Lowering, func: Any, values: Sequence[ir.Value]) -> ir.Block:
    """The same for tuples that begin with whether their element exists: one that does not leaves
    the other as it is."""
    if not isinstance(func, (Function, Known)):
        ev.fail("KT0414", f"{describe(func)} as a combine function", remedy="pass a function")
    params = tuple(ev.b.new(v.dtype) for v in (*values, *values))
    (here, *lhs), (there, *rhs) = params[: len(values)], params[len(values) :]
    b = ev.b
    with b.region() as ops:
        both = b.elementwise("ne", b.elementwise("and", here, there), 0)
        first = b.elementwise("ne", here, 0)
        combined = _combined(ev, func, lhs, rhs)
        chosen = [
            b.elementwise("where", both, new, b.elementwise("where", first, old, other))
            for new, old, other in zip(combined, lhs, rhs, strict=True)
        ]
        yields = (b.elementwise("or", here, there), *chosen)
    return ir.Block(params, ops, yields)


def _tiles(ev: Lowering, x: Any) -> tuple[ir.Value, ...]:
    values = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    for value in values:
        if not isinstance(value, ir.Value):
            ev.fail("KT0401", f"expected a tile, found {describe(value)}")
    shape = ev.b.broadcast_shape([v.shape for v in values])
    return tuple(ev.b.broadcast(v, shape) for v in values)


@device("reduce")
def _reduce(
    ev: Lowering,
    combine_fn: Any,
    input_tensor: Any,
    dim: Any = None,
    other: Any = 0,
    keep_dims: bool = False,
) -> Any:
    values = _tiles(ev, input_tensor)
    if dim is None and len(values[0].shape) != 1:
        ev.fail("KT0514", "hl.reduce over all axes", remedy="name one axis with dim=")
    axis = ev.b.axis(values[0], 0 if dim is None else dim)
    others = other if isinstance(other, (list, tuple)) else [other] * len(values)
    masked = tuple(ev.b.mask_to(v, axis, o) for v, o in zip(values, others, strict=True))
    combine = _combine(ev, combine_fn, masked)
    shape = list(values[0].shape)
    shape[axis : axis + 1] = [Size.of(1)] if keep_dims else []
    results = tuple(ev.b.new(v.dtype, shape) for v in masked)
    ev.b.emit(
        ir.ReduceWith(results=results, values=masked, dim=axis, combine=combine, keepdim=keep_dims)
    )
    return results if isinstance(input_tensor, (list, tuple)) else results[0]


@device("associative_scan")
def _associative_scan(
    ev: Lowering, combine_fn: Any, input_tensor: Any, dim: Any, reverse: bool = False
) -> Any:
    values = _tiles(ev, input_tensor)
    axis = ev.b.axis(values[0], dim)
    whole = ev.b.full(values[0].shape, 1, I32) if reverse else values[0]
    present = ev.b.mask_to(whole, axis, 0) if reverse else whole
    if present is whole:
        combine = _combine(ev, combine_fn, values)
    else:  # it begins with lanes beyond the end, for which the function has no neutral value
        values = (present, *values)
        combine = _combine_present(ev, combine_fn, values)
    results = tuple(ev.b.new(v.dtype, v.shape) for v in values)
    ev.b.emit(ir.Scan(results=results, values=values, dim=axis, combine=combine, reverse=reverse))
    found = results if present is whole else results[1:]
    return found if isinstance(input_tensor, (list, tuple)) else found[0]


@device("cumsum")
def _cumsum(ev: Lowering, x: Any, dim: Any, reverse: bool = False) -> Any:
    return td.scan(ev, x, "sum", dim, reverse)


@device("cumprod")
def _cumprod(ev: Lowering, x: Any, dim: Any, reverse: bool = False) -> Any:
    return td.scan(ev, x, "prod", dim, reverse)


@device("join")
def _join(ev: Lowering, lhs: Any, rhs: Any) -> Any:
    return td.join(ev, lhs, rhs)


@device("split")
def _split(ev: Lowering, x: Any) -> Any:
    return td.split(ev, x)


@device("subscript")
def _subscript(ev: Lowering, x: Any, index: Any) -> Any:
    return ev.subscript(x, _index_list(index))


# -- tiles -------------------------------------------------------------------------------------


def _tile_attribute(name: str) -> Handler:
    def run(ev: Lowering, tile: Any) -> Any:
        if not isinstance(tile, Tile):
            ev.fail("KT0415", f"hl.tile_{name} of {describe(tile)}", remedy="pass a tile")
        return ev.attribute(tile, name)

    return run


for _name in ("index", "begin", "end", "block_size", "id"):
    DEVICE[f"tile_{_name}"] = _tile_attribute(_name)


# -- random numbers ------------------------------------------------------------------------------


def _linear_offset(ev: Lowering, shape: tuple[Size, ...]) -> ir.Value:
    """Row-major position of each lane in the whole iteration space, so that numbers do not depend
    on the block sizes (Helion's rule)."""
    b = ev.b
    offset: ir.Value | None = None
    for dim, axis in enumerate(shape):
        tile = b.active_tile(axis)
        if tile is not None:
            index = b.emit(ir.TileIndex(results=(b.new(b.index_dtype, (axis,)),), tile=tile.value))
            extent = tile.end
        else:
            index = b.emit(ir.Iota(results=(b.new(b.index_dtype, (axis,)),)))
            extent = axis
        lanes = b.reshape(index, tuple(axis if i == dim else Size.of(1) for i in range(len(shape))))
        if offset is None:
            offset = lanes
        else:
            offset = b.elementwise("add", b.elementwise("mul", offset, extent), lanes)
    assert offset is not None
    return offset


def _seed(ev: Lowering, seed: Any) -> ir.Value:
    """The key has 64 bits, so a seed of the host keeps all of its own."""
    if isinstance(seed, Size) and seed.as_int() is None:
        return ev.b.emit(ir.SizeOf(results=(ev.b.new(I64),), size=seed))  # type: ignore[no-any-return]
    return ev.b.const(seed, I64) if isinstance(seed, int) else ev.b.scalar(seed)


@device("rand")
def _rand(ev: Lowering, shape: Any, seed: Any, device: Any = None, offsets: Any = None) -> Any:
    sizes = td.as_shape(ev, shape)
    where = offsets if offsets is not None else _linear_offset(ev, sizes)
    seed_value = _seed(ev, seed)
    return ev.b.emit(
        ir.Random(
            results=(ev.b.new(F32, where.shape),), kind="uniform", seed=seed_value, offset=where
        )
    )


@device("randint")
def _randint(ev: Lowering, shape: Any, low: Any, high: Any, seed: Any, device: Any = None) -> Any:
    b = ev.b
    where = _linear_offset(ev, td.as_shape(ev, shape))
    bits = b.emit(
        ir.Random(
            results=(b.new(I32, where.shape),), kind="int", seed=_seed(ev, seed), offset=where
        )
    )
    span = b.arith("sub", high, low) if not isinstance(high, int) else high - low
    return b.elementwise("add", b.elementwise("mod", b.elementwise("abs", bits), span), low)


# -- inline target code --------------------------------------------------------------------------


@device("inline_asm_elementwise")
def _inline_asm(
    ev: Lowering,
    asm: str,
    constraints: str,
    args: Any,
    dtype: Any,
    is_pure: bool = True,
    pack: int = 1,
) -> Any:
    values = _tiles(ev, list(args))
    dtypes = list(dtype) if isinstance(dtype, (list, tuple)) else [dtype]
    results = tuple(ev.b.new(d, values[0].shape) for d in dtypes)
    attrs = {"constraints": constraints, "is_pure": is_pure, "pack": pack}
    ev.b.emit(
        ir.Inline(
            results=results,
            targets=("triton", "cute"),
            kind="asm",
            code=asm,
            args=values,
            attrs=attrs,
        )
    )
    return results if len(results) > 1 else results[0]


@device("inline_triton")
def _inline_triton(ev: Lowering, source: str, args: Any, output_like: Any) -> Any:
    values = tuple(ev.b.scalar(a) for a in (args.values() if isinstance(args, dict) else args))
    attrs = {"names": list(args)} if isinstance(args, dict) else {}
    outputs = output_like if isinstance(output_like, (list, tuple)) else [output_like]
    results = tuple(ev.b.new(o.dtype, o.shape) for o in outputs if isinstance(o, ir.Value))
    ev.b.emit(
        ir.Inline(
            results=results,
            targets=("triton",),
            kind="triton",
            code=source,
            args=values,
            attrs=attrs,
        )
    )
    return results if len(results) != 1 else results[0]


@device("device_print")
def _device_print(ev: Lowering, *_: Any, **__: Any) -> None:
    return None


# -- both sides ----------------------------------------------------------------------------------


@device("helion.cdiv", "cdiv")
@host("helion.cdiv", "cdiv")
def _cdiv(ev: Lowering, a: Any, b: Any) -> Any:
    if isinstance(a, (int, Size)) and isinstance(b, (int, Size)):
        return simplified(Size.of(a).ceildiv(b))
    if ev.on_device:
        up = ev.b.arith("sub", ev.b.arith("add", a, b), 1)
        return ev.b.arith("floordiv", up, b)
    return HostNumber(I64)


@device("helion.next_power_of_2")
@host("helion.next_power_of_2")
def _next_power_of_2(ev: Lowering, n: Any) -> Any:
    if isinstance(n, int):
        return 1 << max(0, n - 1).bit_length()
    return HostNumber(I64)


@device("specialize")
@host("specialize")
def _specialize(ev: Lowering, value: Any) -> Any:
    return value


@device("constexpr")
@host("constexpr")
def _constexpr(ev: Lowering, value: Any) -> Any:
    return value


# -- host only -----------------------------------------------------------------------------------


@host("register_block_size")
def _register_block_size(ev: Lowering, *bounds: Any) -> Any:
    minimum, maximum = (1, bounds[0]) if len(bounds) == 1 else bounds[:2]
    top = Size.of(maximum) if isinstance(maximum, (int, Size)) else None
    block = ev.blocks.register(ev.node, ev.target_hint, minimum, top)
    return Size.of(block.sym)


@host("register_tunable")
def _register_tunable(ev: Lowering, name: str, fragment: Any) -> Any:
    value = ev.config.get(name, fragment)
    ev.tunables[name] = value
    return value


def _fragment_low(ev: Lowering, low: Any, high: Any = None, default: Any = None, **kw: Any) -> Any:
    default = kw.get("default_val", default)
    return low if default is None else default


for _fragment in ("PowerOfTwoFragment", "IntegerFragment"):
    HOST[f"helion.autotuner.{_fragment}"] = _fragment_low


@host("helion.autotuner.EnumFragment")
def _enum_fragment(ev: Lowering, choices: Any, **kw: Any) -> Any:
    return choices[0]


@host("helion.autotuner.BooleanFragment")
def _boolean_fragment(ev: Lowering, **kw: Any) -> Any:
    return False


@host("helion.runtime.get_num_sm")
def _get_num_sm(ev: Lowering, *_: Any) -> Any:
    return HostNumber(I64)


@host("barrier")
def _barrier(ev: Lowering) -> None:
    return None


@host("helion.Config")
def _config(ev: Lowering, config: Any = None, **kw: Any) -> Any:
    return {**(config if isinstance(config, dict) else {}), **kw}


@host("helion.Config.from_dict", "helion.from_dict")
def _config_from_dict(ev: Lowering, config: Any) -> Any:
    return config
