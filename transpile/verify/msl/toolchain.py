"""Clang and its flags: from the ziglang package, or from the environment."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Sequence

_HERE = os.path.dirname(os.path.abspath(__file__))
HEADERS = os.path.join(_HERE, "include")
RUNTIME = os.path.join(_HERE, "runtime")
SOURCE_NAME = "kernel.metal"

_LANGUAGE = (
    "-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-fno-exceptions", "-fno-rtti",
    "-target", "x86_64-linux-gnu",
)  # fmt: skip
_MSL = (
    *_LANGUAGE, "-I", HEADERS, "-ferror-limit=0", "-Xclang", "-cl-single-precision-constant",
    "-Wno-unknown-attributes", "-Wno-ignored-attributes", "-Wno-reserved-user-defined-literal",
    "-Wno-user-defined-literals", "-Wno-duplicate-decl-specifier",
)  # fmt: skip
STRICT = (
    *_MSL, "-DKT_STRICT=1", "-fno-lax-vector-conversions", "-Wimplicit-float-conversion",
    "-Werror=return-type", "-Werror=uninitialized", "-Werror=sometimes-uninitialized",
    "-Werror=vla", "-Werror=vla-extension",
    "-Werror=array-bounds",
)  # fmt: skip
# Vectorised accesses of more than 16 bytes would escape the checks; half and bfloat round after
# every operation; a loop that copies stays a loop, so that accesses are counted as written.
EXECUTE = (
    *_MSL, "-DKT_STRICT=0", "-O2", "-march=x86-64-v3", "-fPIC", "-fvisibility=hidden",
    "-gdwarf-4", "-gline-tables-only", "-ffp-contract=off", "-fno-stack-protector", "-fwrapv",
    "-fno-strict-aliasing", "-ftrivial-auto-var-init=pattern", "-w", "-fno-vectorize",
    "-fno-slp-vectorize", "-Xclang", "-ffloat16-excess-precision=none",
    "-Xclang", "-fbfloat16-excess-precision=none", "-mllvm", "-disable-loop-idiom-all",
    "-fno-sanitize=all", "-Xclang",
    "-fsanitize=thread,array-bounds,alignment,integer-divide-by-zero,shift-exponent",
    "-mllvm", "-tsan-instrument-func-entry-exit=0",
    "-mllvm", "-tsan-compound-read-before-write=1",
)  # fmt: skip
_BUILD_RUNTIME = (*_LANGUAGE, "-O2", "-fPIC", "-fno-sanitize=all")


class ToolError(Exception):
    """The compiler is missing, or refused what it was given."""


def cache_folder() -> str:
    """Where compiled modules are kept: ``KT_CACHE``, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.environ.get("KT_CACHE") or os.path.join(base, "kt")
    os.makedirs(folder, exist_ok=True)
    return folder


@functools.cache
def _zig() -> str:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise ToolError("the Metal executor runs on Linux on x86-64 only")
    try:
        import ziglang
    except ImportError:
        raise ToolError("the Metal executor needs `pip install ziglang==0.15.2`") from None
    return os.path.join(os.path.dirname(os.path.abspath(ziglang.__file__)), "zig")


def _command(variable: str, *default: str) -> list[str]:
    return shlex.split(os.environ.get(variable, "")) or [_zig(), *default]


def build(source: str, flags: Sequence[str], extra: str = "") -> str:
    """The path of a shared library made from C++ ``source``, kept in the cache. Raises ToolError.

    ``extra`` is what the result depends on besides: the text of the headers.
    """
    compiler, linker = _command("KT_CLANG", "clang"), _command("KT_LLD", "ld.lld")
    key = "\0".join([source, extra, *flags, *compiler, *linker])
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    path = os.path.join(cache_folder(), f"msl-{digest}.so")
    if os.path.exists(path):
        return path
    with tempfile.TemporaryDirectory(prefix="kt-msl-", dir=cache_folder()) as folder:
        made, library = os.path.join(folder, "module.o"), os.path.join(folder, "module.so")
        _run([*compiler, *flags, "-c", "-", "-o", made], source)
        _run([*linker, "-shared", "--build-id=none", "-o", library, made])
        os.replace(library, path)
    return path


def _run(command: Sequence[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(done.stderr.strip() or f"{command[0]} failed")


def build_module(source: str, defines: Sequence[str] = ()) -> str:
    """The library of a translated MSL module with its entries."""
    return build(source, (*EXECUTE, *defines), _texts(HEADERS))


def build_runtime() -> str:
    """The library of the executor's runtime."""
    source = f'#include "{os.path.join(RUNTIME, "runtime.cpp")}"\n'
    return build(source, (*_BUILD_RUNTIME,), _texts(RUNTIME))


@functools.cache
def _texts(folder: str) -> str:
    parts = []
    for place, folders, names in sorted(os.walk(folder)):
        folders.sort()
        for name in sorted(names):
            with open(os.path.join(place, name), encoding="utf-8") as stream:
                parts.append(stream.read())
    return "\0".join(parts)
