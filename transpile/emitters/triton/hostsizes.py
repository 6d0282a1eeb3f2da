"""Sizes in host Python: how the host program spells them, and what it calls them."""

from __future__ import annotations

import re

from transpile.emitters.triton.dispatch import tensor_dims
from transpile.ir import ir
from transpile.ir.sizes import Opaque, Size, Sym
from transpile.passes.schedule import Schedule


def host_size(kernel: ir.Kernel, schedule: Schedule, size: Size) -> str:
    """Host Python for a size at the launch, block sizes as numbers."""
    size = size.substitute(schedule.blocks)
    for known, name in kernel.size_names:
        if known == size:
            return name
    return _rounded_up(kernel, schedule, size) or _polynomial(kernel, schedule, size)


def _rounded_up(kernel: ir.Kernel, schedule: Schedule, size: Size) -> str | None:
    """``triton.cdiv(a, b)`` where the size is one rounded-up quotient."""
    if len(size.terms) != 1 or size.terms[0][1] != 1 or len(size.terms[0][0]) != 1:
        return None
    atom = size.terms[0][0][0]
    if not isinstance(atom, Opaque) or atom.op != "//":
        return None
    over = atom.lhs - atom.rhs + 1
    if over.as_int() is None and any(c < 0 for _, c in over.terms):
        return None
    numerator = host_size(kernel, schedule, over)
    return f"triton.cdiv({numerator}, {host_size(kernel, schedule, atom.rhs)})"


def _polynomial(kernel: ir.Kernel, schedule: Schedule, size: Size) -> str:
    """A sum of products."""
    out = ""
    for mono, coeff in size.terms:
        alone = len(mono) == 1 and abs(coeff) == 1
        factors = [_factor(kernel, schedule, atom, alone) for atom in mono]
        if abs(coeff) != 1 or not factors:
            factors.append(str(abs(coeff)))
        text = " * ".join(factors)
        if not out:
            out = f"-{text}" if coeff < 0 else text
        else:
            out += f" - {text}" if coeff < 0 else f" + {text}"
    return out or "0"


def _factor(kernel: ir.Kernel, schedule: Schedule, atom: Sym | Opaque, alone: bool) -> str:
    if isinstance(atom, Sym):
        return spell_sym(kernel, atom)
    if (quotient := _rounded_up(kernel, schedule, Size((((atom,), 1),)))) is not None:
        return quotient
    lhs, rhs = host_size(kernel, schedule, atom.lhs), host_size(kernel, schedule, atom.rhs)
    if atom.op in ("min", "max"):
        return f"{atom.op}({lhs}, {rhs})"
    lhs, rhs = (f"({t})" if " " in t and not t.endswith(")") else t for t in (lhs, rhs))
    text = f"{lhs} {atom.op} {rhs}"
    return text if alone else f"({text})"


def spell_sym(kernel: ir.Kernel, sym: Sym) -> str:
    """A dimension or stride at the launch: the host's own name for it, or asked of a tensor."""
    size = Size.of(sym)
    for known, name in kernel.size_names:
        if known == size:
            return name
    for tensor in kernel.tensors:
        table, method = (
            (tensor.strides, "stride") if sym.kind == "stride" else (tensor.shape, "size")
        )
        for dim, entry in enumerate(table):
            if entry == size:
                return f"{tensor.host}.{method}({dim})"
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
