"""Element types on a TPU: what a torch tensor is as an array, and how JAX spells it."""

from __future__ import annotations

from transpile.ir.dtypes import BY_NAME, DType

#: element types that JAX (without 64-bit types) lacks, and what stands for them.
#: 64-bit integers are 32-bit already as arrays, checked when numpy or torch tensors come in; f16 is
#: widened where the kernel is called.
_STAND_INS = {"i64": "i32", "u64": "u32"}

#: what no TPU has and nothing can stand for without losing values
REFUSED = {"f64": "TPUs have no 64-bit floats", "f4e2m1x2": "Mosaic has no packed 4-bit floats"}

_JNP = {"bool": "bool_"}


def host_dtype(dtype: DType) -> DType:
    """The element type of the ``jax.Array`` that stands for a torch tensor."""
    return BY_NAME[_STAND_INS.get(dtype.name, dtype.name)]


def spell(dtype: DType) -> str:
    """``jnp.bfloat16``."""
    return f"jnp.{_JNP.get(dtype.name, dtype.torch)}"
