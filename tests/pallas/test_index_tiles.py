"""Gathers, scatters and atomics at index tiles: what is written, and that it computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pallas.generate import build, function
from tests.pallas.prove import Snippet, prove
from transpile.ir.diagnostics import KtError

ELEMENTS = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    out = torch.empty([ids.size(0)], dtype=x.dtype, device=x.device)
    for tile in hl.tile(ids.size(0)):
        out[tile] = x[ids[tile]]
    return out
"""

PAIRS = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    out = torch.empty(ids.size(), dtype=x.dtype, device=x.device)
    for tile_b, tile_k in hl.tile(ids.size()):
        out[tile_b, tile_k] = x[ids[tile_b, tile_k], columns[tile_b, tile_k]]
    return out
"""

BAGS = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    b, k = ids.size()
    n = x.size(1)
    out = torch.empty([b, n], dtype=x.dtype, device=x.device)
    for tile_b, tile_n in hl.tile([b, n]):
        acc = hl.zeros([tile_b, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = acc + x[ids[tile_b, tile_k], tile_n].to(torch.float32).sum(1)
        out[tile_b, tile_n] = acc.to(x.dtype)
    return out
"""

PLANES = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    for tile_a, tile_b in hl.tile([x.size(0), x.size(1)]):
        hl.atomic_add(out, [tile_a, ids[tile_b], slice(None)], x[tile_a, tile_b, :])
    return out
"""

ROWS = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    for tile_b, tile_n in hl.tile(x.size()):
        {}
    return out
"""

UPDATE = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    for tile in hl.tile(ids.size(0)):
        {}
    return out
"""

BEFORE = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    old = torch.empty_like(x)
    for tile in hl.tile(ids.size(0)):
        old[tile] = hl.atomic_add(out, [ids[tile]], x[tile])
    return old
"""

PICKED = ({"V": 129, "B": 129}, {"V": 1, "B": 1})
MATRIX = ({"V": 50, "N": 131, "B": 3, "K": 9}, {"V": 1, "N": 1, "B": 1, "K": 1})
VECTOR = ({"V": 129, "B": 17}, {"V": 1, "B": 1})
IDS = {"ids": "0:V"}


def _elements(dtype: str) -> Snippet:
    return Snippet(
        ELEMENTS, {"x": f"{dtype}[V]", "ids": "i64[B]"}, PICKED, IDS, "return x[ids.long()]"
    )


def _update(kind: str, dtype: str, extra: str = "", shapes: tuple[dict[str, int], ...] = VECTOR,
            values: dict[str, str] = IDS) -> Snippet:  # fmt: skip
    source = UPDATE.format(f"hl.atomic_{kind}(out, [ids[tile]], {extra}x[tile])")
    args = {"x": f"{dtype}[B]", "ids": "i32[B]", "out": f"{dtype}[V]"}
    return Snippet(source, args, shapes, values)


ROW_ARGS = {"x": "f32[B,N]", "ids": "i32[B]", "out": "f32[V,N]"}
ONCE = ({"V": 300, "B": 1}, {"V": 1, "B": 1})  # rows that no two elements go to

GROUPS: dict[str, dict[str, Snippet]] = {
    "gathers": {
        "elements_f32": _elements("f32"),
        "elements_bf16": _elements("bf16"),
        "elements_i8": _elements("i8"),
        "pairs": Snippet(
            PAIRS, {"x": "f32[V,N]", "ids": "i32[B,K]", "columns": "i32[B,K]"}, MATRIX,
            {"ids": "0:V", "columns": "0:N"}, "return x[ids.long(), columns.long()]",
        ),
        "bags_f32": Snippet(
            BAGS, {"x": "f32[V,N]", "ids": "i32[B,K]"}, MATRIX, IDS, "return x[ids.long()].sum(1)"
        ),
        "bags_bf16": Snippet(
            BAGS, {"x": "bf16[V,N]", "ids": "i32[B,K]"}, (*MATRIX, {"V": 9, "N": 1300, "B": 1, "K": 2}),
            IDS, "return x[ids.long()].float().sum(1).bfloat16()",
        ),
    },
    "scatters": {
        "rows": Snippet(
            ROWS.format("out[ids[tile_b], tile_n] = x[tile_b, tile_n]"), ROW_ARGS,
            ({"V": 5, "B": 1, "N": 131}, {"V": 1, "B": 1, "N": 1}), IDS,
        ),
        "added_rows": Snippet(
            ROWS.format("hl.atomic_add(out, [ids[tile_b], tile_n], x[tile_b, tile_n])"), ROW_ARGS,
            ({"V": 5, "B": 29, "N": 131}, {"V": 4, "B": 9, "N": 1300}, {"V": 1, "B": 1, "N": 1}),
            IDS, "return out.index_add_(0, ids.long(), x)",
        ),
        "added_planes": Snippet(
            PLANES, {"x": "f32[A,B,N]", "ids": "i32[B]", "out": "f32[A,V,N]"},
            ({"A": 3, "V": 5, "B": 9, "N": 131}, {"A": 1, "V": 1, "B": 1, "N": 1}), IDS,
            "return out.index_add_(1, ids.long(), x)",
        ),
        "masked": Snippet(
            UPDATE.format("hl.store(out, [ids[tile]], x[tile], extra_mask=x[tile] > 0)"),
            {"x": "f32[B]", "ids": "i32[B]", "out": "f32[V]"}, ONCE, IDS,
        ),
    },
    "atomics": {
        "add_f32": _update("add", "f32"),
        "add_bf16": _update("add", "bf16", shapes=ONCE),
        "add_i8": _update("add", "i8"),
        "max_i32": _update("max", "i32"),
        "min_f32": _update("min", "f32"),
        "xor_i32": _update("xor", "i32"),
        "xchg_f32": _update("xchg", "f32", shapes=ONCE),
        "cas_i32": _update("cas", "i32", "1, ", ONCE, {**IDS, "out": "0:3"}),
        "before_f32": Snippet(
            BEFORE, {"x": "f32[B]", "ids": "i32[B]", "out": "f32[V]"}, ONCE, IDS
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_proved(group: str, tmp_path: Path) -> None:
    for package in ("torch", "jax", "libtpu"):
        pytest.importorskip(package)
    failed = prove(tmp_path, GROUPS[group])
    assert not failed, failed


def _text(snippet: Snippet, **config: object) -> str:
    return build(snippet.source.replace("NAME", "f"), args=snippet.args, **config)


def test_rows_are_copied_from_hbm() -> None:
    text = _text(GROUPS["gathers"]["bags_f32"])
    assert "_gather_rows(" in function(text, "_f_kernel")
    call = function(text, "_f_call")
    assert "pl.BlockSpec(memory_space=pl.ANY)" in call
    assert "pltpu.SemaphoreType.DMA" in call


def test_a_scatter_changes_the_tensor_that_came_in() -> None:
    call = function(_text(GROUPS["atomics"]["add_f32"]), "_f_call")
    assert "input_output_aliases={2: 0}" in call
    assert 'dimension_semantics=("arbitrary",)' in call


def test_rows_of_block_1_are_found_by_the_index_map() -> None:
    rows = """
    @helion.kernel()
    def f(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        out = torch.empty([ids.size(0), x.size(1)], dtype=x.dtype, device=x.device)
        for tile_b, tile_n in hl.tile([ids.size(0), x.size(1)], block_size=[1, None]):
            out[tile_b, tile_n] = x[ids[tile_b], tile_n]
        return out
    """
    call = function(build(rows, args={"x": "f32[V,N]", "ids": "i32[B]"}), "_f_call")
    assert "num_scalar_prefetch=1" in call


def test_index_tiles_into_truth_values_are_refused() -> None:
    with pytest.raises(KtError) as caught:
        _text(Snippet(ELEMENTS, {"x": "bool[V]", "ids": "i32[B]"}, ()))
    (found,) = caught.value.diagnostics
    assert found.code == "KT0602"
    assert "truth values of `x`" in found.message
