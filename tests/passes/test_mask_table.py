"""Which masks and guards stay, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ir import samples
from tests.ir.builder import KernelBuilder
from transpile.ir import ir
from transpile.ir.dtypes import BF16, BOOL, F16, F32, I32, I64, DType
from transpile.ir.ir import Guard, Kernel, Value
from transpile.ir.sizes import Size, Sym
from transpile.ir.verifier import verify
from transpile.ir.walk import walk_kernel
from transpile.passes.analysis import analyse
from transpile.passes.masks import remove_masks

BLOCKS = {Sym(name, "block"): 16 for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "B")}


def left(kernel: Kernel, pads: bool = True) -> tuple[list[str], list[str]]:
    """What masks guard, and what loads and stores guard: ``tile_m`` or ``extent``."""
    kernel = remove_masks(kernel, BLOCKS, pads)
    verify(kernel)
    masks, accesses = [], []
    for op in walk_kernel(kernel):
        if isinstance(op, (ir.Mask, ir.Load, ir.Store, ir.Atomic)):
            text = ", ".join("extent" if g.tile is None else str(g.tile.name) for g in op.guards)
            (masks if isinstance(op, ir.Mask) else accesses).append(text)
    return masks, accesses


@pytest.mark.parametrize(
    ("make", "pads", "masks", "accesses"),
    [
        (samples.add, True, [], ["tile_m, tile_n"] * 3),
        (samples.row_sum, True, [], ["tile_m, extent", "tile_m"]),
        (samples.row_sum, False, [], ["tile_m", "tile_m"]),
        (lambda: samples.row_sum(n=64), True, [], ["tile_m", "tile_m"]),
        (lambda: samples.row_sum(n=48), True, [], ["tile_m, extent", "tile_m"]),
        (samples.softmax, True, ["extent", "extent"], ["tile_m, extent"] * 2),
        (samples.softmax, False, [], ["tile_m"] * 2),
        (samples.matmul, True, [], ["tile_m, tile_k", "tile_k, tile_n", "tile_m, tile_n"]),
        (samples.long_sum, True, [], ["tile_m, tile_n", "tile_m"]),
        (samples.two_pass_softmax, True, ["tile_n", "tile_n"], ["tile_m, tile_n"] * 3),
    ],
)  # fmt: skip
def test_samples(
    make: Callable[[], Kernel], pads: bool, masks: list[str], accesses: list[str]
) -> None:
    assert left(make(), pads) == (masks, accesses)


# -- where a ragged end is possible --------------------------------------------------------------


def loop_over(
    begin: Callable[[KernelBuilder, Value], Value],
    end: Callable[[KernelBuilder, Value], Value],
    *,
    multiple_of: int = 1,
    inner: int = 16,
    outer: int = 16,
) -> bool:
    """Whether ``for t in hl.tile(begin, end, block_size=inner)`` may have a ragged last tile,
    inside ``for tile in hl.tile(M, block_size=outer)``."""
    b = KernelBuilder()
    m = b.dim("M", multiple_of)
    bm, bi = b.block("B_OUTER"), b.block("B_INNER")
    x = b.tensor("x", F32, m)
    with b.grid(tile=(bm, m)) as (tile,):
        bounds = begin(b, tile), end(b, tile)
        with b.for_tile(bi, *bounds, name="t") as loop:
            b.store(x, (loop.var,), b.const(0.0))
    kernel = b.build()
    kernel = remove_masks(kernel, {bm: outer, bi: inner}, pads_size_axes=True)
    verify(kernel)
    (store,) = [op for op in walk_kernel(kernel) if isinstance(op, ir.Store)]
    return bool(store.guards)


def _begin(b: KernelBuilder, tile: Value) -> Value:
    return b.attr(tile, "begin")


def _end(b: KernelBuilder, tile: Value) -> Value:
    return b.attr(tile, "end")


def _zero(b: KernelBuilder, tile: Value) -> Value:
    return b.const(0)


def _dim(b: KernelBuilder, tile: Value) -> Value:
    return b.size(b.dim("M", b.facts.get(Sym("M", "dim"), 1)))


def _causal(b: KernelBuilder, tile: Value) -> Value:
    """``(tile.id + 1) * outer block``"""
    block = b.size(Size.of(tile.type.block))  # type: ignore[union-attr]
    return b.ew("mul", b.ew("add", b.attr(tile, "id"), b.const(1)), block)


def _data(b: KernelBuilder, tile: Value) -> Value:
    return b.cast(b.load(b.tensor("bounds", I64, 4), b.const(0)), I32)


@pytest.mark.parametrize(
    ("begin", "end", "options", "ragged"),
    [
        (_zero, _dim, {}, True),
        (_zero, _dim, {"multiple_of": 16}, False),
        (_zero, _dim, {"multiple_of": 8}, True),
        (_zero, _dim, {"inner": 1}, False),
        (_zero, lambda b, t: b.const(48), {}, False),
        (_zero, lambda b, t: b.const(40), {}, True),
        (lambda b, t: b.const(8), lambda b, t: b.const(40), {}, False),
        (_begin, _end, {}, True),
        (_begin, _end, {"multiple_of": 16}, False),
        (_begin, _end, {"multiple_of": 64, "outer": 64}, False),
        (_begin, _end, {"multiple_of": 16, "outer": 64}, False),  # the end of M cuts at 16
        (_begin, _end, {"multiple_of": 64, "outer": 8}, True),
        (_zero, _begin, {}, False),
        (_zero, _begin, {"outer": 8}, True),
        (_zero, _end, {"multiple_of": 16}, False),
        (_zero, _causal, {}, False),
        (_begin, _causal, {"outer": 64}, False),
        (_zero, _data, {}, True),
    ],
)
def test_ragged_ends(
    begin: Callable[[KernelBuilder, Value], Value],
    end: Callable[[KernelBuilder, Value], Value],
    options: dict[str, int],
    ragged: bool,
) -> None:
    assert loop_over(begin, end, **options) is ragged


# -- what out-of-range lanes are known to hold ---------------------------------------------------


def held(write: Callable[[KernelBuilder, Value, Value], Value], dtype: DType = F32) -> object:
    """The number that ``write(b, tile, x[tile])`` holds beyond the tile's end, or "junk"."""
    b = KernelBuilder()
    m, bm = b.dim("M"), b.block("B")
    x = b.tensor("x", dtype, m)
    with b.grid(tile=(bm, m)) as (tile,):
        value = write(b, tile, b.load(x, tile))
        b.store(b.tensor("out", value.dtype, m), (tile,), value)
    kernel = b.build()
    verify(kernel)
    analysis = analyse(kernel, BLOCKS, pads_size_axes=True)
    axis = value.shape.index(Size.of(bm))
    facts = analysis.of(value)
    return facts.state((axis, tile))


def _two(b: KernelBuilder, name: str, x: Value, number: float) -> Value:
    return b.ew(name, x, b.const(number, x.dtype))


@pytest.mark.parametrize(
    ("write", "dtype", "expected"),
    [
        (lambda b, t, x: x, F32, 0),
        (lambda b, t, x: _two(b, "add", x, 1.0), F32, 1),
        (lambda b, t, x: _two(b, "add", x, 0.1), F32, "junk"),  # 0.1 is no f32
        (lambda b, t, x: b.ew("exp", x), F32, 1),
        (lambda b, t, x: b.ew("sigmoid", x), F32, "junk"),  # 0.5, but not on every target
        (lambda b, t, x: b.ew("log", x), F32, "junk"),
        (lambda b, t, x: b.ew("rsqrt", _two(b, "add", x, 1.0)), F32, 1),
        (lambda b, t, x: b.ew("exp", _two(b, "add", x, 1.0)), F32, "junk"),
        (lambda b, t, x: _two(b, "div", x, 3.0), F32, 0),
        (lambda b, t, x: b.ew("div", b.const(1.0), _two(b, "add", x, 3.0)), F32, "junk"),
        (lambda b, t, x: b.ew("mul", x, b.scalar("eps", F32)), F32, "junk"),  # eps may be inf
        (lambda b, t, x: b.ew("mul", x, b.scalar("n", I32)), I32, 0),
        (lambda b, t, x: _two(b, "mul", _two(b, "add", x, 2**30), 4), I32, "junk"),  # wraps
        (lambda b, t, x: _two(b, "add", x, 2049.0), F16, "junk"),
        (lambda b, t, x: b.cast(_two(b, "add", x, 257.0), BF16), F32, "junk"),
        (lambda b, t, x: b.cast(_two(b, "sub", x, 2.5), I32), F32, -2),
        (lambda b, t, x: b.cast(_two(b, "add", x, 7), BOOL), I32, True),
        (lambda b, t, x: _two(b, "floordiv", x, 0), I32, "junk"),
        (lambda b, t, x: _two(b, "mod", _two(b, "sub", x, 1), 4), I32, 3),
        (lambda b, t, x: _two(b, "maximum", x, float("-inf")), F32, 0),
        (lambda b, t, x: _two(b, "shl", _two(b, "add", x, 1), 40), I32, "junk"),
        (lambda b, t, x: b.ew("where", _two(b, "eq", x, 0.0), b.const(5.0), x), F32, 5),
        (lambda b, t, x: b.ew("where", b.scalar("flag", BOOL), x, x), F32, 0),
        (lambda b, t, x: b.mask(x, float("-inf"), (0, t)), F32, float("-inf")),
        (lambda b, t, x: b.ew("exp", b.mask(x, float("-inf"), (0, t))), F32, 0),
        (lambda b, t, x: b.reshape(b.reshape(x, 1, x.shape[0], 1), x.shape[0]), F32, 0),
        (lambda b, t, x: b.cast(b.index(t), F32), F32, "junk"),
        (lambda b, t, x: b.cast(b.ew("lt", b.index(t), b.size(b.dim("M"))), F32), F32, 0),
        (
            lambda b, t, x: b.cast(b.ew("lt", b.index(t), b.size(b.dim("M") + 1)), F32),
            F32, "junk",
        ),
        (
            lambda b, t, x: b.ew(
                "where", b.ew("ge", b.index(t), b.size(b.dim("M"))), b.const(3.0), x
            ),
            F32, 3,
        ),
    ],
)  # fmt: skip
def test_known_numbers(
    write: Callable[[KernelBuilder, Value, Value], Value], dtype: DType, expected: object
) -> None:
    assert held(write, dtype) == expected


def test_the_emitter_can_ask() -> None:
    kernel = samples.softmax()
    tile = kernel.phases[0].axes[0].var
    shape = (Size.of(Sym("BLOCK_M", "block")), Size.of(Sym("N", "dim")))
    analysis = analyse(kernel, BLOCKS, pads_size_axes=True)
    assert analysis.is_ragged(Guard(0, tile), shape)
    assert analysis.is_ragged(Guard(1, None), shape)
    assert not analyse(kernel, BLOCKS, pads_size_axes=False).is_ragged(Guard(1, None), shape)
    ones = {Sym("BLOCK_M", "block"): 1}
    assert not analyse(kernel, ones, pads_size_axes=True).is_ragged(Guard(0, tile), shape)


def test_dots_of_zero_rows() -> None:
    """Rows of zeros stay zeros in the product, which the sum over them needs no mask for."""
    b = KernelBuilder()
    m, k, bm = b.dim("M"), b.dim("K"), b.block("BLOCK_M")
    x, w, out = b.tensor("x", F16, m, k), b.tensor("w", F16, k, k), b.tensor("out", F32, k)
    with b.grid(tile=(bm, m)) as (tile,):
        rows = b.mask(b.load(x, tile, slice(None)), 0, (1, None))
        columns = b.mask(b.load(w, slice(None), slice(None)), 0, (0, None))
        product = b.dot(rows, columns)
        b.store(out, (slice(None),), b.reduce("sum", b.mask(product, 0, (0, tile)), 0))
    assert left(b.build())[0] == []


def test_junk_in_the_other_operand_spoils_a_dot() -> None:
    b = KernelBuilder()
    m, k, bm = b.dim("M"), b.dim("K"), b.block("BLOCK_M")
    x, w, out = b.tensor("x", F32, m, k), b.tensor("w", F32, k, k), b.tensor("out", F32, k)
    with b.grid(tile=(bm, m)) as (tile,):
        rows = b.mask(b.load(x, tile, slice(None)), 0, (1, None))
        logs = b.mask(b.ew("log", b.load(w, slice(None), slice(None))), 0, (0, None))
        product = b.dot(rows, logs)  # 0 * log(0) in the padding of the columns
        b.store(out, (slice(None),), b.reduce("sum", b.mask(product, 0, (0, tile)), 0))
    assert left(b.build())[0] == ["extent", "tile"]
