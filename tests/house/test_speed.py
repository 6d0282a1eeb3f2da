"""The numbers that `kt build` promises. Processor time, so that a busy machine changes little."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from tests.kt_command import ROOT

KT = "from transpile.cli import main; main()"
LIBRARIES = "import libcst, click, jinja2"
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def measure(*command: str) -> tuple[float, int]:
    """Processor seconds and peak KiB of a Python process that runs ``command``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as where it is installed
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-P", *command],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    code, seconds, peak = json.loads(done.stdout)
    assert code == 0, done.stderr
    return seconds, peak


def test_cold_start(tmp_path: Path) -> None:
    """At most 2.0 times what importing the three libraries takes."""
    build = ("build", str(ROOT / "examples" / "matmul.py"), "-t", "triton", "-o", str(tmp_path))
    measure("-c", KT, *build)  # writes the byte code
    pairs = [(measure("-c", KT, *build)[0], measure("-c", LIBRARIES)[0]) for _ in range(9)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert ours <= 2.0 * theirs, f"{ours:.3f} s against {theirs:.3f} s"


def test_a_hundred_files(tmp_path: Path) -> None:
    """In one call under 10 s and 150 MB, and the cost of a file does not grow with their number."""
    sources = sorted((ROOT / "examples").glob("*.py"))
    files = []
    for i in range(100):
        text = sources[i % len(sources)].read_text()
        files.append(tmp_path / f"kernel_{i}.py")
        files[-1].write_text(text)
    (tmp_path / "kt.toml").write_text((ROOT / "examples" / "kt.toml").read_text())
    options = ("-t", "triton", "-o", str(tmp_path / "gen"))
    half, _ = measure("-c", KT, "build", *map(str, files[:50]), *options)
    seconds, peak = measure("-c", KT, "build", *map(str, files), *options)
    assert len(list((tmp_path / "gen").glob("*_triton.py"))) == 101
    assert seconds < 10, f"{seconds:.1f} s"
    assert seconds < 2.5 * half, f"{seconds:.1f} s for 100 files, {half:.1f} s for 50"
    assert peak < 150 * 1024, f"{peak / 1024:.0f} MiB"
