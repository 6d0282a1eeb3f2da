"""Integers and conditions of every width through loads, divisions and reductions."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from tests.metal.modules import built, check  # noqa: E402

REDUCED = """
@helion.kernel()
def reduced(x: torch.Tensor):
    total = torch.empty([x.size(0)], dtype=torch.int64, device=x.device)
    largest = torch.empty([x.size(0)], dtype=x.dtype, device=x.device)
    place = torch.empty([x.size(0)], dtype=torch.int64, device=x.device)
    for tile in hl.tile(x.size(0)):
        total[tile] = x[tile, :].sum(-1)
        largest[tile] = x[tile, :].amax(-1)
        place[tile] = torch.argmin(x[tile, :], -1)
    return total, largest, place
"""
DIVIDED = """
@helion.kernel()
def divided(x: torch.Tensor, y: torch.Tensor):
    out = torch.empty_like(x)
    rest = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        by = y[tile]
        out[tile] = x[tile] // by
        rest[tile] = x[tile] % y[tile]
    return out, rest
"""
CHOSEN = """
@helion.kernel()
def chosen(x: torch.Tensor, y: torch.Tensor):
    out = torch.empty_like(x)
    less = torch.empty_like(x)
    for tile in hl.tile(x.size(0), block_size=2048):
        out[tile] = x[tile] & ~y[tile]
        less[tile] = x[tile] < y[tile]
    return out, less
"""
DTYPES = {
    "i8": torch.int8, "u8": torch.uint8, "i16": torch.int16, "i32": torch.int32,
    "i64": torch.int64, "bool": torch.bool,
}  # fmt: skip


def numbers(name: str, *shape: int) -> torch.Tensor:
    low, high = (0, 2) if name == "bool" else (0, 200) if name == "u8" else (-100, 100)
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high, shape, generator=generator).to(DTYPES[name])


@pytest.mark.parametrize("name", DTYPES)
def test_reductions(name: str, tmp_path: Path) -> None:
    """In kernels for rows in registers, and for longer ones in chunks."""
    module, _ = built(tmp_path, REDUCED, {"x": f"{name}[M,N]"})
    for columns in (150, 4100):
        x = numbers(name, 3, columns)
        first = torch.argmin(x.to(torch.int16).float(), -1)  # torch's own need not be the first
        check(module, "reduced", [x], [x.sum(-1), x.amax(-1), first])


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "bool"])
def test_elements_that_do_not_exist_are_no_divisors(name: str, tmp_path: Path) -> None:
    module, _ = built(tmp_path, DIVIDED, {"x": f"{name}[N]", "y": f"{name}[N]"})
    x, y = numbers(name, 77), numbers(name, 77).abs() + 1
    check(module, "divided", [x, y], [x // y, x % y])


def test_conditions_are_no_vectors_in_memory(tmp_path: Path) -> None:
    module, metal = built(tmp_path, CHOSEN, {"x": "bool[N]", "y": "bool[N]"})
    assert "bool4" not in metal
    x, y = numbers("bool", 2100), numbers("bool", 1, 2100)[0]
    check(module, "chosen", [x, y], [x & ~y, x < y])


def test_value_and_position_are_exchanged_in_one_loop(tmp_path: Path) -> None:
    _, metal = built(tmp_path, REDUCED, {"x": "f32[M,1000]"})
    assert metal.count(", 1 << bit)") == 2
    assert "threadgroup int min_index_shared[" in metal
