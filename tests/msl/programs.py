"""Small MSL programs for the tests, and running them."""

from __future__ import annotations

import functools
import os
import struct
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("clang", reason="needs libclang")
pytest.importorskip("ziglang", reason="needs ziglang")
torch = pytest.importorskip("torch")

from transpile.verify.msl.counters import Counters  # noqa: E402
from transpile.verify.msl.executor import Module  # noqa: E402

HEADER = """\
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;
"""
PARAMETERS = """\
device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
constant uint& n [[buffer(2)]], device atomic_uint* count [[buffer(3)]],
uint t [[thread_index_in_threadgroup]], uint group [[threadgroup_position_in_grid]],
uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
uint i [[thread_position_in_grid]]"""
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def program(body: str, before: str = "", parameters: str = PARAMETERS) -> str:
    """A kernel ``k`` around the lines of a body."""
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "  ")
    return f"{HEADER}{before}kernel void k({parameters}\n) {{\n{body}\n}}\n"


def line_of(source: str, mark: str) -> int:
    """The number of the line that holds ``// mark``."""
    found = [i for i, text in enumerate(source.split("\n"), 1) if f"// {mark}" in text]
    assert len(found) == 1, source
    return found[0]


@functools.cache
def kernel_text(name: str) -> str:
    """A file of the kernels folder."""
    folder = os.path.join(os.path.dirname(__file__), "kernels")
    with open(os.path.join(folder, name), encoding="utf-8") as stream:
        return stream.read()


@functools.cache
def module(source: str) -> Module:
    return Module(source)


def run(
    source: str,
    buffers: Sequence[Any],
    groups: tuple[int, int, int] = (2, 1, 1),
    threads: tuple[int, int, int] = (128, 1, 1),
    kernel: str = "k",
    reverse: bool = False,
) -> Counters:
    return module(source).launch(kernel, buffers, groups, threads, reverse=reverse)


def usual() -> list[Any]:
    """Arguments for PARAMETERS: 256 elements each, n = 5."""
    return [
        torch.arange(256, dtype=torch.float32),
        torch.zeros(256),
        struct.pack("I", 5),
        torch.zeros(1, dtype=torch.int32),
    ]
