"""The Tile IR: typed SSA with structured control flow. This file is all of it.

A :class:`Kernel` is one source kernel for one signature: its tensors and scalars as the device
sees them, a host program (source statements with launches between them) and the phases. A phase
is a grid of tile axes with a body; consecutive phases are ordered (a launch boundary, or a grid
barrier). A body is a :class:`Block` of operations over :class:`Value`.

Shapes are tuples of :class:`~transpile.ir.sizes.Size`. An axis that belongs to a tile loop has
exactly the loop's block-size symbol as its size, a full slice (``:``) the dimension's size, so
equality of sizes is identity of axes. A scalar has shape ``()``.

What out-of-range lanes hold. A load gives 0 in lanes that one of its guards excludes, a store
does nothing there. Nothing else looks at guards, except :class:`Mask`, which the frontend puts in
front of every reduction and dot and which a pass removes where it is proved to change nothing.
Size axes (no tile) have no out-of-range lanes in the IR; a target that pads them (Triton, to the
next power of two) has, and a guard with ``tile=None`` speaks of those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transpile.ir.dtypes import DType
from transpile.ir.sizes import Size, Sym


@dataclass(frozen=True, slots=True)
class Span:
    """A place in the source file; lines and columns count from 1."""

    line: int
    col: int
    end_line: int = 0
    end_col: int = 0


# -- types and values --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TileType:
    """Element type and axis sizes of a tile; ``shape == ()`` is a scalar."""

    dtype: DType
    shape: tuple[Size, ...] = ()


@dataclass(frozen=True, slots=True)
class TileVar:
    """Type of a tile loop's variable: the ``block`` lanes ``begin + [0, block)``."""

    block: Sym


Type = TileType | TileVar


@dataclass(eq=False, slots=True)
class Value:
    """An SSA value, compared by identity. ``name`` is the source variable it was bound to."""

    type: Type
    name: str | None = None

    @property
    def tile(self) -> TileType:
        assert isinstance(self.type, TileType), f"{self.name} is a tile variable"
        return self.type

    @property
    def dtype(self) -> DType:
        return self.tile.dtype

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.tile.shape


@dataclass(eq=False, slots=True)
class Block:
    """A region: ``params`` are bound on entry, ``yields`` are what it hands back."""

    params: tuple[Value, ...]
    ops: list[Op]
    yields: tuple[Value, ...] = ()


# -- tensors and their indices -----------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor argument of a phase, in device memory.

    ``host`` is the Python expression that gives it where the host program launches. ``strides``
    are in elements: 1 where known contiguous, a size where the allocation implies it, else a
    ``stride`` symbol. ``storage`` is equal for tensors that may share memory.
    """

    name: str
    dtype: DType
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    host: str
    param: str | None = None  # the kernel parameter it is, if it is one unchanged
    storage: str = ""

    def __post_init__(self) -> None:
        self.storage = self.storage or self.name


@dataclass(frozen=True, slots=True)
class AtTile:
    """``tile + offset``: one result axis. The tile's guard applies, no other bounds check."""

    tile: Value
    offset: Value | None = None


@dataclass(frozen=True, slots=True)
class AtScalar:
    """One element; the dimension is dropped."""

    value: Value


@dataclass(frozen=True, slots=True)
class AtSlice:
    """``start : start + length``; ``start=None, length=shape[dim]`` is a full slice. Lanes beyond
    the tensor's dimension are as if a guard excluded them."""

    start: Value | None
    length: Size


@dataclass(frozen=True, slots=True)
class AtTensor:
    """Index tile. ``dims`` are the result axes its own axes stand for (Helion's Cartesian rule)."""

    value: Value
    dims: tuple[int, ...]


Index = AtTile | AtScalar | AtSlice | AtTensor


@dataclass(frozen=True, slots=True)
class Guard:
    """Lanes along result axis ``dim`` are in range: ``tile.index < tile.end``.

    ``tile=None`` means the axis's own extent, for targets that pad it.
    """

    dim: int
    tile: Value | None


# -- operations --------------------------------------------------------------------------------


@dataclass(eq=False, slots=True, kw_only=True)
class Op:
    """Base of all operations. ``span`` is the source expression it came from."""

    results: tuple[Value, ...] = ()
    span: Span | None = None

    @property
    def result(self) -> Value:
        return self.results[0]


@dataclass(eq=False, slots=True)
class Const(Op):
    """A number; its type is the result's (scalar) type. ``weak`` if it was a Python literal."""

    value: bool | int | float


@dataclass(eq=False, slots=True)
class SizeOf(Op):
    """A host-side integer as a device scalar (i32, or i64 with 64-bit indexing)."""

    size: Size


@dataclass(eq=False, slots=True)
class HostScalar(Op):
    """A run-time host scalar (float, int or bool); ``name`` in ``Kernel.scalars``."""

    name: str


@dataclass(eq=False, slots=True)
class TileIndex(Op):
    """``begin + arange(block)``: shape (block,), index dtype."""

    tile: Value


@dataclass(eq=False, slots=True)
class TileAttr(Op):
    """A scalar of the tile: ``end`` is ``min(begin + block, loop end)``, ``id`` is
    ``begin // block``, ``count`` is the loop's trip count."""

    tile: Value
    attr: Literal["begin", "end", "id", "count"]


@dataclass(eq=False, slots=True)
class Load(Op):
    """Read ``tensor[index]``; lanes outside a guard or where ``mask`` is False give 0."""

    tensor: Tensor
    index: tuple[Index, ...]
    guards: tuple[Guard, ...]
    mask: Value | None = None
    eviction: str = ""


@dataclass(eq=False, slots=True)
class Store(Op):
    """Write ``value`` (already of the tensor's dtype; scalar or broadcastable to the index)."""

    tensor: Tensor
    index: tuple[Index, ...]
    value: Value
    guards: tuple[Guard, ...]
    mask: Value | None = None


@dataclass(eq=False, slots=True)
class Atomic(Op):
    """Read-modify-write; the result is the previous value. ``expected`` only for cas."""

    kind: Literal["add", "and", "or", "xor", "xchg", "max", "min", "cas"]
    tensor: Tensor
    index: tuple[Index, ...]
    value: Value
    guards: tuple[Guard, ...]
    sem: str = "relaxed"
    mask: Value | None = None
    expected: Value | None = None


@dataclass(eq=False, slots=True)
class Elementwise(Op):
    """Operation ``name`` of ops.ELEMENTWISE. Operands are scalars or of the result's rank with
    each axis equal to the result's or 1; dtypes are already promoted."""

    name: str
    args: tuple[Value, ...]


@dataclass(eq=False, slots=True)
class Cast(Op):
    """Convert to the result's dtype (float to int truncates, to bool is ``!= 0``);
    ``bitcast`` reinterprets."""

    value: Value
    bitcast: bool = False


@dataclass(eq=False, slots=True)
class Reshape(Op):
    """Row-major reinterpretation to the result's shape; also newaxis, squeeze and flatten."""

    value: Value


@dataclass(eq=False, slots=True)
class Broadcast(Op):
    """Expand axes of size 1 (same rank), or a scalar, to the result's shape."""

    value: Value


@dataclass(eq=False, slots=True)
class Permute(Op):
    """Result axis i is ``value``'s axis ``order[i]``."""

    value: Value
    order: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Join(Op):
    """Two tiles stacked along a new last axis of size 2."""

    lhs: Value
    rhs: Value


@dataclass(eq=False, slots=True)
class Split(Op):
    """Inverse of join: two results from a last axis of size 2."""

    value: Value


@dataclass(eq=False, slots=True)
class Iota(Op):
    """``start + step * arange(n)`` along the one axis of the result."""

    start: int = 0
    step: int = 1


@dataclass(eq=False, slots=True)
class Full(Op):
    """A tile of one scalar value."""

    value: Value


@dataclass(eq=False, slots=True)
class Mask(Op):
    """``where(guards, value, fill)``: resets out-of-range lanes."""

    value: Value
    guards: tuple[Guard, ...]
    fill: bool | int | float


@dataclass(eq=False, slots=True)
class Reduce(Op):
    """Reduction ``name`` of ops.REDUCTIONS over axis ``dim``, dropped unless ``keepdim``."""

    name: str
    value: Value
    dim: int
    keepdim: bool = False


@dataclass(eq=False, slots=True)
class ReduceWith(Op):
    """Reduction with a user combine: block params are (lhs..., rhs...), one yield per value."""

    values: tuple[Value, ...]
    dim: int
    combine: Block
    keepdim: bool = False


@dataclass(eq=False, slots=True)
class Scan(Op):
    """Inclusive scan along ``dim``: ``name`` "sum" or "prod", or a user combine."""

    values: tuple[Value, ...]
    dim: int
    name: str | None = None
    combine: Block | None = None
    reverse: bool = False


@dataclass(eq=False, slots=True)
class Dot(Op):
    """``acc + lhs @ rhs`` over the last two axes (an optional leading batch axis).

    The product is accumulated in ``acc_dtype``; the result's dtype is ``acc``'s, or acc_dtype.
    """

    lhs: Value
    rhs: Value
    acc: Value | None
    acc_dtype: DType
    precision: str = "tf32"


@dataclass(eq=False, slots=True)
class Gather(Op):
    """``torch.gather(value, dim, index)`` on tiles."""

    value: Value
    index: Value
    dim: int


@dataclass(eq=False, slots=True)
class Sort(Op):
    """Sort along the last axis; ``k`` keeps the k extremes (topk). Results: values[, indices]."""

    value: Value
    descending: bool
    k: int | None = None


@dataclass(eq=False, slots=True)
class Random(Op):
    """Philox4x32-10: ``kind`` uniform f32 in [0, 1) or raw i32 of ``(seed, offset)``."""

    kind: Literal["uniform", "int"]
    seed: Value
    offset: Value


@dataclass(eq=False, slots=True)
class Barrier(Op):
    """All threads of the program see each other's memory writes (store, then load)."""


@dataclass(eq=False, slots=True)
class Inline(Op):
    """Target code from the source, for ``targets`` only. ``{0}``.. are the arguments."""

    targets: tuple[str, ...]
    kind: Literal["asm", "triton"]
    code: str
    args: tuple[Value, ...]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class ForTile(Op):
    """``for tile in hl.tile(begin, end)``: body params are (tile, carried...)."""

    begin: Value
    end: Value
    block: Sym
    inits: tuple[Value, ...]
    body: Block
    loop: int = 0  # index of the source loop, for the per-loop config keys


@dataclass(eq=False, slots=True)
class ForRange(Op):
    """``for i in hl.grid(begin, end, step)``: body params are (i, carried...)."""

    begin: Value
    end: Value
    step: Value
    inits: tuple[Value, ...]
    body: Block
    loop: int = 0


@dataclass(eq=False, slots=True)
class If(Op):
    """Scalar condition; both blocks yield the results."""

    cond: Value
    then: Block
    orelse: Block


@dataclass(eq=False, slots=True)
class While(Op):
    """``cond`` yields one bool scalar from the carried params; ``body`` yields the next ones."""

    inits: tuple[Value, ...]
    cond: Block
    body: Block


# -- programs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockSize:
    """A block-size symbol and what is known of it.

    ``fixed`` is a size given in the source (``block_size=64``); a tunable one takes the next
    entry of ``block_sizes``. ``extents`` are the loop extents it tiles.
    """

    sym: Sym
    fixed: Size | None = None
    minimum: int = 1
    maximum: Size | None = None
    extents: tuple[Size, ...] = ()


@dataclass(eq=False, slots=True)
class GridAxis:
    """One axis of a phase's grid: a tile variable, or a scalar index when ``block`` is None."""

    var: Value
    begin: Size
    end: Size
    block: Sym | None
    step: int = 1

    @property
    def count(self) -> Size:
        """Number of programs along the axis."""
        return (self.end - self.begin).ceildiv(Size.of(self.block) if self.block else self.step)


@dataclass(eq=False, slots=True)
class Phase:
    """A grid and what each of its programs does. ``loop`` is the source loop's index."""

    axes: tuple[GridAxis, ...]
    body: Block
    loop: int
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class HostCode:
    """One source statement of the host program, dedented, verbatim but for helion calls.

    ``__kt_block_SYM__`` in it stands for a block size, ``__kt_num_sm__(device)`` for the number of
    the device's multiprocessors.
    A ``pure`` one only computes sizes and numbers: droppable when nothing reads what it
    ``defines``.
    """

    text: str
    span: Span | None = None
    defines: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    pure: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """The host program runs phase ``phase`` here."""

    phase: int
    indent: int = 0  # nesting depth (inside a host `if`)


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of the source function, spelled as in the source.

    A ``function`` is a callable that the device code inlines: its default, or what --set named.
    """

    name: str
    annotation: str | None
    default: str | None
    kind: Literal["tensor", "scalar", "constexpr", "function", "other"]
    value: object = None  # the compile-time value, for constexpr ones


@dataclass(frozen=True, slots=True)
class Scalar:
    """A run-time host scalar that the device uses. ``host`` gives it at the launch."""

    name: str
    dtype: DType
    host: str


@dataclass(eq=False, slots=True)
class Kernel:
    """One source kernel for one signature."""

    name: str
    params: tuple[Param, ...]
    signature: str  # printable, e.g. "x=f16[M,K], y=f16[K,N]"
    returns: str | None  # return annotation, source text
    docstring: str | None
    host: tuple[HostCode | Launch, ...]
    phases: tuple[Phase, ...]
    tensors: tuple[Tensor, ...]
    scalars: tuple[Scalar, ...]
    blocks: tuple[BlockSize, ...]
    size_names: tuple[tuple[Size, str], ...]  # host spelling of sizes at the launch, best first
    relations: tuple[tuple[Size, str], ...] = ()  # size shared by the signature, not asserted
    multiple_of: dict[Sym, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)  # as given by the source or --config
    index_dtype: DType | None = None  # i64 when 64-bit indexing was asked for
    prelude: str = ""  # module-level source the host program needs (imports, constants, helpers)
    span: Span | None = None
    comments: dict[int, str] = field(default_factory=dict)  # source line -> comment above it
