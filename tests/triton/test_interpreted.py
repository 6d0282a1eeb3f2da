"""Runs interpreted.py under Triton's interpreter, which a process has from the start or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kt_command import ROOT

pytest.importorskip("torch")
pytest.importorskip("triton")


def test_random_programs_agree() -> None:
    path = Path(__file__).with_name("interpreted.py")
    environment = {**os.environ, "KT_INTERPRET": "1", "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            str(path),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
