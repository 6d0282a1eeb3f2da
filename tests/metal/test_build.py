"""`kt build -t metal`: what is written, and that it stands on its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.kt_command import kt

SOURCE = '''
import helion
import helion.language as hl
import torch


@helion.kernel()
def scaled(half: torch.Tensor, kernel: float, device: torch.Tensor) -> torch.Tensor:
    """Grösse \\\\ of rows."""
    lane, params = half.size()
    thread = torch.empty_like(half)
    for tid, constant in hl.tile([lane, params]):
        # ängstlich \\\\
        float4 = half[tid, constant] * kernel + device[constant]
        thread[tid, constant] = float4
    return thread


@helion.kernel()
def rows(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        row = x[tile, :].to(torch.float32)
        out[tile, :] = (row - torch.amax(row, dim=-1, keepdim=True)).to(x.dtype)
    return out
'''
SIGNATURE = ("--arg", "half=f32[M,N]", "--arg", "device=f32[N]", "--arg", "x=f16[M,N]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_files_of_a_build(folder: Path) -> None:
    done = kt("build", "names.py", "-t", "metal", "-o", "gen", "--arch", "apple9", *SIGNATURE)
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("gen").iterdir()) == [
        "_kt_metal.py", "_kt_metal_mlx.py", "names.metal", "names_metal.py",
    ]  # fmt: skip
    metal = Path("gen/names.metal").read_bytes()
    assert metal.isascii()
    assert not any(line.endswith(b"\\") for line in metal.splitlines())
    assert b"const device float* half_ [[buffer(0)]]" in metal
    again = kt("build", "names.py", "-t", "metal", "-o", "gen", "--check", *SIGNATURE)
    assert again.code == 0
    assert kt("build", "names.py", "-t", "metal", "--arch", "sm_90").code == 2


def test_names_of_metal_are_ordinary_names(folder: Path) -> None:
    pytest.importorskip("clang.cindex")
    from transpile.verify.msl import strict

    assert kt("build", "names.py", "-t", "metal", "-o", "gen", *SIGNATURE).code == 0
    assert strict.check(Path("gen/names.metal").read_text()) == []


@pytest.mark.parametrize("inline", [False, True])
def test_generated_modules_run(folder: Path, inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("clang.cindex")
    pytest.importorskip("ziglang")
    from transpile.verify.msl.backend import Executor

    options = ("--inline-shim",) if inline else ()
    done = kt("build", "names.py", "-t", "metal", "-o", "gen", *options, *SIGNATURE)
    assert done.code == 0, done.err
    if inline:
        assert not Path("gen/_kt_metal.py").exists()
        Path("gen/names.metal").unlink()
    monkeypatch.syspath_prepend("gen")
    module = load(folder / "gen" / "names_metal.py")
    module.kt.set_backend(Executor())
    x, shift = torch.randn(5, 130), torch.randn(130)
    torch.testing.assert_close(module.scaled(x, 0.5, shift), x * 0.5 + shift)
    # in registers (up to 4096), and in chunks
    for columns in (130, 1025, 4097):
        rows = torch.randn(3, columns).half()
        expected = (rows.float() - rows.float().amax(-1, keepdim=True)).half()
        torch.testing.assert_close(module.rows(rows), expected)
    for name in ("_kt_metal", "names_metal"):
        sys.modules.pop(name, None)
