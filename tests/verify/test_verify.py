"""`kt verify` passes what is right and fails what is wrong, whatever the kind of mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kt_command import ADD, Outcome, kt
from transpile import build as pipeline
from transpile import proofs
from transpile.build import BuildOptions
from transpile.emitters import EmitResult

pytest.importorskip("torch")
pytest.importorskip("triton")

REFERENCE = """

def reference(x, y):
    return x + y


def wrong_reference(x, y):
    return x + y * 1.01
"""

PROJECT = """
[kernels.add]
signatures = [{ x = "f32[N]", y = "f32[N]" }]
shapes = [{ N = 64 }, { N = 37 }, { N = 1 }]
reference = "good.py:REFERENCE"
"""

# What a broken emitter might print, each as a change of the right text.
MUTATIONS: dict[str, Callable[[str], str]] = {
    "good": lambda text: text,
    "wrong": lambda text: re.sub(r"tl\.load\(y\b", "tl.load(x", text),
    "unwritten": lambda text: text.replace("(triton.cdiv(", "(-1 + triton.cdiv("),
    "unmasked": lambda text: text.replace(", mask=mask)", ")"),
    "uncompilable": lambda text: text.replace("tl.program_id(0)", "tl.no_such_thing(0)"),
    "raises": lambda text: text.replace("    out = torch.empty_like(x)", "    raise ValueError(7)"),
    "dies": lambda text: text.replace(
        "    out = torch.empty_like(x)", "    import os\n    os._exit(3)"
    ),
    "syntax": lambda text: text + "\n(",
    "returns_nothing": lambda text: text.replace("    return out", "    return None"),
    "other_dtype": lambda text: text.replace("empty_like(x)", "empty_like(x, dtype=torch.int32)"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, proofs.Row]:
    """The row of each mutation; one verification of them all."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "kt.toml").write_text(PROJECT.replace("REFERENCE", "reference"))
    for name in MUTATIONS:
        (folder / f"{name}.py").write_text(ADD + REFERENCE)
    original = pipeline.emit_groups

    def emit(source: object, *rest: object) -> EmitResult:
        result = original(source, *rest)  # type: ignore[arg-type]
        mutate = MUTATIONS[source.stem]  # type: ignore[attr-defined]
        return EmitResult({n: mutate(text) for n, text in result.files.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "emit_groups", emit)
        paths = [str(folder / f"{name}.py") for name in MUTATIONS]
        verification = proofs.verify(paths, BuildOptions(), None, 2)
    assert verification.failed
    return {Path(row.file).stem: row for row in verification.rows}


COMPILED = ("sm_80", "sm_90", "sm_100")
SHAPES = ("shape 1", "shape 2", "shape 3")


def failing(row: proofs.Row) -> set[str]:
    return {c for c in proofs.columns(row) if row.cells[c].status == "fail"}


def test_right_code_passes(results: dict[str, proofs.Row]) -> None:
    row = results["good"]
    assert failing(row) == set()
    assert proofs.columns(row) == ["generated", *COMPILED, *SHAPES]
    assert "registers" in row.cells["sm_90"].detail
    assert row.cells["shape 2"].sizes == "N=37"


def test_wrong_results_fail(results: dict[str, proofs.Row]) -> None:
    row = results["wrong"]
    assert failing(row) == set(SHAPES)
    detail = row.cells["shape 1"].detail
    assert "(interpreter)" in detail
    assert "(reference)" in detail
    assert "of 64 elements differ" in detail


def test_unwritten_elements_fail(results: dict[str, proofs.Row]) -> None:
    assert set(SHAPES) <= failing(results["unwritten"])
    assert "nan instead of" in results["unwritten"].cells["shape 1"].detail


def test_writing_out_of_bounds_is_noticed_or_harmless(results: dict[str, proofs.Row]) -> None:
    """Without masks the interpreter reads and writes beyond the tensors: the process may die, but
    the other kernels' cells are there all the same."""
    assert failing(results["unmasked"]) <= set(SHAPES)


def test_compile_errors_fail(results: dict[str, proofs.Row]) -> None:
    row = results["uncompilable"]
    assert set(COMPILED) <= failing(row)
    assert "no_such_thing" in row.cells["sm_90"].detail


def test_exceptions_fail(results: dict[str, proofs.Row]) -> None:
    row = results["raises"]
    assert failing(row) == {*COMPILED, *SHAPES}
    assert row.cells["shape 1"].detail == "ValueError: 7"


def test_dead_processes_fail(results: dict[str, proofs.Row]) -> None:
    row = results["dies"]
    assert failing(row) == {*COMPILED, *SHAPES}
    assert "the process died (exit 3)" in row.cells["shape 1"].detail


def test_modules_that_do_not_load_fail(results: dict[str, proofs.Row]) -> None:
    row = results["syntax"]
    assert failing(row) == {*COMPILED, *SHAPES}
    assert "SyntaxError" in row.cells["sm_80"].detail


def test_missing_and_wrong_results_fail(results: dict[str, proofs.Row]) -> None:
    assert "only interpreter returns it" in results["returns_nothing"].cells["shape 1"].detail
    assert set(SHAPES) <= failing(results["other_dtype"])


# -- the command -------------------------------------------------------------------------------


def verify(folder: Path, *args: str) -> Outcome:
    return kt("verify", folder / "good.py", "-t", "triton", *args)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(ADD + REFERENCE)
    (tmp_path / "kt.toml").write_text(PROJECT.replace("REFERENCE", "reference"))
    done = verify(tmp_path)
    assert (done.code, done.err) == (0, "")
    header, row, _, total = done.out.splitlines()
    assert header.split()[:3] == ["kernel", "signature", "generated"]
    assert row.split() == ["add", "x=f32[N],", "y=f32[N]", *["ok"] * 7]
    assert total == "7 cells, 0 failed"


def test_command_with_a_wrong_reference(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(ADD + REFERENCE)
    done = verify(
        tmp_path, "--arg", "x=f32[N]", "--arg", "y=f32[N]",
        "--reference", f"{tmp_path}/good.py:wrong_reference",
    )  # fmt: skip
    assert done.code == 1
    assert "FAIL" in done.out
    assert "(wrong_reference)" in done.out
    assert "(interpreter)" not in done.out


def test_command_on_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("def f(:\n")
    assert verify(tmp_path).code == 3
    (tmp_path / "good.py").unlink()
    assert verify(tmp_path).code == 2
    assert verify(tmp_path, "--reference", "nope").code == 2
