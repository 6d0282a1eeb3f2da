"""Result dtypes are torch's, for tiles, 0-d tensors and Python numbers."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.frontend.lower import kernels
from transpile.ir import dtypes, ir

DTYPES = ["bool", "u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"]
SOURCE = """
@helion.kernel
def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype=torch.float64, device=x.device)
    for tile in hl.tile(x.size(0)):
        hl.store(out, [tile], {})
    return out
"""


def result(expression: str, x: str, y: str = "f32", y_dims: str = "[N]") -> dtypes.DType:
    """The dtype that the expression has before the store converts it."""
    kernel = kernels(SOURCE.format(expression), args={"x": f"{x}[N]", "y": f"{y}{y_dims}"})[0]
    store = kernel.phases[0].body.ops[-1]
    assert isinstance(store, ir.Store)
    for op in kernel.phases[0].body.ops:
        if store.value in op.results:
            # The store converts to f64; what it converts is the expression.
            return op.value.dtype if isinstance(op, ir.Cast) else store.value.dtype
    raise AssertionError("the stored value has no definition")


def torch_dtype(name: str) -> torch.dtype:
    return getattr(torch, dtypes.BY_NAME[name].torch)


@pytest.mark.parametrize(("x", "y"), list(itertools.product(DTYPES, DTYPES)))
def test_tiles(x: str, y: str) -> None:
    want = torch.promote_types(torch_dtype(x), torch_dtype(y))
    assert getattr(torch, result("x[tile] * y[tile]", x, y).torch) == want


@pytest.mark.parametrize("x", DTYPES)
@pytest.mark.parametrize("number", ["2", "2.5", "True"])
def test_python_numbers_are_weak(x: str, number: str) -> None:
    want = torch.result_type(torch.ones(3, dtype=torch_dtype(x)), eval(number))
    assert getattr(torch, result(f"x[tile] * {number}", x).torch) == want


@pytest.mark.parametrize(("x", "y"), list(itertools.product(["i32", "f16", "f32"], DTYPES)))
def test_zero_dimensional_tensors_are_weaker_than_tiles(x: str, y: str) -> None:
    want = torch.result_type(
        torch.ones(3, dtype=torch_dtype(x)), torch.ones((), dtype=torch_dtype(y))
    )
    assert getattr(torch, result("x[tile] * y[0]", x, y).torch) == want


@pytest.mark.parametrize(
    ("expression", "x", "want"),
    [
        ("x[tile] / 2", "i32", "f32"),
        ("torch.exp(x[tile])", "i64", "f32"),
        ("torch.exp(x[tile])", "bf16", "bf16"),
        ("x[tile] < 3", "f16", "bool"),
        ("x[tile][:, None].sum(1)", "i32", "i64"),
        ("x[tile][:, None].sum(1)", "bf16", "bf16"),
        ("torch.argmax(x[tile][:, None], dim=1)", "f32", "i64"),
        ("torch.where(x[tile] > 0, 1, 0)", "f32", "i64"),
        ("torch.where(x[tile] > 0, x[tile], 0.0)", "f16", "f16"),
        ("tile.index + 1", "f32", "i32"),
        ("tile.index / 2", "f32", "f32"),
        ("x[tile] + tile.begin", "f16", "f16"),
        ("hl.zeros([tile])", "f16", "f32"),
        ("torch.zeros_like(x[tile])", "f16", "f16"),
    ],
)
def test_functions(expression: str, x: str, want: str) -> None:
    assert result(expression, x) == dtypes.BY_NAME[want]
