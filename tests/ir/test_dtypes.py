"""The promotion lattice, against torch's own."""

# ruff: noqa: E402

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from transpile.ir import dtypes
from transpile.ir.dtypes import ALL, Category, DType, promote, promote_weak

_SCALARS = {Category.BOOL: True, Category.INT: 1, Category.FLOAT: 1.0}
_ARITHMETIC = [d for d in ALL if d is not dtypes.F4E2M1X2]


def _torch(dtype: DType) -> torch.dtype:
    return getattr(torch, dtype.torch)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(_ARITHMETIC, repeat=2)), ids=str)
def test_promote(a: DType, b: DType) -> None:
    try:
        expected = torch.promote_types(_torch(a), _torch(b))
    except RuntimeError:
        assert promote(a, b) is None
    else:
        result = promote(a, b)
        assert result is not None, f"torch gives {expected}"
        assert _torch(result) == expected


@pytest.mark.parametrize("tensor", _ARITHMETIC, ids=str)
@pytest.mark.parametrize("category", list(Category), ids=lambda c: c.name)
def test_promote_weak(tensor: DType, category: Category) -> None:
    value = torch.zeros(2).to(_torch(tensor))
    assert _torch(promote_weak(tensor, category)) == torch.result_type(value, _SCALARS[category])


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_width_and_category(dtype: DType) -> None:
    ours = _torch(dtype)
    assert ours.itemsize * 8 == max(dtype.bits, 8)
    assert ours.is_floating_point == dtype.is_float
    if dtype is not dtypes.F4E2M1X2:
        assert ours.is_signed == dtype.signed
    assert dtypes.BY_TORCH[str(ours).removeprefix("torch.")] is dtype
