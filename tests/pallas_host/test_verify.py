"""`kt verify -t pallas` passes what kt generates and fails what is broken in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kt_command import kt
from transpile import build as pipeline
from transpile import proofs
from transpile.build import BuildOptions
from transpile.emitters import EmitResult

for package in ("torch", "jax", "libtpu"):
    pytest.importorskip(package)

SOURCE = '''\
import torch

import helion
import helion.language as hl


@helion.kernel()
def exp(x: torch.Tensor) -> torch.Tensor:
    """exp(x), elementwise."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size()):
        out[tile] = torch.exp(x[tile])
    return out


@helion.kernel(config=helion.Config(block_sizes=[128, 128, 128]))
def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y."""
    m, k = x.size()
    k2, n = y.size()
    out = torch.empty([m, n], dtype=x.dtype, device=x.device)
    for tile_m, tile_n in hl.tile([m, n]):
        acc = hl.zeros([tile_m, tile_n], dtype=torch.float32)
        for tile_k in hl.tile(k):
            acc = torch.addmm(acc, x[tile_m, tile_k], y[tile_k, tile_n])
        out[tile_m, tile_n] = acc
    return out


@helion.kernel()
def scale(x: torch.Tensor, factor: float) -> None:
    """x *= factor, in place."""
    for tile in hl.tile(x.size(0)):
        x[tile, :] = x[tile, :] * factor


def exp_reference(x):
    return torch.exp(x)


def matmul_reference(x, y):
    return x @ y


def scale_reference(x, factor):
    x *= factor
'''

PROJECT = """
[kernels.exp]
signatures = [{ x = "f32[M,N]" }]
shapes = [{ M = 64, N = 256 }, { M = 37, N = 131 }]
reference = "good.py:exp_reference"

[kernels.matmul]
signatures = [{ x = "bf16[M,K]", y = "bf16[K,N]" }]
shapes = [{ M = 128, N = 128, K = 256 }, { M = 140, N = 37, K = 300 }]
reference = "good.py:matmul_reference"

[kernels.scale]
signatures = [{ x = "f32[M,N]", factor = "f32" }]
shapes = [{ M = 64, N = 128 }, { M = 37, N = 131 }]
reference = "good.py:scale_reference"
"""

SHAPES = {"shape 1", "shape 2"}
COMPILED = {"lower", "v5e", "v6e", "7x"}


class Mutation(NamedTuple):
    """A change of the generated module, and the columns of a kernel that must fail for it."""

    change: Callable[[str], str]
    kernel: str = ""
    columns: frozenset[str] = frozenset()


def _sub(pattern: str, new: str, count: int = 0) -> Callable[[str], str]:
    def change(text: str) -> str:
        changed, number = re.subn(pattern, new, text, count=count)
        assert number, f"nothing to change: {pattern}"
        return changed

    return change


def _in(kernel: str, change: Callable[[str], str]) -> Callable[[str], str]:
    """A change of what belongs to one kernel."""

    def limited(text: str) -> str:
        start = text.index(f"def _{kernel}_kernel")
        stop = text.find("\n\n\n@kt.kernel", text.index(f"\ndef {kernel}(") - 200)
        stop = text.find("\n\n\ndef _", stop + 1)
        stop = len(text) if stop < 0 else stop
        return text[:start] + change(text[start:stop]) + text[stop:]

    return limited


MUTATIONS = {
    "good": Mutation(lambda text: text),
    # Mosaic has no expm1, the interpreters do: only the compilers see it
    "uncompilable": Mutation(
        _in("exp", _sub(r"jnp\.exp\(", "1.0 + jnp.expm1(")), "exp", frozenset(COMPILED)
    ),
    "wrong": Mutation(_in("exp", _sub(r"jnp\.exp\(", "jnp.exp2(")), "exp", frozenset(SHAPES)),
    "unwritten": Mutation(
        _in("exp", _sub(r"out_ref\[\.\.\.\] = ", "_ = ")), "exp", frozenset(SHAPES)
    ),
    "shifted block": Mutation(
        _in("exp", _sub(r"lambda i, j: \(i, j\)", "lambda i, j: (i + 1, j)", 1)),
        "exp",
        frozenset(SHAPES),
    ),
    "raises": Mutation(
        _sub(r"    return _matmul_", "    raise ValueError(7)\n    return _matmul_"),
        "matmul",
        frozenset(COMPILED | SHAPES),
    ),
    "dies": Mutation(
        _sub(r"    return _matmul_", "    import os\n    os._exit(3)\n    return _matmul_"),
        "matmul",
        frozenset(COMPILED | SHAPES),
    ),
    "factor twice": Mutation(
        _in("scale", _sub(r"factor_ref\[0\]", "(factor_ref[0] * factor_ref[0])")),
        "scale",
        frozenset(SHAPES),
    ),
    "not returned": Mutation(
        _sub(r"    return (_scale_call.*)", r"    \1\n    return None"), "scale", frozenset(SHAPES)
    ),
    "syntax": Mutation(lambda text: text + "\n("),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, proofs.Row]]:
    """The rows of each mutation by kernel; one verification of them all."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "kt.toml").write_text(PROJECT)
    for name in MUTATIONS:
        (folder / f"{name.replace(' ', '_')}.py").write_text(SOURCE)
    original = pipeline.emit_groups

    def emit(info: object, *rest: object) -> EmitResult:
        result = original(info, *rest)  # type: ignore[arg-type]
        mutation = MUTATIONS[info.stem.replace("_", " ")]  # type: ignore[attr-defined]
        return EmitResult({n: mutation.change(text) for n, text in result.files.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "emit_groups", emit)
        paths = [str(folder / f"{name.replace(' ', '_')}.py") for name in MUTATIONS]
        verification = proofs.verify(paths, BuildOptions(("pallas",)), None, 2)
    assert not verification.diagnostics, verification.diagnostics
    found: dict[str, dict[str, proofs.Row]] = {}
    for row in verification.rows:
        found.setdefault(Path(row.file).stem.replace("_", " "), {})[row.kernel] = row
    return found


def failing(row: proofs.Row) -> dict[str, str]:
    return {c: row.cells[c].detail for c in proofs.columns(row) if row.cells[c].status == "fail"}


@pytest.mark.parametrize("name", [n for n in MUTATIONS if n != "syntax"])
def test_what_is_broken_fails_and_nothing_else(
    results: dict[str, dict[str, proofs.Row]], name: str
) -> None:
    """Also where the process dies: the kernels behind the one that kills it are proved all the
    same."""
    mutation = MUTATIONS[name]
    for kernel, row in results[name].items():
        expected = mutation.columns if kernel == mutation.kernel else frozenset()
        assert set(failing(row)) == expected, failing(row)


def test_reasons(results: dict[str, dict[str, proofs.Row]]) -> None:
    dead = failing(results["dies"]["matmul"])
    assert "the process died (exit 3)" in dead["shape 1"]
    assert "expm1" in failing(results["uncompilable"]["exp"])["lower"]
    assert "(exp_reference)" in failing(results["wrong"]["exp"])["shape 1"]
    assert failing(results["not returned"]["scale"])["shape 1"].startswith("x: ")


def test_modules_that_do_not_load_fail(results: dict[str, dict[str, proofs.Row]]) -> None:
    for row in results["syntax"].values():
        assert set(failing(row)) == COMPILED | SHAPES
        assert "SyntaxError" in row.cells["v5e"].detail


def test_run(tmp_path: Path) -> None:
    """`kt run --simulate`: changed parameters of a kernel that returns nothing are its outputs."""
    import torch
    from safetensors.torch import load_file, save_file

    path = tmp_path / "scale.py"
    path.write_text(SOURCE)
    x = torch.randn(5, 7)
    save_file({"x": x, "factor": torch.tensor(3.0)}, tmp_path / "in.safetensors")
    done = kt(
        "run", f"{path}::scale", "-t", "pallas", "--simulate",
        "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors",
    )  # fmt: skip
    assert done.code == 0, done.err
    out = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(out["out0"], 3 * x)


def test_run_needs_a_device(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "exp.py"
    path.write_text(SOURCE)
    save_file({"x": torch.randn(5, 7)}, tmp_path / "in.safetensors")
    done = kt(
        "run", f"{path}::exp", "-t", "pallas",
        "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors",
    )  # fmt: skip
    assert done.code == 2
    assert "KT0014" in done.err
    assert "--simulate" in done.err
