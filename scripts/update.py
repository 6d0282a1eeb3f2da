"""Rewrites everything in the repository that is made from something else in it: golden/, the table
of diagnostics, and the sample in the README. The tests say when it is due."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = re.compile(
    r"(```python\n)(?P<source>.*?)(\n```.*?```python\n)(?P<generated>.*?)(\n```)",
    re.DOTALL,
)


def kt(*args: str) -> None:
    code = "from transpile.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, check=True)


def readme() -> None:
    path = ROOT / "README.md"
    found = SAMPLE.search(path.read_text())
    assert found is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "matmul.py"
        source.write_text(found["source"] + "\n")
        signature = ("--arg", "x=f16[M,K]", "--arg", "y=f16[K,N]")
        kt("build", str(source), "-t", "triton", "-o", folder, *signature)
        text = (Path(folder) / "matmul_triton.py").read_text()
    generated = text[text.index("@triton.jit") :].rstrip("\n")
    start, end = found.span("generated")
    whole = path.read_text()
    path.write_text(whole[:start] + generated + whole[end:])


def main() -> None:
    kt("build", "examples/*.py", "-t", "triton,metal,pallas", "-o", "golden")
    table = [sys.executable, "-m", "transpile.ir.diagnostics"]
    done = subprocess.run(table, cwd=ROOT, check=True, capture_output=True, text=True)
    (ROOT / "docs" / "diagnostics.md").write_text(done.stdout)
    readme()


if __name__ == "__main__":
    main()
