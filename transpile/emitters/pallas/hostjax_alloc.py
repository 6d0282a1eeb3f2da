"""Allocations of host programs: what torch creates, as an array or as the shape of an output."""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.pallas.hostjax_calls import Call, Untranslatable, atom

FUNCTIONS = frozenset(
    ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like",
     "empty_strided", "rand", "randn")
)  # fmt: skip
METHODS = frozenset(("new_empty", "new_zeros", "new_ones", "new_full"))


@dataclass(frozen=True, slots=True)
class Allocation:
    """A new tensor. ``fill`` is None for uninitialised memory. Texts are JAX; ``like`` is the
    tensor whose shape and dtype it has where it overrides neither."""

    shape: str
    dtype: str
    fill: str | None
    like: str = ""

    def array(self) -> str:
        """The array itself."""
        if self.fill is None:
            return f"jnp.empty_like({self.like})" if self.like else f"jnp.empty({self._typed()})"
        if self.fill in ("0", "1"):
            name = "zeros" if self.fill == "0" else "ones"
            return f"jnp.{name}_like({self.like})" if self.like else f"jnp.{name}({self._typed()})"
        if self.like:
            return f"jnp.full_like({self.like}, {self.fill})"
        return f"jnp.full({self.shape}, {self.fill}, {self.dtype})"

    def _typed(self) -> str:
        return f"{self.shape}, {self.dtype}"

    def struct(self) -> str:
        """Its shape and dtype only, as ``out_shape`` wants them."""
        return f"jax.ShapeDtypeStruct({self.shape}, {self.dtype})"


def allocation(name: str, call: Call) -> Allocation:
    """What a call of torch's that makes a tensor makes. Raises Untranslatable."""
    if name in ("rand", "randn", "empty_strided"):
        why = (
            "random numbers of torch cannot be repeated"
            if "rand" in name
            else "arrays have no strides"
        )
        raise Untranslatable(why)
    dtype = call.kwargs.get("dtype", "")
    if name.endswith("_like"):
        like = call.get(0, "input")
        fill = {"empty_like": None, "zeros_like": "0", "ones_like": "1"}.get(name, "")
        if fill == "":
            fill = call.get(1, "fill_value")
        same = "" if dtype else like
        return Allocation(f"{atom(like)}.shape", dtype or f"{atom(like)}.dtype", fill, same)
    kind = name.removeprefix("new_")
    default = f"{atom(call.receiver)}.dtype" if name.startswith("new_") else "jnp.float32"
    if kind == "full":
        shape = Call(name, "", [call.get(0, "size")]).shape()
        return Allocation(shape, dtype or default, call.get(1, "fill_value"))
    fill = {"empty": None, "zeros": "0", "ones": "1"}[kind]
    return Allocation(call.shape(), dtype or default, fill)
