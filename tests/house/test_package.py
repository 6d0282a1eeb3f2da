"""What is installed works without the checkout: templates and shims are inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.kt_command import ADD, ROOT, SIGNATURE

pytest.importorskip("hatchling")


def build(what: str, source: Path, target: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(target)],
        cwd=source, check=True, capture_output=True,
    )  # fmt: skip
    (made,) = target.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {n for n in archive.namelist() if ".dist-info/" not in n}


def test_contents(wheel: Path) -> None:
    inside = names(wheel)
    for folder, where in (
        ("templates", "_data/templates"),
        ("runtime_shims", "_data/runtime_shims"),
    ):
        here = {
            p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        assert here
        assert {
            f"transpile/{where}/{p.relative_to(ROOT / folder).as_posix()}" for p in here
        } <= inside
    assert all(name.startswith("transpile/") for name in inside)
    assert not [name for name in inside if "__pycache__" in name or name.endswith(".pyc")]


def test_installed_wheel_builds(wheel: Path, tmp_path: Path) -> None:
    """The same bytes as the checkout, from a directory that knows nothing of it."""
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    (work / "add.py").write_text(ADD)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import transpile.cli as c, sys; assert c.__file__.startswith(sys.argv.pop(1)); c.main()"
    outputs = []
    for path in (site, ROOT):
        out = tmp_path / f"gen{len(outputs)}"
        command = ["build", "add.py", "-t", "triton", "-o", str(out), *SIGNATURE]
        subprocess.run(
            [sys.executable, "-P", "-c", code, str(path), *command],
            cwd=work, env={**os.environ, "PYTHONPATH": str(path)}, check=True,
        )  # fmt: skip
        outputs.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert outputs[0] == outputs[1]
    assert "_kt_triton.py" in outputs[0]


def test_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
        members = opened.getnames()
    (unpacked,) = (p for p in tmp_path.iterdir() if p.name.startswith("kt-"))
    assert names(build("wheel", unpacked, tmp_path / "again")) == names(wheel)
    tops = {name.split("/")[1] for name in members if "/" in name}
    assert {"transpile", "templates", "runtime_shims", "tests", "examples", "README.md"} <= tops


def test_core_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {requirement.partition(">")[0] for requirement in project["dependencies"]}
    assert core == {"libcst", "click", "jinja2"}
    extras = {"triton", "pallas", "cute", "metal", "test", "dev"}
    assert set(project["optional-dependencies"]) == extras
