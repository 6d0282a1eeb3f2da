"""The arguments of a kernel: a buffer per tensor, then one struct of scalars, sizes and strides.

What an argument is at the launch is host Python. A size that the source has a name for, or that is
one symbol, becomes a member of the struct; others are computed from members in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostsizes import HostSizes
from transpile.emitters.msl.dtypes import NAMES, STRUCT, number
from transpile.emitters.msl.names import Scope
from transpile.emitters.msl.numbers import Numbers, Text, enclosed
from transpile.emitters.msl.ops import ADD, ATOM, MUL, POSTFIX, UNARY
from transpile.ir import ir as tile
from transpile.ir.diagnostics import error
from transpile.ir.dtypes import F32, I32, I64, DType
from transpile.ir.sizes import Opaque, Size, Sym
from transpile.thread import ir
from transpile.thread.named import Named
from transpile.thread.walk import all_nodes


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the struct: its name, its type here, what the launch passes."""

    name: str
    dtype: DType
    host: str


class Arguments:
    """Names of a kernel's parameters, and sizes as expressions of them."""

    def __init__(self, source: tile.Kernel, kernel: ir.Kernel, sizes: HostSizes) -> None:
        self.source = source
        self.kernel = kernel
        self.host = sizes
        self.index_dtype = source.index_dtype or I32
        self.scope = Scope()
        self.tensors = {t: self.scope.declare(t.name) for t in kernel.tensors}
        self.members: dict[object, Member] = {}
        self.member_names = Scope()
        self.numbers = Numbers(kernel, self.scope)
        self.named = dict(reversed(source.size_names))
        self.wide = self._wide()

    def _wide(self) -> set[Size]:
        """Members of 64 bits: integer arguments (seeds, numbers added to 64-bit tensors) that are
        asked for in no other width. What a 32-bit one cannot hold, the launch refuses."""
        asked: dict[Size, set[int]] = {}

        def visit(size: Size, bits: int) -> None:
            if size.as_sym() is not None or size in self.named:
                asked.setdefault(size, set()).add(bits)
                return
            for mono, _ in size.terms:
                for atom in mono:
                    parts = (Size.of(atom),) if isinstance(atom, Sym) else (atom.lhs, atom.rhs)
                    for part in parts:
                        visit(part, bits)

        for node in all_nodes(self.kernel.body):
            if isinstance(node, ir.Extent) and node.size.as_int() is None:
                visit(node.size, node.dtype.bits)
        return {
            size
            for size, widths in asked.items()
            if widths == {64} and any(sym.kind == "scalar" for sym in size.syms)
        }

    def struct(self) -> list[Member]:
        """The members in the order of the source: scalars, sizes, strides."""

        def place(key: object) -> tuple[int, int, int, str]:
            if isinstance(key, str):
                names = [s.name for s in self.source.scalars]
                return 0, names.index(key), 0, key
            for i, tensor in enumerate(self.source.tensors):
                for kind, table in ((1, tensor.shape), (2, tensor.strides)):
                    if key in table and (kind == 1) == (key in tensor.shape):
                        return kind, i, table.index(key), ""
            return 3, 0, 0, str(key)

        return [self.members[key] for key in sorted(self.members, key=place)]

    def scalar(self, name: str, dtype: DType) -> Text:
        """A scalar argument of the source."""
        if name not in self.members:
            scalar = next(s for s in self.source.scalars if s.name == name)
            self._member(name, scalar.name, scalar.dtype, scalar.host)
        found = self.members[name]
        text = f"params.{found.name}"
        return (text, POSTFIX) if found.dtype == dtype else (f"{NAMES[dtype]}({text})", ATOM)

    def size(self, size: Size, dtype: DType) -> Text:
        """A size as an integer of the given type."""
        constant = size.as_int()
        if isinstance(constant, Named):
            return self.numbers.of(constant)
        if constant is not None:
            return number(constant, dtype), ATOM if constant >= 0 else UNARY
        sym, name = size.as_sym(), self.named.get(size)
        if sym is None and name is None:
            return self._polynomial(size, dtype)
        if size not in self.members:
            kind = I64 if size in self.wide else self.index_dtype
            self._member(size, self._hint(size), kind, name or self.host.text(size))
        found = self.members[size]
        text = f"params.{found.name}"
        return (text, POSTFIX) if dtype.bits <= found.dtype.bits else (f"long({text})", ATOM)

    def _member(self, key: object, hint: str, dtype: DType, host: str) -> None:
        if dtype not in STRUCT and dtype.is_float:
            dtype = F32
        if dtype not in STRUCT:
            raise error(
                "KT0610", f"the scalar `{hint}` is {dtype.name}", self.source.span,
                why="Metal has no such type for an argument",
                remedy="pass it as i32, i64 or f32",
            )  # fmt: skip
        self.members[key] = Member(self.member_names.declare(hint), dtype, host)

    def _hint(self, size: Size) -> str:
        """The source's name for a size, else one made from its symbol."""
        name = self.named.get(size)
        if name is not None and name.isidentifier():
            return name
        sym = size.as_sym()
        if sym is not None and sym.kind == "stride":
            for tensor in self.source.tensors:
                if size in tensor.strides:
                    return f"{tensor.name}_stride_{tensor.strides.index(size)}"
        if sym is None:
            return "".join(c if c.isalnum() else "_" for c in str(size))
        hint = sym.name.lower()
        taken = {*self.named.values(), *(s.name for s in self.source.scalars)}
        if hint in taken:  # the source calls something else so
            for tensor in self.source.tensors:
                if size in tensor.shape:
                    return f"{tensor.name}_size_{tensor.shape.index(size)}"
        return hint

    def _polynomial(self, size: Size, dtype: DType) -> Text:
        """A sum of products of members."""
        out, terms = "", 0
        for mono, coeff in size.terms:
            factors = [self._atom(atom, dtype) for atom in mono]
            if abs(coeff) != 1 or not factors:
                one = Size.of(coeff if coeff > 0 else -coeff)
                factors.append(self.size(one, dtype))
            text = " * ".join(enclosed(f, MUL + (i > 0)) for i, f in enumerate(factors))
            single = factors[0][1] if len(factors) == 1 else MUL
            terms += 1
            if not out:
                out = f"-{text}" if coeff < 0 else text
                prec = min(single, UNARY) if coeff < 0 else single
            else:
                out += f" - {text}" if coeff < 0 else f" + {text}"
        return out, prec if terms == 1 else ADD

    def _atom(self, atom: Sym | Opaque, dtype: DType) -> Text:
        if isinstance(atom, Sym):
            return self.size(Size.of(atom), dtype)
        lhs, rhs = self.size(atom.lhs, dtype), self.size(atom.rhs, dtype)
        if atom.op in ("min", "max"):
            return f"{atom.op}({lhs[0]}, {rhs[0]})", ATOM
        symbol = "/" if atom.op == "//" else "%"
        return f"{enclosed(lhs, MUL)} {symbol} {enclosed(rhs, MUL + 1)}", MUL
