"""What Triton's interpreter gets wrong by itself: one case a gap, run by test_interpreter.

Run as a program it prints a JSON object, from the name of each case to its error or null. With
the argument `repaired` it runs them under the Triton shim.
"""

# ruff: noqa: N803 (the shim comes before triton; constexprs are in capitals)

import json
import os
import sys
from pathlib import Path

if sys.argv[1:] == ["repaired"]:
    os.environ["KT_INTERPRET"] = "1"
    sys.path.insert(0, str(Path(__file__).parents[2] / "runtime_shims"))
    import _kt_triton  # noqa: F401
else:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

BF16 = torch.bfloat16


def same(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


# -- loops and arguments


@triton.jit
def sum_blocks(x, out, n, limit, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(0, n, BLOCK):
        acc += tl.load(x + i + index)
    for i in tl.range(tl.program_id(0), tl.load(limit), tl.num_programs(0)):
        acc += tl.load(x + i * BLOCK + index)
    tl.store(out + index, acc)


def case_loop_bounds_of_run_time():
    x, out = torch.randn(64), torch.empty(16)
    sum_blocks[(1,)](x, out, 64, torch.tensor(4), BLOCK=16)
    torch.testing.assert_close(out, 2 * x.view(4, 16).sum(0))


@triton.jit
def negate_unless(x, out, flag, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    value = tl.load(x + index)
    tl.store(out + index, tl.where(flag, value, -value))


def case_python_bools():
    x, out = torch.randn(16), torch.empty(16)
    for flag in (True, False):
        negate_unless[(1,)](x, out, flag, BLOCK=16)
        same(out, x if flag else -x)


# -- conversions


@triton.jit
def convert(x, out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(out + index, tl.load(x + index).to(out.dtype.element_ty))


def converted(x, dtype):
    padded = torch.zeros(1 << (x.numel() - 1).bit_length(), dtype=x.dtype)
    padded[: x.numel()] = x
    out = torch.empty_like(padded, dtype=dtype)
    convert[(1,)](padded, out, BLOCK=padded.numel())
    return out[: x.numel()]


def case_integers_to_bf16():
    for dtype in (torch.int8, torch.int32, torch.int64, torch.uint8):
        x = torch.arange(-5, 300).to(dtype)
        same(converted(x, BF16), x.to(BF16))
    bools = torch.tensor([True, False])
    same(converted(bools, BF16), bools.to(BF16))


def case_float64_to_bf16():
    x = torch.randn(1000, dtype=torch.float64)
    same(converted(x, BF16), x.to(BF16))


def case_float32_to_bf16_rounds_to_nearest():
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 3.4e38, 1e-45])
    x = torch.cat([torch.randn(4000), torch.randn(80) * 1e-39, special])
    same(converted(x, BF16), x.to(BF16))


def case_bf16_to_float32():
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(BF16)
    same(converted(x, torch.float32), x.float())


def case_fp8_to_float32():
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        x = torch.arange(256, dtype=torch.uint8).view(dtype)
        same(converted(x, torch.float32), x.float())


def case_float_to_fp8_rounds_to_nearest_and_saturates():
    for dtype, most in ((torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0)):
        for source in (torch.float32, torch.float16, BF16):
            scale = torch.logspace(-6, 2, 1000)
            x = (torch.randn(1000) * scale).to(source)
            want = x.float().clamp(-most, most).to(dtype)
            same(converted(x, dtype).float(), want.float())
        x = torch.tensor([1e6, -1e6, float("inf"), float("nan")])
        same(converted(x, dtype).float(), torch.tensor([most, -most, most, float("nan")]))


# -- bf16


@triton.jit
def arithmetic(x, y, out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    a, b = tl.load(x + index), tl.load(y + index)
    tl.store(out + index, a * b - a)
    tl.store(out + BLOCK + index, tl.where(a > b, a, b))
    tl.store(out + 2 * BLOCK + index, tl.fma(a, b, a))
    tl.store(out + 3 * BLOCK + index, -tl.abs(a) + 1.5)
    tl.store(out + 4 * BLOCK + index, tl.maximum(a, b))
    tl.store(out + 5 * BLOCK + index, tl.clamp(a, -b, b))


def case_bf16_arithmetic():
    x, y = torch.randn(2, 256).to(BF16)
    y = y.abs()
    out = torch.empty(6, 256, dtype=BF16)
    arithmetic[(1,)](x, y, out, BLOCK=256)
    a, b = x.float(), y.float()
    fma, biggest = (a * b + a).to(BF16), torch.maximum(x, y)
    clamped = torch.maximum(torch.minimum(x, y), -y)
    want = [x * y - x, torch.where(x > y, x, y), fma, -x.abs() + 1.5, biggest, clamped]
    same(out, torch.stack(want))


@triton.jit
def dot(x, y, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(x + m[:, None] * K + k[None, :])
    b = tl.load(y + k[:, None] * N + n[None, :])
    tl.store(out + m[:, None] * N + n[None, :], tl.dot(a, b))


@triton.jit
def batched_dot(x, y, out, N: tl.constexpr):
    n = tl.arange(0, N)
    index = n[:, None, None] * N * N + n[None, :, None] * N + n[None, None, :]
    tl.store(out + index, tl.dot(tl.load(x + index), tl.load(y + index)))


def case_bf16_dot():
    for m, n, k in ((16, 32, 64), (1, 1, 1)):
        x, y, out = torch.randn(m, k).to(BF16), torch.randn(k, n).to(BF16), torch.empty(m, n)
        dot[(1,)](x, y, out, M=m, N=n, K=k)
        torch.testing.assert_close(out, x.float() @ y.float())
    x, y, out = (
        torch.randn(16, 16, 16).to(BF16),
        torch.randn(16, 16, 16).to(BF16),
        torch.empty(16, 16, 16),
    )
    batched_dot[(1,)](x, y, out, N=16)
    torch.testing.assert_close(out, x.float() @ y.float())


@triton.jit
def reductions(x, out, N: tl.constexpr):
    n = tl.arange(0, N)
    value = tl.load(x + n[:, None] * N + n[None, :])
    tl.store(out + n, tl.sum(value, 1))
    tl.store(out + N + n, tl.max(value, 1))
    tl.store(out + 2 * N + n, tl.min(value, 1))
    tl.store(out + 3 * N + n, tl.argmin(value, 1).to(tl.float32))
    tl.store(out + 4 * N + n, tl.sum(tl.cumsum(value, 1).to(tl.float32), 1))
    tl.store(out + 5 * N + n, tl.sum(value) + tl.zeros([N], dtype=tl.float32))


def case_bf16_reductions_and_scans():
    for n in (16, 1):
        x, out = torch.randn(n, n).to(BF16), torch.empty(6, n)
        reductions[(1,)](x, out, N=n)
        wide = x.float()
        total = wide.sum(1).to(BF16).float()
        scans = wide.cumsum(1).to(BF16).float().sum(1)
        whole = wide.sum().to(BF16).float().expand(n)
        want = [total, wide.amax(1), wide.amin(1), wide.argmin(1).float(), scans, whole]
        torch.testing.assert_close(out, torch.stack(want), rtol=2**-7, atol=0.05)


@triton.jit
def accumulate(out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    one = (index * 0 + 1.25).to(out.dtype.element_ty)
    before = tl.atomic_add(out + index // 4, one, mask=index < BLOCK - 2)
    tl.store(out + 4 + index, before)


def case_bf16_atomic_add():
    out = torch.zeros(20, dtype=BF16)
    accumulate[(1,)](out, BLOCK=16)
    same(out[:4].float(), torch.tensor([5.0, 5.0, 5.0, 2.5]))
    same(out[4:8].float(), torch.tensor([0.0, 1.25, 2.5, 3.75]))


# -- libdevice


@triton.jit
def call_libdevice(x, out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    a = tl.load(x + index)
    tl.store(out + index, libdevice.rsqrt(a))
    tl.store(out + BLOCK + index, libdevice.tanh(a))
    tl.store(out + 2 * BLOCK + index, libdevice.pow(a, a))
    tl.store(out + 3 * BLOCK + index, libdevice.erf(a))
    tl.store(out + 4 * BLOCK + index, libdevice.log1p(a))
    tl.store(out + 5 * BLOCK + index, libdevice.fast_expf(a) + libdevice.expm1(a))
    tl.store(out + 6 * BLOCK + index, tl.where(libdevice.isnan(a), 1.0, libdevice.fmod(a, 0.3)))
    tl.store(out + 7 * BLOCK + index, libdevice.round(a * 7) + libdevice.rint(a * 5))
    tl.store(out + 8 * BLOCK + index, libdevice.sqrt_rn(a) + libdevice.div_rn(a, a + 1.0))


def case_libdevice():
    x, out = torch.rand(16) + 0.1, torch.empty(9, 16)
    call_libdevice[(1,)](x, out, BLOCK=16)
    away = torch.trunc(x * 7 + 0.5)
    want = [x.rsqrt(), x.tanh(), x**x, x.erf(), x.log1p(), x.exp() + x.expm1(), x % 0.3]
    want += [away + (x * 5).round(), x.sqrt() + x / (x + 1)]
    torch.testing.assert_close(out, torch.stack(want), rtol=1e-5, atol=1e-6)


def main():
    results = {}
    torch.manual_seed(0)
    for name, case in list(globals().items()):
        if name.startswith("case_"):
            try:
                case()
                results[name] = None
            except Exception as error:  # noqa: BLE001
                results[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
