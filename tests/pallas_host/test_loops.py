"""Loops over tiles in each form: by config, in both interpreters, on ragged shapes and data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from transpile import build as pipeline
from transpile import proofs
from transpile.build import BuildOptions
from transpile.emitters import TARGETS
from transpile.verify import inputs, numerics, pallas

SOURCE = Path(__file__).parent / "loops.py"
FORMS = ("", "unroll", "fori_loop", "emit_pipeline")

#: signature, sizes that blocks divide, that they do not divide, and that are less than one block
KERNELS: dict[str, tuple[dict[str, str], list[dict[str, int]]]] = {
    "matmul": (
        {"x": "bf16[M,K]", "y": "bf16[K,N]"},
        [{"M": 140, "K": 300, "N": 37}, {"M": 32, "K": 512, "N": 128}],
    ),
    "prefix_product": ({"x": "f32[T,D]", "y": "f32[T,D]"}, [{"T": 300, "D": 37}]),
    "segment_sum": (
        {"x": "f32[L,D]", "offsets": "i32[S]"},
        [{"L": 100, "D": 37, "S": 6}, {"L": 100, "D": 300, "S": 6}],
    ),
    "normalised": ({"x": "f32[M,N]"}, [{"M": 20, "N": 700}, {"M": 40, "N": 512}]),
    "batched": ({"x": "bf16[B,H,T,D]", "lengths": "i32[B]"}, [{"B": 3, "H": 2, "T": 70, "D": 24}]),
}
DATA = {"offsets": (0, 5, 5, 40, 77, 100), "lengths": (70, 0, 17)}
#: what only one form writes
SPELLINGS = {
    "fori_loop": "pltpu.make_async_copy",
    "emit_pipeline": "pltpu.emit_pipeline",
}


def module_of(
    folder: Path, name: str, args: dict[str, str], form: str, **config: Any
) -> tuple[Any, Any]:
    """The generated module, and what `kt verify` would prove of it."""
    chosen = {**config, **({"pallas_loop_type": form} if form else {})}
    options = BuildOptions(("pallas",), kernels=(name,), args=args, config=chosen or None)
    loaded = pipeline.load(str(SOURCE), options)
    path = proofs._generate(loaded, TARGETS["pallas"], options, str(folder))
    job = proofs.kernel_job(loaded.kernels[0], loaded.project, TARGETS["pallas"])
    return numerics.load_module(path), job


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets and lengths with empty, short and long entries."""
    import torch

    original = inputs.make_arguments

    def made(job: Any, index: int) -> dict[str, Any]:
        found = original(job, index)
        given = {n: torch.tensor(v, dtype=torch.int32) for n, v in DATA.items() if n in found}
        return found | given

    monkeypatch.setattr(inputs, "make_arguments", made)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_form_computes_the_same(
    jax: Any, tmp_path: Path, data: None, kernel: str, form: str
) -> None:
    from transpile.verify import pallas_modes

    pallas_modes.prepare()
    args, shapes = KERNELS[kernel]
    module, job = module_of(tmp_path, kernel, args, form)
    text = Path(module.__file__).read_text()
    for asked, spelling in SPELLINGS.items():
        if form:
            assert (spelling in text) == (asked == form)
    job = dataclasses.replace(job, shapes=tuple(shapes))
    for index in range(len(shapes)):
        assert pallas.check_shape(module, job, index) == []
