"""Bugs planted into what kt generates fail the check of `kt verify` on some shape."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from transpile import build as pipeline
from transpile import proofs
from transpile.build import BuildOptions
from transpile.emitters import TARGETS
from transpile.verify import numerics, pallas
from transpile.verify.jobs import KernelJob

SIGNATURES = {
    "matmul": {"x": "bf16[M,K]", "y": "bf16[K,N]"},
    "scale": {"x": "f32[M,N]", "factor": "f32"},
    "row_sum": {"x": "f32[M,N]"},
    "column_sum": {"x": "f32[M,N]"},
    "segment_sum": {"x": "f32[L,D]", "offsets": "i32[S]"},
}
SIZES = {
    "matmul": {"M": 140, "N": 37, "K": 300},
    "scale": {"M": 520, "N": 37},
    "row_sum": {"M": 20, "N": 200},
    "column_sum": {"M": 200, "N": 200},
    "segment_sum": {"L": 100, "D": 37, "S": 6},
}
OFFSETS = (0, 16, 16, 40, 77, 100)


class Bug(NamedTuple):
    """``pattern`` becomes ``new`` in the code of one kernel."""

    kernel: str
    pattern: str
    new: str


BUGS = {
    "accumulator not cleared": Bug("matmul", r"pl\.when\(pid_k == 0\)", "pl.when(pid_k == 9)"),
    "result never written": Bug("matmul", r"pl\.num_programs\(2\) - 1", "pl.num_programs(2)"),
    "operand not masked": Bug("matmul", r"_mask_tail\(x_ref\[\.\.\.\], [^)]*\)", "x_ref[...]"),
    "block index past the array": Bug("matmul", r"lambda (.*): \(i, k\)", r"lambda \1: (i, k + 1)"),
    "blocks of the wrong axis": Bug("matmul", r"lambda (.*): \(k, j\)", r"lambda \1: (j, k)"),
    "accumulation along a parallel axis": Bug("matmul", '"arbitrary"', '"parallel"'),
    "sum not masked": Bug("row_sum", r"_mask_tail\((x_ref\[.*?\)\]), 1, start_n, n, 0\.0\)", r"\1"),
    "a block too few": Bug("row_sum", r"pl\.cdiv\(n, 128\), body", "n // 128, body"),
    "atomics along a parallel axis": Bug("column_sum", '"arbitrary"', '"parallel"'),
    "atomics without what was there": Bug("column_sum", r"pid_m == 0", "pid_m == 9"),
    "output block visited again": Bug(
        "column_sum", r"out_specs=(.*)lambda i, j: \(i,\)", r"out_specs=\1lambda i, j: (j % 2,)"
    ),
    "copy past the end": Bug("segment_sum", r"    x = jnp\.pad\(x, .*\n", ""),
    "copy not waited for": Bug("segment_sum", r"copy_x\(j, slot\)\.wait\(\)", "pass"),
    "next copy not started": Bug("segment_sum", r"copy_x\(j \+ 1, .*\.start\(\)", "pass"),
    "first copy not started": Bug("segment_sum", r"copy_x\(0, 0\)\.start\(\)", "pass"),
    "copy started for an empty segment": Bug("segment_sum", r"pl\.when\(blocks > 0", "pl.when(blocks > -1"),
    "copy into the buffer that is read": Bug(
        "segment_sum", r"copy_x\(j \+ 1, 1 - slot\)", "copy_x(j + 1, slot)"
    ),
    "other buffer read": Bug("segment_sum", r"x_buffer\[slot\]", "x_buffer[1 - slot]"),
    "one semaphore for both buffers": Bug("segment_sum", r"x_sems\.at\[slot\]", "x_sems.at[0]"),
    "copy begun past the last block": Bug("segment_sum", r"j \+ 1 < blocks", "j < blocks"),
    "rows before the segment not masked": Bug(
        "segment_sum", r"start = (offsets_ref\[\w+\])", r"start = \1 // 16 * 16"
    ),
    "start not aligned down": Bug(
        "segment_sum", r"\(start // 16\) \* 16", "start // 16 * 16 + 16"
    ),
    "in place, from the block before": Bug(
        "scale", r"lambda i: \(i, 0\)\),\n(\s+)pl\.BlockSpec\(mem",
        r"lambda i: (jnp.maximum(i - 1, 0), 0)),\n\1pl.BlockSpec(mem",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def generated(
    jax: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, KernelJob]]:
    """The generated module of each kernel, and what to prove of it."""
    from transpile.verify import pallas_modes

    pallas_modes.prepare()
    source = Path(__file__).parent / "kernels.py"
    found = {}
    for name, args in SIGNATURES.items():
        options = BuildOptions(("pallas",), kernels=(name,), args=args)
        loaded = pipeline.load(str(source), options)
        folder = tmp_path_factory.mktemp(name)
        module = proofs._generate(loaded, TARGETS["pallas"], options, str(folder))
        job = proofs.kernel_job(loaded.kernels[0], loaded.project, TARGETS["pallas"])
        job = dataclasses.replace(job, shapes=(SIZES[name],))
        found[name] = Path(module).read_text(), job
    return found


def problems(folder: Path, text: str, job: KernelJob, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import torch

    from transpile.verify import inputs

    original = inputs.make_arguments

    def with_offsets(job: KernelJob, index: int) -> dict[str, Any]:
        made = original(job, index)
        if "offsets" in made:
            made["offsets"] = torch.tensor(OFFSETS, dtype=torch.int32)
        return made

    monkeypatch.setattr(inputs, "make_arguments", with_offsets)
    shim = Path(__file__).parents[2] / "runtime_shims" / "_kt_pallas.py"
    (folder / "_kt_pallas.py").write_text(shim.read_text())
    path = folder / f"broken_{abs(hash(text))}.py"
    path.write_text(text)
    try:
        return pallas.check_shape(numerics.load_module(str(path)), job, 0)
    except Exception as exc:  # noqa: BLE001 - that counts as found
        return [numerics.describe(exc)]


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generated: Any, name: str
) -> None:
    bug = BUGS[name]
    text, job = generated[bug.kernel]
    broken, count = re.subn(bug.pattern, bug.new, text)
    assert count, f"nothing to break in\n{text}"
    found = problems(tmp_path, broken, job, monkeypatch)
    assert found, "nothing noticed"


@pytest.mark.parametrize("kernel", SIGNATURES)
def test_sound_code_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generated: Any, kernel: str
) -> None:
    assert problems(tmp_path, *generated[kernel], monkeypatch) == []
