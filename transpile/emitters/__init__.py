"""The registry of targets, and what passes between the build and an emitter.

A target is one entry of :data:`TARGETS`; its module has ``emit(source, groups, options)`` and
``capabilities()`` and is imported only when the target is built for.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.ir.diagnostics import Diagnostic


@dataclass(frozen=True, slots=True)
class Target:
    """A target language. ``outputs`` are name patterns over the source file's stem, ``shims``
    the files copied beside them."""

    name: str
    module: str
    outputs: tuple[str, ...]
    shims: tuple[str, ...]
    archs: tuple[str, ...]


TARGETS: dict[str, Target] = {
    "triton": Target(
        "triton",
        "transpile.emitters.triton.emitter",
        ("{stem}_triton.py",),
        ("_kt_triton.py", "_kt_triton_interpret.py"),
        ("sm_80", "sm_90", "sm_90a", "sm_100", "sm_100a"),
    ),
    "metal": Target(
        "metal",
        "transpile.emitters.msl.emitter",
        ("{stem}.metal", "{stem}_metal.py"),
        ("_kt_metal.py", "_kt_metal_mlx.py"),
        ("apple7", "apple8", "apple9", "apple10", "metal3", "metal4"),
    ),
    "pallas": Target(
        "pallas",
        "transpile.emitters.pallas.emitter",
        ("{stem}_pallas.py",),
        ("_kt_pallas.py",),
        ("tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-7x"),
    ),
}


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The source file: the stem of its name, the name without folders, its bytes' digest, and its
    text, from which comments quote."""

    stem: str
    filename: str
    digest: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What the command line says about the output."""

    arch: str | None = None
    inline_shim: bool = False


@dataclass(frozen=True, slots=True)
class EmitResult:
    """Output files by name, and what was noticed on the way."""

    files: dict[str, str]
    diagnostics: tuple[Diagnostic, ...] = ()
