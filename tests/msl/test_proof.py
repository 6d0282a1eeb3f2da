"""`kt verify -t metal` and `kt run -t metal --simulate`: generated host functions on the executor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kt_command import ADD, SIGNATURE, kt
from tests.msl.programs import torch

from transpile import build as pipeline  # isort: skip
from transpile import proofs  # isort: skip
from transpile.build import BuildOptions  # isort: skip
from transpile.emitters import EmitResult  # isort: skip

REFERENCE = """

def reference(x, y):
    return x + y
"""
PROJECT = """
[kernels.add]
signatures = [{ x = "f32[N]", y = "f32[N]" }]
shapes = [{ N = 64 }, { N = 37 }, { N = 1 }]
reference = "good.py:reference"
"""
OVERFLOW = "volatile float big[200000]; for (int i = 0; i < 200000; ++i) { big[i] = 1.0f; }"


def at_store(before: str, after: str = "") -> Callable[[str], str]:
    """Puts text around the line of the kernel that stores the result."""
    return lambda text: re.sub(
        r"(?m)^  (store_aligned<4>\(out .*)$", rf"  {before} \1 {after}", text
    )


# What a broken emitter might print: a change of the .metal file or of the .py file.
MUTATIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "good": ("metal", lambda text: text),
    "wrong": ("metal", lambda text: text.replace("load_aligned<4>(y +", "load_aligned<4>(x +")),
    "unmasked": ("metal", lambda text: re.sub(r"(load_aligned<4>\(y [^,]*), params[^;]*;", r"\1, 4);", text)),
    "unwritten": ("py", lambda text: text.replace("(kt.cdiv(x.size(0), 1024),)", "(kt.cdiv(x.size(0), 1024) - 1,)")),
    "no_such_function": ("metal", lambda text: text.replace("load_aligned<4>(y +", "load5(y +")),
    "wrong_space": ("metal", lambda text: text.replace("store_aligned(device T* x", "store_aligned(threadgroup T* x")),
    "race": ("metal", at_store("out[0] = 1.0f;")),
    "order": ("metal", at_store("", "if (tid > 0) { out[tid * 4 - 1] = 1.0f; }")),
    "overflow": ("metal", at_store(OVERFLOW)),
    "raises": ("py", lambda text: text.replace("    out = torch.empty_like(x)", "    raise ValueError(7)")),
    "too_many_threads": ("py", lambda text: text.replace("threads=(256, 1, 1)", "threads=(512, 1, 1)")),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, proofs.Row]:
    """The row of each mutation; one verification of them all."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "kt.toml").write_text(PROJECT)
    for name in MUTATIONS:
        (folder / f"{name}.py").write_text(ADD + REFERENCE)
    original = pipeline.emit_groups

    def emit(source: object, *rest: object) -> EmitResult:
        result = original(source, *rest)  # type: ignore[arg-type]
        kind, mutate = MUTATIONS[source.stem]  # type: ignore[attr-defined]
        files = {n: mutate(text) if n.endswith(kind) else text for n, text in result.files.items()}
        assert source.stem == "good" or files != result.files  # type: ignore[attr-defined]
        return EmitResult(files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "emit_groups", emit)
        paths = [str(folder / f"{name}.py") for name in MUTATIONS]
        verification = proofs.verify(paths, BuildOptions(targets=("metal",)), None, 2)
    assert verification.failed
    return {Path(row.file).stem: row for row in verification.rows}


SHAPES = ("shape 1", "shape 2", "shape 3")


def failing(row: proofs.Row) -> set[str]:
    assert set(row.cells) == set(proofs.columns(row))
    return {column for column, cell in row.cells.items() if cell.status == "fail"}


def test_right_text_passes(rows: dict[str, proofs.Row]) -> None:
    assert proofs.columns(rows["good"]) == ["generated", "strict", "host", *SHAPES]
    assert failing(rows["good"]) == set()


@pytest.mark.parametrize(("name", "columns", "reason"), [
    ("wrong", SHAPES, "elements differ"),
    ("unmasked", SHAPES[1:], "out-of-bounds read"),
    ("unwritten", SHAPES, "nan"),
    ("no_such_function", ("strict", "host", *SHAPES), "undeclared identifier 'load5'"),
    ("wrong_space", ("strict",), "no matching function"),
    ("race", SHAPES, "race: write of buffer 2"),
    ("order", SHAPES, "race: write of buffer 2"),
    ("overflow", SHAPES, "the process died"),
    ("raises", SHAPES, "ValueError: 7"),
    ("too_many_threads", SHAPES, "512 threads"),
])  # fmt: skip
def test_broken_text_fails(
    rows: dict[str, proofs.Row], name: str, columns: tuple[str, ...], reason: str
) -> None:
    row = rows[name]
    # What an optimiser leaves out does not fail: at a round size nothing may be read past the end.
    assert failing(row) >= set(columns), {c: cell.detail for c, cell in row.cells.items()}
    assert any(reason in cell.detail for cell in row.cells.values()), row.cells


def test_counters_of_a_shape(rows: dict[str, proofs.Row]) -> None:
    (launch,) = rows["good"].cells["shape 2"].counters
    assert launch.buffers["x"].read_bytes == launch.buffers["y"].read_bytes == 37 * 4
    assert launch.buffers["out"].written_bytes == 37 * 4
    assert launch.device.read_bytes == 2 * 37 * 4
    text = proofs.counters(proofs.Verification([rows["good"]]))
    assert "shape 2 (N=37)" in text
    assert "296 B" in text


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    Path("add.py").write_text(ADD)
    x, y = torch.randn(100), torch.randn(100)
    save_file({"x": x, "y": y}, "in.safetensors")
    command = (
        "run",
        "add.py",
        "-t",
        "metal",
        *SIGNATURE,
        "--in",
        "in.safetensors",
        "--out",
        "out.safetensors",
    )
    outcome = kt(*command, "--simulate", "--counters")
    assert outcome.code == 0, outcome.err
    assert torch.equal(load_file("out.safetensors")["out0"], x + y)
    assert "800 B" in outcome.out
    assert "400 B" in outcome.out
    if not torch.backends.mps.is_available():
        refused = kt(*command)
        assert refused.code == 2
        assert "KT0014" in refused.err


def test_inlined_shim(tmp_path: Path) -> None:
    from transpile.verify.msl.backend import Executor, executing
    from transpile.verify.numerics import load_module

    (tmp_path / "add.py").write_text(ADD)
    built = kt(
        "build",
        tmp_path / "add.py",
        "-t",
        "metal",
        *SIGNATURE,
        "-o",
        tmp_path / "out",
        "--inline-shim",
    )
    assert built.code == 0, built.err
    module = load_module(str(tmp_path / "out" / "add_metal.py"))
    x, y = torch.randn(10), torch.randn(10)
    executor = Executor(checked=True)
    with executing(module, executor):
        assert torch.equal(module.add(x, y), x + y)
    assert [launch.kernel for launch in executor.launches] == ["add"]
