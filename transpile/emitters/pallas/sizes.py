"""Sizes in a phase's two functions: which variables they are, and where the call gets them from.

The call function reads dimensions off its tensors' shapes; what no shape gives is an argument of
its own. The kernel gets the numbers it needs as keywords, under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.emitters.common.names import mangle
from transpile.emitters.common.tree import ADD, MUL, Expr, Var, binary, call, lit, ref
from transpile.emitters.pallas.variation import General
from transpile.ir import ir
from transpile.ir.dtypes import I32
from transpile.ir.sizes import Opaque, Size, Sym
from transpile.passes.schedule import Schedule


def block_variable(name: str) -> str:
    """``block_m`` for a block-size symbol named ``BLOCK_M``."""
    lowered = name.lower()
    while lowered.startswith("block_block"):
        lowered = lowered.removeprefix("block_")
    return lowered


@dataclass(eq=False, slots=True)
class Sizes:
    """Variables of sizes and blocks, made when the code first needs them."""

    kernel: ir.Kernel
    schedule: Schedule
    taken: set[str] = field(default_factory=set)
    reserved: frozenset[str] = frozenset()
    variables: dict[Size, Var] = field(default_factory=dict)
    dims: frozenset[Size] = frozenset()  # dimensions of tensors that the phase reads
    general: dict[Size, General] = field(default_factory=dict)  # differ between signatures
    opened: dict[Sym, Size] = field(default_factory=dict)
    open_blocks: frozenset[Sym] = frozenset()  # blocks that do
    rows: dict[Sym, tuple[Size, int]] = field(default_factory=dict)  # width of their rows, least
    turns: dict[Sym, tuple[Size, Sym]] = field(default_factory=dict)  # of a loop: extent, block

    def open(self, size: Size) -> Size:
        """A size that differs between signatures as a symbol, so that products keep its name."""
        if size not in self.general or size.as_int() is None:
            return size
        sym = Sym(self.general[size].name, "dim")
        self.opened[sym] = size
        return Size.of(sym)

    def number(self, size: Size) -> int | None:
        """The value, if it is known at build time."""
        sym = size.as_sym()
        if sym is not None and sym.kind == "block":
            return self.block_number(sym)
        return size.as_int()

    def block_number(self, sym: Sym) -> int | None:
        """A block's size if it does not depend on the dimensions it is clamped to."""
        if sym not in self.schedule.blocks or sym in self.open_blocks:
            return None
        if sym in self.rows:
            return None
        size = self.schedule.blocks[sym]
        extents = self.clamps(sym)
        if not extents:
            return size
        known = [e.as_int() for e in extents]
        if any(k is None for k in known):
            return None
        limits = [k for k in known if k is not None]
        if (least := self._least.get(sym)) is not None:
            limits = [max(least, 1 << (k - 1).bit_length()) for k in limits]
        return min(size, *limits)

    def clamps(self, sym: Sym) -> list[Size]:
        """Dimensions that a block is no longer than; none where it is walked in steps."""
        return self._clamps.get(sym, [])

    _clamps: dict[Sym, list[Size]] = field(default_factory=dict)

    def clamp(self, sym: Sym, extents: list[Size]) -> None:
        """The block is ``min(block, extents...)``."""
        self._clamps[sym] = extents

    _least: dict[Sym, int] = field(default_factory=dict)

    def round_up(self, sym: Sym, least: int) -> None:
        """Where the block is cut to a dimension, it stays a power of two of at least ``least``:
        copies have to be of whole tiles."""
        self._least[sym] = least

    def limits(self, sym: Sym) -> list[str]:
        """Python for what a block is no larger than."""
        found = [self.expr(e).text() for e in self.clamps(sym)]
        if (least := self._least.get(sym)) is None:
            return found
        return [f"max({least}, pl.next_power_of_2({text}))" for text in found]

    def expr(self, size: Size) -> Expr:
        """Python for a size: a number, a variable, or arithmetic on variables."""
        if size in self.general:
            return ref(self.variable(size), I32)
        number = self.number(size)
        if number is not None:
            return lit(str(number))
        whole = size in self.variables or size in self.dims
        if whole or size.as_sym() is not None or self._named(size) is not None:
            return ref(self.variable(size), I32)
        return self._polynomial(size)

    def variable(self, size: Size) -> Var:
        """The variable that holds a size."""
        if size not in self.variables:
            var = Var(self.hint(size), argument=True)
            var.name = mangle(var.hint, self.taken, self.reserved)
            self.taken.add(var.name)
            self.variables[size] = var
        return self.variables[size]

    def hint(self, size: Size) -> str:
        """The source's name for a size, else one made from its symbol."""
        if size in self.general:
            return self.general[size].name
        sym = size.as_sym()
        if sym is not None and sym.kind == "block":
            return block_variable(sym.name)
        name = self._named(size)
        if name is not None:
            return name
        if sym is not None:
            return {"l": "length"}.get(sym.name.lower(), sym.name.lower())  # not 1
        words = "".join(c if c.isalnum() else "_" for c in str(size)).strip("_").lower()
        while "__" in words:
            words = words.replace("__", "_")
        return words

    def _named(self, size: Size) -> str | None:
        for known, name in self.kernel.size_names:
            if known == size and name.isidentifier():
                return name
        return None

    def _polynomial(self, size: Size) -> Expr:
        total: Expr | None = None
        for mono, coeff in size.terms:
            term: Expr | None = None
            for atom in mono:
                factor = self.expr(Size.of(atom)) if isinstance(atom, Sym) else self._opaque(atom)
                term = factor if term is None else binary("*", term, factor, MUL, dtype=I32)
            if term is None:
                term = lit(str(abs(coeff)))
            elif abs(coeff) != 1:
                term = binary("*", term, lit(str(abs(coeff))), MUL, dtype=I32)
            if total is None:
                total = term if coeff > 0 else Expr("-{0}", (term,), (MUL,), ADD + 2, dtype=I32)
            else:
                total = binary("-" if coeff < 0 else "+", total, term, ADD, dtype=I32)
        return lit("0") if total is None else total

    def _opaque(self, atom: Opaque) -> Expr:
        over = atom.lhs - atom.rhs + 1
        if atom.op == "//" and over.terms and all(c > 0 for _, c in over.terms):
            return call("pl.cdiv", self.expr(over), self.expr(atom.rhs), dtype=I32)
        lhs, rhs = self.expr(atom.lhs), self.expr(atom.rhs)
        if atom.op in ("min", "max"):
            return call(atom.op, lhs, rhs, dtype=I32)
        return binary(atom.op, lhs, rhs, MUL, dtype=I32)
