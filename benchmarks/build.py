"""What `kt build` costs: a cold start against its libraries' import, a hundred files, peak memory.

    python benchmarks/build.py

Processor time, medians of several runs, so that a busy machine changes little.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

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


def cold_start(folder: Path) -> None:
    """At most 2.0 times what importing the three libraries takes is the aim."""
    build = ("build", str(ROOT / "examples" / "matmul.py"), "-t", "triton", "-o", str(folder))
    measure("-c", KT, *build)  # writes the byte code
    pairs = [(measure("-c", KT, *build)[0], measure("-c", LIBRARIES)[0]) for _ in range(9)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"cold start {ours:.3f} s, imports {theirs:.3f} s, ratio {ours / theirs:.2f}")


def hundred_files(folder: Path) -> None:
    """In one call; 10 s and 150 MB are the aims, and cost linear in the number of files."""
    sources = sorted((ROOT / "examples").glob("*.py"))
    files = [folder / f"kernel_{i}.py" for i in range(100)]
    for i, file in enumerate(files):
        file.write_text(sources[i % len(sources)].read_text())
    (folder / "kt.toml").write_text((ROOT / "examples" / "kt.toml").read_text())
    options = ("-t", "triton", "-o", str(folder / "gen"))
    half, _ = measure("-c", KT, "build", *map(str, files[:50]), *options)
    seconds, peak = measure("-c", KT, "build", *map(str, files), *options)
    print(f"100 files {seconds:.2f} s, 50 files {half:.2f} s, peak {peak / 1024:.0f} MiB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        cold_start(Path(made))
        hundred_files(Path(made))
