"""Masks of one row over packed elements, which Mosaic refuses for blocks of up to four rows.

Every generation refuses to broadcast such a mask ("Sublane broadcast") where the block has more
than 128 lanes; a selection of 32-bit elements it takes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from transpile import proofs
from transpile.build import BuildOptions

for package in ("torch", "jax", "libtpu"):
    pytest.importorskip(package)

SOURCE = '''\
import torch

import helion
import helion.language as hl


@helion.kernel(config=helion.Config(block_sizes=[256, 512]))
def keep_first(x: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
    """Columns before ``count`` of x, the others of y."""
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile(x.size()):
        first = (tile_n.index < count)[None, :]
        out[tile_m, tile_n] = torch.where(first, x[tile_m, tile_n], y[tile_m, tile_n])
    return out


@helion.kernel(config=helion.Config(block_sizes=[256, 512]))
def load_first(x: torch.Tensor, count: int) -> torch.Tensor:
    """Columns before ``count`` of x, the others 0."""
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile(x.size()):
        first = (tile_n.index < count)[None, :]
        out[tile_m, tile_n] = hl.load(x, [tile_m, tile_n], extra_mask=first)
    return out


@helion.kernel(config=helion.Config(block_sizes=[1024]))
def vector(x: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` elements of x, the others 0."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = torch.where(tile.index < count, x[tile], 0.0)
    return out


@helion.kernel(config=helion.Config(block_sizes=[256, 256, 512]))
def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y, of few rows and a depth that ends within a block."""
    m, k = x.size()
    _, n = y.size()
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc
    return out
'''

PROJECT = """
[kernels.keep_first]
signatures = [{ x = "bf16[M,N]", y = "bf16[M,N]", count = "i32" }]
shapes = [{ M = 1, N = 700 }, { M = 2, N = 512 }, { M = 4, N = 300 }]
values = { count = 260 }

[kernels.load_first]
signatures = [{ x = "bf16[M,N]", count = "i32" }]
shapes = [{ M = 1, N = 700 }, { M = 3, N = 512 }, { M = 9, N = 300 }]
values = { count = 260 }

[kernels.vector]
signatures = [{ x = "bf16[N]", count = "i32" }]
shapes = [{ N = 1024 }, { N = 300 }, { N = 2100 }]
values = { count = 260 }

[kernels.matmul]
signatures = [{ x = "bf16[M,K]", y = "bf16[K,N]" }]
shapes = [{ M = 1, N = 300, K = 700 }, { M = 4, N = 1, K = 520 }]
"""


def test_row_masks_of_few_rows(tmp_path: Path) -> None:
    (tmp_path / "kt.toml").write_text(PROJECT)
    path = tmp_path / "masks.py"
    path.write_text(SOURCE)
    result = proofs.verify([str(path)], BuildOptions(("pallas",)), None, 1)
    assert not result.diagnostics
    assert [row.kernel for row in result.rows] == ["keep_first", "load_first", "vector", "matmul"]
    assert not result.failed, proofs.table(result)
