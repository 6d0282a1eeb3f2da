"""Kernels as they would be without the rewrites; prints which of them a v5e's compiler refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from transpile.verify.pallas_compile import compile_for

_F32, _BF16, _I8 = (((8, 256), dtype) for dtype in ("float32", "bfloat16", "int8"))
_INDEX = ((8,), "int32")


def _carried(x: Any) -> Any:
    return lax.fori_loop(0, 4, lambda i, seen: seen | (x > i), x > 9).astype(jnp.float32)


BODIES: dict[str, tuple[Callable[..., Any], tuple[tuple[tuple[int, ...], str], ...]]] = {
    "doubling": (lambda x: x * 2, (_F32,)),
    "cumsum": (lambda x: jnp.cumsum(x, 1), (_F32,)),
    "gather": (lambda x, i: x[i], (_F32, _INDEX)),
    "scatter": (lambda x, i: x.at[i].add(1.0), (_F32, _INDEX)),
    "sort": (lambda x: jnp.sort(x, 1), (_F32,)),
    "argmax of int32": (lambda x: jnp.argmax(x, 1, keepdims=True), (((8, 256), "int32"),)),
    "int8 sum": (lambda x: x + x, (_I8,)),
    "int8 maximum": (lambda x: jnp.max(x, 1, keepdims=True), (_I8,)),
    "float16": (lambda x: x * 2, (((8, 256), "float16"),)),
    "expm1": (jnp.expm1, (_F32,)),
    "erfc": (jax.scipy.special.erfc, (_F32,)),
    "arcsin": (jnp.arcsin, (_F32,)),
    "product along an axis": (lambda x: jnp.prod(x, 1, keepdims=True), (_F32,)),
    "carried truth values": (_carried, (_F32,)),
    "bfloat16 log2": (jnp.log2, (_BF16,)),
    "bfloat16 remainder": (lambda x: x % 0.3, (_BF16,)),
    "bfloat16 product": (lambda x: jnp.dot(x, x.T), (_BF16,)),
}


def refusal(body: Callable[..., Any], specs: tuple[tuple[tuple[int, ...], str], ...]) -> str:
    """The compiler's complaint about a kernel with this body, or ""."""
    arrays = {f"x{i}": jax.ShapeDtypeStruct(shape, dtype) for i, (shape, dtype) in enumerate(specs)}
    out = jax.eval_shape(body, *arrays.values())

    def kernel(*refs: Any) -> None:
        refs[-1][...] = body(*(ref[...] for ref in refs[:-1]))

    call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype))
    try:
        compile_for("v5e", lambda **given: call(*given.values()), arrays)
    except Exception as error:  # noqa: BLE001 - what it raises is the answer
        return f"{type(error).__name__}: {error}"[:200]
    return ""


if __name__ == "__main__":
    answers = {name: refusal(*case) for name, case in BODIES.items()}
    sys.stdout.write(json.dumps(answers) + "\n")
