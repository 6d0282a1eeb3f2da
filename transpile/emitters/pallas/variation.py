"""How signatures differ that share a kernel: sizes, block sizes, element types, numbers.

What differs is read off the arrays where the call function can (``head_dim`` of ``q.shape``,
``x.dtype``), computed from their sizes where a formula gives it, and else chosen by what tells the
signatures apart.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from transpile.emitters.common.tree import Var
from transpile.emitters.pallas.dtypes import HOST_NAMES, NAMES, on_device
from transpile.ir.dtypes import F16, DType
from transpile.ir.sizes import Size, Sym


@dataclass(frozen=True, slots=True)
class General:
    """A size that differs between signatures: one number or symbol each, and one name.

    ``formula`` gives it from others (``{0} // {1}`` of ``parts``) where no operand has it as a
    dimension.
    """

    name: str
    sizes: tuple[Size, ...]
    formula: str = ""
    parts: tuple[General, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...] | None:
        known = [s.as_int() for s in self.sizes]
        return None if None in known else tuple(n for n in known if n is not None)


@dataclass(eq=False, slots=True)
class Variation:
    """What the call function of one or several signatures needs to know of all of them.

    ``extras`` are keyword arguments of the kernel with the values they have in each signature.
    """

    dtypes: dict[str, tuple[DType, ...]] = field(default_factory=dict)  # of tensors, by name
    generals: tuple[General, ...] = ()
    blocks: dict[Sym, tuple[int, ...]] = field(default_factory=dict)  # those that differ
    extras: list[tuple[Var, tuple[str, ...]]] = field(default_factory=list)
    totals: list[int | None] = field(default_factory=list)  # bytes of vector memory, of each

    def general(self, member: int) -> dict[Size, General]:
        """The sizes of one signature that go by a name."""
        return {g.sizes[member]: g for g in self.generals}

    @property
    def widens(self) -> list[str]:
        """Tensors that are f16 in a signature, which Mosaic lacks."""
        return [name for name, dtypes in self.dtypes.items() if F16 in dtypes]


class Choices:
    """Texts of what differs, in one call function.

    ``captured`` are the element types that must be noted before f16 arrays are widened, ``asked``
    those of results that no operand tells.
    """

    def __init__(self, variation: Variation, operands: Sequence[str]) -> None:
        self.variation = variation
        self.operands = list(operands)
        self.captured: dict[str, str] = {}  # tensor -> variable
        self.asked: dict[str, str] = {}  # result -> parameter with its element type

    def original(self, tensor: str) -> str:
        """The element type that an operand has outside the kernel."""
        if tensor not in self.variation.widens:
            return f"{tensor}.dtype"
        if tensor not in self.captured:
            self.captured[tensor] = f"{tensor}_dtype" if self.captured else "dtype"
        return self.captured[tensor]

    def host_dtype(self, tensor: str) -> str:
        """Python for the element type of a result as the caller sees it."""
        wanted = self.variation.dtypes[tensor]
        for name in self.operands:
            if self.variation.dtypes[name] == wanted and wanted[0].is_float:
                return self.original(name)
        try:
            return self.choose(tuple(HOST_NAMES[d] for d in wanted))
        except LookupError:
            return self.asked.setdefault(tensor, f"{tensor}_dtype")

    def device_dtype(self, tensor: str) -> str:
        """Python for the element type of a result as the kernel writes it: ``x.dtype`` of an
        operand of the same type, else the type itself."""
        dtypes = self.variation.dtypes
        if len(dtypes[tensor]) > 1 and len(set(dtypes[tensor])) == 1:
            return NAMES[on_device(dtypes[tensor][0])]  # it does not follow an operand's
        for seen in (lambda d: d, on_device):
            wanted = tuple(seen(d) for d in dtypes[tensor])
            for name in self.operands:
                if tuple(seen(d) for d in dtypes[name]) == wanted and wanted[0].is_float:
                    return f"{name}.dtype"
            if len(set(wanted)) == 1 and wanted[0] in NAMES:
                break
        return self.choose(tuple(NAMES[on_device(d)] for d in dtypes[tensor]))

    def choose(self, values: tuple[str, ...]) -> str:
        """``A if x.dtype == jnp.bfloat16 else B``: the value of the signature that is called."""
        if len(set(values)) == 1:
            return values[0]
        for tests in self._tests():
            known = dict(zip(tests, values, strict=True))
            if all(known[t] == v for t, v in zip(tests, values, strict=True)):
                return self._conditional(tests, values)
        raise LookupError("nothing tells the signatures apart")

    def _conditional(self, tests: tuple[tuple[str, str], ...], values: tuple[str, ...]) -> str:
        """An expression of conditions; what is tested last is the rest."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for test, value in zip(tests, values, strict=True):
            if test not in groups.setdefault(value, []):
                groups[value].append(test)
        *first, rest = sorted(groups.items(), key=lambda item: len(item[1]))
        text = rest[0]
        for value, own in reversed(first):
            left, _ = own[0]
            self._note(left)
            subject = self._spelled(left)
            same = " or ".join(f"{subject} == {right}" for _, right in own)
            text = f"{value} if {same} else {text}"
        return text

    def _tests(self) -> list[tuple[tuple[str, str], ...]]:
        """Per property of the arguments, what it is in each signature: its subject and value."""
        found = []
        for name in self.operands:
            device = [NAMES[on_device(d)] for d in self.variation.dtypes[name]]
            found.append(tuple((f"{name}.dtype", d) for d in device))
        for name in self.operands:
            if name in self.variation.widens:
                host = [HOST_NAMES[d] for d in self.variation.dtypes[name]]
                found.append(tuple((f"{name}!", d) for d in host))
        known = [(g.name, g.numbers) for g in self.variation.generals if g.numbers is not None]
        return found + [tuple((name, str(n)) for n in numbers) for name, numbers in known]

    def _note(self, subject: str) -> None:
        if subject.endswith("!"):
            self.original(subject[:-1])

    def _spelled(self, subject: str) -> str:
        return self.original(subject[:-1]) if subject.endswith("!") else subject


def number_formula(texts: tuple[str, ...], generals: Sequence[General]) -> str | None:
    """Python that gives each signature its number: a constant times a power of a size."""
    try:
        values = tuple(float(t) for t in texts)
    except ValueError:
        return None
    for general in generals:
        if general.numbers is None:
            continue
        for power, text in ((1, "{c} * {n}"), (-1, "{c} / {n}"), (-0.5, "{c} / {n}**0.5")):
            factors = [v / n**power for v, n in zip(values, general.numbers, strict=True)]
            best = min(factors, key=lambda f: len(repr(f)))
            pairs = zip(values, general.numbers, strict=True)
            if all(_single(best * n**power) == _single(v) for v, n in pairs):
                spelled = text.format(c=repr(best), n=general.name)
                return spelled.removeprefix("1.0 * ")
    return None


def _single(value: float) -> bytes:
    """The bits of the number as a float32, which is what the kernel computes with."""
    return struct.pack("f", value)
