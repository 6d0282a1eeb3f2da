"""Each rewrite of what Mosaic lacks: it compiles for three generations and computes the same at
the edges of a block; and what it replaces is refused, so that without it nothing would compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kt_command import ROOT
from tests.pallas.prove import Snippet, prove
from transpile.verify.harnesses import HARNESSES

ELEMENTWISE = """
@helion.kernel(config=helion.Config(block_sizes=[1024]))
def NAME(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype={dtype}, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile] = {expression}
    return out
"""

PAIR = """
@helion.kernel(config=helion.Config(block_sizes=[1024]))
def NAME(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty([x.size(0)], dtype=x.dtype, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile] = {expression}
    return out
"""

ROWS = """
@helion.kernel(config=helion.Config(block_sizes=[8]))
def NAME(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty({shape}, dtype={dtype}, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[{at}] = {expression}
    return out
"""

EDGES = ({"N": 1023}, {"N": 1025}, {"N": 1})
BLOCK = ({"N": 1024}, {"N": 1})
MATRICES = ({"M": 9, "N": 129}, {"M": 7, "N": 127}, {"M": 1, "N": 1})


def _each(expression: str, dtype: str, values: str = "0.05:0.95", out: str = "x.dtype") -> Snippet:
    source = ELEMENTWISE.format(expression=expression, dtype=out)
    return Snippet(source, {"x": f"{dtype}[N]"}, EDGES, {"x": values})


def _pair(expression: str, dtype: str, values: str) -> Snippet:
    args = {"x": f"{dtype}[N]", "y": f"{dtype}[N]"}
    return Snippet(PAIR.format(expression=expression), args, EDGES, {"x": values, "y": values})


def _rows(expression: str, dtype: str, reference: str = "", values: str = "") -> Snippet:
    source = ROWS.format(shape="x.size()", at="tile, :", dtype="x.dtype", expression=expression)
    return Snippet(
        source, {"x": f"{dtype}[M,N]"}, MATRICES, {"x": values} if values else {}, reference
    )


def _reduced(expression: str, dtype: str, out: str, reference: str, values: str = "") -> Snippet:
    source = ROWS.format(shape="[x.size(0)]", at="tile", dtype=out, expression=expression)
    return Snippet(
        source, {"x": f"{dtype}[M,N]"}, MATRICES, {"x": values} if values else {}, reference
    )


def _functions(names: str, dtype: str) -> dict[str, Snippet]:
    return {f"{n}_{dtype}": _each(f"torch.{n}(x[tile]).to(x.dtype)", dtype) for n in names.split()}


GROUPS: dict[str, dict[str, Snippet]] = {
    "scans": {
        "cumsum_f32": _rows("torch.cumsum(x[tile, :], 1)", "f32", "return x.cumsum(1)"),
        "cumsum_bf16": _rows("torch.cumsum(x[tile, :], 1).to(x.dtype)", "bf16"),
        "cumsum_i8": _rows("torch.cumsum(x[tile, :], 1).to(x.dtype)", "i8"),
        "cumprod_f32": _rows("torch.cumprod(x[tile, :], 1)", "f32", "return x.cumprod(1)", "0.9:1.1"),
        "prod_f32": _reduced("torch.prod(x[tile, :], 1)", "f32", "x.dtype", "return x.prod(1)", "0.9:1.1"),
    },
    "positions": {
        f"{name}_{dtype}": _reduced(
            f"torch.{name}(x[tile, :], 1)", dtype, "torch.int64", f"return x.{name}(1)"
        )
        for name in ("argmax", "argmin")
        for dtype in ("f32", "bf16", "i32")
    },
    "narrow_integers": {
        "arithmetic_i8": _pair("x[tile] * y[tile] + torch.maximum(x[tile], y[tile])", "i8", "-128:128"),
        "chosen_i8": _pair("torch.where(x[tile] < y[tile], x[tile], y[tile])", "i8", "-128:128"),
        "division_u8": _pair("x[tile] // (y[tile] + 1) + x[tile] % 7", "u8", "0:100"),
        "comparison_i16": _pair("torch.where(x[tile] < y[tile], -x[tile], abs(y[tile]))", "i16", "-30000:30000"),
        "bits_i8": _pair("(x[tile] & y[tile]) | (x[tile] ^ 5) << 1", "i8", "-128:128"),
        "amax_i8": _reduced("torch.amax(x[tile, :], 1)", "i8", "x.dtype", "return x.amax(1)"),
        "long_i64": _pair("x[tile] * y[tile] - x[tile] // 3", "i64", "1:1000"),
    },
    "float16": {
        "arithmetic_f16": _pair("x[tile] * y[tile] + torch.exp(x[tile])", "f16", "-1.0:1.0"),
        "sum_f16": _reduced("x[tile, :].sum(1)", "f16", "x.dtype", "return x.float().sum(1).half()"),
    },
    "functions_f32": _functions("expm1 erfc asin acos atan sinh cosh log10", "f32"),
    "functions_bf16": _functions("expm1 erfc log2 log10 atan sinh", "bf16")
    | {"mod_bf16": _each("x[tile] % 0.3 + x[tile] // 0.3", "bf16")},
}  # fmt: skip

FLAGS = """
@helion.kernel()
def NAME(x: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m], dtype=torch.bool, device=x.device)
    for tile_m in hl.tile(m):
        seen = hl.zeros([tile_m], dtype=torch.bool)
        for tile_n in hl.tile(n):
            seen = seen | (x[tile_m, tile_n] > 1.5).any(1)
        out[tile_m] = seen
    return out
"""

SHIFTED = """
@helion.kernel(config=helion.Config(block_sizes=[8, 128]))
def NAME(x: torch.Tensor, n: int) -> torch.Tensor:
    rows, width = x.size()
    out = torch.empty([rows, width - n], dtype=x.dtype, device=x.device)
    for tile_m in hl.tile(rows):
        for tile_n in hl.tile(width - n):
            out[tile_m, tile_n] = x[tile_m, tile_n.index + n]
    return out
"""

STACKED = """
@helion.kernel()
def NAME(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    m, n = x.size()
    out = torch.empty([m, 2, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        out[tile_m, :, tile_n] = torch.stack([x[tile_m, tile_n], y[tile_m, tile_n]], dim=1)
    return out
"""

DROPPED = """
@helion.kernel()
def NAME(x: torch.Tensor, seed: int) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile_m, tile_n in hl.tile(x.size()):
        keep = hl.rand([tile_m, tile_n], seed=seed) > 0.5
        out[tile_m, tile_n] = torch.where(keep, x[tile_m, tile_n], 0.0)
    return out
"""

CHOSEN = """
@helion.kernel()
def NAME(x: torch.Tensor, flag: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        value = x[tile, :]
        if flag[0] > 2:
            value = value * 2
        elif flag[1] > 0:
            value = value - 1
        out[tile, :] = value
    return out
"""

TAKEN = """
@helion.kernel()
def NAME(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    out = torch.empty(ids.size(), dtype=x.dtype, device=x.device)
    for tile in hl.tile(x.size(0)):
        out[tile, :] = torch.gather(x[tile, :], 1, ids[tile, :].long())
    return out
"""

GROUPS["control"] = {
    "flags": Snippet(FLAGS, {"x": "f32[M,N]"}, MATRICES, {}, "return (x > 1.5).any(1)"),
    "shifted": Snippet(
        SHIFTED, {"x": "f32[M,N]", "n": "i32"}, ({"M": 9, "N": 131}, {"M": 1, "N": 260}), {"n": 3},
        "return x[:, n:].clone()",
    ),
    "stacked": Snippet(
        STACKED, {"x": "bf16[M,N]", "y": "bf16[M,N]"}, MATRICES, {}, "return torch.stack([x, y], 1)"
    ),
    "dropped": Snippet(DROPPED, {"x": "f32[M,N]", "seed": "i64"}, MATRICES),
    "chosen": Snippet(
        CHOSEN, {"x": "f32[M,N]", "flag": "i32[2]"}, MATRICES, {"flag": "1:5"},
        "return x * 2 if flag[0] > 2 else x - 1",
    ),
    "taken": Snippet(
        TAKEN, {"x": "f32[M,N]", "ids": "i32[M,K]"},
        ({"M": 9, "N": 129, "K": 5}, {"M": 1, "N": 1, "K": 1}), {"ids": "0:N"},
        "return torch.gather(x, 1, ids.long())",
    ),
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_proved(group: str, tmp_path: Path) -> None:
    for package in ("torch", "jax", "libtpu"):
        pytest.importorskip(package)
    failed = prove(tmp_path, GROUPS[group])
    assert not failed, failed


# -- what they are for -----------------------------------------------------------------------------


def test_mosaic_refuses_what_is_rewritten() -> None:
    """All of ``refused.py`` fails to compile but the one that shows that anything compiles."""
    for package in ("jax", "libtpu"):
        pytest.importorskip(package)
    environment = {**os.environ, **HARNESSES["pallas"].environments["compile"]}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "tests.pallas.refused"]
    answer = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert answer.returncode == 0, answer.stderr
    outcome = json.loads(answer.stdout.splitlines()[-1])
    assert [name for name, error in outcome.items() if not error] == ["doubling"]
    assert len(outcome) > 12
