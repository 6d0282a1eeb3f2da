"""Kernels as kt generates them, written by hand: what the shim and the harness are tested on."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

try:
    from . import _kt_pallas as kt
except ImportError:
    import _kt_pallas as kt


def _matmul_kernel(x_ref, y_ref, out_ref, acc_ref, *, k):
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        acc_ref[...] = jnp.zeros_like(acc_ref)

    x, y = x_ref[...], y_ref[...]
    if k % 128:
        x = jnp.where(step * 128 + lax.broadcasted_iota(jnp.int32, x.shape, 1) < k, x, 0)
        y = jnp.where(step * 128 + lax.broadcasted_iota(jnp.int32, y.shape, 0) < k, y, 0)
    acc_ref[...] += jnp.dot(x, y, preferred_element_type=jnp.float32)

    @pl.when(step == pl.num_programs(2) - 1)
    def _():
        out_ref[...] = acc_ref[...].astype(out_ref.dtype)


@kt.kernel({"x": "bf16[M,K]", "y": "bf16[K,N]"}, {"x": "f32[M,K]", "y": "f32[K,N]"})
def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    """Matrix product."""
    m, k = x.shape
    k2, n = y.shape
    assert k == k2, f"inner dimensions differ: {k} and {k2}"
    out = pl.pallas_call(
        functools.partial(_matmul_kernel, k=k),
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.promote_types(x.dtype, y.dtype)),
        grid=(pl.cdiv(m, 128), pl.cdiv(n, 128), pl.cdiv(k, 128)),
        in_specs=[
            pl.BlockSpec((128, 128), lambda i, j, step: (i, step)),
            pl.BlockSpec((128, 128), lambda i, j, step: (step, j)),
        ],
        out_specs=pl.BlockSpec((128, 128), lambda i, j, step: (i, j)),
        scratch_shapes=[pltpu.VMEM((128, 128), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        name="matmul",
        interpret=kt.INTERPRET,
    )(x, y)
    return out


def _softmax_kernel(x_ref, out_ref):
    x = x_ref[...].astype(jnp.float32)
    e = jnp.exp(x - jnp.max(x, axis=1, keepdims=True))
    out_ref[...] = (e / jnp.sum(e, axis=1, keepdims=True)).astype(out_ref.dtype)


@kt.kernel(x="f16[M,N]")
def softmax(x: jax.Array) -> jax.Array:
    """Softmax of each row; f16 is widened."""
    m, n = x.shape
    out = pl.pallas_call(
        _softmax_kernel,
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.float32),
        grid=(pl.cdiv(m, 8),),
        in_specs=[pl.BlockSpec((8, n), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((8, n), lambda i: (i, 0)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        name="softmax",
        interpret=kt.INTERPRET,
    )(x.astype(jnp.float32))
    out = out.astype(x.dtype)
    return out


def _scale_kernel(factor_ref, x_ref, out_ref):
    out_ref[...] = x_ref[...] * factor_ref[0]


@kt.kernel(x="f32[M,N]", factor="f32", times="static i32")
def scale_(x: jax.Array, factor: float, times: int = 1) -> jax.Array:
    """Multiply in place, ``times`` times; returns the new x."""
    for _ in range(times):
        x = pl.pallas_call(
            _scale_kernel,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            grid=(pl.cdiv(x.shape[0], 8), pl.cdiv(x.shape[1], 128)),
            in_specs=[
                pl.BlockSpec(memory_space=pltpu.SMEM),
                pl.BlockSpec((8, 128), lambda i, j: (i, j)),
            ],
            out_specs=pl.BlockSpec((8, 128), lambda i, j: (i, j)),
            input_output_aliases={1: 0},
            name="scale",
            interpret=kt.INTERPRET,
        )(jnp.full((1,), factor, jnp.float32), x)
    return x


def _jagged_sum_kernel(offsets_ref, x_ref, out_ref, buffer_ref, semaphores):
    row = pl.program_id(0)
    start, end = offsets_ref[row], offsets_ref[row + 1]
    first = start // 8 * 8
    steps = pl.cdiv(end - first, 16)

    def copy(step, slot):
        begin = pl.multiple_of(first + step * 16, 8)
        return pltpu.make_async_copy(
            x_ref.at[pl.ds(begin, 16)], buffer_ref.at[slot], semaphores.at[slot]
        )

    @pl.when(steps > 0)
    def _():
        copy(0, 0).start()

    def body(step, acc):
        slot = lax.rem(step, 2)

        @pl.when(step + 1 < steps)
        def _():
            copy(step + 1, 1 - slot).start()

        copy(step, slot).wait()
        at = first + step * 16 + lax.broadcasted_iota(jnp.int32, (16, out_ref.shape[2]), 0)
        inside = (at >= start) & (at < end)
        return acc + jnp.sum(jnp.where(inside, buffer_ref[slot], 0.0), axis=0, keepdims=True)

    out_ref[0] = lax.fori_loop(0, steps, body, jnp.zeros(out_ref.shape[1:], jnp.float32))


@kt.kernel(offsets="i64[S1]", x="f32[L,D]")
def jagged_sum(offsets: jax.Array, x: jax.Array) -> jax.Array:
    """Sum of the rows of each segment."""
    segments = offsets.shape[0] - 1
    rows, d = x.shape
    padded = jnp.pad(x, ((0, pl.cdiv(rows, 8) * 8 + 16 - rows), (0, 0)))
    out = pl.pallas_call(
        _jagged_sum_kernel,
        out_shape=jax.ShapeDtypeStruct((segments, 1, d), jnp.float32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(segments,),
            in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)],
            out_specs=pl.BlockSpec((1, 1, d), lambda i, offsets: (i, 0, 0)),
            scratch_shapes=[
                pltpu.VMEM((2, 16, d), jnp.float32),
                pltpu.SemaphoreType.DMA((2,)),
            ],
        ),
        name="jagged_sum",
        interpret=kt.INTERPRET,
    )(offsets, padded)
    return out[:, 0]


def _row_sum_kernel(x_ref, out_ref, acc_ref, *, n):
    step = pl.program_id(1)

    @pl.when(step == 0)
    def _():
        acc_ref[...] = jnp.zeros_like(acc_ref)

    x = x_ref[...]
    x = jnp.where(step * 128 + lax.broadcasted_iota(jnp.int32, x.shape, 1) < n, x, 0.0)
    acc_ref[...] += jnp.sum(x, axis=1, keepdims=True)

    @pl.when(step == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = acc_ref[...]


@kt.kernel(x="f32[M,N]", keep="True", name="'rows'")
def row_sum(x: jax.Array, keep: bool = True, name: str = "rows") -> jax.Array:
    """Sum of each row."""
    m, n = x.shape
    out = pl.pallas_call(
        functools.partial(_row_sum_kernel, n=n),
        out_shape=jax.ShapeDtypeStruct((m, 1), jnp.float32),
        grid=(pl.cdiv(m, 8), pl.cdiv(n, 128)),
        in_specs=[pl.BlockSpec((8, 128), lambda i, j: (i, j))],
        out_specs=pl.BlockSpec((8, 1), lambda i, j: (i, 0)),
        scratch_shapes=[pltpu.VMEM((8, 1), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        name="row_sum",
        interpret=kt.INTERPRET,
    )(x)
    return out
