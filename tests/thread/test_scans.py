"""Scans over vectors, lanes, SIMD groups and rounds of them, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.thread.programs import from_source, lower_kernel
from transpile.thread import ir
from transpile.thread.limits import Limits
from transpile.thread.walk import all_nodes

ROWS = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = {body}
    return out
"""
COLUMNS = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(1)):
        out[:, tile] = hl.cumsum(x[:, tile], dim=0, reverse={reverse})
    return out
"""
COMPOSED = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        rows = x[tile, :]
        _, states = hl.associative_scan(compose, (rows * 0.5, rows), dim=1, reverse={reverse})
        out[tile, :] = states
    return out


def compose(a, b, c, d):
    return a * c, c * b + d
"""


def lowered(source: str, x: torch.Tensor, config: dict[str, Any], limits: Limits) -> Any:
    """The kernel, whose results in both interpreters are the same."""
    dtype = {torch.float32: "f32", torch.float16: "f16", torch.int32: "i32", torch.int64: "i64"}
    kernel = from_source(source, {"x": f"{dtype[x.dtype]}[M,N]"}, config)
    found = lower_kernel(kernel, limits, config=config)
    found.check()
    got, want = found.run({"x": x.clone()}), found.reference({"x": x.clone()})
    torch.testing.assert_close(got, want)
    return found.phases[0]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("rows", "length", "threads"),
    [
        (1, 128, 32),  # lanes
        (1, 512, 32),  # rounds
        (1, 512, 128),  # SIMD groups
        (1, 1024, 64),  # both
        (4, 64, 32),  # several rows in a SIMD group
        (8, 256, 256),
        (2, 16, 256),
    ],
)
@pytest.mark.parametrize("source", ["sum", "product", "composed", "wide"])
def test_rows(source: str, rows: int, length: int, threads: int, reverse: bool) -> None:
    limits = Limits("test", row=length, registers=4096)
    config = {"block_sizes": [rows], "num_threads": threads}
    x = torch.rand(5, length - 3) + 0.5
    text = {
        "sum": ROWS.format(body=f"hl.cumsum(x[tile, :], dim=1, reverse={reverse})"),
        "product": ROWS.format(body=f"hl.cumprod(x[tile, :], dim=1, reverse={reverse})"),
        "composed": COMPOSED.format(reverse=reverse),
        "wide": ROWS.format(body=f"hl.cumsum(x[tile, :], dim=1, reverse={reverse})"),
    }[source]
    if source == "product":
        x = 1.0 + (x - 1.0) / 64
    lowered(text, (x * 100).long() if source == "wide" else x, config, limits)


LARGEST = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = hl.associative_scan(larger, x[tile, :], dim=1, reverse={reverse})
    return out


def larger(a, b):
    return torch.maximum(a, b)
"""


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "threads"), [(1000, 256), (100, 32), (1, 32), (33, 256)])
def test_what_is_beyond_the_end_does_not_count(length: int, threads: int, reverse: bool) -> None:
    config = {"block_sizes": [1], "num_threads": threads}
    limits = Limits("test", row=1024, registers=4096)
    x = -torch.rand(3, length) - 1.0
    lowered(LARGEST.format(reverse=reverse), x, config, limits)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("block", [1, 4, 16])
def test_columns(block: int, reverse: bool) -> None:
    limits = Limits("test", row=128, registers=4096)
    config = {"block_sizes": [block], "num_threads": 256}
    lowered(COLUMNS.format(reverse=reverse), torch.randn(100, 20), config, limits)


def test_all_simd_groups_take_part_with_one_scan_over_lanes_each() -> None:
    config = {"block_sizes": [1]}
    source = ROWS.format(body="hl.cumsum(x[tile, :], dim=1)")
    phase = lowered(source, torch.randn(3, 1000), config, Limits("test", row=1024))
    assert phase.threads == 256
    nodes = list(all_nodes(phase.body))
    assert sum(isinstance(n, ir.LaneScan) for n in nodes) == 1
    assert not any(isinstance(n, ir.Shuffle) for n in nodes)
    assert [b.shape for b in phase.shared] == [(8,)]
