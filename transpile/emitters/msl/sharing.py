"""Which kernels of a source kernel become one template.

Signatures and row lengths make kernels of nearly the same text. Those that are equal up to
element types and numbers (:mod:`transpile.thread.merge`) are printed once. Where kernels as they
are lowered first differ, they are lowered once more with open numbers (a loop over one register
stays a loop) and with the casts of signatures for narrower types (:mod:`transpile.passes.retype`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transpile.emitters.msl.kernel import MetalKernel, print_kernel
from transpile.emitters.msl.lower import Uniform, Variant
from transpile.ir.diagnostics import KtError
from transpile.passes.retype import like
from transpile.thread import ir
from transpile.thread.merge import Different, merge


@dataclass(eq=False, slots=True)
class _Version:
    """A kernel and its place: one version of a phase, for one signature."""

    variant: Variant
    phase: int
    number: int

    @property
    def code(self) -> MetalKernel:
        return self.variant.phases[self.phase][self.number]


Cluster = list[tuple[_Version, ir.Kernel]]
"""Versions that are one template, each with the thread IR that is merged."""


def share(variants: Sequence[Variant]) -> None:
    """Let kernels of one source kernel share templates where they can."""
    uniform = _Uniforms(variants)
    for phase in range(len(variants[0].phases)):
        versions = [_Version(v, phase, n) for v in variants for n in range(len(v.phases[phase]))]
        versions.sort(key=lambda v: not _narrow(v.variant))
        if len({v.code.text for v in versions}) > 1:
            _share(versions, uniform)


def _narrow(variant: Variant) -> bool:
    """Whether the signature has 16-bit floats."""
    return any(t.dtype.is_half for t in variant.given.tensors)


def _share(versions: Sequence[_Version], uniform: _Uniforms) -> None:
    plain = _clusters([(v, [v.code.kernel]) for v in versions])
    if len(plain) > 1:
        alike = _clusters([(v, list(uniform.of(v))) for v in versions])
        whole = [{id(v) for v, _ in c} for c in plain]
        for cluster in alike:
            members = {id(v) for v, _ in cluster}
            if not any(members <= w for w in whole) and _print(cluster):
                plain = [[pair for pair in c if id(pair[0]) not in members] for c in plain]
    for cluster in plain:
        _print(cluster)


def _clusters(candidates: Sequence[tuple[_Version, list[ir.Kernel]]]) -> list[Cluster]:
    """Versions that merge; of each the first of its kernels that does is taken."""
    clusters: list[Cluster] = []
    for version, kernels in candidates:
        joined = False
        for cluster in clusters:
            found = next((k for k in kernels if _merges([k for _, k in cluster], k)), None)
            if found is not None:
                cluster.append((version, found))
                joined = True
                break
        if not joined and kernels:
            clusters.append([(version, kernels[0])])
    return clusters


def _merges(kernels: list[ir.Kernel], another: ir.Kernel) -> bool:
    try:
        merge([*kernels, another])
    except Different:
        return False
    return True


def _print(cluster: Cluster) -> bool:
    """Prints the cluster as one template; False where that cannot be.

    What is printed must not depend on which of the kernels the merged one is taken to be like: that
    shows decisions that hold for some of them only.
    """
    if len({v.code.text for v, _ in cluster}) < 2:
        return False
    kernels = [kernel for _, kernel in cluster]
    made: list[MetalKernel] = []
    for i, (version, kernel) in enumerate(cluster):
        code = version.code
        own = dataclasses.replace(kernel, tensors=code.kernel.tensors)
        try:
            merged = merge(kernels, i)
            new = print_kernel(code.source, own, code.sizes, version.variant.comments, merged)
        except (Different, KtError):
            return False
        new.form = code.form
        made.append(new)
    if len({(m.text, m.struct("")) for m in made}) > 1:
        return False
    for (version, _), new in zip(cluster, made, strict=True):
        version.variant.phases[version.phase][version.number] = new
    return True


class _Uniforms:
    """The kernels lowered again for sharing."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.variants = variants
        self.known: dict[int, list[Uniform]] = {}

    def of(self, version: _Version) -> Iterator[ir.Kernel]:
        """The version with open numbers: as it is, and with the casts of narrower signatures."""
        form = version.code.form
        assert form is not None
        for uniform in self._forms(version.variant):
            try:
                yield uniform.of(form)
            except (KtError, ValueError):
                continue

    def _forms(self, variant: Variant) -> list[Uniform]:
        if id(variant) not in self.known:
            given, arch = variant.given, variant.arch
            others = [v.given for v in self.variants if v is not variant and _narrow(v)]
            casts = (like(given, other) for other in others)
            found = next((c for c in casts if c is not None), None)
            kernels = [given] if found is None else [given, found]
            self.known[id(variant)] = [Uniform(k, arch) for k in kernels]
        return self.known[id(variant)]
