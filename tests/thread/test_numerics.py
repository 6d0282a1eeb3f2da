"""The thread interpreter's arithmetic on numpy arrays against torch's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.kt_command import ROOT
from transpile.ir import ir as tile
from transpile.ir.dtypes import ALL, BF16, F4E2M1X2, F8E4M3, F8E5M2, F16, F32, I8, I32, I64, U32
from transpile.ir.ops import ELEMENTWISE
from transpile.ir.reference import numerics as reference
from transpile.ir.sizes import Size
from transpile.thread import numerics
from transpile.thread.interpreter import ThreadError, run_threads
from transpile.thread.ir import Id, Kernel, Let, Load, Store, Var

EDGES = torch.tensor(
    [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, 2**-17, 1.5 * 2**-16, 2**-10, 1.5 * 2**-9,
     440, 444, 448, 464, 464.1, 480, 57344, 61440, 61441, 65504, 65520, 3.4e38]
)  # fmt: skip


def words() -> torch.Tensor:
    """f32 of all magnitudes, and those around which rounding changes its mind."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(-(2**31), 2**31, (50000,), generator=generator).to(torch.int32)
    near = torch.randn(50000, generator=generator) * 100
    steps = torch.arange(-4096, 4096) / 64  # ties of the 8-bit floats
    return torch.cat([random.view(torch.float32), near, steps, EDGES])


@pytest.mark.parametrize("dtype", [F16, BF16, F8E4M3, F8E5M2], ids=str)
def test_narrow_floats_round_as_torch_rounds(dtype):
    value = words()
    want = value.to(reference.torch_dtype(dtype)).float().numpy()
    with np.errstate(all="ignore"):
        got = numerics.cast(value.numpy(), dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [F8E4M3, F8E5M2], ids=str)
def test_every_code_of_the_8_bit_floats(dtype):
    codes = torch.arange(256).to(torch.uint8)
    want = codes.view(reference.torch_dtype(dtype)).float().numpy()
    value = numerics.decoded(codes.numpy(), dtype)
    np.testing.assert_array_equal(value, want)
    known = ~np.isnan(want)
    np.testing.assert_array_equal(numerics.encoded(value, dtype)[known], codes.numpy()[known])


BITS = {"and", "or", "xor", "not", "shl", "shr"}  # of integers only
CASES = [
    (name, dtype)
    for name in sorted(ELEMENTWISE.keys() - {"where"})
    for dtype in (I8, I32, I64, F16, BF16, F32)
    if not (dtype.is_float and name in BITS)
]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_operations_are_those_of_torch(name, dtype):
    generator = torch.Generator().manual_seed(1)
    op = ELEMENTWISE[name]
    if dtype.is_float:
        value = torch.cat([torch.randn(500, generator=generator) * 3, EDGES[:5]])
    else:
        value = torch.randint(-80, 80, (500,), generator=generator)  # sinh is finite
    args = [reference.cast(value.roll(i), dtype, False) for i in range(op.arity)]
    if name in ("shl", "shr"):
        args[1] = args[1].clamp(0, dtype.bits - 1)
    if name in ("floordiv", "mod") and dtype.is_int:
        args[1] = args[1] | 1
    if name == "pow" and dtype.is_int:
        args = [args[0] % 5 - 2, args[1] % 7 - 2]
    want = reference.elementwise(name, args)
    result = next(d for d in ALL if reference.torch_dtype(d) is want.dtype)
    given = [(a.float() if dtype.is_float else a).numpy() for a in args]
    with np.errstate(all="ignore"):
        got = numerics.elementwise(name, [numerics.cast(a, dtype) for a in given], result)
    assert got.dtype == numerics.held(result)
    if not result.is_float:
        np.testing.assert_array_equal(got, want.numpy())
    else:
        rtol = {F16: 2e-3, BF16: 1.6e-2, F32: 3e-6}[result]  # two units in the last place, f32: 25
        np.testing.assert_allclose(got, want.float().numpy(), rtol=rtol, atol=2e-6)


def test_integers_wrap_and_unsigned_ones_are_unsigned():
    assert numerics.full((1,), -1, U32)[0] == 2**32 - 1
    most = numerics.full((1,), 2**31 - 1, I32)
    assert numerics.elementwise("add", (most, numerics.full((1,), 1, I32)), I32)[0] == -(2**31)
    ones = numerics.full((1,), -1, U32)
    assert numerics.elementwise("shr", (ones, numerics.full((1,), 31, U32)), U32)[0] == 1
    for dtype in ALL:
        if dtype.is_int:
            assert numerics.poison(dtype) == reference.poison(dtype)


def test_bits_are_reinterpreted():
    value = np.array([1.0, -2.5, 0.0], np.float32)
    want = torch.from_numpy(value).bfloat16().view(torch.int16).numpy()
    i16 = next(d for d in ALL if d.name == "i16")
    got = numerics.bitcast(value, BF16, i16)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(numerics.bitcast(got, i16, BF16), value)


@pytest.mark.parametrize("seed", [0, -3, 2**40 + 7])
def test_random_words_are_those_of_the_reference(seed):
    offset = torch.arange(-5, 1000)
    want = reference.philox(torch.tensor(seed), offset)
    got = numerics.philox(seed, offset.numpy())
    np.testing.assert_array_equal(got, want.numpy())
    np.testing.assert_array_equal(numerics.uniform(got), reference.uniform(want).numpy())


def test_all_operations_and_types_are_there():
    assert numerics._FUNCTIONS.keys() == ELEMENTWISE.keys()
    for dtype in ALL:
        if dtype is not F4E2M1X2:
            itemsize = 1 if dtype.is_bool else dtype.bits // 8
            assert numerics.stored(dtype).itemsize == itemsize


def test_views_of_one_array_are_one_memory():
    a, b = (tile.Tensor(n, F32, (Size.of(64),), (Size.of(1),), n) for n in "ab")
    thread, x = Id("thread"), Var("x", F32)
    body = [Let(x, Load(a, thread)), Store(b, thread, x)]
    kernel = Kernel("k", (a, b), (), (Size.of(1),), 64, 32, (), body)
    whole = np.arange(65, dtype=np.float32)
    run_threads(kernel, {"a": whole[1:].copy(), "b": whole[1:].copy()}, {}, {})
    run_threads(kernel, {"a": whole[1:], "b": whole[1:]}, {}, {})
    with pytest.raises(ThreadError, match="a read and a write of b"):
        run_threads(kernel, {"a": whole[:64], "b": whole[1:]}, {}, {})


def test_the_interpreter_needs_no_torch():
    check = "import sys, transpile.thread.machine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, cwd=ROOT).returncode == 0
