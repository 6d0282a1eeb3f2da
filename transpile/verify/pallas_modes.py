"""Running Pallas kernels on the CPU: jax's two interpreters, what they report, and their repairs.

The plain interpreter (``interpret=True``) turns a kernel into XLA operations. The TPU interpreter
(``pltpu.InterpretParams``) simulates memories, copies, semaphores and cores; it is what sees races,
reads of uninitialised memory and accesses out of bounds. Both compute products of f32 exactly,
where a TPU by default rounds the operands to bf16; :func:`rounding_products` makes them do that.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass
class Products:
    """Products whose f32 operands a TPU would round: how many were lowered, and whether to."""

    seen: int = 0
    rounding: bool = False


_products = Products()


@dataclass
class Observed:
    """What the simulator noticed while kernels ran: races, and copies that nothing waited for."""

    races: list[str] = field(default_factory=list)


def simulator(cores: int = 1, **options: Any) -> Any:
    """The TPU interpreter with race detection; uninitialised memory is NaN, reads out of bounds
    raise. With two cores, "parallel" grid axes are split between them."""
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.InterpretParams(detect_races=True, num_cores_or_threads=cores, **options)


@functools.cache
def prepare() -> None:
    """Install the repairs and the counting of products, once per process."""
    _repair_aliased_outputs()
    _keep_races()
    _count_products()
    _pretend_tpu()


@contextlib.contextmanager
def running(module: ModuleType, mode: Any, rounding: bool = False) -> Iterator[Observed]:
    """Inside, the module's functions run their kernels in ``mode``."""
    from jax.experimental.pallas import tpu as pltpu

    shim: Any = getattr(module, "kt", module)
    before = shim.INTERPRET
    shim.INTERPRET, _products.rounding = mode, rounding
    _forget_compiled(module)
    observed = Observed()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield observed
    except Exception:
        pltpu.reset_tpu_interpret_mode_state()  # else the next kernel waits for this one
        raise
    finally:
        shim.INTERPRET, _products.rounding = before, False
        _forget_compiled(module)
        lines = printed.getvalue().splitlines()
        observed.races += [line for line in lines if "RACE" in line or "non-zero count" in line]


def _forget_compiled(module: ModuleType) -> None:
    for value in vars(module).values():
        compiled = getattr(value, "compiled", None)
        if isinstance(compiled, dict):
            compiled.clear()


def count_products(call: Callable[[], Any]) -> tuple[Any, int]:
    """What ``call`` returns, and how many products of f32 with default precision it compiled."""
    _products.seen = 0
    result = call()
    return result, _products.seen


# -- repairs ---------------------------------------------------------------------------------------


def _repair_aliased_outputs() -> None:
    """The TPU interpreter returns an aliased output as large as its padded buffer."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    original = interpreter.interpret_pallas_call

    def repaired(*args: Any, **options: Any) -> Any:
        results = original(*args, **options)
        mappings = options["grid_mapping"].block_mappings_output
        shapes = [m.array_aval.shape for m in mappings]
        pairs = zip(results, shapes, strict=True)
        return [r[tuple(slice(0, n) for n in shape)] for r, shape in pairs]

    interpreter.interpret_pallas_call = repaired


def _keep_races() -> None:
    """What is printed of a race names the place; make sure that something is."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    original = interpreter.RaceDetectionState

    class Announced(original):  # type: ignore[misc,valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "races_found" and value:
                print("RACE DETECTED")  # noqa: T201 - redirected by running()
            super().__setattr__(name, value)

    interpreter.RaceDetectionState = Announced


def _pretend_tpu() -> None:
    """Tilings of one-dimensional blocks are asked of the device; answer for a v6e."""
    from jax._src.pallas.mosaic import tpu_info

    chip = tpu_info.ChipVersion.TPU_V6E
    tpu_info.registry.setdefault("cpu", lambda: tpu_info.get_tpu_info_for_chip(chip, 1))


def _count_products() -> None:
    """Count and, if asked to, round the operands of f32 products of default precision."""
    import jax
    from jax import lax
    from jax._src.interpreters import mlir
    from jax._src.lax.lax import _dot_general_lower as original

    def lower(ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
        floats = [str(aval.dtype) == "float32" for aval in ctx.avals_in]
        if not any(floats) or not _is_default(params.get("precision")):
            return original(ctx, lhs, rhs, **params)
        _products.seen += 1
        if not _products.rounding:
            return original(ctx, lhs, rhs, **params)
        params["precision"] = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)

        def rounded(*operands: Any) -> Any:
            a, b = (
                lax.reduce_precision(x, 8, 7) if wide else x  # bf16's exponent and mantissa
                for x, wide in zip(operands, floats, strict=True)
            )
            return lax.dot_general_p.bind(a, b, **params)

        return mlir.lower_fun(rounded, multiple_results=False)(ctx, lhs, rhs)

    assert jax.default_backend() == "cpu"
    mlir.register_lowering(lax.dot_general_p, lower, platform="cpu")


def _is_default(precision: Any) -> bool:
    from jax import lax

    if isinstance(precision, tuple):
        return all(map(_is_default, precision))
    return precision is None or precision == lax.Precision.DEFAULT
