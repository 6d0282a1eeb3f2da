"""Checked-in modules under JAX's transformations, on ragged shapes, with arrays of other libraries,
for each signature that shares a kernel."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
RNG = np.random.default_rng(1)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def golden(shim: ModuleType) -> Iterator[Callable[[str], ModuleType]]:
    """Modules by name, run by jax's plain interpreter."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"{name}_pallas", GOLDEN / f"{name}_pallas.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    shim.INTERPRET = True  # type: ignore[attr-defined]
    yield load
    shim.INTERPRET = False  # type: ignore[attr-defined]


def close(got: Any, want: Any, tolerance: float = 2e-4) -> None:
    np.testing.assert_allclose(
        np.asarray(got, np.float32), np.asarray(want, np.float32), tolerance, tolerance
    )


def softmax(x: Any) -> Any:
    return np.asarray(torch.softmax(torch.from_numpy(x), -1))


def rms(x: Any, weight: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def attended(q: Any, k: Any, v: Any) -> Any:
    f = torch.nn.functional.scaled_dot_product_attention
    return np.asarray(f(*(torch.from_numpy(x) for x in (q, k, v))))


# -- transformations -------------------------------------------------------------------------------


def test_vmap_over_a_leading_batch(jax: Any, golden: Any) -> None:
    x, y, weight = normal(3, 37, 131), normal(131, 45), normal(131)
    close(jax.vmap(golden("softmax").softmax_two_pass)(x), softmax(x))
    close(jax.vmap(golden("matmul").matmul, in_axes=(0, None))(x, y), x @ y)
    normed = jax.vmap(golden("rms_norm").rms_norm_fwd, in_axes=(0, None, None))
    close(normed(x, weight, 1e-5)[0], rms(x, weight))
    q, k, v = normal(2, 1, 3, 17, 32), normal(2, 1, 3, 29, 32), normal(2, 1, 3, 29, 32)
    close(jax.vmap(golden("attention").attention)(q, k, v)[0], attended(q, k, v))


@pytest.mark.parametrize("shape", [(37, 131), (8, 128), (1, 1), (300, 7)])
def test_jit_traces_each_shape(jax: Any, golden: Any, shape: tuple[int, int]) -> None:
    x = normal(*shape)
    y = normal(shape[1], 45)
    matmul, two_pass = golden("matmul").matmul, golden("softmax").softmax_two_pass
    both = jax.jit(lambda x, y: (two_pass(x), matmul(x, y)))
    got = both(x, y)
    close(got[0], softmax(x))
    close(got[1], x @ y)


def test_numbers_may_be_traced(jax: Any, golden: Any) -> None:
    x, weight = normal(37, 131), normal(131)
    norm = golden("rms_norm").rms_norm_fwd
    close(jax.jit(lambda eps: norm(x, weight, eps)[0])(1e-5), rms(x, weight))


def test_static_sizes_are_those_of_a_signature(golden: Any, shim: ModuleType) -> None:
    attention = golden("attention").attention
    q = normal(1, 2, 17, 48)
    with pytest.raises(shim.KtError, match=r"no kernel .*q=f32\[1,2,17,48\]"):
        attention(q, q, q)


# -- arrays of other libraries ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(37, 131), (1, 300)])
def test_numpy_torch_and_jax_are_one(jax: Any, golden: Any, shape: tuple[int, int]) -> None:
    x = normal(*shape)
    two_pass = golden("softmax").softmax_two_pass
    for given in (x, torch.from_numpy(x), jax.numpy.asarray(x), torch.from_numpy(x.T.copy()).T):
        got = two_pass(given)
        assert isinstance(got, jax.Array)
        close(got, softmax(x))


# -- signatures that share a kernel ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 2e-2), (torch.bfloat16, 1e-1), (torch.float32, 2e-4)],
    ids=["f16", "bf16", "f32"],
)
def test_one_product_for_all_types(golden: Any, dtype: torch.dtype, tolerance: float) -> None:
    x, y = torch.from_numpy(normal(37, 131)).to(dtype), torch.from_numpy(normal(131, 45)).to(dtype)
    got = golden("matmul").matmul(x, y)
    assert str(got.dtype) == str(dtype).removeprefix("torch.")
    close(got, (x.float() @ y.float()).numpy(), tolerance)


@pytest.mark.parametrize("shape", [(2, 3, 17, 29), (1, 1, 130, 5)])
@pytest.mark.parametrize(("dtype", "head_dim"), [(np.float16, 64), (np.float32, 32)])
def test_one_attention_for_all_head_dims(
    golden: Any, shape: tuple[int, ...], dtype: Any, head_dim: int
) -> None:
    b, h, m, n = shape
    q, k, v = (normal(b, h, length, head_dim).astype(dtype) for length in (m, n, n))
    out, lse = golden("attention").attention(q, k, v)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    wide = [x.astype(np.float32) for x in (q, k, v)]
    close(out, attended(*wide), 5e-3 if dtype is np.float16 else 2e-4)


@pytest.mark.parametrize(("group", "kv_heads", "head_dim"), [(4, 2, 64), (2, 3, 32)])
def test_one_grouped_attention_for_all_groups(
    golden: Any, group: int, kv_heads: int, head_dim: int
) -> None:
    dtype = torch.bfloat16 if head_dim == 64 else torch.float32
    q = torch.from_numpy(normal(1, kv_heads * group, 17, head_dim)).to(dtype)
    k, v = (torch.from_numpy(normal(1, kv_heads, 29, head_dim)).to(dtype) for _ in range(2))
    got, _ = golden("attention").attention_gqa(q, k, v, head_dim**-0.5)
    keys, values = (x.float().repeat_interleave(group, 1).numpy() for x in (k, v))
    close(got, attended(q.float().numpy(), keys, values), 3e-2 if head_dim == 64 else 2e-4)
