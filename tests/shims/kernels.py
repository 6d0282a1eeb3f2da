"""Kernels in the form that kt emits, for the tests of the Triton shim."""

# ruff: noqa: N803 (constexprs are in capitals, as everywhere in Triton)

import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < n
    total = tl.load(x + index, mask=mask) + tl.load(y + index, mask=mask)
    tl.store(out + index, total, mask=mask)


@triton.jit
def scale_kernel(x, out, n, factor, flag, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + index, mask=index < n) * factor
    tl.store(out + index, tl.where(flag, value, -value), mask=index < n)


@triton.jit(do_not_specialize=["seed"])
def seed_kernel(out, seed, n, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(out + index, seed + index, mask=index < n)


@triton.jit
def matmul_kernel(
    x, y, out, m, n, k, x_stride_0, y_stride_0, out_stride_0,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k0 in tl.range(0, k, BLOCK_K):
        depth = k0 + tl.arange(0, BLOCK_K)
        a_mask = (rows[:, None] < m) & (depth[None, :] < k)
        b_mask = (depth[:, None] < k) & (cols[None, :] < n)
        a = tl.load(x + rows[:, None] * x_stride_0 + depth[None, :], mask=a_mask, other=0.0)
        b = tl.load(y + depth[:, None] * y_stride_0 + cols[None, :], mask=b_mask, other=0.0)
        acc = tl.dot(a, b, acc)
    c_mask = (rows[:, None] < m) & (cols[None, :] < n)
    pointers = out + rows[:, None] * out_stride_0 + cols[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=c_mask)


@triton.jit
def double_kernel(x, out, m, BLOCK_M: tl.constexpr):
    for m0 in tl.range(tl.program_id(0) * BLOCK_M, m, tl.num_programs(0) * BLOCK_M):
        out.store([m0, 0], x.load([m0, 0]) * 2)


@triton.jit
def double_on_device_kernel(x, out, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    x_desc = tl.make_tensor_descriptor(x, [m, n], [n, 1], [BLOCK_M, BLOCK_N])
    out_desc = tl.make_tensor_descriptor(out, [m, n], [n, 1], [BLOCK_M, BLOCK_N])
    m0 = tl.program_id(0) * BLOCK_M
    out_desc.store([m0, 0], x_desc.load([m0, 0]) * 2)
