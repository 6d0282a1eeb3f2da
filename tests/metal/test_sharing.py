"""Signatures and row lengths that become one template, and those that do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kt_command import kt
from transpile.ir.dtypes import F16, F32
from transpile.thread import ir
from transpile.thread.merge import Different, merge
from transpile.thread.named import Constant, Named, named

SOURCE = """
import helion
import helion.language as hl
import torch


@helion.kernel(config=helion.Config(block_sizes=[1]))
def rows(x: torch.Tensor, scale: float) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        row = x[tile, :].to(torch.float32)
        out[tile, :] = (torch.exp(row - torch.amax(row, dim=-1, keepdim=True)) * scale).to(x.dtype)
    return out


@helion.kernel(config=helion.Config(block_sizes=[64, 64, 16]))
def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, k = x.size()
    n = y.size(1)
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc.to(x.dtype)
    return out


@helion.kernel(config=helion.Config(block_sizes=[128]))
def rounded(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = (x[tile].to(torch.float16) * 3).to(x.dtype)
    return out
"""
CONFIG = """
[tool.kt.kernels.rows]
signatures = [{ x = "f16[M,N]" }, { x = "bf16[M,N]" }, { x = "f32[M,N]" }]
[tool.kt.kernels.product]
signatures = [{ x = "f16[M,K]", y = "f16[K,N]" }, { x = "f32[M,K]", y = "f32[K,N]" }]
[tool.kt.kernels.rounded]
signatures = [{ x = "f16[N]" }, { x = "f32[N]" }]
"""


@pytest.fixture
def metal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared.py").write_text(SOURCE)
    (tmp_path / "pyproject.toml").write_text(CONFIG)
    done = kt("build", "shared.py", "-t", "metal", "-o", "gen")
    assert done.code == 0, done.err
    return Path("gen/shared.metal").read_text()


def instances(text: str) -> dict[str, str]:
    """Template instances by the names that the host knows."""
    found = re.findall(r'host_name\("(\w+)"\)\]\] \[\[kernel\]\]\s+decltype\((.*?)\) ', text)
    return dict(found)


def test_types_and_row_lengths(metal: str) -> None:
    found = instances(metal)
    types = {"f16": "half", "bf16": "bfloat", "f32": "float"}
    for tag, name in types.items():
        assert found[f"rows_{tag}_1024"] == f"rows<{name}, 4>"
        assert found[f"rows_{tag}_4096"] == f"rows<{name}, 16>"
        assert found[f"rows_{tag}_long"] == f"rows_long<{name}>"
    assert len(re.findall(r"void rows\w*\(", metal)) == 2
    assert "vec<T, 4> x_tile" in metal


def test_different_programs_stay_apart(metal: str) -> None:
    # rounding to f16 is a conversion in one, and nothing in the other
    assert not any(name.startswith("rounded") for name in instances(metal))
    assert len(re.findall(r"void rounded_\w+\(", metal)) == 2


def test_a_signature_alone_is_no_template(metal: str) -> None:
    done = kt("build", "shared.py", "-t", "metal", "-o", "one", "--kernel", "product",
              "--arg", "x=f16[M,K]", "--arg", "y=f16[K,N]")  # fmt: skip
    assert done.code == 0, done.err
    text = Path("one/shared.metal").read_text()
    assert instances(text) == {}
    assert "constexpr short BM = 64;" in text
    assert "x_shared[BM][BK + PAD]" in text


# -- merging ----------------------------------------------------------------------------------


def kernel(count: int, name: str = "N_READS", dtype: object = F32) -> ir.Kernel:
    values = ir.Var("v", dtype, (named(count, name, is_open=True),))  # type: ignore[arg-type]
    i = ir.Var("i", ir.I32)
    loop = ir.LaneLoop(
        i, values.shape[0], [ir.Assign(ir.Element(values, (i,)), ir.Const(0.0, F32))]
    )
    return ir.Kernel("k", (), (), (), 32, 32, (), [ir.Let(values), loop])


def test_numbers_and_types_become_parameters() -> None:
    merged = merge([kernel(1), kernel(4), kernel(4, dtype=F16)], like=1)
    (number,) = merged.numbers
    assert (number.name, number.values) == ("N_READS", (1, 4, 4))
    (dtype,) = merged.types
    assert dtype.values == (F32, F32, F16)
    let = merged.kernel.body[0]
    assert isinstance(let, ir.Let)
    count = let.var.shape[0]
    assert count == 4
    assert isinstance(count, Named)
    assert isinstance(count.formula, Constant)


@pytest.mark.parametrize("other", [
    kernel(4, name="M_READS"),
    ir.Kernel("k", (), (), (), 32, 32, (), []),
    ir.Kernel("k", (), (), (), 64, 32, (), kernel(1).body),
], ids=["another number", "another body", "more threads"])  # fmt: skip
def test_what_does_not_merge(other: ir.Kernel) -> None:
    with pytest.raises(Different):
        merge([kernel(1), other])


def test_one_variable_is_not_two() -> None:
    def sum_of(first: int, second: int) -> ir.Kernel:
        variables = [ir.Var(n, F32) for n in "ab"]
        body: ir.Body = [ir.Let(v, ir.Const(1.0, F32)) for v in variables]
        total = ir.Apply("add", (variables[first], variables[second]), F32)
        return ir.Kernel("k", (), (), (), 32, 32, (), [*body, ir.Let(ir.Var("s", F32), total)])

    merge([sum_of(0, 1), sum_of(0, 1)])
    with pytest.raises(Different, match="two in another"):
        merge([sum_of(0, 1), sum_of(0, 0)])
