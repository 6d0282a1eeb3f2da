"""Tolerances grow with what causes errors, and real mistakes stay outside of them."""

from __future__ import annotations

import pytest

from transpile.ir import dtypes, ir
from transpile.verify import compare, inputs
from transpile.verify.jobs import Argument, KernelJob

torch = pytest.importorskip("torch")


def difference(got: object, want: object, work_eps: float = 0.0, length: int = 1) -> str:
    return compare.difference(
        "out0", got, want, work_eps=work_eps, roundings=1, reduction_length=length
    )


def test_equal_is_no_difference() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn):
        x = torch.randint(0, 2, (4, 5)).to(dtype)
        assert difference(x, x.clone()) == ""
    assert difference(torch.empty(0, 3), torch.empty(0, 3)) == ""
    assert difference(2.5, 2.5) == ""


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    x = torch.tensor([1.0, float("nan"), float("inf")])
    assert difference(x, x.clone()) == ""
    for i, value in ((0, float("nan")), (1, 1.0), (2, -float("inf")), (2, 1e38)):
        y = x.clone()
        y[i] = value
        assert "1 of 3 elements differ" in difference(y, x)
        assert f"at [{i}]" in difference(y, x)


def test_dtype_and_shape_must_be_right() -> None:
    x = torch.ones(2, 3)
    assert "float16[2, 3], should be float32[2, 3]" in difference(x.half(), x)
    assert "float32[3, 2]" in difference(x.reshape(3, 2), x)


def test_integers_are_exact_but_small_ones_rounded_from_floats() -> None:
    a, b = torch.tensor([1, 2], dtype=torch.int8), torch.tensor([1, 3], dtype=torch.int8)
    assert difference(a, b)
    assert difference(a, b, work_eps=1e-7) == ""
    assert difference(a.long(), b.long(), work_eps=1e-7)
    assert difference(a.bool(), ~a.bool(), work_eps=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 64, 4096])
def test_other_orders_of_summation_are_within(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    x = torch.randn(32, k, generator=generator).to(dtype)
    y = torch.randn(k, 32, generator=generator).to(dtype)
    exact = x.double() @ y.double()
    pairs = zip(x.float().split(16, 1), y.float().split(16, 0), strict=True)
    partial = sum((c @ d for c, d in pairs), torch.zeros(()))
    assert difference(partial.to(dtype), exact.to(dtype), compare.eps(dtype), k) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mistakes_are_outside(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=generator).to(dtype)
    eps = compare.eps(dtype)
    soft = x.float().softmax(-1)
    forgotten_lane = x[:, :-1].float().exp().sum(-1, keepdim=True)
    wrong = x.float().exp() / forgotten_lane
    assert difference(wrong.to(dtype), soft.to(dtype), eps, 256)
    total = x.float().sum(-1)
    assert difference((total - x[:, 0].float()).to(dtype), total.to(dtype), eps, 256)
    assert difference((x * 1.1).to(dtype), x, eps, 256)


def test_nested_results_are_flattened() -> None:
    one, two = torch.ones(1), torch.ones(2)
    assert [n for n, _ in compare.flatten(one)] == ["out0"]
    assert [n for n, _ in compare.flatten((one, two))] == ["out0", "out1"]
    assert [n for n, _ in compare.flatten((one, None, [two, 3]))] == ["out0", "out2[0]", "out2[1]"]
    assert compare.flatten(None) == []
    assert compare.flatten("text") == []


# -- inputs ------------------------------------------------------------------------------------


def job(
    *arguments: Argument, shapes: tuple[dict[str, int], ...] = ({"M": 6, "N": 4},)
) -> KernelJob:
    kernel = ir.Kernel(
        name="k", params=(), signature="", returns=None, docstring=None, host=(), phases=(),
        tensors=(), scalars=(), blocks=(), size_names=(),
    )  # fmt: skip
    return KernelJob(kernel, arguments, shapes, {})


def tensor(name: str, dtype: dtypes.DType, *dims: str | int | None, **more: object) -> Argument:
    return Argument(name, "tensor", dtype, dims, **more)  # type: ignore[arg-type]


def test_arguments_are_the_same_each_time() -> None:
    made = job(tensor("x", dtypes.BF16, "M", "N"), tensor("i", dtypes.I32, "N", None))
    first, second = (inputs.make_arguments(made, 0) for _ in range(2))
    assert first["x"].shape == (6, 4)
    assert first["x"].dtype == torch.bfloat16
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_every_dtype_can_be_made(dtype: dtypes.DType) -> None:
    made = inputs.make_arguments(job(tensor("x", dtype, "M", "N")), 0)["x"]
    assert made.dtype == getattr(torch, dtype.torch)
    assert inputs.clone({"x": made})["x"].shape == made.shape


def test_layouts() -> None:
    made = inputs.make_arguments(job(tensor("x", dtypes.F32, "M", "N", order=(0, 1))), 0)["x"]
    assert made.stride() == (1, 6)
    cube = inputs.relayout(torch.arange(24.0).reshape(2, 3, 4), (0, 2, 1))
    assert torch.equal(cube, torch.arange(24.0).reshape(2, 3, 4))
    assert cube.stride() == (1, 8, 2)  # dim 0 is the fastest, then 2, then 1
    assert inputs.clone({"x": cube})["x"].stride() == (1, 8, 2)


def test_values() -> None:
    made = inputs.make_arguments(
        job(
            tensor("labels", dtypes.I64, 500, fill=(0, "N")),
            tensor("scale", dtypes.F32, 500, fill=(0.5, 1.5)),
            tensor("ones", dtypes.F16, "M", fill=1),
            Argument("eps", "scalar", dtypes.F32, fill=1e-5),
            Argument("n", "scalar", dtypes.I32),
            Argument("flag", "value", value=True),
            Argument("dtype", "value", value=dtypes.F16),
            Argument("none", "value", value=None),
        ),
        0,
    )
    assert set(made["labels"].tolist()) == {0, 1, 2, 3}
    assert 0.5 <= float(made["scale"].min()) < float(made["scale"].max()) < 1.5
    assert made["ones"].unique().tolist() == [1.0]
    assert (made["eps"], made["flag"], made["none"]) == (1e-5, True, None)
    assert isinstance(made["n"], int)
    assert made["dtype"] is torch.float16


def test_missing_sizes_are_named() -> None:
    with pytest.raises(inputs.MissingSize, match="K of x"):
        inputs.make_arguments(job(tensor("x", dtypes.F32, "K")), 0)
    with pytest.raises(inputs.MissingSize, match="V"):
        inputs.make_arguments(job(tensor("x", dtypes.I32, "M", fill=(0, "V"))), 0)
    automatic = inputs.make_arguments(job(tensor("x", dtypes.F32, "K"), shapes=()), 1)
    assert automatic["x"].shape == (37,)
