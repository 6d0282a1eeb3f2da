"""Functions that generated kernels carry along, run by the executor and compared with torch."""

from __future__ import annotations

import functools
import itertools
import operator

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from transpile.emitters.msl.helpers import TEXTS, butterfly, in_order  # noqa: E402
from transpile.ir.reference import numerics  # noqa: E402
from transpile.verify.msl import strict  # noqa: E402
from transpile.verify.msl.executor import Module  # noqa: E402

HEAD = """#include <metal_stdlib>
#include <metal_atomic>
#include <metal_simdgroup_matrix>
using namespace metal;
"""
KERNEL = """
[[kernel, max_total_threads_per_threadgroup(32)]] void k(
    {parameters},
    uint3 tgid [[threadgroup_position_in_grid]],
    ushort tid [[thread_index_in_threadgroup]]) {{
  int i = int(tgid.x) * 32 + tid;
  {statement}
}}
"""
TYPES = {
    torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat", torch.int32: "int",
    torch.int64: "long", torch.uint8: "uchar", torch.bool: "bool",
}  # fmt: skip


def run(statement: str, *tensors: torch.Tensor, helpers: str, groups: int | None = None) -> None:
    """A thread per element of the first tensor; tensors are a, b, c."""
    texts = [TEXTS[name] for name in in_order(helpers.split())]
    parameters = [
        f"device {TYPES[t.dtype]}* {name} [[buffer({i})]]"
        for i, (name, t) in enumerate(zip("abc", tensors, strict=False))
    ]
    kernel = KERNEL.format(parameters=",\n    ".join(parameters), statement=statement)
    source = HEAD + "\n\n".join(texts) + kernel
    assert strict.check(source) == []
    Module(source).launch("k", tensors, (groups or tensors[0].numel() // 32, 1, 1), (32, 1, 1))


X = torch.cat(
    [
        torch.linspace(-12, 12, 4064),
        torch.tensor([0.0, -0.0, 1e-8, -1e-8, 1.0, -1.0, 88.0, -88.0] * 4),
    ]
)


@pytest.mark.parametrize(
    ("function", "reference", "ulps"),
    [("erf", torch.erf, 4), ("erfc", torch.erfc, 40), ("expm1", torch.expm1, 8)],
)
def test_functions(function: str, reference: object, ulps: int) -> None:
    out = torch.empty_like(X)
    run(f"b[i] = kt_{function}(a[i]);", X, out, helpers=f"kt_{function}")
    expected = reference(X.double())  # type: ignore[operator]
    small = expected.abs() < 1e-37  # flushed or nearly
    error = ((out.double() - expected).abs() / expected.abs()).where(~small, 0)
    assert error.max() < ulps * 2**-23, X[error.argmax()]
    assert (out.double()[small].abs() < 1e-36).all()


def test_log1p() -> None:
    x = torch.cat([torch.logspace(-30, 10, 4000), -torch.logspace(-30, -0.01, 96)])
    out = torch.empty_like(x)
    run("b[i] = kt_log1p(a[i]);", x, out, helpers="kt_log1p")
    expected = torch.log1p(x.double())
    assert ((out.double() - expected).abs() / expected.abs()).max() < 8 * 2**-23


def test_division_rounds_down() -> None:
    pairs = [p for p in itertools.product(range(-9, 10), repeat=2) if p[1] != 0]
    pairs += [(7, 1)] * (-len(pairs) % 32)
    a, b = torch.tensor(pairs, dtype=torch.int32).T.contiguous()
    quotient, remainder = torch.empty_like(a), b.clone()
    run("c[i] = floor_div(a[i], b[i]);", a, b, quotient, helpers="floor_div")
    assert torch.equal(quotient, torch.div(a, b, rounding_mode="floor"))
    run("b[i] = floor_mod(a[i], b[i]);", a, remainder, helpers="floor_mod")
    assert torch.equal(remainder, torch.remainder(a, b))
    x, y = a.float() / 2, b.float()
    run("b[i] = floor_mod(a[i], b[i]);", x, y, helpers="floor_mod_float")
    assert torch.equal(y, torch.remainder(a.float() / 2, b.float()))


def test_integer_powers() -> None:
    a = torch.tensor(list(range(-8, 8)) * 2, dtype=torch.int32)
    for power in range(6):
        b = torch.full_like(a, power)
        run("b[i] = int_pow(a[i], b[i]);", a, b, helpers="int_pow")
        assert torch.equal(b, a**power)


def test_nan_wins() -> None:
    values = [1.0, -2.0, float("nan"), float("inf"), float("-inf"), 0.0]
    pairs = list(itertools.product(values, repeat=2))
    pairs += [(0.0, 0.0)] * (-len(pairs) % 32)
    a, b = torch.tensor(pairs).T.contiguous()
    for name, reference in (("max", torch.maximum), ("min", torch.minimum)):
        out = b.clone()
        run(f"b[i] = nan_{name}(a[i], b[i]);", a, out, helpers=f"nan_{name}")
        assert torch.equal(out.nan_to_num(7e7), reference(a, b).nan_to_num(7e7))
    x = torch.arange(64.0)
    x[40] = float("nan")
    run("a[i] = simd_nan_max(a[i]);", x, helpers="simd_nan_max")
    assert x[:32].eq(31).all() and x[32:].isnan().all()


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_bytes_to_floats_and_back(name: str) -> None:
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    codes = torch.arange(256).to(torch.uint8)
    wide = torch.empty(256)
    run(f"b[i] = {name}_to_float(a[i]);", codes, wide, helpers=f"{name}_to_float")
    assert torch.equal(wide.nan_to_num(7e7), codes.view(dtype).float().nan_to_num(7e7))
    finite = wide[wide.isfinite()].unique()
    between = torch.cat([finite, (finite[1:] + finite[:-1]) / 2, finite * 1.03, finite * 0.97])
    between = torch.cat([between, torch.tensor([1e9, -1e9, 449.0, 464.0, 465.0, 1e-20, 61440.0])])
    between = torch.cat([between, torch.zeros(-len(between) % 32)])
    out = torch.empty(len(between), dtype=torch.uint8)
    run(f"b[i] = float_to_{name}(a[i]);", between, out, helpers=f"float_to_{name}")
    expected = between.to(dtype).view(torch.uint8)
    numbers = ~expected.view(dtype).float().isnan()
    assert torch.equal(out[numbers], expected[numbers])
    assert out.view(dtype).float()[~numbers].isnan().all()


def test_random_words() -> None:
    offsets = torch.arange(96)
    bits, uniform = torch.empty(96, dtype=torch.int32), torch.empty(96)
    statement = "b[i] = int(kt_philox(12345678901l, a[i])); c[i] = kt_uniform(uint(b[i]));"
    run(statement, offsets, bits, uniform, helpers="kt_philox kt_uniform")
    expected = numerics.philox(torch.tensor(12345678901), offsets)
    assert torch.equal(bits, expected)
    assert torch.equal(uniform, numerics.uniform(expected))


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_elements_of_vectors(width: int, dtype: torch.dtype) -> None:
    # The last thread's vector reaches beyond the tensors; some begin beyond them.
    x = torch.arange(1, 50).to(dtype)
    out = torch.full_like(x, -1)
    count = f"49 - i * {width}"
    load = f"load_first<{width}>(a + i * {width}, {count})"
    statement = f"store_first<{width}>(b + i * {width}, {load}, {count});"
    names = "load_first store_first"
    run(statement, x, out, helpers=names, groups=1)
    assert torch.equal(out[: 32 * width], x[: 32 * width])


def test_atomics_of_sixteen_bits() -> None:
    for t, dtype in (("half", torch.float16), ("bfloat", torch.bfloat16)):
        total = torch.zeros(3, dtype=dtype)
        run(f"atomic_add_{t}(a, i % 3, {t}(1.0f));", total, helpers=f"atomic_add_{t}", groups=3)
        assert total.tolist() == [32, 32, 32]
        top = torch.zeros(2, dtype=dtype)
        run(f"atomic_max_{t}(a, i % 2, {t}(float(i)));", top, helpers=f"atomic_max_{t}", groups=2)
        assert top.tolist() == [62, 63]


def test_atomics_by_exchange() -> None:
    top, flags = torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    run("atomic_max_float(a, float(i) * 0.5f);", top, helpers="atomic_max_float", groups=2)
    assert top.item() == 31.5
    run("atomic_cas(a, 0, i + 1);", flags, helpers="atomic_cas_int", groups=2)
    assert 1 <= flags.item() <= 64


@pytest.mark.parametrize("xors", [(1, 8), (2, 4, 16), (1, 2), (1, 2, 4, 8, 16)])
def test_reductions_over_some_lanes(xors: tuple[int, ...]) -> None:
    call, _, text = butterfly("sum", xors)
    kernel = KERNEL.format(
        parameters="device float* a [[buffer(0)]]", statement=f"a[i] = {call}(a[i]);"
    )
    x = torch.rand(32)
    lanes = torch.arange(32)
    same = (lanes[:, None] ^ lanes) & ~sum(xors) == 0
    expected = (x * same).sum(1)
    Module(HEAD + text + kernel).launch("k", [x], (1, 1, 1), (32, 1, 1))
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("name", ["any", "all", "nan_max", "xor_sum"])
@pytest.mark.parametrize("xors", [(1, 8), (2, 16)])
def test_other_reductions_over_some_lanes(name: str, xors: tuple[int, ...]) -> None:
    call, _, text = butterfly(name, xors)
    t, dtype = {"any": ("bool", torch.bool), "all": ("bool", torch.bool),
                "nan_max": ("float", torch.float32), "xor_sum": ("int", torch.int32)}[name]  # fmt: skip
    kernel = KERNEL.format(
        parameters=f"device {t}* a [[buffer(0)]]", statement=f"a[i] = {call}(a[i]);"
    )
    helper = TEXTS[name] + "\n" if name in TEXTS else ""
    source = HEAD + helper + text + kernel
    assert strict.check(source) == []
    x = torch.randint(0, 5, (32,)).to(dtype)
    x[7] = float("nan") if dtype.is_floating_point else 0
    lanes = torch.arange(32)
    rows = [x[(lanes ^ lane) & ~sum(xors) == 0] for lane in range(32)]
    combine = {
        "any": torch.any, "all": torch.all, "nan_max": torch.max,
        "xor_sum": lambda row: torch.tensor(functools.reduce(operator.xor, row.tolist())),
    }[name]  # fmt: skip
    expected = torch.stack([combine(row) for row in rows]).to(dtype)
    Module(source).launch("k", [x], (1, 1, 1), (32, 1, 1))
    torch.testing.assert_close(x, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("t", "n", "size"), [("half", 8, 2), ("char", 8, 1), ("uchar", 16, 1)])
def test_packs_are_no_larger_than_their_elements(t: str, n: int, size: int) -> None:
    """An alignment above the size would make a copy write what follows."""
    kernel = KERNEL.format(
        parameters="device int* out [[buffer(0)]]",
        statement=f"out[i] = int(sizeof(Pack<{t}, {n}>)) - {n * size};",
    )
    out = torch.ones(32, dtype=torch.int32)
    Module(HEAD + TEXTS["Pack"] + kernel).launch("k", [out], (1, 1, 1), (32, 1, 1))
    assert not out.any()


@pytest.mark.parametrize("how", ["first", "aligned"])
@pytest.mark.parametrize("t", ["half", "bfloat", "float"])
def test_packs_of_sixteen_bytes(how: str, t: str) -> None:
    dtype = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}[t]
    n = 16 // dtype.itemsize
    length = 31 * n + n - 1  # the last lane has all but one
    names = [f"load_pack_{how}", f"store_pack_{how}"]
    count = f"{length} - i * {n}"
    load = f"{names[0]}<{n}>(a + i * {n}, {count})"
    body = f"{names[1]}<{n}>(b + i * {n}, {load}, {count});"
    parameters = f"device {t}* a [[buffer(0)]],\n    device {t}* b [[buffer(1)]]"
    kernel = KERNEL.format(parameters=parameters, statement=body)
    source = HEAD + "\n".join(TEXTS[h] for h in in_order(names)) + kernel
    assert strict.check(source) == []
    x, out = torch.rand(length).to(dtype), torch.zeros(length, dtype=dtype)
    Module(source).launch("k", [x, out], (1, 1, 1), (32, 1, 1))
    assert torch.equal(out, x)
