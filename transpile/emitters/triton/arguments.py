"""The arguments of a generated kernel: tensors, scalars, sizes, strides and compile-time numbers.

An argument comes into being when the code first needs it. What the launch passes for it is host
Python; a compile-time number that follows from others is a function of the arguments by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from transpile.emitters.common.hostsizes import HostSizes, HostSpelling, source_names
from transpile.emitters.common.names import RESERVED as PYTHON_NAMES
from transpile.emitters.common.names import mangle
from transpile.emitters.common.tree import ADD, MUL, Expr, Var, binary, call, lit, ref
from transpile.ir import ir
from transpile.ir.dtypes import I32, I64, DType
from transpile.ir.sizes import Opaque, Size, Sym
from transpile.passes.schedule import Schedule

#: names a kernel must not bind: modules of the generated file and builtins that Triton knows
RESERVED = PYTHON_NAMES | {"tl", "triton", "torch", "libdevice"}

HOST_SPELLING = HostSpelling(cdiv="triton.cdiv")


@dataclass(eq=False, slots=True)
class Argument:
    """A kernel argument: its variable and what the launch passes. ``order`` sorts the groups
    tensors, scalars, sizes, strides, compile-time numbers."""

    var: Var
    host: str
    order: tuple[int, int]
    constexpr: bool = False
    tensor: ir.Tensor | None = None  # what it points to, or describes
    lanes_of: Size | None = None  # the size it is padded from
    per_launch: Expr | None = None  # a compile-time number that follows from the arguments


class Arguments:
    """The arguments so far, and sizes as expressions of them."""

    def __init__(self, kernel: ir.Kernel, schedule: Schedule) -> None:
        self.kernel = kernel
        self.schedule = schedule
        self.index_dtype: DType = kernel.index_dtype or I32
        self.arguments: dict[object, Argument] = {}
        self.numbers: set[Var] = set()  # what may be a Python number: arguments, loop variables
        self.described: list[str] = []  # tensors in descriptors, as the host spells them
        self.constants = source_names(kernel)
        self.host_sizes = HostSizes(kernel, schedule, HOST_SPELLING)
        self.sizes_by_name = dict(reversed(kernel.size_names))

    # -- sizes ---------------------------------------------------------------------------------

    def extent_int(self, size: Size) -> int | None:
        """Number of lanes of an axis if known at build time, padded to a power of two."""
        number = size.substitute(self.schedule.blocks).as_int()
        return None if number is None else next_power_of_2(number)

    def padded(self, size: Size) -> bool:
        """True if an axis of this size has lanes beyond its extent."""
        number = size.substitute(self.schedule.blocks).as_int()
        return number is None or number != next_power_of_2(number)

    def extent(self, size: Size) -> Expr:
        """The number of lanes of an axis: a literal or a compile-time argument."""
        sym = size.as_sym()
        if sym is not None and sym in self.schedule.dynamic_blocks:
            return self._dynamic_extent(sym)
        if sym is not None and sym.kind == "block":
            return self.block(sym)
        if size.syms and all(s.kind == "block" for s in size.syms):
            return self.size(size)
        number = size.as_int()
        if number is not None:
            return lit(str(next_power_of_2(number)))
        key = ("extent", size)
        if key not in self.arguments:
            var = Var("BLOCK_" + axis_name(self.size_hint(size)).upper())
            self._argument(key, var, "", 4, constexpr=True)
            self.arguments[key].per_launch = call("triton.next_power_of_2", self.size(size))
            self.arguments[key].lanes_of = size
        return ref(self.arguments[key].var)

    def _dynamic_extent(self, sym: Sym) -> Expr:
        """A block size that the host computes, as a number of lanes: passed at compile time."""
        key = ("extent", Size.of(sym))
        if key not in self.arguments:
            self._argument(key, Var(block_name(sym.name)), "", 4, constexpr=True)
            self.arguments[key].per_launch = self.size(self.schedule.dynamic_blocks[sym])
        return ref(self.arguments[key].var)

    def block(self, sym: Sym) -> Expr:
        """A block size: a compile-time argument named after the source's variable."""
        if sym in self.schedule.dynamic_blocks:
            return self.size(self.schedule.dynamic_blocks[sym])
        key = ("block", sym)
        if key not in self.arguments:
            var = Var(block_name(sym.name))
            self._argument(key, var, str(self.schedule.blocks[sym]), 4, constexpr=True)
        return ref(self.arguments[key].var, I32)

    def constexpr(self, name: str, host: str) -> Expr:
        """A compile-time argument that is no block size, e.g. GROUP_M."""
        key = ("constexpr", name)
        if key not in self.arguments:
            self._argument(key, Var(name), host, 5, constexpr=True)
        return ref(self.arguments[key].var)

    def size(self, size: Size, prec: int = 0) -> Expr:
        """A host integer in the kernel: literal, argument, or an expression of arguments."""
        number = size.as_int()
        if number is not None:
            return lit(str(number))
        sym = size.as_sym()
        if sym is not None and sym.kind == "block":
            return self.block(sym)
        name = self.sizes_by_name.get(size)
        if sym is not None or (name is not None and not _has_blocks(size)):
            return self._size_argument(size, name)
        return self._polynomial(size)

    def _size_argument(self, size: Size, name: str | None) -> Expr:
        key = ("size", size)
        if key not in self.arguments:
            sym = size.as_sym()
            stride = sym is not None and sym.kind == "stride"
            host = name or self.host_size(size)
            self._argument(key, Var(self.size_hint(size)), host, 3 if stride else 2)
        return ref(self.arguments[key].var, I32)

    def size_hint(self, size: Size) -> str:
        """The source's name for a size, else one made from its symbol or number."""
        name = self.sizes_by_name.get(size)
        if name is not None and name.isidentifier():
            return name
        if (tensor := self._stride_of(size)) is not None:
            return f"{tensor[0]}_stride_{tensor[1]}"
        sym = size.as_sym()
        if sym is not None:
            return sym.name.lower()
        number = size.as_int()
        if number is not None and number in self.constants:
            return self.constants[number]
        words = "".join(c if c.isalnum() else "_" for c in str(size)).strip("_").lower()
        while "__" in words:
            words = words.replace("__", "_")
        return words

    def _stride_of(self, size: Size) -> tuple[str, int] | None:
        sym = size.as_sym()
        if sym is None or sym.kind != "stride":
            return None
        for tensor in self.kernel.tensors:
            for dim, stride in enumerate(tensor.strides):
                if stride == size:
                    return tensor.name, dim
        return None

    def host_size(self, size: Size) -> str:
        """Host Python for a size, with block sizes as numbers."""
        return self.host_sizes.text(size)

    def _polynomial(self, size: Size) -> Expr:
        total: Expr | None = None
        for mono, coeff in size.terms:
            term: Expr | None = None
            for atom in sorted(mono, key=lambda a: isinstance(a, Sym)):
                factor = self.size(Size.of(atom)) if isinstance(atom, Sym) else self._opaque(atom)
                if term is None and self.index_dtype == I64 and (len(mono) > 1 or abs(coeff) > 1):
                    factor = call("tl.cast", factor, lit("tl.int64"), dtype=I64)
                term = factor if term is None else binary("*", term, factor, MUL, dtype=I32)
            if term is None:
                term = lit(str(abs(coeff)))
            elif abs(coeff) != 1:
                term = binary("*", term, lit(str(abs(coeff))), MUL, dtype=I32)
            if total is None:
                total = term if coeff > 0 else Expr("-{0}", (term,), (MUL,), ADD + 2, dtype=I32)
            else:
                total = binary("-" if coeff < 0 else "+", total, term, ADD, dtype=I32)
        assert total is not None
        return total

    def _opaque(self, atom: Opaque) -> Expr:
        over = atom.lhs - atom.rhs + 1
        if atom.op == "//" and over.terms and all(c > 0 for _, c in over.terms):
            return call("tl.cdiv", self.size(over), self.size(atom.rhs), dtype=I32)
        op, lhs, rhs = atom.op, self.size(atom.lhs), self.size(atom.rhs)
        if op in ("min", "max"):
            return call(op, lhs, rhs, dtype=I32)
        return binary(op, lhs, rhs, MUL, dtype=I32)

    # -- arguments -----------------------------------------------------------------------------

    def tensor(self, tensor: ir.Tensor) -> Expr:
        """The pointer argument of a tensor."""
        key = ("tensor", tensor)
        if key not in self.arguments:
            self._argument(key, Var(tensor.name), tensor.host, 0)
            self.arguments[key].tensor = tensor
        return ref(self.arguments[key].var)

    def descriptor(self, tensor: ir.Tensor, shape: tuple[Size, ...]) -> Expr:
        """The argument of a tensor's descriptor for blocks of a shape."""
        key = ("descriptor", tensor, shape)
        if key not in self.arguments:
            lanes = [self.extent_int(s) for s in shape]
            sizes = [
                f"triton.next_power_of_2({self.host_size(s)})" if n is None else str(n)
                for s, n in zip(shape, lanes, strict=True)
            ]
            block = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
            host = f"kt.descriptor({tensor.host}, {block})"
            self._argument(key, Var(f"{tensor.name}_desc"), host, 0)
            self.arguments[key].tensor = tensor
            self.described.append(tensor.host)
        return ref(self.arguments[key].var)

    def scalar(self, name: str) -> Expr:
        """The argument of a run-time host scalar."""
        scalar = next(s for s in self.kernel.scalars if s.name == name)
        key = ("scalar", name)
        if key not in self.arguments:
            self._argument(key, Var(scalar.name), scalar.host, 1)
        return ref(self.arguments[key].var, scalar.dtype)

    def _argument(
        self, key: object, var: Var, host: str, group: int, *, constexpr: bool = False
    ) -> None:
        taken = [a.var.name for a in self.arguments.values()]
        var.name = mangle(var.hint, taken, RESERVED)
        var.argument = True
        position = len(self.arguments)
        if group == 0:
            names = [t.name for t in self.kernel.tensors]
            position = names.index(key[1].name)  # type: ignore[index]
        if group > 0:
            self.numbers.add(var)
        self.arguments[key] = Argument(var, host, (group, position), constexpr)

    def used_arguments(self, used: set[Var]) -> list[Argument]:
        """Arguments that the kernel reads, or that a compile-time number is made from."""
        arguments = [a for a in self.arguments.values() if a.var in used]
        needed = {v for a in arguments if a.per_launch is not None for v in a.per_launch.vars()}
        arguments = [a for a in self.arguments.values() if a.var in used | needed]
        return sorted(arguments, key=lambda a: a.order)


def _has_blocks(size: Size) -> bool:
    return any(s.kind == "block" for s in size.syms)


def next_power_of_2(n: int) -> int:
    """The least power of two that is ``n`` or more."""
    return 1 << max(0, n - 1).bit_length()


def axis_name(name: str) -> str:
    """``m`` of ``tile_m``, ``m_tile``, ``block_m``, ``m``."""
    lowered = name.lower()
    for prefix in ("tile_", "block_size_", "block_"):
        if lowered.startswith(prefix) and len(lowered) > len(prefix):
            return name[len(prefix) :]
    for suffix in ("_tile", "_block"):
        if lowered.endswith(suffix) and len(lowered) > len(suffix):
            return name[: -len(suffix)]
    if lowered.startswith("tile") and lowered[4:].isdigit():
        return lowered[4:]
    return "" if lowered in ("tile", "block", "block_size") else name


def with_axis(prefix: str, name: str) -> str:
    """``offs`` and ``tile_m`` make ``offs_m``; ``offs`` and ``tile`` make ``offs``."""
    axis = axis_name(name)
    return f"{prefix}_{axis}" if axis else prefix


def block_name(name: str) -> str:
    """``BLOCK_M`` for a block-size symbol named ``tile_m``, ``block_m`` or ``m``."""
    while name.lower().startswith("block_block"):
        name = name[len("block_") :]
    if name.lower() in ("block_size", "tile", "block"):
        return "BLOCK_SIZE"
    return with_axis("BLOCK", name).upper()
