"""Modules of kernels for tests that run JAX on the CPU."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def jax() -> Any:
    """jax on the CPU; the tests that need it are skipped where it is not installed."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return pytest.importorskip("jax")


@pytest.fixture(scope="session")
def shim(jax: Any) -> ModuleType:
    """The shim, as generated modules import it."""
    sys.path.append(str(ROOT / "runtime_shims"))
    return importlib.import_module("_kt_pallas")


@pytest.fixture
def kernels(shim: ModuleType) -> Any:
    """The handwritten kernels, run by jax's plain interpreter."""
    sys.path.append(str(Path(__file__).parent))
    module = importlib.import_module("handmade")
    shim.INTERPRET = True  # type: ignore[attr-defined]
    yield module
    shim.INTERPRET = False  # type: ignore[attr-defined]
