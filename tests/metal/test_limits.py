"""Kernels that do not fit: what, how much, and what would make them fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kt_command import kt

HEAD = "import helion\nimport helion.language as hl\nimport torch\n\n\n@helion.kernel()\n"
REGISTERS = """
def k(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for a, b in hl.tile(x.size(), block_size=[1024, 1024]):
        out[a, b] = x[a, b] - x[a, b].amax(0)[None, :]
    return out
"""
SHARED = """
def k(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for a in hl.tile(x.size(0), block_size=64):
        acc = hl.zeros([a, x.size(1)], dtype=torch.float32)
        for b in hl.tile(y.size(0), block_size=128):
            s = x[a, :] @ y[b, :].T
            acc = acc + torch.relu(s).to(x.dtype) @ v[b, :]
        out[a, :] = acc.to(x.dtype)
    return out
"""
SIMPLE = """
def k(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for a in hl.tile(x.size(0)):
        out[a] = {value}
    return out
"""
PTX = (
    "hl.inline_asm_elementwise('mov.u32 $0, $1;', '=r,r', [x[a]], dtype=torch.int32, "
    "is_pure=True, pack=1)"
)


def failed(folder: Path, source: str, *options: str) -> str:
    """What is printed of a build that must fail, on one line."""
    (folder / "k.py").write_text(HEAD + source.lstrip())
    done = kt("build", str(folder / "k.py"), "-t", "metal", "-o", str(folder / "out"), *options)
    assert done.code == 3, done.err
    return " ".join(done.err.split())


@pytest.mark.parametrize(
    ("source", "arguments", "code", "how_much"),
    [
        (REGISTERS, ["x=f32[M,N]"], "KT0605", "would hold 1024 elements, more than 256"),
        (SHARED, ["x=f16[M,128]", "y=f16[N,128]", "v=f16[N,128]"], "KT0606", "has 32768"),
    ],
)
def test_the_largest_blocks_that_fit(source, arguments, code, how_much, tmp_path: Path) -> None:
    options = [o for a in arguments for o in ("--arg", a)]
    text = failed(tmp_path, source, *options)
    assert code in text
    assert how_much in text
    found = re.search(r"block sizes of ([\d, ]+) \(in the order of the source\) fit", text)
    assert found, text
    sizes = found[1].split(", ")
    given = iter(sizes)
    smaller = re.sub(
        r"block_size=(\[[\d, ]+\]|\d+)",
        lambda m: "block_size=" + re.sub(r"\d+", lambda _: next(given), m[1]),
        source,
    )
    (tmp_path / "k.py").write_text(HEAD + smaller.lstrip())
    done = kt("build", str(tmp_path / "k.py"), "-t", "metal", "-o", str(tmp_path / "o"), *options)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("value", "signature", "expected"),
    [
        ("x[a] * 2", "x=f64[N]", "KT0610: f64 does not exist on Metal.*convert to float32"),
        ("hl.atomic_add(x, [a], 1)", "x=i64[N]", "KT0602: atomic add on i64 .*f32 or i32 tensor"),
        (PTX, "x=i32[N]", "KT0602: inline PTX is not supported.*torch operations"),
        (
            'hl.atomic_add(x, [a], 1, sem="acq_rel")', "x=i32[N]",
            "KT0602: an atomic operation with acq_rel ordering.*relaxed.*hl.barrier",
        ),
    ],
)  # fmt: skip
def test_what_metal_lacks(value: str, signature: str, expected: str, tmp_path: Path) -> None:
    text = failed(tmp_path, SIMPLE.format(value=value), "--arg", signature)
    assert re.search(expected, text), text


def test_families_of_gpus(tmp_path: Path) -> None:
    source, options = (
        SIMPLE.format(value="x[a]").replace(
            "return", "    hl.atomic_max(out, [a], x[a])\n    return"
        ),
        ["--arg", "x=u64[N]"],
    )
    text = failed(tmp_path, source, *options)
    assert "KT0615: Apple7 (M1, A14) has no minimum and maximum of 64-bit integers" in text
    assert "without --arch kernels are built for all GPUs" in text
    assert "build with --arch apple9" in text
    assert "KT0615: Apple8 (M2" in failed(tmp_path, source, "--arch", "apple8", *options)
    command = ("build", str(tmp_path / "k.py"), "-t", "metal", "-o", str(tmp_path / "o"))
    assert kt(*command, "--arch", "apple9", *options).code == 0
    metal = (tmp_path / "o" / "k.metal").read_text()
    assert "// Metal 3.0 (macOS 13, iOS 16), Apple9 (M3, M4, A17 Pro) or later\n" in metal
    assert (
        "atomic_max_explicit((device atomic_ulong*)(out + x_0)" in metal or "atomic_ulong" in metal
    )


@pytest.mark.parametrize(
    ("dtype", "version"), [("f32", "3.0 (macOS 13"), ("bf16", "3.1 (macOS 14")]
)
def test_the_header_says_which_language_and_gpu(dtype: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "k.py").write_text(HEAD + SIMPLE.format(value="x[a] * 2").lstrip())
    command = ("build", str(tmp_path / "k.py"), "-t", "metal", "-o", str(tmp_path / "o"))
    assert kt(*command, "--arch", "metal3", "--arg", f"x={dtype}[N]").code == 0
    assert f"// Metal {version}, " in (tmp_path / "o" / "k.metal").read_text()


def test_targets_list_the_families() -> None:
    assert "apple9: M3, M4, A17 Pro, 1024 threads, 32 KB" in " ".join(kt("targets").out.split())
