"""Generated Pallas text for tests, and runs of rewritten IR in the reference interpreter."""

from __future__ import annotations

import re
from typing import Any

from tests.frontend.lower import kernels
from transpile.emitters import EmitOptions, SourceInfo
from transpile.emitters.pallas.emitter import emit

SOURCE = SourceInfo("kernel", "kernel.py", "0123456789ab")


def build(snippet: str, *, args: dict[str, str], arch: str = "", **config: Any) -> str:
    """The module for a snippet's first kernel. Raises KtError for what a TPU cannot do."""
    found = kernels(snippet, args=args, config=config or None)
    first = [k for k in found if k.name == found[0].name]
    return emit(SOURCE, [first], EmitOptions(arch=arch)).files["kernel_pallas.py"]


def build_signatures(snippet: str, signatures: list[dict[str, str]], **config: Any) -> str:
    """The module for a snippet's first kernel under several signatures."""
    found = [k for args in signatures for k in kernels(snippet, args=args, config=config or None)]
    group = [k for k in found if k.name == found[0].name]
    return emit(SOURCE, [group], EmitOptions()).files["kernel_pallas.py"]


def function(text: str, name: str) -> str:
    """One top-level function of a module."""
    found = re.search(rf"^def {name}\(.*?(?=\n\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, text
    return found[0]
