"""Bugs planted into kernels are found: each mode sees some of them, together they see all.

A bug is a replacement of text in a handmade kernel. Two kinds show nowhere off the chip: a false
``pl.multiple_of``, which kt therefore only writes where it is proved, and a mask that is multiplied
instead of selected, which XLA on a CPU turns into a selection.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 200)).astype(np.float32)
Y = RNG.standard_normal((200, 260)).astype(np.float32)
OFFSETS = np.array([0, 5, 5, 40, 77, 100], np.int32)
ROWS = RNG.standard_normal((100, 128)).astype(np.float32)
HERE = Path(__file__).parent


def _matmul(module: ModuleType) -> tuple[Any, Any]:
    return module.matmul(X, Y), X @ Y


def _row_sum(module: ModuleType) -> tuple[Any, Any]:
    return module.row_sum(X), X.sum(1, keepdims=True)


def _softmax(module: ModuleType) -> tuple[Any, Any]:
    e = np.exp(X - X.max(1, keepdims=True))
    return module.softmax(X.astype(np.float16)), e / e.sum(1, keepdims=True)


def _scale(module: ModuleType) -> tuple[Any, Any]:
    return module.scale_(X, 2.0), 2 * X


def _jagged(module: ModuleType) -> tuple[Any, Any]:
    want = [ROWS[a:b].sum(0) for a, b in itertools.pairwise(OFFSETS)]
    return module.jagged_sum(OFFSETS, ROWS), np.stack(want)


class Bug(NamedTuple):
    """``old`` becomes ``new``; ``sees`` is the weakest mode that must notice."""

    call: Callable[[ModuleType], tuple[Any, Any]]
    old: str
    new: str
    sees: str = "simulator"


_LAST_K = "    @pl.when(step == pl.num_programs(2) - 1)\n    def _():\n        out_ref[...] = acc_ref[...].astype(out_ref.dtype)\n"
_ZERO_K = "        acc_ref[...] = jnp.zeros_like(acc_ref)\n\n    x, y"

BUGS = {
    # copies
    "copy never waited for": Bug(_jagged, "        copy(step, slot).wait()\n", ""),
    "read before the copy is waited for": Bug(
        _jagged,
        "        copy(step, slot).wait()\n        at =",
        "        early = buffer_ref[slot]\n        copy(step, slot).wait()\n"
        "        acc = acc + 0 * jnp.sum(early, axis=0, keepdims=True)\n        at =",
    ),
    "prefetch into the buffer that is being read": Bug(
        _jagged,
        "copy(step + 1, 1 - slot).start()\n\n        copy(step, slot).wait()",
        "copy(step + 1, 0).start()\n\n        copy(step, 0).wait()",
    ),
    # memory that holds nothing yet
    "accumulator not cleared": Bug(_matmul, _ZERO_K, "        pass\n\n    x, y", "plain"),
    "accumulator cleared in a step that never comes": Bug(
        _row_sum,
        "    @pl.when(step == 0)\n    def _():\n        acc_ref[...] = jnp.zeros_like(acc_ref)\n\n    x = x",
        "    @pl.when(step == 9)\n    def _():\n        acc_ref[...] = jnp.zeros_like(acc_ref)\n\n    x = x",
        "plain",
    ),
    "output never written": Bug(_matmul, _LAST_K, "", "plain"),
    # out of bounds
    "block index past the array": Bug(
        _matmul, "lambda i, j, step: (i, step)", "lambda i, j, step: (i, step + 1)"
    ),
    "output block index past the array": Bug(
        _softmax,
        "out_specs=pl.BlockSpec((8, n), lambda i: (i, 0))",
        "out_specs=pl.BlockSpec((8, n), lambda i: (i + 1, 0))",
    ),
    "copy past the end of the array": Bug(
        _jagged, "((0, pl.cdiv(rows, 8) * 8 + 16 - rows), (0, 0))", "((0, 0), (0, 0))"
    ),
    "slice past the end of a buffer": Bug(
        _jagged, "semaphores.at[slot]", "semaphores.at[slot + step]"
    ),
    "read past the end of a buffer": Bug(
        _jagged,
        "jnp.where(inside, buffer_ref[slot], 0.0)",
        "jnp.where(inside, buffer_ref[slot + 2 * step], 0.0)",
    ),
    "write past the end of a block": Bug(
        _jagged, "out_ref[0] = lax.fori_loop", "out_ref[row] = lax.fori_loop"
    ),
    # order and cores
    "output block visited again later": Bug(
        _row_sum,
        "out_specs=pl.BlockSpec((8, 1), lambda i, j: (i, 0))",
        "out_specs=pl.BlockSpec((8, 1), lambda i, j: (j % 2, 0))",
    ),
    "accumulation along a parallel axis": Bug(
        _row_sum,
        'dimension_semantics=("parallel", "arbitrary")',
        'dimension_semantics=("parallel", "parallel")',
        "cores",
    ),
    "neighbouring programs write the same block": Bug(
        _matmul,
        'dimension_semantics=("parallel", "parallel", "arbitrary")',
        'dimension_semantics=("arbitrary", "arbitrary", "parallel")',
        "cores",
    ),
    # raggedness
    "ragged end not masked": Bug(
        _row_sum,
        "    x = jnp.where(step * 128 + lax.broadcasted_iota(jnp.int32, x.shape, 1) < n, x, 0.0)\n",
        "",
        "plain",
    ),
    "one operand of a product not masked": Bug(
        _matmul, "        y = jnp.where(step * 128", "        _ = jnp.where(step * 128", "plain"
    ),
    # in place
    "in-place update reads what is overwritten": Bug(
        _scale,
        "pl.BlockSpec((8, 128), lambda i, j: (i, j)),\n            ],",
        "pl.BlockSpec((8, 128), lambda i, j: (jnp.maximum(i - 1, 0), j)),\n            ],",
        "plain",
    ),
}


def observe(module: ModuleType, bug: Bug, mode: Any) -> str:
    """What a mode notices."""
    from transpile.verify import pallas_modes as modes

    try:
        with modes.running(module, mode) as observed:
            got, want = bug.call(module)
            got = np.asarray(got, np.float32)
    except Exception as exc:  # noqa: BLE001 - that is what is looked for
        return f"{type(exc).__name__}: {str(exc)[-300:]}"
    if observed.races:
        return observed.races[0]
    tolerance = 1e-2 if bug.call is _softmax else 1e-3
    return "" if np.abs(got - want).max() < tolerance else "wrong values"


@pytest.fixture(scope="module")
def modes(shim: ModuleType) -> dict[str, Any]:
    from transpile.verify import pallas_modes

    pallas_modes.prepare()
    return {
        "plain": True,
        "simulator": pallas_modes.simulator(),
        "cores": pallas_modes.simulator(cores=2),
    }


ONE_HOT = """
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
import _kt_pallas as kt


def _pick_kernel(index_ref, x_ref, out_ref):
    rows = lax.broadcasted_iota(jnp.int32, (8, x_ref.shape[0]), 1)
    chosen = (rows == index_ref[...]).astype(jnp.float32)
    out_ref[...] = jnp.dot(chosen, x_ref[...], precision=lax.Precision.PRECISION)


@kt.kernel(index="i32[8,1]", x="f32[M,N]")
def pick(index, x):
    return pl.pallas_call(
        _pick_kernel,
        out_shape=jax.ShapeDtypeStruct((8, x.shape[1]), x.dtype),
        interpret=kt.INTERPRET,
    )(index, x)
"""


@pytest.mark.parametrize("precision", ["DEFAULT", "HIGHEST"])
def test_products_that_a_tpu_would_round(
    tmp_path: Path, modes: dict[str, Any], precision: str
) -> None:
    """Rows picked by a product with default precision lose bits on a TPU; the harness sees it."""
    from transpile.verify import pallas_modes
    from transpile.verify.numerics import load_module

    path = tmp_path / f"one_hot_{precision}.py"
    path.write_text(ONE_HOT.replace("PRECISION", precision))
    module = load_module(str(path))
    index = RNG.integers(0, 300, (8, 1)).astype(np.int32)

    def call() -> Any:
        return np.asarray(module.pick(index, X))

    with pallas_modes.running(module, True):
        got, seen = pallas_modes.count_products(call)
    assert np.array_equal(got, X[index[:, 0]])
    assert seen == (precision == "DEFAULT")
    with pallas_modes.running(module, True, rounding=True):
        exact = np.array_equal(call(), X[index[:, 0]])
    assert exact == (precision == "HIGHEST")


def planted(tmp_path: Path, name: str, bug: Bug) -> ModuleType:
    from transpile.verify.numerics import load_module

    text = (HERE / "handmade.py").read_text()
    assert text.count(bug.old) == 1, "the text that the bug replaces is not there (once)"
    path = tmp_path / f"planted_{list(BUGS).index(name)}.py"
    path.write_text(text.replace(bug.old, bug.new))
    return load_module(str(path))


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(tmp_path: Path, modes: dict[str, Any], name: str) -> None:
    bug = BUGS[name]
    module = planted(tmp_path, name, bug)
    stages = list(modes)
    for stage in stages[: stages.index(bug.sees) + 1]:
        found = observe(module, bug, modes[stage])
        if found:
            return
    pytest.fail(f"nothing noticed in {stages[: stages.index(bug.sees) + 1]}")


@pytest.mark.parametrize("call", dict.fromkeys(bug.call for bug in BUGS.values()))
def test_sound_kernels_pass_every_mode(kernels: Any, modes: dict[str, Any], call: Any) -> None:
    for mode in modes.values():
        assert observe(kernels, Bug(call, "", ""), mode) == ""
