"""A small builder of hand-made kernels for tests of the IR and its passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from transpile.ir import ir
from transpile.ir.dtypes import BOOL, F32, I32, I64, DType
from transpile.ir.ir import Block, Op, TileType, TileVar, Value
from transpile.ir.ops import ELEMENTWISE, REDUCTIONS
from transpile.ir.sizes import Size, Sym
from transpile.ir.walk import index_shape


@dataclass
class Loop:
    """An open region: its variable, its carried values, and what it will yield."""

    var: Value
    carried: tuple[Value, ...]
    yields: tuple[Value, ...] = ()
    results: tuple[Value, ...] = ()


@dataclass
class KernelBuilder:
    """Appends operations at the current place; ``build`` closes the kernel."""

    name: str = "k"
    tensors: list[ir.Tensor] = field(default_factory=list)
    scalars: list[ir.Scalar] = field(default_factory=list)
    blocks: list[ir.BlockSize] = field(default_factory=list)
    phases: list[ir.Phase] = field(default_factory=list)
    facts: dict[Sym, int] = field(default_factory=dict)
    _ops: list[list[Op]] = field(default_factory=list)
    _loops: int = 0

    # -- declarations ----------------------------------------------------------------------

    def dim(self, name: str, multiple_of: int = 1) -> Size:
        sym = Sym(name, "dim")
        if multiple_of != 1:
            self.facts[sym] = multiple_of
        return Size.of(sym)

    def block(self, name: str, fixed: int | None = None) -> Sym:
        sym = Sym(name, "block")
        self.blocks.append(ir.BlockSize(sym, None if fixed is None else Size.of(fixed)))
        return sym

    def tensor(self, name: str, dtype: DType, *shape: Size | int) -> ir.Tensor:
        sizes = tuple(Size.of(s) for s in shape)
        strides = [prod(sizes[axis + 1 :], start=Size.of(1)) for axis in range(len(sizes))]
        tensor = ir.Tensor(name, dtype, sizes, tuple(strides), name, name)
        self.tensors.append(tensor)
        return tensor

    def scalar(self, name: str, dtype: DType) -> Value:
        if name not in {s.name for s in self.scalars}:
            self.scalars.append(ir.Scalar(name, dtype, name))
        return self.emit(ir.HostScalar(name, results=(Value(TileType(dtype), name),)))

    # -- structure -------------------------------------------------------------------------

    def emit(self, op: Op) -> Value:
        self._ops[-1].append(op)
        return op.results[0] if op.results else None  # type: ignore[return-value]

    @contextmanager
    def grid(self, **axes: tuple[Any, ...]) -> Iterator[tuple[Value, ...]]:
        """A phase. An axis is (block, end), (block, begin, end), or (None, end): scalar."""
        built = []
        for name, (block, *bounds) in axes.items():
            begin, end = bounds if len(bounds) == 2 else (0, bounds[0])
            type_ = TileVar(block) if block else TileType(I32)
            built.append(ir.GridAxis(Value(type_, name), Size.of(begin), Size.of(end), block))
        self._ops.append([])
        yield tuple(axis.var for axis in built)
        body = Block((), self._ops.pop())
        self.phases.append(ir.Phase(tuple(built), body, self._next_loop()))

    def _next_loop(self) -> int:
        self._loops += 1
        return self._loops - 1

    @contextmanager
    def for_tile(
        self, block: Sym, begin: Value, end: Value, *inits: Value, name: str = "t"
    ) -> Iterator[Loop]:
        carried = tuple(Value(i.type, i.name) for i in inits)
        loop = Loop(Value(TileVar(block), name), carried)
        self._ops.append([])
        yield loop
        body = Block((loop.var, *carried), self._ops.pop(), loop.yields)
        loop.results = tuple(Value(i.type, i.name) for i in inits)
        number = self._next_loop()
        self.emit(ir.ForTile(begin, end, block, inits, body, number, results=loop.results))

    @contextmanager
    def for_range(
        self, begin: Value, end: Value, step: Value, *inits: Value, name: str = "i"
    ) -> Iterator[Loop]:
        carried = tuple(Value(i.type, i.name) for i in inits)
        loop = Loop(Value(begin.type, name), carried)
        self._ops.append([])
        yield loop
        body = Block((loop.var, *carried), self._ops.pop(), loop.yields)
        loop.results = tuple(Value(i.type, i.name) for i in inits)
        number = self._next_loop()
        self.emit(ir.ForRange(begin, end, step, inits, body, number, results=loop.results))

    @contextmanager
    def region(self, *params: Value) -> Iterator[Block]:
        """A free-standing block to hand to an operation; set its ``yields`` inside."""
        block = Block(params, [])
        self._ops.append(block.ops)
        yield block
        self._ops.pop()

    def build(self, signature: str = "") -> ir.Kernel:
        params = tuple(ir.Param(t.name, None, None, "tensor") for t in self.tensors)
        params += tuple(ir.Param(s.name, None, None, "scalar") for s in self.scalars)
        return ir.Kernel(
            name=self.name, params=params, signature=signature, returns=None, docstring=None,
            host=tuple(ir.Launch(n) for n in range(len(self.phases))),
            phases=tuple(self.phases), tensors=tuple(self.tensors), scalars=tuple(self.scalars),
            blocks=tuple(self.blocks), size_names=(), multiple_of=dict(self.facts),
        )  # fmt: skip

    # -- leaves ----------------------------------------------------------------------------

    def const(self, value: bool | int | float, dtype: DType | None = None) -> Value:
        if dtype is None:
            dtype = BOOL if isinstance(value, bool) else F32 if isinstance(value, float) else I32
        return self.emit(ir.Const(value, results=(Value(TileType(dtype)),)))

    def size(self, size: Size | int, dtype: DType = I32) -> Value:
        return self.emit(ir.SizeOf(Size.of(size), results=(Value(TileType(dtype)),)))

    def index(self, tile: Value, dtype: DType = I32) -> Value:
        shape = (Size.of(tile.type.block),)  # type: ignore[union-attr]
        return self.emit(ir.TileIndex(tile, results=(Value(TileType(dtype, shape)),)))

    def attr(self, tile: Value, attr: str) -> Value:
        return self.emit(ir.TileAttr(tile, attr, results=(Value(TileType(I32)),)))  # type: ignore[arg-type]

    def iota(self, n: Size | int, start: int = 0, step: int = 1) -> Value:
        type_ = TileType(I32, (Size.of(n),))
        return self.emit(ir.Iota(start, step, results=(Value(type_),)))

    def full(self, value: float, dtype: DType, *shape: Size | Sym | int) -> Value:
        type_ = TileType(dtype, tuple(Size.of(s) for s in shape))
        scalar = self.const(value, dtype)
        return self.emit(ir.Full(scalar, results=(Value(type_),)))

    # -- memory ----------------------------------------------------------------------------

    def _index(self, tensor: ir.Tensor, index: Sequence[Any]) -> tuple[ir.Index, ...]:
        entries: list[ir.Index] = []
        axis = 0
        for dim, item in enumerate(index):
            if isinstance(item, slice):
                entry: ir.Index = ir.AtSlice(None, tensor.shape[dim])
            elif not isinstance(item, Value):
                entry = item
            elif isinstance(item.type, TileVar):
                entry = ir.AtTile(item)
            elif item.shape:
                entry = ir.AtTensor(item, tuple(range(axis, axis + len(item.shape))))
            else:
                entry = ir.AtScalar(item)
            entries.append(entry)
            if isinstance(entry, ir.AtTensor):
                axis = max(axis, *(d + 1 for d in entry.dims))
            elif not isinstance(entry, ir.AtScalar):
                axis += 1
        return tuple(entries)

    @staticmethod
    def _guards(index: Sequence[ir.Index]) -> tuple[ir.Guard, ...]:
        guards, axis = [], 0
        for entry in index:
            if isinstance(entry, (ir.AtTile, ir.AtSlice)):
                tile = entry.tile if isinstance(entry, ir.AtTile) else None
                guards.append(ir.Guard(axis, tile))
                axis += 1
            elif isinstance(entry, ir.AtTensor):
                axis = max(axis, *(d + 1 for d in entry.dims))
        return tuple(guards)

    def load(
        self, tensor: ir.Tensor, *index: Any, guards: Any = (), mask: Value | None = None,
        name: str | None = None,
    ) -> Value:  # fmt: skip
        entries = self._index(tensor, index)
        type_ = TileType(tensor.dtype, index_shape(entries))
        guards = (*self._guards(entries), *guards)
        op = ir.Load(tensor, entries, guards, mask, results=(Value(type_, name),))
        return self.emit(op)

    def store(
        self, tensor: ir.Tensor, index: Sequence[Any], value: Value, guards: Any = (),
        mask: Value | None = None,
    ) -> None:  # fmt: skip
        entries = self._index(tensor, index)
        guards = (*self._guards(entries), *guards)
        self.emit(ir.Store(tensor, entries, value, guards, mask))

    # -- compute ---------------------------------------------------------------------------

    def ew(self, name: str, *args: Value, as_name: str | None = None) -> Value:
        """Elementwise operation; axes of size 1 broadcast against the other operands."""
        rule = ELEMENTWISE[name].rule
        dtype = args[-1].dtype
        if rule == "bool":
            dtype = BOOL
        elif rule == "float" and not dtype.is_float:
            dtype = F32
        ranked = [a.shape for a in args if a.shape]
        shape = tuple(
            next((s for s in sizes if s.as_int() != 1), sizes[0])
            for sizes in zip(*ranked, strict=True)
        )
        return self.emit(
            ir.Elementwise(name, args, results=(Value(TileType(dtype, shape), as_name),))
        )

    def cast(self, value: Value, dtype: DType) -> Value:
        return self.emit(ir.Cast(value, results=(Value(TileType(dtype, value.shape)),)))

    def reshape(self, value: Value, *shape: Size | Sym | int) -> Value:
        type_ = TileType(value.dtype, tuple(Size.of(s) for s in shape))
        return self.emit(ir.Reshape(value, results=(Value(type_),)))

    def broadcast(self, value: Value, *shape: Size | Sym | int) -> Value:
        type_ = TileType(value.dtype, tuple(Size.of(s) for s in shape))
        return self.emit(ir.Broadcast(value, results=(Value(type_),)))

    def permute(self, value: Value, *order: int) -> Value:
        type_ = TileType(value.dtype, tuple(value.shape[o] for o in order))
        return self.emit(ir.Permute(value, order, results=(Value(type_),)))

    def mask(self, value: Value, fill: float, *guards: tuple[int, Value | None]) -> Value:
        built = tuple(ir.Guard(d, t) for d, t in guards)
        return self.emit(ir.Mask(value, built, fill, results=(Value(value.type),)))

    def reduce(
        self, name: str, value: Value, dim: int, keepdim: bool = False, as_name: str | None = None
    ) -> Value:
        kept = (Size.of(1),) if keepdim else ()
        shape = (*value.shape[:dim], *kept, *value.shape[dim + 1 :])
        dtype = value.dtype
        if REDUCTIONS[name].index or (name in ("sum", "prod") and not dtype.is_float):
            dtype = I64
        elif name in ("any", "all"):
            dtype = BOOL
        result = Value(TileType(dtype, shape), as_name)
        return self.emit(ir.Reduce(name, value, dim, keepdim, results=(result,)))

    def dot(self, lhs: Value, rhs: Value, acc: Value | None = None, dtype: DType = F32) -> Value:
        shape = (*lhs.shape[:-1], rhs.shape[-1])
        result = Value(TileType(acc.dtype if acc is not None else dtype, shape))
        return self.emit(ir.Dot(lhs, rhs, acc, dtype, "ieee", results=(result,)))
