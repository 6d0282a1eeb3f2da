"""What generated calls ask of the compiler: numbers for real shapes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.pallas.generate import build
from tests.pallas.test_kernels import MATMUL, SOFTMAX
from tests.pallas.test_vmem import ATTENTION

MATMUL_ARGS = {"x": "bf16[M,K]", "y": "bf16[K,N]"}
ATTENTION_ARGS = {"q": "bf16[B,M,128]", "k": "bf16[B,N,128]", "v": "bf16[B,N,128]"}


def module(folder: Path, text: str) -> ModuleType:
    from transpile.verify.numerics import load_module

    path = folder / f"generated_{abs(hash(text))}.py"
    path.write_text(text)
    return load_module(str(path))


def calls(jax: Any, function: Any, *shapes: tuple[int, ...], dtype: str = "bfloat16") -> list[Any]:
    """Parameters of the pallas_calls that a function makes for arrays of some shapes."""
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    found: list[Any] = []

    def visit(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "pallas_call":
                found.append(eqn.params)
                continue
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", None)
                if inner is not None:
                    visit(inner)

    visit(jax.make_jaxpr(function)(*arrays).jaxpr)
    return found


def test_estimates_are_what_jax_counts(jax: Any, shim: ModuleType, tmp_path: Path) -> None:
    """Of jax's own estimate for the plain functions: all of a product, all functions of a softmax,
    the products of attention, which are nearly all of it."""
    import jax.numpy as jnp
    from jax.experimental import pallas as pl

    def estimate(function: Any, *shapes: tuple[int, ...]) -> Any:
        return pl.estimate_cost(function, *(jax.ShapeDtypeStruct(s, "bfloat16") for s in shapes))

    def attention(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("bmd,bnd->bmn", q, k)
        probs = jnp.exp(scores - scores.max(-1, keepdims=True))
        return jnp.einsum("bmn,bnd->bmd", probs, v)

    shapes: Any = (300, 500), (500, 200)
    (call,) = calls(jax, module(tmp_path, build(MATMUL, args=MATMUL_ARGS)).f, *shapes)
    assert call["cost_estimate"] == estimate(jnp.dot, *shapes)

    (call,) = calls(jax, module(tmp_path, build(SOFTMAX, args={"x": "f32[M,N]"})).f, (100, 1000),
                    dtype="float32")  # fmt: skip
    (mine, theirs) = call["cost_estimate"], estimate(jax.nn.softmax, (100, 1000))
    assert mine.transcendentals == theirs.transcendentals == 100 * 1000
    assert mine.bytes_accessed == 2 * theirs.bytes_accessed  # f32 instead of bf16

    shapes = (2, 300, 128), (2, 400, 128), (2, 400, 128)
    (call,) = calls(jax, module(tmp_path, build(ATTENTION, args=ATTENTION_ARGS)).f, *shapes)
    (mine, theirs) = call["cost_estimate"], estimate(attention, *shapes)
    assert mine.transcendentals == theirs.transcendentals
    assert mine.bytes_accessed == theirs.bytes_accessed
    assert mine.flops == pytest.approx(theirs.flops, rel=0.02)


def test_blocks_of_whole_rows_ask_for_what_they_need(
    jax: Any, shim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 rows of 4096: two buffers twice, what is spilled; rows that do not fit are listed."""
    made = module(tmp_path, build(SOFTMAX, args={"x": "f32[M,N]"}, block_sizes=[256]))
    monkeypatch.setattr(made.kt, "_device_kind", lambda: "TPU7x")  # type: ignore[attr-defined]
    (call,) = calls(jax, made.f, (1000, 4096), dtype="float32")
    asked = call["compiler_params"].vmem_limit_bytes
    assert asked == (4 + 1) * 256 * 4096 * 4 + (4 << 20)
    with pytest.raises(made.kt.KtError) as caught:  # type: ignore[attr-defined]
        calls(jax, made.f, (1000, 16384), dtype="float32")
    message = str(caught.value)
    assert "f: these shapes need 80.0 MiB of VMEM, there are 63.8" in message
    assert "32.00 MiB  x (256, 16384) f32, twice" in message
    assert "32.00 MiB  out (256, 16384) f32, twice" in message
    assert "16.00 MiB  values that may be spilled" in message
    monkeypatch.setattr(made.kt, "_device_kind", lambda: "TPU v6 lite")  # type: ignore[attr-defined]
    assert calls(jax, made.f, (1000, 16384), dtype="float32")
    assert made.f(np.zeros((0, 64), np.float32)).shape == (0, 64)
