"""Builds a source text for Metal and runs what is generated in the executor."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from transpile import build as pipeline
from transpile import outputs
from transpile.build import BuildOptions, load
from transpile.emitters import TARGETS
from transpile.verify import numerics
from transpile.verify.msl.backend import Executor, executing

HEAD = "import helion\nimport helion.language as hl\nimport torch\n\n\n"
_COUNT = itertools.count()


def built(
    folder: Path,
    source: str,
    signature: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    arch: str | None = None,
) -> tuple[ModuleType, str]:
    """The generated module and its Metal text. Raises KtError for what cannot be built."""
    path = folder / f"kernels_{next(_COUNT)}.py"
    path.write_text(HEAD + source, encoding="utf-8")
    options = BuildOptions(
        targets=("metal",), args=dict(signature), config=dict(config) if config else None, arch=arch
    )
    loaded = load(str(path), options)
    assert not [d for d in loaded.diagnostics if d.severity == "error"], loaded.diagnostics
    groups = pipeline.group_kernels(loaded.kernels)
    made = pipeline.emit_groups(loaded.source, groups, TARGETS["metal"], options)
    shims = pipeline.shim_files(TARGETS["metal"], options)
    target = folder / path.stem
    outputs.write_all(str(target), dict(made.files) | shims)
    for name in [n for n in sys.modules if n.startswith("_kt_metal")]:
        del sys.modules[name]
    sys.path.insert(0, str(target))
    try:
        module = numerics.load_module(str(target / f"{path.stem}_metal.py"))
    finally:
        sys.path.remove(str(target))
    return module, made.files[f"{path.stem}.metal"]


def run(module: ModuleType, name: str, *args: Any, reverse: bool = False) -> Any:
    """Calls a generated function, everything checked; allocations begin as NaN."""
    with (
        executing(module, Executor(reverse=reverse, checked=True)),
        numerics.filled_allocations(),
    ):
        return getattr(module, name)(*args)


def check(module: ModuleType, name: str, args: list[Any], expected: list[torch.Tensor]) -> None:
    """Both orders of threads give what is expected of the results, or of the tensors written
    (the last arguments) where nothing is returned."""
    for reverse in (False, True):
        given = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        found = run(module, name, *given, reverse=reverse)
        if found is None:
            found = tuple(given[-len(expected) :])
        results = found if isinstance(found, tuple) else (found,)
        for got, want in zip(results, expected, strict=True):
            torch.testing.assert_close(got, want)
