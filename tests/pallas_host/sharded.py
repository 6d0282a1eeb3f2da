"""Generated-like kernels on four devices: rows of a batch, and the inner dimension of a product.

Run by test_sharding.py in a process with four CPU devices.
"""

import handmade
import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

mesh = jax.make_mesh((4,), ("chips",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)
x = rng.standard_normal((512, 256)).astype(np.float32)
y = rng.standard_normal((256, 384)).astype(np.float32)


def check(name, got, want):
    assert np.abs(np.asarray(got) - want).max() < 1e-3, name
    print(name, "ok", len(got.sharding.device_set), "devices")  # noqa: T201 - read by the test


@jax.jit
def by_rows(x, y):
    """Each chip has rows of x and all of y; nothing is exchanged."""
    return jax.shard_map(
        handmade.matmul, mesh=mesh, in_specs=(P("chips"), P()), out_specs=P("chips"),
        check_vma=False,
    )(x, y)  # fmt: skip


@jax.jit
def by_inner(x, y):
    """Each chip has a share of the inner dimension; the partial products are summed."""

    def product(x, y):
        return jax.lax.psum(handmade.matmul(x, y), "chips")

    return jax.shard_map(
        product, mesh=mesh, in_specs=(P(None, "chips"), P("chips")), out_specs=P(),
        check_vma=False,
    )(x, y)  # fmt: skip


@jax.jit
def in_place(x):
    return jax.shard_map(
        lambda x: handmade.scale_(x, 2.0), mesh=mesh, in_specs=P("chips"), out_specs=P("chips"),
        check_vma=False,
    )(x)  # fmt: skip


rows = jax.device_put(x, NamedSharding(mesh, P("chips")))
check("rows", by_rows(rows, y), x @ y)
check("inner", by_inner(jax.device_put(x, NamedSharding(mesh, P(None, "chips"))), y), x @ y)
check("in place", in_place(rows), 2 * x)
