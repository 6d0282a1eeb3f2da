"""The reference interpreter: torch's meaning of each operation, and its checks."""

# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.ir.builder import KernelBuilder
from transpile.ir import dtypes, ir
from transpile.ir.dtypes import (
    BF16,
    BOOL,
    F8E4M3,
    F16,
    F32,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    DType,
)
from transpile.ir.interpreter import run_phase
from transpile.ir.ir import TileType, Value
from transpile.ir.ops import ELEMENTWISE
from transpile.ir.sizes import Size, Sym
from transpile.ir.verifier import verify

Write = Callable[[KernelBuilder, Any], Value]


def kind(dtype: DType) -> Any:
    return getattr(torch, dtype.torch)


def compute(write: Write, *inputs: Any, blocks: int = 8, **modes: Any) -> Any:
    """``out[tile, ...] = write(b, x0[tile, ...], x1[tile, ...])`` with one tile of 8 rows."""
    b = KernelBuilder()
    m, bm = b.dim("M"), b.block("B")
    by_torch = {kind(d): d for d in dtypes.ALL}
    tensors: dict[str, Any] = {}
    with b.grid(tile=(bm, m)) as (tile,):
        tiles = []
        for number, data in enumerate(inputs):
            x = b.tensor(f"x{number}", by_torch[data.dtype], m, *data.shape[1:])
            tensors[x.name] = data
            tiles.append(b.load(x, tile, *[slice(None)] * (data.ndim - 1)))
        result = write(b, *tiles)
        shape = result.shape[1:]
        out = b.tensor("out", result.dtype, m, *shape)
        b.store(out, (tile, *[slice(None)] * len(shape)), result)
    kernel = b.build()
    verify(kernel)
    rows = inputs[0].shape[0]
    extents = [s.evaluate({}) for s in shape]
    tensors["out"] = torch.zeros([rows, *extents]).to(kind(result.dtype))
    sizes = {Sym("M", "dim"): rows}
    run_phase(kernel, 0, tensors, {}, sizes, {Sym("B", "block"): blocks}, **modes)
    return tensors["out"]


# -- elementwise -----------------------------------------------------------------------------------

_FLOATS = torch.tensor([-2.5, -1.0, -0.0, 0.0, 0.5, 1.5, 3.0, float("inf"), float("nan")])
_INTS = torch.tensor([-7, -3, -1, 0, 1, 2, 5, 7, 100])
_UNARY = [op.name for op in ELEMENTWISE.values() if op.arity == 1 and op.name != "not"]
_BITS = ["and", "or", "xor", "shl", "shr"]
_BINARY = [op.name for op in ELEMENTWISE.values() if op.arity == 2 and op.name not in _BITS]


@pytest.mark.parametrize("name", _UNARY)
def test_unary_is_torch(name: str) -> None:
    expected = getattr(torch, ELEMENTWISE[name].torch)(_FLOATS)
    got = compute(lambda b, x: b.ew(name, x), _FLOATS)
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("name", _BINARY)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_binary_is_torch(name: str, dtype: DType) -> None:
    if ELEMENTWISE[name].f32_math and dtype != F32:
        return
    x, y = _FLOATS.to(kind(dtype)), _FLOATS.flip(0).to(kind(dtype))
    expected = getattr(torch, ELEMENTWISE[name].torch)(x, y)
    got = compute(lambda b, x, y: b.ew(name, x, y), x, y)
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [I8, I16, I32, I64], ids=str)
@pytest.mark.parametrize("name", ["floordiv", "mod", "div", "maximum", "xor", "shr"])
def test_integers_are_pythons(name: str, dtype: DType) -> None:
    functions: dict[str, Callable[[int, int], float]] = {
        "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "div": lambda a, b: a / b,
        "maximum": max, "xor": lambda a, b: a ^ b, "shr": lambda a, b: a >> b,
    }  # fmt: skip
    other = torch.tensor([2, -2, 3, 1, -1, 5, 3, 2, 7])
    if name == "shr":
        other = other.abs()
    got = compute(lambda b, x, y: b.ew(name, x, y), _INTS.to(kind(dtype)), other.to(kind(dtype)))
    expected = [functions[name](a, b) for a, b in zip(_INTS.tolist(), other.tolist(), strict=True)]
    torch.testing.assert_close(got, torch.tensor(expected).to(got.dtype))


def test_integer_division_by_zero_does_not_trap() -> None:
    x = torch.tensor([5, -5, -(2**31)], dtype=torch.int32)
    zero_or_minus_one = torch.tensor([0, 0, -1], dtype=torch.int32)
    compute(lambda b, x, y: b.ew("mod", b.ew("floordiv", x, y), y), x, zero_or_minus_one)


@pytest.mark.parametrize("dtype", [U16, U32, U64], ids=str)
def test_unsigned_integers_wrap(dtype: DType) -> None:
    top = 2**dtype.bits - 1
    x = torch.tensor([1, 2, 3]).to(kind(dtype))

    def write(b: KernelBuilder, x: Value) -> Value:
        big = b.ew("not", b.ew("sub", x, x))  # all bits set
        total = b.ew("add", big, x)
        half = b.ew("shr", big, b.const(1, dtype))
        larger = b.ew("gt", big, x)
        return b.ew("where", larger, b.ew("add", total, half), x)

    got = compute(write, x).numpy().tolist()
    assert got == [(top + v + (top >> 1)) % (top + 1) for v in (1, 2, 3)]


def test_where_and_bits() -> None:
    x = torch.tensor([1, 2, 3, 4])
    got = compute(
        lambda b, x: b.ew(
            "where",
            b.ew(
                "and", b.ew("gt", x, b.const(1, I64)), b.ew("not", b.ew("eq", x, b.const(3, I64)))
            ),
            b.ew("shl", x, b.const(2, I64)),
            b.ew("neg", x),
        ),
        x,
    )
    assert got.tolist() == [-1, 8, -3, 16]


def test_fma_rounds_once() -> None:
    x = torch.tensor([1 + 2**-12])
    got = compute(lambda b, x: b.ew("fma", x, x, b.ew("neg", b.ew("mul", x, x))), x)
    assert got.item() == 2.0**-24


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        ([2.7, -2.7], F32, I32, [2, -2]),
        ([0.0, 0.5, -1.0], F32, BOOL, [False, True, True]),
        ([1.0, 2.0], F8E4M3, F32, [1.0, 2.0]),
        ([300, -1], I32, U8, [44, 255]),
        ([1 + 2**-9], F32, BF16, [1.0]),
        ([True, False], BOOL, F16, [1.0, 0.0]),
    ],
)  # fmt: skip
def test_casts(value: list[Any], source: DType, target: DType, expected: list[Any]) -> None:
    x = torch.tensor(value).to(kind(source))
    assert compute(lambda b, x: b.cast(x, target), x).tolist() == expected


def test_bitcast() -> None:
    def write(b: KernelBuilder, x: Value) -> Value:
        return b.emit(ir.Cast(x, bitcast=True, results=(Value(TileType(I32, x.shape)),)))

    assert compute(write, torch.tensor([1.0])).tolist() == [0x3F800000]


# -- across lanes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "argmax", "argmin"])
def test_reductions(name: str, pad: bool) -> None:
    x = torch.randint(-3, 4, (5, 7)).float()
    names = {"max": "amax", "min": "amin"}
    fill = {"sum": 0, "prod": 1}.get(name, float("-inf") if "max" in name else float("inf"))
    got = compute(lambda b, x: b.reduce(name, b.mask(x, fill, (1, None)), 1), x, pad_size_axes=pad)
    torch.testing.assert_close(got, getattr(torch, names.get(name, name))(x, 1))


def test_sums_of_halves_accumulate_in_f32() -> None:
    x = torch.full((1, 4096), 1.0, dtype=torch.float16)
    x[0, 1:] = 2.0**-11
    assert compute(lambda b, x: b.reduce("sum", x, 1), x).item() == 3.0


@pytest.mark.parametrize(("dtype", "target"), [(BOOL, I64), (I8, I64), (I32, I64)])
def test_integer_sums_widen(dtype: DType, target: DType) -> None:
    x = torch.full((2, 300), 1).to(kind(dtype))
    got = compute(lambda b, x: b.reduce("sum", x, 1), x)
    assert (got.dtype, got.tolist()) == (kind(target), [300, 300])


def test_any_all_xor_sum() -> None:
    x = torch.tensor([[1, 2, 4], [0, 0, 0]])
    for name, expected in (("any", [True, False]), ("all", [True, False]), ("xor_sum", [7, 0])):
        assert compute(lambda b, x, n=name: b.reduce(n, x, 1), x).tolist() == expected


def test_nan_wins_a_maximum() -> None:
    x = torch.tensor([[1.0, float("nan"), 3.0]])
    assert compute(lambda b, x: b.reduce("max", x, 1), x).isnan().all()
    assert compute(lambda b, x: b.reduce("argmax", x, 1), x).item() == 1


def test_scans() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for name, reverse, expected in (
        ("sum", False, [1, 3, 6, 10]), ("sum", True, [10, 9, 7, 4]), ("prod", False, [1, 2, 6, 24]),
    ):  # fmt: skip
        got = compute(
            lambda b, x, n=name, r=reverse: b.emit(
                ir.Scan((x,), 1, n, None, r, results=(Value(x.type),))
            ),
            x,
        )
        assert got.tolist() == [expected]


def _combine(b: KernelBuilder) -> ir.Block:
    """Keeps the pair with the greater first element."""
    types = [TileType(F32), TileType(I64)] * 2
    a, ai, c, ci = (Value(t) for t in types)
    with b.region(a, ai, c, ci) as block:
        first = b.ew("ge", a, c)
        block.yields = (b.ew("where", first, a, c), b.ew("where", first, ai, ci))
    return block


def test_user_reductions_and_scans() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0, 5.0], [4.0, 3.0, 2.0, 9.0]])
    i = torch.arange(4).expand(2, 4).contiguous()

    def reduce(b: KernelBuilder, x: Value, i: Value) -> Value:
        shape = x.shape[:1]
        types = (Value(TileType(F32, shape)), Value(TileType(I64, shape)))
        op = ir.ReduceWith((x, i), 1, _combine(b), results=types)
        b.emit(op)
        return op.results[1]

    def scan(b: KernelBuilder, x: Value, i: Value) -> Value:
        op = ir.Scan((x, i), 1, None, _combine(b), results=(Value(x.type), Value(i.type)))
        b.emit(op)
        return op.results[0]

    assert compute(reduce, x, i).tolist() == [1, 3]
    assert compute(scan, x, i).tolist() == [[1, 5, 5, 5], [4, 4, 4, 9]]


@pytest.mark.parametrize(
    ("dtype", "acc"), [(F16, F32), (BF16, F32), (F32, F32), (I8, I32), (F8E4M3, F32)], ids=str
)
def test_dots(dtype: DType, acc: DType) -> None:
    x, y = (torch.randint(-3, 4, (4, 4)).to(kind(dtype)) for _ in range(2))

    def write(b: KernelBuilder, x: Value, y: Value) -> Value:
        rows = b.reshape(y, *y.shape)
        return b.dot(b.permute(x, 1, 0), rows, dtype=acc)

    got = compute(
        lambda b, x, y: b.reshape(write(b, x, y), *[Size.of(4)] * 2) and _tall(b, x, y, acc), x, y
    )
    expected = x.to(kind(acc)) @ y.to(kind(acc)).t()
    torch.testing.assert_close(got, expected)


def _tall(b: KernelBuilder, x: Value, y: Value, acc: DType) -> Value:
    """``x @ y^T`` of two [B, 4] tiles, cut to the 4 columns that are asked for."""
    product = b.dot(x, b.permute(y, 1, 0), dtype=acc)
    index = b.cast(b.broadcast(b.reshape(b.iota(4), 1, 4), x.shape[0], 4), I64)
    gathered = ir.Gather(
        product, index, 1, results=(Value(TileType(acc, (x.shape[0], Size.of(4)))),)
    )
    return b.emit(gathered)


def test_a_dot_adds_to_its_accumulator() -> None:
    x = torch.ones(2, 4, dtype=torch.float16)

    def write(b: KernelBuilder, x: Value) -> Value:
        acc = b.full(10.0, F32, x.shape[0], x.shape[0])
        return b.reduce("max", b.dot(x, b.permute(x, 1, 0), acc), 1)

    assert compute(write, x, blocks=2).tolist() == [14.0, 14.0]


def test_sort_topk_gather() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0]])

    def topk(part: int) -> Write:
        def write(b: KernelBuilder, x: Value) -> Value:
            shape = (x.shape[0], Size.of(2))
            values, indices = Value(TileType(F32, shape)), Value(TileType(I64, shape))
            b.emit(ir.Sort(x, True, 2, results=(values, indices)))
            return (values, indices)[part]

        return write

    for pad in (False, True):
        assert compute(topk(0), x, pad_size_axes=pad).tolist() == [[3.0, 2.0], [5.0, 1.0]]
        assert compute(topk(1), x, pad_size_axes=pad).tolist() == [[0, 2], [2, 0]]
    index = torch.tensor([[2, 0], [1, 2]])

    def gather(b: KernelBuilder, x: Value, index: Value) -> Value:
        result = Value(TileType(F32, index.shape))
        return b.emit(ir.Gather(x, index, 1, results=(result,)))

    assert compute(gather, x, index).tolist() == [[2.0, 3.0], [1.0, 5.0]]


def test_join_split_reshape_permute() -> None:
    x = torch.arange(12.0).reshape(2, 6)

    def write(b: KernelBuilder, x: Value) -> Value:
        pairs = b.reshape(x, x.shape[0], 3, 2)
        half = TileType(F32, pairs.shape[:-1])
        op = ir.Split(pairs, results=(Value(half), Value(half)))
        b.emit(op)
        low, high = op.results
        joined = b.emit(ir.Join(high, low, results=(Value(pairs.type),)))
        return b.reshape(b.permute(joined, 0, 2, 1), *x.shape)

    for pad in (False, True):
        got = compute(write, x, pad_size_axes=pad)
        assert got.tolist() == [[1, 3, 5, 0, 2, 4], [7, 9, 11, 6, 8, 10]]


# What Triton 3.6 gives for tl.randint and tl.rand of offsets 0, 1, 2 and 1000.
_RANDINT_42 = [-1662324653, -52747993, -747896283, -940337800]
_RAND_42 = [0.7740801572799683, 0.024562695994973183, 0.3482663035392761, 0.43787887692451477]
_RAND_WIDE = [0.40600189566612244, 0.7344471216201782, 0.5937381386756897, 0.10489071160554886]


@pytest.mark.parametrize(
    ("what", "seed", "expected"),
    [("int", 42, _RANDINT_42), ("uniform", 42, _RAND_42), ("uniform", 2**40 + 7, _RAND_WIDE)],
)
@pytest.mark.parametrize("offset", [I32, I64], ids=str)
def test_random_numbers_are_tritons(
    what: Any, seed: int, expected: list[Any], offset: DType
) -> None:
    def write(b: KernelBuilder, x: Value) -> Value:
        result = Value(TileType(I32 if what == "int" else F32, x.shape))
        return b.emit(ir.Random(what, b.const(seed, I64), x, results=(result,)))

    assert compute(write, torch.tensor([0, 1, 2, 1000], dtype=kind(offset))).tolist() == expected


@pytest.mark.parametrize("name", ["floordiv", "mod"])
def test_the_largest_unsigned_divisor_is_not_minus_one(name: str) -> None:
    from transpile.ir.reference import numerics

    a = torch.arange(256, dtype=torch.int64)
    b = torch.full_like(a, 255)
    wanted = numerics.elementwise(name, [a, b])
    got = numerics.elementwise(name, [a.to(torch.uint8), b.to(torch.uint8)])
    assert torch.equal(got.to(torch.int64), wanted)
