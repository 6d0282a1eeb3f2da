"""Running kt in a test: in this process for speed, or in a new one where that is the point."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent

ADD = '''\
import torch

import helion
import helion.language as hl


@helion.kernel()
def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y, elementwise."""
    out = torch.empty_like(x)
    for tile in hl.tile(x.size(0)):
        out[tile] = x[tile] + y[tile]
    return out
'''

SIGNATURE = ("--arg", "x=f32[N]", "--arg", "y=f32[N]")


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def kt(*args: str | Path) -> Outcome:
    """Run a kt command in this process."""
    from transpile.cli import cli

    result = CliRunner().invoke(cli, [str(a) for a in args], prog_name="kt")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def kt_process(
    *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Outcome:
    """Run a kt command in a process of its own."""
    code = "from transpile.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, args)],
        capture_output=True, text=True, cwd=cwd, env=environment, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
