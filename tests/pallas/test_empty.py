"""Arguments without elements: an empty result is empty, another one is refused by name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.kt_command import ROOT
from tests.pallas.generate import build
from transpile.verify.numerics import load_module

ROW_SUMS = """
@helion.kernel()
def f(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype=x.dtype, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile] = x[tile, :].sum(1)
    return out
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("jax")
    monkeypatch.syspath_prepend(str(ROOT / "runtime_shims"))
    path = tmp_path / "kernel_pallas.py"
    path.write_text(build(ROW_SUMS, args={"x": "f32[M,N]"}))
    return load_module(str(path))


def test_no_rows_give_no_results(module: ModuleType) -> None:
    import jax.numpy as jnp

    assert module.f(jnp.zeros((0, 131))).shape == (0,)


def test_results_of_nothing_are_refused(module: ModuleType) -> None:
    import jax.numpy as jnp

    with pytest.raises(module.kt.KtError, match=r"no elements, but a result of shape \(5,\)"):
        module.f(jnp.zeros((5, 0)))
