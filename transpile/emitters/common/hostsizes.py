"""Sizes in host Python: how the host program spells them, and what it calls them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transpile.emitters.common.dispatch import tensor_dims
from transpile.ir import ir
from transpile.ir.sizes import Opaque, Size, Sym
from transpile.passes.schedule import Schedule


@dataclass(frozen=True, slots=True)
class HostSpelling:
    """How a target's host functions write what torch and Python have no common words for."""

    cdiv: str  # the function for rounded-up quotients
    size: str = "{tensor}.size({dim})"
    stride: str = "{tensor}.stride({dim})"


@dataclass(frozen=True, slots=True)
class HostSizes:
    """Sizes of one kernel as host Python at the launch, block sizes as numbers."""

    kernel: ir.Kernel
    schedule: Schedule
    spelling: HostSpelling

    def text(self, size: Size) -> str:
        """An expression for a size."""
        size = size.substitute(self.schedule.blocks).substitute(self.schedule.dynamic_blocks)
        for known, name in self.kernel.size_names:
            if known == size:
                return name
        return self._rounded_up(size) or self._polynomial(size)

    def quotient(self, size: str, by: str | int) -> str:
        """The rounded-up quotient of two expressions."""
        return f"{self.spelling.cdiv}({size}, {by})"

    def count(self, axis: ir.GridAxis) -> str:
        """Number of programs along a grid axis."""
        extent = (axis.end - axis.begin).substitute(self.schedule.blocks)
        if axis.block in self.schedule.dynamic_blocks:
            block = self.text(self.schedule.dynamic_blocks[axis.block])
            return self.quotient(self.text(extent), block)
        step = self.schedule.blocks[axis.block] if axis.block is not None else axis.step
        number = extent.as_int()
        if step == 1:
            return self.text(extent)
        if number is not None:
            return str(-(-number // step))
        return self.quotient(self.text(extent), step)

    def _rounded_up(self, size: Size) -> str | None:
        """``cdiv(a, b)`` where the size is one rounded-up quotient."""
        if len(size.terms) != 1 or size.terms[0][1] != 1 or len(size.terms[0][0]) != 1:
            return None
        atom = size.terms[0][0][0]
        if not isinstance(atom, Opaque) or atom.op != "//":
            return None
        over = atom.lhs - atom.rhs + 1
        if over.as_int() is None and any(c < 0 for _, c in over.terms):
            return None
        return self.quotient(self.text(over), self.text(atom.rhs))

    def _polynomial(self, size: Size) -> str:
        """A sum of products."""
        out = ""
        for mono, coeff in size.terms:
            alone = len(mono) == 1 and abs(coeff) == 1
            factors = [self._factor(atom, alone) for atom in mono]
            if abs(coeff) != 1 or not factors:
                factors.append(str(abs(coeff)))
            text = " * ".join(factors)
            if not out:
                out = f"-{text}" if coeff < 0 else text
            else:
                out += f" - {text}" if coeff < 0 else f" + {text}"
        return out or "0"

    def _factor(self, atom: Sym | Opaque, alone: bool) -> str:
        if isinstance(atom, Sym):
            return self.symbol(atom)
        if (quotient := self._rounded_up(Size((((atom,), 1),)))) is not None:
            return quotient
        lhs, rhs = self.text(atom.lhs), self.text(atom.rhs)
        if atom.op in ("min", "max"):
            return f"{atom.op}({lhs}, {rhs})"
        lhs, rhs = (f"({t})" if " " in t and not t.endswith(")") else t for t in (lhs, rhs))
        text = f"{lhs} {atom.op} {rhs}"
        return text if alone else f"({text})"

    def symbol(self, sym: Sym) -> str:
        """A dimension or stride at the launch: the host's own name for it, or asked of a tensor."""
        size = Size.of(sym)
        for known, name in self.kernel.size_names:
            if known == size:
                return name
        for tensor in self.kernel.tensors:
            stride = sym.kind == "stride"
            table = tensor.strides if stride else tensor.shape
            spelling = self.spelling.stride if stride else self.spelling.size
            for dim, entry in enumerate(table):
                if entry == size:
                    return spelling.format(tensor=tensor.host, dim=dim)
        return sym.name


def source_names(kernel: ir.Kernel) -> dict[int, str]:
    """What the host program calls compile-time sizes: ``m, n = x.size()``, ``d = q.size(-1)``."""
    shapes = dict(tensor_dims(kernel.signature))
    found: dict[int, str] = {}

    def note(name: str, tensor: str, dim: int) -> None:
        dims = shapes.get(tensor, [])
        if -len(dims) <= dim < len(dims) and dims[dim].isdigit() and name != "_":
            found.setdefault(int(dims[dim]), name)

    for item in kernel.host:
        if not isinstance(item, ir.HostCode):
            continue
        for names, tensor in re.findall(
            r"^([\w, ]+) = (\w+)\.(?:size\(\)|shape)$", item.text, re.MULTILINE
        ):
            for dim, name in enumerate(n.strip() for n in names.split(",")):
                note(name, tensor, dim)
        for name, tensor, dim in re.findall(
            r"^(\w+) = (\w+)\.(?:size\(|shape\[)(-?\d+)[)\]]$", item.text, re.MULTILINE
        ):
            note(name, tensor, int(dim))
    return found
