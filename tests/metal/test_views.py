"""Tensors that share memory: order and barriers go by storage, not by the tensor's name."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("clang.cindex")
pytest.importorskip("ziglang")

from tests.metal.modules import built, check, run  # noqa: E402
from tests.thread.programs import from_source, lower_kernel  # noqa: E402

OVERWRITTEN = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    flat = x.view(-1)
    out = torch.empty_like(flat)
    for tile in hl.tile(flat.size(0), block_size=64):
        old = flat[tile]
        x[0, tile] = 0.0
        out[tile] = old
    return out
"""
REVERSED = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    flat = x.view(-1)
    out = torch.empty_like(flat)
    for tile in hl.tile(flat.size(0), block_size=64):
        x[0, tile] = x[0, tile] * 2
        out[tile] = flat[63 - tile.index]
    return out
"""
TRANSPOSED = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    turned = x.t()
    out = torch.empty_like(x[0])
    for tile in hl.tile(1, block_size=1):
        for rows, cols in hl.tile(x.size(), block_size=[32, 32]):
            x[rows, cols] = x[rows, cols] + 1
        for cols in hl.tile(x.size(1), block_size=32):
            out[cols] = turned[cols, :].sum(-1)
    return out
"""


def expectation(name: str, x: torch.Tensor) -> list[torch.Tensor]:
    flat = x.view(-1)
    results = {"overwritten": flat, "reversed": flat.flip(0) * 2, "transposed": (x + 1).sum(0)}
    after = {"overwritten": x * 0, "reversed": x * 2, "transposed": x + 1}
    return [results[name], after[name]]


KERNELS = {"overwritten": OVERWRITTEN, "reversed": REVERSED, "transposed": TRANSPOSED}
SIGNATURES = {"overwritten": "f32[1,N]", "reversed": "f32[1,64]", "transposed": "f32[64,64]"}


@pytest.mark.parametrize("name", KERNELS)
def test_views_of_one_storage(name: str, tmp_path: Path) -> None:
    source = "@helion.kernel()" + KERNELS[name].replace("return out", "return out, x")
    module, _ = built(tmp_path, source, {"x": SIGNATURES[name]})
    x = torch.randn(64, 64) if name == "transposed" else torch.randn(1, 64)
    check(module, "kernel", [x], expectation(name, x))


@pytest.mark.parametrize("name", KERNELS)
def test_views_of_one_storage_in_the_interpreter(name: str) -> None:
    """It watches accesses of one element through two views."""
    lowered = lower_kernel(from_source(KERNELS[name], {"x": SIGNATURES[name]}))
    lowered.check()
    x = torch.randn(64, 64) if name == "transposed" else torch.randn(1, 64)
    expected, after = expectation(name, x)
    given = x.clone()
    torch.testing.assert_close(lowered.run({"x": given}), expected)
    torch.testing.assert_close(given, after)


PASSED_TWICE = """
@helion.kernel()
def shifted(x: torch.Tensor, out: torch.Tensor) -> None:
    for tile in hl.tile(out.size(0), block_size=32):
        out[tile] = x[tile.index + 1] * 2


@helion.kernel()
def two(a: torch.Tensor, b: torch.Tensor) -> None:
    for tile in hl.tile(a.size(0)):
        a[tile] = 1.0
        b[tile] = 2.0
"""


def test_a_tensor_that_is_passed_twice_is_read_as_it_was(tmp_path: Path) -> None:
    signature = {"x": "f32[N]", "out": "f32[M]", "a": "f32[N]", "b": "f32[N]"}
    module, _ = built(tmp_path, PASSED_TWICE, signature)
    for reverse in (False, True):
        memory = torch.randn(301)
        expected = memory[1:] * 2
        run(module, "shifted", memory, memory[:300], reverse=reverse)
        torch.testing.assert_close(memory[:300], expected)
    memory = torch.zeros(64)
    run(module, "two", memory[:32], memory[32:])
    assert memory.tolist() == [1.0] * 32 + [2.0] * 32
    with pytest.raises(ValueError, match="two: a and b share memory, and the kernel writes both"):
        run(module, "two", memory[:40], memory[24:])
