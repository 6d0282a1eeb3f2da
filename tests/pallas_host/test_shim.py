"""Calls of generated functions: what is accepted, what is refused and how, and under which of JAX's
transformations they work."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

RNG = np.random.default_rng(0)
X = RNG.standard_normal((300, 200)).astype(np.float32)
Y = RNG.standard_normal((200, 260)).astype(np.float32)
OFFSETS = np.array([0, 5, 5, 40, 77, 100])
ROWS = RNG.standard_normal((100, 256)).astype(np.float32)


def close(got: Any, want: Any, tolerance: float = 1e-4) -> bool:
    return bool(
        np.abs(np.asarray(got, np.float32) - np.asarray(want, np.float32)).max() < tolerance
    )


def segments(rows: Any) -> Any:
    return np.stack([rows[a:b].sum(0) for a, b in itertools.pairwise(OFFSETS)])


# -- what goes in ----------------------------------------------------------------------------------


def test_numpy_jax_and_torch_are_taken(jax: Any, kernels: Any) -> None:
    for x, y in (
        (X, Y),
        (jax.numpy.asarray(X), jax.numpy.asarray(Y)),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (torch.from_numpy(X.T.copy()).T, torch.from_numpy(Y).requires_grad_()),
    ):
        got = kernels.matmul(x, y)
        assert isinstance(got, jax.Array)
        assert close(got, X @ Y)


def test_dtypes_of_torch_arrive(kernels: Any) -> None:
    x, y = torch.from_numpy(X).bfloat16(), torch.from_numpy(Y).bfloat16()
    got = kernels.matmul(x, y)
    assert got.dtype.name == "bfloat16"
    assert close(got, (x.float() @ y.float()).numpy(), 0.5)


def test_f16_is_widened_inside(kernels: Any) -> None:
    got = kernels.softmax(X.astype(np.float16))
    assert got.dtype == np.float16
    assert close(got.sum(1), np.ones(300), 1e-2)


def test_64_bit_integers_are_narrowed_if_they_fit(kernels: Any, shim: ModuleType) -> None:
    assert close(kernels.jagged_sum(OFFSETS, ROWS), segments(ROWS))
    assert close(kernels.jagged_sum(torch.from_numpy(OFFSETS), ROWS), segments(ROWS))
    for wide in (np.array([0, 2**40]), torch.tensor([0, 2**40])):
        with pytest.raises(shim.KtError, match=r"offsets: its values \(0 to 1099511627776\)"):
            kernels.jagged_sum(wide, ROWS)


def test_numbers_of_every_kind(jax: Any, kernels: Any) -> None:
    for factor in (2.0, 2, np.float32(2), jax.numpy.float32(2)):
        assert close(kernels.scale_(X, factor), 2 * X)
    assert close(kernels.scale_(X, 2.0, times=3), 8 * X)


def test_another_number_compiles_nothing_new(jax: Any, kernels: Any) -> None:
    kernels.scale_(X, 1.5)
    with jax.log_compiles(False):
        before = dict(kernels.scale_.compiled)
        (run,) = [r for mode, r in before.items() if mode[0] is True]
        size = run._cache_size()
        kernels.scale_(X, 2.5)
        assert run._cache_size() == size
        kernels.scale_(X[:8], 2.5)
        assert run._cache_size() == size + 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.softmax(X), r"x must be f16\[M,N\], got f32\[300,200\]; convert it"),
        (lambda k: k.row_sum(X[0]), r"x must be f32\[M,N\], got f32\[200\]; it has 1 dimensions"),
        (lambda k: k.row_sum(X.astype(np.float64)), "x: TPUs have no f64"),
        (lambda k: k.row_sum(torch.ones(2, 2).double()), "x: TPUs have no f64"),
        (lambda k: k.row_sum(X, keep=False), "keep must be True, got bool False"),
        (lambda k: k.row_sum(X, name="columns"), "name must be 'rows', got str 'columns'"),
        (lambda k: k.row_sum(None), "x must be .*, got NoneType None"),
        (lambda k: k.scale_(X, "a"), r"factor must be a number \(f32\), got str 'a'"),
        (lambda k: k.scale_(X, X), r"factor must be a number \(f32\), got f32\[300,200\]"),
        (lambda k: k.scale_(X, 1.0, 2**40), "times must be a number .* 32-bit"),
        (lambda k: k.matmul(X, Y[:3]), r"no kernel was built for .* y=f32\[3,260\]"),
        (lambda k: k.matmul(X, Y.astype(np.float16)), r"no kernel .* y=f16\[200,260\]"),
    ],
)
def test_refused(kernels: Any, shim: ModuleType, call: Any, message: str) -> None:
    with pytest.raises(shim.KtError, match=message):
        call(kernels)


def test_wrong_calls_are_type_errors(kernels: Any) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        kernels.matmul(X)


def test_dims_are_checked_across_parameters(shim: ModuleType) -> None:
    @shim.kernel(a="f32[N,4]", b="f32[N,_]")
    def f(a: Any, b: Any) -> Any:
        return a

    with pytest.raises(shim.KtError, match=r"a must be f32\[N,4\].* dimension 1 must be 4"):
        f(np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32))
    with pytest.raises(shim.KtError, match=r"b must be .* N is 3 in a"):
        f(np.zeros((3, 4), np.float32), np.zeros((2, 5), np.float32))


def _twice(x: Any) -> Any:
    return x + x


def test_parameters_that_no_signature_speaks_of(
    kernels: Any, shim: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "kt", shim)  # where generated modules have it

    @shim.kernel(x="f32[N]")
    def scaled(grad: Any, x: Any, epilogue: Any = _twice) -> Any:
        return epilogue(grad) * x

    grad, x = np.ones((2, 3), np.float32), np.full(3, 4.0, np.float32)
    assert close(scaled(grad, x), np.full((2, 3), 8.0))
    with pytest.raises(shim.KtError, match="epilogue is compiled in"):
        scaled(grad, x, epilogue=abs)


def test_without_a_tpu_it_says_what_to_do(kernels: Any, shim: ModuleType) -> None:
    shim.INTERPRET = False  # type: ignore[attr-defined]
    with pytest.raises(shim.KtError, match=r"matmul: there is no TPU here .* KT_INTERPRET=1"):
        kernels.matmul(X, Y)


def test_it_is_still_a_function(kernels: Any) -> None:
    import inspect

    assert kernels.matmul.__name__ == "matmul"
    assert kernels.matmul.__doc__ == "Matrix product."
    assert list(inspect.signature(kernels.scale_).parameters) == ["x", "factor", "times"]


# -- arrays without elements -----------------------------------------------------------------------


def test_empty_results(kernels: Any) -> None:
    assert kernels.matmul(X[:0], Y).shape == (0, 260)
    assert kernels.softmax(X[:0].astype(np.float16)).shape == (0, 200)
    assert kernels.scale_(X[:, :0], 2.0).shape == (300, 0)


def test_results_of_empty_arrays_are_refused(kernels: Any, shim: ModuleType) -> None:
    with pytest.raises(shim.KtError, match=r"matmul: .* no elements"):
        kernels.matmul(X[:, :0], Y[:0])


# -- transformations -------------------------------------------------------------------------------


def test_jit(jax: Any, kernels: Any) -> None:
    @jax.jit
    def f(x: Any, y: Any) -> Any:
        return kernels.matmul(x, y) * 2

    assert close(f(X, Y), 2 * (X @ Y))
    assert close(jax.jit(kernels.jagged_sum)(OFFSETS.astype(np.int32), ROWS), segments(ROWS))


def test_jit_with_a_traced_number(jax: Any, kernels: Any) -> None:
    assert close(jax.jit(kernels.scale_)(X, 3.0), 3 * X)


def test_vmap(jax: Any, kernels: Any) -> None:
    both = np.stack([X, 2 * X])
    assert close(jax.vmap(kernels.matmul, in_axes=(0, None))(both, Y), both @ Y)
    assert close(jax.vmap(kernels.scale_, in_axes=(0, 0))(both, np.float32([2, 3]))[1], 6 * X)


def test_vmap_over_prefetched_data(jax: Any, kernels: Any) -> None:
    both = np.stack([ROWS, 2 * ROWS])
    got = jax.vmap(kernels.jagged_sum, in_axes=(None, 0))(OFFSETS.astype(np.int32), both)
    assert close(got[1], 2 * segments(ROWS))


def test_arguments_are_checked_under_jit(jax: Any, kernels: Any, shim: ModuleType) -> None:
    with pytest.raises(shim.KtError, match=r"x must be f16\[M,N\]"):
        jax.jit(kernels.softmax)(X)


def test_vmem(shim: ModuleType) -> None:
    shim.check_vmem("f", {"x": 2**20}, 2**20)
    with pytest.raises(shim.KtError, match=r"(?s)f: .* 3.0 MiB of VMEM, there are 2.0.*x twice"):
        shim.check_vmem("f", {"x twice": 2**21, "acc": 2**20}, 2**21)


@pytest.mark.parametrize(
    ("length", "block", "turns"),
    [(2048, 512, 4), (200, 200, 1), (8192, 512, 8), (5000, 512, 5), (13 * 512, 512, 1)],
)
def test_steps_of_a_loop_walk_equally_many_blocks(
    shim: ModuleType, length: int, block: int, turns: int
) -> None:
    assert shim.turns(length, block) == turns


def test_numbers_without_a_signature_have_32_bits(shim: ModuleType) -> None:
    kernel = shim.kernel(x="f32[N]")(lambda x, seed: x)
    with pytest.raises(shim.KtError, match="seed is 34359738368; TPUs have 32-bit integers"):
        kernel(np.ones(4, np.float32), 2**35)


@pytest.mark.parametrize(("width", "rows"), [(1024, 256), (5000, 32), (32768, 32), (100, 2048)])
def test_blocks_of_rows_have_about_a_mebibyte(shim: ModuleType, width: int, rows: int) -> None:
    assert shim.block_rows(width, 32) == rows
