"""Generated Pallas modules as a linter and a reader see them."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
MODULES = sorted(p for p in GOLDEN.glob("*_pallas.py") if p.name != "_kt_pallas.py")


def test_ruff_finds_nothing() -> None:
    """pyflakes, isort, bugbear: unused imports, locals and unpacked names, order of imports."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    rules = "--select=F,E7,E9,W,I,B,RET501,PLW0127,RUF059"
    options = ["--isolated", "--line-length=100", "--output-format=concise", rules]
    command = [ruff, "check", *options, *map(str, MODULES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert not [line for line in done.stdout.split("\n") if "_pallas.py:" in line]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.stem)
def test_no_private_function_has_an_argument_that_it_does_not_read(module: Path) -> None:
    """The public functions keep the source's parameters; ours take what they need."""
    tree = ast.parse(module.read_text())
    unused = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("_"):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        unused += [f"{node.name}: {a.arg}" for a in arguments if a.arg not in read]
    assert not [u for u in unused if not u.endswith(": _")]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.stem)
def test_lines_have_at_most_100_columns(module: Path) -> None:
    """But for the first: it names the source file and its hash."""
    _, *lines = module.read_text().splitlines()
    assert not [line for line in lines if len(line) > 100]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.stem)
def test_every_function_is_called(module: Path) -> None:
    tree = ast.parse(module.read_text())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    private = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[0] == "_"]
    assert not [name for name in private if name not in names]
