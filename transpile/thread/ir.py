"""The thread IR: what one thread of a group does. This file is all of it.

A :class:`Kernel` is one phase of a source kernel as a grid of groups of threads. Its body is a
list of statements over typed variables, as a person writes them: variables are declared with
:class:`Let`, assigned, and read by being expressions themselves. Expressions have no effects and
are evaluated by every thread that reaches them; all statements are.

- *Registers.* A :class:`Var` is a scalar of one thread, or with a ``shape`` a register array whose
  indices are constants or variables of lane loops (they are unrolled, arrays stay in registers).
  With a ``width`` above 1 each entry is a vector of that many components. With a ``fragment`` each
  entry is a matrix spread over the SIMD group, of which a thread holds ``width`` components: which
  ones, says the :class:`~transpile.thread.layout.Layout` of the value, as for any other array.
- *Control flow.* Conditions and bounds may differ from thread to thread, except around barriers,
  shuffles, lane reductions and everything with fragments: all threads of the group (of the SIMD
  group, for the latter three) must arrive there together. The verifier proves it.
- *Memory.* Device addresses are a tensor and a linear offset in elements from its first one; shared
  buffers are indexed per dimension. Nothing orders accesses of different threads but barriers.

Integer arithmetic is that of the op table (``//`` and ``%`` floor); indices are never negative, so
that a target may use its own division there. Sizes are :class:`~transpile.ir.sizes.Size`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from transpile.ir.dtypes import BOOL, I32, DType
from transpile.ir.ir import Scalar, Span, Tensor
from transpile.ir.sizes import Size, Sym

# -- expressions -------------------------------------------------------------------------------


class Expr:
    """Base of all expressions; equal ones have equal values at the same place."""

    __slots__ = ()
    dtype: DType

    @property
    def width(self) -> int:
        """Components of a vector; 1 for a scalar, whatever operations take but loads and stores."""
        return 1


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """A number."""

    value: bool | int | float
    dtype: DType = I32


@dataclass(frozen=True, slots=True)
class Extent(Expr):
    """An integer that the host knows at the launch: a dimension, a stride, a polynomial of them."""

    size: Size
    dtype: DType = I32


@dataclass(frozen=True, slots=True)
class HostScalar(Expr):
    """A scalar argument, one of ``Kernel.scalars``."""

    name: str
    dtype: DType


IdKind = Literal["thread", "lane", "simdgroup", "group_x", "group_y", "group_z"]


@dataclass(frozen=True, slots=True)
class Id(Expr):
    """Where the thread is: ``thread`` in the group (0 .. threads - 1), ``lane`` in the SIMD group
    (``thread % simd``), ``simdgroup`` in the group (``thread // simd``), the group in the grid."""

    kind: IdKind
    dtype: DType = I32


@dataclass(frozen=True, slots=True)
class Part:
    """A digit of the row or column within one matrix, each step worth ``weight``:
    ``(lane // stride) % count``, or with ``stride`` 0 the component's number."""

    count: int
    weight: int
    stride: int = 0


@dataclass(frozen=True)
class FragmentShape:
    """The matrices that a target multiplies: ``rows`` x ``cols``, ``width`` components a lane.

    ``row`` and ``col`` say where component ``c`` of lane ``l`` is: sums of parts of both.
    """

    rows: int
    cols: int
    width: int
    row: tuple[Part, ...]
    col: tuple[Part, ...]


@dataclass(eq=False, slots=True)
class Var(Expr):
    """A variable of each thread. ``name`` is the source's (``of_source``), or says what it holds.

    ``shape`` () is one entry; entries are scalars, or vectors (``components`` > 1), or matrices.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    components: int = 1
    fragment: FragmentShape | None = None
    of_source: bool = False

    @property
    def width(self) -> int:
        return self.components


@dataclass(frozen=True, slots=True)
class Element(Expr):
    """An entry of a register array, or with ``component`` one component of a vector or fragment.

    ``index`` has one integer per dimension of the array (none for a lone vector or fragment).
    """

    array: Var
    index: tuple[Expr, ...]
    component: Expr | None = None

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.array.dtype

    @property
    def width(self) -> int:
        return 1 if self.component is not None else self.array.components


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """Operation ``name`` of ir.ops.ELEMENTWISE on scalars; operands have the dtypes it asks for.

    Also ``land``, ``lor``, ``lnot``: and, or, not of conditions, the second operand evaluated only
    where the first leaves the answer open (a guard before a load); and ``nan_gt``, ``nan_lt``:
    comparisons of floats for which NaN is beyond all numbers.
    """

    name: str
    args: tuple[Expr, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Convert(Expr):
    """The value in another dtype (float to int truncates, to bool is ``!= 0``), or its bits."""

    value: Expr
    dtype: DType
    bitcast: bool = False


@dataclass(frozen=True, slots=True)
class Random(Expr):
    """Philox4x32-10 of ``(seed, offset)``: uniform f32 in [0, 1), or the raw i32 word."""

    kind: Literal["uniform", "int"]
    seed: Expr
    offset: Expr
    dtype: DType


@dataclass(frozen=True, slots=True)
class Load(Expr):
    """``tensor[offset : offset + width]``, read where ``guard`` is true (None: always).

    With ``count`` only that many leading components exist (none if it is negative, all if it
    exceeds the width). What is not read is ``other``. ``aligned``: the address is a multiple of the
    vector's size if the tensor's is one of 16 bytes.
    """

    tensor: Tensor
    offset: Expr
    vector: int = 1
    guard: Expr | None = None
    count: Expr | None = None
    other: bool | int | float = 0
    aligned: bool = True

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.tensor.dtype

    @property
    def width(self) -> int:
        return self.vector


@dataclass(eq=False, slots=True)
class SharedBuffer:
    """Memory that the threads of a group share. Rows (the last dimension) are ``pad`` elements
    further apart than they are long; a leading dimension may be the stage of a pipeline.

    ``offset`` is where the buffer begins, in bytes; buffers that are never alive together may
    overlap. Planning sets it (:mod:`transpile.thread.shared`).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pad: int = 0
    offset: int = 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each dimension, in elements."""
        strides = [1]
        for extent in reversed(self.shape[1:]):
            strides.append(strides[-1] * extent + (self.pad if len(strides) == 1 else 0))
        return tuple(reversed(strides)) if self.shape else ()

    @property
    def elements(self) -> int:
        return self.shape[0] * self.strides[0] if self.shape else 1

    @property
    def bytes(self) -> int:
        return self.elements * max(1, self.dtype.bits // 8)


@dataclass(frozen=True, slots=True)
class SharedLoad(Expr):
    """``buffer[index]``, and the ``vector - 1`` elements after it in its row, read where ``guard``
    is true; 0 elsewhere."""

    buffer: SharedBuffer
    index: tuple[Expr, ...]
    vector: int = 1
    guard: Expr | None = None

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype

    @property
    def width(self) -> int:
        return self.vector


@dataclass(frozen=True, slots=True)
class Shuffle(Expr):
    """``value`` of another lane of the SIMD group: lane ``lane ^ by``, ``lane - by`` (up), ``lane +
    by`` (down), or ``by`` itself (index). Off the SIMD group's end it is the thread's own."""

    kind: Literal["xor", "up", "down", "index"]
    value: Expr
    by: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.value.dtype


@dataclass(frozen=True, slots=True)
class LaneReduce(Expr):
    """Reduction ``name`` of ir.ops.REDUCTIONS over the lanes that differ in the bits ``xors`` of
    their number; all of them get the result. All five bits: over the whole SIMD group."""

    name: str
    value: Expr
    xors: tuple[int, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.value.dtype


@dataclass(frozen=True, slots=True)
class LaneScan(Expr):
    """``name`` ("sum" or "prod") over the values of all lanes of the SIMD group before this one;
    the neutral element in the first."""

    name: str
    value: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.value.dtype


# -- statements --------------------------------------------------------------------------------


@dataclass(eq=False, slots=True, kw_only=True)
class Stmt:
    """Base of all statements. ``span`` is the source expression it came from."""

    span: Span | None = None


Body = list[Stmt]


@dataclass(eq=False, slots=True)
class Let(Stmt):
    """Declares ``var`` in this body; ``value`` is its first value, for an array that of each entry
    (a scalar), None if it is assigned before it is read."""

    var: Var
    value: Expr | None = None


@dataclass(eq=False, slots=True)
class Assign(Stmt):
    """``target = value``; widths agree."""

    target: Var | Element
    value: Expr


@dataclass(eq=False, slots=True)
class Store(Stmt):
    """``tensor[offset : offset + value.width] = value`` where ``guard`` is true; with ``count``
    only that many leading components. See :class:`Load`."""

    tensor: Tensor
    offset: Expr
    value: Expr
    guard: Expr | None = None
    count: Expr | None = None
    aligned: bool = True


@dataclass(eq=False, slots=True)
class SharedStore(Stmt):
    """``buffer[index] = value`` (and after it in the row, for a vector) where ``guard`` is true."""

    buffer: SharedBuffer
    index: tuple[Expr, ...]
    value: Expr
    guard: Expr | None = None


@dataclass(eq=False, slots=True)
class Atomic(Stmt):
    """Read-modify-write of one element where ``guard`` is true; ``result`` (declared before) is
    the value before it. ``expected`` only for cas."""

    kind: Literal["add", "and", "or", "xor", "xchg", "max", "min", "cas"]
    tensor: Tensor
    offset: Expr
    value: Expr
    expected: Expr | None = None
    guard: Expr | None = None
    result: Var | Element | None = None
    sem: str = "relaxed"


@dataclass(eq=False, slots=True)
class Barrier(Stmt):
    """All threads of the group (``simdgroup``: of the SIMD group) arrive before any goes on; what
    they wrote to shared memory (and with ``device`` to tensors) is seen by each other."""

    scope: Literal["group", "simdgroup"] = "group"
    shared: bool = True
    device: bool = False


@dataclass(eq=False, slots=True)
class LaneLoop(Stmt):
    """``for var in range(count)`` over registers; targets unroll it."""

    var: Var
    count: int
    body: Body


@dataclass(eq=False, slots=True)
class For(Stmt):
    """``for (var = begin; var < end; var += step)``; bounds are evaluated once, step > 0."""

    var: Var
    begin: Expr
    end: Expr
    step: Expr
    body: Body


@dataclass(eq=False, slots=True)
class If(Stmt):
    """A branch."""

    cond: Expr
    then: Body
    orelse: Body = field(default_factory=list)


@dataclass(eq=False, slots=True)
class While(Stmt):
    """Repeats ``before``, then where ``cond`` (it may read what ``before`` declares) ``body``."""

    before: Body
    cond: Expr
    body: Body


@dataclass(eq=False, slots=True)
class FragmentLoad(Stmt):
    """``target`` (a matrix) = rows x cols elements from ``source``, whose consecutive rows are
    ``stride`` elements apart; ``transpose`` reads columns for rows. From a shared buffer ``index``
    is one per dimension, from a tensor the linear offset alone. No bounds check."""

    target: Element
    source: SharedBuffer | Tensor
    index: tuple[Expr, ...]
    stride: Expr
    transpose: bool = False


@dataclass(eq=False, slots=True)
class FragmentStore(Stmt):
    """The reverse; the matrix has the destination's dtype."""

    value: Element
    destination: SharedBuffer | Tensor
    index: tuple[Expr, ...]
    stride: Expr
    transpose: bool = False


@dataclass(eq=False, slots=True)
class Mma(Stmt):
    """``target = lhs @ rhs + acc`` on matrices; computed in the target's dtype."""

    target: Element
    lhs: Element
    rhs: Element
    acc: Element


@dataclass(eq=False, slots=True)
class Inline(Stmt):
    """Target code from the source. ``{0}``.. are the arguments, then the results."""

    targets: tuple[str, ...]
    code: str
    args: tuple[Expr, ...]
    results: tuple[Var | Element, ...] = ()


# -- kernels -----------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Kernel:
    """One phase of a source kernel: ``grid`` groups (x varies fastest) of ``threads`` threads.

    ``tensors`` and ``scalars`` are its arguments; sizes (all :class:`Extent` leaves) are scalar
    arguments too, see :func:`transpile.thread.walk.sizes_of`. ``capacities``: the largest value of
    a run-time size for which the code is right (a row kept in registers); the host chooses by it.
    """

    name: str
    tensors: tuple[Tensor, ...]
    scalars: tuple[Scalar, ...]
    grid: tuple[Size, ...]
    threads: int
    simd: int
    shared: tuple[SharedBuffer, ...]
    body: Body
    capacities: tuple[tuple[Size, int], ...] = ()
    multiple_of: dict[Sym, int] = field(default_factory=dict)
    span: Span | None = None

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory, up to the end of the last buffer."""
        return max((b.offset + b.bytes for b in self.shared), default=0)


# -- shorthands --------------------------------------------------------------------------------


def integer(value: int) -> Const:
    """An i32 constant."""
    return Const(value)


def _folded(name: str, a: Expr, b: Expr) -> Expr | None:
    """The operation on constants and neutral elements, None where there is work to do."""
    x = a.value if isinstance(a, Const) else None
    y = b.value if isinstance(b, Const) else None
    if x is not None and y is not None:
        results = {"add": x + y, "mul": x * y}
        return Const(results[name], a.dtype)
    if name == "add":
        return b if x == 0 else a if y == 0 else None
    if 0 in (x, y):
        return Const(0, a.dtype)
    return b if x == 1 else a if y == 1 else None


def add(*terms: Expr) -> Expr:
    """Sum of integers of one dtype, constants last."""
    total: Expr | None = None
    constant = 0
    for term in terms:
        if isinstance(term, Const):
            constant += term.value  # type: ignore[assignment]
        elif total is None:
            total = term
        else:
            total = Apply("add", (total, term), term.dtype)
    dtype = terms[0].dtype
    if total is None:
        return Const(constant, dtype)
    return total if constant == 0 else Apply("add", (total, Const(constant, dtype)), dtype)


def mul(a: Expr, b: Expr | int) -> Expr:
    """Product of integers of one dtype."""
    other = Const(b, a.dtype) if isinstance(b, int) else b
    folded = _folded("mul", a, other)
    return folded if folded is not None else Apply("mul", (a, other), a.dtype)


def less(a: Expr, b: Expr) -> Expr:
    """``a < b``."""
    return Apply("lt", (a, b), BOOL)


def both(conditions: Sequence[Expr | None]) -> Expr | None:
    """All of the conditions that are given, None if none is."""
    total: Expr | None = None
    for condition in dict.fromkeys(conditions):
        if condition is not None:
            total = condition if total is None else Apply("land", (total, condition), BOOL)
    return total
