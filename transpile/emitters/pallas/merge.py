"""Signatures of one source kernel that share its Pallas kernel and call function.

A phase is lowered for each of them with the sizes and blocks that differ as variables; where the
statements then agree but for what a call function can choose (:mod:`unify`), one text serves all.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transpile.emitters.common.tree import Var
from transpile.emitters.pallas.dtypes import on_device
from transpile.emitters.pallas.phase import Draft, LoweredPhase, draft, finish
from transpile.emitters.pallas.prepare import prepared
from transpile.emitters.pallas.unify import Different, Unifier
from transpile.emitters.pallas.variation import General, Variation
from transpile.emitters.pallas.vmem import Needs
from transpile.ir import ir
from transpile.ir.diagnostics import Diagnostic, KtError
from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import walk
from transpile.passes.schedule import Schedule


@dataclass(eq=False, slots=True)
class Signature:
    """A kernel for one signature, and its phases once they are lowered."""

    kernel: ir.Kernel  # as the frontend made it
    arch: str
    schedule: Schedule
    phases: list[LoweredPhase]

    def fresh(self) -> tuple[ir.Kernel, Schedule]:
        """The rewritten kernel; lowering changes values, so that each has its own. Tensors stay."""
        memo = {id(t): t for t in self.kernel.tensors}
        return prepared(copy.deepcopy(self.kernel, memo), self.arch)


def lowered(kernels: Sequence[ir.Kernel], arch: str) -> list[Signature]:
    """All signatures of a source kernel, lowered. Raises KtError with what none can do."""
    problems: list[Diagnostic] = []
    found: list[Signature] = []
    for kernel in kernels:
        try:
            signature = Signature(kernel, arch, prepared(copy.deepcopy(kernel), arch)[1], [])
            rewritten, schedule = signature.fresh()
            signature.schedule = schedule
            drafts = [draft(rewritten, i, schedule) for i in range(len(rewritten.phases))]
            signature.phases = [finish(d) for d in drafts]
            found.append(signature)
        except KtError as failed:
            problems += failed.diagnostics
    if problems:
        raise KtError(*dict.fromkeys(problems))
    for number in range(len(found[0].phases) if found else 0):
        _share(found, number)
    return found


def _share(signatures: Sequence[Signature], number: int) -> None:
    """Give the signatures the same text for a phase, as many of them as agree."""
    left = list(signatures)
    while len(left) > 1:
        group = next((g for g in _groups(left) if _merged(g, number)), [left[0]])
        left = [s for s in left if s not in group]


def _groups(signatures: Sequence[Signature]) -> Iterator[list[Signature]]:
    """Groups with the first signature: all, then all but one, ..., then pairs."""
    first, *rest = signatures
    shape = _shape(first)
    alike = [s for s in rest if _shape(s) == shape]
    if alike:
        yield [first, *alike]
    if len(alike) > 1:
        for out in alike:
            yield [first, *(s for s in alike if s is not out)]
        yield from ([first, s] for s in alike)


def _shape(signature: Signature) -> list[object]:
    """What signatures that share a kernel have in common."""
    kernel = signature.kernel
    return [
        [(t.name, len(t.shape)) for t in kernel.tensors],
        [(s.name, s.dtype) for s in kernel.scalars],
        [len(p.axes) for p in kernel.phases],
        [type(op) for p in kernel.phases for op in walk(p.body) if not isinstance(op, ir.Cast)],
    ]


def _merged(signatures: Sequence[Signature], number: int) -> bool:
    """Merge a phase of the signatures if that is possible."""
    try:
        made = _drafts(signatures, number)
        if made is None:
            return False
        drafts, variation = made
        _unify(drafts, variation)
        phases = [finish(d, variation) for d in drafts[1:]]
        first = finish(drafts[0], variation)
    except (Different, LookupError, KtError):
        return False
    if any(p.call_text != first.call_text for p in phases):
        return False
    for signature, phase in zip(signatures, [first, *phases], strict=True):
        phase.kernel_text = first.kernel_text
        phase.helpers |= first.helpers
        signature.phases[number] = phase
    return True


def _drafts(signatures: Sequence[Signature], number: int) -> tuple[list[Draft], Variation] | None:
    """The phase lowered for each signature with what differs as variables."""
    rewritten = [s.fresh() for s in signatures]
    kernels = [kernel for kernel, _ in rewritten]
    if len({len(k.phases) for k in kernels}) > 1 or len({len(k.tensors) for k in kernels}) > 1:
        return None
    generals = _generals(kernels, number)
    blocks = _blocks([schedule for _, schedule in rewritten])
    if blocks is None:
        return None
    variation = Variation(_dtypes(kernels), generals, blocks)
    drafts = []
    for i, (kernel, schedule) in enumerate(rewritten):
        drafts.append(draft(kernel, number, schedule, variation.general(i), frozenset(blocks)))
    variation.totals = [Needs(d.plan, d.ctx).total for d in drafts]
    return drafts, variation


def _dtypes(kernels: Sequence[ir.Kernel]) -> dict[str, tuple[DType, ...]]:
    columns = zip(*(k.tensors for k in kernels), strict=True)
    return {own[0].name: tuple(t.dtype for t in own) for own in columns}


def _blocks(schedules: Sequence[Schedule]) -> dict[Sym, tuple[int, ...]] | None:
    """Block sizes that differ; None where the blocks themselves do."""
    if len({frozenset(s.blocks) for s in schedules}) > 1:
        return None
    found = {sym: tuple(s.blocks[sym] for s in schedules) for sym in schedules[0].blocks}
    return {sym: sizes for sym, sizes in found.items() if len(set(sizes)) > 1}


# -- sizes -----------------------------------------------------------------------------------------


def _generals(kernels: Sequence[ir.Kernel], number: int) -> tuple[General, ...]:
    """Dimensions that differ between the signatures, and numbers that are quotients of them."""
    found: dict[tuple[Size, ...], General] = {}
    taken = {name for _, name in kernels[0].size_names} | {t.name for t in kernels[0].tensors}
    taken |= {s.name for s in kernels[0].scalars}
    for own in zip(*(k.tensors for k in kernels), strict=True):
        for d, sizes in enumerate(zip(*(t.shape for t in own), strict=True)):
            if len(set(sizes)) > 1 and sizes not in found:
                name = _dimension_name(kernels[0], own[0], d)
                known = {g.name for g in found.values()}
                if name in known or (name in taken and not _means(kernels[0], name, sizes[0])):
                    name = f"{own[0].name}_{name}"
                found[sizes] = General(name, sizes)
    _derive(found, kernels, number)
    for i in range(len(kernels)):  # a size must not go by two names
        if len({g.sizes[i] for g in found.values()}) < len(found):
            raise Different
    return tuple(found.values())


def _means(kernel: ir.Kernel, name: str, size: Size) -> bool:
    return all(s == size for s, known in kernel.size_names if known == name)


#: a host statement that names dimensions: ``b, h = q.size()``, ``n = k.shape[2]``
_READS = re.compile(r"(\w+(?:, \w+)*),? = (\w+)\.(?:size\((\d*)\)|shape(?:\[(\d+)\])?)")


def _dimension_name(kernel: ir.Kernel, tensor: ir.Tensor, dim: int) -> str:
    """The host program's name for a dimension, which it may have unpacked from another tensor."""
    size = tensor.shape[dim]
    for known, name in kernel.size_names:
        if known == size and name.isidentifier():
            return name
    texts = [item.text for item in kernel.host if isinstance(item, ir.HostCode)]
    for text in texts:
        read = _READS.fullmatch(text)
        if read is None:
            continue
        source = next((t for t in kernel.tensors if t.host == read[2]), None)
        dims = _specified(kernel, read[2]) if source is None else source.shape
        if one := read[3] or read[4]:
            dims = dims[int(one) :]
        for name, length in zip(read[1].split(", "), dims, strict=False):
            if length == size and name != "_":
                return _alias(texts, name)
    return "width" if dim == len(tensor.shape) - 1 else f"dim_{dim}"


def _alias(texts: Sequence[str], name: str) -> str:
    """The name that the host program gives a size after that."""
    for text in texts:
        if (match := re.fullmatch(rf"(\w+) = {name}", text)) is not None:
            return match[1]
    return name


def _specified(kernel: ir.Kernel, parameter: str) -> tuple[Size, ...]:
    """The numbers in the signature of a parameter that the device does not see as such."""
    match = re.search(rf"\b{parameter}=\w+\[([^\]]*)\]", kernel.signature)
    dims = match[1].split(",") if match else []
    return tuple(Size.of(int(d)) if d.isdigit() else Size.of(Sym(d, "dim")) for d in dims)


def _constants(phases: Sequence[ir.Phase]) -> Iterator[tuple[int, ...]]:
    """Whole numbers of the phase that differ between the signatures."""
    columns = [[op.value for op in walk(p.body) if isinstance(op, ir.Const)] for p in phases]
    if len({len(c) for c in columns}) > 1:
        return
    for values in zip(*columns, strict=True):
        numbers = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
        if len(numbers) == len(values) and len(set(numbers)) > 1:
            yield numbers


def _derive(
    found: dict[tuple[Size, ...], General], kernels: Sequence[ir.Kernel], number: int
) -> None:
    """Give formulas to what no operand has as a dimension: quotients, and one more or less."""
    phases = [k.phases[number] for k in kernels]
    read = [{op.tensor for op in walk(p.body) if isinstance(op, ir.Load)} for p in phases]
    known = {
        sizes: general
        for sizes, general in found.items()
        if any(sizes[0] in t.shape for t in read[0])
    }
    wanted = {sizes: general.name for sizes, general in found.items() if sizes not in known}
    for numbers in _constants(phases):
        wanted.setdefault(tuple(Size.of(n) for n in numbers), "")
    for sizes, name in wanted.items():
        numbers = tuple(n for s in sizes if (n := s.as_int()) is not None)
        if sizes in known or len(numbers) < len(sizes):
            continue
        if (made := _formula(numbers, list(known.values()))) is not None:
            named = name or _formula_name(kernels[0], *made)
            found[sizes] = General(named, sizes, *made)


def _formula(
    numbers: tuple[int, ...], generals: Sequence[General]
) -> tuple[str, tuple[General, ...]] | None:
    exact = [(g, g.numbers) for g in generals if g.numbers is not None]
    for over, dividends in exact:
        for by, divisors in exact:
            pairs = zip(dividends, divisors, strict=True)
            if over is not by and numbers == tuple(a // b for a, b in pairs):
                return "{0} // {1}", (over, by)
    for general, known in exact:
        for more, formula in ((1, "{0} + 1"), (-1, "{0} - 1")):
            if numbers == tuple(n + more for n in known):
                return formula, (general,)
    return None


def _formula_name(kernel: ir.Kernel, formula: str, parts: Sequence[General]) -> str:
    """The host program's name for a quotient, if it has one."""
    text = formula.format(*(p.name for p in parts))
    for item in kernel.host:
        named = re.fullmatch(rf"(\w+) = {re.escape(text)}", getattr(item, "text", ""))
        if named is not None:
            return named[1]
    return "_".join(re.findall(r"\w+", text.replace("//", "per")))


# -- statements ------------------------------------------------------------------------------------


def _unify(drafts: Sequence[Draft], variation: Variation) -> None:
    """Put the body that serves all into the first draft; the others' arguments become its."""
    first = drafts[0]
    if len({len(d.refs) for d in drafts}) > 1 or len({len(d.windows) for d in drafts}) > 1:
        raise Different
    tensors = {w.ref: w.tensor.name for w in first.windows}
    refs = [
        (ref, tuple(on_device(d) for d in variation.dtypes[tensors[ref]]))
        for ref in first.refs
        if ref in tensors
    ]

    def sized(numbers: tuple[float, ...]) -> Var | None:
        for general in variation.generals:
            if general.numbers == numbers:
                own = [
                    d.plan.sizes.variable(size)
                    for d, size in zip(drafts, general.sizes, strict=True)
                ]
                return unifier.var(own)
        return None

    unifier = Unifier(len(drafts), refs, sized)
    for own in zip(*(d.refs for d in drafts), strict=True):
        unifier.var(own)
    body = unifier.block([d.ctx.body for d in drafts])
    first.ctx.body = body
    variation.extras = unifier.extras
    keywords = first.keywords
    for made in drafts[1:]:
        made.shared = keywords
