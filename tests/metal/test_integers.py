"""Integer arguments: 64 bits where the source computes in 64, else what 32 bits hold."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from tests.metal.modules import built, check, run  # noqa: E402
from transpile.ir.reference.numerics import philox, uniform  # noqa: E402

SEEDED = """
@helion.kernel()
def noise(x: torch.Tensor, seed: int) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = x[tile] + hl.rand([tile], seed=seed)
    return out
"""
ADDED = """
@helion.kernel()
def added(x: torch.Tensor, n: int) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = x[tile] * n + n
    return out
"""
COUNTED = """
@helion.kernel()
def counted(x: torch.Tensor, n: int) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        acc = x[tile]
        for _ in hl.grid(n):
            acc = acc + n
        out[tile] = acc
    return out
"""


@pytest.mark.parametrize("seed", [7, 2**31 + 5, 2**40 + 3, -9])
def test_seeds_have_64_bits(tmp_path: Path, seed: int) -> None:
    module, metal = built(tmp_path, SEEDED, {"x": "f32[N]"})
    assert "  long seed;" in metal
    x = torch.zeros(1500)
    expected = uniform(philox(torch.tensor(seed), torch.arange(1500)))
    check(module, "noise", [x, seed], [expected])


def test_numbers_added_to_64_bit_tensors_have_64_bits(tmp_path: Path) -> None:
    module, _ = built(tmp_path, ADDED, {"x": "i64[N]"})
    x, n = torch.arange(-5, 60), 2**33 + 1
    check(module, "added", [x, n], [x * n + n])


def test_numbers_that_are_counted_with_too_are_refused_beyond_32_bits(tmp_path: Path) -> None:
    module, metal = built(tmp_path, COUNTED, {"x": "i64[N]"})
    assert "  int n" in metal
    x = torch.arange(5)
    check(module, "counted", [x, 3], [x + 9])
    with pytest.raises(ValueError, match=r"counted: cannot pass .*n.*=8589934592.*int64"):
        run(module, "counted", x, 2**33)


def test_64_bit_positions_count_the_components_of_a_vector_in_32(tmp_path: Path) -> None:
    """What is left of a dimension may be more than 32 bits; of a vector it is at most 4."""
    module, metal = built(tmp_path, ADDED, {"x": "f32[N]"}, {"index_dtype": "int64"})
    assert "long n = long(tgid.x) * " in metal
    assert "int(min(params.x_size_0 - n, 4l))" in metal
    x = torch.randn(1500)
    check(module, "added", [x, 3], [x * 3 + 3])


def test_arguments_keep_the_names_of_the_source(tmp_path: Path) -> None:
    """A dimension of the signature that is called like an argument is called after its tensor."""
    _, metal = built(tmp_path, ADDED, {"x": "f32[N]"})
    assert "  int x_size_0;\n" in metal and "  int n;\n" in metal
