"""The README's sample is what kt writes (scripts/update.py rewrites it), and its commands are the ones that run."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.kt_command import ROOT, kt

README = (ROOT / "README.md").read_text()


def test_sample_is_current(tmp_path: Path) -> None:
    source, generated = re.findall(r"```python\n(.*?)\n```", README, re.DOTALL)
    (tmp_path / "matmul.py").write_text(source + "\n")
    args = ("--arg", "x=f16[M,K]", "--arg", "y=f16[K,N]")
    done = kt("build", tmp_path / "matmul.py", "-t", "triton", "-o", tmp_path, *args)
    assert done.code == 0, done.err
    text = (tmp_path / "matmul_triton.py").read_text()
    assert text[text.index("@triton.jit") :].rstrip("\n") == generated


def test_main_command_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "kt build examples/matmul.py -t triton -o generated"
    assert f"pip install -e . && {command}\n" in README
    monkeypatch.chdir(ROOT)
    done = kt(*command.replace("generated", str(tmp_path)).split()[1:])
    assert done.code == 0, done.err


def test_test_command_is_what_ci_runs() -> None:
    assert 'pip install -e ".[triton,pallas,metal,test,dev]" && scripts/test.sh' in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "scripts/test.sh" in ci
    assert '-e ".[triton,pallas,metal,test,dev]"' in ci


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_described() -> None:
    from transpile.cli import cli

    assert isinstance(cli, click.Group)
    for name in cli.commands:
        assert f"`kt {name}" in README


def test_nothing_of_a_machine_is_in_the_repository() -> None:
    """No absolute paths of a developer's or registry hosts in what is checked in."""
    pattern = re.compile(r"(/home/\w|/Users/\w|/root/|/work/|pypi\.org|file://|localhost[:/])")
    folders = ("transpile", "templates", "runtime_shims", "examples", "golden", "docs", "scripts")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            cached = any(
                part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts
            )
            if path.is_file() and not cached:
                assert not pattern.search(path.read_text(errors="replace")), path
