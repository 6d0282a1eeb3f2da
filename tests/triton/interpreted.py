"""Random tile programs: the generated Triton, run by its interpreter, agrees with ours.

Not collected by itself: test_interpreted.py runs it in a process of its own with KT_INTERPRET=1,
since Triton reads its switch once, at import.
"""

# ruff: noqa: E402

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

assert os.environ.get("KT_INTERPRET") == "1", "run through test_interpreted.py"

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "runtime_shims"))

from tests.passes.programs import Program, agree, programs
from tests.triton.generate import build, module
from transpile.ir.sizes import Size
from transpile.ir.verifier import verify
from transpile.passes.pipeline import prepare
from transpile.passes.schedule import resolve

_numbers = itertools.count()
_folder = tempfile.mkdtemp()


def imported(text: str) -> ModuleType:
    """The generated module."""
    name = f"kernel_{next(_numbers)}"
    path = Path(_folder, f"{name}.py")
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    return generated


def run(text: str, program: Program) -> torch.Tensor:
    """``out`` after the generated function ran on the program's inputs."""
    tensors = inputs(program)
    getattr(imported(text), program.kernel.name)(*(tensors[t.name] for t in program.kernel.tensors))
    return tensors["out"]


def inputs(program: Program) -> dict[str, torch.Tensor]:
    """The tensors that ``Program.run`` makes."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for tensor in program.kernel.tensors:
        shape = [size.evaluate(program.sizes) for size in tensor.shape]
        whole = torch.randint(-3, 4, shape, generator=generator)
        tensors[tensor.name] = whole.to(getattr(torch, tensor.dtype.torch))
    return tensors


def configured(program: Program, **config: Any) -> Program:
    """The program with its block sizes as the config."""
    blocks = [program.blocks[b.sym] for b in program.kernel.blocks]
    program.kernel.config = {"block_sizes": blocks, **config}
    program.kernel.size_names = tuple((Size.of(s), str(n)) for s, n in program.sizes.items())
    return program


CONFIGS: list[dict[str, Any]] = [
    {},
    {"indexing": "tensor_descriptor"},
    {"pid_type": "persistent_blocked"},
    {"pid_type": "persistent_interleaved", "loop_orders": [[1, 0]]},
    {"l2_groupings": [2]},
    {"pid_type": "xyz"},
    {"flatten_loops": [True]},
]


@settings(
    max_examples=int(os.environ.get("KT_EXAMPLES", "60")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(programs(finite=True), st.sampled_from(CONFIGS))
def test_generated_code_agrees(program: Program, config: dict[str, Any]) -> None:
    configured(program, **config)
    schedule = resolve(program.kernel)
    prepared = prepare(program.kernel, schedule)
    verify(prepared)
    exact = program.run()
    assert agree(exact, program.run(prepared, pad_size_axes=True))
    assert agree(exact, run(module(program.kernel), program))


LOOP_OVER_OFFSETS = """
@helion.kernel
def f(offsets: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    for i in hl.grid(offsets.size(0) - 1):
        first = offsets[i]
        last = offsets[i + 1]
        for tile in hl.tile(first, last):
            for inner in hl.tile(torch.maximum(first, tile.begin), last):
                out[inner] = x[inner] + tile.begin
    return out
"""


def test_loop_variables_are_plain_numbers_here() -> None:
    text = build(LOOP_OVER_OFFSETS, args={"offsets": "i64[B]", "x": "f32[N]"}, block_sizes=[2, 4])
    offsets, x = torch.tensor([0, 3, 9]), torch.arange(9.0)
    want = torch.tensor([0, 0, 2, 3, 3, 5, 5, 7, 7]) + x
    assert torch.equal(imported(text).f(offsets, x), want)
