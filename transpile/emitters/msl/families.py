"""Families of Apple GPUs: what they have, and what a file asks of them.

Numbers and features are those of Apple's Metal feature set tables
(https://developer.apple.com/metal/Metal-Feature-Set-Tables.pdf). What kt writes runs from Apple7 on
but for what :data:`FEATURES` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transpile.ir.diagnostics import KtError, error
from transpile.ir.ir import Span


@dataclass(frozen=True, slots=True)
class Family:
    """``gpus`` are examples. ``features`` are names of :data:`FEATURES`."""

    name: str
    gpus: str
    shared_bytes: int = 32 * 1024
    threads: int = 1024
    buffers: int = 31
    features: frozenset[str] = frozenset()


ATOMICS64 = "minimum and maximum of 64-bit integers by atomics"

#: what not all families have, and where it begins
FEATURES = {ATOMICS64: "apple9"}

#: by --arch; metal3 and metal4 stand for what all GPUs have that run them
FAMILIES: dict[str, Family] = {
    "apple7": Family("Apple7", "M1, A14"),
    "apple8": Family("Apple8", "M2, A15, A16"),  # 64-bit atomics on some of them only
    "apple9": Family("Apple9", "M3, M4, A17 Pro", features=frozenset({ATOMICS64})),
    "apple10": Family("Apple10", "M5, A19", features=frozenset({ATOMICS64})),
    "metal3": Family("Apple7", "M1, A14"),
    "metal4": Family("Apple7", "M1, A14"),
}
LEAST = FAMILIES["apple7"]

#: versions of the language, what needs them, and where they begin
_LANGUAGES = {"3.1": (r"\bbfloat\b", "macOS 14, iOS 17"), "3.0": ("", "macOS 13, iOS 16")}


def refused(needs: Mapping[str, Span | None], arch: str) -> list[KtError]:
    """KT0615 for what the family lacks; without ``arch`` that is the least one."""
    family = FAMILIES.get(arch, LEAST)
    return [
        error(
            "KT0615", f"{family.name} ({family.gpus}) has no {feature}", span,
            why=f"they begin with {FAMILIES[FEATURES[feature]].name}"
            + ("" if arch else "; without --arch kernels are built for all GPUs"),
            remedy=f"build with --arch {FEATURES[feature]}, or use 32-bit integers",
        )
        for feature, span in needs.items()
        if feature not in family.features
    ]  # fmt: skip


def requirements(needs: Iterable[str], texts: Iterable[str]) -> str:
    """What a file asks of language and GPU: a line of its header."""
    code = "\n".join(re.sub(r"//.*", "", text) for text in texts)
    version, (_, systems) = next(
        (v, known) for v, known in _LANGUAGES.items() if re.search(known[0], code)
    )
    least = next(
        family
        for family in FAMILIES.values()
        if all(feature in family.features for feature in needs)
    )
    return f"Metal {version} ({systems}), {least.name} ({least.gpus}) or later"


def described() -> list[str]:
    """The families for `kt targets`."""
    return [
        f"{arch}: {f.gpus}, {f.threads} threads, {f.shared_bytes // 1024} KB of threadgroup memory"
        + "".join(f", {feature}" for feature in sorted(f.features))
        for arch, f in FAMILIES.items()
    ]
