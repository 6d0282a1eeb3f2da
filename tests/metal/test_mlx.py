"""Generated functions on MLX arrays; the fake MLX runs their kernels in the executor."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from tests.metal import fake_mlx  # noqa: E402

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
Load = Callable[[str], ModuleType]


@pytest.fixture
def mx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fake = fake_mlx.module()
    package = ModuleType("mlx")
    package.core = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlx", package)
    monkeypatch.setitem(sys.modules, "mlx.core", fake)
    monkeypatch.syspath_prepend(str(GOLDEN))
    yield fake
    for name in [n for n in sys.modules if n.startswith("_kt_metal") or n.endswith("_metal")]:
        del sys.modules[name]


@pytest.fixture
def golden(mx: Any) -> Load:
    def load(name: str) -> ModuleType:
        return importlib.import_module(f"{name}_metal")

    return load


def mlx(module: ModuleType, name: str) -> Callable[..., Any]:
    wrapped: Callable[..., Any] = module.kt.mlx(getattr(module, name))
    return wrapped


def test_outputs_are_new_arrays(mx: Any, golden: Load) -> None:
    module = golden("axpby")
    x, y = torch.rand(777), torch.rand(777)
    function = mlx(module, "axpby")
    for _ in range(2):
        out = function(mx.array(x), mx.array(y), 2.0, -1.0)
        torch.testing.assert_close(out.tensor, 2 * x - y)
    (kernel,) = mx.kernels  # made once
    assert kernel.calls == 2
    assert kernel.inputs == ["x_in", "y_in", "params_in"]
    assert kernel.outputs == ["out"]


def test_small_arrays_stay_in_device_memory(mx: Any, golden: Load) -> None:
    x, y = torch.rand(1), torch.rand(1)
    out = mlx(golden("axpby"), "axpby")(mx.array(x), mx.array(y), 2.0, -1.0)
    torch.testing.assert_close(out.tensor, 2 * x - y)


def test_rows_with_threadgroup_memory(mx: Any, golden: Load) -> None:
    x = torch.randn(5, 781).half()
    out = mlx(golden("softmax"), "softmax")(mx.array(x))
    torch.testing.assert_close(out.tensor, x.float().softmax(1).half(), atol=1e-3, rtol=1e-2)


def test_products(mx: Any, golden: Load) -> None:
    x, y = torch.randn(65, 40).half(), torch.randn(40, 70).half()
    out = mlx(golden("matmul"), "matmul")(mx.array(x), mx.array(y))
    torch.testing.assert_close(out.tensor, x @ y, atol=2e-2, rtol=1e-2)


def test_several_kernels_and_tensors_that_start_at_zero(mx: Any, golden: Load) -> None:
    x, y = torch.randn(64, 256), torch.randn(256, 64)
    module = golden("split_k")
    out = mlx(module, "matmul_split_k")(mx.array(x), mx.array(y))
    torch.testing.assert_close(out.tensor, x @ y, atol=1e-2, rtol=1e-2)


def test_updates_in_place_show(mx: Any, golden: Load) -> None:
    param, grad, first, second = (torch.rand(100) for _ in range(4))
    arrays = [mx.array(t.clone()) for t in (param, grad, first, second)]
    module = golden("adamw")
    settings = (1e-3, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001)
    mlx(module, "adamw_step")(*arrays, *settings)
    expected = 0.9 * first + 0.1 * grad
    torch.testing.assert_close(arrays[2].tensor, expected)
    assert not torch.equal(arrays[0].tensor, param)


def test_host_code_without_a_counterpart_is_told(mx: Any, golden: Load) -> None:
    kt = golden("axpby").kt

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, 0)

    with pytest.raises(kt.KtError, match=r"torch\.cumsum, which is not known for MLX arrays"):
        kt.mlx(function)(mx.array(torch.rand(9)))
