"""Project files: found above the source, read completely, every mistake located."""

from __future__ import annotations

from pathlib import Path

import pytest

from transpile.frontend.project import ProjectConfig, Range, find_project, parse_project
from transpile.frontend.signatures import LiteralSpec, parse_spec
from transpile.ir.diagnostics import KtError

FULL = """
[tool.kt.kernels.matmul]
signatures = [
  { x = "f16[M,K]", y = "f16[K,N]", causal = true },
  { x = "f32[M,K]", y = "f32[K,N]", causal = false },
]
reference = "refs/matmul.py:reference"
shapes = [{ M = 64, K = 32, N = 48 }, { M = 1, K = 1, N = 1 }]
values = { labels = "0:N", scale = "0.5:1.5", eps = 1e-5, kind = "log_softmax" }
config = { block_sizes = [64, 64, 32], num_warps = 4 }
set = { causal = true, dtype = "float16", act = "'gelu'" }
"""


def test_full_kernel(tmp_path: Path) -> None:
    settings = parse_project(FULL, str(tmp_path / "kt.toml")).kernel("matmul")
    assert settings.signatures[0]["x"] == parse_spec("f16[M,K]")
    assert settings.signatures[1]["causal"] == LiteralSpec(False)
    assert settings.reference is not None
    assert Path(settings.reference.file) == tmp_path / "refs/matmul.py"
    assert settings.reference.function == "reference"
    assert settings.shapes == ({"M": 64, "K": 32, "N": 48}, {"M": 1, "K": 1, "N": 1})
    assert settings.values["labels"] == Range(0, "N")
    assert settings.values["scale"] == Range(0.5, 1.5)
    assert settings.values["kind"] == "log_softmax"
    assert settings.config == {"block_sizes": [64, 64, 32], "num_warps": 4}
    assert settings.sets["causal"] is True
    assert settings.sets["act"] == "gelu"


def test_short_tables_in_kt_toml() -> None:
    short = FULL.replace("tool.kt.kernels", "kernels")
    assert parse_project(short, "kt.toml").kernel("matmul") == (
        parse_project(FULL, "kt.toml").kernel("matmul")
    )


def test_nearest_file_wins(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    source = inner / "k.py"
    (tmp_path / "kt.toml").write_text("[kernels.outer]\n")
    assert set(find_project(source).kernels) == {"outer"}
    (inner / "pyproject.toml").write_text("[tool.other]\n")  # says nothing about kt
    assert set(find_project(source).kernels) == {"outer"}
    (inner / "pyproject.toml").write_text("[tool.kt.kernels.inner]\n")
    assert set(find_project(source).kernels) == {"inner"}
    (inner / "kt.toml").write_text("[kernels.innermost]\n")
    assert set(find_project(source).kernels) == {"innermost"}


def test_no_project_file(tmp_path: Path) -> None:
    assert ProjectConfig().kernel("anything").signatures == ()


BAD = [
    # text after "[kernels.k]\n", code, line, column, a word of the message
    ("signatures = [", "KT0030", 2, 15, "array"),
    ("x = = 1", "KT0030", 2, 5, "value"),
    ('signatures = [{ x = "f17[M]" }]', "KT0202", 2, 22, "f17"),
    ('signatures = [\n { x = "f16[M,,K]" }]', "KT0203", 3, 15, "missing"),
    ('signatures = [{ x = "f16[M,K]{0,0}" }]', "KT0204", 2, 30, "permutation"),
    ('signatures = ["f16[M]"]', "KT0032", 2, 1, "list of tables"),
    ("signatures = [{ x = [1] }]", "KT0032", 2, 17, "`x`"),
    ('signatures = [{ x = "f16[M]" }, { x = "f16[8]" }]', "KT0206", 2, 1, "never reached"),
    ('reference = "matmul.py"', "KT0033", 2, 1, "FILE:FUNCTION"),
    ("shapes = { M = 1 }", "KT0032", 2, 1, "list of tables"),
    ("shapes = [{ Mdim = -1 }]", "KT0032", 2, 13, "Mdim"),
    ("values = { x = [1] }", "KT0032", 2, 12, "`x`"),
    ('values = { x = "0:" }', "KT0032", 2, 12, "`x`"),
    ("config = 3", "KT0032", 2, 1, "config"),
    ('set = { dtype = "a b" }', "KT0205", 2, 18, "no literal"),
    ("signature = []", "KT0031", 2, 1, "signature"),
]


@pytest.mark.parametrize(("text", "code", "line", "col", "word"), BAD, ids=[b[0] for b in BAD])
def test_bad_project(text: str, code: str, line: int, col: int, word: str) -> None:
    with pytest.raises(KtError) as caught:
        parse_project(f"[kernels.k]\n{text}\n", "kt.toml").kernel("k")
    diag = caught.value.diagnostics[0]
    assert diag.code == code
    assert diag.file == "kt.toml"
    assert diag.span is not None
    if code != "KT0030":  # tomllib's own columns vary between versions
        assert (diag.span.line, diag.span.col) == (line, col)
    assert diag.span.line >= 1
    assert word in diag.message or code == "KT0030"


def test_all_problems_of_a_kernel_in_one_run() -> None:
    text = '[kernels.a]\nfoo = 1\n[kernels.b]\nbar = 2\nsignatures = [{ x = "f17" }]\nshapes = 3\n'
    project = parse_project(text, "kt.toml")
    with pytest.raises(KtError) as caught:
        project.kernel("b")
    places = [(d.code, d.span.line if d.span else 0) for d in caught.value.diagnostics]
    assert places == [("KT0031", 4), ("KT0202", 5), ("KT0032", 6)]


def test_other_kernels_mistakes_do_not_matter() -> None:
    text = '[kernels.a]\nfoo = 1\n[kernels.b]\nsignatures = [{ x = "f16[M]" }]\n'
    assert parse_project(text, "kt.toml").kernel("b").signatures == ({"x": parse_spec("f16[M]")},)
    assert parse_project(text, "kt.toml").kernel("c").signatures == ()


@pytest.mark.parametrize(
    ("text", "code", "line", "col"),
    [
        ("kernels = 3\n", "KT0032", 1, 1),
        ("\ntargets = []\n", "KT0031", 2, 1),
        ("[tool]\nkt = 1\n", "KT0032", 2, 1),
    ],
)
def test_bad_tables(text: str, code: str, line: int, col: int) -> None:
    with pytest.raises(KtError) as caught:
        parse_project(text, "kt.toml")
    diag = caught.value.diagnostics[0]
    assert diag.span is not None
    assert (diag.code, diag.span.line, diag.span.col) == (code, line, col)


def test_unreadable_project_file(tmp_path: Path) -> None:
    (tmp_path / "kt.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KtError) as caught:
        find_project(tmp_path / "k.py")
    assert caught.value.diagnostics[0].code == "KT0030"
