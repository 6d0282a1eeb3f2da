"""`kt build`: what is written, what is compared, and what the exit code says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.kt_command import ADD, SIGNATURE, kt, kt_process, snapshot

BAD = ADD.replace("x[tile] + y[tile]", "torch.frobnicate(x[tile])")


@pytest.fixture
def add(tmp_path: Path) -> Path:
    source = tmp_path / "add.py"
    source.write_text(ADD)
    return source


def test_writes_module_and_shim(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    done = kt("build", add, "-t", "triton", "-o", out, *SIGNATURE)
    assert done.code == 0, done.err
    assert set(snapshot(out)) == {"add_triton.py", "_kt_triton.py"} | _extra_shims()
    assert str(out / "add_triton.py") in done.out.splitlines()
    text = (out / "add_triton.py").read_text()
    assert "def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:" in text
    assert str(tmp_path) not in text
    compile(text, "add_triton.py", "exec")


def _extra_shims() -> set[str]:
    from transpile.emitters import TARGETS

    return set(TARGETS["triton"].shims)


def test_default_directory(add: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kt("build", "add.py", "-t", "triton", *SIGNATURE).code == 0
    assert (tmp_path / "generated" / "add_triton.py").exists()


def test_inline_shim_is_one_file(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    assert kt("build", add, "-t", "triton", "-o", out, "--inline-shim", *SIGNATURE).code == 0
    assert set(snapshot(out)) == {"add_triton.py"}
    compile((out / "add_triton.py").read_text(), "add_triton.py", "exec")


def test_same_bytes_from_anywhere(add: Path, tmp_path: Path) -> None:
    """Neither the hash seed nor the directory, the locale or other files change a byte."""
    (tmp_path / "other.py").write_text(ADD.replace("def add", "def other"))
    runs = [
        (("add.py",), tmp_path, {"PYTHONHASHSEED": "0"}),
        ((str(add),), Path("/"), {"PYTHONHASHSEED": "77", "LC_ALL": "C"}),
        (("other.py", "./add.py"), tmp_path, {"PYTHONHASHSEED": "3"}),
    ]
    texts = set()
    for i, (files, cwd, env) in enumerate(runs):
        out = tmp_path / f"gen{i}"
        done = kt_process("build", *files, "-t", "triton", "-o", out, *SIGNATURE, cwd=cwd, env=env)
        assert done.code == 0, done.err
        texts.add((out / "add_triton.py").read_bytes())
    assert len(texts) == 1


def test_check(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    command = ("build", add, "-t", "triton", "-o", out, *SIGNATURE)
    missing = kt(*command, "--check")
    assert missing.code == 1
    assert "--- /dev/null" in missing.out
    assert not out.exists()
    kt(*command)
    fresh = kt(*command, "--check")
    assert (fresh.code, fresh.out) == (0, "")
    generated = out / "add_triton.py"
    generated.write_text(generated.read_text().replace("import torch\n", "import  torch\n"))
    before = snapshot(out)
    stale = kt(*command, "--check")
    assert stale.code == 1
    assert "-import  torch\n+import torch\n" in stale.out
    assert kt(*command, "--diff").code == 0
    assert kt(*command, "--diff").out == stale.out
    assert snapshot(out) == before
    (out / "unrelated.txt").write_text("not kt's")
    generated.write_text(generated.read_text().replace("import  torch", "import torch"))
    assert kt(*command, "--check").code == 0


def test_check_shows_a_lost_final_newline(add: Path, tmp_path: Path) -> None:
    command = ("build", add, "-t", "triton", "-o", tmp_path / "gen", *SIGNATURE)
    kt(*command)
    generated = tmp_path / "gen" / "add_triton.py"
    generated.write_bytes(generated.read_bytes().rstrip(b"\n"))
    done = kt(*command, "--check")
    assert done.code == 1
    assert "\\ No newline at end of file" in done.out


def test_check_and_diff_exclude_each_other(add: Path) -> None:
    assert kt("build", add, "-t", "triton", "--check", "--diff").code == 2


def test_nothing_is_written_on_error(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    command = ("build", add, "-t", "triton", "-o", out, *SIGNATURE)
    kt(*command)
    before = snapshot(out)
    good = tmp_path / "good.py"
    good.write_text(ADD)
    add.write_text(BAD)
    done = kt(*command, good, "--depfile", tmp_path / "deps.d")
    assert done.code == 3
    assert snapshot(out) == before
    assert not (tmp_path / "deps.d").exists()


def test_keep_going_writes_what_is_fine(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "good.py").write_text(ADD)
    mixed = ADD + "\n\n" + BAD[BAD.index("@helion") :].replace("def add", "def broken")
    (tmp_path / "mixed.py").write_text(mixed)
    files = [tmp_path / f"{name}.py" for name in ("bad", "good", "mixed")]
    out = tmp_path / "gen"
    done = kt("build", *files, "-t", "triton", "-o", out, "--keep-going", *SIGNATURE)
    assert done.code == 3
    assert "bad.py:12:" in done.err
    assert "mixed.py:" in done.err
    written = snapshot(out)
    assert {"good_triton.py", "mixed_triton.py"} <= set(written)
    assert "bad_triton.py" not in written
    assert b"def add(" in written["mixed_triton.py"]
    assert b"broken" not in written["mixed_triton.py"]


def test_failing_write_leaves_old_files_whole(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    command = ("build", add, "-t", "triton", "-o", out, *SIGNATURE)
    kt(*command)
    (out / "_kt_triton.py").unlink()
    (out / "_kt_triton.py").mkdir()
    before = snapshot(out)
    add.write_text(ADD.replace("+ y", "- y"))
    done = kt(*command)
    assert done.code == 2
    assert "KT0008" in done.err
    assert snapshot(out) == before  # no temporary files either


def test_output_is_a_file(add: Path, tmp_path: Path) -> None:
    (tmp_path / "gen").write_text("")
    done = kt("build", add, "-t", "triton", "-o", tmp_path / "gen", *SIGNATURE)
    assert done.code == 2
    assert "KT0008" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_not_writable(add: Path, tmp_path: Path) -> None:
    (tmp_path / "gen").mkdir(mode=0o500)
    done = kt("build", add, "-t", "triton", "-o", tmp_path / "gen", *SIGNATURE)
    assert (done.code, "KT0008" in done.err) == (2, True)


def test_symbolic_link_in_output_is_replaced_not_followed(add: Path, tmp_path: Path) -> None:
    out, outside = tmp_path / "gen", tmp_path / "outside.txt"
    out.mkdir()
    outside.write_text("precious")
    (out / "add_triton.py").symlink_to(outside)
    assert kt("build", add, "-t", "triton", "-o", out, *SIGNATURE).code == 0
    assert outside.read_text() == "precious"


def test_files_are_readable_by_others(add: Path, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        kt("build", add, "-t", "triton", "-o", tmp_path / "gen", *SIGNATURE)
    finally:
        os.umask(umask)
    assert (tmp_path / "gen" / "add_triton.py").stat().st_mode & 0o777 == 0o644


def test_output_never_replaces_an_input(add: Path, tmp_path: Path) -> None:
    other = tmp_path / "add_triton.py"
    other.write_text(ADD)
    done = kt("build", add, other, "-t", "triton", "-o", tmp_path, *SIGNATURE)
    assert done.code == 2
    assert "KT0007" in done.err
    assert other.read_text() == ADD


def test_json_report(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    done = kt("build", add, "-t", "triton", "-o", out, "--json", *SIGNATURE)
    report = json.loads(done.out)
    (file,) = report["files"]
    assert file["source"] == str(add)
    assert file["kernels"] == [{"name": "add", "signature": "x=f32[N], y=f32[N]"}]
    assert file["outputs"] == [str(out / "add_triton.py")]
    assert str(out / "_kt_triton.py") in report["written"]
    add.write_text(BAD)
    done = kt("build", add, "-t", "triton", "-o", out, "--json", *SIGNATURE)
    assert done.code == 3
    (diagnostic,) = json.loads(done.out)["diagnostics"]
    assert (diagnostic["file"], diagnostic["line"]) == (str(add), 12)
    assert diagnostic["severity"] == "error"
    assert diagnostic["code"] in done.err


def test_depfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b").mkdir()
    Path("a b/add.py").write_text(ADD)
    Path("kt.toml").write_text('[kernels.add]\nsignatures = [{ x = "f16[N]", y = "f16[N]" }]\n')
    Path("config.json").write_text('{"num_warps": 2}')
    command = ("build", "a b/add.py", "-t", "triton", "-o", "out dir", "--depfile", "deps.d")
    done = kt(*command, "--config", "@config.json")
    assert done.code == 0, done.err
    target, _, sources = Path("deps.d").read_text().replace("\\\n", "").partition(":")
    assert target == "out\\ dir/add_triton.py"
    assert sources == "   a\\ b/add.py   kt.toml   config.json\n"


def test_globs_are_expanded_and_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a", "c[1]"):
        Path(f"{name}.py").write_text(ADD)
    done = kt("build", "*.py", "./a.py", "-t", "triton", "-o", "gen", "--json", *SIGNATURE)
    sources = [file["source"] for file in json.loads(done.out)["files"]]
    assert sources == ["a.py", "b.py", "c[1].py"]
    # a file whose name looks like a pattern is a file
    assert kt("build", "c[1].py", "-t", "triton", "-o", "gen2", *SIGNATURE).code == 0
    assert kt("build", "*.pyx", "-t", "triton").code == 2


def test_kernel_selects(tmp_path: Path) -> None:
    source = tmp_path / "two.py"
    source.write_text(ADD + "\n\n" + ADD[ADD.index("@helion") :].replace("def add", "def second"))
    out = tmp_path / "gen"
    command = ("build", source, "-t", "triton", "-o", out, *SIGNATURE)
    assert kt(*command, "--kernel", "second").code == 0
    text = (out / "two_triton.py").read_text()
    assert "def second(" in text
    assert "def add(" not in text
    done = kt("build", source, "-t", "triton", "-o", out, "--kernel", "secnd")
    assert done.code == 2
    assert "KT0011" in done.err


def test_config_reaches_the_output(add: Path, tmp_path: Path) -> None:
    out = tmp_path / "gen"
    command = ("build", add, "-t", "triton", "-o", out, *SIGNATURE)
    assert kt(*command, "--config", '{"block_sizes": [512], "num_warps": 2}').code == 0
    text = (out / "add_triton.py").read_text()
    assert "512" in text
    assert "num_warps=2" in text


def test_assumed_signature_is_a_note(add: Path, tmp_path: Path) -> None:
    done = kt("build", add, "-t", "triton", "-o", tmp_path / "gen")
    assert done.code == 0
    assert "note KT0208" in done.err
    assert "--arg" in done.err


USAGE = [
    ((), "FILE"),
    (("add.py",), "--target"),
    (("add.py", "-t", "cuda"), "KT0005: unknown target"),
    (("add.py", "-t", "triton,,cute"), "KT0005: unknown target"),
    (("add.py", "-t", "triton", "--arg", "x"), "KT0005: 'x' is not NAME=SPEC"),
    (("add.py", "-t", "triton", "--arg", "1x=f32"), "KT0005"),
    (("add.py", "-t", "triton", "--set", "=1"), "KT0005: '=1' is not NAME=VALUE"),
    (("add.py", "-t", "triton", "--arg", "x=f32", "--arg", "x=f16"), "KT0006"),
    (("add.py", "-t", "triton", "--config", "{"), "KT0009: not JSON"),
    (("add.py", "-t", "triton", "--config", "[1]"), "KT0009: not a JSON object"),
    (("add.py", "-t", "triton", "--config", '{"a": 1, "a": 2}'), "'a' is given twice"),
    (("add.py", "-t", "triton", "--config", "@missing.json"), "KT0009: cannot read"),
    (("add.py", "-t", "triton", "--arch", "sm_12"), "KT0010"),
    (("missing.py", "-t", "triton"), "KT0001"),
    ((".", "-t", "triton"), "KT0002"),
]


@pytest.mark.parametrize(("args", "word"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_wrong_usage(
    args: tuple[str, ...], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("add.py").write_text(ADD)
    done = kt("build", *args)
    assert done.code == 2, done.err
    assert word in done.err
    assert "Traceback" not in done.err
    assert set(snapshot(tmp_path)) == {"add.py"}


@pytest.mark.parametrize("target", ["cute"])
def test_planned_target(add: Path, tmp_path: Path, target: str) -> None:
    done = kt("build", add, "-t", target, "-o", tmp_path / "gen")
    assert done.code == 3
    assert f"KT0601: target `{target}` is not available yet" in done.err


def test_internal_error_is_a_diagnostic(
    add: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transpile.frontend

    def crash(*_: object) -> None:
        raise ZeroDivisionError("the message\nmore")

    monkeypatch.setattr(transpile.frontend, "load", crash)
    done = kt("build", add, "-t", "triton", "-o", tmp_path / "gen")
    assert done.code == 3
    assert f"{add}: error KT0900: internal error: ZeroDivisionError: the message" in done.err
    assert "Traceback" not in done.err
    monkeypatch.setenv("KT_DEBUG", "1")
    assert "Traceback" in kt("build", add, "-t", "triton", "-o", tmp_path / "gen").err


def test_all_files_and_all_problems_in_one_run(tmp_path: Path) -> None:
    two = BAD.replace(
        "    return out",
        "    for tile in hl.tile(x.size(0)):\n        out[tile] = nope\n    return out",
    )
    (tmp_path / "a.py").write_text(BAD)
    (tmp_path / "b.py").write_text(two)
    (tmp_path / "c.py").write_text("def f(:\n")
    files = [tmp_path / f"{n}.py" for n in "abc"]
    done = kt("build", *files, "-t", "triton", "-o", tmp_path / "gen", *SIGNATURE)
    assert done.code == 3
    for place in ("a.py:12:", "b.py:12:", "c.py:1:"):
        assert place in done.err


def test_odd_locale_can_print_any_source(tmp_path: Path) -> None:
    source = tmp_path / "add.py"
    source.write_text(BAD.replace("frobnicate(x[tile])", "frobnicate(x[tile])  # größer ≥ 😀"))
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    out = tmp_path / "gen"
    done = kt_process("build", source, "-t", "triton", "-o", out, *SIGNATURE, env=env)
    assert done.code == 3
    assert "Traceback" not in done.err
    source.write_text(ADD.replace("elementwise", "größer ≥ 😀"))
    done = kt_process("build", source, "-t", "triton", "-o", out, "--diff", *SIGNATURE, env=env)
    assert done.code == 0
    assert "Traceback" not in done.err
