"""The Triton shim on a CPU: its repairs of Triton's interpreter, and launches through it.

The interpreter is chosen when triton is imported, so that these run in processes of their own.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
SHIMS = HERE.parents[1] / "runtime_shims"
CASES = re.findall(r"^def (case_\w+)", (HERE / "interpreter_cases.py").read_text(), re.MULTILINE)
FIXED_IN_3_7 = {"case_loop_bounds_of_run_time", "case_python_bools"}


def run(*arguments, env=None):
    """Standard output of a Python process that has no interpreter variables of ours."""
    clean = {k: v for k, v in os.environ.items() if k not in ("KT_INTERPRET", "TRITON_INTERPRET")}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=300, env=clean | (env or {}), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def results(*mode):
    return json.loads(run(str(HERE / "interpreter_cases.py"), *mode).splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_repaired(case):
    assert results("repaired")[case] is None


@pytest.mark.parametrize("case", CASES)
def test_the_repair_is_needed(case):
    """One that passes without its repair is to be dropped from the shim."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version > (3, 6) and case in FIXED_IN_3_7:
        pytest.skip("needed for triton 3.6")
    assert results()[case] is not None


LAUNCH = """
import sys
sys.path[:0] = [{shims!r}, {root!r}]
import _kt_triton as kt
import torch
from tests.shims import kernels

add = kt.Launcher(kernels.add_kernel, dict.fromkeys(("x", "y", "out"), "f32[N]"),
                  BLOCK=lambda args: 256 if args["n"] > 100 else 128, num_warps=4)
for n in (1000, 50, 1000):
    x, y = torch.randn(2, n)
    out = torch.full([n], float("nan"))
    add((-(-n // 128),), x, y, out, torch.tensor(n))
    assert torch.equal(out, x + y)

spec = "tma f16[M,64]"
double = kt.Launcher(kernels.double_kernel, dict(x=spec, out=spec), BLOCK_M=32)
x = torch.randn(100, 64).half()
out = torch.empty_like(x)
assert kt.tma_ok(x) and not kt.tma_ok(x[:, 1:])
double((kt.num_sms(x.device),), kt.descriptor(x, (32, 64)), kt.descriptor(out, (32, 64)), 100)
assert torch.equal(out, x * 2)

kt.set_allocator()
spec = "f16[M,64]"
kernel = kernels.double_on_device_kernel
double = kt.Launcher(kernel, dict(x=spec, out=spec), BLOCK_M=32, BLOCK_N=64)
double((4,), x, out, 100, 64)
assert torch.equal(out, x * 2)
try:
    add((4,), x, x, x, 5)
except kt.KtError as error:
    print(error)
"""


def test_launches_on_the_cpu():
    code = LAUNCH.format(shims=str(SHIMS), root=str(HERE.parents[1]))
    assert "x must be f32[N]" in run("-c", code, env={"KT_INTERPRET": "1"})


def test_the_shim_is_found_inside_a_package(tmp_path):
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for shim in ("_kt_triton.py", "_kt_triton_interpret.py"):
        (package / shim).write_text((SHIMS / shim).read_text())
    code = "import made._kt_triton as kt, sys; print(kt.INTERPRETING, sorted(sys.modules))"
    run_env = {"KT_INTERPRET": "1", "PYTHONPATH": str(tmp_path)}
    out = run("-c", code, env=run_env)
    assert out.startswith("True")
    assert "'made._kt_triton_interpret'" in out
    assert "'_kt_triton_interpret'" not in out


def test_both_files_inlined_into_one(tmp_path):
    line = '    importlib.import_module(f"{__name__}_interpret")\n'
    shim = (SHIMS / "_kt_triton.py").read_text()
    repairs = (SHIMS / "_kt_triton_interpret.py").read_text()
    assert shim.endswith(line)
    (tmp_path / "made.py").write_text(shim.replace(line, textwrap.indent(repairs, "    ")))
    code = "import made as kt; print(kt.INTERPRETING, kt._Builder.kt_repaired)"
    for value, printed in (("1", "True True"), ("0", "")):
        env = {"KT_INTERPRET": value, "PYTHONPATH": str(tmp_path)}
        assert run("-c", code if value == "1" else "import made", env=env).strip() == printed


def test_without_the_variable_nothing_is_patched():
    code = f"import sys; sys.path.insert(0, {str(SHIMS)!r})\nimport _kt_triton as kt\n"
    out = run("-c", code + "print(kt.INTERPRETING, '_kt_triton_interpret' in sys.modules)")
    assert out.split() == ["False", "False"]


def test_importing_triton_first_is_refused():
    code = (
        f"import sys; sys.path.insert(0, {str(SHIMS)!r})\nimport triton\n"
        "try:\n    import _kt_triton\nexcept RuntimeError as error:\n    print(error)\n"
    )
    out = run("-c", code, env={"KT_INTERPRET": "1"})
    assert "import the generated module first" in out
