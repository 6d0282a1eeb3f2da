"""What a build imports, and what it must never."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kt_command import ADD, ROOT

HEAVY = ("torch", "triton", "numpy", "jax", "cutlass", "helion", "tilelang", "safetensors")
NOT_NEEDED = (
    "libcst.codemod", "libcst.tool", "ast", "json", "multiprocessing", "transpile.proofs",
    "transpile.verify", "transpile.ir.interpreter", "transpile.ir.reference",
)  # fmt: skip

CODE = """
import sys
from transpile.cli import cli
try:
    cli(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 0, stop.code
print(*sorted(sys.modules))
"""


def modules_of_a_build(tmp_path: Path) -> set[str]:
    source = tmp_path / "add.py"
    source.write_text(ADD)
    command = ["build", str(source), "-t", "triton", "-o", str(tmp_path / "gen")]
    arguments = ["--arg", "x=f32[N]", "--arg", "y=f32[N]"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command, *arguments],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_build_imports_the_three_dependencies_only(tmp_path: Path) -> None:
    modules = modules_of_a_build(tmp_path)
    tops = {name.partition(".")[0] for name in modules}
    assert not tops & set(HEAVY)
    installed = tops - set(sys.stdlib_module_names) - {"__main__", "transpile"}
    allowed = {"libcst", "click", "jinja2", "markupsafe", "yaml", "typing_extensions"}
    mypyc_or_site = {t for t in installed if t.startswith("_") or t in ("sitecustomize", "mypy")}
    assert installed - allowed - mypyc_or_site == set()


def test_build_imports_nothing_of_other_commands(tmp_path: Path) -> None:
    modules = modules_of_a_build(tmp_path)
    baseline = subprocess.run(
        [sys.executable, "-c", "import sys, libcst, click, jinja2\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (modules & set(NOT_NEEDED)) - set(baseline.stdout.split()) == set()


def test_importing_the_package_is_light() -> None:
    code = "import sys, transpile\nassert not any(m.startswith('libcst') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
