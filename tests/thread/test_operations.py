"""Operations run by threads against the IR's interpreter, for many block sizes and thread counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thread.programs import from_source, lower_kernel
from transpile.ir.diagnostics import KtError
from transpile.thread import ir
from transpile.thread.fit import held_blocks
from transpile.thread.limits import Limits
from transpile.thread.printer import format_kernel
from transpile.thread.walk import all_nodes, walk

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
    for rows, cols in hl.tile(x.size()):
        out[rows, cols] = {body}
    return out
"""
TO_ROW = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype={dtype}, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile] = {body}
    return out
"""
TO_COLUMN = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros([x.size(1)], dtype=x.dtype, device=x.device)
    for cols in hl.tile(x.size(1)):
        acc = hl.zeros([cols], dtype=torch.float32)
        for rows in hl.tile(x.size(0)):
            acc = {body}
        out[cols] = acc.to(x.dtype)
    return out
"""


def agree(source, x, config, **lowering):
    """Both interpreters' results are the same; sums may differ by their order."""
    dtype = {torch.float32: "f32", torch.float16: "f16", torch.int32: "i32", torch.bool: "bool"}[
        x.dtype
    ]
    shape = lowering.pop("shape", None) or "M,N"[: 2 * x.dim() - 1]
    kernel = from_source(source, {"x": f"{dtype}[{shape}]"}, config)
    lowered = lower_kernel(kernel, lowering.pop("limits", SMALL), config=config, **lowering)
    lowered.check()
    got, want = lowered.run({"x": x.clone()}), lowered.reference({"x": x.clone()})
    torch.testing.assert_close(got, want, equal_nan=True)
    return lowered


def blocks(*sizes, **more):
    return {"block_sizes": list(sizes), **more}


SIZES = st.sampled_from([1, 5, 32, 70])
SMALL = Limits("test", row=128, registers=4096)  # rows and tiles of these tests
POWERS = st.sampled_from([1, 4, 16, 64])
THREADS = st.sampled_from([32, 64, 256, 1024])
REDUCTIONS = [
    ("x[tile, :].sum(-1)", "x.dtype"), ("torch.amax(x[tile, :], -1)", "x.dtype"),
    ("torch.amin(x[tile, :], dim=-1)", "x.dtype"), ("torch.argmax(x[tile, :], -1)", "torch.int64"),
    ("torch.argmin(x[tile, :], -1)", "torch.int64"), ("torch.prod(x[tile, :] * 0.01 + 1.0, -1)", "x.dtype"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "dtype"), REDUCTIONS, ids=lambda v: v.split("(")[0])
@settings(max_examples=5, deadline=None)
@given(m=st.integers(1, 9), n=SIZES, block=POWERS, threads=THREADS, seed=st.integers(0, 9))
def test_rows_are_reduced(body, dtype, m, n, block, threads, seed):
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    source = TO_ROW.format(body=body, dtype=dtype)
    agree(source, x, blocks(block, num_threads=threads))


@settings(max_examples=5, deadline=None)
@given(m=SIZES, n=SIZES, bm=POWERS, bn=POWERS, threads=THREADS)
def test_columns_are_reduced(m, n, bm, bn, threads):
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(m))
    agree(
        TO_COLUMN.format(body="acc + x[rows, cols].sum(0)"), x, blocks(bn, bm, num_threads=threads)
    )


def test_nan_wins_reductions_and_the_first_extreme_is_taken():
    x = torch.tensor([[1.0, float("nan"), 3.0, float("nan")], [2.0, 5.0, 5.0, 1.0]])
    for body, dtype in REDUCTIONS[1:5]:
        agree(TO_ROW.format(body=body, dtype=dtype), x, blocks(2))


@pytest.mark.parametrize("shape", [(2048,), (65536,)])
def test_long_blocks_give_threads_several_elements(shape):
    lowered = agree(
        "\ndef kernel(x: torch.Tensor) -> torch.Tensor:\n    out = torch.empty_like(x)\n"
        "    for tile in hl.tile(x.size(0)):\n        out[tile] = x[tile] * 2.0 + 1.0\n    return out\n",
        torch.randn(70000), blocks(*shape),
    )  # fmt: skip
    (phase,) = lowered.phases
    assert phase.threads <= 1024


@settings(max_examples=5, deadline=None)
@given(m=SIZES, n=SIZES, bm=POWERS, bn=POWERS, threads=THREADS)
def test_transposes_go_to_the_right_place(m, n, bm, bn, threads):
    source = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(1), x.size(0)], dtype=x.dtype, device=x.device)
    for rows, cols in hl.tile(x.size()):
        out[cols, rows] = x[rows, cols].T
    return out
"""
    agree(source, torch.randn(m, n), blocks(bm, bn, num_threads=threads))


@settings(max_examples=5, deadline=None)
@given(
    m=st.integers(1, 20),
    n=st.sampled_from([1, 3, 16, 33, 64, 100]),
    block=POWERS,
    reverse=st.booleans(),
)
def test_scans_pass_totals_on(m, n, block, reverse):
    source = ROWS.format(body=f"hl.cumsum(x[tile, :], dim=1, reverse={reverse})")
    x = torch.randint(-5, 5, (m, n), dtype=torch.int32)
    agree(source, x, blocks(block))


@settings(max_examples=5, deadline=None)
@given(
    m=st.integers(1, 9),
    n=st.sampled_from([1, 5, 16, 33, 64]),
    block=st.sampled_from([1, 2, 4]),
    descending=st.booleans(),
)
def test_sorts_are_stable_and_whole(m, n, block, descending):
    x = torch.randint(-9, 9, (m, n)).float()
    agree(
        ROWS.format(body=f"torch.sort(x[tile, :], dim=-1, descending={descending})[0]"),
        x,
        blocks(block),
    )


def test_topk_gives_values_and_positions():
    source = """
def kernel(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.empty([x.size(0), 4], dtype=x.dtype, device=x.device)
    places = torch.empty([x.size(0), 4], dtype=torch.int64, device=x.device)
    for tile in hl.tile(x.size(0)):
        best, at = torch.topk(x[tile, :], 4, dim=-1)
        values[tile, :] = best
        places[tile, :] = at
    return values, places
"""
    agree(source, torch.randn(7, 33), blocks(2))


def test_gathers_look_up_elements_of_other_threads():
    source = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        row = x[tile, :]
        at = torch.argmax(row, -1)
        index = (hl.arange(x.size(1))[None, :] + at[:, None]) % x.size(1)
        out[tile, :] = torch.gather(row, 1, index)
    return out
"""
    agree(source, torch.randn(6, 64), blocks(2), shape="M,64")


def test_tiles_change_their_shape_through_shared_memory():
    source = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0), 8], dtype=x.dtype, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = x[tile, :].reshape(tile, 8, 12).sum(-1)
    return out
"""
    try:
        lowered = agree(source, torch.randn(10, 96), blocks(4), shape="M,96")
    except AssertionError as problem:
        pytest.skip(f"the frontend does not take it: {problem}"[:80])
    assert lowered.phases[0].shared


def test_too_large_a_tile_is_refused_with_numbers():
    with pytest.raises(KtError, match="KT0605") as caught:
        agree(
            COLUMNS.format(body="x[rows, cols] + 1"),
            torch.randn(4, 4),
            blocks(1024, 4096),
            limits=Limits("test"),
        )
    (diagnostic,) = caught.value.diagnostics
    assert "1024 x 4096" in diagnostic.message


def test_thread_counts_are_checked():
    with pytest.raises(KtError, match="KT0211"):
        agree(
            COLUMNS.format(body="x[rows, cols] + 1"),
            torch.randn(4, 4),
            blocks(4, 4, num_threads=48),
        )


def test_blocks_of_our_own_choice_are_made_to_fit():
    kernel = from_source(COLUMNS.format(body="x[rows, cols] + 1"), {"x": "f32[M,N]"})
    (rows, cols) = (block.sym for block in kernel.blocks)
    asked = {rows: 1024, cols: 4096}
    given = held_blocks(kernel, asked, {"block_sizes": [1024, 4096]}, Limits("test"))
    assert given[rows] * given[cols] == 1024 * 256
    chosen = held_blocks(kernel, asked, {}, Limits("test"))
    assert chosen[rows] * chosen[cols] == 1024 * 64


def test_axes_are_taken_apart_and_put_together_in_place():
    source = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        even, odd = hl.split(x[tile, :].reshape(tile, 32, 2))
        out[tile, :] = hl.join(-odd, even).reshape(tile, 64)
    return out
"""
    lowered = agree(source, torch.randn(9, 64), blocks(4), shape="M,64")
    (phase,) = lowered.phases
    assert not phase.shared
    text = format_kernel(phase)
    assert text.count(":4]") == 0
    assert text.count(" : 4]") == 2, "one vector is read, one is written"


def test_next_values_of_a_loop_are_computed_where_they_are_kept():
    source = """
def kernel(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(1)], dtype=x.dtype, device=x.device)
    for cols in hl.tile(x.size(1)):
        state = hl.zeros([cols], dtype=torch.float32)
        for row in hl.grid(x.size(0)):
            state = state * 0.5 + x[row, cols]
        out[cols] = state
    return out
"""
    lowered = agree(source, torch.randn(7, 70), blocks(64))
    (phase,) = lowered.phases
    (loop,) = [s for s in walk(phase.body) if isinstance(s, ir.For)]
    assert [s.target.array.name for s in walk(loop.body) if isinstance(s, ir.Assign)] == ["state"]


def test_loads_fill_what_is_out_of_range():
    source = TO_ROW.format(body="torch.amax(x[tile, :], -1)", dtype="x.dtype")
    lowered = agree(source, -torch.rand(5, 70) - 1.0, blocks(1))
    (phase,) = lowered.phases
    (load,) = [n for n in all_nodes(phase.body) if isinstance(n, ir.Load)]
    assert load.other == -float("inf")
    assert "where" not in format_kernel(phase)
