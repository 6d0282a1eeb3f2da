"""What is known of a kernel's parameters: stated by a signature, or learnt from the body."""

from __future__ import annotations

from dataclasses import dataclass, field

from transpile.frontend.signatures import LiteralSpec, ScalarSpec, Spec, TensorSpec
from transpile.frontend.values import HostTensor
from transpile.ir.dtypes import F32, DType
from transpile.ir.sizes import ONE, Size, Sym


class Unify(Exception):
    """Two dimensions turned out to be one; evaluation starts over with that knowledge."""

    def __init__(self, sym: Sym, size: Size) -> None:
        super().__init__(str(sym))
        self.sym = sym
        self.size = size


@dataclass
class Facts:
    """Stated specs plus inferred ranks and dtypes, and equalities between dimensions."""

    stated: dict[str, Spec] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, DType] = field(default_factory=dict)
    equal: dict[Sym, Size] = field(default_factory=dict)
    multiple_of: dict[Sym, int] = field(default_factory=dict)
    guesses: dict[str, int] = field(default_factory=dict)  # ranks nothing has confirmed
    params: list[str] = field(default_factory=list)  # all parameters, in order
    assumed: set[str] = field(default_factory=set)  # parameters whose type nobody stated

    def tensor(self, name: str) -> HostTensor:
        """The tensor a parameter holds; rank unknown until stated or learnt."""
        spec = self.stated.get(name)
        if isinstance(spec, TensorSpec):
            return self._stated(name, spec)
        self.assumed.add(name)
        dtype = self.dtypes.get(name, F32)
        rank = self.ranks.get(name, self.guesses.get(name))
        if rank is None:
            return HostTensor(dtype, None, (), host=name, param=name)
        dims = tuple(self._resolve(Size.of(Sym(f"{name}_{i}", "dim"))) for i in range(rank))
        made = HostTensor(dtype, dims, _row_major(rank), host=name, param=name)
        if name not in self.ranks:
            made.guessed, made.follows = True, name
        return made

    def inferred(self, size: Size) -> bool:
        """True for a dimension that stands in a type nobody stated."""
        sym = size.as_sym()
        return sym is not None and sym.kind == "dim" and sym.name.rpartition("_")[0] in self.assumed

    def reconcile(self, a: Size, b: Size) -> None:
        """Two axes meet that must be one: learn it if an inferred dimension is among them."""
        if self.inferred(a) or self.inferred(b):
            for one, other in ((b, a), (a, b)) if self.inferred(b) else ((a, b),):
                sym = one.as_sym()
                blocks = any(s.kind == "block" for s in other.syms)
                if sym is not None and self.inferred(one) and sym not in other.syms and not blocks:
                    raise Unify(sym, other)

    def _stated(self, name: str, spec: TensorSpec) -> HostTensor:
        dims: list[Size] = []
        for i, dim in enumerate(spec.dims):
            if isinstance(dim, int):
                dims.append(Size.of(dim))
            else:
                dims.append(self._resolve(Size.of(Sym(dim or f"{name}_{i}", "dim"))))
        rank = len(dims)
        strides = _row_major(rank)
        if spec.order is not None and rank:
            minor = spec.order[0]
            strides = tuple(ONE if i == minor else None for i in range(rank))
        return HostTensor(spec.dtype, tuple(dims), strides, host=name, param=name)

    def _resolve(self, size: Size) -> Size:
        for _ in range(len(self.equal) + 1):
            replaced = size.substitute(self.equal)
            if replaced == size:
                return size
            size = replaced
        return size

    def unify(self, a: Size, b: Size) -> bool:
        """Learn ``a == b`` if that identifies a dimension; raises Unify to start over."""
        pairs = sorted(((a, b), (b, a)), key=lambda pair: -self._rank(pair[0]))
        for sym_side, other in pairs:
            sym = sym_side.as_sym()
            if sym is None or sym.kind != "dim" or sym in self.equal or sym in other.syms:
                continue
            raise Unify(sym, other)
        return False

    def _rank(self, size: Size) -> int:
        """How readily a dimension gives up its name: later parameters' first, stated ones last."""
        sym = size.as_sym()
        owner = sym.name.rpartition("_")[0] if sym is not None else ""
        return self.params.index(owner) + 1 if owner in self.params else 0

    def scalar(self, name: str) -> DType | None:
        spec = self.stated.get(name)
        return spec.dtype if isinstance(spec, ScalarSpec) else None

    def literal(self, name: str) -> LiteralSpec | None:
        spec = self.stated.get(name)
        return spec if isinstance(spec, LiteralSpec) else None

    def describe(self, tensor: HostTensor) -> Spec | None:
        """The spec that states what was assumed of a tensor parameter."""
        if tensor.shape is None:
            return None
        dims = tuple(_dim_name(d) for d in tensor.shape)
        return TensorSpec(tensor.dtype, dims, None)


def _dim_name(size: Size) -> str | int | None:
    number = size.as_int()
    if number is not None:
        return number
    sym = size.as_sym()
    return sym.name if sym is not None else None


def _row_major(rank: int) -> tuple[Size | None, ...]:
    return (None,) * (rank - 1) + (ONE,) if rank else ()
