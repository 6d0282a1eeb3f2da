"""`kt ir`, `kt targets`, `kt run` and the outside of `kt verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kt_command import ADD, SIGNATURE, kt, kt_process

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

IN_PLACE = '''\
import torch

import helion
import helion.language as hl


@helion.kernel()
def scale(x: torch.Tensor, y: torch.Tensor, factor: float) -> None:
    """y = factor * x; nothing is returned."""
    for tile in hl.tile(x.size(0)):
        y[tile] = x[tile] * factor
'''

HALF_WRITTEN = ADD.replace("hl.tile(x.size(0))", "hl.tile(x.size(0) // 2)")

TRANSPOSED = '''\
import torch

import helion
import helion.language as hl


@helion.kernel()
def copy(x: torch.Tensor, dtype: hl.constexpr = torch.float32) -> torch.Tensor:
    """x, row-major."""
    out = torch.empty([x.size(0), x.size(1)], dtype=dtype, device=x.device)
    for tile in hl.tile(x.size()):
        out[tile] = x[tile].to(dtype)
    return out
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("add.py").write_text(ADD)
    return tmp_path


def run(*args: str, **tensors: object) -> dict[str, object]:
    """`kt run --simulate` on the given tensors; the tensors that it writes."""
    safetensors.save_file(tensors, "in.safetensors")
    where = ("--in", "in.safetensors", "--out", "out.safetensors", "--simulate")
    done = kt("run", *args, "-t", "triton", *where)
    assert done.code == 0, done.err
    result: dict[str, object] = safetensors.load_file("out.safetensors")
    return result


def test_run_on_stated_signature(folder: Path) -> None:
    x, y = torch.randn(100), torch.randn(100)
    result = run("add.py::add", *SIGNATURE, x=x, y=y)
    assert list(result) == ["out0"]
    assert torch.equal(result["out0"], x + y)


def test_run_takes_signature_from_the_tensors(folder: Path) -> None:
    x, y = torch.randn(100, dtype=torch.bfloat16), torch.randn(100, dtype=torch.bfloat16)
    result = run("add.py", x=x, y=y)
    assert torch.equal(result["out0"], x + y)


def test_run_writes_modified_parameters(folder: Path) -> None:
    Path("scale.py").write_text(IN_PLACE)
    x, y = torch.randn(33), torch.zeros(33)
    result = run("scale.py", x=x, y=y, factor=torch.tensor(2.5))
    assert list(result) == ["out0"]
    assert torch.equal(result["out0"], x * 2.5)


def test_unwritten_elements_show(folder: Path) -> None:
    Path("half.py").write_text(HALF_WRITTEN)
    x, y = torch.randn(10), torch.randn(10)
    out = run("half.py", *SIGNATURE, x=x, y=y)["out0"]
    assert torch.equal(out[:5], (x + y)[:5])
    assert out[5:].isnan().all()


def test_run_lays_out_column_major_inputs(folder: Path) -> None:
    Path("copy.py").write_text(TRANSPOSED)
    x = torch.randn(5, 7)
    result = run("copy.py", "--arg", "x=f32[M,N]{0,1}", "--set", "dtype=float16", x=x)
    assert result["out0"].dtype == torch.float16
    assert torch.equal(result["out0"], x.half())


def test_files_may_be_called_like_modules(folder: Path) -> None:
    x = torch.randn(10)
    for name in ("copy", "random", "torch", "types"):
        Path(f"{name}.py").write_text(ADD)
        assert torch.equal(run(f"{name}.py", x=x, y=x.clone())["out0"], x + x)


def test_run_takes_a_config(folder: Path) -> None:
    x, y = torch.randn(100), torch.randn(100)
    result = run("add.py", *SIGNATURE, "--config", '{"block_sizes": [16]}', x=x, y=y)
    assert torch.equal(result["out0"], x + y)


RUN_ERRORS: list[tuple[tuple[str, ...], str, int]] = [
    (("missing.py",), "KT0001", 2),
    (("add.py::nope",), "KT0011", 2),
    (("two.py",), "KT0011", 2),
    (("add.py", "--arg", "x=f17"), "KT0202", 3),
    (("add.py", "--in", "missing"), "KT0001", 2),
    (("add.py", "--in", "add.py"), "KT0012", 2),
    (("add.py", "--in", "x_only"), "KT0012", 2),
    (("add.py", "--in", "too_many"), "KT0012", 2),
    (("add.py", "--in", "other_sizes"), "KT0015", 2),
    (("add.py", "--out", "no/such/folder/out"), "KT0015", 2),
]


@pytest.mark.parametrize(("args", "code", "exit_code"), RUN_ERRORS, ids=str)
def test_run_errors(folder: Path, args: tuple[str, ...], code: str, exit_code: int) -> None:
    Path("two.py").write_text(ADD + ADD.replace("def add", "def second"))
    x = torch.randn(10)
    files = {
        "good": {"x": x, "y": x},
        "x_only": {"x": x},
        "too_many": {"x": x, "y": x, "z": x},
        "other_sizes": {"x": x, "y": x[:5]},
    }
    for name, tensors in files.items():
        safetensors.save_file({k: v.clone() for k, v in tensors.items()}, name)
    where = ("--in", "good", "--out", "out", "--simulate", "-t", "triton", *SIGNATURE)
    given = ("run", args[0], *where, *args[1:])
    if "--arg" in args:
        given = ("run", args[0], *where[:7], *args[1:])
    done = kt(*given)
    assert done.code == exit_code, done.err
    assert code in done.err
    assert "Traceback" not in done.err
    assert not Path("out").exists()


def test_run_without_device(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    safetensors.save_file({"x": torch.randn(4), "y": torch.randn(4)}, "in")
    done = kt("run", "add.py", "-t", "triton", "--in", "in", "--out", "out", *SIGNATURE)
    assert done.code == 2
    assert "KT0014" in done.err
    assert "--simulate" in done.err


def test_ir(folder: Path) -> None:
    tile = kt("ir", "add.py", *SIGNATURE)
    assert tile.code == 0
    assert tile.out.startswith("kernel add(x=f32[N], y=f32[N]) {")
    masked = kt("ir", "add.py", "--arg", "x=f32[1024]", "--arg", "y=f32[1024]", "--stage", "masked")
    assert masked.code == 0
    assert "guard" not in masked.out
    thread = kt("ir", "add.py", "--stage", "thread", *SIGNATURE)
    assert thread.code == 0
    assert thread.out.startswith("thread kernel add grid (")
    assert kt("ir", "add.py", "--kernel", "nope").code == 2
    assert kt("ir", "missing.py").code == 2


def test_targets(folder: Path) -> None:
    table = json.loads(kt("targets", "--json").out)
    assert {"triton", "pallas", "metal"} <= set(table)
    for target in table.values():
        assert {"ops", "dtypes", "features"} <= set(target)
    assert "f16" in table["triton"]["dtypes"]
    assert "f64" not in table["metal"]["dtypes"]
    text = kt("targets").out
    assert text.startswith("triton\n")
    assert max(map(len, text.splitlines())) <= 100


def test_help_and_version(folder: Path) -> None:
    assert "build" in kt("--help").out
    for command in ("build", "run", "verify", "ir", "targets"):
        assert kt(command, "--help").code == 0
    assert kt("--version").out.strip().endswith("0.1.0")
    assert kt("bulid").code == 2
    assert kt_process("--version").code == 0
